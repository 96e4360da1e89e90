"""How far a number travels: the same systems on one data set, dealt by one protocol after another.

A figure from a random split says how a system does on flows like those that it was trained on. Each further protocol
takes one likeness away: exact repeats, the same minutes, the same hosts, the same day, the same kind of attack, the
same network. Lines stand in that order.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepidea.benchmark.cell import Record
from deepidea.benchmark.comparison import OURS, Comparison, Contest, Row, Spread, data_title, points
from deepidea.benchmark.systems import SYSTEMS
from deepidea.benchmark.tables import NONE, Entry, Table
from deepidea.evaluation.capture_splits import WEEKDAYS

AT_RATE = "0.01"
"""The share of benign flows that rankings are compared at, as records spell it."""
_LEAVE_OUT, _TO, _DAY = "leave-out-", "to-", "by-day-"
_TITLES = {
    "stratified-keep": "at random, repeats kept",
    "stratified": "at random, repeats dropped",
    "official": "publisher's files",
    "by-time": "end of each day",
    "by-host-pair": "other pairs of hosts",
}


@dataclass(frozen=True, slots=True)
class Ranking:
    """How a score ranks attacks above benign flows; None where that is not known.

    Attributes
    ----------
    auroc : float or None
        Area under the ROC curve.
    recall : float or None
        Share of attacks above the benign flow that only :data:`AT_RATE` of them pass.
    """

    auroc: float | None = None
    recall: float | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """What a system comes to under one protocol, as shares; None where there is none.

    Attributes
    ----------
    cba : Spread
        Over seeds, or over left-out labels.
    recall, false_alarms : float or None
        Of attacks against benign flows: share called any attack, share of benign flows called one.
    by_score, by_anomaly : Ranking
        Of attacks against benign flows, by the attack score and by how unlike benign flows the system finds them.

    Where a label is left out, recall and rankings are of that label alone.
    """

    cba: Spread
    recall: float | None
    false_alarms: float | None
    by_score: Ranking
    by_anomaly: Ranking


@dataclass(frozen=True, slots=True)
class Leg:
    """One line: contests that are one way of dealing, which are several where labels are left out in turn."""

    title: str
    contests: tuple[Contest, ...]

    @property
    def asks(self) -> str:
        """What the systems are asked for, and how many of the classes the test has."""
        told = self.contests[0].sample["told"]
        if told.get("view") == "attack or benign":
            return "attack or benign"
        known, tested = (len(told.get(key, self.contests[0].classes)) for key in ("class_rows", "test_class_rows"))
        return f"{known} classes" if tested == known else f"{tested} of {known} classes"

    @property
    def test_flows(self) -> tuple[int, int]:
        """Benign and attack flows of the test: of the first seed, of labels left out all of them together."""
        counts = [contest.sample["told"].get("test_class_rows", {}) for contest in self.contests]
        benign = counts[0].get("benign", 0)
        if self.contests[0].protocol.startswith(_LEAVE_OUT):
            return benign, sum(of["rows"] for contest in self.contests for of in _left_out(contest.sample))
        return benign, sum(counts[0].values()) - benign

    def figures(self, system: str) -> Figures | None:
        """Return what a system comes to; None where it was not measured on all of the contests."""
        rows = [contest.row(system) for contest in self.contests]
        if any(row is None for row in rows):
            return None
        told = [_figures_of(contest, row) for contest, row in zip(self.contests, rows, strict=True) if row]
        return told[0] if len(told) == 1 else _mean_figures(told)


@dataclass(frozen=True, slots=True)
class Journey:
    """A data set that several protocols deal; lines in the order in which likeness is taken away."""

    data: str
    legs: tuple[Leg, ...]

    @property
    def title(self) -> str:
        """The data set, and its taxonomy where one was named."""
        return data_title(self.data)

    @property
    def systems(self) -> list[str]:
        """Systems that two lines or more have, in the registry's order."""
        told = [{row.system for row in leg.contests[0].measured} for leg in self.legs]
        return [name for name in SYSTEMS if sum(name in names for names in told) > 1]


