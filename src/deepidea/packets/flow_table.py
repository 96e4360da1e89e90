"""The compiled heart of the meter: a table of flows, and what a packet does to it.

Everything is kept in arrays, one row a flow, so that a file, a replay and a live interface go through the same code and
give the same rows, whatever the blocks in which packets come. Time is that of the packets alone.

Where flows begin and end follows the corrected CICFlowMeter (Engelen et al. 2021): a flow ends when both sides have
sent FIN and the last was acknowledged, at RST, or when it is older than the time-out; a TCP flow that goes on after the
time-out, and a UDP flow without a gap as long as it, keep their direction. It differs where a live meter must: a flow
that ended is exported after a short linger, not when its next packet happens to come; see docs/meter.md.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from deepidea.packets import dissect as d
from deepidea.packets.dissect import dissect

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# --- columns of a flow, int64 ----------------------------------------------------------------------------------------
# Who: source and destination of the first packet, as the dissected packet has them.
SRC_HIGH, SRC_LOW, DST_HIGH, DST_LOW, SRC_PORT, DST_PORT, VERSION, PROTOCOL = range(8)
# Where it stands: in the table, and in the lists.
STATUS, TCP_STATE, SERIAL, DEADLINE, SNAPSHOT_AT = range(8, 13)
BEFORE, AFTER, BEFORE_SNAPSHOT, AFTER_SNAPSHOT = range(13, 17)
# Times, us.
START, LAST, FWD_FIRST, FWD_LAST, BWD_FIRST, BWD_LAST, EARLIER, WHY = range(17, 25)
# Packets and bytes; of each pair, forward stands first.
FWD_N, BWD_N, FWD_BYTES, BWD_BYTES, FWD_MAX, BWD_MAX, FWD_MIN, BWD_MIN, FWD_HEADER, BWD_HEADER = range(25, 35)
FWD_PSH, BWD_PSH, FWD_URG, BWD_URG, FWD_RST, BWD_RST, FWD_FIN, BWD_FIN = range(35, 43)
FWD_WINDOW, BWD_WINDOW, BWD_WINDOW_LAST, FWD_DATA, SEGMENT_MIN = range(43, 48)
FIRST_FLAGS, FIRST_PAYLOAD, FIRST_FORWARD = range(48, 51)
N_FLAG = 51  # packets with each of eight flags, in the order of their bits
# Gaps between packets: of all, forward, backward.
IAT_MAX, IAT_MIN, FWD_IAT_MAX, FWD_IAT_MIN, BWD_IAT_MAX, BWD_IAT_MIN = range(59, 65)
SUBFLOWS, ACTIVE_START, ACTIVE_END, N_ACTIVE, ACTIVE_MAX, ACTIVE_MIN, N_IDLE, IDLE_MAX, IDLE_MIN = range(65, 74)
# Bulks of either side, eight columns each: the one that may be under way, then the sums of those that were.
FWD_BULK, BWD_BULK = 74, 82
B_START, B_LAST, B_PACKETS, B_BYTES, B_BULKS, B_ALL_PACKETS, B_ALL_BYTES, B_ALL_US = range(8)
KIND, CODE = 90, 91  # of ICMP
TOLD_N = 92  # packets as of the last snapshot
N_INTS = 93

# --- columns of a flow, float64: mean, and sum of squares around it --------------------------------------------------
M_FWD, M_BWD, M_ALL, M_IAT, M_FWD_IAT, M_BWD_IAT, M_ACTIVE, M_IDLE = range(0, 16, 2)
N_FLOATS = 16

# --- status, and why a row was exported ------------------------------------------------------------------------------
FREE, ACTIVE, CLOSING, DORMANT = range(4)
BY_END, BY_TIMEOUT, BY_SNAPSHOT, BY_EVICTION, BY_STOP, BY_CLOCK = range(6)
WHYS = ("end", "timeout", "snapshot", "evicted", "stopped", "clock set back")
_OPEN, _ONE_FIN, _BOTH_FIN, CLOSED = range(4)  # of a TCP connection

# --- settings, int64 -------------------------------------------------------------------------------------------------
TIMEOUT, IDLE_GAP, LINGER, SNAPSHOT, PADDING, FIRST_FIN_ENDS = range(6)
N_SETTINGS = 6

# --- state of the table, int64 ---------------------------------------------------------------------------------------
# Lists are linked through the rows: waiting for the time-out, closing, dormant, and waiting for a snapshot.
HEAD = 0  # of the lists ACTIVE, CLOSING, DORMANT at HEAD + status; of the snapshots at HEAD + 4
TAIL = 5
CLOCK, N_SERIALS, FREE_TOP = range(10, 13)
N_STATE = 13
_SNAPSHOTS = 4
_NONE = -1

# --- counters --------------------------------------------------------------------------------------------------------
COUNTERS = (*d.OUTCOMES, "after the end of its flow", "out of order", "clock set back", "flow evicted")
C_AFTER_END = len(d.OUTCOMES)
C_OUT_OF_ORDER, C_CLOCK_BACK, C_EVICTED = C_AFTER_END + 1, C_AFTER_END + 2, C_AFTER_END + 3

_SUBFLOW_GAP_US = 1_000_000
_BULK_GAP_US = 1_000_000
_BULK_PACKETS = 4
_CLOCK_BACK_US = 60_000_000  # packets of several queues may be late by a little; by this much, the clock was set


# A row goes through these states. Every row but a FREE one is in exactly one list and in the hash table.
#
#   FREE -> ACTIVE      a packet of a conversation that is not in the table
#   ACTIVE -> CLOSING   TCP ended (see _has_ended); it lingers for stray packets before it is exported
#   ACTIVE -> DORMANT   exported: time-out, end, new ICMP kind
#   CLOSING -> DORMANT  exported: linger over, or a new SYN on the same ports
#   DORMANT -> ACTIVE   a further packet of the conversation: a new flow that keeps the old direction
#   DORMANT -> FREE     evicted, because the table is full; the oldest goes first
#
# Invariant of the lists ACTIVE, CLOSING and snapshots: deadlines ascend from head to tail. It holds since a deadline is
# the clock plus a constant, the clock never goes back within a list (see _CLOCK_BACK_US), and rows join at the tail.
# So the flows that are due are found at the heads, and exported in the order of deadline, then of serial: the same
# order however packets are cut into blocks.


# --- lists through the rows ------------------------------------------------------------------------------------------


@njit(cache=True)
def _append(flows: Ints, state: Ints, which: int, before: int, row: int) -> None:
    tail = state[TAIL + which]
    flows[row, before], flows[row, before + 1] = tail, _NONE
    if tail == _NONE:
        state[HEAD + which] = row
    else:
        flows[tail, before + 1] = row
    state[TAIL + which] = row


@njit(cache=True)
def _remove(flows: Ints, state: Ints, which: int, before: int, row: int) -> None:
    left, right = flows[row, before], flows[row, before + 1]
    if left == _NONE:
        state[HEAD + which] = right
    else:
        flows[left, before + 1] = right
    if right == _NONE:
        state[TAIL + which] = left
    else:
        flows[right, before] = left


@njit(cache=True)
def _move(flows: Ints, state: Ints, row: int, status: int) -> None:
    """Put a flow into the list of another status."""
    _remove(flows, state, flows[row, STATUS], BEFORE, row)
    flows[row, STATUS] = status
    _append(flows, state, status, BEFORE, row)


# --- the hash table: from addresses, ports and protocol to a row ----------------------------------------------------


# splitmix64 (Steele, Lea, Flood 2014), seeded at random: nobody can choose flows that share a place.
@njit(cache=True)
def _mixed(value: np.uint64) -> np.uint64:
    value ^= value >> np.uint64(30)
    value *= np.uint64(0xBF58476D1CE4E5B9)
    value ^= value >> np.uint64(27)
    value *= np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@njit(cache=True)
def _end_hash(high: int, low: int, port: int, seed: np.uint64) -> np.uint64:
    first = _mixed(np.uint64(high) ^ seed)
    return _mixed(first + _mixed(np.uint64(low) ^ (np.uint64(port) << np.uint64(48)) ^ seed))


@njit(cache=True)
def _hash(who: Ints, seed: np.uint64) -> np.uint64:
    """Return the hash of a conversation, the same for both of its directions."""
    src = _end_hash(who[SRC_HIGH], who[SRC_LOW], who[SRC_PORT], seed)
    dst = _end_hash(who[DST_HIGH], who[DST_LOW], who[DST_PORT], seed)
    return _mixed((src + dst) ^ np.uint64(who[PROTOCOL] * 16 + who[VERSION]))


@njit(cache=True)
def _direction(flow: Ints, parts: Ints) -> int:
    """Return 1 where a packet goes the way of the flow, -1 against it, 0 where it is of another."""
    if flow[PROTOCOL] != parts[PROTOCOL] or flow[VERSION] != parts[VERSION]:
        return 0
    same, turned = True, True
    for j in range(2):
        same = same and flow[SRC_HIGH + j] == parts[SRC_HIGH + j] and flow[DST_HIGH + j] == parts[DST_HIGH + j]
        turned = turned and flow[SRC_HIGH + j] == parts[DST_HIGH + j] and flow[DST_HIGH + j] == parts[SRC_HIGH + j]
    if same and flow[SRC_PORT] == parts[SRC_PORT] and flow[DST_PORT] == parts[DST_PORT]:
        return 1
    if turned and flow[SRC_PORT] == parts[DST_PORT] and flow[DST_PORT] == parts[SRC_PORT]:
        return -1
    return 0


@njit(cache=True)
def _find(flows: Ints, places: NDArray[np.int32], parts: Ints, seed: np.uint64) -> int:
    """Return the place of the packet's flow in the hash table, or the empty place where it belongs."""
    mask = len(places) - 1
    place = np.int64(_hash(parts, seed) & np.uint64(mask))
    while places[place] != _NONE and _direction(flows[places[place]], parts) == 0:
        place = (place + 1) & mask
    return place


