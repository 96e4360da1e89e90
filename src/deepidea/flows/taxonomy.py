"""Taxonomies: mappings from the native labels of a data set to classes, and one spelling of labels.

KDD99 has two mappings in use, and they give different test sets: the official one (default) and the paper's, which
counts `warezmaster` as DoS and one test-only type of 17 rows as U2R. `named` and `sendmail` both have 17 rows; which
one the paper moved is unknown, here it is `named`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

import polars as pl

from deepidea.errors import DatasetError, LabelError
from deepidea.flows.schema import suggest

BENIGN = "benign"
ATTEMPTED_SUFFIX = " - Attempted"
Attempted = Literal["benign", "drop", "own"]

# 0x96 is a dash of code page 1252; files that went through other hands hold it as UTF-8, as U+FFFD, or garbled twice
_DASH = re.compile("\\s*(?:\x96|\u2013|\u2014|\ufffd|\u00ef\u00bf\u00bd|\u00e2\u20ac\u201c|\u00e2\x80\x93)+\\s*")


def normalise_label(label: str) -> str:
    r"""Return a label without outer spaces, without KDD's final dot, and with a plain dash.

    Examples
    --------
    >>> normalise_label("smurf."), normalise_label(" Web Attack \x96 XSS")
    ('smurf', 'Web Attack - XSS')
    """
    return _DASH.sub(" - ", label.strip()).removesuffix(".")


def _kinds_of_change(label: str, spelling: str) -> list[str]:
    """Return what normalisation changed in a label."""
    kinds = {
        "labels_with_spaces": label != label.strip(),
        "labels_with_final_dot": label.strip().endswith("."),
        "labels_with_odd_dash": _DASH.search(label) is not None,
        "labels_in_other_case": normalise_label(label) != spelling,
    }
    return [kind for kind, is_so in kinds.items() if is_so]


def normalise_labels(labels: pl.Series, taxonomy: Taxonomy | None = None) -> tuple[pl.Series, dict[str, int]]:
    """Return labels in one spelling, and how many rows each kind of change touched.

    Parameters
    ----------
    labels
        Native labels, String, shape ``(n_flows,)``.
    taxonomy
        Where given, a label that differs from one of its labels in case alone takes that spelling.

    Returns
    -------
    tuple
        The labels, and counts by kind: ``labels_with_spaces``, ``labels_with_final_dot``, ``labels_with_odd_dash``,
        ``labels_in_other_case``.

    Examples
    --------
    >>> labels, counts = normalise_labels(pl.Series(["smurf.", "normal."]))
    >>> labels.to_list(), counts
    (['smurf', 'normal'], {'labels_with_final_dot': 2})
    """
    counts, spelling = labels.drop_nulls().value_counts(), {}
    quirks: dict[str, int] = {}
    for label, rows in counts.iter_rows():
        spelling[label] = normalise_label(label) if taxonomy is None else taxonomy.spelling(normalise_label(label))
        for kind in _kinds_of_change(label, spelling[label]):
            quirks[kind] = quirks.get(kind, 0) + rows
    return labels.replace(spelling) if spelling else labels, quirks


def format_counts(counts: Mapping[Any, int] | pl.Series, most: int = 10) -> str:
    """Return the values of a column, or their counts, as text, the most frequent first.

    Examples
    --------
    >>> format_counts({"probe": 2, "dos": 5000})
    'dos (5,000), probe (2)'
    """
    if isinstance(counts, pl.Series):
        counts = dict(counts.value_counts().iter_rows())
    ranked = sorted(counts.items(), key=lambda entry: (-entry[1], str(entry[0])))
    listed = ", ".join(f"{value} ({rows:,})" for value, rows in ranked[:most])
    return listed + (f", and {len(ranked) - most} more" if len(ranked) > most else "")


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """A mapping from native labels to classes.

    Parameters
    ----------
    name
        Name among the taxonomies of a data set.
    mapping
        Class of each label; classes are in the order of their first mention, benign first.
    dropped
        Labels whose rows are left out.
    benign
        Name of the benign class.

    Raises
    ------
    LabelError
        No label is benign, or a label is both mapped and dropped.

    Examples
    --------
    >>> taxonomy = Taxonomy("two", {"smurf": "dos", "normal": "benign"})
    >>> taxonomy.classes
    ('benign', 'dos')
    >>> taxonomy.apply(pl.Series(["normal", "smurf"])).to_list()
    ['benign', 'dos']
    """

    name: str
    mapping: Mapping[str, str]
    dropped: frozenset[str] = frozenset()
    benign: str = BENIGN
    _by_case: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.benign not in self.mapping.values():
            raise LabelError(f"taxonomy {self.name} maps no label to {self.benign}; map one")
        both = sorted(self.dropped & set(self.mapping))
        if both:
            raise LabelError(f"taxonomy {self.name} both maps and drops {', '.join(both)}; do one of the two")
        object.__setattr__(self, "mapping", MappingProxyType(dict(self.mapping)))
        known = {label.casefold(): label for label in (*self.mapping, *sorted(self.dropped))}
        object.__setattr__(self, "_by_case", MappingProxyType(known))

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes, benign first, the others in the order of their first mention."""
        return tuple(dict.fromkeys((self.benign, *self.mapping.values())))

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label that the taxonomy knows, the dropped ones last."""
        return (*self.mapping, *sorted(self.dropped))

    def spelling(self, label: str) -> str:
        """Return the taxonomy's spelling of a label that differs in case alone, else the label."""
        return self._by_case.get(label.casefold(), label)

    def apply(self, labels: pl.Series) -> pl.Series:
        """Return the class of each normalised label; null where the taxonomy drops the label.

        Raises
        ------
        LabelError
            A label is null or unknown; the unknown ones are listed with their rows.
        """
        if labels.null_count():
            raise LabelError(f"{labels.null_count():,} flows have no label; drop those rows")
        unknown = labels.filter(~labels.is_in(list(self.labels)))
        if len(unknown):
            near = suggest(unknown[0], self.labels)
            raise LabelError(
                f"taxonomy {self.name} has no class for {format_counts(unknown)}{near}; "
                "choose another taxonomy or drop those rows"
            )
        return labels.replace_strict(dict(self.mapping), default=None, return_dtype=pl.String).alias("class")

    def with_attempted(self, policy: Attempted) -> Taxonomy:
        """Return the taxonomy with a rule for labels that end in ``- Attempted``.

        The corrected CICIDS2017 marks with it the flows of an attack that had no malicious effect.

        Parameters
        ----------
        policy
            ``benign`` (the advice of the data's authors), ``drop``, or ``own``: a class ``attempted``.
        """
        attempted = [label + ATTEMPTED_SUFFIX for label, of in self.mapping.items() if of != self.benign]
        dropped_too = {label + ATTEMPTED_SUFFIX for label in self.dropped}
        if policy == "drop":
            return replace(self, dropped=self.dropped | dropped_too | set(attempted))
        target = self.benign if policy == "benign" else "attempted"
        return replace(
            self, mapping={**self.mapping, **dict.fromkeys(attempted, target)}, dropped=self.dropped | dropped_too
        )


