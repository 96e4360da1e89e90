"""Counting for :mod:`deepidea.detection.behaviour.windows`, compiled: tables of keys that forget, and rings of flows.

Every table is an array of sets of eight places. A key belongs to the set that its hash names, and takes the place of
the key that was seen longest ago where its set is full. So a table has a fixed size, a look-up reads one or two cache
lines, and nothing is ever moved. Which keys are kept depends on the flows alone, not on how they are cut into batches.

A window of length W is counted in buckets of W/2 that are aligned with the clock, and is the present bucket and the one
before: it covers between W/2 and W, and a burst that is shorter than W/2 is always whole in it. Importing this module
takes numba with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

WAYS = 8
WINDOWS_S = (10, 60, 600, 3600)
N_WINDOWS = len(WINDOWS_S)
N_SUMS = 6  # counters that add up
N_DISTINCT = 2  # counters of different values
N_COUNTS = N_SUMS + N_DISTINCT
_N_CELLS = 2 * N_COUNTS + N_DISTINCT
SOURCE, SOURCE_PORT, PAIR, SERVICE, TARGET, TARGET_PORT = range(6)  # kinds of keys
RING_FLOWS = 64
N_RING_OUT = 8

_HALF_US = np.array([500_000 * seconds for seconds in WINDOWS_S], np.int64)
_KEPT_US = 3_600_000_000  # a key that was not seen for so long begins anew
_LATE_FLOWS = 100  # so many flows in a row that ended an hour before the clock: it was wrong, and goes back
_RING = RING_FLOWS - 1  # a power of two: the place of a flow is its number, masked
_RING_FROM = 2  # sockets of a service in an hour, before a ring is taken for it
_SOCKET_US = 600_000_000  # a socket that was quiet for so long is another one
_BEAT_US = 1_000_000  # flows that begin closer together are one beat
_LEAST_BEATS = 6
_LEAST_ALIKE = 6
_SHORT_US = 30_000_000
_ALIKE = 0.2  # how far from the median a size may be, as a share
_SAME_BYTES = 16.0
_SMALL_BYTES = 72.0  # of payload: packets below 100 bytes
_MIX_1 = np.uint64(0x9E3779B97F4A7C15)
_MIX_2 = np.uint64(0xD6E8FEB86659FD93)
_IDLE = np.uint64(7)
_TCP, _ICMP = 6, 1
_N_OWN = 16
_OWN_FLOWS, _OWN_SHARE = 30, 0.3  # flows, and share of all flows between public addresses, that make one of them ours


class Keys(NamedTuple):
    """Which keys a table holds; a place is a number from 0 to ``n_places - 1``, eight of them a set."""

    names: npt.NDArray[np.uint64]  # n_places; 0 where nothing is
    seen_us: npt.NDArray[np.int64]  # n_places
    evicted: npt.NDArray[np.int64]  # 1: keys that made room before they were an hour old


class Rings(NamedTuple):
    """The latest flows of services that have had several."""

    n_flows: npt.NDArray[np.int64]  # n_places: ever put into the ring
    starts_us: npt.NDArray[np.int64]  # n_places, ring_flows
    seen_us: npt.NDArray[np.int64]  # n_places, ring_flows: clock when it was counted
    fwd: npt.NDArray[np.float32]  # n_places, ring_flows: payload bytes
    bwd: npt.NDArray[np.float32]
    lasted_us: npt.NDArray[np.float32]


class State(NamedTuple):
    """All that is remembered."""

    keys: Keys  # of all kinds together
    buckets: npt.NDArray[np.int64]  # n_places, n_windows: number of the present bucket
    cells: npt.NDArray[np.float32]  # n_places, n_windows, n_cells: present bucket, the one before, values in both
    members: Keys  # values of keys that count once
    ring_keys: Keys
    rings: Rings
    now_us: npt.NDArray[np.int64]  # 1: the clock, the latest time so far
    now: npt.NDArray[np.int64]  # n_windows: the bucket of each window that it falls into
    n_late: npt.NDArray[np.int64]  # 1: flows in a row that ended an hour before it
    own_hosts: npt.NDArray[np.uint64]  # n_own: public addresses that take part in many flows
    own_flows: npt.NDArray[np.int64]  # n_own + 1: flows of each, and last, of all of them


class Flows(NamedTuple):
    """Flows as the kernel takes them, one value a flow; sizes are payload bytes."""

    starts_us: npt.NDArray[np.int64]
    ends_us: npt.NDArray[np.int64]
    src: npt.NDArray[np.uint64]
    dst: npt.NDArray[np.uint64]
    src_ports: npt.NDArray[np.int32]
    dst_ports: npt.NDArray[np.int32]
    protocols: npt.NDArray[np.uint8]
    src_sides: npt.NDArray[np.uint8]
    dst_sides: npt.NDArray[np.uint8]
    failed: npt.NDArray[np.uint8]
    fwd_packets: npt.NDArray[np.float32]
    bwd_packets: npt.NDArray[np.float32]
    fwd_bytes: npt.NDArray[np.float32]
    bwd_bytes: npt.NDArray[np.float32]


class Wanted(NamedTuple):
    """Counts that are to be written, by kind of key: of which window, and which."""

    ends: npt.NDArray[np.int64]  # n_kinds + 1: the counts of a kind are those from its number up to the next
    windows: npt.NDArray[np.int64]  # n_wanted
    counts: npt.NDArray[np.int64]  # n_wanted


class Flow(NamedTuple):
    """One of them, as the counts take it."""

    start_us: int
    lasted_s: float
    src: np.uint64
    dst: np.uint64
    src_port: np.uint64
    port: np.uint64  # destination port and protocol as one number
    is_tcp: bool
    is_icmp: bool
    has_port: bool
    from_outside: bool
    failed: bool
    fwd_packets: np.float32
    bwd_packets: np.float32
    fwd_bytes: np.float32
    bwd_bytes: np.float32


OUTSIDE, INSIDE, GROUP, UNKNOWN = range(4)  # side of an address; a group is multicast or broadcast


def make_state(n_keys: int) -> State:
    """Return empty tables for so many keys; the system gives their memory as they fill."""
    n_rings = max(n_keys // 16, WAYS)
    ring = (n_rings, RING_FLOWS)
    rings = [np.zeros(ring, dtype) for dtype in (np.int64, np.int64, np.float32, np.float32, np.float32)]
    return State(
        _make_keys(n_keys),
        np.zeros((n_keys, N_WINDOWS), np.int64),
        np.zeros((n_keys, N_WINDOWS, _N_CELLS), np.float32),
        _make_keys(4 * n_keys),
        _make_keys(n_rings),
        Rings(np.zeros(n_rings, np.int64), *rings),
        np.zeros(1, np.int64),
        np.zeros(N_WINDOWS, np.int64),
        np.zeros(1, np.int64),
        np.zeros(_N_OWN, np.uint64),
        np.zeros(_N_OWN + 1, np.int64),
    )


def _make_keys(n_places: int) -> Keys:
    return Keys(np.zeros(n_places, np.uint64), np.zeros(n_places, np.int64), np.zeros(1, np.int64))


def evicted(state: State) -> int:
    """Return how many keys made room for others before they were an hour old."""
    return sum(int(keys.evicted[0]) for keys in (state.keys, state.members, state.ring_keys))


_WHOLE = ("now_us", "now", "n_late", "own_hosts", "own_flows")


def save_state(state: State) -> dict[str, npt.NDArray[Any]]:
    """Return what :func:`load_state` needs: of each table the places that are taken."""
    saved: dict[str, npt.NDArray[Any]] = {name: getattr(state, name) for name in _WHOLE}
    for name, keys, arrays in _tables(state):
        taken = np.flatnonzero(keys.names)
        saved |= {f"{name}.places": taken, f"{name}.evicted": keys.evicted}
        saved |= {f"{name}.{at}": array[taken] for at, array in enumerate(arrays)}
    return saved


def load_state(saved: Mapping[str, npt.NDArray[Any]], n_keys: int) -> State:
    """Return tables as :func:`save_state` found them.

    Raises
    ------
    ValueError
        The arrays do not fit the tables.
    """
    state = make_state(n_keys)
    for name in _WHOLE:
        _fill(getattr(state, name), slice(None), saved[name])
    for name, keys, arrays in _tables(state):
        places = saved[f"{name}.places"]
        if len(places) and not 0 <= int(places.min()) <= int(places.max()) < len(keys.names):
            raise ValueError(f"places of {name} do not fit into {len(keys.names)}")
        _fill(keys.evicted, slice(None), saved[f"{name}.evicted"])
        for at, array in enumerate(arrays):
            _fill(array, places, saved[f"{name}.{at}"])
    return state


def _fill(array: npt.NDArray[Any], places: Any, saved: npt.NDArray[Any]) -> None:
    """Write saved values to their places; numpy alone would stretch and round what does not fit."""
    if saved.dtype != array.dtype or saved.shape != array[places].shape:
        raise ValueError(f"saved {saved.dtype} {saved.shape} does not fit {array.dtype} {array[places].shape}")
    array[places] = saved


def _tables(state: State) -> list[tuple[str, Keys, list[npt.NDArray[Any]]]]:
    """Return name, keys and arrays by place of each table."""
    of_keys: dict[str, list[npt.NDArray[Any]]] = {
        "keys": [state.buckets, state.cells], "members": [], "ring_keys": list(state.rings)
    }  # fmt: skip
    tables = [(name, getattr(state, name), more) for name, more in of_keys.items()]
    return [(name, keys, [keys.names, keys.seen_us, *more]) for name, keys, more in tables]


@njit(cache=True)
def _mixed(a: np.uint64, b: np.uint64) -> np.uint64:
    """Return a hash of two numbers in this order; never 0, which marks an empty place."""
    x = (a ^ (b * _MIX_1)) * _MIX_2
    x ^= x >> np.uint64(32)
    x *= _MIX_1
    x ^= x >> np.uint64(29)
    return x | np.uint64(1)


@njit(cache=True, inline="always")
def _place_of(keys: Keys, name: np.uint64, now_us: int) -> tuple[int, int]:
    """Return the place of a key and when it was seen last, -1 where it begins here; it counts as seen now."""
    first = int((name * _MIX_2) >> np.uint64(33)) & (len(keys.names) - WAYS)
    place, oldest_us = first, keys.seen_us[first]
    for at in range(first, first + WAYS):
        last_us = keys.seen_us[at]
        if last_us > now_us:  # of a clock that was wrong
            last_us = np.int64(-_KEPT_US - 1)
        if keys.names[at] == name:
            keys.seen_us[at] = now_us
            return at, (last_us if now_us - last_us <= _KEPT_US else -1)
        if keys.names[at] == 0:  # places of a set fill from the first on: the key is in none behind
            place, oldest_us = at, np.int64(-_KEPT_US - 1)
            break
        if last_us < oldest_us:
            place, oldest_us = at, last_us
    if keys.names[place] != 0 and now_us - oldest_us <= _KEPT_US:
        keys.evicted[0] += 1
    keys.names[place] = name
    keys.seen_us[place] = now_us
    return place, -1


@njit(cache=True, inline="always")
def _enter(state: State, name: np.uint64) -> int:
    """Return the place of a key, with its buckets moved on to now."""
    place, last_us = _place_of(state.keys, name, state.now_us[0])
    for window in range(N_WINDOWS):
        passed = state.now[window] - state.buckets[place, window]
        if last_us >= 0 and passed == 0:
            continue
        state.buckets[place, window] = state.now[window]
        cells = state.cells[place, window]
        for at in range(N_COUNTS):
            cells[N_COUNTS + at] = cells[at] if last_us >= 0 and passed == 1 else np.float32(0)
            cells[at] = 0
        cells[2 * N_COUNTS :] = 0
    return place


@njit(cache=True, inline="always")
def _count(cells: npt.NDArray[np.float32], which: int, amount: float) -> None:
    """Add to a counter of a key in all its windows."""
    for window in range(N_WINDOWS):
        cells[window, which] += np.float32(amount)


# Distinct values without a set for each key: one table remembers when each (key, value) was last seen. In every window
# that time says whether the present bucket has counted the value already, or the one before, or neither.
@njit(cache=True, inline="always")
def _count_once(state: State, place: int, which: int, member: np.uint64) -> None:
    """Count a value of a key once in each bucket."""
    name = _mixed(member, state.keys.names[place] + np.uint64(which))
    _, last_us = _place_of(state.members, name, state.now_us[0])
    cells = state.cells[place]
    for window in range(N_WINDOWS):
        last = last_us // _HALF_US[window] if last_us >= 0 else -2
        if last != state.now[window]:
            cells[window, N_SUMS + which] += 1
            if last == state.now[window] - 1:
                cells[window, 2 * N_COUNTS + which] += 1


@njit(cache=True, inline="always")
def _write(state: State, place: int, kind: int, wanted: Wanted, out: npt.NDArray[np.float32]) -> None:
    """Write those counts of a key that are wanted: the present bucket and the one before, shared values once."""
    cells = state.cells[place]
    for at in range(wanted.ends[kind], wanted.ends[kind + 1]):
        window, which = wanted.windows[at], wanted.counts[at]
        value = cells[window, which] + cells[window, N_COUNTS + which]
        if which >= N_SUMS:
            value -= cells[window, N_COUNTS + N_DISTINCT + which]
        out[at] = value


# --- regularity and likeness of a service's flows --------------------------------------------------------------------


@njit(cache=True)
def _put(state: State, name: np.uint64, flow: Flow) -> int:
    """Put a flow into the ring of its service, and return its place."""
    place, last_us = _place_of(state.ring_keys, name, state.now_us[0])
    rings = state.rings
    if last_us < 0:
        rings.n_flows[place] = 0
    at = rings.n_flows[place] & _RING
    rings.starts_us[place, at] = flow.start_us
    rings.seen_us[place, at] = state.now_us[0]
    rings.fwd[place, at] = flow.fwd_bytes
    rings.bwd[place, at] = flow.bwd_bytes
    rings.lasted_us[place, at] = np.float32(1e6 * flow.lasted_s)
    rings.n_flows[place] += 1
    return place


@njit(cache=True)
def _n_alike(rings: Rings, place: int, now_us: int, window_us: int, out: npt.NDArray[np.float32]) -> None:
    """Write how many short flows with payload both ways a window holds, and how many are of about the median size."""
    n_flows = rings.n_flows[place]
    fwd, bwd = np.empty(RING_FLOWS, np.float32), np.empty(RING_FLOWS, np.float32)
    n = 0
    for number in range(n_flows - 1, max(n_flows - RING_FLOWS, 0) - 1, -1):
        at = number & _RING
        if rings.seen_us[place, at] < now_us - window_us:
            break
        short = rings.lasted_us[place, at] <= _SHORT_US
        if short and rings.fwd[place, at] > 0 and rings.bwd[place, at] > 0:
            fwd[n], bwd[n] = rings.fwd[place, at], rings.bwd[place, at]
            n += 1
    out[0] = n
    if n < _LEAST_ALIKE:
        return
    out_mid, back_mid = np.median(fwd[:n]), np.median(bwd[:n])
    alike = 0
    for i in range(n):
        near = abs(fwd[i] - out_mid) <= _ALIKE * out_mid and abs(bwd[i] - back_mid) <= _ALIKE * back_mid
        alike += near
    out[1] = alike


@njit(cache=True)
def _regularity(rings: Rings, place: int, out: npt.NDArray[np.float32]) -> None:
    """Write of the latest flows: beats, median gap in seconds, its relative deviation, share of beats of one size."""
    n_flows = rings.n_flows[place]
    times, sizes = np.empty(RING_FLOWS, np.int64), np.empty(RING_FLOWS, np.float32)
    n = 0
    for number in range(max(n_flows - RING_FLOWS, 0), n_flows):
        at = number & _RING
        start = rings.starts_us[place, at]
        if n and start - times[n - 1] < _BEAT_US:
            continue
        times[n], sizes[n] = start, rings.fwd[place, at]
        n += 1
    out[0] = n
    if n < _LEAST_BEATS:
        return
    gaps = (times[1:n] - times[: n - 1]) / 1e6
    gap, size = np.median(gaps), np.median(sizes[:n])
    out[1] = gap
    out[2] = np.median(np.abs(gaps - gap)) / gap
    same = 0
    for i in range(n):
        same += abs(sizes[i] - size) <= _SAME_BYTES
    out[3] = same / n


@njit(cache=True)
def _write_ring(rings: Rings, place: int, now_us: int, out: npt.NDArray[np.float32]) -> None:
    """Write what a service's flows have in common; at every flow of few, and at every sixteenth of many."""
    n_flows = rings.n_flows[place]
    if n_flows < _LEAST_BEATS or (n_flows > RING_FLOWS and n_flows % 16):
        return
    _n_alike(rings, place, now_us, 60_000_000, out[:2])
    _n_alike(rings, place, now_us, 600_000_000, out[2:4])
    _regularity(rings, place, out[4:])


