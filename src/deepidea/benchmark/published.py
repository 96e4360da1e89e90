"""The paper's tables V, VI and VII as data: each class's precision and recall, and class-balanced accuracy, in percent.

They are quoted as published, also where a row contradicts itself (:attr:`PublishedRow.contradicts_itself`). They are
other people's figures on their own preparation of the data, which is not public.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_COMPARABLE_SPLITS = ("auto", "official", "stratified", "stratified-keep")


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """A row: precision and recall of each class, in the order of the table's classes, and the stated accuracy.

    Examples
    --------
    >>> row = PUBLISHED["kdd99"].rows["KNN"]
    >>> row.cba, round(row.mean_recall, 2), row.contradicts_itself
    (16.41, 36.41, True)
    """

    precision_recall: tuple[tuple[float, float], ...]
    cba: float

    @property
    def mean_recall(self) -> float:
        """Class-balanced accuracy as the row's own recalls give it."""
        return sum(recall for _, recall in self.precision_recall) / len(self.precision_recall)

    @property
    def contradicts_itself(self) -> bool:
        """Whether the stated accuracy is more than a point from the mean of the stated recalls."""
        return abs(self.mean_recall - self.cba) > 1.0


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """A table of the paper, its classes under the project's names."""

    number: str
    classes: tuple[str, ...]
    rows: Mapping[str, PublishedRow]


def published_table(data: str, protocol: str) -> PublishedTable | None:
    """Return the paper's table on a data set, None where the split is no random or official one."""
    return PUBLISHED.get(data.partition("@")[0]) if protocol in _COMPARABLE_SPLITS else None


def _table(number: str, classes: str, rows: Mapping[str, str]) -> PublishedTable:
    """Read a table written as ``P/R P/R ... CBA``."""
    read = {}
    for name, text in rows.items():
        *pairs, cba = text.split()
        shares = (tuple(float(share) for share in pair.split("/")) for pair in pairs)
        read[name] = PublishedRow(tuple((precision, recall) for precision, recall in shares), float(cba))
    return PublishedTable(number, tuple(classes.split()), read)


PUBLISHED: Mapping[str, PublishedTable] = {
    "kdd99": _table(
        "V",
        "benign dos probe u2r r2l",
        {
            "SVM": "30.2/70.04 96.66/98.55 13.68/27.71 21.87/6.76 84.4/5.91 41.23",
            "KNN": "23.51/55.16 90.97/100 100/26.91 0/0 0/0 16.41",
            "DT": "20.64/48.23 88.9/99.87 0/0 0/0 0/0 29.49",
            "MLP+CE": "0/0 70.92/100 5.36/15.33 0/0 72.29/6.4 24.27",
            "MLP+OverSampling": "27.15/11.68 95.5/83.14 5.64/74.64 11.83/1.97 62.79/19.15 38.12",
            "MLP+UnderSampling": "19.21/45.95 95.52/83.57 9.43/33.87 20.83/8.09 68.3/29.78 40.25",
            "Cost-Sensitive": "33.15/10.59 0/0 4.82/8.27 2.55/73.76 0/0 18.26",
            "CNN": "20.50/64.79 94.88/82.81 10.53/27.27 7.14/1.3 60.87/4.67 36.17",
            "DeepIDEA": "19.46/85.82 93.03/85.68 7.14/47.87 0/0 62.09/8.89 45.31",
        },
    ),
    "cicids17": _table(
        "VI",
        "benign dos ddos brute_force infiltration",
        {
            "SVM": "86.42/76.38 96.58/53.74 92.62/16.03 0/0 7.27/86.18 46.47",
            "KNN": "91.92/85.05 75.88/48.22 72.56/86.23 0/0 10.92/84.75 60.85",
            "DT": "66.51/100 0/0 0/0 0/0 0/0 20",
            "MLP+CE": "87.04/90.76 74.12/63.69 74.73/79.53 7.37/4.8 28.03/61.54 60.06",
            "MLP+OverSampling": "86.03/95.05 80.14/52.5 56.68/76.06 3.65/1.63 28.18/53.62 55.45",
            "MLP+UnderSampling": "86.88/54.9 50.91/59.31 26.13/11.32 7.17/27.39 13.8/58.03 42.19",
            "Cost-Sensitive": "61.58/61.17 17.69/28.09 0/0 0/0 0/0 17.85",
            "CNN": "0/0 23.42/96.04 0/0 8.07/11.07 0/0 21.42",
            "DeepIDEA": "88.5/94.06 88.77/62.97 76.31/83.19 8.29/4.1 26.46/64.53 61.77",
        },
    ),
    "cicids18": _table(
        "VII",
        "benign dos infiltration botnet",
        {
            "SVM": "76.59/42.59 44.97/26.23 26.57/20.64 13.70/29.14 29.65",
            "KNN": "75.46/30.05 31.2/28.05 11.53/6.45 17.32/28.14 23.18",
            "DT": "64.77/100 0/0 0/0 0/0 25.00",
            "MLP+CE": "67.42/71.73 31.92/45.23 0/0 18.52/0.42 29.35",
            "Cost-Sensitive": "54.52/19.6 0/0 5.44/71.42 10.38/6.54 24.39",
            "CNN": "0/0 22.44/98.52 7.08/8.19 0/0 26.68",
            "DeepIDEA": "70.96/39.7 45.47/49.94 6.88/21.0 11.86/33.64 36.07",
        },
    ),
}