def journeys(comparison: Comparison) -> list[Journey]:
    """Return the data sets that were dealt in more than one way.

    Examples
    --------
    >>> from deepidea.benchmark.comparison import compare
    >>> journeys(compare([]))
    []
    """
    by_data: dict[str, list[Contest]] = {}
    for contest in comparison.contests:
        by_data.setdefault(contest.data, []).append(contest)
    found = (Journey(data, tuple(_legs(contests))) for data, contests in by_data.items())
    return [journey for journey in found if len(journey.legs) > 1 and journey.systems]


def _legs(contests: Sequence[Contest]) -> Iterable[Leg]:
    ways = {contest.dealing: contest for contest in contests}
    left_out = tuple(contest for way, contest in ways.items() if way.startswith(_LEAVE_OUT) and _left_out_once(contest))
    legs = [(_order(way), Leg(_title(way), (of,))) for way, of in ways.items() if not way.startswith(_LEAVE_OUT)]
    if left_out:
        title = (
            f"an attack label left out, mean of {len(left_out)}" if len(left_out) > 1 else "an attack label left out"
        )
        legs.append((_order(_LEAVE_OUT), Leg(title, left_out)))
    return [leg for _, leg in sorted(legs, key=lambda at: at[0])]


def _order(way: str) -> tuple[int, int, str]:
    order = ["stratified-keep", "stratified", "fold-", "official", "by-time", "by-host-pair", _DAY, _LEAVE_OUT, _TO]
    places = [at for at, prefix in enumerate(order) if way == prefix or (prefix[-1] == "-" and way.startswith(prefix))]
    day = way.removeprefix(_DAY)
    return places[0] if places else len(order), WEEKDAYS.index(day) if day in WEEKDAYS else 0, way


def _title(way: str) -> str:
    if way.startswith(_TO):
        return f"another data set: {way.removeprefix(_TO)}"
    return f"another day: {way.removeprefix(_DAY).capitalize()}" if way.startswith(_DAY) else _TITLES.get(way, way)


# --- figures -----------------------------------------------------------------------------------------------------


def _figures_of(contest: Contest, row: Row) -> Figures:
    if contest.protocol.startswith(_LEAVE_OUT):
        return _figures_of_left_out(row)
    cba = row.spread("own") or Spread(0.0, 0.0, 0)
    recall, alarms = (_mean_known([_own(record).get(name) for record in row.records]) for name in _RATES)
    by_anomaly = _ranking_of([record.get("anomaly", {}) for record in row.records])
    return Figures(cba, recall, alarms, _ranking_of([_own(record) for record in row.records]), by_anomaly)


_RATES = ("detection_rate", "false_alarm_rate")


def _own(record: Record) -> dict[str, Any]:
    own: dict[str, Any] = record["decisions"]["own"]
    return own


def _ranking_of(told: Sequence[Mapping[str, Any]]) -> Ranking:
    recalls = [of.get("recall_at_fpr", {}).get(AT_RATE) for of in told]
    return Ranking(_mean_known([of.get("roc_auc") for of in told]), _mean_known(recalls))


def _figures_of_left_out(row: Row) -> Figures:
    """Return figures of the left-out label against benign flows; known attacks of the test do not count."""
    labels = [of for record in row.records for of in _left_out(record)]
    alarms = _mean_known([_own(record).get("false_alarm_rate") for record in row.records]) or 0.0
    recalls = [of["alarms"] / of["rows"] for of in labels]
    cba = Spread.of([(recall + 1 - alarms) / 2 for recall in recalls]) or Spread(0.0, 0.0, 0)
    by_score, by_anomaly = (
        Ranking(_mean_known([of.get(name) for of in labels])) for name in ("auroc", "anomaly_auroc")
    )
    return Figures(cba, statistics.fmean(recalls), alarms, by_score, by_anomaly)


def _left_out(record: Record) -> list[dict[str, Any]]:
    return [of for of in record.get("labels", {}).values() if not of["in_training"]]


def _left_out_once(contest: Contest) -> bool:
    return len(_left_out(contest.sample)) > 0