# --- a flow ----------------------------------------------------------------------------------------------------------


@njit(cache=True, inline="always")
def _flow_at(flows: Flows, row: int) -> Flow:
    port = np.uint64(flows.dst_ports[row] + 2) | (np.uint64(flows.protocols[row]) << np.uint64(32))
    return Flow(
        flows.starts_us[row],
        (flows.ends_us[row] - flows.starts_us[row]) / 1e6,
        flows.src[row],
        flows.dst[row],
        np.uint64(flows.src_ports[row] + 2),
        port,
        flows.protocols[row] == _TCP,
        flows.protocols[row] == _ICMP,
        flows.dst_ports[row] >= 0,
        flows.src_sides[row] == OUTSIDE,
        flows.failed[row] != 0,
        flows.fwd_packets[row],
        flows.bwd_packets[row],
        flows.fwd_bytes[row],
        flows.bwd_bytes[row],
    )


@njit(cache=True)
def _is_reversed(flow: Flow) -> bool:
    """Return whether the flood, if it is one, comes from the side that did not begin."""
    return not flow.is_tcp and flow.bwd_packets > 4 * flow.fwd_packets


@njit(cache=True)
def _small_packets(flow: Flow) -> float:
    """Return the small packets of the side that sends more: of a long flow as many as fall into ten seconds."""
    packets, size = flow.fwd_packets, flow.fwd_bytes
    if _is_reversed(flow):
        packets, size = flow.bwd_packets, flow.bwd_bytes
    elif flow.is_tcp and (2 * flow.bwd_packets >= packets or size > 0):
        return 0.0  # a download is acknowledged by small packets, too
    in_window = packets * min(1.0, 10.0 / max(flow.lasted_s, 1e-6))
    return in_window if flow.is_icmp or size <= _SMALL_BYTES * packets else 0.0  # no size of ping is a lot of data


