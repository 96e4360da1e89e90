from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated

import httpx
import pytest
from fastapi import APIRouter, Depends

from deepidea.errors import DataError
from deepidea.store.access import ROLES, Role
from deepidea.web.access import Actor, admin, analyst, viewer
from deepidea.web.settings import ServeConfig
from tests.stores import Store
from tests.web.routes import roles_of
from tests.web.running import Served, running

OPEN = {("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/login"), ("POST", "/login"), ("GET", "/static/{name}")}
probe = APIRouter(prefix="/api/probe")
done: list[str] = []


@probe.get("/{name}", dependencies=[Depends(viewer)])
def read(name: str) -> str:
    return name


@probe.post("/{name}")
def judge(name: str, actor: Annotated[Actor, Depends(analyst)]) -> str:
    done.append(actor.name)
    return actor.name


@probe.delete("/{name}")
def remove(name: str, actor: Annotated[Actor, Depends(admin)]) -> str:
    done.append(actor.name)
    return actor.name


@pytest.fixture
def probed(stocked: Store) -> Iterator[Served]:
    done.clear()
    with running(stocked, routers=[probe]) as server:
        yield server


def status(client: httpx.Client, method: str, path: str, **options: object) -> httpx.Response:
    """Ask for a route, whatever it takes, without reading a stream that may have no end."""
    with client.stream(method, re.sub(r"\{[^}]*\}", "1", path), **options) as answer:  # type: ignore[arg-type]
        return answer


# --- every route, those of other modules and of later days included --------------------------------------------------


def test_every_route_declares_who_may_use_it(probed: Served) -> None:
    roles = roles_of(probed.app)
    assert len(roles) >= 10
    assert {route for route, role in roles.items() if role not in ROLES} == OPEN
    assert all(roles[route] is None for route in OPEN)


def test_a_route_that_declares_nothing_is_found_out(stocked: Store) -> None:
    bare = APIRouter()
    bare.add_api_route("/bare", lambda: None)
    nested = APIRouter(prefix="/nested")
    nested.include_router(bare)
    with running(stocked, routers=[nested]) as server:
        server.app.mount("/mounted", lambda *_: None)
        found = [route for route, role in roles_of(server.app).items() if role == "undeclared"]
    assert found == [("GET", "/nested/bare"), ("ANY", "/mounted")]


def test_no_route_answers_whoever_has_no_token(probed: Served) -> None:
    probed.token("viewer")
    with probed.browser() as nobody, httpx.Client(base_url=probed.url, headers={"Authorization": "Bearer no"}) as wrong:
        for (method, path), role in roles_of(probed.app).items():
            for client in (nobody, wrong) if role is not None else ():
                answer = status(client, method, path)
                led_to_login = answer.status_code == 303 and answer.headers["location"].startswith("/login?next=")
                assert answer.status_code == 401 or led_to_login, (method, path)
    assert done == []


def test_every_route_refuses_the_roles_below_its_own_and_no_other(probed: Served) -> None:
    for has in ROLES:
        with probed.program(has) as client:
            for (method, path), role in roles_of(probed.app).items():
                if role is not None and role != "undeclared":
                    refused = status(client, method, path).status_code == 403
                    assert refused == (ROLES.index(has) < ROLES.index(role)), (method, path, has)
    log = probed.store.audit_log()[0]
    assert {
        (entry.actor, entry.subject, entry.detail["needs"]) for entry in log if entry.action == "access.refused"
    } >= {
        ("viewer-0", "/api/probe/1", "analyst"),
        ("analyst-1", "/api/probe/1", "admin"),
    }


def test_no_change_is_made_for_another_sites_page_or_without_the_secret(probed: Served) -> None:
    with probed.browser("admin") as client:
        csrf = {"X-CSRF-Token": probed.csrf(client)}
        wrong: list[dict[str, str]] = [
            {},
            {"X-CSRF-Token": "guess"},
            {"X-CSRF-Token": "ab.cd"},
            {**csrf, "Origin": "https://elsewhere.example"},
            {**csrf, "Origin": "null"},
            {**csrf, "Origin": probed.url.replace("127.0.0.1", "localhost")},
            {**csrf, "Sec-Fetch-Site": "cross-site"},
            {**csrf, "Sec-Fetch-Site": "same-site"},
        ]
        for (method, path), role in roles_of(probed.app).items():
            for headers in wrong if method not in ("GET", "HEAD") and role is not None else ():
                assert status(client, method, path, headers=headers).status_code == 403, (method, path, headers)
        assert done == []
        assert client.post("/api/probe/1", headers=csrf).status_code == 200


