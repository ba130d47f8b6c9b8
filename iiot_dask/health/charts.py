"""Numba kernels for what is wrong with *how* samples come: copies, order, gaps in sequence, quality, clocks, rate.

Two mechanisms, one false-alarm knob:

* A bank of Bernoulli CUSUM charts, one cell a chart and tag. A cell learns how often its sign is seen in health
  (with a prior, and not while the chart is far up, so a fault can not teach itself), and adds the log-likelihood ratio of
  "far more often" on every sample; above `log_odds` the condition begins. Its start is the first sign since the chart was
  last at zero; it ends when no sign came for ten times as long as the usual distance of two.
* Rules for gross events that no chance explains: a device clock that jumps, creeps, stands still or falls to its epoch; a
  sequence that begins anew; a period that changes after it was established.

A row far off the clock's usual offset is not named until it is known what it is: eight in a row with one offset are a
jump, a creeping offset is drift, a single one that is followed by good ones was backdated, future or just late.

Sources: Page 1954; Lorden 1971 (expected time to a false alarm of a CUSUM is at least e**h); Reynolds and Stoumbos 1999
(Bernoulli CUSUM).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from iiot_dask.core.jit import njit

UNSEEN = np.iinfo(np.int64).min
NO_SEQ = np.uint64(0xFFFFFFFFFFFFFFFF)

# Codes of `kinds.Kind`; literals, because kernels compile constants only.
SLOW, BURST, STORM, DUPLICATE, OUT_OF_ORDER, BACKDATED, FUTURE, LOSS = 6, 7, 8, 11, 12, 13, 14, 15
RESET, CLOCK_JUMP, CLOCK_DRIFT, CLOCK_STUCK, EPOCH, BAD_QUALITY = 16, 17, 18, 19, 20, 28

# Cells of the bank.
C_COPY, C_LATE, C_LOST, C_BAD, C_BACK, C_AHEAD = 0, 1, 2, 3, 4, 5
CELLS = 6

CELL_DTYPE = np.dtype(
    [
        ("start", "<i8"),  # first sign since the chart was last at zero, ns
        ("score", "<f4"),
        ("signs", "<f4"),  # seen in health
        ("spacing", "<f4"),  # samples between two signs while active
        ("since", "<u4"),  # samples since the last sign
        ("kind", "<u4"),  # what was raised; 0 = nothing
    ]
)
"""One chart of one tag, 28 bytes."""

CLOCK_DTYPE = np.dtype(
    [
        ("offset", "<f8"),  # received - time in health, ns
        ("first", "<i8"),  # receive time of the first row of the present run, ns
        ("since", "<i8"),  # start of the condition that is active, ns
        ("seq", "<u8"),
        ("time", "<i8"),  # device time and value of the row before
        ("value", "<f8"),
        ("base", "<f4"),  # established period, ns; 0 = not yet
        ("spread", "<f4"),  # mean |offset - received + time|, ns
        ("last", "<f4"),  # deviation of the row before, ns
        ("jump", "<f4"),  # deviation at the start of the run, ns
        ("run", "<u4"),  # rows in a row that are off
        ("calm", "<u4"),  # rows in a row that are not, while a condition is active
        ("rows", "<u4"),
        ("steady", "<u4"),  # gaps at the established period
        ("still", "<u4"),  # rows in a row without progress of the device time but with another value
        ("copies", "<u4"),  # copies in a row
        ("lately", "<u4"),  # most copies of one sample lately
        ("still_ns", "<i8"),
        ("rate_ns", "<i8"),  # start of a changed rate, ns
        ("samples", "<f4"),  # seen by the charts, halved now and then
        ("up", "u1"),  # bit j: cell j is above zero or active; the others need not be looked at
        ("creeps", "u1"),  # the run began without a step
        ("kind", "u1"),  # active clock condition
        ("rate", "u1"),  # active rate condition
        ("stuck", "u1"),
    ]
)
"""Clock, sequence and rate of one tag, 117 bytes."""

YEAR_NS = 31_556_952_000_000_000
Y2000_NS = 946_684_800_000_000_000
RUN = 8
"""So many rows in a row make an offset or a standstill a fact."""
RATE_RUN = 12
"""Gaps at a changed period before it is told."""
STEADY = 300
"""Gaps after which a period is established."""


@njit
def calm(k: Any, time: int, newest: int, value: float, seq: int, received: int, period: float, floor: float) -> bool:
    """The usual row: nothing odd about it, no chart up. True when it was handled here.

    Exactly what the long way would do to the state; it exists because it is taken nearly always, and because passing no
    array saves a reference count a call.
    """
    if k.rows < 32 or k.up or k.run or k.kind or k.still or k.copies or time <= newest or time == k.time:
        return False
    if seq != NO_SEQ and seq != k.seq + np.uint64(1):
        return False
    d = float(received - time) - k.offset
    if abs(d) > max(8.0 * k.spread, floor, 1.5 * period) or k.samples >= 16383.0:
        return False
    k.samples += 1.0
    k.rows += 1
    k.lately >>= np.uint32(1)
    k.offset += min(max(d, -2.0 * k.spread), 2.0 * k.spread) / 1024.0
    k.spread += (min(abs(d), 3.0 * k.spread + 1e3) - k.spread) / 256.0
    k.last = d
    k.seq = seq
    k.time = time
    k.value = value
    return True


@njit
def put(
    out: Any, at: int, mask: int, tag: int, kind: int, active: bool, start: int, detected: int, score: float
) -> int:
    """Write one change if its kind is wanted; the new length of `out`."""
    if not (mask >> kind) & 1:
        return at
    out[at].tag = tag
    out[at].kind = kind
    out[at].active = active
    out[at].start_ns = start
    out[at].detected_ns = detected
    out[at].score = score
    return at + 1


@njit
def count(k: Any, cells: Any) -> None:
    """One more sample for all charts; old ones are forgotten slowly."""
    k.samples += 1.0
    if k.samples >= 16384.0:
        k.samples *= 0.5
        for j in range(CELLS):
            cells[j].signs *= 0.5


@njit
def _shares(signs: float, samples: float) -> Any:
    """(share of signs in health with a prior, share that would be a fault)."""
    # The prior says that a sign in 50 samples is nothing while little is known, and in 500 later.
    p0 = max((signs + 3.0) / (samples + 150.0), 0.002)
    p1 = 0.99 if p0 > 0.5 else min(max(0.05, 6.0 * p0), 0.95)
    return p0, p1


@njit
def _cell(
    k: Any, cells: Any, j: int, sign: bool, kind: int, gross: float, tag: int, received: int, odds: float, mask: int,
    out: Any, at: int,
) -> int:  # fmt: skip
    """Fold one sample into chart `j`. `gross` > 0: weight of one sign, for signs that chance does not make."""
    bit = np.uint8(1 << j)
    if not sign and not k.up & bit:
        return at
    c = cells[j]
    if c.kind != 0:
        if sign:
            c.spacing += (float(c.since) + 1.0 - c.spacing) / 8.0
            c.since = 0
            return at
        c.since += 1
        if c.since > 10.0 * c.spacing + 5.0:
            at = put(out, at, mask, tag, c.kind, False, c.start, received, c.score)
            c.kind = 0
            c.score = 0.0
            k.up &= ~bit
        return at
    p0, p1 = _shares(c.signs, k.samples)
    if sign:
        if not k.up & bit:
            c.start = received
            k.up |= bit
        c.score += gross if gross > 0.0 else np.log(p1 / p0)
        if c.score < 0.25 * odds:
            # Down here a sign is health, and teaches.
            c.signs += 1.0
        if c.score > odds:
            c.kind = kind
            c.since = 0
            c.spacing = 1.0 / p1
            at = put(out, at, mask, tag, kind, True, c.start, received, c.score)
        return at
    c.score += np.log((1.0 - p1) / (1.0 - p0))
    if c.score <= 0.0:
        c.score = 0.0
        k.up &= ~bit
    return at


@njit
def _rename(c: Any, kind: int, tag: int, received: int, mask: int, out: Any, at: int) -> Any:
    """A copy chart that turns out to be a storm (or the other way): end the one, begin the other."""
    at = put(out, at, mask, tag, c.kind, False, c.start, received, c.score)
    c.kind = kind
    return put(out, at, mask, tag, kind, True, c.start, received, c.score)


@njit
def sequence(
    k: Any, cells: Any, seq: int, late: bool, tag: int, received: int, odds: float, mask: int, out: Any, at: int
) -> Any:
    """Gaps and restarts of the sequence number; the new length of `out`."""
    if seq == NO_SEQ:
        return at
    if k.seq == NO_SEQ:
        k.seq = seq
        return at
    before = k.seq
    if seq == before:
        return at
    wrapped = seq == 0 and (before in {255, 65535, 4294967295})
    # A counter of one byte that came round, and lost some on the way.
    round_lost = seq < before <= 0xFF and before - seq > 128
    if seq < before and late and not wrapped and not round_lost:
        # It was not lost, it came another way: take the sign back.
        c = cells[C_LOST]
        if c.kind == 0:
            p0, p1 = _shares(c.signs, k.samples)
            c.score = max(0.0, c.score - np.log(p1 / p0))
        return at
    k.seq = seq
    if seq > before or wrapped or round_lost:
        lost = round_lost or (not wrapped and seq > before + 1)
        return _cell(k, cells, C_LOST, lost, LOSS, 0.0, tag, received, odds, mask, out, at)
    if seq < 16 or 2 * seq < before:
        at = put(out, at, mask, tag, RESET, True, received, received, float(before - seq))
        at = put(out, at, mask, tag, RESET, False, received, received, float(before - seq))
    return at


@njit
def _end_clock(k: Any, tag: int, received: int, mask: int, out: Any, at: int) -> int:
    at = put(out, at, mask, tag, k.kind, False, k.since, received, abs(k.jump) / 1e9)
    k.kind = 0
    k.calm = 0
    return at


@njit
def _settle(
    k: Any, cells: Any, late: bool, period: float, tag: int, received: int, odds: float, mask: int, out: Any, at: int
) -> int:
    """A good row after off ones: what those were, and whether a clock condition is over."""
    if k.kind != 0:
        k.calm += 1
        if k.calm >= RUN:
            at = _end_clock(k, tag, received, mask, out, at)
    elif 0 < k.run < RUN and not k.creeps:
        far = abs(k.jump) > max(30.0 * period, 60e9)
        if k.jump < 0.0:
            at = _cell(k, cells, C_AHEAD, True, FUTURE, 0.35 * odds, tag, k.first, odds, mask, out, at)
        elif far:
            at = _cell(k, cells, C_BACK, True, BACKDATED, 0.35 * odds, tag, k.first, odds, mask, out, at)
        else:
            at = _cell(k, cells, C_LATE, True, OUT_OF_ORDER, 0.0, tag, k.first, odds, mask, out, at)
    else:
        at = _cell(k, cells, C_LATE, late, OUT_OF_ORDER, 0.0, tag, received, odds, mask, out, at)
        at = _cell(k, cells, C_BACK, False, BACKDATED, 0.0, tag, received, odds, mask, out, at)
        at = _cell(k, cells, C_AHEAD, False, FUTURE, 0.0, tag, received, odds, mask, out, at)
    k.run = 0
    return at


@njit
def clock(
    k: Any, cells: Any, time: int, late: bool, period: float, tag: int, received: int, odds: float, floor: float, mask: int,
    out: Any, at: int,
) -> int:  # fmt: skip
    """Fold one row's device time against its arrival; the new length of `out`."""
    off = float(received - time)
    if received - time > YEAR_NS and (time < YEAR_NS or Y2000_NS <= time < Y2000_NS + YEAR_NS):
        if k.kind != EPOCH:
            if k.kind != 0:
                at = _end_clock(k, tag, received, mask, out, at)
            k.kind = EPOCH
            k.since = received
            k.jump = off
            at = put(out, at, mask, tag, EPOCH, True, received, received, off / 1e9)
        k.calm = 0
        k.run = RUN
        return at
    if k.rows == 0:
        k.offset = off
        k.spread = 0.0
        k.rows = 1
        return at
    d = off - k.offset
    tolerance = max(8.0 * k.spread, floor, 1.5 * period)
    if k.rows < 32:
        # Young: follow quickly, judge nothing.
        k.rows += 1
        k.offset += d / min(float(k.rows), 8.0)
        k.spread += (abs(d) - k.spread) / min(float(k.rows), 16.0)
        k.last = d
        return at
    if abs(d) <= tolerance:
        k.rows += 1
        at = _settle(k, cells, late, period, tag, received, odds, mask, out, at)
        if not late and k.kind == 0:
            # Clamped, so that a creeping clock does not stretch its own tolerance.
            k.offset += min(max(d, -2.0 * k.spread), 2.0 * k.spread) / 1024.0
            k.spread += (min(abs(d), 3.0 * k.spread + 1e3) - k.spread) / 256.0
        k.last = d
        return at
    k.calm = 0
    if k.run == 0:
        k.first = received
        k.creeps = abs(d - k.last) < 0.5 * abs(d)
        k.jump = d
    elif abs(d - k.last) > max(tolerance, 0.1 * abs(d)) and k.kind == 0:
        # Another offset than the row before: no fact yet.
        k.run = 0
        k.first = received
        k.creeps = False
        k.jump = d
    k.run = min(k.run + 1, 1 << 30)
    k.last = d
    if k.run == RUN and k.kind == 0:
        k.kind = CLOCK_DRIFT if k.creeps else CLOCK_JUMP
        k.since = k.first
        at = put(out, at, mask, tag, k.kind, True, k.since, received, abs(d) / 1e9)
    elif k.run == 4096 and k.kind == CLOCK_JUMP:
        # It stays: this is the clock now.
        at = _end_clock(k, tag, received, mask, out, at)
        k.offset = off
        k.run = 0
    return at


