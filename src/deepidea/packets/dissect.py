"""Dissect a packet into the fields of a flow meter: addresses, ports, lengths, flags.

Compiled. Every length in a packet is compared with the bytes that are there before it is used. A packet that cannot be
metered gets a reason, one of :data:`OUTCOMES`.

Sources: RFC 791 (IPv4), 8200 (IPv6), 9293 (TCP), 768 (UDP), 792 and 4443 (ICMP), 9260 (SCTP), IEEE 802.1Q and 802.1ad
(VLAN tags), https://www.tcpdump.org/linktypes.html (link types).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

METERED = 0
OUTCOMES = (
    "metered",
    "not IP",
    "unknown link type",
    "cut off in a header",
    "header that breaks the format",
    "later fragment",
)
NOT_IP, UNKNOWN_LINK, CUT_OFF, MALFORMED, FRAGMENT = range(1, len(OUTCOMES))

# Indexes of the int64 fields of a dissected packet. An address is two fields of 64 bits; IPv4 is the lower 32 bits.
SRC_HIGH, SRC_LOW, DST_HIGH, DST_LOW, SRC_PORT, DST_PORT, VERSION, PROTOCOL = range(8)
PAYLOAD, HEADER, FLAGS, WINDOW, ICMP_TYPE, ICMP_CODE, MESSAGE = range(8, 15)
N_PARTS = 15

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = 1, 2, 4, 8, 16, 32, 64, 128
ICMP, TCP, UDP, ICMP6, SCTP = 1, 6, 17, 58, 132

_MOST_TAGS = 4
_MOST_EXTENSIONS = 16

_ETHERNET, _LINUX_SLL, _LINUX_SLL2, _NULL, _LOOP = 1, 113, 276, 0, 108  # LINKTYPE_ numbers
_RAW, _IPV4_ONLY, _IPV6_ONLY = 101, 228, 229
_OLD_RAW, _OPENBSD_RAW = 12, 14  # DLT_RAW of most systems, of OpenBSD
_FRAGMENT_HEADER, _AUTHENTICATION_HEADER = 44, 51


@njit(cache=True, inline="always")
def _u16(data: NDArray[np.uint8], at: int) -> int:
    return (np.int64(data[at]) << 8) | np.int64(data[at + 1])


@njit(cache=True)
def _u64(data: NDArray[np.uint8], at: int) -> int:
    value = np.int64(0)
    for j in range(8):
        value = (value << 8) | np.int64(data[at + j])
    return value


@njit(cache=True)
def dissect(
    data: NDArray[np.uint8],
    start: int,
    captured: int,
    length: int,
    link_type: int,
    padding: bool,
    parts: NDArray[np.int64],
) -> int:
    """Fill ``parts``, int64 ``(N_PARTS,)``, from one packet; return its outcome.

    The payload ends where the IP header says, which leaves out the padding of short Ethernet frames. It ends with the
    frame if the length is 0, as of segments that the network card cuts later (TSO), or with ``padding``.
    """
    end = start + captured
    at, outcome = _network(data, start, end, link_type)
    if outcome != METERED:
        return outcome
    if at >= end:
        return CUT_OFF
    # Snap lengths cut packets: headers must be captured, the payload counts as long as it was on the wire.
    wire_end = max(end, start + length)
    version = data[at] >> 4
    if version == 4:
        return _ipv4(data, at, end, wire_end, padding, parts)
    if version == 6:
        return _ipv6(data, at, end, wire_end, padding, parts)
    return NOT_IP


@njit(cache=True)
def _network(data: NDArray[np.uint8], start: int, end: int, link_type: int) -> tuple[int, int]:
    """Return where the network header begins, and METERED or the reason why there is none."""
    if link_type == _ETHERNET:
        # Destination and source MAC, 6 bytes each, then the EtherType.
        return _after_tags(data, start + 12, end)
    if link_type == _LINUX_SLL:
        # Linux cooked capture v1 has the EtherType in its last two of 16 bytes; v2 in its first two of 20.
        return _after_tags(data, start + 14, end)
    if link_type == _LINUX_SLL2:
        if start + 20 > end:
            return 0, CUT_OFF
        kind = _u16(data, start)
        return (start + 20, METERED) if kind == 0x0800 or kind == 0x86DD else (0, NOT_IP)
    if link_type in (_RAW, _OLD_RAW, _OPENBSD_RAW, _IPV4_ONLY, _IPV6_ONLY):
        return start, METERED
    # The family's number for IPv6 differs between systems, so it is not read: the version of the IP header tells.
    if link_type in (_NULL, _LOOP):  # an address family of 4 bytes, in either byte order
        return start + 4, METERED
    return 0, UNKNOWN_LINK


@njit(cache=True)
def _after_tags(data: NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    """Skip the EtherType at ``at`` and the VLAN tags behind it: 802.1Q, 802.1ad and the older 0x9100."""
    for _ in range(_MOST_TAGS + 1):
        if at + 2 > end:
            return 0, CUT_OFF
        kind = _u16(data, at)
        if kind == 0x0800 or kind == 0x86DD:  # IPv4, IPv6
            return at + 2, METERED
        if kind != 0x8100 and kind != 0x88A8 and kind != 0x9100:
            return 0, NOT_IP
        at += 4
    return 0, NOT_IP


@njit(cache=True)
def _ipv4(data: NDArray[np.uint8], at: int, end: int, wire_end: int, padding: bool, parts: NDArray[np.int64]) -> int:
    if at + 20 > end:
        return CUT_OFF
    header = (np.int64(data[at]) & 15) * 4  # RFC 791, 3.1: IHL counts words of 32 bits
    total = _u16(data, at + 2)
    # A total length of 0 is not broken: network cards that cut segments themselves (TSO) leave it so.
    if header < 20 or (total and total < header):
        return MALFORMED
    if at + header > end:
        return CUT_OFF
    if _u16(data, at + 6) & 0x1FFF:  # fragment offset: only the first fragment holds the transport header
        return FRAGMENT
    parts[SRC_HIGH], parts[DST_HIGH] = 0, 0
    parts[SRC_LOW] = (_u16(data, at + 12) << 16) | _u16(data, at + 14)
    parts[DST_LOW] = (_u16(data, at + 16) << 16) | _u16(data, at + 18)
    parts[VERSION] = 4
    packet_end = at + total if total and not padding else wire_end
    return _transport(data, at + header, end, packet_end, np.int64(data[at + 9]), parts)


@njit(cache=True)
def _ipv6(data: NDArray[np.uint8], at: int, end: int, wire_end: int, padding: bool, parts: NDArray[np.int64]) -> int:
    if at + 40 > end:
        return CUT_OFF
    parts[SRC_HIGH], parts[SRC_LOW] = _u64(data, at + 8), _u64(data, at + 16)
    parts[DST_HIGH], parts[DST_LOW] = _u64(data, at + 24), _u64(data, at + 32)
    parts[VERSION] = 6
    size = _u16(data, at + 4)
    packet_end = at + 40 + size if size and not padding else wire_end
    following = np.int64(data[at + 6])
    at += 40
    # RFC 8200, 4: each extension header names the type of the next one. Its length counts units of 8 bytes beyond the
    # first 8, but words of 4 bytes less 2 in an authentication header (RFC 4302, 2.2); a fragment header has none.
    for _ in range(_MOST_EXTENSIONS):
        if following == _FRAGMENT_HEADER:
            if at + 8 > end:
                return CUT_OFF
            if _u16(data, at + 2) & 0xFFF8:
                return FRAGMENT
            following, at = np.int64(data[at]), at + 8
        elif following == _AUTHENTICATION_HEADER:
            if at + 2 > end:
                return CUT_OFF
            following, at = np.int64(data[at]), at + (np.int64(data[at + 1]) + 2) * 4
        elif following == 0 or following == 43 or following == 60 or following == 135 or following == 140:
            if at + 2 > end:
                return CUT_OFF
            following, at = np.int64(data[at]), at + (np.int64(data[at + 1]) + 1) * 8
        else:
            return _transport(data, at, end, packet_end, following, parts)
    return MALFORMED


@njit(cache=True)
def _transport(
    data: NDArray[np.uint8], at: int, end: int, packet_end: int, protocol: int, parts: NDArray[np.int64]
) -> int:
    parts[PROTOCOL] = protocol
    parts[SRC_PORT], parts[DST_PORT], parts[FLAGS], parts[WINDOW] = 0, 0, 0, 0
    parts[ICMP_TYPE], parts[ICMP_CODE] = -1, -1
    parts[HEADER], parts[PAYLOAD], parts[MESSAGE] = 0, 0, packet_end - at
    if protocol == TCP:
        if at + 20 > end:
            return CUT_OFF
        header = (np.int64(data[at + 12]) >> 4) * 4  # RFC 9293, 3.1: data offset in words of 32 bits
        if header < 20:
            return MALFORMED
        parts[FLAGS] = np.int64(data[at + 13])
        parts[WINDOW] = _u16(data, at + 14)
    elif protocol == UDP:
        if at + 8 > end:
            return CUT_OFF
        header = np.int64(8)
    elif protocol == SCTP:
        if at + 12 > end:
            return CUT_OFF
        header = np.int64(12)
    else:
        if protocol in (ICMP, ICMP6):
            if at + 2 > end:
                return CUT_OFF
            parts[ICMP_TYPE], parts[ICMP_CODE] = np.int64(data[at]), np.int64(data[at + 1])
        return METERED  # no ports and no payload, as in CICFlowMeter
    # The IP header says that the packet ends before its transport header does.
    if at + header > packet_end:
        return MALFORMED
    parts[SRC_PORT], parts[DST_PORT] = _u16(data, at), _u16(data, at + 2)
    parts[HEADER], parts[PAYLOAD] = header, packet_end - at - header
    return METERED