@njit(cache=True)
def _forget(
    flows: Ints, places: NDArray[np.int32], state: Ints, free: NDArray[np.int32], row: int, seed: np.uint64
) -> None:
    """Take a row out of its list and of the hash table; what was probed past it moves up (Knuth 6.4, algorithm R)."""
    _remove(flows, state, flows[row, STATUS], BEFORE, row)
    mask = len(places) - 1
    hole = np.int64(_hash(flows[row], seed) & np.uint64(mask))
    while places[hole] != row:
        hole = (hole + 1) & mask
    place = (hole + 1) & mask
    while places[place] != _NONE:
        home = np.int64(_hash(flows[places[place]], seed) & np.uint64(mask))
        if ((place - home) & mask) >= ((place - hole) & mask):
            places[hole] = places[place]
            hole = place
        place = (place + 1) & mask
    places[hole] = _NONE
    flows[row, STATUS] = FREE
    free[state[FREE_TOP]] = row
    state[FREE_TOP] += 1


@njit(cache=True)
def fill_places(flows: Ints, places: NDArray[np.int32], rows: NDArray[np.int32], seed: np.uint64) -> None:
    """Enter rows of the table into an empty hash table."""
    for row in rows:
        places[_find(flows, places, flows[row], seed)] = row


# --- running statistics ----------------------------------------------------------------------------------------------


