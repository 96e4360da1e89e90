"""What ``deepidea train --shards`` does: a table that does not fit into memory in, a detector out."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepidea import console
from deepidea.errors import DataError

if TYPE_CHECKING:
    from deepidea.model.detector import Detector


def train_in_shards(
    data: Sequence[str],
    n_shards: int,
    *,
    label: str | None,
    benign: str | None,
    keep: Sequence[str],
    schema: str | None,
    training: Mapping[str, Any],
) -> Detector:
    """Deal a table to shards in a folder that goes afterwards, and train on them."""
    from deepidea.evaluation.shards import shards_to_train
    from deepidea.model.presets import train_on_shards

    if label is None or benign is None:
        raise DataError("a table in shards must come with --label and --benign, however: they were not both given")
    with tempfile.TemporaryDirectory(prefix="deepidea-shards-") as folder:
        with console.flow_progress("reading") as progress:
            part = shards_to_train(
                data, Path(folder), n_shards=n_shards, label=label, benign=benign, keep=keep, schema=schema,
                seed=training.get("random_state", 0), progress=progress,
            )  # fmt: skip
        console.show_refused(part.refused)
        console.show_training_flows(part.contract)
        console.say(f"{len(part.flows):,} distinct rows in {len(part.flows.table.paths)} shards")
        with console.epoch_progress() as on_epoch:
            return train_on_shards(part.flows, card=part.card(), on_epoch=on_epoch, **training)


def refuse_with_shards(**options: object) -> None:
    """Refuse what a table in shards does not go with."""
    given = [f"--{name}" for name, value in options.items() if value]
    if given:
        raise DataError(
            f"{', '.join(given)} must be used with a table that fits into memory, however: --shards is given; leave "
            "one out"
        )
