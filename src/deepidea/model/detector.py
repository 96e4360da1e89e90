"""The detector: schema, encoder, network and decision in one object and one file; scores without torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from deepidea.errors import ArtifactError
from deepidea.flows.schema import Schema
from deepidea.model.artifact import read_artifact, write_artifact
from deepidea.model.contracts import reading_contract
from deepidea.model.decision import Decision
from deepidea.model.features import FlowEncoder
from deepidea.model.novelty import DISTANCES, Novelty
from deepidea.model.reference import Reference
from deepidea.model.training_sample import TrainingSample

if TYPE_CHECKING:
    import onnxruntime

BLOCK_ROWS = 4096  # flows in one call of the network: large enough to be fast, small enough to stay in the cache
# Kernels compute the last rows of a batch, fewer than a vector register holds, by another path that rounds differently.
# Batches are padded to whole registers, so that the verdict on a flow does not depend on its position.
PADDED_TO = 16


@dataclass(frozen=True, slots=True, eq=False)
class Assessment:
    """The numbers behind verdicts.

    Attributes
    ----------
    logits : array, float32, (n_flows, n_labels)
        Of the network.
    shares : array, float32, (n_flows, n_classes)
        Decide the class and sum to 1: probabilities of balanced classes, with 0 for benign where a flow is too unlike
        benign flows.
    anomaly : array, float64, (n_flows,), or None
        How unlike benign flows, in 0..1; None for a detector without novelty.
    """

    logits: NDArray[np.float32]
    shares: NDArray[np.float32]
    anomaly: NDArray[np.float64] | None


class Detector:
    """A trained detector.

    Made by :meth:`load`, or by ``DeepIDEAClassifier.to_detector`` after training. The verdict on a flow depends on that
    flow alone, to the last bit: not on its neighbours, the chunk size or the number of threads.

    Parameters
    ----------
    encoder : FlowEncoder
        Fitted; carries the schema.
    decision : Decision
    classes : tuple of str
        Benign first.
    labels : tuple of str
        Name of each output of the network: the classes, or the finer labels it was trained on, by class.
    graph : bytes
        ONNX graph from raw features to logits, and with ``novelty`` to distances
        (:func:`deepidea.model.graph.build_graph`).
    weights : bytes, optional
        The network as safetensors.
    training_fingerprints : array, uint64, optional
        Sorted fingerprints of the distinct vectors it was trained on.
    novelty : Novelty, optional
        Recognises flows unlike those of training; the graph then has distances as outputs.
    reference : Reference, optional
        Summary of the training flows, for explanations and drift monitors.
    sample : TrainingSample, optional
        Some flows of training, for adaptation to a site.
    site_reference : Reference, optional
        The same of benign flows of the monitored site, see :func:`deepidea.detection.calibrate.calibrate`.
    card : dict, optional
        Facts on the training: data, parameters, scores. Plain JSON values.
    n_threads : int, optional
        Scoring threads; default: all cores.

    Attributes
    ----------
    schema : Schema
        What a table must hold to be scored.
    """

    def __init__(
        self,
        encoder: FlowEncoder,
        decision: Decision,
        classes: tuple[str, ...],
        labels: tuple[str, ...],
        graph: bytes,
        *,
        weights: bytes | None = None,
        training_fingerprints: NDArray[np.uint64] | None = None,
        novelty: Novelty | None = None,
        reference: Reference | None = None,
        site_reference: Reference | None = None,
        sample: TrainingSample | None = None,
        card: dict[str, Any] | None = None,
        n_threads: int | None = None,
    ) -> None:
        if len(classes) != decision.n_classes or len(labels) != len(decision.prior) or len(set(labels)) < len(labels):
            raise ArtifactError(
                f"the decision is over {decision.n_classes} classes and {len(decision.prior)} labels, the detector has "
                f"{len(classes)} classes and {len(set(labels))} different labels"
            )
        self.encoder, self.decision, self.classes, self.labels = encoder, decision, classes, labels
        self.graph, self.weights, self.training_fingerprints = graph, weights, training_fingerprints
        self.novelty, self.card = novelty, card or {}
        self.reference, self.site_reference, self.sample = reference, site_reference, sample
        self.n_threads = n_threads or os.cpu_count() or 1
        self._session = _open_session(graph, encoder, len(labels), with_distances=novelty is not None)

    @property
    def schema(self) -> Schema:
        """Schema of the tables that this detector scores."""
        return self.encoder.schema

    @property
    def benign(self) -> str:
        """Name of the benign class."""
        return self.classes[0]

    @property
    def fingerprint(self) -> str:
        """Identifies the detector in its alerts: a hash of its network, unchanged by calibration."""
        return hashlib.sha256(self.graph).hexdigest()[:16]

    @property
    def manifest(self) -> dict[str, Any]:
        """Manifest of the detector file, as JSON values."""
        optional = {name: getattr(self, name) for name in ("novelty", *_REFERENCES)}
        return {
            "schema": self.schema.contract(),
            "encoder": self.encoder.contract(),
            "classes": list(self.classes),
            "labels": list(self.labels),
            "decision": self.decision.contract(),
            **{name: part.contract() for name, part in optional.items() if part is not None},
            **self.card,
        }

    def save(self, path: str | Path) -> None:
        """Write the detector file, whole or not at all; equal detectors are equal files."""
        members = {"model.onnx": self.graph}
        if self.weights is not None:
            members["weights.safetensors"] = self.weights
        if self.training_fingerprints is not None:
            members["training_rows.u64"] = self.training_fingerprints.astype("<u8").tobytes()
        if self.sample is not None:
            members["training_sample.bin"] = self.sample.to_bytes()
        write_artifact(path, self.manifest, members, format=self._format())

    def _format(self) -> int:
        """Return the oldest format of files that holds this detector, see :mod:`deepidea.model.artifact`."""
        of_site = self.novelty is not None and self.novelty.tails is not None
        return 2 if self.encoder.steps_ is not None or self.sample is not None or of_site else 1

    @classmethod
    def load(cls, path: str | Path, *, n_threads: int | None = None) -> Detector:
        """Read a detector file.

        Raises
        ------
        ArtifactError
            It is missing, damaged, changed, or breaks a rule of detector files.
        """
        from deepidea.model.graph import audit_graph  # the ONNX reader takes a moment to import

        manifest, members = read_artifact(path)
        audit_graph(members["model.onnx"])  # before ONNX Runtime sees it
        with reading_contract("schema"):
            schema = Schema.from_contract(_entry(manifest, "schema", dict))
        references = {name: _entry(manifest, name, dict) for name in _REFERENCES if name in manifest}
        rows, sample = members.get("training_rows.u64"), members.get("training_sample.bin")
        encoder = FlowEncoder.from_contract(schema, _entry(manifest, "encoder", dict))
        labels = tuple(str(name) for name in _entry(manifest, "labels", list))
        return cls(
            encoder,
            Decision.from_contract(_entry(manifest, "decision", dict)),
            tuple(str(name) for name in _entry(manifest, "classes", list)),
            labels,
            members["model.onnx"],
            weights=members.get("weights.safetensors"),
            training_fingerprints=None if rows is None else _read_fingerprints(rows),
            sample=None if sample is None else TrainingSample.from_bytes(sample, encoder, len(labels)),
            novelty=Novelty.from_contract(_entry(manifest, "novelty", dict)) if "novelty" in manifest else None,
            **{name: Reference.from_contract(schema, contract) for name, contract in references.items()},
            card={k: v for k, v in manifest.items() if k not in _OWN_ENTRIES},
            n_threads=n_threads,
        )

    def with_card(self, **entries: Any) -> Detector:
        """Return the detector with further entries in its card; save it to keep them."""
        # A shallow copy: the session of the network, which takes long to open, is shared.
        other = copy(self)
        other.card = {**self.card, **entries}
        return other

    def score(self, table: pl.DataFrame) -> pl.DataFrame:
        """Return one verdict a flow, in the order of the table.

        Parameters
        ----------
        table : DataFrame
            Flows under any column names of the schema; other columns are ignored.

        Returns
        -------
        DataFrame
            ``class`` (String), ``score`` (Float64, probability of attack in 0..1, as fine near 1 as near 0), and
            ``p_<class>`` (Float32), the calibrated probability of each class. ``class`` is corrected for the training
            prior, and is not benign where the flow is too unlike benign flows, so it need not be the most probable one.
            A detector trained on labels finer than classes adds ``label`` (String), the likeliest one of the class.
            One with novelty adds ``anomaly`` (Float64, 0..1), how unlike benign flows it is, and ``unknown`` (Boolean),
            whether it is unlike both benign flows and known attacks, see :mod:`deepidea.model.novelty`.

        Raises
        ------
        SchemaError, CellError
            The table lacks a feature, or a cell is invalid.
        """
        return self.score_conformed(self.schema.conform(table))

    def score_conformed(self, flows: pl.DataFrame) -> pl.DataFrame:
        """Return the verdicts of :meth:`score` for a table that ``schema.conform`` returned."""
        # Threads score whole blocks, each padded on its own; so block boundaries change no bit of a verdict.
        blocks = [flows.slice(start, BLOCK_ROWS) for start in range(0, max(len(flows), 1), BLOCK_ROWS)]
        if self.n_threads == 1 or len(blocks) == 1:
            return pl.concat([self._score_block(block) for block in blocks])
        with ThreadPoolExecutor(self.n_threads) as pool:
            return pl.concat(pool.map(self._score_block, blocks), rechunk=True)

    def no_verdicts(self) -> pl.DataFrame:
        """Return a table of no verdicts, with the columns and types of :meth:`score`."""
        text = set(self.schema.categories)
        dtypes = {name: pl.String() if name in text else pl.Float64() for name in self.schema.features}
        return self.score(pl.DataFrame(schema=dtypes))

    def score_stream(self, chunks: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        """Yield the verdicts of each chunk of flows; memory holds one chunk at a time."""
        for chunk in chunks:
            yield self.score(chunk)

    def assess(self, flows: pl.DataFrame) -> Assessment:
        """Return the numbers behind the verdicts on conformed flows."""
        logits, corrected, novel = self._decide(flows)
        by_class = self.decision.by_class(corrected[: len(flows)])
        shares = np.asarray(by_class / by_class.sum(axis=1, keepdims=True), np.float32)
        return Assessment(logits[: len(flows)], shares, novel["anomaly"][: len(flows)] if novel else None)

    def logits(self, flows: pl.DataFrame) -> NDArray[np.float32]:
        """Return the network's outputs for conformed flows, float32 ``(n_flows, n_classes)``."""
        return self._run_padded(flows)[0][: len(flows)]

    def _run_padded(self, flows: pl.DataFrame) -> list[NDArray[np.float32]]:
        """Return logits, and distances if the graph has them, of the flows and the rows of padding."""
        raw = self.encoder.raw(flows)
        arrays = {"numbers": _padded(raw.numbers), "codes": _padded(raw.codes)}
        feeds = {entry.name: arrays[entry.name] for entry in self._session.get_inputs()}
        outputs: list[NDArray[np.float32]] = self._session.run(None, feeds)
        return outputs

    def _score_block(self, flows: pl.DataFrame) -> pl.DataFrame:
        logits, corrected, novel = self._decide(flows)
        codes = self.decision.by_class(corrected).argmax(axis=1)
        # The class is decided by the corrected shares; score and p_<class> are the plain probabilities.
        p = self.decision.by_class(self.decision.probabilities(logits))  # (n_padded, n_classes)
        columns: dict[str, Any] = {"class": pl.Series(self.classes, dtype=pl.String).gather(codes)}
        if self.labels != self.classes:
            columns["label"] = self._likeliest_label(corrected, codes)
        columns["score"] = 1.0 - p[:, 0].astype(np.float64)  # near 1, p_benign is far finer than its complement
        columns |= {f"p_{name}": p[:, j] for j, name in enumerate(self.classes)}
        return pl.DataFrame(columns | novel).head(len(flows))

    def _decide(self, flows: pl.DataFrame) -> tuple[NDArray[np.float32], NDArray[np.float32], dict[str, Any]]:
        """Return padded logits and deciding shares, ``(n_padded, n_labels)`` each, and the columns of novelty."""
        logits, *distances = self._run_padded(flows)
        if self.novelty is None:
            return logits, self.decision.shares(logits), {}
        novel = self.novelty.verdict_columns(self.decision.log_odds(logits), np.concatenate(distances, axis=1))
        return logits, self.decision.shares(logits, self.novelty.is_unlike_benign(novel["anomaly"])), novel

    def _likeliest_label(self, corrected: NDArray[np.float32], codes: NDArray[np.int64]) -> pl.Series:
        # A label of another class than the verdict's may be likelier than each of its own: only those of the class
        # count.
        of_other_class = np.array(self.decision.class_of) != codes[:, None]
        places = np.where(of_other_class, np.float32(-1), corrected).argmax(axis=1)
        return pl.Series(self.labels, dtype=pl.String).gather(places)

    def with_options(self, **changes: Any) -> Detector:
        """Return the detector with other constructor arguments: ``card``, ``site_reference``, ..."""
        return Detector(**{**self._arguments(), **changes})

    def _arguments(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __reduce__(self) -> tuple[Any, ...]:  # an ONNX Runtime session cannot be pickled; each copy opens its own
        return partial(Detector, **self._arguments()), ()


_REFERENCES = ("reference", "site_reference")


def _padded(rows: NDArray[Any]) -> NDArray[Any]:
    # An empty block gets rows of padding, too, so that nothing behind it meets an empty array.
    missing = -len(rows) % PADDED_TO or PADDED_TO * (len(rows) == 0)
    return np.concatenate([rows, np.zeros((missing, rows.shape[1]), rows.dtype)]) if missing else rows


_OWN_ENTRIES = {"format", "members", "schema", "encoder", "classes", "labels", "decision", "novelty", *_REFERENCES}


def _open_session(
    graph: bytes, encoder: FlowEncoder, n_outputs: int, *, with_distances: bool
) -> onnxruntime.InferenceSession:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # or its import leaves a device identifier in the home folder
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # threads score different blocks, which scales better than sharing one
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ArtifactError(f"cannot run model.onnx: {error}; get a fresh copy, or train again") from error
    _check_shapes(session, encoder, {"logits": n_outputs, **dict.fromkeys(DISTANCES if with_distances else (), 1)})
    return session


def _check_shapes(session: onnxruntime.InferenceSession, encoder: FlowEncoder, outputs: dict[str, int]) -> None:
    expected = {"numbers": len(encoder.schema.numbers), "codes": len(encoder.vocabulary_)}
    found = {entry.name: entry.shape[-1] for entry in session.get_inputs()}
    given = [(entry.name, entry.shape[-1]) for entry in session.get_outputs()]
    if found != {name: d for name, d in expected.items() if d} or given != list(outputs.items()):
        raise ArtifactError(f"model.onnx maps {found} to {dict(given)}, the manifest expects {expected} to {outputs}")


def _entry(manifest: dict[str, Any], name: str, kind: type) -> Any:
    value = manifest.get(name)
    if not isinstance(value, kind):
        raise ArtifactError(f"manifest.json must hold {name!r} as a {kind.__name__}, got {str(value)[:80]!r}")
    return value


def _read_fingerprints(data: bytes) -> NDArray[np.uint64]:
    if len(data) % 8:
        raise ArtifactError(f"training_rows.u64 has {len(data)} bytes, not a multiple of 8; get a fresh copy")
    return np.frombuffer(data, "<u8").astype(np.uint64)