@njit(cache=True, inline="always")
def _count_source(state: State, flow: Flow, wanted: Wanted, out: npt.NDArray[np.float32]) -> None:
    """Sums: flows, failed; different: failing (host, port), failing hosts."""
    place = _enter(state, _mixed(flow.src, np.uint64(SOURCE)))
    _count(state.cells[place], 0, 1.0)
    if flow.failed:
        _count(state.cells[place], 1, 1.0)
        _count_once(state, place, 0, _mixed(flow.dst, flow.port))
        _count_once(state, place, 1, flow.dst)
    _write(state, place, SOURCE, wanted, out)


@njit(cache=True, inline="always")
def _count_source_port(state: State, flow: Flow, wanted: Wanted, out: npt.NDArray[np.float32]) -> None:
    """Sums: flows, failed, packets of failed ones; different: failing hosts."""
    place = _enter(state, _mixed(flow.src, flow.port << np.uint64(4) | np.uint64(SOURCE_PORT)))
    _count(state.cells[place], 0, 1.0)
    if flow.failed:
        _count(state.cells[place], 1, 1.0)
        _count(state.cells[place], 2, flow.fwd_packets)
        _count_once(state, place, 0, flow.dst)
    _write(state, place, SOURCE_PORT, wanted, out)


@njit(cache=True, inline="always")
def _count_pair(state: State, flow: Flow, wanted: Wanted, out: npt.NDArray[np.float32]) -> None:
    """Sums: flows, failed, -, bytes sent, bytes answered; different: failing ports."""
    place = _enter(state, _mixed(_mixed(flow.src, flow.dst), np.uint64(PAIR)))
    _count(state.cells[place], 0, 1.0)
    _count(state.cells[place], 3, flow.fwd_bytes)
    _count(state.cells[place], 4, flow.bwd_bytes)
    if flow.failed:
        _count(state.cells[place], 1, 1.0)
        if flow.has_port:
            _count_once(state, place, 0, flow.port)
    _write(state, place, PAIR, wanted, out)


