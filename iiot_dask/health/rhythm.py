"""Numba kernels for *when* a tag sends: its rhythm, how long it may be quiet, and a rhythm that changes.

* The period is learnt from gaps between arrivals (receive time); arrivals closer than `burst_ns` are one. It is a clamped
  (Huber) EWMA, so single long gaps hardly move it while a ramp is followed within ~50 arrivals.
* A gap near a small multiple of the period is missing samples, not irregularity. The silence threshold is loss-aware: as
  many missed periods as make a healthy tag's false alarm rarer than `e**-log_odds` (k = L / -ln p_loss), and never less
  than twice the longest recent gap. Tags without a rhythm (report on change) get the exponential tail.
* A gap that raised silence teaches nothing, except that three in a row are a new schedule: then the rhythm is relearnt.
* A rhythm that was established and is another now is slower or faster, once it lasted for a dozen gaps.

Sources: phi-accrual (Hayashibara et al. 2004) for adaptive time-outs, with the Gaussian tail replaced by the loss model.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from iiot_dask.core.jit import njit
from iiot_dask.health import charts
from iiot_dask.health.record import (
    C_JITTER,
    C_LOST,
    F_ARMED,
    F_RELOCK,
    F_SILENT,
    N_HOLD,
    N_IDENTITY,
    NEVER,
    OCTETS,
    RATE_AT,
    UNSEEN,
    half,
    i64,
    wide,
)  # fmt: skip

ARMED, SILENCE, SLOW, BURST = 0, 1, 6, 7
ODD = 16384
"""Above this share of irregular gaps (1/65536) a tag has no rhythm."""
RATE_RUN = 12
"""Gaps at a changed period before it is told."""
STEADY = 255
"""Gaps after which a period is established."""


@njit
def emit(out: Any, at: int, tag: int, kind: int, active: bool, start: int, detected: int, score: float) -> int:
    """Write one change whatever kinds are wanted; the new length of `out`."""
    return charts.put(out, at, -1, tag, kind, active, start, detected, score)


@njit
def threshold_ns(s: Any, w: Any, b: Any, i: int, k: Any) -> float:
    """How long this tag may be quiet, ns."""
    period, spread, longest = float(s.period), float(wide(s.spread)), float(wide(s.longest))
    if s.odd >= ODD:
        return float(max(k.floor_ns, k.log_odds * (period + spread), 5.0 * longest))
    # A prior of one loss in 40 keeps young tags from being judged by luck.
    p = (b[i, OCTETS + C_LOST] + 1.0) / (s.samples + 40.0)
    if s.up & (1 << C_LOST) and charts.high(s, w, i, C_LOST, k.log_odds):
        p = max(p, 0.35)
    missed = np.ceil(k.log_odds / -np.log(min(p, 0.9)))
    return float(max(k.floor_ns, (missed + 1.0) * period + 6.0 * spread, 2.0 * longest))


@njit
def _learn_gap(s: Any, gap: float) -> bool:
    """Fold one gap into the rhythm; True when a new period was taken over at once."""
    n = i64(s.gaps)
    # A changed rate is given 32 times as long before it counts as established.
    if n < 255 and (not s.flags & np.uint32(3 << RATE_AT) or i64(s.samples) & 31 == 0):
        s.gaps = n + 1
    if n == 0:
        s.period = gap
        s.gap = s.longest = half(gap)
        s.spread = half(0.25 * gap)
        return False
    relocked = False
    period = float(s.period)
    slots = max(1.0, np.floor(gap / period + 0.5))
    odd = slots > 8.0 or abs(gap - slots * period) > 0.25 * period
    beat = gap if odd else gap / slots
    alike = (i64(s.tries) >> 2) & 7
    if (odd or slots > 1.0) and abs(gap - float(wide(s.gap))) < 0.12 * gap:
        # A new rhythm shows by repeating itself; losses hardly ever come four alike in a row.
        alike += 1
        if alike >= 4:
            alike = 0
            period = gap
            s.period = gap
            relocked = True
        odd = False
    else:
        alike = 0
    s.tries = (i64(s.tries) & 0xE3) | (alike << 2)
    s.gap = half(gap)
    if n >= 4:
        share = float(s.odd)
        s.odd = np.uint16(share + ((65535.0 if odd else 0.0) - share) / min(n - 3.0, 128.0))
    clamp = (2.0 if n < 16 else 0.25) * period
    # With samples missing it is the beat that counts.
    s.period = period + min(max(beat - period, -clamp), clamp) / min(n + 1.0, 8.0)
    spread = float(wide(s.spread))
    s.spread = half(spread + (min(abs(gap - period), 8.0 * period) - spread) / 16.0)
    longest = float(wide(s.longest))
    if gap > longest:
        s.longest = half(gap)
    elif s.odd < ODD or i64(s.samples) & 15 == 0:
        # At least the last digit of a half, or it would never be forgotten.
        s.longest = half(longest - max((longest - gap) / 64.0, min(longest - gap, longest / 200.0)))
    return relocked


@njit
def _relearn(s: Any, gap: float) -> None:
    s.gaps = 1
    s.gap = s.longest = half(gap)
    s.tries &= 0xE0
    s.period = gap
    s.spread = half(0.25 * gap)
    s.odd = 0


@njit
def _rate(s: Any, relocked: bool, gap: float, tag: int, received: int, k: Any, out: Any, at: int) -> int:
    """A period that was established and is another now; the new length of `out`."""
    period, base = float(s.period), float(wide(s.base))
    if base == 0.0:
        if relocked:
            s.gaps = 16
        if s.gaps >= STEADY:
            s.base = half(period)
        return at
    pace, rate = i64(s.pace), (i64(s.flags) >> RATE_AT) & 3
    steady = pace & 15
    ratio = period / base
    if 0.75 < ratio < 1.33:
        if rate:
            at = charts.put(out, at, k.kinds, tag, SLOW if rate == 1 else BURST, False, received, received, ratio)
            s.flags &= ~np.uint32(3 << RATE_AT)
        s.flags &= ~np.uint32(F_RELOCK)
        s.pace &= 0xF0
        if i64(s.samples) & 63 == 0:
            # One digit of a half at a time: a rhythm that wanders is no change.
            s.base = half(base * (1.004 if ratio > 1.004 else 0.996 if ratio < 0.996 else 1.0))
        return at
    if relocked:
        s.flags |= np.uint32(F_RELOCK)
        steady = 0
    steady = min(15, steady + 1)
    s.pace = (pace & 0xF0) | steady
    if not rate:
        # It has to last: losses now and then look like a slower rhythm for a moment.
        if steady >= RATE_RUN and s.flags & F_RELOCK and not s.up & ((1 << N_IDENTITY) | (1 << N_HOLD)):
            rate = 1 if ratio > 1.0 else 2
            s.flags |= np.uint32(rate << RATE_AT)
            s.gaps = 16
            start = received - i64((RATE_RUN + 4.0) * gap)
            at = charts.put(out, at, k.kinds, tag, SLOW if rate == 1 else BURST, True, start, received, ratio)
    elif s.gaps >= STEADY:
        # Nobody put it right for a long while: this is the schedule now.
        at = charts.put(out, at, k.kinds, tag, SLOW if rate == 1 else BURST, False, received, received, ratio)
        s.flags &= ~np.uint32((3 << RATE_AT) | F_RELOCK)
        s.base = half(period)
        s.pace &= 0xF0
    return at


@njit
def _scatter(
    s: Any, w: Any, b: Any, i: int, gap: float, relocked: bool, tag: int, received: int, k: Any, out: Any, at: int
) -> int:
    """Whether arrivals scatter more than they used to; the new length of `out`."""
    period = float(s.period)
    slots = max(1.0, np.floor(gap / period + 0.5))
    rest = abs(gap - slots * period)
    usual = float(wide(s.jitter))
    if s.gaps < 200 and not s.base:
        s.jitter = half(usual + (min(rest, 0.5 * period) - usual) / min(float(s.gaps), 64.0))
        return at
    if gap < 0.5 * period:
        return at
    if slots > 8.0 or relocked or s.flags & F_RELOCK or s.up & ((1 << N_IDENTITY) | (1 << N_HOLD)):
        charts.drop(s, w, i, C_JITTER)
        return at
    sign = rest > 3.5 * usual and rest > 0.02 * period
    return charts.weigh(s, w, b, i, C_JITTER, sign, tag, received, k.log_odds, k.kinds, out, at)


@njit
def _beat(s: Any, w: Any, b: Any, i: int, gap: float, tag: int, received: int, k: Any, out: Any, at: int) -> int:
    relocked = _learn_gap(s, gap)
    at = _rate(s, relocked, gap, tag, received, k, out, at)
    return _scatter(s, w, b, i, gap, relocked, tag, received, k, out, at)


@njit
def arrival(s: Any, w: Any, b: Any, i: int, beat: bool, tag: int, received: int, k: Any, out: Any, at: int) -> int:
    """Fold one arrival into the rhythm; without `beat` it is a sign of life only. The new length of `out`."""
    if s.rx == UNSEEN:
        s.rx = received
        return at
    gap = float(received - s.rx)
    if gap < k.burst_ns:
        return at
    silent, overdue = s.flags & F_SILENT, gap > s.wait
    if not beat and not silent and not overdue:
        if s.wait != NEVER:
            s.wait = max(float(s.wait), gap + threshold_ns(s, w, b, i, k))
        return at
    start = s.rx + i64(s.period)
    if silent and not overdue:
        # The sweep ran ahead of this sample (another adapter's clock): take it back.
        s.flags &= ~np.uint32(F_SILENT)
        at = emit(out, at, tag, SILENCE, False, start, received, gap / s.period)
        at = _beat(s, w, b, i, gap, tag, received, k, out, at)
    elif overdue:
        due = s.rx + i64(s.wait)
        if not silent:
            at = emit(out, at, tag, SILENCE, True, start, due, gap / s.period)
        at = emit(out, at, tag, SILENCE, False, start, received, gap / s.period)
        s.flags &= ~np.uint32(F_SILENT)
        tries = i64(s.tries)
        longs = min(3, (tries & 3) + 1)
        s.tries = (tries & 0xFC) | longs
        if s.odd >= ODD:
            s.longest = half(max(float(wide(s.longest)), min(gap, 2.0 * float(s.wait))))
        if longs == 3:
            _relearn(s, gap)
    else:
        s.tries &= 0xFC
        at = _beat(s, w, b, i, gap, tag, received, k, out, at)
    s.rx = received
    return _judge(s, w, b, i, tag, received, k, out, at)


@njit
def _judge(s: Any, w: Any, b: Any, i: int, tag: int, received: int, k: Any, out: Any, at: int) -> int:
    """Set how long it may be quiet from now on; the new length of `out`."""
    armed = s.flags & F_ARMED
    if s.gaps < k.warm_gaps or (s.odd > 0 and s.gaps < 32):
        s.wait = NEVER
        if armed:
            s.flags &= ~np.uint32(F_ARMED)
            at = emit(out, at, tag, ARMED, False, received, received, 0.0)
        return at
    s.wait = threshold_ns(s, w, b, i, k)
    rhythmic = s.odd < ODD
    if rhythmic and not armed:
        s.flags |= np.uint32(F_ARMED)
        return emit(out, at, tag, ARMED, True, received, received, s.wait / 1e9)
    if armed and not rhythmic:
        s.flags &= ~np.uint32(F_ARMED)
        return emit(out, at, tag, ARMED, False, received, received, 0.0)
    return at