@njit
def copies(
    k: Any,
    cells: Any,
    copy: bool,
    moved: bool,
    ahead: bool,
    tag: int,
    received: int,
    odds: float,
    mask: int,
    out: Any,
    at: int,
) -> int:
    """Copies of the sample before, and a device time that stands still while the value moves."""
    if ahead:
        if k.stuck:
            at = put(out, at, mask, tag, CLOCK_STUCK, False, k.still_ns, received, float(k.still))
            k.stuck = 0
        k.still = 0
        k.lately = max(k.copies, k.lately >> np.uint32(1))
        k.copies = 0
    elif moved:
        if k.still == 0:
            k.still_ns = received
        k.still += 1
        if k.still >= RUN and not k.stuck:
            k.stuck = 1
            at = put(out, at, mask, tag, CLOCK_STUCK, True, k.still_ns, received, float(k.still))
    if copy:
        k.copies += 1
    c = cells[C_COPY]
    # A clock that stands still makes copies of slowly moving values; that is not the network's doing.
    sign = copy and k.still < 2
    many = max(k.copies, k.lately) >= 3
    at = _cell(k, cells, C_COPY, sign, STORM if many else DUPLICATE, 0.0, tag, received, odds, mask, out, at)
    if c.kind == DUPLICATE and many and sign:
        at = _rename(c, STORM, tag, received, mask, out, at)
    return at