@njit(cache=True, inline="always")
def _count_service(state: State, flow: Flow, wanted: Wanted, out: npt.NDArray[np.float32]) -> None:
    """Sums: sockets, failed, small packets, bytes sent, bytes answered, packets sent; different: idle sockets.

    A socket is **idle** where it stayed open for ten seconds, and next to nothing came in that time.
    """
    name = _mixed(_mixed(flow.src, flow.dst), flow.port << np.uint64(4) | np.uint64(SERVICE))
    place = _enter(state, name)
    # A socket goes on in several flows where a meter cuts long ones, or one asks again and again: it counts once.
    last_us = _place_of(state.members, _mixed(flow.src_port, name), state.now_us[0])[1]
    is_new = last_us < 0 or state.now_us[0] - last_us > _SOCKET_US
    cells = state.cells[place]
    _count(cells, 0, np.float32(is_new))
    _count(cells, 1, np.float32(flow.failed))
    _count(cells, 2, _small_packets(flow))
    _count(cells, 3, flow.fwd_bytes)
    _count(cells, 4, flow.bwd_bytes)
    _count(cells, 5, flow.fwd_packets)
    if flow.lasted_s >= 10 and flow.fwd_bytes <= 100 * flow.lasted_s and flow.bwd_bytes <= 1000:
        _count_once(state, place, 0, _mixed(flow.src_port, _IDLE))  # the port alone names the socket above
    _write(state, place, SERVICE, wanted, out)
    if is_new and cells[N_WINDOWS - 1, 0] + cells[N_WINDOWS - 1, N_COUNTS] >= _RING_FROM:
        _write_ring(state.rings, _put(state, name, flow), state.now_us[0], out[wanted.ends[-1] :])


