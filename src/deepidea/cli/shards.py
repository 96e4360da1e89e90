"""`deepidea train --shards`: trains on a table that does not fit into memory."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepidea.cli.terminal import flow_progress, say
from deepidea.cli.training_output import epoch_progress, show_training_flows
from deepidea.errors import DataError

if TYPE_CHECKING:
    from deepidea.cli.train import TrainOptions
    from deepidea.model.detector import Detector


def train_in_shards(options: TrainOptions, n_shards: int, **training: Any) -> Detector:
    """Split a table into shards in a temporary folder, and train on them.

    Parameters
    ----------
    options : TrainOptions
    n_shards : int
    **training
        Of :func:`deepidea.model.presets.train_on_shards`.
    """
    from deepidea.evaluation.shards import shards_to_train
    from deepidea.flows.datasets.specs import DATASET_SPECS
    from deepidea.model.presets import train_on_shards

    if len(options.data) == 1 and options.data[0] in DATASET_SPECS:
        raise DataError(f"{options.data[0]} is a data set and fits into memory; leave --shards out")
    if options.label is None or options.benign is None:
        raise DataError("--shards needs both --label and --benign")
    with _temporary_folder() as folder:
        with flow_progress("reading") as progress:
            part = shards_to_train(
                options.data,
                folder,
                n_shards=n_shards,
                label=options.label,
                benign=options.benign,
                keep=options.keep or (),
                schema=options.schema,
                seed=training["random_state"],
                progress=progress,
            )
        show_training_flows(part.contract, part.refused)
        say(f"{len(part.flows):,} distinct rows in {len(part.flows.table.paths)} shards")
        with epoch_progress() as on_epoch:
            return train_on_shards(part.flows, card=part.card(), on_epoch=on_epoch, **training)


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Yield a folder that is deleted afterwards, on SIGTERM as well: shards are large."""
    chosen = os.environ.get("TMPDIR")
    if chosen and not Path(chosen).is_dir():  # tempfile would silently take another folder, and fill it up
        raise DataError(f"TMPDIR is {chosen}, which is no folder; create it, or set TMPDIR to another one")
    # SIGTERM before the deletion ends the process by an exception, which deletes the folder. During the deletion it is
    # noted, and ends the process after it.
    late: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with tempfile.TemporaryDirectory(prefix="deepidea-shards-") as folder:
            try:
                yield Path(folder)
            finally:
                signal.signal(signal.SIGTERM, lambda number, _: late.append(number))
    finally:
        signal.signal(signal.SIGTERM, before)
    if late:
        sys.exit(128 + late[0])


def refuse_with_shards(options: Mapping[str, object]) -> None:
    """Raise :class:`~deepidea.errors.DataError` where one of these options is given: they need the table in memory."""
    given = [f"--{name}" for name, value in options.items() if value]
    if given:
        raise DataError(f"{', '.join(given)} cannot be combined with --shards; leave one out")
