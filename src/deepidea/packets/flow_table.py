"""The compiled heart of the meter: a table of flows, and what a packet does to it.

Everything is kept in arrays, one row a flow, so that a file, a replay and a live interface go through the same code and
give the same rows, whatever the blocks in which packets come. Time is that of the packets alone.

Where flows begin and end follows the corrected CICFlowMeter (Engelen et al. 2021): a flow ends when both sides have
sent FIN and the last was acknowledged, at RST, or when it is older than the time-out; a TCP flow that goes on after the
time-out, and a UDP flow without a gap as long as it, keep their direction. It differs where a live meter must: a flow
that ended is exported after a short linger, not when its next packet happens to come; see docs/meter.md.
"""

from __future__ import annotations

from typing import NamedTuple

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
# SERIAL numbers flows in the order in which they began: it decides between flows that are due at the same time.
STATUS, TCP_STATE, SERIAL, DEADLINE, SNAPSHOT_AT = range(8, 13)
BEFORE, AFTER, BEFORE_SNAPSHOT, AFTER_SNAPSHOT = range(13, 17)
# Times, us.
# EARLIER is how long the flows before it lasted that were cut off the same TCP connection by the time-out.
START, LAST, FWD_FIRST, FWD_LAST, BWD_FIRST, BWD_LAST, EARLIER, WHY = range(17, 25)
# Packets and bytes; of each pair, forward stands first.
# So the column of a side is that of the forward one plus `side`, 0 or 1.
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
FWD_MESSAGE, BWD_MESSAGE = 93, 94  # bytes behind the headers of IP
N_INTS = 95

# --- columns of a flow, float64: mean, and sum of squares around it --------------------------------------------------
# A sample has two columns, its mean and the sum of squares; std follows from both when a row is read.
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


# One record in place of eleven arguments. Numba passes a tuple of arrays by value, some 70 words: what runs for every
# packet (`expire`, `_find`, `_take`) is inlined, and the helpers that are not are called when a flow begins or ends.
class FlowTable(NamedTuple):
    """All that a meter knows, and the rows that it has exported and nobody has taken yet."""

    flows: Ints  # max_flows, N_INTS
    moments: Floats  # max_flows, N_FLOATS
    places: NDArray[np.int32]  # n_places: row of the flow that hashes there, -1 where none does
    free: NDArray[np.int32]  # max_flows: a stack of free rows; state[FREE_TOP] is its height
    state: Ints  # N_STATE
    settings: Ints  # N_SETTINGS
    counters: Ints  # len(COUNTERS)
    seed: np.uint64  # of the hash table
    ints: Ints  # ROWS, N_INTS: exported rows, of which the first n_rows[0] are filled
    floats: Floats  # ROWS, N_FLOATS
    n_rows: Ints  # 1


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
def _append(table: FlowTable, which: int, before: int, row: int) -> None:
    flows, state = table.flows, table.state
    tail = state[TAIL + which]
    flows[row, before], flows[row, before + 1] = tail, _NONE
    if tail == _NONE:
        state[HEAD + which] = row
    else:
        flows[tail, before + 1] = row
    state[TAIL + which] = row


@njit(cache=True)
def _remove(table: FlowTable, which: int, before: int, row: int) -> None:
    flows, state = table.flows, table.state
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
def _move(table: FlowTable, row: int, status: int) -> None:
    """Put a flow into the list of another status."""
    _remove(table, table.flows[row, STATUS], BEFORE, row)
    table.flows[row, STATUS] = status
    _append(table, status, BEFORE, row)


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
    # A sum is the same for both directions. XOR would be too, but cancels where both ends are equal.
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
    # A host that talks to itself from one port to the same port fits both ways; it counts as forward.
    if same and flow[SRC_PORT] == parts[SRC_PORT] and flow[DST_PORT] == parts[DST_PORT]:
        return 1
    if turned and flow[SRC_PORT] == parts[DST_PORT] and flow[DST_PORT] == parts[SRC_PORT]:
        return -1
    return 0


@njit(cache=True, inline="always")
def _find(table: FlowTable, parts: Ints) -> int:
    """Return the place of the packet's flow in the hash table, or the empty place where it belongs."""
    places = table.places
    mask = len(places) - 1
    place = np.int64(_hash(parts, table.seed) & np.uint64(mask))
    # Linear probing. There are at least twice as many places as rows, so that a free place is always found, and soon.
    while places[place] != _NONE and _direction(table.flows[places[place]], parts) == 0:
        place = (place + 1) & mask
    return place