@njit(cache=True, inline="always")
def _add_moment(moments: Floats, at: int, n: int, value: float) -> None:
    """Add the n-th value (Welford 1962)."""
    off = value - moments[at]
    moments[at] += off / n
    moments[at + 1] += off * (value - moments[at])


@njit(cache=True, inline="always")
def _widen(flow: Ints, most: int, n: int, value: int) -> None:
    """Keep the greatest and, in the column after it, the least of n values."""
    if n == 1 or value > flow[most]:
        flow[most] = value
    if n == 1 or value < flow[most + 1]:
        flow[most + 1] = value


# --- what a packet does to its flow ----------------------------------------------------------------------------------


@njit(cache=True)
def _begin(flow: Ints, moments: Floats, parts: Ints, turned: bool, time: int) -> None:
    """Clear a row for a new flow from the packet's source, or where it is turned, from its destination."""
    keep_before, keep_after, status = flow[BEFORE], flow[AFTER], flow[STATUS]
    flow[:] = 0
    moments[:] = 0
    flow[BEFORE], flow[AFTER], flow[STATUS] = keep_before, keep_after, status
    src, dst = (2, 0) if turned else (0, 2)
    for j in range(2):
        flow[SRC_HIGH + j], flow[DST_HIGH + j] = parts[src + j], parts[dst + j]
    flow[SRC_PORT], flow[DST_PORT] = (
        parts[d.DST_PORT if turned else d.SRC_PORT],
        parts[d.SRC_PORT if turned else d.DST_PORT],
    )
    flow[VERSION], flow[PROTOCOL] = parts[d.VERSION], parts[d.PROTOCOL]
    flow[START], flow[LAST], flow[ACTIVE_START], flow[ACTIVE_END] = time, time, time, time
    flow[FIRST_FLAGS], flow[FIRST_PAYLOAD] = parts[d.FLAGS], parts[d.PAYLOAD]
    flow[KIND], flow[CODE] = parts[d.ICMP_TYPE], parts[d.ICMP_CODE]
    flow[FWD_WINDOW], flow[BWD_WINDOW], flow[BWD_WINDOW_LAST] = -1, -1, -1


