"""Payloads: message formats by which tools recognise a protocol, and noise in place of encrypted content."""

from __future__ import annotations

import struct
from functools import cache
from random import Random

_NOISE_BYTES = 1 << 18
_RECORD_BYTES = 1 << 14  # most content of a TLS record (RFC 8446, 5.1)
_WHOLE_BYTES = _RECORD_BYTES + 5  # with its header
_CHANGE_CIPHER_SPEC, _HANDSHAKE, _APPLICATION_DATA = 20, 22, 23


@cache
def _noise() -> bytes:
    return Random("noise").randbytes(_NOISE_BYTES)


def _noise_part(begin: int, size: int) -> bytes:
    noise, at = _noise(), begin % _NOISE_BYTES
    part = noise[at : at + size]
    while len(part) < size:
        part += noise[: size - len(part)]
    return part


class Bulk:
    """A long content generated slice by slice: a head, then noise, which can be cut into TLS records.

    Parameters
    ----------
    size
        Bytes in total.
    head
        First bytes.
    records
        Whether the content is TLS records of application data, each with its header.
    """

    __slots__ = ("_begin", "_head", "_records", "_size")

    def __init__(self, size: int, head: bytes = b"", *, records: bool = False) -> None:
        self._size, self._head, self._records = max(size, len(head)), head, records
        self._begin = (size * 7919) % _NOISE_BYTES

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        begin, end, _ = part.indices(self._size)
        end = max(begin, end)
        piece = _noise_part(self._begin + begin, end - begin)
        within = begin % _WHOLE_BYTES
        if self._records and (within < 5 or within + len(piece) > _WHOLE_BYTES):
            piece = self._with_headers(piece, begin)
        if begin < len(self._head):
            piece = self._head[begin:end] + piece[len(self._head) - begin :]
        return piece

    def _with_headers(self, piece: bytes, begin: int) -> bytes:
        """Write the record headers that overlap a piece."""
        end = begin + len(piece)
        for at in range(begin - begin % _WHOLE_BYTES, end, _WHOLE_BYTES):
            header = struct.pack(">BHH", _APPLICATION_DATA, 0x303, min(_RECORD_BYTES, max(self._size - at - 5, 0)))
            low, high = max(at, begin), min(at + 5, end)
            if low < high:
                piece = piece[: low - begin] + header[low - at : high - at] + piece[high - begin :]
        return piece


def tls_data(size: int) -> Bulk:
    """Return TLS application data of so many bytes on the wire, at least 30."""
    return Bulk(max(size, 30), records=True)


def _record(kind: int, message: bytes, version: int = 0x303) -> bytes:
    return struct.pack(">BHH", kind, version, len(message)) + message


def _handshake(kind: int, body: bytes) -> bytes:
    return struct.pack(">I", kind << 24 | len(body)) + body


def _extension(kind: int, body: bytes) -> bytes:
    return struct.pack(">HH", kind, len(body)) + body


def client_hello(name: str, rng: Random, *, size: int = 512) -> bytes:
    """Return a TLS 1.3 ClientHello for a server's name, padded to about a size (RFC 8446, 6066, 7685)."""
    server = name.encode()
    listed = struct.pack(">HBH", len(server) + 3, 0, len(server)) + server
    extensions = (
        _extension(0, listed)  # server_name
        + _extension(10, bytes.fromhex("0004001d0017"))  # supported_groups
        + _extension(13, bytes.fromhex("0006040308040401"))  # signature_algorithms
        + _extension(43, bytes.fromhex("0403040303"))  # supported_versions: 1.3, 1.2
        + _extension(51, bytes.fromhex("0024001d0020") + rng.randbytes(32))  # key_share
    )
    ciphers = bytes.fromhex("0008130113021303c02f")
    fixed = b"\x03\x03" + rng.randbytes(32) + b"\x20" + rng.randbytes(32) + ciphers + b"\x01\x00"
    room = size - 4 - len(fixed) - 2 - len(extensions) - 4
    if room >= 0:
        extensions += _extension(21, bytes(room))  # padding
    return _record(_HANDSHAKE, _handshake(1, fixed + struct.pack(">H", len(extensions)) + extensions), 0x301)


def server_hello(rng: Random, *, certificate: int = 3000) -> bytes:
    """Return a TLS 1.3 ServerHello with the encrypted messages that follow it."""
    extensions = _extension(43, b"\x03\x04") + _extension(51, bytes.fromhex("001d0020") + rng.randbytes(32))
    fixed = b"\x03\x03" + rng.randbytes(32) + b"\x20" + rng.randbytes(32) + b"\x13\x01\x00"
    hello = _record(_HANDSHAKE, _handshake(2, fixed + struct.pack(">H", len(extensions)) + extensions))
    return hello + _record(_CHANGE_CIPHER_SPEC, b"\x01") + tls_data(certificate)[:]


def http_request(name: str, path: str, agent: str, *, method: str = "GET", length: int | None = None) -> bytes:
    """Return the head of an HTTP request."""
    more = "" if length is None else f"Content-Length: {length}\r\n"
    return (
        f"{method} {path} HTTP/1.1\r\nHost: {name}\r\nUser-Agent: {agent}\r\nAccept: */*\r\n"
        f"Accept-Encoding: gzip, deflate\r\n{more}Connection: keep-alive\r\n\r\n"
    ).encode()


def http_response(size: int, status: str = "200 OK", kind: str = "text/html") -> Bulk:
    """Return an HTTP response with so many bytes of noise."""
    head = f"HTTP/1.1 {status}\r\nServer: lab\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n\r\n".encode()
    return Bulk(len(head) + size, head)


def ssh_packet(size: int) -> Bulk:
    """Return encrypted SSH data: noise of so many bytes, rounded up to a multiple of four."""
    return Bulk(-(-size // 4) * 4)


_DNS_TYPES = {"A": 1, "NS": 2, "PTR": 12, "TXT": 16, "AAAA": 28, "NULL": 10}
_EDNS = struct.pack(">BHHIH", 0, 41, 1232, 0, 0)


def _question(name: str, kind: str) -> bytes:
    labels = (label.encode() for label in name.split("."))
    return b"".join(bytes([len(label)]) + label for label in labels) + struct.pack(">BHH", 0, _DNS_TYPES[kind], 1)


def dns_query(ident: int, name: str, kind: str = "A") -> bytes:
    """Return a DNS query (RFC 1035) with EDNS (RFC 6891)."""
    return struct.pack(">HHHHHH", ident, 0x0100, 1, 0, 0, 1) + _question(name, kind) + _EDNS


def dns_response(ident: int, name: str, kind: str, answers: tuple[bytes, ...], *, code: int = 0) -> bytes:
    """Return a DNS response with the data of some answers; code 3 is NXDOMAIN."""
    records = b"".join(struct.pack(">HHHIH", 0xC00C, _DNS_TYPES[kind], 1, 300, len(data)) + data for data in answers)
    head = struct.pack(">HHHHHH", ident, 0x8180 | code, 1, len(answers), 0, 1)
    return head + _question(name, kind) + records + _EDNS


def ntp_packet(time_s: float, *, server: bool) -> bytes:
    """Return an NTP packet, version 4 (RFC 5905)."""
    first = 0x24 if server else 0x23
    stamp = struct.pack(">II", (int(time_s) + 2_208_988_800) & 0xFFFFFFFF, int(time_s % 1 * 2**32))
    head = struct.pack(">BBbbII4s", first, 2 if server else 0, 6, -20, 0, 0, b"LAB\0" if server else bytes(4))
    return head + (stamp * 4 if server else bytes(24) + stamp)