@njit(cache=True)
def _forget(table: FlowTable, row: int) -> None:
    """Take a row out of its list and of the hash table; what was probed past it moves up (Knuth 6.4, algorithm R)."""
    flows, places = table.flows, table.places
    _remove(table, flows[row, STATUS], BEFORE, row)
    mask = len(places) - 1
    hole = np.int64(_hash(flows[row], table.seed) & np.uint64(mask))
    while places[hole] != row:
        hole = (hole + 1) & mask
    place = (hole + 1) & mask
    while places[place] != _NONE:
        home = np.int64(_hash(flows[places[place]], table.seed) & np.uint64(mask))
        # The row at `place` may fill the hole only if its home does not lie behind the hole, cyclically: a search that
        # starts at its home must still pass it.
        if ((place - home) & mask) >= ((place - hole) & mask):
            places[hole] = places[place]
            hole = place
        place = (place + 1) & mask
    places[hole] = _NONE
    flows[row, STATUS] = FREE
    table.free[table.state[FREE_TOP]] = row
    table.state[FREE_TOP] += 1


@njit(cache=True)
def fill_places(table: FlowTable, rows: NDArray[np.int32]) -> None:
    """Enter rows of the table into an empty hash table."""
    for row in rows:
        table.places[_find(table, table.flows[row])] = row


# --- running statistics ----------------------------------------------------------------------------------------------


@njit(cache=True, inline="always")
def _add_moment(moments: Floats, at: int, n: int, value: float) -> None:
    """Add the n-th value (Welford 1962)."""
    # Sums of squares of microseconds would lose all digits in long flows; squares around the running mean do not.
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
    # The row stands in a list already, whose links must survive; all else is of the flow that had it before.
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
    # Times first: they need the counts and the latest times without this packet.
    _add_times(flow, moments, n_before, side, time, idle_gap)
    _add_bulk(flow, FWD_BULK if forward else BWD_BULK, BWD_BULK if forward else FWD_BULK, payload, time)
    flow[FWD_N + side] += 1
    n_side = flow[FWD_N + side]
    flow[FWD_BYTES + side] += payload
    flow[FWD_HEADER + side] += parts[d.HEADER]
    flow[FWD_MESSAGE + side] += parts[d.MESSAGE]
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
        # A packet that comes late counts as one without a gap, and does not set the flow's latest time back.
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
    # What the published tables hold in its place: see `DIALECTS` of the meter.
    flow[BWD_WINDOW_LAST] = window


# --- exported rows ----------------------------------------------------------------------------------------------


@njit(cache=True)
def _export(table: FlowTable, row: int, why: int) -> None:
    n = table.n_rows[0]
    table.ints[n, :] = table.flows[row]
    table.ints[n, WHY] = why
    table.floats[n, :] = table.moments[row]
    table.n_rows[0] = n + 1


@njit(cache=True)
def _end(table: FlowTable, row: int, why: int) -> None:
    """Export a flow and keep it dormant: what comes late is known by it, and what goes on keeps its direction."""
    _export(table, row, why)
    if table.settings[SNAPSHOT] and table.flows[row, SNAPSHOT_AT]:
        _remove(table, _SNAPSHOTS, BEFORE_SNAPSHOT, row)
        table.flows[row, SNAPSHOT_AT] = 0
    _move(table, row, DORMANT)


