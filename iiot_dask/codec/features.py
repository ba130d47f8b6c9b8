"""What a bound does to the things people look for: peaks, crossings, energy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from iiot_dask.codec.bits import Floats, Ints, kernel


@dataclass(frozen=True, slots=True)
class Kept:
    """Shares between 0 and 1, and a relative difference.

    Attributes
    ----------
    peaks
        Extrema of at least the prominence that are found again within `window` samples, of all in the original.
    crossings
        Crossings of the middle level found again within `window` samples.
    energy
        |energy after - energy before| / energy before, energy = sum of squares about the mean.
    """

    peaks: float
    crossings: float
    energy: float


@kernel
def turning_points(x: Any, prominence: Any, out: Any) -> Any:
    """Rows where x turns after having moved at least `prominence` (zigzag rule); returns how many."""
    count = 0
    low = high = x[0]
    low_at = high_at = 0
    rising = falling = False
    for i in range(1, len(x)):
        v = x[i]
        if v > high:
            high, high_at = v, i
        if v < low:
            low, low_at = v, i
        if not falling and high - v >= prominence:
            if rising:
                out[count] = high_at
                count += 1
            rising, falling = False, True
            low, low_at = v, i
        elif not rising and v - low >= prominence:
            if falling:
                out[count] = low_at
                count += 1
            rising, falling = True, False
            high, high_at = v, i
    return count


def _turns(x: Floats, prominence: float) -> Ints:
    out = np.empty(len(x), np.int64)
    count = int(turning_points(x, prominence, out))
    return out[:count]


def _crossings(x: Floats, level: float, margin: float) -> Ints:
    """Rows where x goes from below level - margin to above level + margin or back: chatter does not count."""
    side = np.where(x > level + margin, 1, np.where(x < level - margin, -1, 0))
    rows = np.flatnonzero(side)
    changed: Ints = rows[1:][side[rows[1:]] != side[rows[:-1]]]
    return changed


def _found(wanted: Ints, there: Ints, window: int) -> float:
    if len(wanted) == 0:
        return 1.0
    if len(there) == 0:
        return 0.0
    after = np.clip(np.searchsorted(there, wanted), 0, len(there) - 1)
    before = np.maximum(after - 1, 0)
    distance = np.minimum(np.abs(there[after] - wanted), np.abs(there[before] - wanted))
    return float(np.mean(distance <= window))


def kept(before: Floats, after: Floats, bound: float, window: int = 3) -> Kept:
    """Compare features of a series before and after a lossy round trip.

    Parameters
    ----------
    before, after
        Values, float64, shape (n,); rows that are not finite in both are left out.
    bound
        The bound used, in the unit of the values: features smaller than 5 bounds, or 5 % of span, are not counted.
    window
        Samples by which a feature may move.

    Examples
    --------
    >>> x = np.sin(np.arange(1000) / 20)
    >>> kept(x, np.round(x, 2), 0.005)
    Kept(peaks=1.0, crossings=1.0, energy=0.0003...)
    """
    ok = np.isfinite(before) & np.isfinite(after)
    a, b = before[ok], after[ok]
    if len(a) < 3:
        return Kept(1.0, 1.0, 0.0)
    span = float(np.ptp(a))
    prominence = max(5 * bound, 0.05 * span)
    level = float(a.mean())
    energy = float(np.sum((a - a.mean()) ** 2))
    lost = abs(float(np.sum((b - b.mean()) ** 2)) - energy) / energy if energy > 0 else 0.0
    # A peak of b may fall short of the prominence by two bounds.
    peaks = _found(_turns(a, prominence), _turns(b, max(prominence - 2 * bound, 0.5 * prominence)), window)
    crossings = _found(_crossings(a, level, prominence / 2), _crossings(b, level, prominence / 2 - bound), window)
    return Kept(peaks, crossings, lost)
