"""The data sets that the project knows: their files, hashes, days of capture and where their publishers offer them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from deepidea.errors import DatasetError
from deepidea.flows.schema import suggest

Role = Literal["train", "test", "extra"]
Training = Literal["auto", "full", "10-percent"]

_KDD = "http://kdd.ics.uci.edu/databases/kddcup99/"
_CIC18 = "https://cse-cic-ids2018.s3.amazonaws.com/Processed%20Traffic%20Data%20for%20ML%20Algorithms/"
_CIC18_DAYS = (
    "Wednesday-14-02-2018 Thursday-15-02-2018 Friday-16-02-2018 Thuesday-20-02-2018 Wednesday-21-02-2018 "
    "Thursday-22-02-2018 Friday-23-02-2018 Wednesday-28-02-2018 Thursday-01-03-2018 Friday-02-03-2018"
)


@dataclass(frozen=True, slots=True)
class OfficialFile:
    """A file of a data set.

    Parameters
    ----------
    names
        Names of the file without ``.gz``, the official one first.
    role
        What it is for.
    sha256
        Hashes of the official file, packed or unpacked; empty where unknown.
    variant
        Which of several training files it is; empty where there is one.
    address
        Address relative to the data set's `base`; empty where the publisher offers a page alone.
    needed
        Whether the data set cannot do without it.
    """

    names: tuple[str, ...]
    role: Role
    sha256: tuple[str, ...] = ()
    variant: str = ""
    address: str = ""
    needed: bool = True


@dataclass(frozen=True, slots=True)
class DatasetSpec:
    """A data set that the project knows.

    Parameters
    ----------
    name, title
        Its name in commands, and in sentences.
    schema
        Name of the schema of its files.
    page
        The publisher's page.
    files
        Files with a role of their own; empty where every CSV file of the folder counts and there is no split.
    trailing
        Columns after the features in files without a header line; empty where files have one.
    days
        First and last day of capture, to distinguish day/month from month/day.
    afternoon_from_12
        Whether clocks run to 12 without AM or PM.
    has_column, lacks_column
        A canonical column that distinguishes this data set from others of its schema.
    base, downloads
        Address before the files' own, empty where the publisher offers a page or a form alone; and the files there that
        have no role of their own.
    """

    name: str
    title: str
    schema: str
    page: str
    files: tuple[OfficialFile, ...] = ()
    trailing: tuple[str, ...] = ()
    days: tuple[dt.date, dt.date] | None = None
    afternoon_from_12: bool = False
    has_column: str = ""
    lacks_column: str = ""
    base: str = ""
    downloads: tuple[str, ...] = ()


_2017 = (dt.date(2017, 7, 3), dt.date(2017, 7, 7))
_KDD99_FILES = (
    OfficialFile(
        ("kddcup.data", "kddcup.data.corrected"),
        "train",
        ("3b6c942aa0356c0ca35b7b595a26c89d343652c9db428893e7494f837b274292",),
        "full",
        "kddcup.data.gz",
    ),
    OfficialFile(
        ("kddcup.data_10_percent", "kddcup.data_10_percent_corrected"),
        "train",
        ("8045aca0d84e70e622d1148d7df782496f6333bf6eb979a1b0837c42a9fd9561",),
        "10-percent",
        "kddcup.data_10_percent.gz",
    ),
    OfficialFile(
        ("corrected",),
        "test",
        (
            "abd8165508378859b07e38537271f0ebf8a4d7319f643188cd7361e939a05c43",
            "547dfb9c0f0dc1d9944219ec79e851191faebaeb8acbfa1cd171c418397052a4",
        ),
        address="corrected.gz",
    ),
)
_NSL_FILES = (
    OfficialFile(("KDDTrain+.txt",), "train"),
    OfficialFile(("KDDTest+.txt",), "test"),
    OfficialFile(("KDDTest-21.txt",), "extra", needed=False),
)
_UNB = "https://www.unb.ca/cic/datasets/"
_CORRECTED = "https://intrusion-detection.distrinet-research.be/CNS2022/"
_ALL = (
    DatasetSpec("kdd99", "KDD Cup 1999", "kdd99", f"{_KDD}kddcup99.html", _KDD99_FILES, ("label",), base=_KDD),
    DatasetSpec("nsl-kdd", "NSL-KDD", "kdd99", f"{_UNB}nsl.html", _NSL_FILES, ("label", "difficulty")),
    DatasetSpec(
        *("cicids17", "CICIDS2017", "cicflow", f"{_UNB}ids-2017.html"),
        days=_2017,
        afternoon_from_12=True,
        lacks_column="attempted_category",
    ),
    DatasetSpec(
        *("cicids17-improved", "CICIDS2017, corrected by Engelen, Liu and others", "cicflow", _CORRECTED),
        days=_2017,
        has_column="attempted_category",
    ),
    DatasetSpec(
        *("cicids18", "CSE-CIC-IDS2018", "cicflow", f"{_UNB}ids-2018.html"),
        days=(dt.date(2018, 2, 14), dt.date(2018, 3, 2)),
        afternoon_from_12=True,
        lacks_column="attempted_category",
        base=_CIC18,
        downloads=tuple(f"{day}_TrafficForML_CICFlowMeter.csv" for day in _CIC18_DAYS.split()),
    ),
)

DATASET_SPECS: Mapping[str, DatasetSpec] = MappingProxyType({spec.name: spec for spec in _ALL})
"""Every data set that the project knows, by name."""


def get_dataset_spec(name: str) -> DatasetSpec:
    """Return the specification of a data set.

    Raises
    ------
    DatasetError
        No data set has the name; the known ones are listed.

    Examples
    --------
    >>> get_dataset_spec("kdd99").title
    'KDD Cup 1999'
    """
    if name not in DATASET_SPECS:
        raise DatasetError(
            f"unknown data set {name!r}{suggest(name, DATASET_SPECS)}; choose one of: {', '.join(DATASET_SPECS)}; "
            "a table of your own is named by its path"
        )
    return DATASET_SPECS[name]
