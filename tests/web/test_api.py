"""The REST API: what its document says, it does; whoever may not, cannot; whatever is sent, it does not fail."""

from __future__ import annotations

import itertools
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, given, settings

from deepidea.web import api
from deepidea.web.service import AnalystService
from tests.detection.making import NOON
from tests.stores import open_store
from tests.web.conftest import XSS, Someone, fill
from tests.web.running import running

INJECTED = ["' OR 1=1 --", '"; DROP TABLE alerts; --', "%", "1; SELECT 1", "'"]
ODD_IDS = ["..%2F..%2Fetc%2Fpasswd", "%00", "x" * 3000, "'", "0" * 31, "0" * 33, "A" * 32, "%F0%9F%92%A9"]
ABSENT = {"incidents": "f" * 32, "alerts": "f" * 32, "models": "f" * 16, "hosts": "203.0.113.250"}


@pytest.fixture
def admin(filled, client):
    """A client that may change things."""
    client.headers.update(
        {"X-CSRF-Token": filled.local_secret(), "Origin": str(client.base_url.copy_with(path="/"))[:-1]}
    )
    return client


def pages(client: httpx.Client, path: str, **query: Any) -> list[dict[str, Any]]:
    found, after = [], None
    for _ in itertools.count():
        told = client.get(path, params={**query, "limit": 7, **({"after": after} if after else {})}).json()
        found += told["items"]
        after = told["next"]
        if after is None:
            return found
    raise AssertionError


@pytest.mark.parametrize("path", ["incidents?order=host", "incidents?order=score", "hosts", "alerts?class_name=botnet"])
def test_pages_hold_everything_once(client, path):
    path, _, query = path.partition("?")
    items = pages(client, path, **dict(part.split("=") for part in query.split("&") if part))
    told = [json.dumps(item, sort_keys=True) for item in items]
    assert len(told) == len(set(told)) == (30 if path == "alerts" else 34)


def test_an_incident_is_looked_into_and_closed(admin):
    [row] = admin.get("incidents", params={"class_name": "port_scan"}).json()["items"]
    path = f"incidents/{row['incident_id']}"
    view = admin.get(path).json()
    assert view["incident"] == row
    alert = view["strongest"]["alert_id"]
    assert admin.get(f"alerts/{alert}/eve").json()["event_type"] == "alert"
    assert admin.get(f"alerts/{alert}/why").json()["available"] is False
    assert admin.get(f"alerts/{alert}").json()["incident_id"] == row["incident_id"]
    changed = admin.patch(path, json={"status": "closed", "note": "a printer", "version": row["version"]})
    assert (changed.status_code, changed.json()["status"]) == (200, "closed")
    stale = admin.patch(path, json={"status": "open", "version": row["version"]})
    assert (stale.status_code, stale.headers["Content-Type"]) == (409, api.PROBLEM)
    assert admin.get("audit").json()["items"][0]["action"] == "incident.status"


def test_bulk_is_whole_or_not_at_all(admin):
    ids = [row["incident_id"] for row in admin.get("incidents").json()["items"]]
    refused = admin.post("incidents/status", json={"incident_ids": [*ids, "f" * 32], "status": "closed"})
    assert refused.status_code == 404
    assert admin.get("incidents", params={"status": "open"}).json()["total"] == len(ids)
    done = admin.post("incidents/status", json={"incident_ids": ids, "status": "closed"})
    assert {row["status"] for row in done.json()["items"]} == {"closed"}
    assert admin.get("incidents", params={"status": "open"}).json()["total"] == 0


