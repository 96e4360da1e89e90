"""Training on a CUDA device gives the same kind of detector; its file scores anywhere."""

from __future__ import annotations

import pytest
import torch

from deepidea.flows.labelled import labelled_flows_from_table
from deepidea.flows.simulate import simulate_flows
from deepidea.model.detector import Detector
from deepidea.model.presets import train_detector

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device: torch.cuda.is_available() is False"
)


@pytest.fixture(scope="module")
def site():
    return labelled_flows_from_table(simulate_flows(n_flows=4000, seed=1), "label", "benign")[0]


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_detector_trained_on_cuda_scores_on_the_cpu(site, tmp_path, device):
    detector = train_detector(site, device=device, hidden=(64, 64), n_epochs=5, random_state=0)
    detector.save(tmp_path / "m.idea")
    verdicts = Detector.load(tmp_path / "m.idea").score(site.features)
    assert verdicts.equals(detector.score(site.features))
    assert len(verdicts) == len(site)


def test_cuda_and_cpu_learn_the_same(site):
    accuracies = []
    for device in ("cpu", "cuda"):
        detector = train_detector(site, device=device, hidden=(64, 64), n_epochs=20, random_state=0)
        accuracies.append((detector.score(site.features)["class"] == site.classes).mean())
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.05)


def test_losses_fall_on_cuda(site):
    losses: list[float] = []
    train_detector(site, device="cuda", n_epochs=5, random_state=0, on_epoch=lambda epoch: losses.append(epoch.loss))
    assert losses[-1] < losses[0]