@njit(cache=True)
def _add(flow: Ints, moments: Floats, parts: Ints, forward: bool, time: int, idle_gap: int) -> None:
    """Count a packet into its flow; `side` is 0 forward and 1 backward, the offset in pairs of columns."""
    side = 0 if forward else 1
    payload, flags = parts[d.PAYLOAD], parts[d.FLAGS]
    n_before = flow[FWD_N] + flow[BWD_N]
    _add_times(flow, moments, n_before, side, time, idle_gap)
    _add_bulk(flow, FWD_BULK if forward else BWD_BULK, BWD_BULK if forward else FWD_BULK, payload, time)
    flow[FWD_N + side] += 1
    n_side = flow[FWD_N + side]
    flow[FWD_BYTES + side] += payload
    flow[FWD_HEADER + side] += parts[d.HEADER]
    if n_side == 1 or payload > flow[FWD_MAX + side]:
        flow[FWD_MAX + side] = payload
    if n_side == 1 or payload < flow[FWD_MIN + side]:
        flow[FWD_MIN + side] = payload
    _add_moment(moments, M_FWD + 2 * side, n_side, payload)
    _add_moment(moments, M_ALL, n_before + 1, payload)
    _add_flags(flow, flags, side)
    if parts[d.PROTOCOL] == d.TCP:
        _add_window(flow, parts[d.WINDOW], side, n_side)
    if forward:
        flow[FWD_DATA] += payload > 0
        if n_side == 1 or parts[d.HEADER] < flow[SEGMENT_MIN]:
            flow[SEGMENT_MIN] = parts[d.HEADER]
    if n_before == 0:
        flow[FIRST_FORWARD] = forward


@njit(cache=True)
def _add_times(flow: Ints, moments: Floats, n_before: int, side: int, time: int, idle_gap: int) -> None:
    """Count the gaps: to the packet before, to that of the same side, and whether the flow had fallen idle."""
    first, last, n_side = FWD_FIRST + 2 * side, FWD_LAST + 2 * side, flow[FWD_N + side]
    if n_side:
        gap = max(0, time - flow[last])
        _add_moment(moments, M_FWD_IAT + 2 * side, n_side, gap)
        _widen(flow, FWD_IAT_MAX + 2 * side, n_side, gap)
    else:
        flow[first] = time
    flow[last] = max(flow[last], time)
    if n_before:
        gap = max(0, time - flow[LAST])
        _add_moment(moments, M_IAT, n_before, gap)
        _widen(flow, IAT_MAX, n_before, gap)
        flow[SUBFLOWS] += gap > _SUBFLOW_GAP_US
        _add_activity(flow, moments, time, idle_gap)
    flow[LAST] = max(flow[LAST], time)


