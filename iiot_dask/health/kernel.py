"""The numba kernels of tag health: one fixed-size record a tag, O(1) work a sample, no allocation.

`rhythm` watches when a tag sends, `order` in which order and with what clock, `values` what it says; `charts` is the bank
they share and `record` the 128 bytes of a tag. Rules they keep together:

* `detected_ns` is a function of the data alone, not of batch borders: silence found late has the time it was due.
* A row is told apart first: a copy says nothing but that the tag lives; a late one is no beat of the rhythm; one with a
  device time nobody knows yet what to make of is a beat, but its value does not count.
* The usual row takes a short way (`_calm`) that does to the record exactly what the long way would.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from iiot_dask.core.jit import njit
from iiot_dask.health import charts, order, rhythm, values
from iiot_dask.health.record import (
    C_BAD,
    CHARTS,
    CLOCK_AT,
    F_ARMED,
    F_HELD,
    F_KNOWN,
    F_RELOCK,
    F_RESET,
    F_SEQ,
    F_SILENT,
    F_STUCK,
    FORM_AT,
    NEVER,
    NO_SEQ,
    OCTETS,
    RATE_AT,
    UNSEEN,
    i64,
    wide,
)  # fmt: skip

SILENCE = 1

KNOBS_DTYPE = np.dtype(
    [
        ("log_odds", "<f8"),
        ("floor_ns", "<f8"),
        ("burst_ns", "<f8"),
        ("flat_ns", "<f8"),
        ("flat_run", "<u4"),
        ("warm_gaps", "<u4"),
        ("kinds", "<i8"),  # bit mask of the kinds that are told
        ("clock_ns", "<f8"),
    ]
)

ROW_CHANGES = 24
"""Most changes one row, or the conditions of one tag, can make."""
AHEAD = 12
"""Rows ahead whose record is asked for: a random record is two cache misses away."""
LATE_NEAR = 8.0
"""Periods within which a late row may be a copy, or one that took another way."""


@intrinsic  # type: ignore[untyped-decorator]
def _prefetch(typing_context: Any, address: Any) -> Any:  # noqa: ARG001 -- numba's signature
    """Ask for the cache line at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        from llvmlite import ir  # type: ignore[import-untyped]

        pointer = builder.inttoptr(args[0], cgutils.voidptr_t)
        kinds = [cgutils.voidptr_t, ir.IntType(32), ir.IntType(32), ir.IntType(32)]
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), kinds), "llvm.prefetch.p0"
        )
        builder.call(function, [pointer, *(ir.Constant(ir.IntType(32), x) for x in (1, 3, 1))])
        return context.get_dummy_value()

    return types.void(types.uintp), codegen


@njit
def _calm(s: Any, time: int, seq: Any, received: int, floor: float) -> bool:
    """The usual row: nothing odd about it, no chart up. True when its order and clock were handled here."""
    if s.samples < 32 or s.up or s.off or s.odd_rows or s.copies or s.samples >= 16383 or time <= s.time:
        return False
    if s.flags & np.uint32((3 << CLOCK_AT) | F_HELD | F_RESET | F_STUCK) or s.rx == UNSEEN:
        return False
    if seq == NO_SEQ:
        if float(time - s.time) > 1.5 * s.period:
            return False
    elif not s.flags & F_SEQ or i64(seq & np.uint64(0xFFFFFFFF)) != i64(s.seq) + 1:
        return False
    d = float(received - time) - float(s.offset)
    waited = float(received - s.rx) - float(time - s.time)
    if abs(d) > order.tolerance(s, floor) or waited > 0.8 * s.period:
        return False
    s.samples += 1
    order.follow(s, d)
    if seq != NO_SEQ:
        s.seq = np.uint32(seq & np.uint64(0xFFFFFFFF))
    return True


PACED = np.uint32((3 << RATE_AT) | F_RELOCK)
"""At another pace values have other differences: they are not judged."""
COPY, LATE, PLAIN, DOUBTFUL = 0, 1, 2, 3
"""What a row turned out to be."""