@njit(cache=True, inline="always")
def _count_target(state: State, flow: Flow, wanted: Wanted, out: npt.NDArray[np.float32]) -> None:
    """Sums: flows, failed, unanswered small packets; different: outside sources that failed."""
    host = flow.src if _is_reversed(flow) else flow.dst
    place = _enter(state, _mixed(host, np.uint64(TARGET)))
    _count(state.cells[place], 0, 1.0)
    unanswered = 2 * min(flow.fwd_packets, flow.bwd_packets) < max(flow.fwd_packets, flow.bwd_packets)
    if unanswered or flow.is_icmp:
        _count(state.cells[place], 2, _small_packets(flow))
    if flow.failed:
        _count(state.cells[place], 1, 1.0)
        if flow.from_outside:
            _count_once(state, place, 0, flow.src)
    _write(state, place, TARGET, wanted, out)


@njit(cache=True, inline="always")
def _count_target_port(state: State, flow: Flow, wanted: Wanted, out: npt.NDArray[np.float32]) -> None:
    """Sums: flows, empty ones; different: sources of empty ones. A flow is **empty** without payload either way."""
    place = _enter(state, _mixed(flow.dst, flow.port << np.uint64(4) | np.uint64(TARGET_PORT)))
    _count(state.cells[place], 0, 1.0)
    if flow.failed or flow.fwd_bytes + flow.bwd_bytes == 0:
        _count(state.cells[place], 1, 1.0)
        _count_once(state, place, 0, flow.src)
    _write(state, place, TARGET_PORT, wanted, out)


