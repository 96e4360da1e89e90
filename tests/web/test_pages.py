"""The pages: all render of any store, nothing that comes from outside becomes markup, and all works without scripts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import polars as pl
import pytest

from deepidea.errors import StoreError
from deepidea.web.rendering import static_files
from deepidea.web.service import AnalystService
from tests.detection.making import alerts_of, findings_of, sweep
from tests.stores import Store, open_store
from tests.web.conftest import XSS, Someone, fill
from tests.web.reading import ReadPage, read_page
from tests.web.running import Served, running

PATHS = ("/", "/?window=all", "/incidents", "/hosts", "/model", "/sources", "/rules", "/rules/new", "/audit", "/tokens",
         "/login", "/no-such-page")  # fmt: skip
TAGS = frozenset(
    """a b bdi body button caption circle code datalist dd details dialog div dl dt fieldset footer form h1 h2 h3 head
    header html input kbd label legend li link main meta nav ol option p path pre rect script section select small span
    strong summary svg table tbody td textarea th thead time title tr ul use""".split()  # noqa: SIM905  # reads better
)
ODD = f"{XSS}</script></textarea></option>\u202egpj\x07.exe {{{{7*7}}}}"


def put_odd_things(store: Store) -> None:
    """Put texts from hostile hands wherever a store keeps text."""
    service, ann = AnalystService(store), Someone()
    store.commit_batch(ODD[:90], None, alerts_of([{"at_s": 9.0, "src_ip": ODD, "class": ODD}]), n_flows=1)
    texts = {**dict.fromkeys(("sentence", "key", "direction", "technique"), ODD), "counts": {ODD: 7}}
    store.commit_batch("eth0", None, findings_of([{"behaviour": ODD, "src_ip": "192.0.2.250", **texts}]), n_flows=1)
    for row in service.incidents(limit=50).items:
        service.change_incident(row.incident_id, note=ODD, actor=ann)
        service.add_verdict("incident", row.incident_id, "true_positive", actor=ann, class_name=ODD, note=ODD)
    service.add_rule({"src": "10.9.9.9", "class": ODD, "note": ODD}, actor=ann)
    store.register_sink(ODD)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with open_store(f"sqlite:///{tmp_path_factory.mktemp('empty')}/a.db") as store, running(store) as server:
        yield server


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with open_store(f"sqlite:///{tmp_path_factory.mktemp('odd')}/a.db") as store, running(store) as server:
        fill(store)
        put_odd_things(store)
        yield server


def page_at(server: Served, path: str, client: httpx.Client | None = None) -> ReadPage:
    answer = (client or httpx).get(server.url + path if client is None else path, follow_redirects=True)
    assert answer.status_code == (404 if path == "/no-such-page" else 200), (path, answer.text[:500])
    return read_page(str(answer.url), answer.text)


def crawl(server: Served, start: str = "/") -> dict[str, str]:
    """Return all pages that links lead to, by address; the many of one kind are looked at by the first few."""
    found: dict[str, str] = {}
    kinds: dict[str, int] = {}
    waiting = [server.url + start]
    with httpx.Client(timeout=60) as client:
        while waiting:
            url = waiting.pop()
            parts = url.removeprefix(server.url).partition("?")[0].split("/")
            kind = f"{parts[1]} {len(parts)} {'flow=' in url}"
            if url in found or kinds.get(kind, 0) >= 8:
                continue
            kinds[kind] = kinds.get(kind, 0) + 1
            answer = client.get(url, follow_redirects=True)
            found[url] = answer.text
            assert answer.status_code == 200, (url, answer.text[:300])
            waiting += read_page(url, answer.text).links
    return found


@pytest.fixture(scope="module")
def crawled(odd: Served) -> dict[str, ReadPage]:
    return {url: read_page(url, text) for url, text in crawl(odd).items()}


@pytest.mark.parametrize("path", PATHS)
def test_every_page_of_an_empty_store_says_what_it_is_for(empty: Served, path: str) -> None:
    page = page_at(empty, path)
    assert len(page.all("h1")) == len(page.all("main")) == len(page.all("title")) == 1
    assert page.all("html")[0].attributes["lang"] == "en"


@pytest.mark.parametrize("path", ["/", "/incidents", "/hosts", "/model", "/sources", "/rules", "/tokens"])
def test_an_empty_page_shows_the_command_that_fills_it(empty: Served, path: str) -> None:
    assert any("deepidea " in element.text for element in page_at(empty, path).all("code"))


def test_all_links_lead_somewhere(crawled: dict[str, ReadPage]) -> None:
    kinds = {url.partition("?")[0].split("/")[3] for url in crawled}
    assert kinds >= {"", "incidents", "hosts", "model", "sources", "rules", "audit", "tokens"}
    assert sum("flow=" in url for url in crawled) > 3
    assert sum("/incidents/" in url for url in crawled) > 3


def test_links_of_an_empty_store_lead_somewhere(empty: Served) -> None:
    assert len(crawl(empty)) > 8


def test_no_element_comes_from_outside(crawled: dict[str, ReadPage]) -> None:
    for url, page in crawled.items():
        for element in page.elements:
            assert element.tag in TAGS, (url, element)
            assert not any(name.startswith("on") for name in element.attributes), (url, element)
            assert element.attributes.get("href", "/")[:1] in "/#", (url, element)


def test_scripts_and_styles_stand_in_files(crawled: dict[str, ReadPage]) -> None:
    for url, page in crawled.items():
        assert not page.all("style"), url
        assert not any("style" in element.attributes for element in page.elements), url
        for script in page.all("script"):
            ours = script.attributes.get("src", "").startswith("/static/") and not script.text
            assert ours or script.attributes.get("type") == "application/json", (url, script)


def test_odd_texts_are_shown_as_they_are(odd: Served) -> None:
    text = page_at(odd, "/incidents").text
    assert XSS in text
    assert "{{7*7}}" in text
    assert "U+202E" in text
    assert "\u202e" not in text


def test_every_change_carries_the_secret(crawled: dict[str, ReadPage]) -> None:
    n_forms = 0
    for url, page in crawled.items():
        for form in page.all("form"):
            names = [e.attributes.get("name") for e in page.all("input") if e.within("form") is form]
            method = form.attributes.get("method", "get")
            n_forms += method == "post"
            assert ("csrf" in names) == (method == "post"), (url, form)
    assert n_forms > 20


def test_everything_can_be_named(crawled: dict[str, ReadPage]) -> None:
    for url, page in crawled.items():
        ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
        assert len(ids) == len(set(ids)), (url, sorted(name for name in ids if ids.count(name) > 1))
        labelled = {label.attributes.get("for") for label in page.all("label")}
        for kind in ("input", "select", "textarea"):
            for one in page.all(kind):
                named = "aria-label" in one.attributes or one.attributes.get("id") in labelled or one.within("label")
                assert named or one.attributes.get("type") == "hidden", (url, one)
        for table in page.all("table"):
            assert any(caption.within("table") is table for caption in page.all("caption")), (url, table)
        assert all("scope" in head.attributes for head in page.all("th")), url


def test_a_page_is_light(crawled: dict[str, ReadPage], odd: Served) -> None:
    """All of a first visit but plotly's script, unpacked, under 150 kB."""
    own = sum(len(data) for name, (data, _) in static_files().items() if name != "plotly.min.js")
    texts = {url: httpx.get(url).content for url in list(crawled)[:30]}
    heaviest = max(texts, key=lambda url: len(texts[url]))
    assert own + len(texts[heaviest]) < 150_000, (heaviest, own, len(texts[heaviest]))


