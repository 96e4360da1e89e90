"""The command `deepidea explain`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column
from rich.text import Text

from deepidea.cli.alert_cells import SEVERITIES, endpoint_cell, time_cell
from deepidea.cli.options import AsJson, StoreUrl, known_store, option
from deepidea.cli.terminal import out, show_table, write_json
from deepidea.errors import DataError

if TYPE_CHECKING:
    from deepidea.model.detector import Detector

_BAR_CELLS = 12
_EIGHTHS = " ▏▎▍▌▋▊▉"
_STYLES = {"attack": "red", "benign": "green", "none": "dim"}


def explain(
    model: Annotated[Path, typer.Argument(help="Detector file that raised the alert, or that scores --flows.")],
    alert: Annotated[
        str | None, typer.Argument(help="Alert id or its beginning; `deepidea alerts` lists the ids.")
    ] = None,
    store: StoreUrl = "",
    flows: Annotated[Path | None, option("Explain flows of a file instead of an alert.")] = None,
    row: Annotated[
        list[int] | None, option("Row of the file, from 1; repeatable; by default the most likely attacks.", min=1)
    ] = None,
    top: Annotated[int, option("Most features to list.", min=1)] = 8,
    as_json: AsJson = False,
) -> None:
    """Explain a verdict: the features behind it, and their range in benign flows."""
    from deepidea.model.detector import Detector

    if (alert is None) == (flows is None):
        raise DataError("give either an alert or --flows FILE")
    detector = Detector.load(model)
    if flows is not None:
        _explain_file(detector, flows, row or [], top, as_json)
    else:
        _explain_stored(detector, str(alert), store, top, as_json)


def _explain_file(detector: Detector, flows: Path, rows: list[int], top: int, as_json: bool) -> None:
    from deepidea.detection.explain import explain_rows

    explained = explain_rows(detector, flows, rows, top=top)
    if as_json:
        write_json([{"row": number, **of.to_dict()} for number, of in explained], ensure_ascii=False)
        return
    for place, (number, explanation) in enumerate(explained):
        if place:
            out.print()
        show_explanation(explanation, f"row {number:,}")


def _explain_stored(detector: Detector, beginning: str, store: str, top: int, as_json: bool) -> None:
    from deepidea.detection.explain import explain_alert
    from deepidea.store.alerts import find_row

    with known_store(store) as opened:
        found = opened.query(find_row, beginning)
    explanation = explain_alert(detector, found, top=top)
    finding = {name: found[name] for name in ("behaviour", "sentence") if found[name]}
    if as_json:
        write_json({"alert_id": found["alert_id"], **finding, **explanation.to_dict()}, ensure_ascii=False)
    else:
        _show_finding(found)
        show_explanation(explanation, f"alert {found['alert_id']}", _facts(found))


def _show_finding(alert: Mapping[str, Any]) -> None:
    """Print the finding that raised an alert, and that the explanation is of its last flow alone."""
    from deepidea.store.findings import finding_of

    finding = finding_of(alert["finding"], alert["behaviour"])
    if finding is not None:
        margin = "" if finding.margin is None else f", {finding.margin:.3g} times the threshold"
        out.print(
            Text(f"{finding.title}: {alert['sentence'] or 'no evidence is stored'}{margin}", "bold"), soft_wrap=True
        )
        out.print("The finding raised this alert. The flow that completed it, scored by itself:", soft_wrap=True)


def _facts(alert: Mapping[str, Any]) -> list[str]:
    source, destination = (endpoint_cell(alert[f"{end}_ip"], alert[f"{end}_port"]) for end in ("src", "dst"))
    flow = f"{source} to {destination} ({alert['protocol'] or '?'})"
    return [time_cell(alert["time"]), flow, SEVERITIES[alert["severity"]]]


def show_explanation(explanation: Any, name: str, facts: Sequence[str] = ()) -> None:
    """Print a headline, the alert or row that it is about, and the features behind the verdict."""
    out.print(Text(explanation.headline, "bold"), soft_wrap=True)
    facts = [*facts, f"class {explanation.class_name}", f"score {explanation.score:.4f}"]
    if explanation.anomaly is not None:
        facts.append(f"anomaly {explanation.anomaly:.4f}" + (", unknown" if explanation.unknown else ""))
    out.print(Text(f"{name}: {', '.join(facts)}", "dim"), soft_wrap=True)
    if explanation.basis == "anomaly":
        _show_outside(explanation)
    else:
        _show_pushes(explanation)
    out.print(Text(_footer(explanation), "dim"), soft_wrap=True)


def _show_pushes(explanation: Any) -> None:
    most = max((abs(reason.push) for reason in explanation.reasons), default=0.0) or 1.0
    whole = _attack_push(explanation)
    columns = ("feature", "value", Column("push", no_wrap=True), Column("", justify="right", no_wrap=True))
    rows = (
        (
            of.title,
            _value(of),
            Text(_bar(abs(of.push) / most), _STYLES[of.direction]),
            _signed_percent(of.push / whole),
            _range(of),
        )
        for of in explanation.reasons
    )
    show_table((*columns, "benign flows"), rows)
    kinds = [f"{kind} {_signed_percent(push / whole)}" for kind, push in explanation.kinds.items() if push]
    if len(kinds) > 1:
        out.print(Text(f"By kind: {', '.join(kinds)}"), soft_wrap=True)


def _show_outside(explanation: Any) -> None:
    most = max((reason.beyond for reason in explanation.reasons), default=0.0) or 1.0
    bars = (Text(_bar(of.beyond / most) if of.beyond > 0 else "", "yellow") for of in explanation.reasons)
    rows = ((of.title, _value(of), bar, _range(of)) for of, bar in zip(explanation.reasons, bars, strict=True))
    show_table(("feature", "value", Column("outside", no_wrap=True), "benign flows"), rows)


def _value(reason: Any) -> Text:
    return Text(reason.value, "bold" if reason.beyond > 0 else "")


def _range(reason: Any) -> Text:
    """Return the benign range, without the words of the column's title."""
    shown = reason.benign_range.replace(" of benign flows", "").replace(" in benign flows", "")
    return Text(shown, "yellow" if reason.beyond > 0 else "")


