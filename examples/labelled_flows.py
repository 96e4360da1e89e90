"""From labelled flows to verdicts on new ones.

1. find labelled flows: NSL-KDD or another installed data set, else a download, else simulated ones;
2. train a detector with the default preset and save it as one file;
3. evaluate it on flows it was not trained on, and write the report;
4. score a file of flows without labels and print the most suspicious ones.

All output goes into one folder, ``demo-output`` in this checkout unless ``--output`` names another.

Usage: python examples/labelled_flows.py [--output DIR] [--simulated] [--seed N]
"""

from __future__ import annotations

import argparse
import json
import os
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from deepidea import Detector
from deepidea.errors import DatasetError, DownloadError
from deepidea.evaluation.evaluate import Evaluation, evaluate_detector
from deepidea.evaluation.protocol import flows_to_test, flows_to_train
from deepidea.evaluation.report import trust_notes, write_report
from deepidea.flows.datasets.loading import add_dataset, get_dataset
from deepidea.flows.labelled import LabelledFlows
from deepidea.flows.simulate import simulate_flows
from deepidea.model.presets import train_detector
from deepidea.model.scoring import score_files
from deepidea.model.training import Epoch

CHECKOUT = Path(__file__).resolve().parents[1]
DATASETS = ("nsl-kdd", "kdd99", "cicids17")  # the smallest first


@dataclass(frozen=True)
class Source:
    """Labelled flows: the name of a registered data set, or a table with its label column."""

    data: str | list[Path]
    description: str
    options: dict[str, Any] = field(default_factory=dict)


def main() -> None:
    """Run the four steps."""
    options = read_options()
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    os.environ["DEEPIDEA_HOME"] = str(output / "home")  # data sets are registered here, not in your home folder

    say("1. Labelled flows")
    source = simulated(output, options.flows) if options.simulated else find_flows(output)
    say(f"   {source.description}")

    say("\n2. Training")
    detector_file = output / "demo.idea"
    train(source, options.seed).save(detector_file)

    say("\n3. Evaluation on flows that it was not trained on")
    detector = Detector.load(detector_file)  # all that follows works without torch
    test = flows_to_test(source.data, detector.schema, detector.card["data"], **source.options)
    evaluation = evaluate_detector(detector, test)
    (output / "scores.json").write_text(json.dumps(evaluation.to_dict(), indent=1) + "\n")
    write_report(evaluation, output / "report.html")
    print_scores(evaluation)

    say("\n4. Scoring a file of flows without labels")
    flows_file, verdicts_file = output / "new-flows.csv", output / "verdicts.csv"
    test.features.write_csv(flows_file)
    n_scored = score_files(detector, [flows_file], verdicts_file, keep_original=True)
    say(f"   {n_scored:,} verdicts, one a flow, in the order of the file. The most suspicious of each kind:")
    print_most_suspicious(pl.read_csv(verdicts_file), detector, test)

    say(f"\nDetector  {shown(detector_file)}\nVerdicts  {shown(verdicts_file)}")
    say(f"Scores    {shown(output / 'scores.json')}")
    say(f"Report    {shown(output / 'report.html')}  <- open this one in a browser")


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train, evaluate and use a detector.")
    parser.add_argument("--output", type=Path, default=CHECKOUT / "demo-output", help="folder for all that is written")
    parser.add_argument("--simulated", action="store_true", help="use simulated flows even if real ones are installed")
    parser.add_argument("--flows", type=int, default=30_000, help="how many flows to simulate")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same detector file")
    return parser.parse_args()


# --- 1. labelled flows -----------------------------------------------------------------------------------------------


def find_flows(output: Path) -> Source:
    """Return an installed data set, else a downloaded one, else simulated flows."""
    named = os.environ.get("DEEPIDEA_DATA")
    root = Path(named) if named else CHECKOUT.parent / "shared" / "data"
    for name in DATASETS:
        if (root / name).is_dir():
            registration = add_dataset(name, root / name)
            return Source(name, f"{name}: {registration.rows:,} flows of {len(registration.files)} files")
    say(f"   no data set in {'$DEEPIDEA_DATA' if named else shown(root)}; trying the publisher of NSL-KDD")
    try:
        get_dataset("nsl-kdd", folder=output / "downloads")
    except (DatasetError, DownloadError) as error:
        say(f"   {error}")
        return simulated(output)
    return Source("nsl-kdd", "nsl-kdd, fetched from its publisher")