@pytest.mark.parametrize("format", ["parquet", "csv", "jsonl"])
def test_verdicts_are_given_and_exported(admin, format, tmp_path):
    assert admin.get("verdicts/export").status_code == 422  # nothing has been judged
    [row] = admin.get("incidents", params={"class_name": "brute_force"}).json()["items"]
    said = {"subject": "incident", "subject_id": row["incident_id"], "verdict": "false_positive", "note": XSS}
    assert admin.post("verdicts", json=said).status_code == 201
    assert admin.get("verdicts").json()["items"][0]["note"] == XSS
    answer = admin.get("verdicts/export", params={"format": format, "per_incident": 5})
    path = tmp_path / f"out.{format}"
    path.write_bytes(answer.content)
    read = {"parquet": pl.read_parquet, "csv": pl.read_csv, "jsonl": pl.read_ndjson}[format]
    assert read(path)["label"].to_list() == ["benign"] * 5
    assert not list(Path(path.parent.parent).glob("deepidea-export-*"))


def test_a_rule_is_added_and_removed(admin):
    added = admin.post("rules", json={"src": "192.0.2.7", "class_name": "port_scan", "note": XSS}).json()
    assert (added["n_changed"], added["rule"]["n_alerts"], added["rule"]["note"]) == (300, 300, XSS)
    assert admin.get("alerts", params={"suppressed": "only"}).json()["items"][0]["suppressed_by"]
    path = f"rules/{added['rule']['rule_id']}"
    assert admin.delete(path).json() == {"n_changed": 300}
    assert admin.delete(path).status_code == 404
    assert admin.post("rules", json={"src": "nowhere"}).status_code == 422
    assert admin.post("rules", json={}).status_code == 422


def test_a_file_that_is_no_model_is_refused(admin):
    headers = {"Content-Type": "application/octet-stream"}
    answer = admin.post("models", content=b"PK no model", headers=headers)
    assert (answer.status_code, "detector" in answer.json()["detail"]) == (422, True)


def test_tokens_open_what_their_role_may(filled, client, admin):
    assert admin.post("tokens", json={"name": "v", "role": "viewer"}).status_code == 422  # nobody could make another
    first = admin.post("tokens", json={"name": "a", "role": "admin"}).json()
    assert client.get("me").status_code == 401
    bearer = {"admin": {"Authorization": f"Bearer {first['secret']}"}}
    made = client.post("tokens", json={"name": "v", "role": "viewer"}, headers=bearer["admin"]).json()
    bearer["viewer"] = {"Authorization": f"Bearer {made['secret']}"}
    assert client.get("me", headers=bearer["viewer"]).json()["roles"] == ["viewer"]
    assert client.get("tokens", headers=bearer["viewer"]).status_code == 403
    listed = client.get("tokens", headers=bearer["admin"]).json()["items"]
    assert made["secret"] not in json.dumps(listed)
    path = f"tokens/{made['token']['token_id']}"
    assert client.delete(path, headers=bearer["admin"]).status_code == 204
    assert client.get("me", headers=bearer["viewer"]).status_code == 401


def test_old_alerts_are_deleted(admin):
    purged = admin.post("store/purge", json={"older_than": (NOON + timedelta(days=1)).isoformat()})
    assert purged.json() == {"n_changed": 621}
    assert admin.get("incidents").json()["total"] == 0


@pytest.mark.parametrize("text", INJECTED)
def test_filters_take_sql_for_text(client, text):
    for path in ("incidents", "alerts"):
        for name in ("host", "class_name"):
            answer = client.get(path, params={name: text})
            assert (answer.status_code, answer.json()["items"]) == (200, []), (path, name)
    assert client.get("alerts", params={"source": text}).json()["items"] == []
    assert client.get("verdicts", params={"analyst": text}).json()["items"] == []
    assert client.get(f"hosts/{text.replace('%', '%25')}").status_code == 404
    for path in ("incidents", "hosts", "alerts", "verdicts", "audit"):
        assert client.get(path, params={"after": text}).status_code == 422, path
    assert client.get("incidents").json()["total"] == 34


@pytest.mark.parametrize("odd", ODD_IDS)
def test_odd_ids_are_refused(admin, odd):
    for path in ("incidents/{}", "alerts/{}", "alerts/{}/eve", "alerts/{}/why", "models/{}", "models/{}/file"):
        assert admin.get(path.format(odd)).status_code in (404, 414, 422), path
    assert admin.delete(f"rules/{odd}").status_code in (404, 414, 422)


