"""DeepIDEA trained on real flows and generated ones of the rare classes, the second of the paper's plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from deepidea.benchmark.outputs import Outputs, attack_score, collapse_rows, number_outputs
from deepidea.benchmark.systems import Fitted, Predictions
from deepidea.benchmark.variants import FittedNetwork
from deepidea.flows.labelled import LabelledFlows
from deepidea.model.decision import Decision, softmax
from deepidea.model.detector import Detector
from deepidea.model.estimators import even_out
from deepidea.model.features import FlowEncoder
from deepidea.model.generative import ConditionalVAE, train_generator
from deepidea.model.presets import train_detector


@dataclass(frozen=True, slots=True, kw_only=True)
class Generative:
    """The default network, on training flows to which a conditional VAE adds flows of rare classes.

    The generator learns from the distinct training flows alone. Its flows keep inside the range of training, columns
    that are whole there are rounded, and each carries the class it was drawn for. The network is then trained as ever.

    The network learns the class shares of its training flows, generated ones included, and its own verdict is corrected
    for those. The probabilities returned here, at temperature 1, are rescaled to the shares of the real flows (p times
    real share over trained share), and the prior of the decision is that of the real flows.

    Parameters
    ----------
    target_share : float
        A class below this share of the distinct training flows is filled up to it; benign never is.
    n_steps : int
        Of the generator's training, 256 flows each.
    d_latent, d_hidden : int
        Size of the generator.
    n_epochs : int, optional
        Of the network; the preset's where absent.
    """

    target_share: float = 0.05
    n_steps: int = 4000
    d_latent: int = 16
    d_hidden: int = 128
    n_epochs: int | None = None

    def fit(self, train: LabelledFlows, seed: int) -> Fitted:
        """Train the generator, draw, then train the network on both."""
        outputs = number_outputs(train)
        rows, _ = collapse_rows(train, outputs)
        counts = np.bincount(outputs.target[rows])
        wanted = np.maximum(np.ceil(self.target_share * len(rows)).astype(np.int64) - counts, 0)
        # Benign flows are never rare.
        wanted[0] = 0
        table, losses = self._generate(train.features[rows], outputs.target[rows], wanted, train, seed)
        detector = self._train(train, table, pl.Series(np.repeat(outputs.classes, wanted), dtype=pl.String), seed)
        network = detector.card["training"]["parameters"]
        generated = dict(zip(outputs.classes, wanted.tolist(), strict=True))
        facts = {**asdict(self), "generated": generated, "generator_losses": losses, "network": network}
        # The detector was trained on generated flows too: its prior is that of the real flows once this is applied.
        shares = even_out(counts.astype(np.float64), network["balance"]) * counts
        return _Rebalanced.on(outputs, detector, shares, facts)

    def _generate(
        self,
        real: pl.DataFrame,
        target: npt.NDArray[np.int64],
        wanted: npt.NDArray[np.int64],
        train: LabelledFlows,
        seed: int,
    ) -> tuple[pl.DataFrame, list[float]]:
        """Return generated flows, class after class, and the losses of the generator."""
        if not wanted.any():
            return real.clear(), []
        encoder = FlowEncoder(train.schema).fit(real)
        raw = encoder.raw(real)
        n_values = [len(known) + 1 for known in encoder.vocabulary_.values()]
        sizes = {"d_latent": self.d_latent, "d_hidden": self.d_hidden, "random_state": seed}
        model = ConditionalVAE(raw.numbers.shape[1], n_values, len(wanted), **sizes)
        losses = train_generator(model, encoder.scaled(raw), raw.codes, target, n_steps=self.n_steps, random_state=seed)
        drawn = encoder.decode(*model.draw(np.repeat(np.arange(len(wanted)), wanted), seed=seed))
        return like(drawn, real), losses

    def _train(self, train: LabelledFlows, generated: pl.DataFrame, classes: pl.Series, seed: int) -> Detector:
        both = replace(
            train,
            table=pl.concat([train.features, generated]),
            labels=pl.concat([train.labels, classes.alias(train.labels.name)]),
            classes=pl.concat([train.classes, classes.alias(train.classes.name)]),
        )
        changes: dict[str, Any] = {} if self.n_epochs is None else {"n_epochs": self.n_epochs}
        return train_detector(both, random_state=seed, labels=False, **changes)


def like(table: pl.DataFrame, real: pl.DataFrame) -> pl.DataFrame:
    """Return a table in the types of another, rounded where that one holds whole numbers.

    Examples
    --------
    >>> like(pl.DataFrame({"n": [1.4], "rate": [0.3]}), pl.DataFrame({"n": [2], "rate": [0.5]})).row(0)
    (1, 0.3)
    """
    numbers = [name for name, dtype in table.schema.items() if dtype.is_numeric()]
    whole = real.select((pl.col(name) == pl.col(name).round()).all() for name in numbers).row(0)
    rounded = [pl.col(name).round() for name, is_whole in zip(numbers, whole, strict=True) if is_whole]
    return table.with_columns(rounded).cast(dict(real.schema))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class _Rebalanced:
    """A detector whose probabilities are rescaled from its training shares to those of the real flows."""

    classes: tuple[str, ...]
    decision: Decision
    parameters: Mapping[str, Any]
    network: FittedNetwork
    order: npt.NDArray[np.int64]  # place here of each class of the detector
    shift: npt.NDArray[np.float32]  # real share over trained share, of each class

    @classmethod
    def on(
        cls, outputs: Outputs, detector: Detector, shares: npt.NDArray[np.float64], facts: Mapping[str, Any]
    ) -> _Rebalanced:
        prior = shares / shares.sum()
        order = np.array([outputs.classes.index(name) for name in detector.classes])
        trained = np.array(detector.decision.prior)[np.argsort(order)]
        decision = Decision(tuple(prior.tolist()), detector.decision.temperature, detector.decision.tau)
        return cls(
            outputs.classes, decision, facts, FittedNetwork(detector), order, (prior / trained).astype(np.float32)
        )

    def predict(self, features: pl.DataFrame) -> Predictions:
        found = self.network.assess(features)
        # Bayes: p(class | x) under another prior is proportional to p times the ratio of the priors.
        shifted = softmax(found.logits)[:, np.argsort(self.order)] * self.shift
        p = shifted / shifted.sum(axis=1, keepdims=True)
        return Predictions(self.order[found.shares.argmax(axis=1)], p, attack_score(p), anomaly=found.anomaly)