# A sensor sees flows of the hosts that it watches. Where both ends are public, the end that takes part in many of such
# flows is one of them. The frequent addresses are kept by Misra and Gries (1982): none that has more than a
# seventeenth of the flows is missed, and memory does not grow.
@njit(cache=True, inline="always")
def _count_own(state: State, host: np.uint64) -> bool:
    """Count a public address, and return whether it is taken for one of the site's own."""
    hosts, flows = state.own_hosts, state.own_flows
    free = -1
    for at in range(_N_OWN):
        if flows[at] and hosts[at] == host:
            flows[at] += 1
            return flows[at] >= _OWN_FLOWS and flows[at] >= _OWN_SHARE * flows[_N_OWN]
        if flows[at] == 0:
            free = at
    if free >= 0:
        hosts[free], flows[free] = host, 1
    else:
        flows[:_N_OWN] -= 1
    return False


@njit(cache=True, inline="always")
def _find_own(state: State, flows: Flows, row: int) -> None:
    """Mark an end of a flow between public addresses as inside, where the site's own hosts can be told."""
    if flows.src_sides[row] != OUTSIDE or flows.dst_sides[row] != OUTSIDE:
        return
    state.own_flows[_N_OWN] += 1
    src, dst = _count_own(state, flows.src[row]), _count_own(state, flows.dst[row])
    if src:
        flows.src_sides[row] = INSIDE
    if dst:
        flows.dst_sides[row] = INSIDE