@njit(cache=True)
def _add_activity(flow: Ints, moments: Floats, time: int, idle_gap: int) -> None:
    if time - flow[ACTIVE_END] <= idle_gap:
        flow[ACTIVE_END] = max(flow[ACTIVE_END], time)
        return
    # A gap longer than idle_gap ends an active period. CICFlowMeter counts a period of one packet as idle alone.
    active, idle = flow[ACTIVE_END] - flow[ACTIVE_START], time - flow[ACTIVE_END]
    if active > 0:
        flow[N_ACTIVE] += 1
        _add_moment(moments, M_ACTIVE, flow[N_ACTIVE], active)
        _widen(flow, ACTIVE_MAX, flow[N_ACTIVE], active)
    flow[N_IDLE] += 1
    _add_moment(moments, M_IDLE, flow[N_IDLE], idle)
    _widen(flow, IDLE_MAX, flow[N_IDLE], idle)
    flow[ACTIVE_START], flow[ACTIVE_END] = time, time


@njit(cache=True)
def _add_bulk(flow: Ints, own: int, other: int, payload: int, time: int) -> None:
    """Follow a bulk: four packets with payload of one side, none of the other between, no gap above a second."""
    # Under way from B_START; a packet of the other side ends it. The fourth packet makes a bulk of all four, each later
    # one adds itself.
    if flow[other + B_LAST] > flow[own + B_START]:
        flow[own + B_START] = 0
    if payload <= 0:
        return
    if flow[own + B_START] == 0 or time - flow[own + B_LAST] > _BULK_GAP_US:
        flow[own + B_START], flow[own + B_PACKETS], flow[own + B_BYTES] = time, 1, payload
    else:
        flow[own + B_PACKETS] += 1
        flow[own + B_BYTES] += payload
        if flow[own + B_PACKETS] == _BULK_PACKETS:
            flow[own + B_BULKS] += 1
            flow[own + B_ALL_PACKETS] += _BULK_PACKETS
            flow[own + B_ALL_BYTES] += flow[own + B_BYTES]
            flow[own + B_ALL_US] += time - flow[own + B_START]
        elif flow[own + B_PACKETS] > _BULK_PACKETS:
            flow[own + B_ALL_PACKETS] += 1
            flow[own + B_ALL_BYTES] += payload
            flow[own + B_ALL_US] += time - flow[own + B_LAST]
    flow[own + B_LAST] = time


@njit(cache=True)
def _add_flags(flow: Ints, flags: int, side: int) -> None:
    for j in range(8):
        flow[N_FLAG + j] += (flags >> j) & 1
    flow[FWD_PSH + side] += (flags & d.PSH) != 0
    flow[FWD_URG + side] += (flags & d.URG) != 0
    flow[FWD_RST + side] += (flags & d.RST) != 0
    flow[FWD_FIN + side] += (flags & d.FIN) != 0


@njit(cache=True)
def _add_window(flow: Ints, window: int, side: int, n_side: int) -> None:
    """Keep the first window forward, and backward the first that is not 0, as the corrected CICFlowMeter does."""
    if side == 0:
        if n_side == 1:
            flow[FWD_WINDOW] = window
        return
    if flow[BWD_WINDOW] <= 0:
        flow[BWD_WINDOW] = window
    flow[BWD_WINDOW_LAST] = window


# --- exported rows ----------------------------------------------------------------------------------------------


@njit(cache=True)
def _export(flow: Ints, moments: Floats, why: int, ints: Ints, floats: Floats, n: int) -> int:
    ints[n, :] = flow
    ints[n, WHY] = why
    floats[n, :] = moments
    return n + 1


