from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from deepidea.errors import DataError, StoreError
from deepidea.store import access as store_access
from deepidea.store.access import MOST_NAME, PREFIX, ROLES, digest
from deepidea.store.tables import SESSIONS, TOKENS, VERSION
from tests.detection.making import sweep
from tests.stores import Store


def test_a_token_is_found_by_its_secret_alone(store: Store) -> None:
    made = {role: store.add_token(role, role) for role in ROLES}
    for role, (token, secret) in made.items():
        found = store.find_token(secret)
        assert found is not None
        assert (found.token_id, found.role) == (token.token_id, role)
        assert secret.startswith(PREFIX)
        assert len(secret) == len(PREFIX) + 43  # 256 bits in base64
    for wrong in ("", "dit_", made["admin"][1][:-1], digest(made["admin"][1]), made["admin"][0].token_id):
        assert store.find_token(wrong) is None


def test_no_secret_is_kept(sqlite_store: Store) -> None:
    token, secret = sqlite_store.add_token("ann", "admin")
    cookie = sqlite_store.open_session(token)[1]
    with sqlite_store.read() as connection:
        rows = [str(row) for table in (TOKENS, SESSIONS) for row in connection.execute(sa.select(table)).all()]
    assert len(rows) == 2
    assert not any(secret[4:] in row or cookie in row for row in rows)


def test_a_revoked_token_and_its_sessions_are_gone_for_good(store: Store) -> None:
    (ann, secret), (_, other) = store.add_token("ann", "analyst"), store.add_token("bob", "viewer")
    cookie = store.open_session(ann)[1]
    store.revoke_token(ann.token_id)
    assert store.find_token(secret) is store.find_session(cookie) is None
    assert store.find_token(other) is not None
    assert store.has_tokens()
    with pytest.raises(DataError, match=ann.token_id):
        store.revoke_token(ann.token_id)
    assert store.add_token("ann", "viewer")[0].token_id != ann.token_id  # a name is free again


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Put the clock of tokens and sessions forward."""
    passed_us = 0

    def move(seconds: float) -> None:
        nonlocal passed_us
        passed_us += round(1e6 * seconds)

    real = store_access._now
    monkeypatch.setattr(store_access, "_now", lambda: real() + passed_us)
    return move


def test_a_token_ends_when_it_was_set_to(store: Store, later: Callable[[float], None]) -> None:
    soon = datetime.now(UTC) + timedelta(minutes=4)
    token, secret = store.add_token("ann", "viewer", expires=soon)
    cookie = store.open_session(token)[1]
    assert store.find_token(secret) is not None
    later(5 * 60)
    assert store.find_token(secret) is store.find_session(cookie) is None
    with pytest.raises(DataError, match="must end in the future"):
        store.add_token("bob", "viewer", expires=soon)


def test_a_session_ends_when_it_is_idle_and_in_any_case(store: Store, later: Callable[[float], None]) -> None:
    token = store.add_token("ann", "viewer")[0]
    idle, used, old = (store.open_session(token, lasts_s=6000, idle_s=500)[1] for _ in range(3))
    for _ in range(4):
        later(200)
        assert store.find_session(used, lasts_s=6000, idle_s=500) is not None
    assert store.find_session(idle, lasts_s=6000, idle_s=500) is None
    assert store.find_session(old, lasts_s=500, idle_s=6000) is None
    assert store.find_session(used, lasts_s=500, idle_s=6000) is None


def test_requests_write_the_end_of_a_session_seldom(sqlite_store: Store) -> None:
    cookie = sqlite_store.open_session(sqlite_store.add_token("ann", "viewer")[0])[1]
    before = sqlite_store.find_session(cookie)
    assert before is not None
    with sqlite_store.read() as connection:
        kept = connection.execute(sa.select(SESSIONS.c.expires_us)).scalar_one()
    assert sqlite_store.find_session(cookie) is not None
    with sqlite_store.read() as connection:
        assert connection.execute(sa.select(SESSIONS.c.expires_us)).scalar_one() == kept


@pytest.mark.parametrize("name", ["", "  ", "a" * (MOST_NAME + 1), "a\nb", "\x1b[31m"])
def test_names_of_tokens_can_be_printed(sqlite_store: Store, name: str) -> None:
    with pytest.raises(DataError, match="printable characters"):
        sqlite_store.add_token(name, "viewer")
    assert not sqlite_store.has_tokens()


def test_the_audit_log_is_read_page_by_page_the_newest_first(store: Store) -> None:
    for k in range(25):
        store.audit("ann", "judge", f"incident {k}", detail={"k": k}, address="192.0.2.7")
    pages, after = [], None
    for _ in range(3):
        entries, after = store.audit_log(limit=10, after=after)
        pages.append([entry.detail["k"] for entry in entries])
    assert pages == [[*range(24, 14, -1)], [*range(14, 4, -1)], [*range(4, -1, -1)]]
    assert after is None


@given(subject=st.text(max_size=50), value=st.text(max_size=9000))
def test_whatever_was_done_can_be_written_down(subject: str, value: str) -> None:
    import tempfile

    from tests.stores import open_store

    with tempfile.TemporaryDirectory() as folder, open_store(f"sqlite:///{folder}/a.db") as store:
        told = subject.encode("utf-8", "replace").decode()
        store.audit("ann", "judge", told, detail={"note": value})
        (entry,) = store.audit_log()[0]
    assert entry.subject == told.replace("\0", "\ufffd")  # which PostgreSQL's text cannot hold
    assert entry.detail in ({"note": value}, {"too_long": entry.detail.get("too_long")})


def test_open_incidents_are_counted_by_severity(store: Store) -> None:
    assert store.open_incidents() == {}
    store.commit_batch("eth0", None, sweep(30), n_flows=30)
    rows = store.incidents().rows
    assert store.open_incidents() == dict(rows.group_by("severity").len().iter_rows())
    store.set_incident_state(rows["incident_id"][0], "closed")
    assert sum(store.open_incidents().values()) == rows.height - 1


def test_a_store_that_another_release_changed_meanwhile_is_found_out(store: Store) -> None:
    store.check()
    with store.write() as connection:
        connection.execute(VERSION.update().values(version_num="0099"))
    with pytest.raises(StoreError, match="0099"):
        store.check()
