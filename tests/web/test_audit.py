"""The audit log: a command writes what the page writes, and every command that changes a store is covered."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from deepidea.cli.app import app
from deepidea.flows.labelled import labelled_flows_from_table
from deepidea.flows.simulate import simulate_flows
from deepidea.model.detector import Detector
from deepidea.model.presets import train_detector
from deepidea.store import audit, batches, models
from deepidea.store.allow_rules import AllowRule
from deepidea.store.audit import Action, AuditEntry
from deepidea.store.models import model_id_of, read_model
from deepidea.web.service import AnalystService
from tests.conftest import TINY
from tests.detection.making import sweep
from tests.stores import open_store
from tests.web.conftest import Someone

READING = {"incidents", "alerts", "explain", "drift", "audit", "serve", "feedback list", "allow list", "models list",
           "models show", "models history", "store status", "tokens list"}  # fmt: skip
DETECTION = {"detect", "calibrate"}  # their changes are results, not decisions of a person
RULE = AllowRule(src="10.0.0.0/8", note="scanner")
USER = Someone(getpass.getuser(), address="command line")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two detector files, and flows that neither was trained on."""
    folder = tmp_path_factory.mktemp("audit")
    flows, _ = labelled_flows_from_table(simulate_flows(n_flows=400), "label", "benign")
    for seed in range(2):
        train_detector(flows, random_state=seed, **TINY).save(folder / f"{seed}.idea")
    simulate_flows(n_flows=400, seed=7).write_csv(folder / "flows.csv")
    return [folder / name for name in ("0.idea", "1.idea", "flows.csv")]


def compare(service: AnalystService, files: list[Path], ids: list[str]) -> None:
    from deepidea.evaluation.continued_training import compare_on

    old, new = map(Detector.load, files[:2])
    comparison = compare_on(old, new, str(files[2]), label="label", benign="benign").to_dict()
    service.set_comparison(comparison, old_id=ids[0], new_id=ids[1], actor=USER)


def steps(files: list[Path], incident: str, out: Path) -> dict[str, tuple[list[Any], Callable[[AnalystService], Any]]]:
    """Return commands, each with its arguments and the function that the page calls; they run in this order."""
    ids = [model_id_of(path.read_bytes()) for path in files[:2]]
    return {
        "allow add": (["--src", RULE.src, "--note", RULE.note], lambda s: s.add_rule(RULE, actor=USER)),
        "allow remove": ([RULE.rule_id], lambda s: s.remove_rule(RULE.rule_id, actor=USER)),
        "feedback add": (
            [incident, "--verdict", "false_positive"],
            lambda s: s.add_verdict("incident", incident, "false_positive", actor=USER),
        ),
        "feedback export": (["-o", out], lambda s: s.export_feedback(out, actor=USER)),
        "models add": ([files[0]], lambda s: s.add_model(read_model(files[0]), actor=USER)),
        "models add ": ([files[1]], lambda s: s.add_model(read_model(files[1]), actor=USER)),
        "models activate": ([ids[0]], lambda s: s.activate(ids[0], actor=USER)),
        "models compare": (
            [*files, "--label", "label", "--benign", "benign"], lambda s: compare(s, files, ids),
        ),
        "models activate ": ([ids[1], "--force"], lambda s: s.activate(ids[1], actor=USER, force=True)),
        "models rollback": (["--note", "slow"], lambda s: s.rollback(actor=USER, note="slow")),
        "models remove": ([ids[1]], lambda s: s.remove_model(ids[1], actor=USER)),
        "tokens add": (["bob", "--role", "admin"], lambda s: s.add_token("bob", "admin", actor=USER)),
        "tokens revoke": ([], lambda s: s.revoke_token(s.tokens()[0].token_id, actor=USER)),
        "store purge": (["--days", "0"], lambda s: s.purge(datetime.now().astimezone(), actor=USER)),
    }  # fmt: skip


def plain(entry: AuditEntry) -> tuple[Any, ...]:
    """Return an entry without what differs between two runs: tokens are drawn, and clocks go on."""
    subject = "" if entry.action.startswith("token.") else entry.subject
    detail = {name: value for name, value in entry.detail.items() if name != "older_than"}
    return entry.action, subject, detail, entry.actor, entry.address


def test_a_command_writes_the_audit_entry_of_the_page(command, files, tmp_path):
    urls = [f"sqlite:///{tmp_path / name}.db" for name in ("page", "command")]
    with open_store(urls[0]) as page, open_store(urls[1]) as other:
        for store in (page, other):
            store.execute(batches.commit, "s", None, sweep(5), n_flows=5)
        service = AnalystService(page)
        incident = service.incidents().items[0].incident_id
        actions = []
        for name, (arguments, function) in steps(files, incident, tmp_path / "f.parquet").items():
            if name == "tokens revoke":
                arguments = [AnalystService(other).tokens()[0].token_id]
            function(service)
            ran = command(*name.split(), *arguments, "--store", urls[1])
            assert ran.code == 0, ran.err
            written = [store.query(audit.find).items for store in (page, other)]
            assert len(written[0]) == len(written[1]) == len(actions) + 1
            assert plain(written[0][0]) == plain(written[1][0])
            actions.append(written[1][0].action)
    by_page_alone = {"incident.note", "incident.status", "access.refused", "login", "login.refused", "logout"}
    assert set(actions) == set(get_args(Action)) - by_page_alone - {"token.refused"}


def test_every_command_with_a_store_reads_or_is_audited(files, tmp_path):
    group = typer.main.get_command(app)
    leaves = {name: one for name, one in group.commands.items() if not hasattr(one, "commands")}
    for name, one in group.commands.items():
        leaves |= {f"{name} {word}": leaf for word, leaf in getattr(one, "commands", {}).items()}
    with_store = {name for name, one in leaves.items() if any(p.name == "store" for p in one.params)}
    audited = {name.strip() for name in steps(files, "", tmp_path)}
    assert with_store - READING - DETECTION == audited


def test_a_command_whose_audit_entry_fails_changes_nothing(command, files, tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path}/s.db"
    monkeypatch.setattr("deepidea.store.audit.write", lambda *_, **__: 1 / 0)
    with open_store(url) as store:
        for arguments in (["models", "add", files[0]], ["allow", "add", "--src", "10.0.0.1"]):
            with pytest.raises(ZeroDivisionError):
                command(*arguments, "--store", url)
        assert store.query(models.all_models) == store.rules() == []
