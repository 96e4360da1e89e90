"""Files of allow rules, TOML or CSV."""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepidea.errors import DataError
from deepidea.store.allow_rules import AllowRule, rule_from

__all__ = ["read_rules"]


def read_rules(path: str | Path) -> list[AllowRule]:
    r"""Return the allow rules of a file, each with the file as its origin.

    Parameters
    ----------
    path
        ``.toml``, with one ``[[allow]]`` table a rule, or ``.csv``, with one line a rule and a header. Names of fields:
        ``src``, ``dst``, ``host``, ``peer``, ``port``, ``class``, ``expires``, ``note``.

    Raises
    ------
    DataError
        The file cannot be read, or holds what is no rule; the file and the rule's number are named.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "allow.csv"
    >>> _ = path.write_text("host,class,expires\n10.0.0.5,port_scan,2027-01-01\n")
    >>> rule, = read_rules(path)
    >>> str(rule), rule.expires.isoformat()
    ('host 10.0.0.5/32, class port_scan', '2027-01-01T00:00:00+00:00')
    """
    path = Path(path)
    rules: dict[str, AllowRule] = {}
    for number, entry in enumerate(_entries(path), start=1):
        try:
            rule = replace(rule_from(entry), origin=str(path))
        except DataError as error:
            raise DataError(f"{error} ({path} rule {number})") from error
        rules[rule.rule_id] = rule
    return list(rules.values())


def _entries(path: Path) -> Sequence[Mapping[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            return list(csv.DictReader(text.splitlines(), restkey="more cells than the header"))
        document = tomllib.loads(text)
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"cannot read allow rules of {path}: {error}; give TOML or CSV") from error
    entries = document.get("allow", [])
    if set(document) - {"allow"} or not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise DataError(f"cannot read allow rules of {path}: it has more than [[allow]] tables")
    return entries