@njit(cache=True, inline="always")
def expire(table: FlowTable, clock: int, reserved: int) -> bool:
    """Export flows that are due, in the order of their deadlines; return False where the rows are full before that.

    The last ``reserved`` rows are left free.
    """
    flows, state, settings = table.flows, table.state, table.settings
    # Three lists, each in order of its deadlines, are merged: whichever head is due first is exported, then the heads
    # are compared again. A snapshot puts its flow back at the tail with a later deadline, so this ends.
    while table.n_rows[0] < len(table.ints) - reserved:
        row, which, first = _NONE, 0, clock
        for status in (ACTIVE, CLOSING):
            head = state[HEAD + status]
            if head != _NONE and _is_due(flows[head, DEADLINE], flows[head, SERIAL], first, row, flows):
                row, which, first = head, status, flows[head, DEADLINE]
        head = state[HEAD + _SNAPSHOTS]
        if head != _NONE and _is_due(flows[head, SNAPSHOT_AT], flows[head, SERIAL], first, row, flows):
            row, which = head, _SNAPSHOTS
        if row == _NONE:
            return True
        if which == _SNAPSHOTS:
            if flows[row, FWD_N] + flows[row, BWD_N] > flows[row, TOLD_N]:  # else nothing has come since the last one
                flows[row, TOLD_N] = flows[row, FWD_N] + flows[row, BWD_N]
                _export(table, row, BY_SNAPSHOT)
            _remove(table, _SNAPSHOTS, BEFORE_SNAPSHOT, row)
            flows[row, SNAPSHOT_AT] += settings[SNAPSHOT]
            _append(table, _SNAPSHOTS, BEFORE_SNAPSHOT, row)
        else:
            _end(table, row, BY_TIMEOUT if which == ACTIVE else BY_END)
    return False


@njit(cache=True, inline="always")
def _is_due(deadline: int, serial: int, first: int, found: int, flows: Ints) -> bool:
    """Return whether a deadline lies before the clock and before what was found; of two, the older flow is first."""
    if found == _NONE:
        return deadline < first
    return deadline < first or (deadline == first and serial < flows[found, SERIAL])


@njit(cache=True)
def flush(table: FlowTable, why: int) -> bool:
    """Export every flow, those that ended first, each list in order; return False where the rows are full before."""
    # Snapshots have no turn of their own: each of their flows stands in one of these two lists.
    for status in (CLOSING, ACTIVE):
        while table.state[HEAD + status] != _NONE:
            if table.n_rows[0] == len(table.ints):
                return False
            _end(table, table.state[HEAD + status], BY_END if status == CLOSING else why)
    return True


# --- the meter -------------------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def meter_block(
    table: FlowTable,
    data: NDArray[np.uint8],
    offsets: Ints,
    captured: Ints,
    lengths: Ints,
    times: Ints,
    link_types: Ints,
    first: int,
) -> int:
    """Meter packets from ``first`` on; return how many packets were taken.

    It stops before the end of the block where there may be no room for the rows of another packet.
    """
    state, settings, counters = table.state, table.settings, table.counters
    parts = np.zeros(d.N_PARTS, np.int64)
    for j in range(first, len(offsets)):
        outcome = dissect(data, offsets[j], captured[j], lengths[j], link_types[j], settings[PADDING] != 0, parts)
        if outcome != d.METERED:
            counters[outcome] += 1
            continue
        time = times[j]
        if time < state[CLOCK] - _CLOCK_BACK_US:
            # Full rows stop it here, before anything of this packet is counted: the caller makes room and comes back
            # with the same packet, for which the clock is still set back.
            if not flush(table, BY_CLOCK):
                return j
            counters[C_CLOCK_BACK] += 1
            state[CLOCK] = time
        elif time > state[CLOCK]:
            state[CLOCK] = time
        # Two rows stay free for the packet itself: one for the flow that ends before it (evicted, or closed on the same
        # ports), one for its own, which its FIN may end.
        if not expire(table, state[CLOCK], 2):
            return j
        counters[d.METERED] += 1
        counters[C_OUT_OF_ORDER] += time < state[CLOCK]
        _take(table, parts, time)
    return len(offsets)