@njit(cache=True, inline="always")
def _move_clock(state: State, time_us: int) -> None:
    """Let the clock stand at the latest time so far; back again after one far ahead, or where an older file follows.

    0 is an unknown time.
    """
    if time_us == 0:
        return
    state.n_late[0] = state.n_late[0] + 1 if time_us < state.now_us[0] - _KEPT_US else 0
    if time_us > state.now_us[0] or state.n_late[0] >= _LATE_FLOWS:
        state.now_us[0], state.n_late[0] = time_us, 0
        for window in range(N_WINDOWS):
            state.now[window] = time_us // _HALF_US[window]


@njit(cache=True)
def add_flows(
    state: State,
    flows: Flows,
    find_own: bool,
    wanted: Wanted,
    clocks_us: npt.NDArray[np.int64],
    out: npt.NDArray[np.float32],
) -> None:
    """Take flows in the order in which they ended, and write what the windows of their keys hold with each of them.

    Parameters
    ----------
    state
        Changed in place.
    flows
        ``(n_flows,)``; nothing is counted of one whose source is unknown. Sides are changed in place.
    find_own
        Whether public addresses that take part in many flows count as inside.
    wanted
        Counts to be written.
    clocks_us
        ``(n_flows,)``, written: when each flow counts as ended.
    out
        ``(n_flows, n_wanted + N_RING_OUT)``, filled with NaN before: the wanted counts, then what the ring of the
        service says.
    """
    for row in range(len(flows.ends_us)):
        _move_clock(state, flows.ends_us[row])
        clocks_us[row], cells = state.now_us[0], out[row]
        if flows.src_sides[row] == UNKNOWN:
            continue
        if find_own:
            _find_own(state, flows, row)
        flow = _flow_at(flows, row)
        if wanted.ends[SOURCE + 1]:
            _count_source(state, flow, wanted, cells)
        _count_source_port(state, flow, wanted, cells)
        _count_pair(state, flow, wanted, cells)
        _count_service(state, flow, wanted, cells)
        _count_target(state, flow, wanted, cells)
        _count_target_port(state, flow, wanted, cells)
