"""Ethernet frames with IPv4 or IPv6 and TCP, UDP, ICMP or ARP inside, all checksums right."""

from __future__ import annotations

import struct

FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58
_IPV4, _ARP, _VLAN, _IPV6 = 0x0800, 0x0806, 0x8100, 0x86DD  # EtherTypes
_LEAST_FRAME = 60  # without the frame check sequence; shorter frames are padded with zeros (IEEE 802.3)
_MODULUS = 0xFFFF
_DONT_FRAGMENT = 0x4000
_HEADER4 = struct.Struct(">BBHHHBBH4s4s")
_HEADER6 = struct.Struct(">IHBB16s16s")
_HEADER_TCP = struct.Struct(">HHIIHHHH")
_HEADER_UDP = struct.Struct(">HHHH")

# The checksum of RFC 1071 is a remainder: 2**16 is 1 modulo 65,535, so the ones' complement sum of 16-bit words equals
# the whole message, read as one big-endian number, modulo 65,535. Python computes that in C, remainders add up, and the
# remainder of what is constant in a conversation (addresses, ports) is computed once.


def internet_checksum(data: bytes) -> int:
    """Return the checksum of RFC 1071 over a message whose checksum field is zero; 0 over a valid message.

    Examples
    --------
    >>> header = bytes.fromhex("450000730000400040110000c0a80001c0a800c7")
    >>> hex(internet_checksum(header))
    '0xb861'
    """
    return _complement(_remainder(data)) if any(data) else _MODULUS


def _remainder(data: bytes) -> int:
    """Return the sum of 16-bit words modulo 65,535; an odd last byte is the upper half of a word."""
    value = int.from_bytes(data, "big") % _MODULUS
    return (value << 8) % _MODULUS if len(data) & 1 else value


def _complement(total: int) -> int:
    """Return the checksum for a sum above zero, whose remainder of 0 stands for 0xFFFF."""
    return _MODULUS - (total % _MODULUS or _MODULUS)


class Envelope:
    """Ethernet and IP headers of one direction of a conversation.

    `ttl` is that at the capture point, `vlan` an 802.1Q identifier. `ident` is the flow label of IPv6; IPv4 counts the
    identification of packets up from it.

    Examples
    --------
    >>> envelope = Envelope(b"0" * 6, b"1" * 6, bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), ttl=64, vlan=None, ident=0)
    >>> header = envelope.header(17, 8)
    >>> len(header), internet_checksum(header[14:])
    (34, 0)
    """

    __slots__ = ("_const4", "_ident", "_link", "_ttl", "dst_ip", "pseudo", "src_ip", "v6")

    def __init__(
        self, src_mac: bytes, dst_mac: bytes, src_ip: bytes, dst_ip: bytes, *, ttl: int, vlan: int | None, ident: int
    ) -> None:
        self.v6 = len(src_ip) == 16
        self.src_ip, self.dst_ip = src_ip, dst_ip
        self.pseudo = _remainder(src_ip) + _remainder(dst_ip)  # the constant part of the pseudo-header's checksum
        self._ttl, self._ident = ttl, ident
        self._link = _link(src_mac, dst_mac, _IPV6 if self.v6 else _IPV4, vlan)
        self._const4 = 0x4500 + _DONT_FRAGMENT + (ttl << 8) + self.pseudo

    def header(self, protocol: int, length: int) -> bytes:
        """Return the headers of the next packet, which carries so many bytes of a protocol."""
        if self.v6:
            word = 0x60000000 | (self._ident & 0xFFFFF)
            return self._link + _HEADER6.pack(word, length, protocol, self._ttl, self.src_ip, self.dst_ip)
        self._ident = ident = (self._ident + 1) & 0xFFFF
        total = 20 + length
        checksum = _complement(self._const4 + total + ident + protocol)
        return self._link + _HEADER4.pack(
            0x45, 0, total, ident, _DONT_FRAGMENT, self._ttl, protocol, checksum, self.src_ip, self.dst_ip
        )


def _link(src_mac: bytes, dst_mac: bytes, kind: int, vlan: int | None) -> bytes:
    tag = b"" if vlan is None else struct.pack(">HH", _VLAN, vlan)
    return dst_mac + src_mac + tag + struct.pack(">H", kind)


def _padded(frame: bytes) -> bytes:
    return frame if len(frame) >= _LEAST_FRAME else frame.ljust(_LEAST_FRAME, b"\0")


