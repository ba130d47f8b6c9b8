"""Numba kernels of the chart bank: two mechanisms, one false-alarm knob.

* A *Bernoulli CUSUM chart* learns how often its sign is seen in health (with a prior, and not while the chart is far up, so
  a fault can not teach itself), and adds the log-likelihood ratio of "far more often" on every sample; above `log_odds` the
  condition begins. It ends when no sign came for ten times as long as the usual distance of two.
* A *counter* is for signs that chance does not make: three close together are a fact, and one is forgotten in some 170
  samples.

The start of a condition is the first sign since all charts were last at zero.

Sources: Page 1954; Lorden 1971 (expected time to a false alarm of a CUSUM is at least e**h); Reynolds and Stoumbos 1999
(Bernoulli CUSUM).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from iiot_dask.core.jit import njit
from iiot_dask.health.record import (
    C_BAD,
    C_COPY,
    C_JITTER,
    C_LATE,
    C_LOST,
    CHARTS,
    F_AHEAD,
    F_STORM,
    FORM_AT,
    N_FAR,
    N_HOLD,
    N_IDENTITY,
    N_SPIKE,
    OCTETS,
    SIGNS,
    WORDS,
    from_tick,
    i64,
    tick,
)  # fmt: skip

# Codes of `kinds.Kind`; literals, because kernels compile constants only.
CORRUPT, STORM, JITTER, HOLD, DUPLICATE, OUT_OF_ORDER, BACKDATED, FUTURE, LOSS = 4, 8, 9, 10, 11, 12, 13, 14, 15
SPIKE, RANGE, BAD_QUALITY, SCHEMA_CHANGE, IDENTITY = 21, 26, 28, 29, 30

UNIT = 1024.0
"""A score of one, as stored."""
YOUNG = 128
"""Samples in which charts learn and judge nothing."""
FULL = 230
"""Evidence at which a counter raises."""


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
def kind_of(s: Any, j: int) -> int:
    """What chart or counter `j` tells."""
    if j == C_COPY:
        return STORM if s.flags & F_STORM else DUPLICATE
    if j == C_LATE:
        return OUT_OF_ORDER
    if j == C_LOST:
        return LOSS
    if j == C_BAD:
        form = (i64(s.flags) >> FORM_AT) & 3
        return CORRUPT if form == 1 else SCHEMA_CHANGE if form == 2 else BAD_QUALITY
    if j == C_JITTER:
        return JITTER
    if j == N_FAR:
        return FUTURE if s.flags & F_AHEAD else BACKDATED
    if j == N_IDENTITY:
        return IDENTITY
    if j == N_SPIKE:
        return SPIKE
    return HOLD if j == N_HOLD else RANGE


@njit
def shares(signs: float, samples: float) -> Any:
    """(share of signs in health with a prior, share that would be a fault)."""
    # The prior says that a sign in 50 samples is nothing while little is known, and in 500 later.
    p0 = max((signs + 3.0) / (samples + 150.0), 0.002)
    p1 = 0.99 if p0 > 0.5 else min(max(0.05, 6.0 * p0), 0.95)
    return p0, p1


@njit
def _pack(spacing: float, since: int) -> Any:
    """Samples between two signs (a fifth of precision), and since the last."""
    steps = np.floor(4.0 * np.log2(max(spacing, 1.0)) + 0.5)
    return np.uint16((np.uint32(min(steps, 63.0)) << np.uint32(10)) | np.uint32(min(since, 1023)))


@njit
def learn_sign(s: Any, b: Any, i: int, j: int) -> None:
    """One more sign seen in health; old ones are forgotten when the octet is full."""
    at = OCTETS + j
    b[i, at] += 1
    if b[i, at] == 255:
        for other in range(CHARTS):
            b[i, OCTETS + other] >>= 1
        s.samples >>= 1


@njit
def weigh(
    s: Any, w: Any, b: Any, i: int, j: int, sign: bool, tag: int, received: int, odds: float, mask: int, out: Any, at: int
) -> int:  # fmt: skip
    """Fold one sample into Bernoulli chart `j`; the new length of `out`."""
    bit = np.uint16(1 << j)
    if not sign and not s.up & bit:
        return at
    at_word = WORDS + j
    if s.active & bit:
        packed = i64(w[i, at_word])
        since, spacing = packed & 1023, 2.0 ** (0.25 * float(packed >> 10))
        if sign:
            w[i, at_word] = _pack(spacing + (float(since) + 1.0 - spacing) / 4.0, 0)
            return at
        since += 1
        if since <= min(10.0 * spacing + 5.0, 1022.0):
            w[i, at_word] = _pack(spacing, since)
            return at
        at = put(out, at, mask, tag, kind_of(s, j), False, received, received, 0.0)
        s.active &= ~bit
        s.up &= ~bit
        w[i, at_word] = 0
        return at
    if s.samples < YOUNG:
        if sign:
            learn_sign(s, b, i, j)
        return at
    score = w[i, at_word] / UNIT
    p0, p1 = shares(float(b[i, OCTETS + j]), float(s.samples))
    if j == C_JITTER:
        # Its signs come in pairs, and are frequent in health.
        p0, p1 = max(p0, 0.05), max(p1, 0.35)
    if sign:
        if s.up == 0:
            s.since = tick(received)
        s.up |= bit
        score += np.log(p1 / p0)
        if score < 0.25 * odds:
            # Down here a sign is health, and teaches.
            learn_sign(s, b, i, j)
        if score > odds:
            s.active |= bit
            at = put(out, at, mask, tag, kind_of(s, j), True, from_tick(s.since, received), received, score)
            w[i, at_word] = _pack(1.0 / p1, 0)
            return at
    else:
        score += np.log((1.0 - p1) / (1.0 - p0))
        if score <= 0.0:
            s.up &= ~bit
            score = 0.0
    w[i, at_word] = np.uint16(score * UNIT)
    return at


@njit
def high(s: Any, w: Any, i: int, j: int, odds: float) -> bool:
    """Whether Bernoulli chart `j` is far up: what it sees is no health, and teaches nothing."""
    return bool(s.active & (1 << j)) or w[i, WORDS + j] > 0.25 * odds * UNIT


@njit
def evidence(
    s: Any, b: Any, i: int, j: int, add: int, hold: int, tag: int, received: int, mask: int, out: Any, at: int
) -> int:
    """One sign for counter `j`; active, it holds for so many samples without one. The new length of `out`."""
    bit = np.uint16(1 << j)
    place = OCTETS + j
    if s.active & bit:
        b[i, place] = hold
        return at
    if s.up == 0:
        s.since = tick(received)
    s.up |= bit
    b[i, place] = min(255, i64(b[i, place]) + add)
    if b[i, place] >= FULL:
        s.active |= bit
        b[i, place] = hold
        at = put(out, at, mask, tag, kind_of(s, j), True, from_tick(s.since, received), received, 1.0)
    return at


@njit
def fade(s: Any, b: Any, i: int, tag: int, received: int, mask: int, out: Any, at: int) -> int:
    """One sample passes for all counters: evidence is forgotten, conditions end. The new length of `out`."""
    for j in range(CHARTS, SIGNS):
        bit = np.uint16(1 << j)
        if not s.up & bit:
            continue
        place = OCTETS + j
        if s.active & bit:
            b[i, place] -= 1
            if b[i, place] == 0:
                at = put(out, at, mask, tag, kind_of(s, j), False, received, received, 0.0)
                s.active &= ~bit
                s.up &= ~bit
        elif i64(s.samples) & 1:
            b[i, place] = max(0, i64(b[i, place]) - 1)
            if b[i, place] == 0:
                s.up &= ~bit
    return at


@njit
def drop(s: Any, w: Any, i: int, j: int) -> None:
    """Forget what Bernoulli chart `j` has gathered, unless it has raised: something else explains it."""
    bit = np.uint16(1 << j)
    if s.active & bit or not s.up & bit:
        return
    s.up &= ~bit
    w[i, WORDS + j] = 0


@njit
def drop_count(s: Any, b: Any, i: int, j: int) -> None:
    """Forget what counter `j` has gathered, unless it has raised."""
    bit = np.uint16(1 << j)
    if not s.active & bit:
        s.up &= ~bit
        b[i, OCTETS + j] = 0


@njit
def held(s: Any, tag: int, mask: int, out: Any, at: int) -> int:
    """Write the conditions of charts and counters that hold now."""
    for j in range(SIGNS):
        if s.active & (1 << j):
            at = put(out, at, mask, tag, kind_of(s, j), True, s.rx, s.rx, 1.0)
    return at
