"""A schema for a user's own table: which columns may be features, and which are refused because they leak the label.

Addresses, times, row numbers, names of the capture and columns that determine the label let a model learn who attacked
in one capture instead of what attacks look like. They are refused by name and by content.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

import polars as pl

from deepidea.errors import LeakError, SchemaError
from deepidea.flows.column import Column, Kind, column_key, names_protocol
from deepidea.flows.schema import Schema, suggest

_SIDE = "(src|dst|source|destination|dest|orig|resp|client|server|id_orig|id_resp|local|remote|attacker|victim)"
_NAMES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (reason, re.compile(f"^({pattern})$"))
    for reason, *patterns in (
        (
            "a row number or identifier",
            r"|id|uid|uuid|guid|index|idx|row|row_(id|number|no)|no|seq|unnamed.*|level_0|.*_id",
        ),
        (
            "an address",
            rf"ip|mac|{_SIDE}_?(ip|mac|addr|address|host|h|ip_?addr|ip_?address)|[sd]addr|(ipv4|ipv6)_.*addr",
            rf"ip_{_SIDE}|mac_{_SIDE}|{_SIDE}|hostname|host",
        ),
        ("a source port", r"(src|source|orig|id_orig|client|local)_?(p|port)|sport|l4_src_port|spt"),
        (
            "a time of capture",
            r"ts|time|timestamp|date|datetime|day|hour|weekday|stime|ltime|frame_time.*|flow_start.*",
            r"(start|end|first|last|begin)(_?(time|seen|timestamp|date|ms|us|s|switched))?",
        ),
        (
            "a name of the capture",
            r"file|filename|file_name|pcap|capture|source_file|scenario|session|split|fold|subset|set",
        ),
        (
            "another label",
            r"label|class|classes|target|y|ground_truth|attack|attack_?(cat|type|name|class|label|category)",
            r"(sub_?)?(category|label)|(is_)?(anomaly|malicious|attack|intrusion|benign)|detailed_label|threat",
            r"difficulty(_level)?|attempted_category|traffic_(type|category)|malware(_family)?",
        ),
    )
    for pattern in patterns
)
_DST_PORT = re.compile(r"^((dst|dest|destination|resp|id_resp|server|remote)_?(p|port)|dport|dsport|l4_dst_port|dpt)$")

_ADDRESS = r"^(\d{1,3}(\.\d{1,3}){3}|([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}|[0-9a-fA-F]{0,4}(:[0-9a-fA-F]{0,4}){2,7})$"
_CLOCK = r"^\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T]+\d{1,2}:\d{2}.*)?$"
_CAPTURE = r"(?i)\.(pcap|pcapng|csv|gz|binetflow|parquet)(_iscx)?$|^(mon|tues|wednes|thurs|fri|satur|sun)day"

DETERMINES_LABEL = "it determines the label: each value occurs with one label"
"""Reason for which `infer_schema` refuses a column that is the label in other words."""

_ENOUGH_ROWS = 20  # fewer rows are no evidence of uniqueness or order
_NEARLY_ALL = 0.99  # a column leaks the label although a few of its cells are odd
_MOST_CODES = 1000  # distinct values that a column of label codes may have
_NEAR_UNIQUE = 0.5  # distinct words per row
_SAMPLE_ROWS = 10_000
CELLS_A_WORD = 10  # at least: a column of fewer words is one of numbers with faults
_EPOCH_S = (8.6e8, 2.6e9)  # 1997 to 2052
_KINDS: dict[str, Kind] = {"bool": "flag", "word": "category", "number": "number"}


def infer_schema(table: pl.DataFrame, *, label: str, keep: Collection[str] = ()) -> tuple[Schema, dict[str, str]]:
    """Infer a schema for a table of any origin; return it, and why the other columns are refused.

    Numbers become numbers, booleans flags, text and protocol numbers categories. Refused are identifiers, addresses,
    source ports, times, row numbers, near-unique text, names of the capture, and columns that determine the label. The
    destination port becomes a column of kind ``port``, a feature only if `keep` names it. Constant columns stay.

    Parameters
    ----------
    table
        Flows with their label.
    label
        Name of the label column.
    keep
        Columns that must be features.

    Returns
    -------
    tuple
        The schema, named ``custom``, and ``{refused column: reason}``.

    Raises
    ------
    SchemaError
        The label or a column to keep is absent, or no column is left.
    LeakError
        A column to keep would leak the label.

    Examples
    --------
    >>> table = pl.DataFrame({"src_ip": ["a", "b"], "bytes": [1.5, 2.5], "dst_port": [80, 80], "y": ["ok", "bad"]})
    >>> schema, refused = infer_schema(table, label="y")
    >>> schema.features, refused
    (('bytes',), {'src_ip': 'an address, by its name'})
    """
    _refuse_absent(table, [label, *keep])
    if label in keep:
        raise LeakError(f"column {label!r} is the label and cannot be a feature; leave it out of keep")
    reasons = {name: _reason(table[name], table[label]) for name in table.columns if name != label}
    refused = {name: reason for name, reason in reasons.items() if reason is not None}
    _refuse_leaks(refused, keep)
    columns = tuple(_column(table[name]) for name, reason in reasons.items() if reason is None)
    schema = Schema("custom", columns, use_port=any(c.kind == "port" and c.name in keep for c in columns))
    if not schema.features:
        raise SchemaError(f"no column can be a feature; all are refused: {refused}")
    return schema, refused


def words_among_numbers(column: pl.Series) -> pl.Series | None:
    """Return which cells of a text column are words where nearly all are numbers, Boolean; None where they are not.

    Examples
    --------
    >>> words_among_numbers(pl.Series(["many", *"1234567890"])).arg_true().to_list()
    [0]
    >>> words_among_numbers(pl.Series(["many", "1"])) is None
    True
    """
    text = column.str.strip_chars().replace("", None)
    words = text.is_not_null() & text.cast(pl.Float64, strict=False).is_null()
    return words if 0 < CELLS_A_WORD * words.sum() <= text.count() else None


def _refuse_absent(table: pl.DataFrame, names: Collection[str]) -> None:
    absent = [name for name in names if name not in table.columns]
    if absent:
        near = suggest(absent[0], table.columns)
        raise SchemaError(f"the table has no column {absent[0]!r}{near}")


def _refuse_leaks(refused: dict[str, str], keep: Collection[str]) -> None:
    leaks = [f"{name} ({refused[name]})" for name in keep if name in refused]
    if leaks:
        raise LeakError(f"columns to keep would leak the label: {', '.join(leaks)}; leave them out of keep")


def _column(values: pl.Series) -> Column:
    if _DST_PORT.match(column_key(values.name)) and values.dtype.is_numeric():
        return Column(values.name, "port")
    if names_protocol(values.name):
        return Column(values.name, "category")
    return Column(values.name, _KINDS[_shape(values.dtype)])


def _shape(dtype: pl.DataType) -> str:
    """Return ``bool``, ``word``, ``number``, ``time`` or ``other``."""
    if dtype == pl.Boolean:
        return "bool"
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return "word"
    if dtype.is_numeric() or dtype == pl.Null:
        return "number"
    return "time" if dtype.is_temporal() else "other"


def _reason(values: pl.Series, labels: pl.Series) -> str | None:
    """Return why a column must not be a feature, or None."""
    by_name = next((reason for reason, names in _NAMES if names.match(column_key(values.name))), None)
    if by_name is not None:
        return f"{by_name}, by its name"
    by_content = _CONTENT[_shape(values.dtype)](values)
    if by_content is not None:
        return by_content
    return DETERMINES_LABEL if _determines(values, labels) else None


def _reason_of_word(values: pl.Series) -> str | None:
    words = values.cast(pl.String).drop_nulls().head(_SAMPLE_ROWS).str.strip_chars()
    # More than half: a few odd words do not make addresses harmless.
    for reason, pattern in (("addresses", _ADDRESS), ("times", _CLOCK), ("names of captures", _CAPTURE)):
        if len(words) and _share(words.str.contains(pattern)) > 0.5:
            return f"its values are {reason}"
    many = len(values) >= _ENOUGH_ROWS and values.n_unique() > _NEAR_UNIQUE * len(values)
    return "near-unique text: it identifies rows" if many else None


def _share(true: pl.Series) -> float:
    return float(true.sum()) / len(true)


def _reason_of_number(values: pl.Series) -> str | None:
    present = values.drop_nulls()
    if len(present) < _ENOUGH_ROWS or present.n_unique() <= _NEAR_UNIQUE * len(present):
        return None
    # Whole numbers without gap or repetition: a counter, in whatever order the rows were shuffled.
    if values.dtype.is_integer() and _numbers_rows(present):
        return "it numbers the rows"
    return "its values are times of day and year" if _is_epoch(present.cast(pl.Float64)) else None


def _numbers_rows(values: pl.Series) -> bool:
    """Whether the values are one run of whole numbers, in any order."""
    # Int128: the difference of the extremes of 64 bits does not fit into 64.
    low, high = values.cast(pl.Int128).min(), values.cast(pl.Int128).max()
    assert isinstance(low, int)  # not empty, no nulls
    assert isinstance(high, int)
    return high - low + 1 == len(values) == values.n_unique()


def _is_epoch(values: pl.Series) -> bool:
    """Whether nearly all values are seconds, ms, us or ns since 1970 of the years 1997 to 2052."""
    shares = (_share(values.is_between(_EPOCH_S[0] * unit, _EPOCH_S[1] * unit)) for unit in (1, 1e3, 1e6, 1e9))
    return max(shares) >= _NEARLY_ALL


def _determines(values: pl.Series, labels: pl.Series) -> bool:
    """Whether values and labels are one to one, but for a few odd cells; no evidence where no label occurs twice."""
    n_labels = labels.n_unique()
    if not 2 <= n_labels < len(labels) or values.n_unique() > _MOST_CODES:
        return False
    # each label's main value must have that label as its main one, both with nearly all of their rows
    pairs = pl.DataFrame({"value": values.cast(pl.String), "label": labels}).group_by("value", "label").len("rows")
    of_label = _main_partner(pairs, "label", "value")
    of_value = _main_partner(pairs, "value", "label").filter(pl.col("value").is_in(of_label["value"].implode()))
    both_ways = of_label.join(of_value, on=["label", "value"], nulls_equal=True)
    return both_ways.height == n_labels and bool(
        both_ways.select(pl.min_horizontal("share", "share_right").min() >= _NEARLY_ALL).item()
    )


def _main_partner(pairs: pl.DataFrame, of: str, partner: str) -> pl.DataFrame:
    """Return for each ``of`` the partner it occurs with most often, and in what share of its rows."""
    shares = pairs.with_columns(share=pl.col("rows") / pl.col("rows").sum().over(of)).drop("rows")
    # The partner breaks ties, or the order of rows would decide which columns are refused.
    return shares.sort("share", partner, descending=[True, False]).unique(of, keep="first", maintain_order=True)


_CONTENT: dict[str, Callable[[pl.Series], str | None]] = {
    "bool": lambda _: None,
    "word": _reason_of_word,
    "number": _reason_of_number,
    "time": lambda _: "its values are times",
    "other": lambda values: f"its type, {values.dtype}, cannot be a feature's",
}