def test_plotly_comes_where_plots_are_and_nowhere_else(odd: Served) -> None:
    for path, has_plots in (("/?window=all", True), ("/incidents", False), ("/sources", False), ("/login", False)):
        sources = [script.attributes.get("src", "") for script in page_at(odd, path).all("script")]
        assert any("plotly" in source for source in sources) == has_plots, path


def test_each_plot_has_its_numbers_as_a_table(crawled: dict[str, ReadPage]) -> None:
    for url, page in crawled.items():
        plots = [element for element in page.all("div") if "data-plot" in element.attributes]
        tables = [table for table in page.all("table") if any(_is_in(table, plot) for plot in plots)]
        assert len(plots) == len(tables), url


def _is_in(element: object, around: object) -> bool:
    while element is not None and element is not around:
        element = getattr(element, "parent", None)
    return element is not None


# --- what an analyst does --------------------------------------------------------------------------------------------


@pytest.fixture
def at_work(filled: Store) -> Iterator[tuple[Served, httpx.Client]]:
    """Server over a filled store, and the browser of an analyst."""
    with running(filled) as server, server.browser("analyst") as client:
        yield server, client


def form_of(page: ReadPage, action: str) -> dict[str, str]:
    """Return what a form would send as it stands."""
    posts = [one for one in page.all("form") if one.attributes.get("method") == "post"]
    form = next(one for one in posts if one.attributes["action"] == action)
    inside = [one for one in page.all("input") if one.within("form") is form]
    return {one.attributes["name"]: one.attributes.get("value", "") for one in inside
            if one.attributes.get("type") in (None, "hidden", "text", "date")}  # fmt: skip