def test_what_is_absent_is_a_problem_that_says_so(client):
    for kind, name in ABSENT.items():
        answer = client.get(f"{kind}/{name}")
        assert (answer.status_code, answer.headers["Content-Type"]) == (404, api.PROBLEM)
        assert name in answer.json()["detail"]
        assert set(answer.json()) >= {"type", "title", "status", "detail"}


def test_fields_that_nobody_knows_are_refused(admin):
    assert admin.get("incidents", params={"odrer": "host"}).status_code == 422
    assert admin.post("rules", json={"src": "192.0.2.1", "clas": "dos"}).status_code == 422
    assert admin.get("incidents", params={"limit": 100_000}).status_code == 422
    assert admin.get("incidents", params={"since": "0001-01-01T00:00:00+14:00"}).status_code == 422
    odd = admin.post("rules", content=b'{"\\ud800": 1}', headers={"Content-Type": "application/json"})
    assert odd.status_code == 422


def test_a_page_of_another_order_is_refused(client):
    after = client.get("incidents", params={"order": "host", "limit": 1}).json()["next"]
    assert client.get("incidents", params={"order": "score", "after": after}).status_code == 422


# --- the document ----------------------------------------------------------------------------------------------------


def test_every_operation_names_role_tag_and_text(client):
    told = client.get("openapi.json").json()
    operations = [(path, method, one) for path, ways in told["paths"].items() for method, one in ways.items()]
    assert len(operations) == sum(isinstance(one, APIRoute) and one.include_in_schema for one in api.router.routes)
    for path, method, one in operations:
        assert path.startswith(api.PREFIX)
        assert one["x-role"] in ("viewer", "analyst", "admin")
        assert (method == "get") or one["x-role"] != "viewer", path
        assert one["tags"]
        assert one["description"].endswith(".")
        assert set(one["responses"]) >= {"401", "403", "422", "503"}
    names = [one["operationId"] for *_, one in operations]
    assert len(names) == len(set(names))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """Address of a server that tokens guard, and the secret of each role."""
    url = f"sqlite:///{tmp_path_factory.mktemp('api') / 'service.db'}"
    with open_store(url) as store:
        fill(store)
        secrets = {
            role: AnalystService(store).add_token(role, role, actor=Someone()).secret for role in ("admin", "viewer")
        }
        with running(store) as made:
            address = made.url
            yield address, secrets


SCHEMA = schemathesis.openapi.from_dict(api.document(FastAPI()))
OPERATIONS = {found.ok().label: found.ok() for found in SCHEMA.get_all_operations() if "/events" not in found.ok().path}
CHECKS = [
    schemathesis.checks.not_a_server_error,
    schemathesis.checks.status_code_conformance,
    schemathesis.checks.content_type_conformance,
    schemathesis.checks.response_schema_conformance,
]


def asked_of(name):
    """Return whether there is anything that can be sent wrongly: any text is a host."""
    return bool(OPERATIONS[name].body or OPERATIONS[name].query or "_id}" in name)


RIGHT, WRONG = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
WAYS = [(name, RIGHT) for name in OPERATIONS] + [(name, WRONG) for name in OPERATIONS if asked_of(name)]


@pytest.mark.parametrize(("name", "mode"), WAYS)
def test_answers_are_as_the_document_says(name, mode, guarded):
    """As admin and as viewer; no token of theirs is revoked, since nobody guesses an id."""
    address, secrets = guarded

    @settings(max_examples=12, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(case=OPERATIONS[name].as_strategy(generation_mode=mode))
    def ask(case):
        for role in ("viewer", "admin"):
            case.call_and_validate(
                base_url=address, headers={"Authorization": f"Bearer {secrets[role]}"}, checks=CHECKS, timeout=10
            )

    ask()