def _signed_percent(share: float) -> str:
    rounded = round(100 * share)
    return f"{rounded:+d} %" if rounded else "0 %"


def _attack_push(explanation: Any) -> float:
    """Return the sum of pushes towards attack: any of them and its share of the sum give it."""
    # reasons are cut to the strongest few, so their pushes do not add up to it
    known = (reason.push / reason.share for reason in explanation.reasons if reason.share > 0)
    return next(known, None) or sum(abs(reason.push) for reason in explanation.reasons) or 1.0


def _bar(share: float) -> str:
    """Return a bar of a share of the widest one, to an eighth of a cell.

    Examples
    --------
    >>> _bar(1.0), _bar(0.25), _bar(0.0)
    ('████████████', '███', '▏')
    """
    eighths = max(round(8 * _BAR_CELLS * share), 1)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).strip()


def _footer(explanation: Any) -> str:
    if explanation.range_of == "none":
        reference = "the medians of training; no benign range is known: the detector file is of an older release"
    else:
        whose = "the site" if explanation.range_of == "site" else "training"
        reference = f"{explanation.n_benign:,} benign flows of {whose}"
    if explanation.basis == "anomaly":
        return (
            "The score alone would not have raised this alert: it was raised because the flow is unlike benign flows. "
            f"Features furthest outside come first. Compared with {reference}."
        )
    return (
        f"Push: share of all evidence for attack; below 0, evidence for benign. Compared with {reference}. "
        f"Log-odds against benign {explanation.log_odds:+.1f}, of benign flows {explanation.benign_log_odds:+.1f}."
    )