def test_a_change_must_tell_where_it_comes_from(probed: Served) -> None:
    with probed.browser("admin") as client:
        csrf = probed.csrf(client)
        for header in ("Origin", "Sec-Fetch-Site"):
            assert client.post("/api/probe/1", headers={"X-CSRF-Token": csrf}).status_code == 200
            del client.headers[header]
        assert client.post("/api/probe/1", headers={"X-CSRF-Token": csrf}).status_code == 403


def test_a_form_carries_the_secret_as_a_field(probed: Served) -> None:
    with probed.browser("admin") as client:
        secret = probed.csrf(client)
        assert client.post("/api/probe/1", data={"csrf": secret}).status_code == 200
        assert client.post("/api/probe/1", files={"csrf": (None, secret)}).status_code == 200
        assert client.post("/api/probe/1", json={"csrf": secret}).status_code == 403


def test_programs_need_no_secret(probed: Served) -> None:
    with probed.program("analyst") as client:
        assert client.post("/api/probe/1", headers={"Origin": "https://elsewhere.example"}).json() == "analyst-0"


# --- sessions --------------------------------------------------------------------------------------------------------


def test_a_login_gives_a_cookie_that_scripts_and_other_sites_do_not_get(served: Served) -> None:
    with served.browser() as client:
        answer = client.post("/login", data={"token": served.token("viewer"), "next": "/hosts?window=7d"})
        cookie = answer.headers["set-cookie"]
        assert (answer.status_code, answer.headers["location"]) == (303, "/hosts?window=7d")
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
        assert "Secure" not in cookie
        assert (
            client.get("/api/v1/me").json().items() >= {"name": "viewer-0", "role": "viewer", "way": "session"}.items()
        )


def test_a_cookie_for_https_is_bound_to_this_host(stocked: Store) -> None:
    with running(stocked, settings=ServeConfig(secure_cookies=True)) as server:
        origin = {"Origin": server.url.replace("http:", "https:")}
        with httpx.Client(base_url=server.url, headers=origin) as client:
            answer = client.post("/login", data={"token": server.token("viewer")})
            assert answer.headers["set-cookie"].startswith("__Host-deepidea=")
            assert "Secure" in answer.headers["set-cookie"].split("; ")
            assert "domain" not in answer.headers["set-cookie"].lower()
            assert answer.headers["strict-transport-security"]
            assert client.post("/login", data={"token": "x"}, headers={"Origin": server.url}).status_code == 403


def test_a_new_login_ends_the_old_session(served: Served) -> None:
    with served.browser("viewer") as client:
        old = client.cookies["deepidea"]
        client.post("/login", data={"token": served.token("analyst")})
        assert client.cookies["deepidea"] != old
        assert served.store.find_session(old) is None


def test_logging_out_ends_the_session(served: Served) -> None:
    with served.browser("viewer") as client:
        old = client.cookies["deepidea"]
        answer = client.post("/logout", data={"csrf": served.csrf(client)})
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")
        assert served.store.find_session(old) is None
        assert client.get("/").status_code == 303


def test_revoking_a_token_ends_its_sessions_at_once(served: Served) -> None:
    with served.browser("viewer") as client, served.program("viewer") as program:
        assert (client.get("/").status_code, program.get("/").status_code) == (200, 200)
        for token in served.store.tokens():
            served.store.revoke_token(token.token_id)
        assert (client.get("/").status_code, program.get("/api/v1/me").status_code) == (303, 401)


def test_a_token_that_has_ended_opens_nothing(served: Served) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    headers = {"Authorization": f"Bearer {served.token('viewer', expires=soon)}"}
    while datetime.now(UTC) < soon:
        assert httpx.get(f"{served.url}/api/v1/me", headers=headers).status_code in (200, 401)
    assert httpx.get(f"{served.url}/api/v1/me", headers=headers).status_code == 401


