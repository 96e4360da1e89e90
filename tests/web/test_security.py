from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import socket
import time
from collections.abc import AsyncIterator
from typing import Annotated

import httpx
import pytest
from fastapi import APIRouter, Form, Request
from fastapi.responses import StreamingResponse

from deepidea.errors import DataError, StoreError
from deepidea.web import security, server
from deepidea.web.access import open_to_all
from deepidea.web.app import static_files
from deepidea.web.security import LoginLimit
from tests.stores import Store
from tests.web.running import Served, running

odd = APIRouter(prefix="/api/odd", dependencies=[open_to_all])
FAULTS = {"fault": RuntimeError("secret"), "store": StoreError("secret"), "data": DataError("a rule, however: a fact")}


@odd.post("/size")
async def size(request: Request) -> int:
    return len(await request.body())


@odd.post("/form")
def form(text: Annotated[str, Form()]) -> int:
    return len(text)


@odd.get("/events")
async def events() -> StreamingResponse:
    async def told() -> AsyncIterator[bytes]:
        while True:
            yield b": still here\n\n"
            await asyncio.sleep(0.05)

    return StreamingResponse(told(), media_type="text/event-stream")


@odd.get("/{name}")
def fail(name: str) -> None:
    raise FAULTS[name]


ROUTERS = [odd]


def ask(shared: Served, head: str, *rest: bytes, pause_s: float = 0.0) -> bytes:
    """Send bytes as they are, and return what comes until the server hangs up."""
    with socket.create_connection(shared.address, timeout=60) as made:
        made.sendall(head.replace("\n", "\r\n").encode())
        with contextlib.suppress(OSError):  # it may have hung up already
            for part in rest:
                time.sleep(pause_s)
                made.sendall(part)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := made.recv(65536):
                answer += part
        return answer


# --- headers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/", "/login", "/none", "/api/v1/none", "/api/odd/fault", "/static/none.js", "/metrics"]
)
def test_every_answer_tells_browsers_to_keep_the_page_to_itself(shared: Served, path: str) -> None:
    told = httpx.get(shared.url + path).headers
    policy = dict(part.partition(" ")[::2] for part in told["content-security-policy"].split("; "))
    assert (policy["default-src"], policy["script-src"], policy["style-src"]) == ("'none'", "'self'", "'self'")
    assert (policy["frame-ancestors"], policy["base-uri"], policy["form-action"]) == ("'none'", "'none'", "'self'")
    assert "unsafe" not in told["content-security-policy"]
    assert (told["x-content-type-options"], told["cache-control"]) == ("nosniff", "no-store")
    assert told["cross-origin-opener-policy"] == told["cross-origin-resource-policy"] == "same-origin"
    assert "server" not in told
    assert "strict-transport-security" not in told


# --- files -----------------------------------------------------------------------------------------------------------


def test_plotlys_script_comes_compressed_and_is_kept(shared: Served) -> None:
    data, tag = static_files()["plotly.min.js"]
    with httpx.Client(base_url=shared.url) as client:
        packed = client.get("/static/plotly.min.js", params={"v": tag})
        plain = client.get("/static/plotly.min.js", headers={"Accept-Encoding": "identity"})
        again = client.get("/static/plotly.min.js", headers={"If-None-Match": packed.headers["etag"]})
    assert packed.content == plain.content == data
    assert int(packed.headers["content-length"]) < len(data) / 3 < int(plain.headers["content-length"])
    assert "immutable" in packed.headers["cache-control"]
    assert "immutable" not in plain.headers["cache-control"]
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "name", ["../app.py", "..%2fapp.py", "%2e%2e/app.py", "..\\app.py", "/etc/passwd", "%00", "a/b.js"]
)
def test_files_are_served_from_one_folder_alone(shared: Served, name: str) -> None:
    answer = ask(shared, f"GET /static/{name} HTTP/1.1\nHost: localhost\nConnection: close\n\n")
    assert answer.split()[1] == b"404"


# --- sizes and times -------------------------------------------------------------------------------------------------


