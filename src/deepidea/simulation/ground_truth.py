"""Join ground truth to flows: label each flow by the labelled conversation that it belongs to."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import polars as pl
from polars.exceptions import PolarsError

from deepidea.errors import FileFormatError, LabelError, SchemaError
from deepidea.flows.identity import transport_number
from deepidea.flows.skipping import SkipCount, skip_or_raise

__all__ = ["GROUND_TRUTH", "LabelJoin", "label_flows", "read_labels"]

GROUND_TRUTH: dict[str, pl.DataType] = {
    "start": pl.Datetime("us", "UTC"),
    "end": pl.Datetime("us", "UTC"),
    "src_ip": pl.String(),
    "src_port": pl.Int32(),
    "dst_ip": pl.String(),
    "dst_port": pl.Int32(),
    "protocol": pl.Int32(),
    "label": pl.String(),
    "class": pl.String(),
    "instance": pl.String(),
    "strength": pl.String(),
}
"""Columns of ground truth. A null address, port or protocol matches any; a null class is the label itself. An instance
is one attack of many conversations, with a strength (`deepidea.simulation.instances`)."""

_NEEDED = ("start", "end", "label")
_TUPLE = ("src_ip", "src_port", "dst_ip", "dst_port", "protocol")
_PORTS = ("src_port", "dst_port")
_SWAPPED = {"src_ip": "dst_ip", "src_port": "dst_port", "dst_ip": "src_ip", "dst_port": "src_port"}
_WITH_PORTS = (6, 17, 132)  # TCP, UDP, SCTP


@dataclass(slots=True)
class LabelJoin:
    """Counts of a join of ground truth to flows.

    Attributes
    ----------
    flows
        In total.
    rows, unused
        Rows of the ground truth, and those that no flow matches.
    contested
        Flows that match rows of different labels; the row with the longest overlap is taken.
    unmatched
        Flows that match no row, by reason.
    labels
        Flows by label.

    Examples
    --------
    >>> print(LabelJoin(flows=10, rows=4, unused=1))
    10 flows labelled by 3 of 4 rows of ground truth
    """

    flows: int = 0
    rows: int = 0
    unused: int = 0
    contested: int = 0
    unmatched: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        labelled, used = self.flows - self.unmatched.total(), self.rows - self.unused
        parts = [f"{labelled:,} flows labelled by {used:,} of {self.rows:,} rows of ground truth"]
        parts += [f"{count:,} without a label: {reason}" for reason, count in self.unmatched.most_common()]
        if self.contested:
            parts.append(f"{self.contested:,} match rows of different labels")
        return "; ".join(parts)


def read_labels(path: str | Path | BinaryIO, *, skipped: SkipCount | None = None) -> pl.DataFrame:
    r"""Return the ground truth of a CSV file, in the columns of `GROUND_TRUTH`.

    Parameters
    ----------
    path
        CSV, or its open binary file, with at least ``start``, ``end`` (ISO 8601, UTC without an offset) and ``label``.
        Other columns of `GROUND_TRUTH` may be absent or empty and then match anything; further columns are ignored.
    skipped
        Counts unreadable rows; without it they are an error.

    Raises
    ------
    FileFormatError
        The file cannot be read, or is not CSV.
    SchemaError
        A column is missing.
    CellError
        A row has no label or time, or an invalid address, port or protocol.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "truth.csv"
    >>> lines = "start,end,src_ip,label", "2024-01-15T09:00:00Z,2024-01-15T10:00:00Z,10.0.0.9,scan"
    >>> _ = path.write_text("\n".join(lines))
    >>> read_labels(path).select("src_ip", "dst_port", "label", "class").row(0)
    ('10.0.0.9', None, 'scan', 'scan')
    """
    try:
        raw = pl.read_csv(path, infer_schema=False)
    except OSError as error:
        raise FileFormatError(f"cannot read {path}: {error.strerror or error}") from error
    except PolarsError as error:
        raise FileFormatError(f"cannot read {path} as CSV: {error}") from error
    missing = [name for name in _NEEDED if name not in raw.columns]
    if missing:
        raise SchemaError(f"{path} lacks the column {missing[0]}; labels need {', '.join(_NEEDED)}")
    raw = raw.select(
        pl.col(name) if name in raw.columns else pl.lit(None, pl.String).alias(name) for name in GROUND_TRUTH
    )
    raw = raw.with_columns(pl.col(pl.String).str.strip_chars().replace("", None))
    typed = raw.with_columns(_typed(raw))
    bad = _bad_rows(raw, typed)
    for row, name in bad.iter_rows():
        fact = f"cannot read {path}, row {row + 1}: {name} {raw[name][row]!r} is not valid"
        skip_or_raise(f"{name} cannot be read", 1, fact, skipped)
    rows = pl.int_range(typed.height, eager=True)
    return typed.filter(~rows.is_in(bad["row"].to_list())).with_columns(pl.col("class").fill_null(pl.col("label")))


def _typed(raw: pl.DataFrame) -> Iterator[pl.Expr | pl.Series]:
    for name in ("start", "end"):
        yield _times(raw[name])
    for name in ("src_ip", "dst_ip"):
        yield _mapped(raw[name], _address, pl.String())
    for name in _PORTS:
        port = pl.col(name).cast(pl.Int32, strict=False)
        yield pl.when(port.is_between(0, 65535)).then(port).alias(name)
    yield _mapped(raw["protocol"], transport_number, pl.Int32())


def _times(texts: pl.Series) -> pl.Series:
    """Return times; one without an offset is UTC."""
    plain = texts.str.replace(" ", "T", literal=True).str.replace(r"Z$", "+00:00")
    with_offset = plain.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%:z", time_unit="us", strict=False)
    without = plain.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False).dt.replace_time_zone("UTC")
    return with_offset.fill_null(without).alias(texts.name)


def _address(text: str) -> str | None:
    """Return an address in its canonical spelling, None where it is invalid."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def _mapped(values: pl.Series, of: Callable[[str], str | int | None], dtype: pl.DataType) -> pl.Series:
    """Return a function of each value as text, called once for each distinct one."""
    texts = values.cast(pl.String)
    distinct = texts.drop_nulls().unique()
    results = pl.Series([of(text) for text in distinct], dtype=dtype)
    return texts.replace_strict(distinct, results, default=None, return_dtype=dtype)