def test_a_link_from_another_site_leads_in_by_asking_once_more(served: Served) -> None:
    served.token("viewer")
    link = {"Sec-Fetch-Site": "cross-site"}
    answer = httpx.get(f"{served.url}/?window=%3Cb%3E%22", headers=link)
    assert '<meta http-equiv="refresh" content="0;url=/?window=%3Cb%3E%22">' in answer.text
    assert httpx.get(f"{served.url}/", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 303


@pytest.mark.parametrize(
    "target", ["https://elsewhere.example", "//elsewhere.example", "/\\elsewhere", "/" + "a" * 1999 + "b"]
)
def test_a_login_leads_to_no_other_site(served: Served, target: str) -> None:
    with served.browser() as client:
        answer = client.post("/login", data={"token": served.token("viewer"), "next": target[:2000]})
        assert answer.headers["location"].startswith("/")
        assert "elsewhere" not in answer.headers["location"]


def test_logins_that_fail_too_often_have_to_wait(served: Served) -> None:
    secret = served.token("viewer")
    with served.browser() as client:
        codes = [client.post("/login", data={"token": f"dit_{k}"}).status_code for k in range(11)]
        right = client.post("/login", data={"token": secret})
    assert codes == [401] * 10 + [429]
    assert right.status_code == 429
    assert 0 < int(right.headers["retry-after"]) <= 301
    assert [entry.action for entry in served.store.audit_log()[0]] == ["login.refused"] * 10


def test_logins_that_succeed_do_not_count(served: Served) -> None:
    secret = served.token("viewer")
    with served.browser() as client:
        assert {client.post("/login", data={"token": secret}).status_code for _ in range(12)} == {303}


def test_tokens_that_are_refused_fill_no_log(served: Served) -> None:
    served.token("viewer")
    with httpx.Client(base_url=served.url, headers={"Authorization": "Bearer dit_wrong"}) as client:
        assert {client.get("/api/v1/me").status_code for _ in range(15)} == {401}
    assert [entry.action for entry in served.store.audit_log()[0]] == ["token.refused"] * 10


# --- before there is a token -----------------------------------------------------------------------------------------


def test_without_a_token_whoever_asks_from_this_machine_is_an_admin(probed: Served) -> None:
    secret = probed.store.local_secret()
    with probed.browser() as client:
        assert client.get("/api/v1/me").json().items() >= {"name": "local", "role": "admin", "way": "local"}.items()
        assert client.delete("/api/probe/1").status_code == 403
        assert client.delete("/api/probe/1", headers={"X-CSRF-Token": secret}).json() == "local"
        probed.token("viewer")
        assert client.get("/api/v1/me").status_code == 401  # at once


def test_when_the_last_token_is_gone_nobody_gets_in(stocked: Store) -> None:
    stocked.revoke_token(stocked.add_token("ann", "admin")[0].token_id)
    with running(stocked) as server:
        assert httpx.get(f"{server.url}/api/v1/me").status_code == 401


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"])
def test_without_a_token_nobody_gets_in_through_a_proxy(shared: Served, header: str) -> None:
    answer = httpx.get(f"{shared.url}/api/v1/me", headers={header: "for=127.0.0.1"})
    assert (answer.status_code, "tokens add" in answer.json()["detail"]) == (403, True)


@pytest.mark.parametrize(
    "host", ["elsewhere.example", "127.0.0.1.elsewhere.example", "0.0.0.0", "", "localhost@elsewhere"]
)
def test_a_name_that_was_bent_to_this_server_gets_no_answer(shared: Served, host: str) -> None:
    answer = httpx.get(f"{shared.url}/api/v1/me", headers={"Host": host})
    assert answer.status_code == 400
    assert answer.headers["content-security-policy"]


def test_a_server_answers_to_the_names_that_it_was_given(stocked: Store) -> None:
    with running(stocked, settings=ServeConfig(host_names=("ids.site.example",))) as server:
        for host in ("IDS.site.example", "localhost:8350", "[::1]:80", "127.0.0.1"):
            assert httpx.get(f"{server.url}/healthz", headers={"Host": host}).status_code == 200


def test_a_host_name_with_a_wildcard_is_refused() -> None:
    with pytest.raises(DataError, match=r"--host-name .*'\*\.example'"):
        ServeConfig(host_names=("ids.example", "*.example"))


def test_roles_are_in_order() -> None:
    may = {role: [Actor("ann", role, "", "token").may(other) for other in ROLES] for role in ROLES}
    wanted: dict[Role, list[bool]] = {"viewer": [True, False, False], "analyst": [True, True, False]}
    assert may == {**wanted, "admin": [True] * 3}
