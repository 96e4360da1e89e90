"""Commands on public data sets: register, fetch, describe."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from deepidea.cli.data_tables import show_datasets, show_description
from deepidea.cli.options import AsJson, TaxonomyName
from deepidea.cli.terminal import byte_progress, say, write_json


class Training(StrEnum):
    """Training files of KDD99."""

    auto = "auto"
    full = "full"
    ten_percent = "10-percent"


def data_list() -> None:
    """List the data sets that the project knows, and which are registered here."""
    from deepidea.flows.datasets.loading import installed_datasets
    from deepidea.flows.datasets.specs import DATASET_SPECS

    show_datasets(installed_datasets(), {name: entry.title for name, entry in DATASET_SPECS.items()})


def data_add(
    name: Annotated[str, typer.Argument(help="Name of the data set, see `deepidea data list`.")],
    folder: Annotated[Path, typer.Argument(help="Folder of its official files, gz or plain, one day or all.")],
    training: Annotated[Training, typer.Option(help="kdd99: which training file.")] = Training.auto,
) -> None:
    """Register a folder of official files: check them, count their quirks, keep typed Parquet."""
    from deepidea.flows.datasets.loading import add_dataset

    with byte_progress(f"reading {name}") as progress:
        record = add_dataset(name, folder, training=training.value, progress=progress)
    say(f"registered {name}: {record.rows:,} flows of {len(record.files)} files")


def data_get(
    name: Annotated[str, typer.Argument(help="Name of the data set, see `deepidea data list`.")],
    folder: Annotated[Path | None, typer.Option(help="Where the files go.")] = None,
    training: Annotated[Training, typer.Option(help="kdd99: which training file.")] = Training.auto,
    base: Annotated[str | None, typer.Option(help="Address to fetch from in place of the publisher's.")] = None,
) -> None:
    """Fetch a data set from its publisher, resuming where an earlier try stopped, and register it."""
    from deepidea.flows.datasets.loading import get_dataset

    with byte_progress(f"fetching {name}") as progress:
        record = get_dataset(name, folder=folder, training=training.value, base=base, progress=progress)
    say(f"registered {name}: {record.rows:,} flows of {len(record.files)} files")


def data_describe(
    name: Annotated[str, typer.Argument(help="Name of a registered data set.")],
    taxonomy: TaxonomyName = None,
    as_json: AsJson = False,
) -> None:
    """Tell what is in a data set: classes, duplicates, contradictions, odd cells, files."""
    from deepidea.flows.datasets.description import describe
    from deepidea.flows.datasets.loading import load_dataset

    description = describe(load_dataset(name, taxonomy=taxonomy))
    if as_json:
        write_json(description.to_dict())
    else:
        show_description(description)
