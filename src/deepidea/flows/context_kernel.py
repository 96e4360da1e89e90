"""The compiled part of `deepidea.flows.context`: what each host did lately, one flow at a time.

Of each host the latest flows stand in a ring, and each window is the part of the ring from its first flow on. A value
is counted once in a window because only its latest flow is marked: a new flow takes the mark from the flow before with
the same value, and a flow that leaves a window takes its mark out of the count. Importing this module takes numba
with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

RING_FLOWS = 256
_RING = RING_FLOWS - 1  # a power of two: the place of a flow is its number, masked
N_WINDOWS = 3  # 2 s, 60 s, 100 flows
N_OUT = 12
_WINDOW_US = np.array([2_000_000, 60_000_000])
_WINDOW_FLOWS = 100
_LEAST_SPAN_S = 1e-3
# _FAILED is 1, so that the mark itself can be subtracted from a count; the others are divided by their own value.
_FAILED, _LAST_OF_PORT, _LAST_OF_PEER = 1, 2, 4  # what a flow in a ring is marked with
_EMPTY = -1
_NO_PORT = -1
# Fibonacci hashing: the upper bits of a product depend on all bits of the name.
_MIX = np.uint64(0x9E3779B97F4A7C15)


Cells = npt.NDArray[np.int64]
_WINDOW_COUNTS = ("first", "n_ports", "n_peers", "n_failed")
_RINGS = ("times_us", "ports", "peers", "marks")


# Three structures over the same slots. The hash table `places` finds the slot of a name. `before` and `after` link the
# slots in the order of their last use, as a ring that `max_hosts` closes: after[max_hosts] is the host not seen for
# longest. Of each slot, the rings hold its last 256 flows; flow number n stands in cell n & 255, so nothing is ever
# moved.
class Hosts(NamedTuple):
    """What is kept of hosts in one role; slot ``max_hosts`` is the end of the list by last use."""

    places: npt.NDArray[np.int32]  # n_places: slot of the host that hashes there, -1 where none does
    names: npt.NDArray[np.uint64]  # max_hosts
    before: npt.NDArray[np.int32]  # max_hosts + 1: seen just before
    after: npt.NDArray[np.int32]  # max_hosts + 1: seen just after
    n_hosts: npt.NDArray[np.int64]  # hosts kept, hosts evicted
    n_flows: npt.NDArray[np.int64]  # max_hosts: flows ever put into the ring
    first: npt.NDArray[np.int64]  # max_hosts, n_windows: number of the first flow in each window
    n_ports: npt.NDArray[np.int32]  # max_hosts, n_windows
    n_peers: npt.NDArray[np.int32]
    n_failed: npt.NDArray[np.int32]
    times_us: npt.NDArray[np.int64]  # max_hosts, ring_flows
    ports: npt.NDArray[np.int32]
    peers: npt.NDArray[np.uint64]
    marks: npt.NDArray[np.uint8]


def make_hosts(max_hosts: int) -> Hosts:
    """Return room for so many hosts; the system gives the memory when a host first needs it."""
    # At most half full, so that probes stay short and always meet an empty place.
    n_places = 1 << (2 * max_hosts - 1).bit_length()
    ends = np.full(max_hosts + 1, max_hosts, np.int32)
    windows, rings = (max_hosts, N_WINDOWS), (max_hosts, RING_FLOWS)
    return Hosts(
        np.full(n_places, _EMPTY, np.int32),
        np.zeros(max_hosts, np.uint64),
        ends,
        ends.copy(),
        np.zeros(2, np.int64),
        np.zeros(max_hosts, np.int64),
        np.zeros(windows, np.int64),
        np.zeros(windows, np.int32),
        np.zeros(windows, np.int32),
        np.zeros(windows, np.int32),
        np.zeros(rings, np.int64),
        np.zeros(rings, np.int32),
        np.zeros(rings, np.uint64),
        np.zeros(rings, np.uint8),
    )


def save_hosts(hosts: Hosts, prefix: str) -> dict[str, npt.NDArray[Any]]:
    """Return all that `load_hosts` needs: the hosts that are kept, and of their rings what a window still holds."""
    n = int(hosts.n_hosts[0])
    end = len(hosts.names)
    # Flows that no window holds any more are not saved: most hosts have a handful of flows, and a ring has 256 cells.
    oldest = hosts.first[:n].min(axis=1) if n else np.zeros(0, np.int64)
    kept = hosts.n_flows[:n] - oldest
    slots, numbers = _ring_cells(oldest, kept)
    cells = {name: getattr(hosts, name)[slots, numbers & _RING] for name in _RINGS}
    links = {name: np.append(getattr(hosts, name)[:n], getattr(hosts, name)[end]) for name in ("before", "after")}
    whole = {name: getattr(hosts, name)[:n] for name in ("names", "n_flows", *_WINDOW_COUNTS)}
    return {prefix + name: array for name, array in {"n_hosts": hosts.n_hosts, **links, **whole, **cells}.items()}


def load_hosts(saved: Mapping[str, npt.NDArray[Any]], prefix: str, max_hosts: int) -> Hosts:
    """Return hosts as `save_hosts` found them.

    Raises
    ------
    ValueError
        The arrays do not fit each other or the number of hosts.
    """
    hosts = make_hosts(max_hosts)
    n = int(saved[prefix + "n_hosts"][0])
    if not 0 <= n <= max_hosts:
        raise ValueError(f"{n} hosts do not fit into {max_hosts}")
    hosts.n_hosts[:] = saved[prefix + "n_hosts"]
    for name in ("names", "n_flows", *_WINDOW_COUNTS):
        getattr(hosts, name)[:n] = saved[prefix + name]
    for name in ("before", "after"):
        links = saved[prefix + name]  # a ring through all hosts and the end of the list, slot max_hosts
        # A damaged order would let the kernel, which checks no index, write anywhere.
        if sorted(links.tolist()) != [*range(n), max_hosts]:
            raise ValueError(f"the order of hosts is damaged: {name}")
        getattr(hosts, name)[:n], getattr(hosts, name)[max_hosts] = links[:-1], links[-1]
    oldest = hosts.first[:n].min(axis=1) if n else np.zeros(0, np.int64)
    slots, numbers = _ring_cells(oldest, hosts.n_flows[:n] - oldest)
    for name in _RINGS:
        getattr(hosts, name)[slots, numbers & _RING] = saved[prefix + name]
    # The hash table is not saved: it follows from the names.
    _fill_places(hosts, n)
    return hosts


def _ring_cells(oldest: npt.NDArray[np.int64], kept: npt.NDArray[np.int64]) -> tuple[Cells, Cells]:
    """Return slot and number of every flow that a window still holds, host after host."""
    if kept.min(initial=0) < 0 or kept.max(initial=0) > RING_FLOWS:
        raise ValueError("more flows of a host are kept than its ring holds")
    slots = np.repeat(np.arange(len(kept)), kept)
    starts = np.repeat(np.cumsum(kept) - kept, kept)
    return slots, np.repeat(oldest, kept) + np.arange(len(slots)) - starts


@njit(cache=True)
def _fill_places(hosts: Hosts, n: int) -> None:
    for slot in range(n):
        hosts.places[_place_of(hosts, hosts.names[slot])] = slot


@njit(cache=True)
def _place_of(hosts: Hosts, name: np.uint64) -> int:
    """Return the place where a host stands, or would stand."""
    mask = len(hosts.places) - 1
    place = int((name * _MIX) >> np.uint64(32)) & mask
    while hosts.places[place] != _EMPTY and hosts.names[hosts.places[place]] != name:
        place = (place + 1) & mask
    return place


@njit(cache=True)
def _forget(hosts: Hosts, name: np.uint64) -> None:
    """Free the place of a host and move up those that stand behind it for want of their own place."""
    mask = len(hosts.places) - 1
    free = _place_of(hosts, name)
    at = free
    while True:
        at = (at + 1) & mask
        slot = hosts.places[at]
        if slot == _EMPTY:
            break
        own = int((hosts.names[slot] * _MIX) >> np.uint64(32)) & mask
        # Deletion without tombstones (Knuth 6.4, algorithm R): what stands here may move into the gap unless its own
        # place lies behind the gap, where a search for it would begin too late.
        if ((at - own) & mask) >= ((at - free) & mask):
            hosts.places[free] = slot
            free = at
    hosts.places[free] = _EMPTY


@njit(cache=True)
def _unlink(hosts: Hosts, slot: int) -> None:
    # The end of the list is a slot like any other, so that neither end needs a case of its own.
    hosts.after[hosts.before[slot]] = hosts.after[slot]
    hosts.before[hosts.after[slot]] = hosts.before[slot]


@njit(cache=True)
def _link_last(hosts: Hosts, slot: int) -> None:
    end = len(hosts.names)
    hosts.before[slot] = hosts.before[end]
    hosts.after[slot] = end
    hosts.after[hosts.before[end]] = slot
    hosts.before[end] = slot


@njit(cache=True)
def _new_slot(hosts: Hosts) -> int:
    """Return a slot for a new host: a fresh one, or that of the host not seen for longest."""
    end = len(hosts.names)
    if hosts.n_hosts[0] < end:
        hosts.n_hosts[0] += 1
        return int(hosts.n_hosts[0]) - 1
    slot = int(hosts.after[end])
    # Out of the hash table first: that needs the name of the host that goes.
    _forget(hosts, hosts.names[slot])
    _unlink(hosts, slot)
    hosts.n_hosts[1] += 1
    hosts.n_flows[slot] = 0
    hosts.first[slot, :] = 0
    hosts.n_ports[slot, :] = 0
    hosts.n_peers[slot, :] = 0
    hosts.n_failed[slot, :] = 0
    return slot


@njit(cache=True)
def _slot_of(hosts: Hosts, name: np.uint64) -> int:
    """Return the slot of a host, which is now the one seen last."""
    slot = int(hosts.places[_place_of(hosts, name)])
    if slot == _EMPTY:
        slot = _new_slot(hosts)
        hosts.names[slot] = name
        hosts.places[_place_of(hosts, name)] = slot
    else:
        _unlink(hosts, slot)
    _link_last(hosts, slot)
    return slot


@njit(cache=True)
def _leave(hosts: Hosts, slot: int, window: int, until: int) -> None:
    """Take the flows before a number out of a window."""
    # A flow takes its marks along: where the same port came again later, the mark has moved to that flow and stays.
    for number in range(hosts.first[slot, window], until):
        marks = hosts.marks[slot, number & _RING]
        hosts.n_failed[slot, window] -= marks & _FAILED
        hosts.n_ports[slot, window] -= (marks & _LAST_OF_PORT) // _LAST_OF_PORT
        hosts.n_peers[slot, window] -= (marks & _LAST_OF_PEER) // _LAST_OF_PEER
    hosts.first[slot, window] = max(hosts.first[slot, window], until)


@njit(cache=True)
def _move_windows(hosts: Hosts, slot: int, now_us: int) -> None:
    """Let every window end at the flow that comes next, and take out what is too old for it or for the ring."""
    number = hosts.n_flows[slot]
    for window in range(len(_WINDOW_US)):
        # The ring has room for the new flow only if the flow 256 before it has left every window.
        until = max(hosts.first[slot, window], number + 1 - RING_FLOWS)
        while until < number and hosts.times_us[slot, until & _RING] < now_us - _WINDOW_US[window]:
            until += 1
        _leave(hosts, slot, window, until)
    # The third window counts flows, not time; its 100 fit into the ring.
    _leave(hosts, slot, len(_WINDOW_US), number + 1 - _WINDOW_FLOWS)


# Invariant: in a window, exactly the latest flow of each port, and of each peer, has the mark. So a window's count of
# ports is its number of marks, and leaving needs no search. A search back to the last flow of the same value happens
# once, when a flow comes, over the longest window at most.
@njit(cache=True)
def _put(hosts: Hosts, slot: int, now_us: int, port: int, peer: np.uint64, failed: int) -> None:
    """Put a flow into the ring of a host and into its windows."""
    number = hosts.n_flows[slot]
    oldest = hosts.first[slot].min()
    # The search ends when both are found: hosts with many flows mostly repeat themselves soon.
    port_before, peer_before = _EMPTY, _EMPTY
    earlier = number - 1
    while earlier >= oldest and (port_before == _EMPTY or peer_before == _EMPTY):
        at = earlier & _RING
        if port_before == _EMPTY and hosts.ports[slot, at] == port:
            port_before = earlier
        if peer_before == _EMPTY and hosts.peers[slot, at] == peer:
            peer_before = earlier
        earlier -= 1
    if port_before != _EMPTY:
        hosts.marks[slot, port_before & _RING] &= 255 - _LAST_OF_PORT
    if peer_before != _EMPTY:
        hosts.marks[slot, peer_before & _RING] &= 255 - _LAST_OF_PEER
    for window in range(N_WINDOWS):
        # New to a window is what was last seen before its first flow, or never.
        hosts.n_ports[slot, window] += port != _NO_PORT and port_before < hosts.first[slot, window]
        hosts.n_peers[slot, window] += peer_before < hosts.first[slot, window]
        hosts.n_failed[slot, window] += failed
    at = number & _RING
    hosts.times_us[slot, at] = now_us
    hosts.ports[slot, at] = port
    hosts.peers[slot, at] = peer
    hosts.marks[slot, at] = failed + (_LAST_OF_PORT if port != _NO_PORT else 0) + _LAST_OF_PEER
    hosts.n_flows[slot] = number + 1


@njit(cache=True)
def _tell(hosts: Hosts, slot: int, now_us: int, out: npt.NDArray[np.float64]) -> None:
    """Write what the windows of a host hold: `N_OUT` values in the order of `deepidea.flows.context`."""
    n_flows = hosts.n_flows[slot]
    at = 0
    for window in range(N_WINDOWS):
        n_in_window = n_flows - hosts.first[slot, window]
        out[at] = hosts.n_ports[slot, window]
        out[at + 1] = hosts.n_peers[slot, window]
        out[at + 2] = n_in_window
        # At least the flow itself is in each window: no division by 0.
        out[at + 3] = hosts.n_failed[slot, window] / n_in_window
        at += 4
    first = hosts.first[slot, N_WINDOWS - 1]
    span_s = (now_us - hosts.times_us[slot, first & _RING]) / 1e6
    out[at - 2] = (n_flows - first - 1) / max(span_s, _LEAST_SPAN_S)  # in place of how many: at most 100


@njit(cache=True)
def _add_one(
    hosts: Hosts,
    name: np.uint64,
    now_us: int,
    port: int,
    peer: np.uint64,
    failed: int,
    out: npt.NDArray[np.float64],
) -> None:
    slot = _slot_of(hosts, name)
    _move_windows(hosts, slot, now_us)
    _put(hosts, slot, now_us, port, peer, failed)
    _tell(hosts, slot, now_us, out)


@njit(cache=True)
def add_flows(
    sources: Hosts,
    targets: Hosts,
    clock_us: int,
    ends_us: npt.NDArray[np.int64],
    src: npt.NDArray[np.uint64],
    dst: npt.NDArray[np.uint64],
    known: npt.NDArray[np.bool_],
    ports: npt.NDArray[np.int32],
    failed: npt.NDArray[np.uint8],
    out: npt.NDArray[np.float64],
) -> int:
    """Take flows in order; write what is told of each, and return the time of the latest.

    Parameters
    ----------
    sources, targets
        Hosts that open flows, and hosts that flows are opened to; changed in place.
    clock_us
        Time of the latest flow before.
    ends_us, src, dst, known, ports, failed
        One value a flow; `known` is False where an address is missing, `ports` -1 where there is none.
    out
        n_flows, 2 * N_OUT: first of the source, then of the target; not written where an address is missing.
    """
    for row in range(len(ends_us)):
        # Flows come in the order of their ends, but for a little; a late one is counted as of now, since windows only
        # go forward.
        clock_us = max(clock_us, ends_us[row])
        if known[row]:
            port, bad = int(ports[row]), int(failed[row])
            _add_one(sources, src[row], clock_us, port, dst[row], bad, out[row, :N_OUT])
            _add_one(targets, dst[row], clock_us, port, src[row], bad, out[row, N_OUT:])
    return clock_us