def _bad_rows(raw: pl.DataFrame, typed: pl.DataFrame) -> pl.DataFrame:
    """Return the rows that cannot be read, each with its first invalid column."""
    faults = [
        typed[name].is_null() if name in _NEEDED else typed[name].is_null() & raw[name].is_not_null()
        for name in GROUND_TRUTH
    ]
    first = pl.coalesce(pl.when(name).then(pl.lit(name)) for name in GROUND_TRUTH)
    return pl.DataFrame(faults).select(pl.int_range(pl.len()).alias("row"), first.alias("column")).drop_nulls()


def label_flows(
    flows: pl.DataFrame,
    labels: pl.DataFrame,
    *,
    otherwise: str | None = None,
    slack_s: float = 1.0,
    join: LabelJoin | None = None,
    instances: bool = False,
) -> pl.DataFrame:
    """Return flows with the columns ``label`` and ``class`` of the ground truth, ``instance`` too if it is asked for.

    A flow matches a row of the same addresses, ports and protocol, in either direction, that overlaps in time. Of
    several rows, the one with the longest overlap is taken, of equal ones the first.

    Parameters
    ----------
    flows
        With the columns of `deepidea.flows.identity.IDENTITY`, ``community_id`` aside. Ports are ignored unless the
        protocol is TCP, UDP or SCTP.
    labels
        Ground truth, as `read_labels` returns it.
    otherwise
        Label and class of flows that match nothing, such as ``benign`` where the ground truth lists attacks alone.
    slack_s
        Largest difference of clocks.
    join
        Filled with counts; unmatched flows then get null labels. Without it they are an error.
    instances
        Whether to add the column ``instance``, which is null for flows of no attack.

    Raises
    ------
    SchemaError
        A column is missing.
    LabelError
        Flows are unmatched, with neither `join` nor `otherwise`.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> at = [datetime(2024, 1, 15, tzinfo=UTC)]
    >>> ends = {"src_ip": ["10.0.0.1"], "src_port": [4000], "dst_ip": ["10.0.0.2"], "dst_port": [80]}
    >>> back = {"src_ip": ["10.0.0.2"], "src_port": [80], "dst_ip": ["10.0.0.1"], "dst_port": [4000]}
    >>> flows = pl.DataFrame({"start": at, "end": at, **back, "protocol": ["tcp"]})
    >>> truth = pl.DataFrame({"start": at, "end": at, **ends, "protocol": [6], "label": ["scan"], "class": ["probe"]})
    >>> label_flows(flows, truth)["label", "class"].row(0)
    ('scan', 'probe')
    """
    # Join candidates on the identity, keep those that overlap in time, then the longest overlap of each flow.
    wanted = ("label", "class", *(("instance",) if instances else ()))
    keys, truth = _keys_of(flows, "flow"), _keys_of(labels, "row", wanted)
    pairs = _overlapping(keys, truth, round(slack_s * 1e6))
    best = pairs.sort("flow", "overlap_us", "row", descending=[False, True, False]).unique("flow", keep="first")
    chosen = best.join(truth.select("row", *wanted), on="row", how="left").select("flow", *wanted)
    found = keys.select("flow").join(chosen, on="flow", how="left", maintain_order="left")
    named = found.with_columns(pl.col("label", "class").fill_null(otherwise)) if otherwise else found
    labelled = flows.with_columns(named.select(wanted))
    n_without = labelled["label"].null_count()
    if join is not None:
        _count(join, keys, pairs, truth, labelled["label"])
    elif n_without:
        raise LabelError(
            f"{n_without:,} of {flows.height:,} flows match no row of the ground truth; count them with join=, or "
            "label them with otherwise="
        )
    return labelled


