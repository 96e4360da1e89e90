"""What ``deepidea train --shards`` does: a table that does not fit into memory in, a detector out."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepidea.cli.terminal import flow_progress, say
from deepidea.cli.training_tables import epoch_progress, show_refused, show_training_flows
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
    from deepidea.flows.datasets.specs import DATASET_SPECS
    from deepidea.model.presets import train_on_shards

    if len(data) == 1 and data[0] in DATASET_SPECS:
        raise DataError(f"shards must be of a table, however: {data[0]} is a data set, which fits; leave --shards out")
    if label is None or benign is None:
        raise DataError("a table in shards must come with --label and --benign, however: they were not both given")
    with _passing_folder() as folder:
        with flow_progress("reading") as progress:
            part = shards_to_train(
                data, folder, n_shards=n_shards, label=label, benign=benign, keep=keep, schema=schema,
                seed=training.get("random_state", 0), progress=progress,
            )  # fmt: skip
        show_refused(part.refused)
        show_training_flows(part.contract)
        say(f"{len(part.flows):,} distinct rows in {len(part.flows.table.paths)} shards")
        with epoch_progress() as on_epoch:
            return train_on_shards(part.flows, card=part.card(), on_epoch=on_epoch, **training)


@contextlib.contextmanager
def _passing_folder() -> Iterator[Path]:
    """Yield a folder that goes afterwards, also where the process is asked to end: shards are large."""
    chosen = os.environ.get("TMPDIR")
    if chosen and not Path(chosen).is_dir():  # another one would be taken in silence, and fill up
        raise DataError(f"TMPDIR must be a folder, however: {chosen} is none; make it, or name another one")
    late: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with tempfile.TemporaryDirectory(prefix="deepidea-shards-") as folder:
            try:
                yield Path(folder)
            finally:  # the folder goes first, then the process
                signal.signal(signal.SIGTERM, lambda number, _: late.append(number))
    finally:
        signal.signal(signal.SIGTERM, before)
    if late:
        sys.exit(128 + late[0])


def refuse_with_shards(**options: object) -> None:
    """Refuse what a table in shards does not go with."""
    given = [f"--{name}" for name, value in options.items() if value]
    if given:
        raise DataError(
            f"{', '.join(given)} must be used with a table that fits into memory, however: --shards is given; leave "
            "one out"
        )