def simulated(output: Path, n_flows: int = 30_000) -> Source:
    """Simulate labelled flows and write them as a user's table."""
    path = output / "simulated-flows.csv"
    simulate_flows(n_flows=n_flows, seed=0).write_csv(path)
    description = f"{n_flows:,} SIMULATED flows: they show how it works; their figures say nothing about any network"
    return Source([path], description, {"label": "label", "benign": "benign"})


# --- 2. training -----------------------------------------------------------------------------------------------------


def train(source: Source, seed: int) -> Detector:
    """Train the default preset; Ctrl-C ends early with the best epoch so far."""
    part = flows_to_train(source.data, **source.options)
    for column, reason in part.refused.items():
        say(f"   not a feature: {column}: {reason}")
    counts = ", ".join(f"{name} {count:,}" for name, count in part.contract["class_rows"].items())
    say(f"   {len(part.flows):,} flows: {counts}")
    return train_detector(part.flows, card=part.card(), random_state=seed, on_epoch=print_epoch)


def print_epoch(epoch: Epoch) -> None:
    """Print about ten lines of progress, however many epochs there are."""
    if epoch.number % max(1, epoch.n_epochs // 10) == 0 or epoch.number == epoch.n_epochs:
        held_out = f"class-balanced accuracy {100 * epoch.validation_cba:.1f} % on held-out training flows"
        say(
            f"   epoch {epoch.number} of {epoch.n_epochs}: loss {epoch.loss:.3f}, {held_out}, {epoch.left_s:.0f} s left"
        )


# --- 3. evaluation ---------------------------------------------------------------------------------------------------


def print_scores(evaluation: Evaluation) -> None:
    """Print the class-balanced accuracy, what each class contributes to it, and how far to trust it."""
    for name, scores in evaluation.subsets.items():
        if scores is not None:
            low, high = (100 * end for end in (scores.cba_interval.low, scores.cba_interval.high))
            cba = f"{100 * scores.cba:5.1f} %  (95 %: {low:.1f} to {high:.1f})  {scores.n_rows:,} flows"
            say(f"   class-balanced accuracy, {name + ':':9s} {cba}")
    for name, of in evaluation.scores.per_class.items():
        if of.recall is not None:
            say(f"   recall of {name + ':':14s} {100 * of.recall:5.1f} %  {of.support:,} flows")
    for note in trust_notes(evaluation):
        if note.heading in ("In use", "A single rule"):
            say(textwrap.fill(f"{note.heading}: {note.text}", 110, initial_indent="   ", subsequent_indent="     "))


# --- 4. verdicts -----------------------------------------------------------------------------------------------------


def print_most_suspicious(verdicts: pl.DataFrame, detector: Detector, test: LabelledFlows) -> None:
    """Print the two flows with the highest attack score of each attack class, beside their true labels."""
    truth = test.labels.alias("true label")
    ranked = verdicts.with_columns(truth).with_row_index("row", offset=1).sort("score", descending=True)
    attacks = ranked.filter(pl.col("class") != detector.benign).group_by("class", maintain_order=True).head(2)
    columns = ["row", *(name for name in ("protocol_type", "protocol", "service") if name in attacks.columns)]
    columns += ["class", *(["label"] if detector.labels != detector.classes else []), "score", "true label"]
    with pl.Config(tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True, tbl_rows=20, tbl_width_chars=110):
        say(str(attacks.select(columns)))
    say("   'true label' is that of the data set, which may contradict itself: see docs/data-sets.md")


def say(text: str) -> None:
    """Print at once, so that progress shows where the output is piped."""
    print(text, flush=True)


def shown(path: Path) -> str:
    """Return a path as seen from here, where that is shorter."""
    return os.path.relpath(path) if path.is_relative_to(CHECKOUT.parent) else str(path)


if __name__ == "__main__":
    main()
