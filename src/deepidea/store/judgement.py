"""Verdicts of analysts on alerts and incidents, which stand beside the detector's own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from deepidea.errors import DataError
from deepidea.flows.taxonomy import BENIGN

__all__ = ["Feedback", "Judgement", "Subject", "Verdict"]

Subject = Literal["alert", "incident"]
Verdict = Literal["true_positive", "false_positive", "unsure"]
LONGEST = {"class_name": 200, "note": 10_000, "analyst": 200}  # characters


@dataclass(frozen=True, slots=True)
class Judgement:
    """What an analyst says.

    Parameters
    ----------
    verdict
        ``true_positive``: it is an attack; ``false_positive``: it is benign; ``unsure``.
    analyst
        Who says so.
    class_name
        Of a true positive: the right class where the detector's is wrong.
    note
        Free text; kept as it is, so that whoever shows it must escape it.

    Raises
    ------
    DataError
        The verdict is not one, a class goes with one that has none or is benign, nobody is named, or a text is too
        long.

    Examples
    --------
    >>> Judgement("true_positive", "ann", class_name="botnet").label("port_scan")
    'botnet'
    >>> Judgement("false_positive", "ann").label("port_scan"), Judgement("unsure", "ann").label("port_scan")
    ('benign', None)
    """

    verdict: Verdict
    analyst: str
    class_name: str | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in get_args(Verdict):
            raise DataError(f"verdict must be one of {', '.join(get_args(Verdict))}, however: it is {self.verdict!r}")
        if not self.analyst.strip():
            raise DataError("a verdict must name its analyst, however: the name is empty; say who judged")
        self._refuse_class()
        for name, most in LONGEST.items():
            length = len(getattr(self, name) or "")
            if length > most:
                raise DataError(f"{name} must have at most {most:,} characters, however: it has {length:,}; shorten it")

    def _refuse_class(self) -> None:
        if self.class_name is None:
            return
        if self.verdict != "true_positive":
            raise DataError(
                f"a class must go with a true positive, however: {self.class_name!r} is given with {self.verdict}; "
                "leave it out"
            )
        if not self.class_name.strip() or self.class_name == BENIGN:
            raise DataError(
                f"the class of a true positive must be that of an attack, however: it is {self.class_name!r}; what is "
                "benign is a false positive"
            )

    def label(self, predicted: str) -> str | None:
        """Return what a flow is by this verdict, given the class that the detector named; None where it is not told."""
        if self.verdict == "unsure":
            return None
        return BENIGN if self.verdict == "false_positive" else self.class_name or predicted


@dataclass(frozen=True, slots=True)
class Feedback:
    """A verdict that is kept: what :class:`Judgement` says, of what, and when."""

    feedback_id: int
    subject: Subject
    subject_id: str
    verdict: Verdict
    class_name: str | None
    note: str
    analyst: str
    time: datetime

    def label(self, predicted: str) -> str | None:
        """Return what :meth:`Judgement.label` does."""
        return Judgement(self.verdict, self.analyst, self.class_name).label(predicted)