@njit
def rate_calm(k: Any, relocked: bool, period: float) -> bool:
    """The usual gap: the period is being established, or is the established one. True when it was handled here."""
    if k.base == 0.0:
        k.steady = 0 if relocked else k.steady + 1
        if k.steady >= STEADY:
            k.base = period
        return True
    ratio = period / k.base
    if k.rate or relocked or k.rate_ns != 0 or ratio <= 0.75 or ratio >= 1.33:
        return False
    k.base += (period - k.base) / 4096.0
    return True


@njit
def rate(
    k: Any, relocked: bool, gap: float, period: float, tag: int, received: int, mask: int, out: Any, at: int
) -> int:
    """A period that was established and is another now; the new length of `out`."""
    ratio = period / k.base
    if 0.75 < ratio < 1.33:
        if k.rate:
            at = put(out, at, mask, tag, k.rate, False, k.rate_ns, received, ratio)
            k.rate = 0
        k.steady = 0
        k.rate_ns = 0
        return at
    if relocked:
        k.rate_ns = received - np.int64(5.0 * gap)
        k.steady = 0
    k.steady += 1
    if not k.rate:
        # It has to last: losses now and then look like a slower rhythm for a moment.
        if k.steady >= RATE_RUN and k.rate_ns != 0:
            k.rate = SLOW if ratio > 1.0 else BURST
            at = put(out, at, mask, tag, k.rate, True, k.rate_ns, received, ratio)
    elif received - k.rate_ns > 4 * STEADY * np.float64(k.base):
        # Nobody put it right: this is the schedule now.
        at = put(out, at, mask, tag, k.rate, False, k.rate_ns, received, ratio)
        k.rate = 0
        k.base = period
        k.steady = 0
    return at


@njit
def quality_chart(
    k: Any, cells: Any, bad: bool, tag: int, received: int, odds: float, mask: int, out: Any, at: int
) -> Any:
    """Share of bad samples; the new length of `out`."""
    return _cell(k, cells, C_BAD, bad, BAD_QUALITY, 0.0, tag, received, odds, mask, out, at)


@njit
def conditions(k: Any, cells: Any, tag: int, mask: int, out: Any, at: int) -> int:
    """Write what holds now; the new length of `out`."""
    for j in range(CELLS):
        c = cells[j]
        if c.kind:
            at = put(out, at, mask, tag, c.kind, True, c.start, c.start, c.score)
    if k.kind:
        at = put(out, at, mask, tag, k.kind, True, k.since, k.since, abs(k.jump) / 1e9)
    if k.stuck:
        at = put(out, at, mask, tag, CLOCK_STUCK, True, k.still_ns, k.still_ns, float(k.still))
    if k.rate:
        at = put(out, at, mask, tag, k.rate, True, k.rate_ns, k.rate_ns, 1.0)
    return at
