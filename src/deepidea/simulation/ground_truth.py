"""Ground truth joined to flows: which flow belongs to which conversation that somebody named."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

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
}
"""Columns of ground truth. A null address, port or protocol stands for any; a null class is the label's own name."""

_NEEDED = ("start", "end", "label")
_TUPLE = ("src_ip", "src_port", "dst_ip", "dst_port", "protocol")
_PORTS = ("src_port", "dst_port")
_SWAPPED = {"src_ip": "dst_ip", "src_port": "dst_port", "dst_ip": "src_ip", "dst_port": "src_port"}
_WITH_PORTS = (6, 17, 132)


@dataclass(slots=True)
class LabelJoin:
    """How ground truth fitted flows.

    Attributes
    ----------
    flows
        In all.
    unmatched
        Flows that no row of the ground truth fits, by reason.
    contested
        Flows that rows of different labels fit; the one that overlaps the longest was taken.
    labels
        Flows by label.
    rows, unused
        Rows of the ground truth, and those that fit no flow.

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
        without = sum(self.unmatched.values())
        told = [
            f"{self.flows - without:,} flows labelled by {self.rows - self.unused:,} of {self.rows:,} rows "
            "of ground truth"
        ]
        told += [f"{count:,} without a label: {reason}" for reason, count in self.unmatched.most_common()]
        if self.contested:
            told.append(f"{self.contested:,} fit rows of different labels")
        return "; ".join(told)


def read_labels(path: str | Path, *, skipped: SkipCount | None = None) -> pl.DataFrame:
    r"""Return the ground truth of a CSV file, in the columns of `GROUND_TRUTH`.

    Parameters
    ----------
    path
        CSV with at least ``start``, ``end`` (ISO 8601; UTC unless they say otherwise) and ``label``. Other columns of
        `GROUND_TRUTH` may be absent or empty, which stands for any address, port or protocol; what else is in the file
        is left out.
    skipped
        Counts rows that cannot be read; without it they are an error.

    Raises
    ------
    FileFormatError
        The file cannot be read, or is not CSV.
    SchemaError
        A column is missing.
    CellError
        A row has no label, no time, or what is no address, port or protocol.

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
        raise FileFormatError(
            f"a file of labels must be readable, however: {path}: {error.strerror or error}"
        ) from error
    except PolarsError as error:
        raise FileFormatError(f"a file of labels must be CSV, however: {path}: {error}; see read_labels") from error
    missing = [name for name in _NEEDED if name not in raw.columns]
    if missing:
        raise SchemaError(f"a file of labels must have {', '.join(_NEEDED)}, however: {path} lacks {missing[0]}")
    raw = raw.select(
        pl.col(name) if name in raw.columns else pl.lit(None, pl.String).alias(name) for name in GROUND_TRUTH
    )
    raw = raw.with_columns(pl.col(pl.String).str.strip_chars().replace("", None))
    typed = raw.with_columns(_typed(raw))
    bad = _bad_rows(raw, typed)
    for row, name in bad.iter_rows():
        value = raw[name][row]
        skip_or_raise(
            f"{name} cannot be read", 1, f"{name} must be one, however: {name}={value!r} (row {row + 1})", skipped
        )
    rows = pl.int_range(typed.height, eager=True)
    return typed.filter(~rows.is_in(bad["row"].to_list())).with_columns(pl.col("class").fill_null(pl.col("label")))


def _typed(raw: pl.DataFrame) -> Iterator[pl.Expr | pl.Series]:
    for name in ("start", "end"):
        yield _times(raw[name])
    for name in ("src_ip", "dst_ip"):
        yield _addresses(raw[name])
    for name in ("src_port", "dst_port"):
        port = pl.col(name).cast(pl.Int32, strict=False)
        yield pl.when(port.is_between(0, 65535)).then(port).alias(name)
    yield _protocols(raw["protocol"])


def _times(texts: pl.Series) -> pl.Series:
    """Return times; one without an offset is UTC."""
    plain = texts.str.replace(" ", "T", literal=True).str.replace(r"Z$", "+00:00")
    with_offset = plain.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%:z", time_unit="us", strict=False)
    without = plain.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False).dt.replace_time_zone("UTC")
    return with_offset.fill_null(without).alias(texts.name)


def _addresses(texts: pl.Series) -> pl.Series:
    """Return addresses in one spelling; null where they are none."""
    return _mapped(texts.cast(pl.String), _address, pl.String())


def _address(text: str) -> str | None:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def _protocols(texts: pl.Series) -> pl.Series:
    return _mapped(texts.cast(pl.String), transport_number, pl.Int32())


def _mapped(values: pl.Series, of: Callable[[str], str | int | None], dtype: pl.DataType) -> pl.Series:
    """Return what becomes of each value; each distinct one is looked at once."""
    distinct = values.drop_nulls().unique()
    became = pl.Series([of(value) for value in distinct], dtype=dtype)
    return values.replace_strict(distinct, became, default=None, return_dtype=dtype)


def _bad_rows(raw: pl.DataFrame, typed: pl.DataFrame) -> pl.DataFrame:
    """Return the rows that cannot be read, each with the first column that is at fault."""
    faults = [
        typed[name].is_null() if name in _NEEDED else typed[name].is_null() & raw[name].is_not_null()
        for name in GROUND_TRUTH
    ]
    table = pl.DataFrame(faults)
    first = pl.coalesce(pl.when(name).then(pl.lit(name)) for name in GROUND_TRUTH)
    return table.select(pl.int_range(pl.len()).alias("row"), first.alias("column")).drop_nulls()