def test_filters_stand_in_the_address(at_work: tuple[Served, httpx.Client]) -> None:
    server, client = at_work
    for asked, n in (("severity=1", 30), ("severity=only-2", 3), ("class=DDoS", 1), ("q=192.0.2.9", 1),
                     ("status=closed", 0), ("verdict=none&class=DDoS", 1), ("verdict=unsure", 0)):  # fmt: skip
        rows = [row for row in page_at(server, f"/incidents?{asked}", client).all("tr") if "data-id" in row.attributes]
        assert len(rows) == n, asked
    chosen = [one for one in page_at(server, "/incidents?class=DDoS", client).all("option")
              if "selected" in one.attributes]  # fmt: skip
    assert "DDoS" in [one.attributes["value"] for one in chosen]


def test_lists_go_on_page_by_page(tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path}/a.db") as store, running(store) as server:
        many = [{"at_s": k, "src_ip": f"10.0.{k // 200}.{k % 200}"} for k in range(120)]
        store.commit_batch("eth0", None, alerts_of(many), n_flows=120)
        seen: list[str] = []
        path: str | None = "/incidents?order=host"
        while path is not None:
            page = page_at(server, path)
            seen += [row.attributes["data-id"] for row in page.all("tr") if "data-id" in row.attributes]
            path = next((a.attributes["href"] for a in page.all("a") if a.attributes.get("rel") == "next"), None)
        assert len(seen) == len(set(seen)) == 120


def test_several_incidents_are_acknowledged_at_once(at_work: tuple[Served, httpx.Client]) -> None:
    server, client = at_work
    page = page_at(server, "/incidents?class=botnet", client)
    ids = [row.attributes["data-id"] for row in page.all("tr") if "data-id" in row.attributes][:3]
    sent = {**form_of(page, "/incidents"), "id": ids, "status": "acknowledged"}
    answer = client.post("/incidents", data=sent)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/incidents?class=botnet")
    assert "3 incidents acknowledged" in page_at(server, answer.headers["Location"], client).text
    assert "3 incidents acknowledged" not in page_at(server, "/incidents", client).text  # told once
    assert server.store.count_incidents(status="acknowledged") == 3


def test_what_cannot_be_done_is_reported_on_the_page(at_work: tuple[Served, httpx.Client]) -> None:
    server, client = at_work
    page = page_at(server, "/incidents", client)
    sent = {**form_of(page, "/incidents"), "status": "closed"}
    answer = client.post("/incidents", data=sent, follow_redirects=True)
    assert "tick some first" in read_page(str(answer.url), answer.text).text


def test_an_incident_is_labelled_noted_and_closed(at_work: tuple[Served, httpx.Client]) -> None:
    server, client = at_work
    [row] = AnalystService(server.store).incidents(class_name="brute_force").items
    base = f"/incidents/{row.incident_id}"
    for action, given, told in (
        ("verdict", {"verdict": "true_positive", "class_name": "botnet", "note": "C2 seen"}, "C2 seen"),
        ("note", {"note": "ticket 7"}, "Note saved"),
        ("status", {"status": "closed"}, "Incident closed"),
    ):
        sent = {**form_of(page_at(server, base, client), f"{base}/{action}"), **given}
        answer = client.post(f"{base}/{action}", data=sent, follow_redirects=True)
        assert told in read_page(str(answer.url), answer.text).text
    found = (
        AnalystService(server.store)
        .incidents(class_name="brute_force", verdict="true_positive", status="closed")
        .items[0]
    )
    assert (found.note, found.verdict and found.verdict.class_name) == ("ticket 7", "botnet")