@njit(cache=True)
def _rest(flows: Ints, state: Ints, settings: Ints, row: int) -> None:
    """Keep an exported flow dormant: what comes late is known by it, and what goes on keeps its direction."""
    if settings[SNAPSHOT] and flows[row, SNAPSHOT_AT]:
        _remove(flows, state, _SNAPSHOTS, BEFORE_SNAPSHOT, row)
        flows[row, SNAPSHOT_AT] = 0
    _move(flows, state, row, DORMANT)


@njit(cache=True)
def expire(
    clock: int,
    flows: Ints,
    moments: Floats,
    state: Ints,
    settings: Ints,
    ints: Ints,
    floats: Floats,
    n: int,
    reserved: int,
) -> tuple[int, bool]:
    """Export flows that are due, in the order of their deadlines, until the rows are full.

    Returns how many rows there are, and whether all were exported. The last ``reserved`` rows are left free.
    """
    while n < len(ints) - reserved:
        row, which, first = _NONE, 0, clock
        for status in (ACTIVE, CLOSING):
            head = state[HEAD + status]
            if head != _NONE and _is_due(flows[head, DEADLINE], flows[head, SERIAL], first, row, flows):
                row, which, first = head, status, flows[head, DEADLINE]
        head = state[HEAD + _SNAPSHOTS]
        if head != _NONE and _is_due(flows[head, SNAPSHOT_AT], flows[head, SERIAL], first, row, flows):
            row, which = head, _SNAPSHOTS
        if row == _NONE:
            return n, True
        if which == _SNAPSHOTS:
            if flows[row, FWD_N] + flows[row, BWD_N] > flows[row, TOLD_N]:  # else nothing has come since the last one
                flows[row, TOLD_N] = flows[row, FWD_N] + flows[row, BWD_N]
                n = _export(flows[row], moments[row], BY_SNAPSHOT, ints, floats, n)
            _remove(flows, state, _SNAPSHOTS, BEFORE_SNAPSHOT, row)
            flows[row, SNAPSHOT_AT] += settings[SNAPSHOT]
            _append(flows, state, _SNAPSHOTS, BEFORE_SNAPSHOT, row)
        else:
            n = _export(flows[row], moments[row], BY_TIMEOUT if which == ACTIVE else BY_END, ints, floats, n)
            _rest(flows, state, settings, row)
    return n, False


@njit(cache=True, inline="always")
def _is_due(deadline: int, serial: int, first: int, found: int, flows: Ints) -> bool:
    """Return whether a deadline lies before the clock and before what was found; of two, the older flow is first."""
    if found == _NONE:
        return deadline < first
    return deadline < first or (deadline == first and serial < flows[found, SERIAL])


@njit(cache=True)
def flush(
    why: int, flows: Ints, moments: Floats, state: Ints, settings: Ints, ints: Ints, floats: Floats, n: int
) -> tuple[int, bool]:
    """Export every flow, those that ended first, each list in order; until the rows are full."""
    for status in (CLOSING, ACTIVE):
        while state[HEAD + status] != _NONE:
            if n == len(ints):
                return n, False
            row = state[HEAD + status]
            n = _export(flows[row], moments[row], BY_END if status == CLOSING else why, ints, floats, n)
            _rest(flows, state, settings, row)
    return n, True


