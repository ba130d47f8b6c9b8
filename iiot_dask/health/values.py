"""Numba kernels for what is wrong with a *value*: it stands still, jumps for a moment, shivers, shifts, creeps, changes unit.

* A run of equal values is *flat* when it is too long for the repeat rate seen in completed runs. Only completed runs teach,
  so a fault can not teach itself. Counters (monotone), zero (rest) and tags that hardly ever move are never judged.
* Sixteen differences make a *block*. Its mean and the log of its mean square are compared with what blocks were like in
  health, by one CUSUM each (`swing`, `stir`); block means take the autocorrelation of the signal into account without
  modelling it. What they did while the tag was young widens their limits: a machine that cycles is no fault.
* When a CUSUM raises, the shape says what it is: a new mean that is a known unit's is `unit_change`, one beyond all sense
  `range`, one reached at once `step`, one still moving away `drift`; a mean that stays while the scatter changes is
  `noise_up` or `noise_down`.
* A gross difference that is taken back by the next one is a *spike*, and is left out of the block.

The level follows slowly while all is well; a condition that lasts some 4,000 samples becomes the new normal.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from iiot_dask.core.jit import njit
from iiot_dask.health import charts
from iiot_dask.health.record import (
    F_FLAT,
    F_JUMPED,
    F_SPIKE,
    N_IDENTITY,
    N_RAIL,
    N_SPIKE,
    OCTETS,
    VALUE_AT,
    half,
    i64,
    wide,
)  # fmt: skip

FLATLINE, SPIKE, NOISE_UP, NOISE_DOWN, STEP, DRIFT, RANGE, UNIT_CHANGE = 3, 21, 22, 23, 24, 25, 26, 27

BLOCK = 16
LEARN_BLOCKS = 24
SWING_SLACK, SWING_LIMIT = 1.25, 12.0
STIR_SLACK, STIR_LIMIT = 0.6, 7.0
GROSS = 6.0
"""Differences beyond so many standard deviations are no chance."""
DAY_PART_NS = 3600e9
"""What moves faster than this is not day and night."""
BEYOND = 30.0
"""A level so many standard deviations of a difference away is out of range."""


@njit
def value_kind(number: int) -> int:
    """The kind of a value number in `flags`: 1 noise_up, 2 noise_down, 3 step, 4 drift, 5 range, 6 unit_change."""
    return NOISE_UP + number - 1


@njit
def _set_kind(s: Any, number: int) -> None:
    s.flags = (s.flags & ~np.uint32(7 << VALUE_AT)) | np.uint32(number << VALUE_AT)


@njit
def _moves_freely(s: Any) -> bool:
    """Whether its repeats and moves can be judged: no counter, no state, not at rest."""
    return bool(s.moves >= 16 and 26 <= s.downs <= 230)


@njit
def _flat_score(s: Any) -> float:
    """-ln of the chance of a healthy run this long; 0 where the tag is not one that can be judged."""
    if not _moves_freely(s) or s.value == 0.0 or s.longest_run == 255 or s.run <= 4 * i64(s.longest_run):
        return 0.0
    n = min(max(float(s.samples), 16.0), 2048.0)
    share = s.repeats / 65536.0
    upper = share + 2.0 * np.sqrt(share * n + 1.0) / n + 1.0 / n
    if upper >= 1.0:
        return 0.0
    return float(-np.log(upper) * s.run)


@njit
def _end_run(s: Any, b: Any, i: int, tag: int, received: int, k: Any, out: Any, at: int) -> int:
    """The value moved: the run before teaches, unless it was a fault."""
    run = i64(s.run)
    if s.flags & F_FLAT:
        s.flags &= ~np.uint32(F_FLAT)
        if (i64(s.flags) >> VALUE_AT) & 7 == 5:
            _set_kind(s, 0)
            at = charts.put(out, at, k.kinds, tag, RANGE, False, received, received, float(run))
        else:
            at = charts.put(out, at, k.kinds, tag, FLATLINE, False, received, received, float(run))
        # Were it this tag's nature after all, the next one has to be longer; a real fault is soon forgotten.
        s.longest_run = min(254, max(i64(s.longest_run), min(run, 4 * i64(s.longest_run) + 16)))
        return at
    if not s.up & (1 << N_RAIL) or b[i, OCTETS + N_RAIL] < 15:
        n = min(max(float(s.samples), 16.0), 2048.0)
        share = s.repeats / 65536.0
        share += (run - (run + 1.0) * share) / n
        s.repeats = np.uint16(min(max(share, 0.0), 0.999) * 65536.0 + 0.5)
        s.longest_run = min(255, max(i64(s.longest_run), run))
    if i64(s.samples) & 127 == 0 and s.longest_run > 1:
        s.longest_run -= 1
    return at


@njit
def _known_unit(s: Any, value: float, sd: float, variance: float) -> bool:
    """Whether value and scatter are those of the level in another usual unit."""
    level = float(s.level)
    y = np.log(max(variance, 1e-9))
    for n in range(14):
        if n == 0:
            factor, shift = 1.8, 32.0
        elif n == 1:
            factor, shift = 1.0 / 1.8, -32.0 / 1.8
        elif n == 2:
            factor, shift = 1.0, 273.15
        elif n == 3:
            factor, shift = 1.0, -273.15
        else:
            shift = 0.0
            factor = (1000.0, 0.001, 6.894757, 0.1450377, 0.1, 10.0, 3.6, 1.0 / 3.6, 100.0, 0.01)[n - 4]
        want = min(max(2.0 * np.log(factor), -5.0), 4.0)
        if (
            abs(value - (factor * level + shift)) < 4.0 * factor * sd * np.sqrt(float(wide(s.wander)) + 0.5)
            and abs(min(max(y, -5.0), 4.0) - want) < 1.3
        ):
            return True
    return False


@njit
def _raise(s: Any, number: int, blocks: int, score: float, tag: int, received: int, k: Any, out: Any, at: int) -> int:
    _set_kind(s, number)
    s.age = 0
    s.blocks = 0
    start = received - i64(blocks * BLOCK * float(s.period))
    return charts.put(out, at, k.kinds, tag, value_kind(number), True, start, received, score)


@njit
def _end_kind(s: Any, blocks: int, tag: int, received: int, k: Any, out: Any, at: int) -> int:
    kind = value_kind((i64(s.flags) >> VALUE_AT) & 7)
    _set_kind(s, 0)
    s.swing = 0
    s.stir = 0
    s.age = 0
    s.blocks = blocks
    return charts.put(out, at, k.kinds, tag, kind, False, received, received, 0.0)


@njit
def _learn_block(s: Any, mean: float, variance: float, sd: float) -> None:
    n = i64(s.blocks)
    s.level += mean * sd / (n + 1.0)
    wander = float(wide(s.wander))
    s.wander = half(wander + (mean * mean - wander) / n)
    s.msd = half(sd * sd * (1.0 + (min(variance, 4.0) - 1.0) / (n + 1.0)))
    s.blocks += 1


@njit
def _cusum(before: float, step: float, slack: float) -> float:
    """A two-sided CUSUM in one number: its sign is the direction."""
    after = before + step
    return float(max(0.0, after - slack) if after > 0.0 else min(0.0, after + slack))


@njit
def _block(s: Any, b: Any, i: int, value: float, tag: int, received: int, k: Any, out: Any, at: int) -> int:
    """A block is complete; the new length of `out`."""
    mean, variance = s.mean / (32.0 * BLOCK), max(s.square / (64.0 * BLOCK), 0.002)
    s.mean, s.square = np.int16(0), np.uint16(0)
    sd = np.sqrt(float(wide(s.msd)))
    active = (i64(s.flags) >> VALUE_AT) & 7
    if s.blocks < LEARN_BLOCKS and not active:
        _learn_block(s, mean, variance, sd)
        return at
    z = mean / np.sqrt(max(1.3 * float(wide(s.wander)), 0.04))
    y = np.log(variance)
    if active:
        good = (i64(s.age) & 15) + 1 if abs(z) <= 3.0 and abs(y) <= 1.5 else 0
        s.age = good
        s.blocks += 1
        if good >= 3:
            return _end_kind(s, 128, tag, received, k, out, at)
        if s.blocks == 255:
            # It stays: this is its nature now.
            at = _end_kind(s, 0, tag, received, k, out, at)
            s.level = value
            s.msd = half(0.0)
            s.peaks = 0
        return at
    swing = _cusum(s.swing / 256.0, min(max(z, -8.0), 8.0), SWING_SLACK)
    stir = _cusum(s.stir / 256.0, min(max(y, -5.0), 4.1), STIR_SLACK)
    age, peaks = i64(s.age), i64(s.peaks)
    old, busy = min(15, (age & 15) + 1), min(15, (age >> 4) + 1)
    s.age = (old if swing else 0) | ((busy if stir else 0) << 4)
    young = 1.0 + 72.0 / float(s.blocks)
    swing_limit = max(SWING_LIMIT * young, 4.0 * (peaks & 15))
    stir_limit = max(STIR_LIMIT * min(young, 2.0), 4.0 * (peaks >> 4))
    shifted, shaken = abs(swing) > swing_limit, abs(stir) > stir_limit
    reach = 5.0 if old * BLOCK * float(s.period) > DAY_PART_NS else 2.5
    if shifted and old >= 8 and abs(mean) < reach * np.sqrt(float(wide(s.wander)) + 0.5):
        # Slow, and no further than day and night would take it.
        shifted = False
        swing = swing_limit if swing > 0.0 else -swing_limit
    if not swing:
        s.flags &= ~np.uint32(F_JUMPED)
    if shifted or shaken:
        return _classify(s, b, i, value, mean, z, swing, stir, variance, sd, shifted, tag, received, k, out, at)
    s.swing, s.stir = np.int16(swing * 256.0), np.int16(stir * 256.0)
    if s.blocks < 64:
        low = max(peaks & 15, min(15, i64(abs(swing) / 2.0)))
        s.peaks = low | (max(peaks >> 4, min(15, i64(abs(stir) / 2.0))) << 4)
    if abs(swing) < 0.25 * swing_limit:
        rate = 1.0 / min(float(s.blocks), 128.0)
        s.level += min(max(mean, -4.0), 4.0) * sd * rate
        wander = float(wide(s.wander))
        s.wander = half(wander + (min(mean * mean, 9.0 * wander + 0.01) - wander) * rate)
    if s.blocks < 255:
        s.blocks += 1
    return at


@njit
def _classify(
    s: Any, b: Any, i: int, value: float, mean: float, z: float, swing: float, stir: float, variance: float, sd: float, shifted: bool,
    tag: int, received: int, k: Any, out: Any, at: int,
) -> int:  # fmt: skip
    """Name what a CUSUM raised, by its shape."""
    old, busy = i64(s.age) & 15, i64(s.age) >> 4
    moved = shifted or (abs(z) > 4.0 and abs(mean) > 2.0)
    if moved and _known_unit(s, value, sd, variance):
        return _raise(s, 6, max(old, 1), abs(mean), tag, received, k, out, at)
    if moved and abs(mean) > BEYOND:
        return _raise(s, 5, max(old, 1), abs(mean), tag, received, k, out, at)
    if stir < 0.0 and not shifted and s.up & (1 << N_RAIL) and b[i, OCTETS + N_RAIL] >= 60:
        # What is cut off at a limit scatters less, too.
        charts.drop_count(s, b, i, N_RAIL)
        return _raise(s, 5, max(busy, 1), abs(stir), tag, received, k, out, at)
    if not shifted:
        return _raise(s, 1 if stir > 0 else 2, max(busy, 1), abs(stir), tag, received, k, out, at)
    # A step is at its height from the first block; what took long, or is still growing, creeps.
    growing = (min(abs(z), 8.0) - SWING_SLACK) * old > 1.45 * abs(swing)
    number = 4 if (old >= 8 or (old >= 4 and growing)) and not s.flags & F_JUMPED else 3
    return _raise(s, number, old, abs(swing), tag, received, k, out, at)


@njit
def fold(s: Any, b: Any, i: int, value: float, tag: int, received: int, k: Any, out: Any, at: int) -> int:
    """Fold one good value that is new in device time; the new length of `out`."""
    before = s.value
    if np.isnan(before):
        s.value = value
        s.level = value
        return at
    d = value - before
    if d == 0.0:
        s.run = min(65535, i64(s.run) + 1)
        if s.run <= 3 and s.repeats < 2000 and s.blocks >= LEARN_BLOCKS and _moves_freely(s):
            at = charts.evidence(s, b, i, N_RAIL, 30, 255, tag, received, k.kinds, out, at)
        if s.run >= k.flat_run and not s.flags & F_FLAT and s.run * float(s.period) >= k.flat_ns:
            score = _flat_score(s)
            if score > k.log_odds:
                at = _flat(s, b, i, score, tag, received, k, out, at)
        if s.run > 8:
            return at
    else:
        at = _end_run(s, b, i, tag, received, k, out, at)
        if s.moves < 255:
            s.moves += 1
        n = min(float(s.moves), 64.0)
        share = float(s.downs)
        s.downs = np.uint8(min(max(share + ((255.0 if d < 0.0 else 0.0) - share) / n + 0.5, 0.0), 255.0))
        s.run = 0
        s.value = value
        if s.up & (1 << N_RAIL) and not s.active & (1 << N_RAIL):
            b[i, OCTETS + N_RAIL] = max(0, i64(b[i, OCTETS + N_RAIL]) - 2)
    if not _moves_freely(s) or s.up & (1 << N_IDENTITY):
        return at
    return _scatter(s, b, i, value, before, d, tag, received, k, out, at)


@njit
def _flat(s: Any, b: Any, i: int, score: float, tag: int, received: int, k: Any, out: Any, at: int) -> int:
    """A run is too long: it stands still, or it is pinned to a rail."""
    start = received - i64(s.run * float(s.period))
    far = s.blocks >= LEARN_BLOCKS and abs(s.value - float(s.level)) > 12.0 * np.sqrt(float(wide(s.msd)))
    cut = s.up & (1 << N_RAIL) and b[i, OCTETS + N_RAIL] >= 120
    active = (i64(s.flags) >> VALUE_AT) & 7
    s.flags |= np.uint32(F_FLAT)
    if (far or cut) and not active:
        charts.drop_count(s, b, i, N_RAIL)
        _set_kind(s, 5)
        return charts.put(out, at, k.kinds, tag, RANGE, True, start, received, score)
    return charts.put(out, at, k.kinds, tag, FLATLINE, True, start, received, score)


@njit
def _scatter(
    s: Any, b: Any, i: int, value: float, before: float, d: float, tag: int, received: int, k: Any, out: Any, at: int
) -> int:
    """Take the value and its difference into the block; the new length of `out`."""
    pace = i64(s.pace)
    n, pace = pace >> 4, pace & 15
    if s.blocks == 0 and not (i64(s.flags) >> VALUE_AT) & 7:
        msd = float(wide(s.msd))
        s.msd = half(msd + (d * d - msd) / (n + 1.0))
        s.level += (value - float(s.level)) / (n + 2.0)
        n += 1
        if n == BLOCK:
            n = 0
            s.blocks = 1
        s.pace = pace | (n << 4)
        return at
    msd = float(wide(s.msd))
    if msd <= 0.0:
        return at
    sd = np.sqrt(msd)
    square = min(d * d / msd, 60.0)
    mean = min(max((value - float(s.level)) / sd, -60.0), 60.0)
    if s.flags & F_SPIKE:
        s.flags &= ~np.uint32(F_SPIKE)
        first = float(wide(s.step))
        if abs(d + first) <= max(3.0 * sd, 0.02 * abs(first)):
            # Taken back at once: a spike, and no part of the scatter or the mean.
            spiked = min(max((before - float(s.level)) / sd, -60.0), 60.0)
            s.mean = np.int16(min(max(s.mean - spiked * 32.0, -32000.0), 32000.0))
            s.square = np.uint16(max(0.0, float(s.square) - 64.0 * min(first * first / msd, 60.0)))
            square = 1.0
            shaky = s.stir > 512 or s.square > 160.0 * (n + 1)
            s.flags &= ~np.uint32(F_JUMPED)
            if s.blocks >= LEARN_BLOCKS and not shaky and not (i64(s.flags) >> VALUE_AT) & 7:
                at = charts.evidence(s, b, i, N_SPIKE, 86, 255, tag, received, k.kinds, out, at)
    elif abs(d) > GROSS * sd:
        s.flags |= np.uint32(F_SPIKE | F_JUMPED)
        s.step = half(d)
    s.mean = np.int16(min(max(s.mean + mean * 32.0, -32000.0), 32000.0))
    s.square = np.uint16(min(s.square + square * 64.0, 65535.0))
    n += 1
    if n < BLOCK:
        s.pace = pace | (n << 4)
        return at
    s.pace = pace
    return _block(s, b, i, value, tag, received, k, out, at)


@njit
def held(s: Any, tag: int, k_kinds: int, out: Any, at: int) -> int:
    """Write the value conditions that hold now."""
    active = (i64(s.flags) >> VALUE_AT) & 7
    if active:
        at = charts.put(out, at, k_kinds, tag, value_kind(active), True, s.rx, s.rx, 1.0)
    elif s.flags & F_FLAT:
        at = charts.put(out, at, k_kinds, tag, FLATLINE, True, s.rx, s.rx, 1.0)
    return at