@njit
def _sort_out(
    s: Any, w: Any, b: Any, i: int, tag: int, time: int, value: float, bad: bool, seq: Any, received: int, k: Any, out: Any,
    at: int,
) -> Any:  # fmt: skip
    """Copies, order, sequence, quality and clock of one row; (what it is, the new length of `out`)."""
    nothing = np.isnan(value)
    if not s.flags & F_KNOWN:
        s.flags |= np.uint32(F_KNOWN)
        s.time = time
        if seq != NO_SEQ:
            s.seq = np.uint32(seq & np.uint64(0xFFFFFFFF))
            s.flags |= np.uint32(F_SEQ)
        s.samples = 1
        s.offset = received - time
        return PLAIN, at
    period = float(s.period)
    dt = float(time - s.time)
    gap = float(received - s.rx) if s.rx != UNSEEN else 0.0
    same = time == s.time
    numbered = seq != NO_SEQ and s.flags & F_SEQ
    number = i64(seq & np.uint64(0xFFFFFFFF))
    copy = same and (value == s.value or nothing or bad) and (not numbered or number == i64(s.seq))
    if copy and not numbered and gap >= 0.7 * period and s.gaps >= 12:
        # It came when the next was due: the clock stands still.
        copy = False
    clock = (i64(s.flags) >> CLOCK_AT) & 3
    near = dt < 0.0 and dt > -LATE_NEAR * period and not clock
    twice = near and i64(s.tries) >> 5 == 0 and not s.off and s.samples >= 32
    if twice and numbered:
        twice = number < i64(s.seq) and i64(s.seq) - number <= 8
    at = order.copies(s, w, b, i, copy or twice, same and not copy, dt > 0.0, tag, received, k, out, at)
    if copy or twice:
        return COPY, at
    if s.samples >= 16383:
        s.samples >>= 1
        for j in range(CHARTS):
            b[i, OCTETS + j] >>= 1
    s.samples += 1
    at = charts.fade(s, b, i, tag, received, k.kinds, out, at)
    if bad or nothing or s.up & (1 << C_BAD):
        if (bad or nothing) and not s.active & (1 << C_BAD):
            form = 0 if not nothing else 1 if bad else 2
            s.flags = (s.flags & ~np.uint32(3 << FORM_AT)) | np.uint32(form << FORM_AT)
        at = charts.weigh(s, w, b, i, C_BAD, bad or nothing, tag, received, k.log_odds, k.kinds, out, at)
    slots = 0
    if dt > 0.0 and s.gaps >= 32 and s.odd < rhythm.ODD and not clock and not s.off:
        slots = i64(min(np.floor(dt / period + 0.5), 99.0))
        if abs(dt - slots * period) > 0.25 * period:
            slots = 0
    back = s.flags & F_SILENT or gap > s.wait
    at = order.sequence(s, w, b, i, seq, dt < 0.0, back, slots, tag, received, k, out, at)
    late = dt < 0.0
    if near and i64(s.tries) >> 5:
        order.take_back(s, w, b, i)
    if i64(s.odd_rows) >> 4 < 2:
        at = order.clock(s, w, b, i, time, late, dt, gap, tag, received, k, out, at)
    clock = (i64(s.flags) >> CLOCK_AT) & 3
    if s.off and not clock:
        # Nobody knows yet what to make of its time; a late one nearby is no beat.
        return (LATE if near else DOUBTFUL), at
    if same:
        return DOUBTFUL, at
    if late and not clock:
        return LATE, at
    s.time = time
    return PLAIN, at


