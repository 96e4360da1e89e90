"""Message by message, the conversations of each application protocol; benign traffic and attacks share them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from random import Random
from typing import NamedTuple

from deepidea.simulation.conversations import CLIENT, SERVER, Ending, Message
from deepidea.simulation.draws import geometric, lognormal, pareto
from deepidea.simulation.payloads import (
    Bulk,
    client_hello,
    dns_query,
    dns_response,
    http_request,
    http_response,
    server_hello,
    ssh_packet,
    tls_data,
)

_QUIC_BYTES, _QUIC_INITIAL = 1220, b"\xc3\x00\x00\x00\x01"
_AGENTS = ("Mozilla/5.0 (X11; Linux x86_64)", "Mozilla/5.0 (Windows NT 10.0; Win64; x64)", "curl/8.5.0", "python/3.11")
_SSH_BANNERS = (b"SSH-2.0-OpenSSH_9.6\r\n", b"SSH-2.0-OpenSSH_8.4p1\r\n", b"SSH-2.0-libssh2_1.11.0\r\n")


class Exchange(NamedTuple):
    """Sizes of a request and its response, and the pause before the request."""

    request_bytes: int
    response_bytes: int
    pause_s: float = 0.0


def any_ending(rng: Random, *, idle_s: float = 4.0) -> Ending:
    """Return an ending as applications choose them, mostly after an idle time."""
    pause_s = pareto(rng, idle_s * rng.random(), tail=1.1, most=65.0)
    kind = rng.choices(("fin", "fin-server", "rst", "rst-server"), (50, 32, 14, 4))[0]
    return Ending("rst" if kind.startswith("rst") else "fin", SERVER if kind.endswith("server") else CLIENT, pause_s)


def _service_time(rng: Random) -> float:
    """Return the time that a server takes for a response."""
    return lognormal(rng, 0.012, 1.1, most=3.0)


def browsing(rng: Random, mean_requests: float = 2.5) -> Iterator[Exchange]:
    """Yield the requests of a browser to one server for a page."""
    for at in range(geometric(rng, mean_requests)):
        pause_s = pareto(rng, 0.01, tail=1.0, most=20.0) if at else 0.0
        yield Exchange(
            int(lognormal(rng, 480, 0.5, most=6000)), int(lognormal(rng, 4000, 1.5, most=1_000_000)), pause_s
        )


@lru_cache(maxsize=4096)
def _tls_shape(name: str) -> tuple[int, int]:
    """Return the bytes of a server's certificate and of the client's Finished to it."""
    rng = Random(f"tls {name}")
    return int(lognormal(rng, 2900, 0.35, most=7000)), rng.choice((80, 86, 126))


def tls_script(name: str, exchanges: Iterable[Exchange], rng: Random) -> Iterator[Message]:
    """Yield a TLS conversation: handshake, then requests and responses. A server has one certificate."""
    certificate, finished = _tls_shape(name)
    yield Message(CLIENT, client_hello(name, rng, size=rng.choice((230, 320, 512, 512, 590))))
    yield Message(SERVER, server_hello(rng, certificate=certificate), _service_time(rng) / 4)
    yield Message(CLIENT, tls_data(finished), 0.001)  # Finished (RFC 8446, 2)
    for request, response, pause_s in exchanges:
        yield Message(CLIENT, tls_data(request), pause_s)
        yield Message(SERVER, tls_data(response), _service_time(rng))


def quic_script(exchanges: Iterable[Exchange], byte_s: float, rng: Random) -> Iterator[Message]:
    """Yield a QUIC conversation: handshake, then requests and responses, whose datagrams are acknowledged (RFC 9000).

    `byte_s` is the time of a byte on the line.
    """
    yield Message(CLIENT, Bulk(_QUIC_BYTES, _QUIC_INITIAL))  # 14.1: padded to at least 1200 bytes
    for at in range(rng.randrange(2, 5)):
        yield Message(SERVER, Bulk(_QUIC_BYTES, _QUIC_INITIAL), 0.0002 if at else _service_time(rng) / 4)
    yield Message(CLIENT, Bulk(rng.choice((80, 120, _QUIC_BYTES))), 0.001)
    for request, response, pause_s in exchanges:
        yield Message(CLIENT, Bulk(min(request, _QUIC_BYTES)), pause_s)
        pause_s = _service_time(rng)
        for at, left in enumerate(range(response, 0, -_QUIC_BYTES)):
            yield Message(SERVER, Bulk(min(left, _QUIC_BYTES) + 30), pause_s)
            pause_s = _QUIC_BYTES * byte_s
            if at % 10 == 9:
                yield Message(CLIENT, Bulk(rng.randrange(32, 46)), 0.0001)


def http_script(name: str, exchanges: Iterable[Exchange], rng: Random) -> Iterator[Message]:
    """Yield HTTP requests and responses without TLS."""
    agent = rng.choice(_AGENTS)
    for request, response, pause_s in exchanges:
        path = "/" + "x" * max(0, min(request - 180, 900))
        status = rng.choices(("200 OK", "304 Not Modified", "404 Not Found"), (85, 10, 5))[0]
        yield Message(CLIENT, http_request(name, path, agent), pause_s)
        yield Message(SERVER, http_response(response if status == "200 OK" else 160, status), _service_time(rng))


def dns_script(name: str, kind: str, rng: Random, *, cached: float = 0.6) -> Iterator[Message]:
    """Yield a DNS query and its response."""
    ident = rng.getrandbits(16)
    size = {"A": 4, "AAAA": 16, "PTR": 24, "TXT": rng.randrange(30, 220)}.get(kind, 16)
    missing = rng.random() < 0.06
    answers = tuple(rng.randbytes(size) for _ in range(0 if missing else geometric(rng, 1.6)))
    yield Message(CLIENT, dns_query(ident, name, kind))
    known = rng.random() < cached
    wait_s = lognormal(rng, 0.0004, 0.5) if known else lognormal(rng, 0.03, 0.8, most=2.0)
    yield Message(SERVER, dns_response(ident, name, kind, answers, code=3 if missing else 0), wait_s)


def ssh_login(rng: Random, waits_s: Sequence[float], *, succeeds: bool) -> Iterator[Message]:
    """Yield an SSH conversation up to its login: a try of a password or key after each wait; the last can succeed."""
    # RFC 4253: versions (4.2), KEXINIT of both (7.1), key exchange (8), NEWKEYS (7.3); RFC 4252: service request, then
    # authentication. Sizes and pauses are those of OpenSSH.
    yield Message(SERVER, _SSH_BANNERS[rng.randrange(2)], lognormal(rng, 0.008, 0.8, most=0.5))
    yield Message(CLIENT, rng.choice(_SSH_BANNERS), 0.0002)
    yield Message(CLIENT, ssh_packet(rng.randrange(1100, 1540)), 0.0003)
    yield Message(SERVER, ssh_packet(rng.randrange(900, 1120)), 0.0004)
    yield Message(CLIENT, ssh_packet(48), 0.002)
    yield Message(SERVER, ssh_packet(rng.randrange(420, 620)), 0.004)
    yield Message(CLIENT, ssh_packet(60), 0.002)
    yield Message(SERVER, ssh_packet(44), 0.0005)
    for at, wait_s in enumerate(waits_s):
        right = succeeds and at == len(waits_s) - 1
        yield Message(CLIENT, ssh_packet(rng.choice((84, 100, 148, 372))), wait_s)
        refused_s = lognormal(rng, 1.6, 0.3, most=4.0)  # servers delay a refusal
        yield Message(SERVER, ssh_packet(36 if right else 52), lognormal(rng, 0.02, 0.6) if right else refused_s)


def typing(rng: Random, until_s: float) -> Iterator[Message]:
    """Yield keystrokes with their echoes and commands with their output, for about a time."""
    spent_s = 0.0
    while spent_s < until_s:
        pause_s = pareto(rng, 0.9, tail=1.1, most=90.0)
        for _ in range(geometric(rng, 9)):
            yield Message(CLIENT, ssh_packet(36), pause_s)  # one key is the smallest encrypted packet
            yield Message(SERVER, ssh_packet(36), 0.0008)
            spent_s += pause_s
            pause_s = lognormal(rng, 0.16, 0.6, most=3.0)
        output = ssh_packet(int(lognormal(rng, 420, 1.4, most=80_000)))
        yield Message(SERVER, output, lognormal(rng, 0.03, 1.0, most=5.0))


def mail_script(rng: Random, *, sender: str, receiver: str) -> Iterator[Message]:
    """Yield an SMTP conversation that delivers a mail, mostly with STARTTLS."""
    yield _line(SERVER, f"220 {receiver} ESMTP", lognormal(rng, 0.05, 0.8, most=5.0))
    yield _line(CLIENT, f"EHLO {sender}", 0.002)
    yield _line(SERVER, f"250-{receiver}\r\n250-SIZE 52428800\r\n250-STARTTLS\r\n250 8BITMIME", 0.001)
    if rng.random() < 0.7:
        yield _line(CLIENT, "STARTTLS", 0.001)
        yield _line(SERVER, "220 2.0.0 Ready", 0.001)
        # Inside TLS the client starts anew (RFC 3207, 4.2): EHLO, MAIL, RCPT, the mail, QUIT.
        sizes = [(90, 130), (70, 60), (60, 60), (int(lognormal(rng, 14_000, 1.6, most=4_000_000)), 70), (40, 50)]
        yield from tls_script(receiver, (Exchange(*pair) for pair in sizes), rng)
        return
    envelope = (f"MAIL FROM:<a@{sender}>", "250 Ok"), (f"RCPT TO:<b@{receiver}>", "250 Ok"), ("DATA", "354")
    for command, reply in envelope:
        yield _line(CLIENT, command, 0.001)
        yield _line(SERVER, reply, lognormal(rng, 0.01, 1.0, most=2.0))
    yield Message(CLIENT, Bulk(int(lognormal(rng, 9_000, 1.5, most=2_000_000)), b"Subject: note\r\n"), 0.002)
    yield _line(SERVER, "250 Ok: queued", lognormal(rng, 0.08, 0.9, most=4.0))
    yield _line(CLIENT, "QUIT", 0.001)
    yield _line(SERVER, "221 Bye", 0.0005)


def ftp_script(rng: Random, waits_s: Sequence[float], *, succeeds: bool) -> Iterator[Message]:
    """Yield an FTP control conversation: password tries after `waits_s`, then a few commands if the last succeeds."""
    yield _line(SERVER, "220 FTP server ready", lognormal(rng, 0.02, 0.8, most=2.0))
    for at, wait_s in enumerate(waits_s):
        right = succeeds and at == len(waits_s) - 1
        yield _line(CLIENT, "USER " + "u" * rng.randrange(3, 10), wait_s)
        yield _line(SERVER, "331 Please specify the password.", 0.001)
        yield _line(CLIENT, "PASS " + "p" * rng.randrange(4, 14), lognormal(rng, 0.002, 0.5))
        refused_s = lognormal(rng, 1.5, 0.4, most=4.0)
        yield _line(SERVER, *(("230 Login successful.", 0.01) if right else ("530 Login incorrect.", refused_s)))
    if succeeds:
        for command, reply in (("TYPE I", "200 Binary"), ("PASV", "227 Entering Passive Mode"), ("LIST", "226 Done")):
            yield _line(CLIENT, command, lognormal(rng, 0.3, 1.2, most=20.0))
            yield _line(SERVER, reply, 0.002)
    yield _line(CLIENT, "QUIT", lognormal(rng, 0.05, 1.0, most=20.0))
    yield _line(SERVER, "221 Goodbye.", 0.0005)


def rdp_login(rng: Random, waits_s: Sequence[float], *, succeeds: bool) -> Iterator[Message]:
    """Yield an RDP conversation with network level authentication: one password, whatever `waits_s` has further."""
    # MS-RDPBCGR 1.3.1.1: X.224 connection request and confirm, TLS handshake, then CredSSP in three rounds.
    yield Message(CLIENT, b"\x03\x00\x00\x13\x0e\xe0" + bytes(13), waits_s[0])
    yield Message(SERVER, b"\x03\x00\x00\x13\x0e\xd0" + bytes(13), 0.002)
    rounds = [Exchange(120, 330, 0.002), Exchange(rng.randrange(640, 720), 140 if succeeds else 90, 0.003)]
    desktop = (Exchange(500, int(lognormal(rng, 60_000, 0.8, most=900_000)), 0.2) for _ in range(10 * succeeds))
    yield from tls_script("rdp.lab.example", (*rounds, *desktop), rng)


def smb_login(rng: Random, waits_s: Sequence[float], *, succeeds: bool) -> Iterator[Message]:
    """Yield an SMB2 conversation: negotiation, then NTLM session set-ups after `waits_s`; the last can succeed."""
    # MS-SMB2 3.2.4.2: NEGOTIATE, then SESSION_SETUP twice a try (NTLM challenge, authenticate).
    yield Message(CLIENT, _smb(rng.choice((106, 222))), 0.001)
    yield Message(SERVER, _smb(rng.choice((252, 300))), 0.002)
    for at, wait_s in enumerate(waits_s):
        yield Message(CLIENT, _smb(166), wait_s)
        yield Message(SERVER, _smb(rng.choice((301, 335))), 0.002)
        yield Message(CLIENT, _smb(rng.choice((420, 558))), 0.001)
        yield Message(SERVER, _smb(85 if succeeds and at == len(waits_s) - 1 else 77), 0.004)
    for _ in range(geometric(rng, 6) if succeeds else 0):  # tree connect, create, read, close
        yield Message(CLIENT, _smb(rng.randrange(110, 260)), lognormal(rng, 0.05, 1.5, most=20.0))
        yield Message(SERVER, _smb(int(lognormal(rng, 400, 1.4, most=300_000))), 0.002)


def _smb(size: int) -> Bulk:
    head = struct.pack(">I", max(size - 4, 0)) + b"\xfeSMB"
    return Bulk(size, head)


def http_login(rng: Random, waits_s: Sequence[float], *, succeeds: bool) -> Iterator[Message]:
    """Yield a form of a user and a password sent after each wait; every one is answered with the same page."""
    agent, page, length = rng.choice(_AGENTS), rng.randrange(900, 6000), rng.randrange(26, 40)
    for at, wait_s in enumerate(waits_s):
        right = succeeds and at == len(waits_s) - 1
        head = http_request("www.lab.example", "/login", agent, method="POST", length=length)
        yield Message(CLIENT, head + b"u" * length, wait_s)
        status = "302 Found" if right else "200 OK"
        yield Message(SERVER, http_response(120 if right else page, status), 0.08)


def jittered(script: Iterable[Message], rng: Random, spread: float) -> Iterator[Message]:
    """Yield messages whose pauses vary log-normally, by about a share of `spread`."""
    for sender, body, pause_s in script:
        yield Message(sender, body, lognormal(rng, pause_s, spread))


def _line(sender: int, text: str, pause_s: float) -> Message:
    return Message(sender, text.encode() + b"\r\n", pause_s)