def test_that_a_flow_is_unlike_training_is_a_note_and_no_step(stocked: Store) -> None:
    alerts = sweep(1, src_ip="192.0.2.99").with_columns(unknown=pl.lit(True))
    stocked.commit_batch("eth0", None, alerts, n_flows=1)
    (row,) = AnalystService(stocked).incidents(host="192.0.2.99").items
    with running(stocked) as server:
        page = page_at(server, f"/incidents/{row.incident_id}")
    (text,) = [element for element in page.all("bdi") if element.text.startswith("Unlike anything seen in training")]
    assert text.parent is not None
    assert (text.parent.tag, text.parent.attributes) == ("p", {"class": "note warn"})


def test_a_change_of_what_somebody_else_has_changed_is_refused(at_work: tuple[Served, httpx.Client]) -> None:
    server, client = at_work
    [row] = AnalystService(server.store).incidents(class_name="DDoS").items
    base = f"/incidents/{row.incident_id}"
    sent = {**form_of(page_at(server, base, client), f"{base}/note"), "note": "mine"}
    AnalystService(server.store).change_incident(row.incident_id, note="theirs", actor=Someone())
    answer = client.post(f"{base}/note", data=sent, follow_redirects=True)
    assert "changed by someone else" in read_page(str(answer.url), answer.text).text
    assert AnalystService(server.store).incidents(class_name="DDoS").items[0].note == "theirs"


def test_a_rule_shows_what_it_suppresses_before_it_is_added(at_work: tuple[Served, httpx.Client]) -> None:
    server, client = at_work
    page = page_at(server, "/rules/new?dst=198.51.100.0/24&class=DDoS&note=drill", client)
    assert "Suppresses 250 stored alerts at once" in page.text
    assert not server.store.rules()
    sent = {**form_of(page, "/rules"), "csrf": form_of(page, "/rules")["csrf"]}
    answer = client.post("/rules", data=sent, follow_redirects=True)
    assert "250 stored alerts suppressed" in read_page(str(answer.url), answer.text).text
    [rule] = server.store.rules()
    again = page_at(server, "/rules", client)
    client.post(f"/rules/{rule.rule_id}/remove", data=form_of(again, f"/rules/{rule.rule_id}/remove"))
    assert not server.store.rules()


def test_a_rule_that_cannot_be_read_says_so(at_work: tuple[Served, httpx.Client]) -> None:
    server, client = at_work
    assert "got 'nonsense'" in page_at(server, "/rules/new?src=nonsense", client).text


def test_changes_without_the_secret_are_refused(at_work: tuple[Served, httpx.Client]) -> None:
    _, client = at_work
    for path in ("/incidents", "/rules", "/incidents/0/status", "/incidents/0/verdict", "/incidents/0/note"):
        assert client.post(path, data={"status": "closed", "verdict": "unsure"}).status_code == 403


def test_each_role_sees_what_it_may_do(filled: Store) -> None:
    [row] = AnalystService(filled).incidents(class_name="DDoS").items
    with running(filled) as server:
        for role, n_forms, sees_audit in (("viewer", 1, False), ("analyst", 4, False), ("admin", 4, True)):
            with server.browser(role) as client:
                page = page_at(server, f"/incidents/{row.incident_id}", client)
                posts = [form for form in page.all("form") if form.attributes.get("method") == "post"]
                assert len(posts) == n_forms  # to log out, and to change status, verdict and note
                assert ("Audit log" in page.text) == sees_audit
                assert client.get("/audit").status_code == (200 if sees_audit else 403)


