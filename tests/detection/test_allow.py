"""Allow rules: what they apply to, and how they are read."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepidea.detection.allow import read_rules
from deepidea.errors import DataError
from deepidea.store.allow_rules import AllowRule, suppress
from tests.detection.making import NOON, alerts_of, findings_of


def suppressed(alerts: pl.DataFrame, *rules: AllowRule) -> list[bool]:
    return suppress(alerts, rules, now=NOON)["suppressed_by"].is_not_null().to_list()


ADDRESS = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
BLOCK = st.tuples(ADDRESS, st.integers(0, 128)).map(
    lambda pair: ipaddress.ip_network(f"{pair[0]}/{min(pair[1], pair[0].max_prefixlen)}", strict=False)
)


@given(st.lists(ADDRESS, min_size=1, max_size=20), BLOCK)
def test_a_block_holds_what_ipaddress_says_that_it_holds(addresses: list[Any], block: Any) -> None:
    addresses = [*addresses, block[0], block[-1]]
    alerts = alerts_of([{"src_ip": str(address)} for address in addresses])
    mapped = [getattr(address, "ipv4_mapped", None) for address in addresses]
    expected = [a in block or (m is not None and m in block) for a, m in zip(addresses, mapped, strict=True)]
    if not (block.version == 6 and block.prefixlen < 96 + 32 and ipaddress.ip_address("::ffff:0:0") in block):
        assert suppressed(alerts, AllowRule(src=str(block))) == expected


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"src": "192.0.2.0/24"}, [True, False, True, False]),
        ({"dst": "192.0.2.0/24"}, [False, True, False, False]),
        ({"host": "192.0.2.7"}, [True, True, True, False]),
        ({"host": "192.0.2.7", "peer": "198.51.100.0/24"}, [True, True, False, False]),
        ({"peer": "192.0.2.7", "host": "198.51.100.0/24"}, [True, True, False, False]),
        ({"port": "22"}, [True, False, True, False]),
        ({"port": "50-80"}, [False, True, False, True]),
        ({"class_name": "dos"}, [False, False, True, False]),
        ({"src": "192.0.2.7", "class_name": "dos"}, [False, False, True, False]),
    ],
    ids=str,
)
def test_all_criteria_of_a_rule_must_apply(rule: dict[str, str], expected: list[bool]) -> None:
    rows: list[dict[str, Any]] = [
        {"src_ip": "192.0.2.7", "dst_ip": "198.51.100.1", "dst_port": 22},
        {"src_ip": "198.51.100.1", "dst_ip": "192.0.2.7", "dst_port": 80},
        {"src_ip": "192.0.2.7", "dst_ip": "203.0.113.1", "dst_port": 22, "class": "dos"},
        {"src_ip": None, "dst_ip": "no address", "dst_port": 53},
    ]
    assert suppressed(alerts_of(rows), AllowRule(**rule)) == expected


@pytest.mark.parametrize(
    ("rule", "expected"),
    [({"src": "192.0.2.7"}, True), ({"dst": "198.51.100.1", "class_name": "port_scan"}, True), ({"port": "80"}, False)],
    ids=str,
)
def test_a_rule_applies_to_a_finding_by_the_flow_that_completed_it(rule: dict[str, str], expected: bool) -> None:
    assert suppressed(findings_of([{"role": "target"}]), AllowRule(**rule)) == [expected]


def test_a_rule_that_has_ended_does_not_count() -> None:
    rule = AllowRule(port="22", expires=NOON)
    assert suppressed(alerts_of([{}]), rule) == [False]
    assert suppress(alerts_of([{}]), [rule], now=NOON - timedelta(seconds=1))["suppressed_by"].item() == rule.rule_id


def test_of_several_rules_the_least_id_is_named_whatever_their_order() -> None:
    rules = [AllowRule(port="22"), AllowRule(src="192.0.2.7"), AllowRule(class_name="port_scan")]
    named = {suppress(alerts_of([{}]), order, now=NOON)["suppressed_by"].item() for order in (rules, rules[::-1])}
    assert named == {min(rule.rule_id for rule in rules)}


def test_toml_and_csv_say_the_same(tmp_path: Path) -> None:
    toml, table = tmp_path / "allow.toml", tmp_path / "allow.csv"
    toml.write_text(
        '[[allow]]\nsrc = "10.0.0.0/8"\nport = 443\nnote = "ours"\n[[allow]]\nclass = "dos"\nexpires = 2027-01-01\n'
    )
    table.write_text("src,port,class,expires,note\n10.0.0.0/8,443,,,ours\n,,dos,2027-01-01T00:00:00Z,\n")
    one, other = read_rules(toml), read_rules(table)
    assert [rule.criteria for rule in one] == [rule.criteria for rule in other]
    assert [rule.expires for rule in one] == [rule.expires for rule in other]
    assert {rule.origin for rule in one} == {str(toml)}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("src\n10.0.0.300\n", r"src must be an address or a CIDR block.*allow\.csv rule 1"),
        ("port\n22\n70000\n", "port must be in 0..65535.*rule 2"),
        ("port\n9-1\n", "the lower first"),
        ("host,noet\n10.0.0.1,x\n", "noet"),
        ("note\nfor nothing\n", "at least one of src, dst"),
        ("peer\n10.0.0.1\n", "needs host"),
        ("class,expires\ndos,soon\n", "got 'soon'"),
        ("class\ndos,extra\n", "more cells than the header"),
    ],
)
def test_a_rule_that_cannot_be_read_is_named(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "allow.csv").write_text(text)
    with pytest.raises(DataError, match=told):
        read_rules(tmp_path / "allow.csv")


def test_a_file_that_is_no_list_of_rules_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("allow = 3")
    with pytest.raises(DataError, match=r"\[\[allow\]\] tables"):
        read_rules(tmp_path / "a.toml")
    with pytest.raises(DataError, match="TOML or CSV"):
        read_rules(tmp_path / "absent.toml")