# --- the meter -------------------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def meter_block(
    data: NDArray[np.uint8],
    offsets: Ints,
    captured: Ints,
    lengths: Ints,
    times: Ints,
    link_types: Ints,
    first: int,
    flows: Ints,
    moments: Floats,
    places: NDArray[np.int32],
    free: NDArray[np.int32],
    state: Ints,
    settings: Ints,
    seed: np.uint64,
    counters: Ints,
    ints: Ints,
    floats: Floats,
    n: int,
) -> tuple[int, int]:
    """Meter packets from ``first`` on, behind n rows; return how many packets were taken, and how many rows there are.

    It stops before the end of the block where there may be no room for the rows of another packet.
    """
    parts = np.zeros(d.N_PARTS, np.int64)
    for j in range(first, len(offsets)):
        outcome = dissect(data, offsets[j], captured[j], lengths[j], link_types[j], settings[PADDING] != 0, parts)
        if outcome != d.METERED:
            counters[outcome] += 1
            continue
        time = times[j]
        if time < state[CLOCK] - _CLOCK_BACK_US:
            n, done = flush(BY_CLOCK, flows, moments, state, settings, ints, floats, n)
            if not done:
                return j, n
            counters[C_CLOCK_BACK] += 1
            state[CLOCK] = time
        elif time > state[CLOCK]:
            state[CLOCK] = time
        n, done = expire(state[CLOCK], flows, moments, state, settings, ints, floats, n, 2)
        if not done:
            return j, n
        counters[d.METERED] += 1
        counters[C_OUT_OF_ORDER] += time < state[CLOCK]
        n = _take(parts, time, flows, moments, places, free, state, settings, seed, counters, ints, floats, n)
    return len(offsets), n


@njit(cache=True)
def _take(
    parts: Ints,
    time: int,
    flows: Ints,
    moments: Floats,
    places: NDArray[np.int32],
    free: NDArray[np.int32],
    state: Ints,
    settings: Ints,
    seed: np.uint64,
    counters: Ints,
    ints: Ints,
    floats: Floats,
    n: int,
) -> int:
    """Give a packet to its flow, or begin one with it; return how many rows are exported by then."""
    place = _find(flows, places, parts, seed)
    row = np.int64(places[place])
    flags, is_tcp = parts[d.FLAGS], parts[d.PROTOCOL] == d.TCP
    if row == _NONE:
        if state[FREE_TOP] == 0:
            n = _evict(flows, moments, places, free, state, settings, seed, counters, ints, floats, n)
            place = _find(flows, places, parts, seed)
        state[FREE_TOP] -= 1
        row = np.int64(free[state[FREE_TOP]])
        places[place] = row
        flows[row, STATUS] = ACTIVE
        _append(flows, state, ACTIVE, BEFORE, row)
        syn_ack = is_tcp and (flags & (d.SYN | d.ACK)) == (d.SYN | d.ACK) and settings[FIRST_FIN_ENDS] == 0
        _open(flows, moments, state, settings, row, parts, syn_ack, time)
    else:
        flow = flows[row]
        opens = is_tcp and (flags & d.SYN) != 0
        if flow[STATUS] == DORMANT:
            if is_tcp and flow[TCP_STATE] == CLOSED and not opens and parts[d.PAYLOAD] == 0:
                counters[C_AFTER_END] += 1
                return n
            _reopen(flows, moments, state, settings, row, parts, opens, time)
        elif flow[TCP_STATE] == CLOSED and opens:
            n = _export(flow, moments[row], BY_END, ints, floats, n)
            _rest(flows, state, settings, row)
            _reopen(flows, moments, state, settings, row, parts, True, time)
        elif _is_other_icmp(flow, parts):
            n = _export(flow, moments[row], BY_END, ints, floats, n)
            _rest(flows, state, settings, row)
            _reopen(flows, moments, state, settings, row, parts, False, time)
    flow = flows[row]
    _add(flow, moments[row], parts, _direction(flow, parts) == 1, time, settings[IDLE_GAP])
    if not is_tcp:
        return n
    if settings[FIRST_FIN_ENDS]:
        if flags & d.FIN:
            n = _export(flow, moments[row], BY_END, ints, floats, n)
            _rest(flows, state, settings, row)
            _forget(flows, places, state, free, row, seed)
    elif _has_ended(flow, flags):
        flow[TCP_STATE] = CLOSED
        if state[CLOCK] + settings[LINGER] < flow[DEADLINE]:  # else its time-out is nearer
            flow[DEADLINE] = state[CLOCK] + settings[LINGER]
            _move(flows, state, row, CLOSING)
    return n