def _by_class(**labels_of: str) -> dict[str, str]:
    """Return label -> class from class = "label, label, ..."."""
    return {label.strip(): name for name, listed in labels_of.items() for label in listed.split(",")}


def _native(labels: Mapping[str, str]) -> Taxonomy:
    return Taxonomy("native", {label: BENIGN if of == BENIGN else label for label, of in labels.items()})


def _kept(labels: Mapping[str, str], *classes: str) -> tuple[dict[str, str], frozenset[str]]:
    """Split labels into those of some classes, in the order of these, and the dropped rest."""
    kept = {label: of for wanted in classes for label, of in labels.items() if of == wanted}
    return kept, frozenset(labels) - frozenset(kept)


_KDD_OFFICIAL = _by_class(
    benign="normal",
    dos="back, land, neptune, pod, smurf, teardrop, apache2, mailbomb, processtable, udpstorm",
    probe="ipsweep, nmap, portsweep, satan, mscan, saint",
    u2r="buffer_overflow, loadmodule, perl, rootkit, httptunnel, ps, sqlattack, xterm",
    r2l="ftp_write, guess_passwd, imap, multihop, phf, spy, warezclient, warezmaster, named, sendmail, "
    "snmpgetattack, snmpguess, worm, xlock, xsnoop",
)
# `portscan` inside the infiltration of the corrected files is a scan by an insider: still a scan
_CIC17_FAMILY = _by_class(
    benign="BENIGN",
    dos="DoS Hulk, DoS GoldenEye, DoS slowloris, DoS Slowhttptest, Heartbleed",
    ddos="DDoS",
    brute_force="FTP-Patator, SSH-Patator",
    port_scan="PortScan, Infiltration - Portscan",
    botnet="Bot, Botnet",
    web_attack="Web Attack - Brute Force, Web Attack - XSS, Web Attack - Sql Injection",
    infiltration="Infiltration",
)
_CIC18_FAMILY = _by_class(
    benign="Benign",
    dos="DoS attacks-Hulk, DoS attacks-GoldenEye, DoS attacks-Slowloris, DoS attacks-SlowHTTPTest",
    ddos="DDoS attacks-LOIC-HTTP, DDOS attack-LOIC-UDP, DDOS attack-HOIC",
    brute_force="FTP-BruteForce, SSH-Bruteforce",
    botnet="Bot",
    web_attack="Brute Force -Web, Brute Force -XSS, SQL Injection",
    infiltration="Infilteration",
)


