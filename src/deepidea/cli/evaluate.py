"""The command `deepidea evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from deepidea.cli.evaluation_tables import show_evaluation
from deepidea.cli.options import Benign, Inputs, Label, ModelFile, TaxonomyName, one_name


def evaluate(
    model: ModelFile,
    data: Inputs,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the scores as JSON.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a self-contained HTML report.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep it in the detector file, for the page to show.")] = False,
    label: Label = None,
    benign: Benign = None,
    taxonomy: TaxonomyName = None,
) -> None:
    """Tell how good a detector is: on all flows, on distinct ones, on vectors it never saw."""
    from deepidea.evaluation.evaluate import evaluate_detector
    from deepidea.evaluation.protocol import flows_to_test
    from deepidea.evaluation.report import trust_notes, write_report
    from deepidea.evaluation.summary import EVALUATION_ENTRY, summarise_evaluation
    from deepidea.flows.atomic import replacing
    from deepidea.model.detector import Detector

    detector = Detector.load(model)
    options = {"taxonomy": taxonomy, "label": label, "benign": benign}
    flows = flows_to_test(one_name(data), detector.schema, detector.card.get("data", {}), **options)
    evaluation = evaluate_detector(detector, flows)
    if json_file is not None:
        with replacing(json_file) as partial:
            partial.write_text(json.dumps(evaluation.to_dict(), indent=1) + "\n")
    if report is not None:
        write_report(evaluation, report)
    if keep:
        detector.with_card(**{EVALUATION_ENTRY: summarise_evaluation(evaluation)}).save(model)
    show_evaluation(evaluation, trust_notes(evaluation))
