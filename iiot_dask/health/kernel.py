"""The numba kernels of tag health: one fixed-size record a tag, O(1) work a sample, no allocation.

Rules of this file:

* A tag's *rhythm* is learnt from gaps between arrivals (receive time); arrivals closer than `burst_ns` are one. The
  period is a clamped (Huber) EWMA, so single long gaps hardly move it while a ramp is followed within ~50 arrivals.
* A gap near a small multiple of the period is counted as lost samples, not as irregularity. The silence threshold is
  loss-aware: as many missed periods as make a healthy tag's false alarm rarer than `e**-log_odds` (k = L / -ln p_loss),
  and never less than twice the longest recent gap. Tags without a rhythm (report on change) get the exponential tail.
* A run of equal values is *flat* when it is too long for the repeat rate seen in completed runs, `p_upper**run < alpha`.
  Only completed runs teach, so a fault can not teach itself. Counters (monotone), zero (rest) and tags that hardly ever
  move are never judged.
* A gap that raised silence teaches nothing, except that three in a row are a new schedule: then the rhythm is relearnt.
* `detected_ns` is a function of the data alone, not of batch borders: silence found late has the time it was due.

Sources: Lorden/Page run-length reasoning for one false-alarm knob; phi-accrual (Hayashibara et al. 2004) for adaptive
time-outs, with the Gaussian tail replaced by the loss model.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from iiot_dask.core.jit import njit
from iiot_dask.health import charts

NEVER = np.iinfo(np.int64).max
UNSEEN = np.iinfo(np.int64).min

ARMED, SILENCE, FLATLINE = 0, 1, 3
F_ARMED, F_SILENT, F_FLAT = 1, 2, 4

STATE_DTYPE = np.dtype(
    [
        ("rx", "<i8"),  # start of the last arrival, ns
        ("due", "<i8"),  # silent when nothing came until then, ns; NEVER while not judged
        ("silent_ns", "<i8"),  # start of the silence that lasts, ns
        ("time", "<i8"),  # newest device time, ns
        ("moved", "<i8"),  # receive time of the sample that began the current run of equal values, ns
        ("value", "<f8"),
        ("period", "<f4"),  # ns
        ("spread", "<f4"),  # mean |gap - period|, ns
        ("longest", "<f4"),  # slowly forgotten longest gap, ns
        ("lost", "<f4"),  # share of samples that did not come
        ("odd", "<f4"),  # share of gaps that are no multiple of the period
        ("gaps", "<u4"),
        ("samples", "<f4"),  # in completed runs, halved now and then
        ("repeats", "<f4"),  # thereof equal to the one before
        ("moves", "<u4"),
        ("downs", "<f4"),  # share of moves that go down
        ("run", "<u4"),  # repeats in the current run
        ("longest_run", "<f4"),
        ("longs", "<u4"),  # silences in a row
        ("flags", "<u4"),
        ("gap", "<f4"),  # the last one, ns
        ("alike", "<u4"),  # gaps in a row that are like the one before, but not like the period
    ]
)
"""State of one tag, 112 bytes."""

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
ODD_SHARE = 0.25
"""Above this share of irregular gaps a tag has no rhythm."""


@njit
def _emit(out: Any, at: int, tag: int, kind: int, active: bool, start: int, detected: int, score: float) -> int:
    out[at].tag = tag
    out[at].kind = kind
    out[at].active = active
    out[at].start_ns = start
    out[at].detected_ns = detected
    out[at].score = score
    return at + 1


@njit
def _threshold_ns(s: Any, k: Any) -> Any:
    """How long this tag may be quiet, ns."""
    if s.odd >= ODD_SHARE:
        return max(k.floor_ns, k.log_odds * (s.period + s.spread), 5.0 * s.longest)
    seen = min(float(s.gaps), 256.0)
    # A class prior of one loss in 40 keeps young tags from being judged by luck.
    p = min((s.lost * seen + 1.0) / (seen + 40.0), 0.9)
    missed = np.ceil(k.log_odds / -np.log(p))
    return max(k.floor_ns, (missed + 1.0) * s.period + 6.0 * s.spread, 2.0 * s.longest)


@njit
def _learn_gap(s: Any, gap: float) -> bool:
    """Fold one gap into the rhythm; True when a new period was taken over at once."""
    n = s.gaps
    s.gaps = n + 1
    if n == 0:
        s.period = gap
        s.gap = gap
        s.spread = 0.25 * gap
        s.longest = gap
        return False
    relocked = False
    period = float(s.period)
    slots = max(1.0, np.floor(gap / period + 0.5))
    odd = slots > 8.0 or abs(gap - slots * period) > 0.25 * period
    if (odd or slots > 1.0) and abs(gap - s.gap) < 0.12 * gap:
        # A new rhythm shows by repeating itself; losses hardly ever come four alike in a row.
        s.alike += 1
        if s.alike >= 4:
            s.alike = 0
            period = gap
            s.period = gap
            relocked = True
        odd = False
    else:
        s.alike = 0
    s.gap = gap
    if n >= 4:
        s.odd += ((1.0 if odd else 0.0) - s.odd) / min(n - 3.0, 128.0)
    if not odd and s.alike == 0:
        missed = min(slots - 1.0, 3.0)
        s.lost = min(max(s.lost + (missed * (1.0 - s.lost) - s.lost) / min(n + 1.0, 256.0), 0.0), 0.95)
    clamp = (2.0 if n < 16 else 0.25) * period
    s.period = period + min(max(gap - period, -clamp), clamp) / min(n + 1.0, 8.0)
    s.spread += (min(abs(gap - period), 8.0 * period) - s.spread) / 16.0
    if gap > s.longest:
        s.longest = gap
    else:
        s.longest += (gap - s.longest) / (1024.0 if s.odd >= ODD_SHARE else 64.0)
    return relocked


@njit
def _relearn(s: Any, gap: float) -> None:
    s.gaps = 1
    s.gap = gap
    s.alike = 0
    s.period = gap
    s.spread = 0.25 * gap
    s.longest = gap
    s.lost = 0.0
    s.odd = 0.0
    s.longs = 0


@njit
def _arrival(s: Any, c: Any, tag: int, received: int, k: Any, out: Any, at: int) -> int:
    """Fold one arrival into the rhythm; the new length of `out`."""
    if s.rx == UNSEEN:
        s.rx = received
        return at
    gap = float(received - s.rx)
    if gap < k.burst_ns:
        return at
    armed = s.flags & F_ARMED
    if s.flags & F_SILENT and received <= s.due:
        # The sweep ran ahead of this sample (another adapter's clock): take it back.
        s.flags &= ~np.uint32(F_SILENT)
        at = _emit(out, at, tag, SILENCE, False, s.silent_ns, received, gap / s.period)
        relocked = _learn_gap(s, gap)
        if not charts.rate_calm(c, relocked, s.period):
            at = charts.rate(c, relocked, gap, s.period, tag, received, k.kinds, out, at)
    elif s.due != NEVER and received > s.due:
        if not s.flags & F_SILENT:
            s.silent_ns = s.rx + np.int64(s.period)
            at = _emit(out, at, tag, SILENCE, True, s.silent_ns, s.due, gap / s.period)
        at = _emit(out, at, tag, SILENCE, False, s.silent_ns, received, gap / s.period)
        s.flags &= ~np.uint32(F_SILENT)
        s.longs += 1
        s.longest = max(s.longest, min(gap, 2.0 * float(s.due - s.rx)))
        if s.longs >= 3:
            _relearn(s, gap)
    else:
        s.longs = 0
        relocked = _learn_gap(s, gap)
        if not charts.rate_calm(c, relocked, s.period):
            at = charts.rate(c, relocked, gap, s.period, tag, received, k.kinds, out, at)
    s.rx = received
    judged = s.gaps >= k.warm_gaps and (s.odd == 0.0 or s.gaps >= 32)
    if not judged:
        s.due = NEVER
        if armed:
            s.flags &= ~np.uint32(F_ARMED)
            at = _emit(out, at, tag, ARMED, False, received, received, 0.0)
        return at
    wait = _threshold_ns(s, k)
    s.due = received + np.int64(wait)
    rhythmic = s.odd < ODD_SHARE
    if rhythmic and not armed:
        s.flags |= np.uint32(F_ARMED)
        at = _emit(out, at, tag, ARMED, True, received, received, wait / 1e9)
    elif armed and not rhythmic:
        s.flags &= ~np.uint32(F_ARMED)
        at = _emit(out, at, tag, ARMED, False, received, received, 0.0)
    return at


@njit
def _flat_score(s: Any) -> float:
    """-ln of the chance of a healthy run this long; 0 where the tag is not one that can be judged."""
    if s.moves < 16 or s.downs < 0.1 or s.downs > 0.9 or s.value == 0.0 or s.run <= 4.0 * s.longest_run:
        return 0.0
    upper = (s.repeats + 2.0 * np.sqrt(s.repeats + 1.0) + 1.0) / s.samples
    if upper >= 1.0:
        return 0.0
    return float(-np.log(upper) * s.run)


@njit
def _value(s: Any, tag: int, time: int, value: float, received: int, k: Any, out: Any, at: int) -> int:
    """Fold one good value into the repeat statistics; the new length of `out`."""
    if s.time == UNSEEN:
        s.time = time
        s.value = value
        s.moved = received
        return at
    if time <= s.time:
        # A duplicate or a late sample says nothing about whether the value moves.
        return at
    s.time = time
    if value == s.value:
        s.run += 1
        if s.run >= k.flat_run and not s.flags & F_FLAT and received - s.moved >= k.flat_ns:
            score = _flat_score(s)
            if score > k.log_odds:
                s.flags |= np.uint32(F_FLAT)
                at = _emit(out, at, tag, FLATLINE, True, s.moved, received, score)
        return at
    run = float(s.run)
    if s.flags & F_FLAT:
        s.flags &= ~np.uint32(F_FLAT)
        at = _emit(out, at, tag, FLATLINE, False, s.moved, received, run)
        # Were it this tag's nature after all, the next one has to be longer; a real fault is soon forgotten.
        s.longest_run = max(s.longest_run, min(run, 4.0 * s.longest_run + 16.0))
    else:
        s.samples += run + 1.0
        s.repeats += run
        s.longest_run = max(run, s.longest_run * (1.0 - 1.0 / 2048.0))
        if s.samples > 8192.0:
            s.samples *= 0.5
            s.repeats *= 0.5
    s.moves = min(s.moves + 1, np.uint32(1 << 30))
    s.downs += ((1.0 if value < s.value else 0.0) - s.downs) / min(float(s.moves), 64.0)
    s.run = 0
    s.value = value
    s.moved = received
    return at


@njit
def _transmission(
    s: Any, c: Any, cells: Any, tag: int, time: int, value: float, bad: bool, seq: int, received: int, k: Any, out: Any,
    at: int,
) -> int:  # fmt: skip
    """Copies, order, sequence and clock of one row, before its value is taken over; the new length of `out`."""
    known = s.time != UNSEEN
    same = known and time == c.time
    alike = value == c.value or (np.isnan(value) and np.isnan(c.value))
    copy = same and alike and (seq in (charts.NO_SEQ, c.seq))
    late = known and time < s.time
    if known:
        at = charts.copies(
            c, cells, copy, same and not alike, time > s.time, tag, received, k.log_odds, k.kinds, out, at
        )
    if copy:
        return at
    c.time = time
    c.value = value
    charts.count(c, cells)
    at = charts.quality_chart(c, cells, bad, tag, received, k.log_odds, k.kinds, out, at)
    at = charts.sequence(c, cells, seq, late, tag, received, k.log_odds, k.kinds, out, at)
    if c.still < 2:
        at = charts.clock(c, cells, time, late, s.period, tag, received, k.log_odds, k.clock_ns, k.kinds, out, at)
        if late and c.kind != 0:
            # The clock was set back: what counts as new begins there.
            s.time = time
    return at


@njit
def update_kernel(
    state: Any, clocks: Any, bank: Any, local: Any, tag: Any, time: Any, value: Any, quality: Any, seq: Any, received: Any,
    mute: Any, knobs: Any, out: Any,
) -> int:  # fmt: skip
    """Fold rows, in order of arrival, into the state; returns how many changes were written to `out`.

    `state`: STATE_DTYPE[tags]; `clocks`: charts.CLOCK_DTYPE[tags]; `bank`: charts.CELL_DTYPE[tags, charts.CELLS];
    `local`: index into them per row; `seq`: uint64, charts.NO_SEQ where there is none; `mute`: bool[256], quality codes
    that say that nothing came from the device; `knobs`: KNOBS_DTYPE[1]; `out`: CHANGE_DTYPE with room for ROW_CHANGES
    entries a row.
    """
    n = 0
    k = knobs[0]
    for i in range(len(local)):
        s = state[local[i]]
        bad = quality[i] >= 128
        c = clocks[local[i]]
        if mute[quality[i]]:
            n = charts.quality_chart(c, bank[local[i]], bad, tag[i], received[i], k.log_odds, k.kinds, out, n)
            continue
        if bad or not charts.calm(c, time[i], s.time, value[i], seq[i], received[i], s.period, k.clock_ns):
            n = _transmission(s, c, bank[local[i]], tag[i], time[i], value[i], bad, seq[i], received[i], k, out, n)
        n = _arrival(s, c, tag[i], received[i], k, out, n)
        # A row with a device time nobody knows yet what to make of does not move the time that counts.
        doubtful = c.run > 0 and c.kind == 0
        if not bad and not doubtful and not np.isnan(value[i]):
            n = _value(s, tag[i], time[i], value[i], received[i], k, out, n)
    return n


@njit
def sweep_kernel(state: Any, shard: int, shards: int, now_ns: int, out: Any) -> int:
    """Mark every tag that is overdue at `now_ns`; returns how many changes were written to `out`."""
    n = 0
    for i in range(len(state)):
        s = state[i]
        if s.due < now_ns and not s.flags & F_SILENT:
            s.flags |= np.uint32(F_SILENT)
            s.silent_ns = s.rx + np.int64(s.period)
            n = _emit(out, n, i * shards + shard, SILENCE, True, s.silent_ns, s.due, (now_ns - s.rx) / s.period)
            if n == len(out):
                break
    return n


@njit
def excuse_kernel(state: Any, span_ns: int) -> None:
    """Give every tag that is not silent yet `span_ns` longer: we were not listening for that long."""
    for i in range(len(state)):
        if state[i].due != NEVER and not state[i].flags & F_SILENT:
            state[i].due += span_ns


@njit
def conditions_kernel(state: Any, clocks: Any, bank: Any, shard: int, shards: int, mask: int, out: Any) -> int:
    """Write what holds now as changes; returns how many. `out` has room for ROW_CHANGES a tag."""
    n = 0
    for i in range(len(state)):
        s = state[i]
        tag = i * shards + shard
        if s.flags & F_ARMED:
            n = _emit(out, n, tag, ARMED, True, s.rx, s.rx, max(0.0, (s.due - s.rx) / 1e9))
        if s.flags & F_SILENT:
            n = _emit(out, n, tag, SILENCE, True, s.silent_ns, s.due, 1.0)
        if s.flags & F_FLAT:
            n = _emit(out, n, tag, FLATLINE, True, s.moved, s.moved, 1.0)
        n = charts.conditions(clocks[i], bank[i], tag, mask, out, n)
    return n
