"""Kernels of event-time windows: accumulators a pane, windows put together from panes, sessions.

A sliding window of `size` every `every` is `k = size / every` panes; a tumbling window is one. Panes are filled in time
order and put together from left to right, so sums come out the same to the last bit however the rows were cut into calls.
The time-weighted mean holds each value until the next sample (step), over panes without samples too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from iiot_dask.core.jit import inline, njit

NONE = np.int64(-(2**63))

PANE = np.dtype(
    [
        ("pane", "i8"), ("count", "i8"), ("min", "f8"), ("max", "f8"), ("sum", "f8"), ("mean", "f8"), ("m2", "f8"),
        ("first", "f8"), ("last", "f8"), ("first_ns", "i8"), ("last_ns", "i8"), ("integral", "f8"), ("held_ns", "i8"),
    ]
)  # fmt: skip
HEAD = np.dtype([("pane", "i8"), ("ended", "i8"), ("held_ns", "i8"), ("value", "f8")])
"""A tag's newest pane, the last window end given out (in panes), until when its held value is accounted, that value."""
OUT = np.dtype([("id", "u4"), ("start", "i8"), *[(n, PANE[n]) for n in (PANE.names or ())[1:]]])


@inline
def _blank(a: Any) -> None:
    a.count = 0
    a.min = np.inf
    a.max = -np.inf
    a.sum = 0.0
    a.mean = 0.0
    a.m2 = 0.0
    a.integral = 0.0
    a.held_ns = 0


@inline
def _clear(a: Any, pane: int) -> None:
    a.pane = pane
    _blank(a)


@inline
def _add(a: Any, time: int, value: float) -> None:
    if a.count == 0:
        a.first = value
        a.first_ns = time
    a.count += 1
    a.min = min(a.min, value)
    a.max = max(a.max, value)
    a.sum += value
    # Welford, Technometrics 4 (1962): the variance without cancellation.
    d = value - a.mean
    a.mean += d / a.count
    a.m2 += d * (value - a.mean)
    a.last = value
    a.last_ns = time


@inline
def _join(a: Any, b: Any) -> None:
    """Fold pane `b`, later in time, into `a` (Chan et al. 1979 for the variance)."""
    if b.count:
        if a.count == 0:
            a.first = b.first
            a.first_ns = b.first_ns
        n = a.count + b.count
        d = b.mean - a.mean
        a.m2 += b.m2 + d * d * (a.count / n) * b.count
        a.mean += d * b.count / n
        a.count = n
        a.min = min(a.min, b.min)
        a.max = max(a.max, b.max)
        a.sum += b.sum
        a.last = b.last
        a.last_ns = b.last_ns
    a.integral += b.integral
    a.held_ns += b.held_ns


@njit
def _hold(ring: Any, h: Any, upto: int, every: int, k: int) -> None:
    """Account the held value over [h.held_ns, upto), pane by pane; panes that no open window needs are skipped."""
    while h.held_ns < upto:
        pane = h.held_ns // every
        if pane < upto // every - k - 1:
            h.held_ns = (upto // every - k - 1) * every
            continue
        a = ring[pane % k]
        if a.pane != pane:
            _clear(a, pane)
        stop = min(upto, (pane + 1) * every)
        a.integral += h.value * (stop - h.held_ns) * 1e-9
        a.held_ns += stop - h.held_ns
        h.held_ns = stop


@njit
def _emit(ring: Any, h: Any, g: int, stop: int, every: int, k: int, out: Any, n: int) -> int:
    """Give out the windows that end (in panes) after `h.ended` up to `stop` and hold a sample."""
    last = min(stop, h.pane + k)
    for end in range(max(h.ended + 1, h.pane + 1), last + 1):
        _hold(ring, h, end * every, every, k)
        o = out[n]
        _blank(o)
        for pane in range(end - k, end):
            a = ring[pane % k]
            if a.pane == pane:
                _join(o, a)
        if o.count:
            o.id = g
            o.start = (end - k) * every
            n += 1
    h.ended = max(h.ended, stop)
    return n


@njit
def bound(ids: Any, times: Any, heads: Any, every: int, k: int) -> int:
    """Most windows that `slide` and a later `finish` can give out for these rows."""
    panes = 0
    for i in range(len(ids)):
        if i == 0 or ids[i] != ids[i - 1] or times[i] // every != times[i - 1] // every:
            panes += 1
    open_heads = 0
    for g in range(len(heads)):
        if heads[g].pane != NONE:
            open_heads += 1
    return (panes + open_heads) * k


@njit
def slide(rings: Any, heads: Any, ids: Any, times: Any, values: Any, every: int, k: int, out: Any) -> int:
    """Fold rows in; windows that a later row of their tag proves complete go to `out`. `rings` PANE[tags, k]."""
    n = 0
    for i in range(len(ids)):
        v = values[i]
        if np.isnan(v):
            continue
        g, t = ids[i], times[i]
        h, ring = heads[g], rings[g]
        pane = t // every
        if h.pane == NONE:
            h.pane = pane
            h.ended = pane
            h.held_ns = t
        else:
            if pane > h.pane:
                n = _emit(ring, h, g, pane, every, k, out, n)
            _hold(ring, h, t, every, k)
            h.pane = pane
        h.value = v
        a = ring[pane % k]
        if a.pane != pane:
            _clear(a, pane)
        _add(a, t, v)
    return n


@njit
def finish(rings: Any, heads: Any, marks: Any, every: int, k: int, out: Any, n: int) -> int:
    """Give out the windows that end at or before their tag's watermark + 1 ns; `n`: entries of `out` in use."""
    for g in range(len(heads)):
        h = heads[g]
        if h.pane != NONE:
            # Complete up to and with the mark; a window's last instant is one before its end.
            stop = marks[g] // every if marks[g] % every != every - 1 else marks[g] // every + 1
            if stop > h.ended:
                n = _emit(rings[g], h, g, stop, every, k, out, n)
    return n


SESSION = np.dtype([("open", "?"), *[(n, PANE[n]) for n in (PANE.names or ())[1:]]])


@inline
def _close(s: Any, g: int, out: Any, n: int) -> int:
    o = out[n]
    o.id = g
    o.start = s.first_ns
    o.count = s.count
    o.min = s.min
    o.max = s.max
    o.sum = s.sum
    o.mean = s.mean
    o.m2 = s.m2
    o.first = s.first
    o.last = s.last
    o.first_ns = s.first_ns
    o.last_ns = s.last_ns
    o.integral = s.integral
    o.held_ns = s.held_ns
    s.open = False
    return n + 1


@njit
def sessions(state: Any, ids: Any, times: Any, values: Any, gap: int, out: Any) -> int:
    """Fold rows into sessions; a row more than `gap` ns after the last one closes its tag's session."""
    n = 0
    for i in range(len(ids)):
        v = values[i]
        if np.isnan(v):
            continue
        g, t = ids[i], times[i]
        s = state[g]
        if s.open and t - s.last_ns > gap:
            n = _close(s, g, out, n)
        if not s.open:
            s.open = True
            _blank(s)
        else:
            s.integral += s.last * (t - s.last_ns) * 1e-9
            s.held_ns += t - s.last_ns
        _add(s, t, v)
    return n


@njit
def end_sessions(state: Any, marks: Any, gap: int, out: Any, n: int) -> int:
    """Close the sessions whose gap the watermark has passed."""
    for g in range(len(state)):
        s = state[g]
        if s.open and marks[g] >= s.last_ns and marks[g] - s.last_ns > gap:
            n = _close(s, g, out, n)
    return n