def test_a_token_is_shown_once(stocked: Store) -> None:
    with running(stocked) as server, server.browser("admin") as client:
        sent = {**form_of(page_at(server, "/tokens", client), "/tokens"), "name": "siem", "role": "viewer"}
        page = read_page("", client.post("/tokens", data=sent).text)
        [secret] = [code.text for code in page.all("code") if code.attributes.get("id") == "secret"]
        assert stocked.find_token(secret) is not None
        later = page_at(server, "/tokens", client)
        assert secret not in later.text
        [token] = [one for one in stocked.tokens() if one.name == "siem"]
        client.post(f"/tokens/{token.token_id}/revoke", data=form_of(later, f"/tokens/{token.token_id}/revoke"))
        assert stocked.find_token(secret) is None


def test_an_incident_that_is_no_more_is_not_found(empty: Served) -> None:
    answer = httpx.get(f"{empty.url}/incidents/{'0' * 32}")
    assert answer.status_code == 404
    assert "Page not found" in answer.text


def test_a_store_that_is_away_is_reported(stocked: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise StoreError("the store must answer, however: it does not")

    with running(stocked) as server:
        httpx.get(server.url)
        monkeypatch.setattr(server.app.state.service, "overview", gone)
        answer = httpx.get(server.url)
    assert answer.status_code == 503
    assert "The store is unavailable" in answer.text


def test_a_replay_is_shown_as_old(tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path}/a.db") as store, running(store) as server:
        store.commit_batch("old.pcap", None, sweep(20), n_flows=20)
        assert "Old data" in page_at(server, "/?window=1h").text


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Server over a store with an active model that keeps its evaluation, and another that compares worse."""
    from deepidea.evaluation.evaluate import evaluate_detector
    from deepidea.evaluation.summary import EVALUATION_ENTRY, summarise_evaluation
    from deepidea.flows.labelled import labelled_flows_from_table
    from deepidea.flows.simulate import simulate_flows
    from deepidea.model.presets import train_detector

    folder = tmp_path_factory.mktemp("models")
    flows, _ = labelled_flows_from_table(simulate_flows(n_flows=400), "label", "benign")
    detector = train_detector(flows, random_state=0, min_steps=60)
    kept = detector.with_card(**{EVALUATION_ENTRY: summarise_evaluation(evaluate_detector(detector, flows))})
    with open_store(f"sqlite:///{folder}/a.db") as store, running(store) as server:
        ids = []
        for name, one in (("one.idea", kept), ("two.idea", detector)):
            one.save(folder / name)
            ids.append(store.add_model(folder / name, analyst="ann").model_id)
        store.activate(ids[0], analyst="ann")
        told = {"old": detector.fingerprint, "new": detector.fingerprint, "verdict": "worse", "reason": "less recall"}
        store.set_comparison(told, old_id=ids[0], new_id=ids[1])
        yield server


def test_a_model_shows_how_it_was_evaluated(with_models: Served) -> None:
    page = page_at(with_models, "/model")
    keys = {one.attributes["data-plot"] for one in page.all("div") if "data-plot" in one.attributes}
    assert keys >= {"training", "precision", "thresholds", "calibration", "recall"}
    assert {"Confusion matrix", "one.idea", "Active"} <= {word for word in page.texts if word.strip()}
    assert "worse less recall" in page.text


def test_a_worse_model_is_refused_unless_it_is_forced(with_models: Served) -> None:
    [other] = [one for one in with_models.store.models() if not one.active]
    action = f"/models/{other.model_id}/activate"
    page = page_at(with_models, action)
    assert "Refused:" in page.text
    assert "less recall" in page.text
    given = form_of(page, action)
    headers = {"Origin": with_models.url}
    httpx.post(with_models.url + action, data=given, headers=headers)
    assert with_models.store.active_model().model_id != other.model_id  # type: ignore[union-attr]  # one is active
    httpx.post(with_models.url + action, data={**given, "force": "yes"}, headers=headers)
    assert with_models.store.active_model().model_id == other.model_id  # type: ignore[union-attr]
    back = page_at(with_models, "/models/rollback")
    httpx.post(with_models.url + "/models/rollback", data=form_of(back, "/models/rollback"), headers=headers)
    assert with_models.store.active_model().model_id != other.model_id  # type: ignore[union-attr]
    assert [one.kind for one in with_models.store.activations()] == ["rolled_back", "forced", "activated"]
