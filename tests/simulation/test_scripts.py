"""Scripts repeat themselves for the same seed, keep what a server has, and let both sides speak."""

from __future__ import annotations

from random import Random

import pytest

from deepidea.simulation.conversations import CLIENT, SERVER
from deepidea.simulation.scripts import (
    Exchange,
    ftp_script,
    http_login,
    jittered,
    quic_script,
    rdp_login,
    smb_login,
    ssh_login,
    tls_script,
)

LOGINS = [ssh_login, ftp_script, rdp_login, smb_login, http_login]


def sizes(script):
    return [(message.sender, len(message.body)) for message in script]


@pytest.mark.parametrize("login", LOGINS)
def test_a_login_of_one_tool_has_the_same_sizes_each_time_and_a_success_differs(login):
    failed = [sizes(login(Random(3), [0.1], succeeds=False)) for _ in range(2)]
    assert failed[0] == failed[1]
    assert {sender for sender, _ in failed[0]} == {CLIENT, SERVER}
    assert sizes(login(Random(3), [0.1], succeeds=True)) != failed[0]


def test_jitter_changes_pauses_and_nothing_else():
    script, varied = list(ssh_login(Random(1), [0.1], succeeds=False)), ssh_login(Random(1), [0.1], succeeds=False)
    varied = list(jittered(varied, Random(2), 0.2))
    assert sizes(script) == sizes(varied)
    assert [message.pause_s for message in script] != [message.pause_s for message in varied]
    assert all(message.pause_s >= 0 for message in varied)


def test_a_server_has_one_certificate_whoever_connects():
    hellos = {sizes(tls_script("shop.example", [], Random(seed)))[1] for seed in range(5)}
    others = {sizes(tls_script(f"{name}.example", [], Random(0)))[1] for name in "abcdef"}
    assert len(hellos) == 1
    assert len(others) > 3


def test_quic_carries_a_response_in_datagrams_that_are_acknowledged():
    script = list(quic_script([Exchange(400, 100_000)], 1e-7, Random(0)))
    assert max(len(message.body) for message in script) <= 1252  # with IPv6 and UDP headers below 1300
    assert 100_000 < sum(len(message.body) for message in script if message.sender == SERVER) < 115_000
    assert sum(message.sender == CLIENT for message in script) >= 8