@njit(cache=True, inline="always")
def _take(table: FlowTable, parts: Ints, time: int) -> None:
    """Give a packet to its flow, or begin one with it."""
    state, settings = table.state, table.settings
    place = _find(table, parts)
    row = np.int64(table.places[place])
    flags, is_tcp = parts[d.FLAGS], parts[d.PROTOCOL] == d.TCP
    if row == _NONE:
        if state[FREE_TOP] == 0:
            _evict(table)
            place = _find(table, parts)
        state[FREE_TOP] -= 1
        row = np.int64(table.free[state[FREE_TOP]])
        table.places[place] = row
        table.flows[row, STATUS] = ACTIVE
        _append(table, ACTIVE, BEFORE, row)
        syn_ack = is_tcp and (flags & (d.SYN | d.ACK)) == (d.SYN | d.ACK) and settings[FIRST_FIN_ENDS] == 0
        _open(table, row, parts, syn_ack, time)
    else:
        flow = table.flows[row]
        opens = is_tcp and (flags & d.SYN) != 0
        if flow[STATUS] == DORMANT:
            # The last ACK, a retransmission: no traffic that would be worth a flow of one packet.
            if is_tcp and flow[TCP_STATE] == CLOSED and not opens and parts[d.PAYLOAD] == 0:
                table.counters[C_AFTER_END] += 1
                return
            _reopen(table, row, parts, opens, time)
        # A SYN while the old connection lingers: the ports are used again. ICMP has no ports; type and code tell apart.
        elif (flow[TCP_STATE] == CLOSED and opens) or _is_other_icmp(flow, parts):
            _end(table, row, BY_END)
            _reopen(table, row, parts, opens, time)
    flow = table.flows[row]
    # The direction is known only now: `_reopen` may have begun a flow that goes the way of this packet.
    _add(flow, table.moments[row], parts, _direction(flow, parts) == 1, time, settings[IDLE_GAP])
    if not is_tcp:
        return
    if settings[FIRST_FIN_ENDS]:
        if flags & d.FIN:
            _end(table, row, BY_END)
            # The original remembers nothing of a flow that ended: what follows begins another, in the direction of its
            # packet.
            _forget(table, row)
    elif _has_ended(flow, flags):
        flow[TCP_STATE] = CLOSED
        if state[CLOCK] + settings[LINGER] < flow[DEADLINE]:  # else its time-out is nearer
            flow[DEADLINE] = state[CLOCK] + settings[LINGER]
            _move(table, row, CLOSING)


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
def _open(table: FlowTable, row: int, parts: Ints, turned: bool, time: int) -> None:
    """Begin a flow in a row that stands in the list of active ones; a first SYN-ACK means that the SYN was missed."""
    flows, state, settings = table.flows, table.state, table.settings
    _begin(flows[row], table.moments[row], parts, turned, time)
    flows[row, SERIAL] = state[N_SERIALS]
    state[N_SERIALS] += 1
    # The clock, not the packet's own time: lists are in order of their deadlines, and late packets must not break it.
    flows[row, DEADLINE] = state[CLOCK] + settings[TIMEOUT]
    if settings[SNAPSHOT]:
        flows[row, SNAPSHOT_AT] = state[CLOCK] + settings[SNAPSHOT]
        _append(table, _SNAPSHOTS, BEFORE_SNAPSHOT, row)


@njit(cache=True)
def _reopen(table: FlowTable, row: int, parts: Ints, opens: bool, time: int) -> None:
    """Begin another flow of the same two ends, in the direction that the rules give it."""
    flow, settings = table.flows[row], table.settings
    against = _direction(flow, parts) == -1
    protocol, ended = parts[d.PROTOCOL], flow[TCP_STATE] == CLOSED
    quiet = time - flow[LAST] > settings[TIMEOUT]
    by_rules = settings[FIRST_FIN_ENDS] == 0  # the original knew neither of the two below
    # What goes on keeps its direction: TCP unless it ended and a SYN opens it anew, UDP unless it paused for a whole
    # time-out. The rest takes the direction of its packet, or the opposite one of a SYN-ACK.
    goes_on = by_rules and ((protocol == d.TCP and not (ended and opens)) or (protocol == d.UDP and not quiet))
    earlier = flow[EARLIER] + max(0, time - flow[START]) if goes_on else 0
    syn_ack = by_rules and protocol == d.TCP and (parts[d.FLAGS] & (d.SYN | d.ACK)) == (d.SYN | d.ACK)
    _move(table, row, ACTIVE)
    _open(table, row, parts, against if goes_on else syn_ack, time)
    flow[EARLIER] = earlier


@njit(cache=True)
def _evict(table: FlowTable) -> None:
    """Make room in a full table: the longest dormant flow goes, else one that ended, else the oldest is exported."""
    state = table.state
    # Dormant rows were exported already, so that they cost nothing but the direction of what may still come.
    if state[HEAD + DORMANT] == _NONE:
        status = CLOSING if state[HEAD + CLOSING] != _NONE else ACTIVE
        table.counters[C_EVICTED] += status == ACTIVE
        _end(table, state[HEAD + status], BY_END if status == CLOSING else BY_EVICTION)
    _forget(table, state[HEAD + DORMANT])
