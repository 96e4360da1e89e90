"""A bounded sample of training's flows, kept in the detector file.

Adaptation to a site (:mod:`deepidea.detection.adapt`) compares the site's flows with these attacks, trains further with
them, and counts how many of the held-out ones the adapted detector still finds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from deepidea.errors import ArtifactError
from deepidea.model.features import FlowEncoder, RawFeatures

TRAINED_ATTACKS, TRAINED_BENIGN, HELD_OUT_ATTACKS = 2000, 1000, 1000
"""Most rows of each part; attacks are shared equally by the outputs of the network."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSample:
    """Flows of training: attacks and benign flows that it was trained on, and attacks that were held out.

    Parameters
    ----------
    raw : RawFeatures
        Not yet scaled, as the encoder of the detector reads them.
    outputs : array, int64, (n_flows,)
        Output of the network for each flow's class or label, 0 for benign.
    held_out : array, bool, (n_flows,)
        Flows that no weight was fitted to.
    """

    raw: RawFeatures
    outputs: NDArray[np.int64]
    held_out: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.outputs)

    def take(self, rows: NDArray[np.bool_]) -> TrainingSample:
        """Return some of the flows."""
        raw = RawFeatures(self.raw.numbers[rows], self.raw.codes[rows])
        return TrainingSample(raw, self.outputs[rows], self.held_out[rows])

    @property
    def trained(self) -> TrainingSample:
        """The flows that weights were fitted to."""
        return self.take(~self.held_out)

    def table(self, encoder: FlowEncoder) -> pl.DataFrame:
        """Return the flows as a table; a category that training's vocabulary lacks is null."""
        numbers = dict(zip(encoder.schema.numbers, self.raw.numbers.T, strict=True))
        words = {
            name: pl.Series([None, *known], dtype=pl.String).gather(self.raw.codes[:, j])
            for j, (name, known) in enumerate(encoder.vocabulary_.items())
        }
        return pl.DataFrame({name: {**numbers, **words}[name] for name in encoder.schema.features})

    def to_bytes(self) -> bytes:
        """Return the flows column by column, numbers as planes of their bytes, which compress better than rows do."""
        numbers = self.raw.numbers.astype("<f4").T.copy()
        planes = numbers.view(np.uint8).reshape(*numbers.shape, 4).transpose(2, 0, 1)
        whole = (self.raw.codes.T.astype("<u2"), self.outputs.astype("<u2"), self.held_out.astype(np.uint8))
        return b"".join(part.tobytes() for part in (planes, *whole))

    @classmethod
    def from_bytes(cls, data: bytes, encoder: FlowEncoder, n_outputs: int) -> Self:
        """Rebuild from :meth:`to_bytes`; :class:`ArtifactError` where the bytes do not fit the encoder."""
        k, n_categories = len(encoder.schema.numbers), len(encoder.vocabulary_)
        n, rest = divmod(len(data), 4 * k + 2 * n_categories + 3)
        if rest:
            raise ArtifactError(
                f"training_sample.bin has {len(data)} bytes, no whole number of flows; get a fresh copy"
            )
        bytes_, at = np.frombuffer(data, np.uint8), np.cumsum([4 * k * n, 2 * n_categories * n, 2 * n])
        planes, codes, outputs, held_out = np.split(bytes_, at)
        numbers = np.ascontiguousarray(planes.reshape(4, k, n).transpose(2, 1, 0)).view("<f4").reshape(n, k)
        words = codes.view("<u2").reshape(n_categories, n).T.astype(np.int32)
        named = outputs.view("<u2").astype(np.int64)
        sizes = np.array([len(known) for known in encoder.vocabulary_.values()])
        if (words > sizes).any() or (named >= n_outputs).any() or (held_out > 1).any():
            raise ArtifactError("training_sample.bin holds words or classes that the detector lacks; get a fresh copy")
        return cls(RawFeatures(numbers.astype(np.float32), words), named, held_out.astype(np.bool_))


def choose_rows(outputs: NDArray[np.int64], seed: int, *, most_attacks: int, most_benign: int) -> NDArray[np.bool_]:
    """Return a mask of rows: benign ones, and attacks shared equally by outputs.

    Examples
    --------
    >>> outputs = np.array([0, 0, 0, 1, 1, 1, 2])
    >>> np.bincount(outputs[choose_rows(outputs, 0, most_attacks=4, most_benign=1)]).tolist()
    [1, 2, 1]
    """
    rng, chosen = np.random.default_rng(seed), np.zeros(len(outputs), bool)
    attacks = [code for code in np.unique(outputs).tolist() if code]
    for code in (0, *attacks):
        most = most_attacks // len(attacks) if code else most_benign
        chosen[rng.permutation(np.flatnonzero(outputs == code))[:most]] = True
    return chosen


def sample_training(
    encode: Callable[[NDArray[np.bool_], bool], RawFeatures],
    trained: NDArray[np.int64],
    held_out: NDArray[np.int64],
    seed: int,
) -> TrainingSample:
    """Return a sample of training's rows.

    Parameters
    ----------
    encode : callable
        Returns the raw features of chosen rows, of the training rows or (True) of those held out.
    trained, held_out : array, int64, (n_rows,)
        Output of each row.
    seed : int
    """
    of_trained = choose_rows(trained, seed, most_attacks=TRAINED_ATTACKS, most_benign=TRAINED_BENIGN)
    of_held_out = choose_rows(held_out, seed, most_attacks=HELD_OUT_ATTACKS, most_benign=0)
    parts = [encode(of_trained, False), encode(of_held_out, True)]
    raw = RawFeatures(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("numbers", "codes")))
    n_held_out = int(of_held_out.sum())
    outputs = np.concatenate([trained[of_trained], held_out[of_held_out]])
    return TrainingSample(raw, outputs, np.arange(len(outputs)) >= len(outputs) - n_held_out)
