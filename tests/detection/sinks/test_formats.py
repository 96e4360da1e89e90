"""Formats: each alert against the published schema of its format."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepidea.detection.sinks.formats.rendering import FORMATS, render
from deepidea.errors import DataError
from tests.detection.making import FINDING, OF_FINDING, alerts_of, findings_of, sweep

SCHEMAS = Path(__file__).parents[2] / "data" / "schemas"


def checker(name: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    formats = jsonschema.Draft202012Validator.FORMAT_CHECKER
    return jsonschema.Draft202012Validator(schema, format_checker=formats)


CHECKERS = {name: checker(name) for name in FORMATS}


def read_cef(line: str) -> dict[str, Any]:
    """Read a line as a receiver does: header by bars, extension by keys, both unescaped."""
    *header, extension = re.split(r"(?<!\\)(?:\\\\)*\|", line, maxsplit=7)
    fields = re.split(r"(?:^| )(\w+)=(?=(?:[^=\\]|\\.)*(?: \w+=|$))", extension)[1:]
    unescaped = {key: re.sub(r"\\(.)", _unescape, text) for key, text in zip(fields[::2], fields[1::2], strict=True)}
    names = ("version", "vendor", "product", "device_version", "signature_id", "name", "severity")
    plain = [re.sub(r"\\([|\\])", r"\1", part) for part in header]
    return {**dict(zip(names, plain, strict=True)), "extension": unescaped}


def _unescape(found: re.Match[str]) -> str:
    return {"n": "\n", "r": "\r"}.get(found[1], found[1])


def read(name: str, line: str) -> dict[str, Any]:
    document: dict[str, Any] = read_cef(line) if name == "cef" else json.loads(line)
    return document


ADDRESS = st.one_of(st.ip_addresses(), st.none()).map(lambda address: None if address is None else str(address))
PORT = st.one_of(st.integers(0, 65_535), st.none())
ROW = st.fixed_dictionaries(
    {
        "src_ip": ADDRESS,
        "dst_ip": ADDRESS,
        "src_port": PORT,
        "dst_port": PORT,
        "protocol": st.sampled_from(["tcp", "udp", "icmp", "58", "sctp", "47", None]),
        "class": st.sampled_from(["port_scan", "DoS Hulk", "a|b=c\\d", "Web Attack – XSS", "x\ny\rz"]),
        "score": st.sampled_from([0.0, 0.5, 0.999999, 1.0]),
    }
)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=60)
@given(row=ROW, known=st.booleans(), unknown=st.sampled_from([True, False, None]))
def test_every_alert_keeps_the_published_schema(name: str, row: dict[str, Any], known: bool, unknown: bool) -> None:
    more = {"fwd_bytes": 100.0, "bwd_bytes": 60.0} if known else {}
    alerts = alerts_of([{**row, **more}]).with_columns(
        unknown=pl.lit(unknown, pl.Boolean), anomaly=pl.lit(0.25 if known else None, pl.Float64), label=pl.lit("=|\\\n")
    )
    (line,) = render(alerts, name)
    assert len(line.splitlines()) == 1 or name != "cef"
    assert "\n" not in line
    CHECKERS[name].validate(read(name, line))


@pytest.mark.parametrize("name", FORMATS)
@given(
    row=ROW,
    sentence=st.sampled_from(["42 ports of 1 host", "a|b=c\\d\n", "x" * 1100, None]),
    direction=st.sampled_from(["inside to outside", "outside to inside", "nowhere", None]),
    margin=st.sampled_from([5.25, None, float("nan"), "much"]),
    technique=st.sampled_from(["T1110.001", "T1046", "T9999", None]),
)
def test_every_finding_keeps_the_published_schema(name: str, row: dict[str, Any], **finding: Any) -> None:
    (line,) = render(findings_of([{**row, **finding}]), name)
    assert "\n" not in line
    CHECKERS[name].validate(read(name, line))


def written(name: str, **finding: Any) -> Any:
    document = read(name, render(findings_of([finding]), name)[0])
    return document["extension"] if name == "cef" else document


def test_eve_names_the_behaviour_its_evidence_and_the_technique() -> None:
    event = written("eve", technique="T1110.001")
    assert event["alert"]["signature"] == "DeepIDEA: port_scan_vertical"
    assert event["alert"]["metadata"]["behaviour"] == ["port_scan_vertical"]
    assert event["alert"]["metadata"]["mitre_technique_id"] == ["T1110"]
    own = event["deepidea"]
    assert (own["sentence"], own["role"]) == (FINDING["sentence"], "source")
    assert own["finding"] == {"title": "Port scan vertical", **OF_FINDING, "technique": "T1110.001"}


def test_ecs_names_the_behaviour_its_evidence_and_the_technique() -> None:
    document = written("ecs", direction="outside to inside")
    assert document["rule"]["name"] == "DeepIDEA: port_scan_vertical"
    assert document["event"]["reason"] == FINDING["sentence"]
    assert document["message"].endswith(FINDING["sentence"])
    assert document["threat"]["technique"] == {"id": ["T1046"], "name": ["Network Service Discovery"]}
    assert document["network"]["direction"] == "inbound"


def test_ocsf_names_the_behaviour_its_evidence_and_the_technique() -> None:
    document = written("ocsf", direction="inside to outside")
    info, (evidence,) = document["finding_info"], document["evidences"]
    assert (info["title"], info["desc"]) == ("DeepIDEA: port_scan_vertical", FINDING["sentence"])
    assert (info["analytic"]["type"], info["analytic"]["uid"]) == ("Behavioral", "port_scan_vertical")
    assert info["attacks"][0]["technique"]["uid"] == "T1046"
    assert evidence["connection_info"]["direction"] == "Outbound"
    assert evidence["data"]["counts"] == OF_FINDING["counts"]


def test_cef_names_the_behaviour_its_evidence_and_the_technique() -> None:
    fields = written("cef", direction="outside to inside")
    assert (fields["cs6"], fields["cs6Label"]) == ("port_scan_vertical", "behaviour")
    assert (fields["reason"], fields["deviceDirection"]) == (FINDING["sentence"], "0")
    assert (fields["cfp3"], fields["cfp3Label"]) == ("5.250000", "margin")
    assert fields["cs5"] == "T1046 Network Service Discovery"


@pytest.mark.parametrize("name", FORMATS)
def test_an_unknown_technique_of_a_finding_is_the_one_of_its_class(name: str) -> None:
    assert "T1046" in render(findings_of([{"technique": "T9999"}]), name)[0]


@pytest.mark.parametrize("name", FORMATS)
def test_the_attack_technique_is_that_of_the_class_and_absent_where_the_class_is_a_guess(name: str) -> None:
    known, guess = (alerts_of([{"class": "port_scan"}]).with_columns(unknown=pl.lit(of)) for of in (False, True))
    assert "T1046" in render(known, name)[0]
    assert "T1046" not in render(guess, name)[0]


def test_every_schema_is_a_schema() -> None:
    assert {path.stem for path in SCHEMAS.glob("*.json")} == set(FORMATS)
    for check in CHECKERS.values():
        jsonschema.Draft202012Validator.check_schema(check.schema)


@pytest.mark.parametrize("name", FORMATS)
def test_a_schema_refuses_what_is_not_of_its_format(name: str) -> None:
    document = read(name, render(sweep(1), name)[0])
    for key in CHECKERS[name].schema["required"]:
        assert not CHECKERS[name].is_valid({k: v for k, v in document.items() if k != key})
    assert not CHECKERS[name].is_valid({**document, "no_such_field": 1})


def test_cef_says_what_it_was_given() -> None:
    odd = alerts_of([{"class": "a|b=c\\d\ne", "src_ip": "2001:db8::1"}])
    document = read_cef(render(odd, "cef")[0])
    assert document["name"] == "DeepIDEA: a|b=c\\d e"
    assert document["extension"]["cat"] == "a|b=c\\d\ne"
    assert document["extension"]["c6a2"] == "2001:db8::1"
    assert document["extension"]["dst"] == "198.51.100.1"


def test_eve_has_suricatas_time_and_type_and_code_of_icmp() -> None:
    (line,) = render(alerts_of([{"protocol": "icmp", "src_port": 8, "dst_port": 0, "at_s": 1.5}]), "eve")
    event = json.loads(line)
    assert event["timestamp"] == "2026-05-04T12:00:01.500000+0000"
    assert (event["icmp_type"], event["icmp_code"], event["proto"]) == (8, 0, "ICMP")
    assert "src_port" not in event


def test_signature_numbers_are_a_sites_own_and_steady() -> None:
    alerts = alerts_of([{"class": name} for name in ("dos", "dos", "botnet")])
    numbers = [json.loads(line)["alert"]["signature_id"] for line in render(alerts, "eve")]
    assert numbers[0] == numbers[1] != numbers[2]
    assert all(1_000_000 <= number < 2_000_000 for number in numbers)


def test_order_and_number_of_lines_are_those_of_the_alerts() -> None:
    lines = render(sweep(50), "eve")
    assert [json.loads(line)["dest_port"] for line in lines] == list(range(1, 51))
    assert render(sweep(0), "ocsf") == []


def test_a_format_that_is_none_is_refused() -> None:
    with pytest.raises(DataError, match="one of eve, ecs, ocsf, cef, got 'leef'"):
        render(sweep(1), "leef")


def test_addresses_that_are_none_are_left_out_where_a_field_takes_addresses() -> None:
    row = alerts_of([{"src_ip": "host.example", "dst_ip": None}])
    assert "src" not in read_cef(render(row, "cef")[0])["extension"]
    assert json.loads(render(row, "ecs")[0])["source"] == {
        "address": "host.example",
        "port": 40_000,
        "packets": 3,
    }
    (evidence,) = json.loads(render(row, "ocsf")[0])["evidences"]
    assert evidence["src_endpoint"] == {"name": "host.example", "port": 40_000}


PAGE = Path(__file__).parents[3] / "docs" / "alerts.md"


def example(name: str) -> str:
    """Return the block of the page that shows an alert in a format."""
    alert = alerts_of([{"fwd_bytes": 180.0, "bwd_bytes": 120.0}])
    return f"```{'text' if name == 'cef' else 'json'}\n{render(alert, name)[0]}\n```"


@pytest.mark.parametrize("name", FORMATS)
def test_the_page_shows_what_is_written(name: str) -> None:
    block = re.search(rf"<!-- example:{name} -->\n(.*?)\n<!-- /example:{name} -->", PAGE.read_text(), re.DOTALL)
    assert block is not None
    assert block[1] == example(name)
