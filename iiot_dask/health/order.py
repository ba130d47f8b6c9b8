"""Numba kernels for order, sequence numbers and device clocks: rules for what no chance explains.

A row far off the clock's usual offset is not named until it is known what it is: eight in a row with one offset are a
jump, a creeping offset is drift, a single one that is followed by good ones was backdated, of the future or just late. Rows
that were buffered on the way keep their own cadence in device time and are excused.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from iiot_dask.core.jit import njit
from iiot_dask.health import charts
from iiot_dask.health.record import (
    C_COPY,
    C_LATE,
    C_LOST,
    CLOCK_AT,
    F_AHEAD,
    F_CREEPS,
    F_HELD,
    F_RESET,
    F_SEQ,
    F_SEQ2,
    F_STORM,
    F_STUCK,
    N_FAR,
    N_HOLD,
    N_IDENTITY,
    NO_SEQ,
    OCTETS,
    WORDS,
    half,
    i64,
    wide,
)  # fmt: skip

RESET, CLOCK_JUMP, CLOCK_DRIFT, CLOCK_STUCK, EPOCH, STORM, DUPLICATE = 16, 17, 18, 19, 20, 8, 11

YEAR_NS = 31_556_952_000_000_000.0
Y2000_NS = 946_684_800_000_000_000
RUN = 8
"""So many rows in a row make an offset or a standstill a fact."""
JUMP, DRIFT, EPOCHAL = 1, 2, 3
"""Values of the clock number in `flags`."""


@njit
def clock_kind(number: int) -> int:
    """The kind of a clock number."""
    return CLOCK_JUMP if number == JUMP else CLOCK_DRIFT if number == DRIFT else EPOCH


@njit
def _set_clock(s: Any, number: int) -> None:
    s.flags = (s.flags & ~np.uint32(3 << CLOCK_AT)) | np.uint32(number << CLOCK_AT)


@njit
def missing(s: Any, n: int) -> None:
    """`n` samples are missing; they may still come."""
    tries = i64(s.tries)
    s.tries = (tries & 31) | (min(7, (tries >> 5) + n) << 5)


@njit
def copies(
    s: Any, w: Any, b: Any, i: int, copy: bool, stands: bool, ahead: bool, tag: int, received: int, k: Any, out: Any, at: int
) -> int:  # fmt: skip
    """Copies of a sample, and a device time that stands still while the device goes on; the new length of `out`."""
    packed, calm = i64(s.copies), i64(s.odd_rows)
    in_a_row, lately, still, calm = packed & 15, packed >> 4, calm >> 4, calm & 15
    if ahead:
        if s.flags & F_STUCK:
            at = charts.put(out, at, k.kinds, tag, CLOCK_STUCK, False, received, received, 0.0)
            s.flags &= ~np.uint32(F_STUCK)
        still = 0
        lately = max(in_a_row, lately >> 1)
        in_a_row = 0
    elif stands:
        still = min(15, still + 1)
        if still >= RUN and not s.flags & F_STUCK:
            s.flags |= np.uint32(F_STUCK)
            start = received - i64(RUN * s.period)
            at = charts.put(out, at, k.kinds, tag, CLOCK_STUCK, True, start, received, float(still))
    if copy:
        in_a_row = min(15, in_a_row + 1)
    s.copies = in_a_row | (lately << 4)
    s.odd_rows = calm | (still << 4)
    # A clock that stands still makes copies of slowly moving values; that is not the network's doing.
    sign = copy and still < 2
    many = max(in_a_row, lately) >= 3
    active = s.active & (1 << C_COPY)
    if many and not active:
        s.flags |= np.uint32(F_STORM)
    elif not active:
        s.flags &= ~np.uint32(F_STORM)
    at = charts.weigh(s, w, b, i, C_COPY, sign, tag, received, k.log_odds, k.kinds, out, at)
    if s.active & (1 << C_COPY) and many and sign and not s.flags & F_STORM:
        # What was told as single copies turns out to be a storm.
        at = charts.put(out, at, k.kinds, tag, DUPLICATE, False, received, received, 0.0)
        s.flags |= np.uint32(F_STORM)
        at = charts.put(out, at, k.kinds, tag, STORM, True, received, received, 1.0)
    return at


@njit
def sequence(
    s: Any,
    w: Any,
    b: Any,
    i: int,
    seq: Any,
    late: bool,
    back: bool,
    slots: int,
    tag: int,
    received: int,
    k: Any,
    out: Any,
    at: int,
) -> int:
    """Gaps, restarts and double use of the sequence number; the new length of `out`.

    `back`: the tag was silent, and what is missing is known. Without a number, `slots` says how many periods of device time passed since the sample before.
    """
    if seq == NO_SEQ:
        lost = 1 < slots <= 8 and not back
        if lost:
            missing(s, slots - 1)
        return charts.weigh(s, w, b, i, C_LOST, lost, tag, received, k.log_odds, k.kinds, out, at)
    now = i64(seq & np.uint64(0xFFFFFFFF))
    if not s.flags & F_SEQ:
        s.flags |= np.uint32(F_SEQ)
        s.seq = now
        return at
    before = i64(s.seq)
    step = now - before
    if back and step > 0:
        s.seq = now
        return at
    if step == 0 or (late and step < 0 and step > -64):
        return at
    if s.flags & F_RESET and 0 < step <= 16:
        s.flags &= ~np.uint32(F_RESET)
        at = charts.put(out, at, k.kinds, tag, RESET, True, received, received, 1.0)
        at = charts.put(out, at, k.kinds, tag, RESET, False, received, received, 1.0)
    s.seq = now
    if step == 1 or (now == 0 and (before in {255, 65535, 4294967295})):
        return charts.weigh(s, w, b, i, C_LOST, False, tag, received, k.log_odds, k.kinds, out, at)
    if s.flags & F_SEQ2 and now == i64(s.seq2) + 1 and not late:
        # Two counters take turns: neither lost anything, neither began anew.
        s.seq2 = before
        s.flags &= ~np.uint32(F_RESET)
        charts.drop(s, w, i, C_LOST)
        return charts.evidence(s, b, i, N_IDENTITY, 40, 64, tag, received, k.kinds, out, at)
    s.seq2 = before
    s.flags |= np.uint32(F_SEQ2)
    # A counter of one byte that came round, and lost some on the way.
    round_lost = now < before <= 0xFF and before - now > 128
    if step > 0 or round_lost:
        missing(s, min(step - 1 if step > 0 else 1, 7))
        return charts.weigh(s, w, b, i, C_LOST, True, tag, received, k.log_odds, k.kinds, out, at)
    if now < 16 or 2 * now < before:
        # Told when the next number follows this one.
        s.flags |= np.uint32(F_RESET)
    return at


@njit
def take_back(s: Any, w: Any, b: Any, i: int) -> None:
    """A sample that was counted as lost came another way."""
    tries = i64(s.tries)
    s.tries = (tries & 31) | (max(0, (tries >> 5) - 1) << 5)
    if s.active & (1 << C_LOST) or s.samples < charts.YOUNG:
        return
    p0, p1 = charts.shares(float(b[i, OCTETS + C_LOST]), float(s.samples))
    at = WORDS + C_LOST
    w[i, at] = np.uint16(max(0.0, w[i, at] - charts.UNIT * np.log(p1 / p0)))


@njit
def _end_clock(s: Any, tag: int, received: int, mask: int, out: Any, at: int) -> int:
    kind = clock_kind((i64(s.flags) >> CLOCK_AT) & 3)
    at = charts.put(out, at, mask, tag, kind, False, received, received, abs(wide(s.jump)) / 1e9)
    _set_clock(s, 0)
    s.odd_rows &= 0xF0
    return at


@njit
def _settle(s: Any, w: Any, b: Any, i: int, late: bool, tag: int, received: int, k: Any, out: Any, at: int) -> int:
    """A good row: what the off ones before it were, and whether a clock condition is over."""
    if s.flags & np.uint32(3 << CLOCK_AT):
        s.odd_rows += 1
        if i64(s.odd_rows) & 15 >= RUN:
            at = _end_clock(s, tag, received, k.kinds, out, at)
    elif 0 < s.off < RUN and not s.flags & F_CREEPS:
        jump = wide(s.jump)
        if jump < 0.0:
            s.flags |= np.uint32(F_AHEAD)
            at = charts.evidence(s, b, i, N_FAR, 86, 255, tag, received, k.kinds, out, at)
        elif jump > max(30.0 * s.period, 60e9):
            if not s.active & (1 << N_FAR):
                s.flags &= ~np.uint32(F_AHEAD)
            at = charts.evidence(s, b, i, N_FAR, 86, 255, tag, received, k.kinds, out, at)
        else:
            at = charts.weigh(s, w, b, i, C_LATE, True, tag, received, k.log_odds, k.kinds, out, at)
    else:
        at = charts.weigh(s, w, b, i, C_LATE, late, tag, received, k.log_odds, k.kinds, out, at)
    s.off = 0
    return at


@njit
def tolerance(s: Any, floor: float) -> float:
    """How far a device time may be off, ns."""
    return max(8.0 * float(wide(s.scatter)), floor, 1.5 * float(s.period)) + 4e-7 * abs(float(s.offset))


@njit
def follow(s: Any, d: float) -> None:
    """Let offset and scatter follow a good row; clamped, so that a creeping clock does not stretch its own tolerance."""
    scatter = float(wide(s.scatter))
    s.offset += min(max(d, -2.0 * scatter), 2.0 * scatter) / 1024.0
    if s.samples < 256 or i64(s.samples) & 15 == 0:
        s.scatter = half(scatter + (min(abs(d), 3.0 * scatter + 1e3) - scatter) / 64.0)


@njit
def clock(
    s: Any, w: Any, b: Any, i: int, time: int, late: bool, dt: float, gap: float, tag: int, received: int, k: Any, out: Any,
    at: int,
) -> int:  # fmt: skip
    """Fold one row's device time against its arrival; the new length of `out`."""
    off = float(received) - float(time)
    number = (i64(s.flags) >> CLOCK_AT) & 3
    if off > YEAR_NS and (time < YEAR_NS or Y2000_NS <= time < Y2000_NS + YEAR_NS):
        if number != EPOCHAL:
            if number:
                at = _end_clock(s, tag, received, k.kinds, out, at)
            _set_clock(s, EPOCHAL)
            s.jump = half(off)
            at = charts.put(out, at, k.kinds, tag, EPOCH, True, received, received, off / 1e9)
        s.odd_rows &= 0xF0
        s.off = RUN
        return at
    off = float(received - time)
    rows = float(s.samples)
    if rows <= 1.0:
        s.offset = off
        return at
    d = off - float(s.offset)
    if rows < 32.0:
        # Young: follow quickly, judge nothing.
        s.offset += d / min(rows, 8.0)
        scatter = float(wide(s.scatter))
        s.scatter = half(scatter + (abs(d) - scatter) / min(rows, 16.0))
        return at
    waited = gap - dt
    if dt > 0.0 and waited > 0.8 * s.period and s.gaps >= 32 and not number and not s.off:
        # It waited somewhere for more than a beat; those behind it come at once.
        if waited > 1.2 * s.period and dt < 1.5 * s.period and not s.up & (1 << C_LATE):
            at = charts.evidence(
                s, b, i, N_HOLD, 120 if waited > 2.5 * s.period else 86, 255, tag, received, k.kinds, out, at
            )
        s.flags |= np.uint32(F_HELD)
    elif not (s.flags & F_HELD and dt > 0.0 and gap < 0.5 * s.period):
        s.flags &= ~np.uint32(F_HELD)
    limit = tolerance(s, k.clock_ns)
    if abs(d) <= limit:
        at = _settle(s, w, b, i, late, tag, received, k, out, at)
        if not late and not s.flags & np.uint32(3 << CLOCK_AT):
            follow(s, d)
        return at
    if s.flags & F_HELD and d > 0.0:
        s.off = 0
        return at
    s.odd_rows &= 0xF0
    last = float(wide(s.jump))
    if s.off == 0:
        before = float(s.rx - s.time) - float(s.offset)
        s.flags &= ~np.uint32(F_CREEPS)
        if abs(d - before) < 0.5 * abs(d):
            s.flags |= np.uint32(F_CREEPS)
    elif abs(d - last) > max(limit, 0.1 * abs(d)) and not number:
        # Another offset than the row before: no fact yet.
        s.off = 0
        s.flags &= ~np.uint32(F_CREEPS)
    s.jump = half(d)
    if s.off < RUN or (i64(s.samples) & 15 == 0 and s.off < 255):
        s.off += 1
    if s.off == RUN and not number:
        number = DRIFT if s.flags & F_CREEPS else JUMP
        _set_clock(s, number)
        start = received - i64((RUN - 1) * s.period)
        at = charts.put(out, at, k.kinds, tag, clock_kind(number), True, start, received, abs(d) / 1e9)
    elif s.off == 255 and number == JUMP:
        # It stays for some 4,000 rows: this is the clock now.
        at = _end_clock(s, tag, received, k.kinds, out, at)
        s.offset = off
        s.off = 0
    return at