def _mean_figures(told: Sequence[Figures]) -> Figures:
    cba = Spread.of([figures.cba.mean for figures in told]) or Spread(0.0, 0.0, 0)
    recall, alarms = (_mean_known([f.recall for f in told]), _mean_known([f.false_alarms for f in told]))
    rankings = (_mean_ranking([f.by_score for f in told]), _mean_ranking([f.by_anomaly for f in told]))
    return Figures(cba, recall, alarms, *rankings)


def _mean_ranking(of: Sequence[Ranking]) -> Ranking:
    return Ranking(_mean_known([one.auroc for one in of]), _mean_known([one.recall for one in of]))


def _mean_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


# --- tables ------------------------------------------------------------------------------------------------------


def travel_tables(journey: Journey) -> list[Table]:
    """Return what a report shows of a data set: what systems decide, how they rank, how left-out labels fare."""
    left_out = left_out_table(journey)
    return [travel_table(journey), ranking_table(journey), *([left_out] if left_out else [])]


def travel_table(journey: Journey) -> Table:
    """Return the lines of a data set: for each protocol what each system comes to."""
    systems = journey.systems
    head = ["Dealt", *(SYSTEMS[name].title for name in systems)]
    lines = [_line(leg, systems) for leg in journey.legs]
    return Table(head, lines, _travel_caption(journey), small_below=True)


def _line(leg: Leg, systems: Sequence[str]) -> list[Entry]:
    benign, attacks = leg.test_flows
    told = {name: leg.figures(name) for name in systems}
    best = max((figures.cba.mean for figures in told.values() if figures), default=0.0)
    entries = (_entry(figures, best) for figures in told.values())
    return [Entry(leg.title, f"{leg.asks}; {benign:,} + {attacks:,} flows"), *entries]


def _entry(figures: Figures | None, best: float) -> Entry:
    if figures is None:
        return Entry(NONE)
    rates = (NONE if rate is None else f"{100 * rate:.1f}" for rate in (figures.recall, figures.false_alarms))
    area = NONE if figures.by_score.auroc is None else f"{figures.by_score.auroc:.3f}"
    return Entry(points(figures.cba), " / ".join([*rates, area]), figures.cba.mean == best)


def _travel_caption(journey: Journey) -> str:
    seeds = sorted({row.spread("own").n_seeds for leg in journey.legs for row in _ours(leg)})  # type: ignore[union-attr]
    several = any(len(leg.contests) > 1 for leg in journey.legs)
    return (
        "Class-balanced accuracy by each system's own decision, percent, the highest of a line in bold; small: recall "
        "of attacks (called any attack) and false alarms, percent, and area under the ROC curve of the attack score; "
        "beside a protocol, what it asks for and the test flows, benign + attacks. "
        f"{_spell_seeds(seeds)} The average of CBA is over the classes that a line asks for, so CBA of two lines "
        "compares only where they ask for the same; the small figures always ask for attack or benign."
        + (_LEFT_OUT_NOTE if several else "")
    )


def _ours(leg: Leg) -> Iterable[Row]:
    for contest in leg.contests:
        row = contest.row(OURS)
        if row and row.spread("own"):
            yield row


_LEFT_OUT_NOTE = (
    " Where labels are left out in turn: mean and standard deviation over the labels; recall and area are of the "
    "left-out label's flows alone, against the benign ones."
)


def _spell_seeds(seeds: Sequence[int]) -> str:
    if list(seeds) == [1]:
        return "One seed."
    return f"Mean ± standard deviation over seeds ({' or '.join(map(str, seeds))}); without a deviation it is one seed."


def ranking_table(journey: Journey) -> Table:
    """Return how each system ranks attacks above benign flows, whatever it decides."""
    columns: dict[str, list[Ranking]] = {}
    for name in journey.systems:
        columns[SYSTEMS[name].title] = [_by_score(leg.figures(name)) for leg in journey.legs]
    for name in journey.systems:
        by_anomaly = [_by_anomaly(leg.figures(name)) for leg in journey.legs]
        if any(ranking.auroc is not None for ranking in by_anomaly):
            columns[f"{SYSTEMS[name].title}, by anomaly"] = by_anomaly
    lines = [
        [Entry(leg.title), *_ranking_entries([of[place] for of in columns.values()])]
        for place, leg in enumerate(journey.legs)
    ]
    return Table(["Dealt", *columns], lines, _RANKING_CAPTION, small_below=True)