def test_a_body_may_be_a_mebibyte_and_no_byte_more(shared: Served) -> None:
    most = security.MOST_BYTES
    chunks = lambda n: (b"x" * 65536 for _ in range(n // 65536))  # noqa: E731  # without a length told beforehand
    with httpx.Client(base_url=shared.url) as client:
        assert client.post("/api/odd/size", content=b"x" * most).json() == most
        assert client.post("/api/odd/size", content=b"x" * (most + 1)).status_code == 413
        assert client.post("/api/odd/size", content=chunks(most)).json() == most
        too_much = client.post("/api/odd/size", content=chunks(most + 65536))
    assert (too_much.status_code, too_much.json()["title"]) == (413, "Request Entity Too Large")
    assert too_much.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=b"])
def test_a_form_that_is_too_large_is_refused_while_it_comes(shared: Served, kind: str) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="text"; filename="f"\r\n\r\n' if "multi" in kind else b"text="
    parts = (head, *(b"x" * 65536 for _ in range(40)))
    assert (
        httpx.post(f"{shared.url}/api/odd/form", content=iter(parts), headers={"Content-Type": kind}).status_code == 413
    )


def test_a_length_that_is_no_length_is_refused(shared: Served) -> None:
    for told in ("-1", "x", "1, 2", "9" * 30):
        head = f"POST /api/odd/size HTTP/1.1\nHost: localhost\nContent-Length: {told}\nConnection: close\n\n"
        assert ask(shared, head).split()[1] in (b"400", b"413")


def test_only_an_admin_may_send_as_much_as_a_detector(stocked: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "UPLOADS", ("/api/odd/size",))
    with running(stocked, routers=[odd]) as served:
        large = b"x" * (security.MOST_BYTES + 1)
        with served.program("admin") as admin, served.program("analyst") as analyst, served.browser() as nobody:
            codes = [client.post("/api/odd/size", content=large).status_code for client in (admin, analyst, nobody)]
    assert codes == [200, 413, 413]


def test_addresses_and_heads_have_bounds(shared: Served) -> None:
    assert httpx.get(f"{shared.url}/login", params={"next": "/" + "a" * 9000}).status_code == 414
    head = "GET / HTTP/1.1\nHost: localhost\nConnection: close\nX: "
    assert ask(shared, head + "a" * security.MOST_HEAD_BYTES + "\n\n").split()[1] == b"431"
    assert ask(shared, head, *[b"a" * 65536] * 20).split()[1] == b"400"


def test_whoever_sends_a_body_too_slowly_is_reported_so(shared: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "BODY_WITHIN_S", 0.3)
    head = "POST /api/odd/size HTTP/1.1\nHost: localhost\nContent-Length: 100\n\n"
    assert ask(shared, head, *[b"x"] * 8, pause_s=0.1).split()[1] == b"408"


@pytest.mark.parametrize("begun", ["", "GET / HTTP/1.1\nHost: local", "GET /healthz HTTP/1.1\nHost: localhost\n\n"])
def test_whoever_does_not_finish_a_head_is_hung_up_on(
    shared: Served, monkeypatch: pytest.MonkeyPatch, begun: str
) -> None:
    monkeypatch.setattr(server, "HEAD_WITHIN_S", 0.4)
    began = time.monotonic()
    ask(shared, begun, *([b"GET /"] if begun else []), pause_s=0.2)  # until the server hangs up
    assert time.monotonic() - began >= 0.4


def test_a_slow_answer_is_waited_for(shared: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_WITHIN_S", 0.5)
    monkeypatch.setattr(security, "BODY_WITHIN_S", 0.5)
    with httpx.stream("GET", f"{shared.url}/api/odd/events") as stream:
        lines = stream.iter_lines()
        assert sum(bool(next(lines)) for _ in range(40)) == 20


# --- faults ----------------------------------------------------------------------------------------------------------


def test_a_fault_is_reported_by_a_number_that_the_log_has_and_nothing_else(
    shared: Served, caplog: pytest.LogCaptureFixture
) -> None:
    answer = httpx.get(f"{shared.url}/api/odd/fault")
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert "secret" not in answer.text
    (entry,) = [entry for entry in caplog.records if entry.levelno == logging.ERROR]
    assert answer.json()["detail"].split()[2].strip(";") in entry.getMessage()
    assert entry.exc_info is not None


def test_errors_of_the_library_have_their_own_answers(shared: Served) -> None:
    with httpx.Client(base_url=shared.url) as client:
        data, store = client.get("/api/odd/data"), client.get("/api/odd/store")
    assert (data.status_code, data.json()["detail"]) == (422, "a rule, however: a fact")
    assert (store.status_code, "secret" in store.text) == (503, False)


def test_an_answer_is_a_page_for_a_page_and_a_problem_for_the_api(shared: Served) -> None:
    with httpx.Client(base_url=shared.url) as client:
        page, problem, method = client.get("/none"), client.get("/api/none"), client.delete("/login")
    assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert problem.json() == {"type": "about:blank", "title": "Not Found", "status": 404, "detail": "Not Found"}
    assert (method.status_code, method.headers["allow"]) == (405, "GET")


def test_what_is_asked_for_cannot_become_part_of_the_page(shared: Served) -> None:
    for path in ("/%3Cscript%3Ealert(1)%3C/script%3E", "/login?next=%22%3E%3Cscript%3Ealert(1)%3C/script%3E"):
        assert "<script>alert" not in httpx.get(shared.url + path).text


# --- limits of logins ------------------------------------------------------------------------------------------------


def test_attempts_are_limited_by_address_and_in_all_in_bounded_memory() -> None:
    limit = LoginLimit(most=3, within_s=10, most_in_all=50)
    assert sum(limit.attempt("192.0.2.1", now=0.0) == 0.0 for _ in range(9)) == 3
    assert sum(limit.attempt(f"192.0.2.{k}", now=1.0) == 0.0 for k in range(2, 99)) == 47
    assert limit.attempt("192.0.2.1", now=10.0) == 0.0
    limit.MOST_ADDRESSES = 20
    for k in range(1000):
        limit.attempt(f"198.51.100.{k}", now=100.0 + k)
    assert len(limit._of) == 20


def test_pages_are_compressed_where_it_is_worth_it(shared: Served) -> None:
    answer = httpx.get(f"{shared.url}/metrics")
    assert answer.headers["content-encoding"] == "gzip"
    assert len(gzip.compress(answer.content)) < len(answer.content)