def _cic17_paper() -> Taxonomy:
    """Return the paper's classes of CICIDS2017: port scans count as infiltration.

    The paper's DoS counts add up to 252,659. The four DoS labels of the published files have 252,661 rows without
    Heartbleed's 11, which is therefore left out.
    """
    labels = {label: "infiltration" if of == "port_scan" else of for label, of in _CIC17_FAMILY.items()}
    del labels["Heartbleed"]
    kept, dropped = _kept(labels, BENIGN, "dos", "ddos", "brute_force", "infiltration")
    return Taxonomy("paper", kept, dropped | {"Heartbleed"})


_KDD = (
    Taxonomy("official", _KDD_OFFICIAL),
    Taxonomy("paper", {**_KDD_OFFICIAL, "warezmaster": "dos", "named": "u2r"}),
    _native(_KDD_OFFICIAL),
)
_CIC17 = (Taxonomy("family", _CIC17_FAMILY), _cic17_paper(), _native(_CIC17_FAMILY))
_CIC18 = (
    Taxonomy("family", _CIC18_FAMILY),
    Taxonomy("paper", *_kept(_CIC18_FAMILY, BENIGN, "dos", "infiltration", "botnet")),
    _native(_CIC18_FAMILY),
)

TAXONOMIES: Mapping[str, Mapping[str, Taxonomy]] = MappingProxyType(
    {
        dataset: MappingProxyType({taxonomy.name: taxonomy for taxonomy in taxonomies})
        for dataset, taxonomies in {
            "kdd99": _KDD,
            "nsl-kdd": _KDD,
            "cicids17": _CIC17,
            "cicids17-improved": tuple(taxonomy.with_attempted("benign") for taxonomy in _CIC17),
            "cicids18": _CIC18,
        }.items()
    }
)
"""Taxonomies by data set and name; the first of each data set is its default."""


def get_taxonomy(dataset: str, name: str | None = None, *, attempted: Attempted | None = None) -> Taxonomy:
    """Return a taxonomy of a data set.

    Parameters
    ----------
    dataset
        Name of a data set.
    name
        Name of the taxonomy; the default one if None.
    attempted
        Rule for labels that end in ``- Attempted``; only the corrected CICIDS2017 has them.

    Raises
    ------
    DatasetError
        The data set is not known.
    LabelError
        The data set has no such taxonomy, or no attempted labels.

    Examples
    --------
    >>> get_taxonomy("kdd99").classes
    ('benign', 'dos', 'probe', 'u2r', 'r2l')
    """
    if dataset not in TAXONOMIES:
        raise DatasetError(f"unknown data set {dataset!r}; choose one of: {', '.join(TAXONOMIES)}")
    known = TAXONOMIES[dataset]
    if name is not None and name not in known:
        raise LabelError(f"{dataset} has no taxonomy {name!r}; choose one of: {', '.join(known)}")
    chosen = known[name or next(iter(known))]
    if attempted is None:
        return chosen
    if dataset != "cicids17-improved":
        raise LabelError(f"{dataset} has no attempted labels; leave attempted={attempted!r} out")
    return TAXONOMIES["cicids17"][chosen.name].with_attempted(attempted)