def _by_score(figures: Figures | None) -> Ranking:
    return figures.by_score if figures else Ranking()


def _by_anomaly(figures: Figures | None) -> Ranking:
    return figures.by_anomaly if figures else Ranking()


_RANKING_CAPTION = (
    "Area under the ROC curve of attacks against benign flows, by each system's attack score, whatever it decides, the "
    "highest of a line in bold; small: percent of the attacks that rank above all but one in a hundred of the benign "
    "flows. Where labels are left out in turn: the area of the left-out label's flows, mean over the labels. "
    "Anomaly is how unlike benign flows DeepIDEA finds them, the other column to rank by. Mean over seeds."
)


def _ranking_entries(rankings: Sequence[Ranking]) -> list[Entry]:
    best = max((ranking.auroc for ranking in rankings if ranking.auroc is not None), default=None)
    return [_ranking_entry(ranking, best) for ranking in rankings]


def _ranking_entry(ranking: Ranking, best: float | None) -> Entry:
    if ranking.auroc is None:
        return Entry(NONE)
    return Entry(
        f"{ranking.auroc:.3f}",
        "" if ranking.recall is None else f"{100 * ranking.recall:.1f}",
        ranking.auroc == best,
    )


def left_out_table(journey: Journey) -> Table | None:
    """Return how each label fared that was left out of training; None where none was."""
    contests = [contest for leg in journey.legs for contest in leg.contests if contest.protocol.startswith(_LEAVE_OUT)]
    if not contests:
        return None
    systems = [name for name in journey.systems if any(contest.row(name) for contest in contests)]
    lines = [_left_out_line(contest, systems) for contest in contests]
    return Table(["Left out", "Flows", *(SYSTEMS[name].title for name in systems)], lines, _LEFT_OUT_CAPTION)


_LEFT_OUT_CAPTION = (
    "Attack labels that training does not show, one at a time: the share of the label's flows that was called any "
    "attack by the system's own decision, percent; behind it the area under the ROC curve of these flows against "
    "benign ones."
)


def _left_out_line(contest: Contest, systems: Sequence[str]) -> list[Entry]:
    labels = {name: of for name, of in contest.sample["labels"].items() if not of["in_training"]}
    rows = sum(of["rows"] for of in labels.values())
    told = (contest.row(name) for name in systems)
    return [Entry(", ".join(labels)), Entry(f"{rows:,}"), *(_left_out_entry(row) for row in told)]


def _left_out_entry(row: Row | None) -> Entry:
    if row is None:
        return Entry(NONE)
    figures = _figures_of_left_out(row)
    recall = NONE if figures.recall is None else f"{100 * figures.recall:.1f}"
    return Entry(recall, "" if figures.by_score.auroc is None else f"{figures.by_score.auroc:.3f}")


# --- in words ----------------------------------------------------------------------------------------------------


def tell_journey(journey: Journey) -> str:
    """Say what becomes of DeepIDEA's recall and false alarms from the first line to the worst, and of its ranking."""
    told = [(leg, figures) for leg in journey.legs if (figures := leg.figures(OURS)) and figures.recall is not None]
    if len(told) < 2:
        return "DeepIDEA was not measured under two protocols."
    (first, start), *rest = told
    low, worst = min(rest, key=lambda at: at[1].recall or 0.0)
    loud, loudest = max(told, key=lambda at: at[1].false_alarms or 0.0)
    area = (
        ""
        if worst.by_score.auroc is None
        else f" (there its score has an area under the ROC curve of {worst.by_score.auroc:.3f})"
    )
    return (
        f"DeepIDEA finds {_share(start.recall)} % of attacks at {_share(start.false_alarms)} % false alarms in the "
        f"first line ({first.title}). Its recall is lowest, {_share(worst.recall)} %, for “{low.title}”{area}. "
        f"Its false alarms are most, {_share(loudest.false_alarms)} %, for “{loud.title}”."
    )


def _share(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.1f}"