def _keys_of(table: pl.DataFrame, index: str, more: tuple[str, ...] = ()) -> pl.DataFrame:
    """Return the columns to compare in canonical form, with an index: times in us, addresses, ports, protocol."""
    missing = [name for name in ("start", "end", *_TUPLE, *more) if name not in table.columns]
    if missing:
        raise SchemaError(f"cannot match {index}s: the column {missing[0]} is missing")
    protocol = _mapped(table["protocol"], transport_number, pl.Int32())
    has_ports = protocol.is_null() | protocol.is_in(_WITH_PORTS)
    return table.select(
        pl.int_range(pl.len(), dtype=pl.UInt32).alias(index),
        *(pl.col(name).dt.epoch("us").alias(f"{name}_us") for name in ("start", "end")),
        *(_mapped(table[name], _address, pl.String()) for name in ("src_ip", "dst_ip")),
        *(pl.when(has_ports).then(pl.col(name).cast(pl.Int32)).alias(name) for name in _PORTS),
        protocol,
        *more,
    )


_NO_PAIRS = pl.DataFrame(schema={"flow": pl.UInt32, "row": pl.UInt32, "overlap_us": pl.Int64})


def _overlapping(flows: pl.DataFrame, truth: pl.DataFrame, slack_us: int) -> pl.DataFrame:
    """Return pairs of flows and rows that match, with their overlap, which is negative within the slack.

    Rows with the same columns null, which match anything, are joined together on the others, in both directions.
    """
    found = [_NO_PAIRS]
    for _, rows in truth.group_by([pl.col(name).is_null().alias(f"no_{name}") for name in _TUPLE], maintain_order=True):
        named = [name for name in _TUPLE if rows[name].null_count() == 0]
        for of_flow in (named, [_SWAPPED.get(name, name) for name in named]):
            found.append(_matching(flows, rows, named, of_flow, slack_us))
    return pl.concat(found).unique(["flow", "row"], maintain_order=True)


def _matching(
    flows: pl.DataFrame, rows: pl.DataFrame, named: list[str], of_flow: list[str], slack_us: int
) -> pl.DataFrame:
    rows = rows.select("row", *named, since="start_us", until="end_us")
    pairs = flows.join(rows, left_on=of_flow, right_on=named) if named else flows.join(rows, how="cross")
    overlap = pl.min_horizontal("end_us", "until") - pl.max_horizontal("start_us", "since")
    return pairs.select("flow", "row", overlap_us=overlap).filter(pl.col("overlap_us") >= -slack_us)


def _count(join: LabelJoin, flows: pl.DataFrame, pairs: pl.DataFrame, truth: pl.DataFrame, labels: pl.Series) -> None:
    without = flows.filter(labels.is_null())
    known = pl.concat([truth.select("src_ip", "dst_ip"), truth.select(src_ip="dst_ip", dst_ip="src_ip")]).unique()
    n_strangers = without.join(known, on=["src_ip", "dst_ip"], how="anti").height
    labels_of_flow = pairs.join(truth.select("row", "label"), on="row").group_by("flow").agg(pl.col("label").n_unique())
    join.flows, join.rows = flows.height, truth.height
    join.unused = truth.height - pairs["row"].n_unique()
    join.contested = labels_of_flow.filter(pl.col("label") > 1).height
    join.labels = Counter(labels.drop_nulls().to_list())
    reasons = {"no such pair of addresses": n_strangers, "other ports or times": without.height - n_strangers}
    join.unmatched = Counter({reason: count for reason, count in reasons.items() if count})
