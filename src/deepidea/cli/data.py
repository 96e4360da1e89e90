"""The commands `deepidea data ...`: register, download and describe public data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from deepidea.cli.options import AsJson, TaxonomyName, option
from deepidea.cli.terminal import byte_progress, counted, out, say, show_pairs, show_table, write_json

DatasetName = Annotated[str, typer.Argument(help="Name of the data set; `deepidea data list` shows the names.")]


Training = Literal["auto", "full", "10-percent"]
"""Training files of KDD99."""


TrainingFile = Annotated[Training, option("kdd99: which training file to take.")]


def data_list() -> None:
    """List the known data sets, and which of them are registered."""
    from deepidea.flows.datasets.loading import installed_datasets
    from deepidea.flows.datasets.specs import DATASET_SPECS

    show_datasets(installed_datasets(), {name: spec.title for name, spec in DATASET_SPECS.items()})


def show_datasets(installed: dict[str, Any], titles: dict[str, str]) -> None:
    """Print the known data sets, and what is registered of them."""
    rows = (
        (name, titles[name], f"{of.rows:,}", str(len(of.files)), of.source)
        if of
        else (name, titles[name], "-", "-", "not registered")
        for name, of in installed.items()
    )
    show_table(("name", "data set", "flows", "files", "from"), rows)


def data_add(
    name: DatasetName,
    folder: Annotated[Path, typer.Argument(help="Folder of the official files, gz or plain.")],
    training: TrainingFile = "auto",
) -> None:
    """Register the official files of a data set: verify them, and store them as Parquet."""
    from deepidea.flows.datasets.loading import add_dataset

    with byte_progress(f"reading {name}") as progress:
        record = add_dataset(name, folder, training=training, progress=progress)
    say(f"registered {name}: {record.rows:,} flows of {len(record.files)} files")


def data_get(
    name: DatasetName,
    folder: Annotated[Path | None, option("Where to keep the files.")] = None,
    training: TrainingFile = "auto",
    base: Annotated[str | None, option("Address to download from instead of the publisher's.")] = None,
) -> None:
    """Download a data set from its publisher and register it; resumes an interrupted download."""
    from deepidea.flows.datasets.loading import get_dataset

    with byte_progress(f"downloading {name}") as progress:
        record = get_dataset(name, folder=folder, training=training, base=base, progress=progress)
    say(f"registered {name}: {record.rows:,} flows of {len(record.files)} files")


def data_describe(name: DatasetName, taxonomy: TaxonomyName = None, as_json: AsJson = False) -> None:
    """Describe a registered data set: classes, duplicates, contradictions, invalid cells, files."""
    from deepidea.flows.datasets.description import describe
    from deepidea.flows.datasets.loading import load_dataset

    description = describe(load_dataset(name, taxonomy=taxonomy))
    if as_json:
        write_json(description.to_dict())
    else:
        show_description(description)


_OFFICIAL = {True: "yes", False: "no: its hash is not the publisher's", None: "publisher states no hash"}


def show_description(description: Any) -> None:
    """Print what is in a data set."""
    out.print(f"[bold]{escape(description.title)}[/]  ({description.name}, taxonomy {description.taxonomy})")
    out.print(f"schema {description.schema}, {description.n_features} features")
    rows = ((of.name, of.role, f"{of.rows:,}", of.sha256[:16], _OFFICIAL[of.official]) for of in description.files)
    show_table(("file", "role", "rows", "sha256", "official"), rows)
    for table in (description.train, description.test, *description.extras.values()):
        if table is not None:
            _show_flows(table)
    if description.split is not None:
        _show_split(description.split)
    if description.quirks:
        show_pairs("quirks of the raw files, handled", {name: f"{n:,}" for name, n in description.quirks.items()})


def _show_flows(table: Any) -> None:
    out.print(f"\n[bold]{escape(table.source)}[/]  {table.rows:,} flows, imbalance (eq. 13) {table.imbalance:.2f}")
    out.print(
        f"  {table.distinct_rows:,} distinct ({table.duplicate_rows:,} duplicates); "
        f"{table.contradictory_rows:,} rows share their features with another class, "
        f"{table.benign_or_attack_rows:,} of them benign with attack"
    )
    for title, counts in (("class", table.classes), ("label", table.labels)):
        out.print(f"  {title}: {escape(counted(counts))}")
    cells = {"missing": table.missing_cells, "infinite": table.infinite_cells, "-1 window": table.minus_one_windows}
    for kind, columns in cells.items():
        if columns:
            out.print(f"  {kind} cells: {counted(columns)}")


def _show_split(split: Any) -> None:
    out.print("\n[bold]test against training[/]")
    out.print(
        f"  {split.seen_rows:,} test flows ({100 * split.seen_share:.1f} %) have a twin in training, "
        f"{split.contradicting_rows:,} of them with the opposite verdict"
    )
    if split.new_labels:
        total = sum(split.new_labels.values())
        named = escape(counted(split.new_labels))
        out.print(f"  {len(split.new_labels)} labels occur only in the test, {total:,} flows: {named}")