@njit(cache=True)
def _has_ended(flow: Ints, flags: int) -> bool:
    """Follow the end of a TCP connection: FIN of both sides and an ACK after it, or RST."""
    if flow[TCP_STATE] == CLOSED:
        return False
    # RFC 9293, 3.6, seen from between the hosts: each side's FIN must be seen, then the ACK of the second one. A second
    # FIN of one side alone is a retransmission. RST ends both directions at once (3.5.3).
    if flags & d.FIN:
        if flow[TCP_STATE] == _OPEN:
            flow[TCP_STATE] = _ONE_FIN
        elif flow[FWD_FIN] > 0 and flow[BWD_FIN] > 0:
            flow[TCP_STATE] = _BOTH_FIN
        return False
    if flags & d.RST:
        return True
    return (flags & d.ACK) != 0 and flow[TCP_STATE] == _BOTH_FIN


@njit(cache=True)
def _is_other_icmp(flow: Ints, parts: Ints) -> bool:
    if parts[d.PROTOCOL] != d.ICMP and parts[d.PROTOCOL] != d.ICMP6:
        return False
    return flow[KIND] != parts[d.ICMP_TYPE] and flow[CODE] != parts[d.ICMP_CODE]


@njit(cache=True)
def _open(
    flows: Ints, moments: Floats, state: Ints, settings: Ints, row: int, parts: Ints, turned: bool, time: int
) -> None:
    """Begin a flow in a row that stands in the list of active ones; a first SYN-ACK means that the SYN was missed."""
    _begin(flows[row], moments[row], parts, turned, time)
    flows[row, SERIAL] = state[N_SERIALS]
    state[N_SERIALS] += 1
    # The clock, not the packet's own time: lists are in order of their deadlines, and late packets must not break it.
    flows[row, DEADLINE] = state[CLOCK] + settings[TIMEOUT]
    if settings[SNAPSHOT]:
        flows[row, SNAPSHOT_AT] = state[CLOCK] + settings[SNAPSHOT]
        _append(flows, state, _SNAPSHOTS, BEFORE_SNAPSHOT, row)


@njit(cache=True)
def _reopen(
    flows: Ints, moments: Floats, state: Ints, settings: Ints, row: int, parts: Ints, opens: bool, time: int
) -> None:
    """Begin another flow of the same two ends, in the direction that the rules give it."""
    flow = flows[row]
    against = _direction(flow, parts) == -1
    protocol, ended = parts[d.PROTOCOL], flow[TCP_STATE] == CLOSED
    quiet = time - flow[LAST] > settings[TIMEOUT]
    by_rules = settings[FIRST_FIN_ENDS] == 0  # the original knew neither of the two below
    goes_on = by_rules and ((protocol == d.TCP and not (ended and opens)) or (protocol == d.UDP and not quiet))
    earlier = flow[EARLIER] + max(0, time - flow[START]) if goes_on else 0
    syn_ack = by_rules and protocol == d.TCP and (parts[d.FLAGS] & (d.SYN | d.ACK)) == (d.SYN | d.ACK)
    _move(flows, state, row, ACTIVE)
    _open(flows, moments, state, settings, row, parts, against if goes_on else syn_ack, time)
    flows[row, EARLIER] = earlier


@njit(cache=True)
def _evict(
    flows: Ints,
    moments: Floats,
    places: NDArray[np.int32],
    free: NDArray[np.int32],
    state: Ints,
    settings: Ints,
    seed: np.uint64,
    counters: Ints,
    ints: Ints,
    floats: Floats,
    n: int,
) -> int:
    """Make room in a full table: the longest dormant flow goes, else one that ended, else the oldest is exported."""
    if state[HEAD + DORMANT] == _NONE:
        status = CLOSING if state[HEAD + CLOSING] != _NONE else ACTIVE
        row = state[HEAD + status]
        n = _export(flows[row], moments[row], BY_END if status == CLOSING else BY_EVICTION, ints, floats, n)
        counters[C_EVICTED] += status == ACTIVE
        _rest(flows, state, settings, row)
    _forget(flows, places, state, free, state[HEAD + DORMANT], seed)
    return n