@njit
def update_kernel(
    state: Any, words: Any, octets: Any, local: Any, tag: Any, time: Any, value: Any, quality: Any, seq: Any, received: Any,
    mute: Any, knobs: Any, out: Any,
) -> int:  # fmt: skip
    """Fold rows, in order of arrival, into the state; returns how many changes were written to `out`.

    `state`: STATE_DTYPE[tags]; `words`, `octets`: its bytes as uint16[tags, 64] and uint8[tags, 128]; `local`: index per
    row; `seq`: uint64, record.NO_SEQ where there is none; `mute`: bool[256], quality codes that say that nothing came from
    the device; `knobs`: KNOBS_DTYPE[1]; `out`: CHANGE_DTYPE with room for ROW_CHANGES entries a row.
    """
    n = 0
    k = knobs[0]
    base = octets.ctypes.data
    rows = len(local)
    for r in range(rows):
        if r + AHEAD < rows:
            place = np.uintp(base + local[r + AHEAD] * 128)
            _prefetch(place)
            _prefetch(place + np.uintp(64))
        i = local[r]
        s = state[i]
        bad = quality[r] >= 128
        if mute[quality[r]]:
            if s.flags & F_KNOWN:
                s.samples += s.samples < 16383
                form = np.uint32(3 << FORM_AT)
                if not s.active & (1 << C_BAD):
                    s.flags &= ~form
                n = charts.weigh(s, words, octets, i, C_BAD, True, tag[r], received[r], k.log_odds, k.kinds, out, n)
            continue
        what = PLAIN
        if not bad and not np.isnan(value[r]) and _calm(s, time[r], seq[r], received[r], k.clock_ns):
            s.time = time[r]
        else:
            what, n = _sort_out(s, words, octets, i, tag[r], time[r], value[r], bad, seq[r], received[r], k, out, n)
        # Of what was buffered on the way only the first is a beat.
        behind = s.flags & F_HELD and float(received[r] - s.rx) < 0.5 * s.period
        n = rhythm.arrival(s, words, octets, i, what >= PLAIN and not behind, tag[r], received[r], k, out, n)
        if what == PLAIN and not bad and not np.isnan(value[r]) and not s.flags & PACED:
            n = values.fold(s, octets, i, value[r], tag[r], received[r], k, out, n)
    return n


@njit
def sweep_kernel(state: Any, shard: int, shards: int, now_ns: int, out: Any) -> int:
    """Mark every tag that is overdue at `now_ns`; returns how many changes were written to `out`."""
    n = 0
    for i in range(len(state)):
        s = state[i]
        if s.wait != NEVER and now_ns - s.rx > s.wait and not s.flags & F_SILENT:
            s.flags |= np.uint32(F_SILENT)
            start, due = s.rx + i64(s.period), s.rx + i64(s.wait)
            n = rhythm.emit(out, n, i * shards + shard, SILENCE, True, start, due, (now_ns - s.rx) / s.period)
            if n == len(out):
                break
    return n


@njit
def excuse_kernel(state: Any, span_ns: int) -> None:
    """Give every tag that is not silent yet `span_ns` longer: we were not listening for that long."""
    for i in range(len(state)):
        if state[i].wait != NEVER and not state[i].flags & F_SILENT:
            state[i].wait += span_ns


@njit
def conditions_kernel(state: Any, shard: int, shards: int, mask: int, out: Any) -> int:
    """Write what holds now as changes; returns how many. `out` has room for ROW_CHANGES a tag."""
    n = 0
    for i in range(len(state)):
        s = state[i]
        tag = i * shards + shard
        if s.flags & F_ARMED:
            n = rhythm.emit(out, n, tag, rhythm.ARMED, True, s.rx, s.rx, max(0.0, s.wait / 1e9))
        if s.flags & F_SILENT:
            start, due = s.rx + i64(s.period), s.rx + i64(s.wait)
            n = rhythm.emit(out, n, tag, SILENCE, True, start, due, 1.0)
        n = charts.held(s, tag, mask, out, n)
        n = values.held(s, tag, mask, out, n)
        clock, rate = (i64(s.flags) >> CLOCK_AT) & 3, (i64(s.flags) >> RATE_AT) & 3
        if clock:
            score = abs(wide(s.jump)) / 1e9
            n = charts.put(out, n, mask, tag, order.clock_kind(clock), True, s.rx, s.rx, score)
        if s.flags & F_STUCK:
            n = charts.put(out, n, mask, tag, order.CLOCK_STUCK, True, s.rx, s.rx, 1.0)
        if rate:
            n = charts.put(out, n, mask, tag, rhythm.SLOW if rate == 1 else rhythm.BURST, True, s.rx, s.rx, 1.0)
    return n