class Framer:
    """Makes the TCP or UDP frames of one direction of a conversation.

    Examples
    --------
    >>> envelope = Envelope(b"0" * 6, b"1" * 6, bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), ttl=64, vlan=None, ident=0)
    >>> framer = Framer(envelope, 40000, 80)
    >>> frame = framer.tcp(1, 0, SYN, 64240, options=tcp_options(mss=1460))
    >>> len(frame), frame[34:38].hex(), len(framer.udp(bytes(30)))
    (60, '9c400050', 72)
    """

    __slots__ = ("_const", "_envelope", "_ports")

    def __init__(self, envelope: Envelope, src_port: int, dst_port: int) -> None:
        self._envelope, self._ports = envelope, (src_port, dst_port)
        self._const = envelope.pseudo + src_port + dst_port

    def tcp(self, seq: int, ack: int, flags: int, window: int, payload: bytes = b"", *, options: bytes = b"") -> bytes:
        """Return a TCP frame; `seq` and `ack` are taken modulo 2**32, `options` is a multiple of four bytes."""
        seq, ack = seq & 0xFFFFFFFF, ack & 0xFFFFFFFF
        head = 20 + len(options)
        length = head + len(payload)
        word = head << 10 | flags  # data offset in 32-bit words, then the flags
        total = self._const + TCP + length + seq + ack + word + window
        total += int.from_bytes(options, "big") + _remainder(payload)
        header = _HEADER_TCP.pack(*self._ports, seq, ack, word, window, _complement(total), 0)
        return _padded(self._envelope.header(TCP, length) + header + options + payload)

    def udp(self, payload: bytes) -> bytes:
        """Return a UDP frame."""
        length = 8 + len(payload)
        total = self._const + UDP + 2 * length + _remainder(payload)
        checksum = _complement(total) or _MODULUS  # zero would mean that there is none (RFC 768)
        header = _HEADER_UDP.pack(*self._ports, length, checksum)
        return _padded(self._envelope.header(UDP, length) + header + payload)


def tcp_options(
    *, mss: int | None = None, scale: int | None = None, sack: bool = False, times: tuple[int, int] | None = None
) -> bytes:
    """Return TCP options (RFC 9293, 7323, 2018), padded to a multiple of four bytes.

    `scale` is the window scale, `sack` whether SACK is permitted, `times` timestamp value and echo reply.

    Examples
    --------
    >>> tcp_options(mss=1460, scale=7).hex()
    '020405b403030700'
    """
    options = b"" if mss is None else struct.pack(">BBH", 2, 4, mss)
    if sack:
        options += b"\x04\x02"
    if times is not None:
        options += (b"" if sack else b"\x01\x01") + struct.pack(">BBII", 8, 10, *times)
    if scale is not None:
        options += struct.pack(">BBB", 3, 3, scale)
    return options + bytes(-len(options) % 4)


def echo_frame(envelope: Envelope, *, reply: bool, ident: int, sequence: int, payload: bytes) -> bytes:
    """Return an echo request or reply (ping): ICMP (RFC 792), or ICMPv6 (RFC 4443) if the envelope is IPv6.

    Examples
    --------
    >>> envelope = Envelope(b"0" * 6, b"1" * 6, bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), ttl=64, vlan=None, ident=0)
    >>> frame = echo_frame(envelope, reply=False, ident=7, sequence=1, payload=bytes(56))
    >>> len(frame), internet_checksum(frame[34:])
    (98, 0)
    """
    protocol = ICMP6 if envelope.v6 else ICMP
    kind = (129 if reply else 128) if envelope.v6 else (0 if reply else 8)
    body = struct.pack(">BBHHH", kind, 0, 0, ident, sequence) + payload
    return _padded(envelope.header(protocol, len(body)) + _with_checksum(envelope, body))


def unreachable_frame(envelope: Envelope, quoted: bytes) -> bytes:
    """Return *port unreachable*: ICMP (RFC 792), or ICMPv6 (RFC 4443) if the envelope is IPv6.

    `quoted` is the begin of the packet that it answers: IP header and eight bytes.

    Examples
    --------
    >>> envelope = Envelope(b"0" * 6, b"1" * 6, bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), ttl=64, vlan=None, ident=0)
    >>> frame = unreachable_frame(envelope, bytes(28))
    >>> frame[34:36].hex(), internet_checksum(frame[34:])
    ('0303', 0)
    """
    protocol, kind, code = (ICMP6, 1, 4) if envelope.v6 else (ICMP, 3, 3)
    body = struct.pack(">BBHI", kind, code, 0, 0) + quoted
    return _padded(envelope.header(protocol, len(body)) + _with_checksum(envelope, body))


def _with_checksum(envelope: Envelope, body: bytes) -> bytes:
    """Return an ICMP message whose checksum field is zero with its checksum, which in IPv6 covers the addresses."""
    pseudo = envelope.pseudo + ICMP6 + len(body)
    checksum = _complement(pseudo + _remainder(body)) if envelope.v6 else internet_checksum(body)
    return body[:2] + struct.pack(">H", checksum) + body[4:]


def arp_frame(src_mac: bytes, src_ip: bytes, dst_mac: bytes | None, dst_ip: bytes, *, vlan: int | None = None) -> bytes:
    """Return an ARP reply (RFC 826), or without `dst_mac` a broadcast request.

    Examples
    --------
    >>> len(arp_frame(b"0" * 6, bytes([10, 0, 0, 1]), None, bytes([10, 0, 0, 2])))
    60
    """
    link = _link(src_mac, dst_mac or b"\xff" * 6, _ARP, vlan)
    message = struct.pack(">HHBBH", 1, _IPV4, 6, 4, 2 if dst_mac else 1)
    return _padded(link + message + src_mac + src_ip + (dst_mac or bytes(6)) + dst_ip)