def label_flows(
    flows: pl.DataFrame,
    labels: pl.DataFrame,
    *,
    otherwise: str | None = None,
    slack_s: float = 1.0,
    join: LabelJoin | None = None,
) -> pl.DataFrame:
    """Return flows with the columns ``label`` and ``class`` of the ground truth.

    A row fits a flow of the same addresses, ports and protocol, in either direction, at an overlapping time. Where
    several fit, the one that overlaps the longest is taken, of equal ones the earlier row.

    Parameters
    ----------
    flows
        With the columns of `deepidea.flows.identity.IDENTITY`, ``community_id`` aside. Ports of what is neither TCP,
        UDP nor SCTP do not count.
    labels
        Ground truth, as `read_labels` returns it.
    otherwise
        Label and class of flows that nothing fits, such as ``benign`` where the ground truth lists attacks alone.
        Without it such flows are unmatched.
    slack_s
        How far clocks may be apart.
    join
        Told how well it went; unmatched flows have null labels then. Without it they are an error.

    Raises
    ------
    SchemaError
        A column is missing.
    LabelError
        Flows are unmatched and nobody counts them.

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
    flow_keys, truth = _keys_of(flows, "flows"), _keys_of(labels, "labels", ("label", "class"))
    pairs = _overlapping(flow_keys, truth, round(slack_s * 1e6))
    best = pairs.sort("flow", "overlap_us", "row", descending=[False, True, False]).unique("flow", keep="first")
    chosen = best.join(truth.select("row", "label", "class"), on="row", how="left").select("flow", "label", "class")
    found = flow_keys.select("flow").join(chosen, on="flow", how="left", maintain_order="left")
    labelled = flows.with_columns(
        found["label"].fill_null(otherwise) if otherwise else found["label"],
        found["class"].fill_null(otherwise) if otherwise else found["class"],
    )
    _tell(join, flow_keys, pairs, truth, labelled)
    return labelled


def _keys_of(table: pl.DataFrame, told: str, more: tuple[str, ...] = ()) -> pl.DataFrame:
    """Return what is compared, in one spelling: times in microseconds, addresses, ports that count, numbers."""
    missing = [name for name in ("start", "end", *_TUPLE, *more) if name not in table.columns]
    if missing:
        raise SchemaError(f"{told} must have the columns of an identity, however: {', '.join(missing)} missing")
    numbers = _protocols(table["protocol"])
    counts = numbers.is_null() | numbers.is_in(_WITH_PORTS)
    return pl.DataFrame(
        [
            pl.int_range(table.height, dtype=pl.UInt32, eager=True).alias("row" if more else "flow"),
            *(table[name].dt.epoch("us").alias(f"{name}_us") for name in ("start", "end")),
            *(_addresses(table[name]) for name in ("src_ip", "dst_ip")),
            *(pl.select(pl.when(counts).then(table[name].cast(pl.Int32)).alias(name)).to_series() for name in _PORTS),
            numbers,
            *(table[name] for name in more),
        ]
    )


_NO_PAIRS = pl.DataFrame(schema={"flow": pl.UInt32, "row": pl.UInt32, "overlap_us": pl.Int64})


def _overlapping(flows: pl.DataFrame, truth: pl.DataFrame, slack_us: int) -> pl.DataFrame:
    """Return flows and the rows that fit them; overlap is negative within the slack.

    Rows are joined by what they name: rows that leave the same columns open go together, in both directions.
    """
    found = [_NO_PAIRS]
    for _, rows in truth.group_by([pl.col(name).is_null().alias(f"no_{name}") for name in _TUPLE], maintain_order=True):
        named = [name for name in _TUPLE if rows[name].null_count() == 0]
        for right in (named, [_SWAPPED.get(name, name) for name in named]):
            found.append(_fitting(flows, rows, named, right, slack_us))
    return pl.concat(found).unique(["flow", "row"], maintain_order=True)


def _fitting(
    flows: pl.DataFrame, rows: pl.DataFrame, named: list[str], of_flow: list[str], slack_us: int
) -> pl.DataFrame:
    theirs = rows.select("row", *named, since="start_us", until="end_us")
    pairs = (
        flows.join(theirs, left_on=of_flow, right_on=named, how="inner") if named else flows.join(theirs, how="cross")
    )
    overlap = pl.min_horizontal("end_us", "until") - pl.max_horizontal("start_us", "since")
    return pairs.select("flow", "row", overlap_us=overlap).filter(pl.col("overlap_us") >= -slack_us)


def _tell(
    join: LabelJoin | None, flows: pl.DataFrame, pairs: pl.DataFrame, truth: pl.DataFrame, labelled: pl.DataFrame
) -> None:
    without = flows.filter(labelled["label"].is_null())
    known = pl.concat([truth.select("src_ip", "dst_ip"), truth.select(src_ip="dst_ip", dst_ip="src_ip")]).unique()
    strangers = without.join(known, on=["src_ip", "dst_ip"], how="anti").height
    if join is None:
        if without.height:
            raise LabelError(
                f"every flow must have a label, however: {without.height:,} of {flows.height:,} fit no row; "
                "count them (join=), or say what they are (otherwise=)"
            )
        return
    join.flows, join.rows = flows.height, truth.height
    join.unused = truth.height - pairs["row"].n_unique()
    of_rows = pairs.join(truth.select("row", "label"), on="row").group_by("flow").agg(pl.col("label").n_unique())
    join.contested = of_rows.filter(pl.col("label") > 1).height
    join.labels = Counter(labelled["label"].drop_nulls().to_list())
    reasons = {"no such pair of addresses": strangers, "other ports or times": without.height - strangers}
    join.unmatched = Counter({reason: count for reason, count in reasons.items() if count})
