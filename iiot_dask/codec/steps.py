"""Which grid are these floats on? Steps by approximate common divisor, averages, digits: proposals, not decisions.

Each finder looks at a sample and proposes (grid byte, parameter); what a proposal is worth is measured afterwards.
Source of the divisor search: Euclid's algorithm on floats with a tolerance, refined by least squares over ever larger
multiples; pcodec's "float mult" mode has the same aim.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from iiot_dask.codec.bits import Floats, bits_float, float_bits, kernel
from iiot_dask.codec.grid import (
    BITS32,
    BITS64,
    DECIMAL,
    DECIMAL32,
    DECIMALS_MAX,
    MULTIPLE,
    POWERS,
    find_decimals,
    fits,
    is_single,
    same,
)
from iiot_dask.codec.lattice import (
    DIVIDE,
    DIVIDE32,
    MULTIPLE32,
    ROUNDED,
    SIGNIFICANT,
    SINGLE_TEXT,
    decimals_of,
    point,
)
from iiot_dask.codec.numbers import Proposal

_GROUPS = 9
_GROUP = 24
_ROUND = (72, 80, 90, 96, 100, 120, 125, 128, 144, 150, 180, 200, 240, 250, 255, 256, 300, 360, 480, 500, 512, 600, 625)
_LARGE = (720, 900, 1000, 1023, 1024, 1250, 1440, 1800, 2048, 2500, 3600, 4095, 4096, 7200, 8192, 16384, 32768, 65536)
DIVISORS = np.array([*range(2, 65), *_ROUND, *_LARGE], np.float64)
"""What averages and converters divide by: small counts, minutes, hours, powers of two and one less."""


@kernel
def float_divisor(x: Any, tolerance: Any) -> Any:
    """Approximate common divisor of the differences of x (ascending, distinct); 0.0 when there is none to speak of."""
    scale = max(abs(x[0]), abs(x[-1]))
    floor = scale * tolerance
    g = 0.0
    for i in range(1, len(x)):
        d = x[i] - x[i - 1]
        if d <= floor:
            continue
        while d > floor:
            g, d = d, (abs(g - d * np.rint(g / d)) if d > 0.0 else 0.0)
        if g <= floor * 4.0:
            return 0.0
    return g


@kernel
def refine_step(x: Any, step: Any) -> Any:
    """Least-squares step from values by growing magnitude, each used once its multiple is certain; 0.0: none fits."""
    order = np.argsort(np.abs(x))
    top = 0.0
    bottom = 0.0
    off = 0
    for i in order:
        k = np.rint(x[i] / step)
        if k == 0.0:
            continue
        if abs(x[i] / step - k) > 0.2:
            off += 1
            continue
        top += k * x[i]
        bottom += k * k
        step = top / bottom
    return step if off * 8 <= len(x) else 0.0


@kernel
def find_step(x: Any, tolerance: Any) -> Any:
    """The step most of x (ascending, distinct) are multiples of, refined; 0.0 when there is none.

    A few numbers off the grid spoil the divisor of all, so that groups of neighbours are asked too.
    """
    n = len(x)
    stride = max(1, n // 1000)
    step = float_divisor(x[:: max(1, n // 400)], tolerance)
    if step > 0.0:
        step = refine_step(x[::stride], step)
    each = min(n, _GROUP)
    for group in range(_GROUPS):
        if step > 0.0 or n < 2 * _GROUP:
            break
        a = (n - each) * group // (_GROUPS - 1)
        step = float_divisor(x[a : a + each], tolerance)
        if step > 0.0:
            step = refine_step(x[::stride], step)
    return step


@kernel
def polish_step(x: Any, step: Any) -> Any:
    """(step, hits): of the largest values' x / k and their float neighbours, the one that gives most of x back.

    Whoever made the values used one such float; least squares only comes near it.
    """
    order = np.argsort(-np.abs(x))
    few = x if len(x) <= 128 else x[:: len(x) // 128]
    best = step
    best_hits = -1
    for i in range(min(len(order), 8)):
        v = x[order[i]]
        k = np.rint(v / step)
        if k == 0.0:
            continue
        for ulp in range(-2, 3):
            tried = bits_float(float_bits(v / k) + np.uint64(ulp))
            hits = 0
            for j in range(len(few)):
                hits += same(np.rint(few[j] / tried) * tried, few[j])
            if hits > best_hits:
                best_hits = hits
                best = tried
    return best, best_hits


@kernel
def count_digits(x: Any) -> Any:
    """(significant digits, decimals) that all but a hundredth of x need; (0, 0) when an eighth of x is no decimal."""
    digits = np.zeros(DECIMALS_MAX + 1, np.int64)
    places = np.zeros(DECIMALS_MAX + 1, np.int64)
    misses = 0
    for i in range(len(x)):
        v = abs(x[i])
        d = 0
        while d <= DECIMALS_MAX and not fits(v, POWERS[min(d, DECIMALS_MAX)], False):
            d += 1
        if d > DECIMALS_MAX:
            misses += 1
            continue
        m = np.rint(v * POWERS[d])
        n = 0
        while n < DECIMALS_MAX and m >= POWERS[n]:
            n += 1
        digits[n] += 1
        places[d] += 1
    if misses * 8 > len(x):
        return 0, 0
    return _reach(digits, len(x) - misses), _reach(places, len(x) - misses)


@kernel
def _reach(counts: Any, total: Any) -> Any:
    """Smallest place that takes all but a hundredth of the counts."""
    seen = 0
    for place in range(len(counts)):
        seen += counts[place]
        if seen * 100 >= total * 99:
            return place
    return len(counts) - 1


@kernel
def matches(x: Any, grid: Any, param: Any, scale: Any, share: Any) -> Any:
    """Whether all but one in `share` of x lie on x = point(rint(x * scale)), looking no longer than needed."""
    misses = 0
    for i in range(len(x)):
        misses += not same(point(np.int64(np.rint(x[i] * scale)), grid, param), x[i])
        if misses * share > len(x):
            return False
    return True


@kernel
def find_fraction(x: Any, grid: Any, divisors: Any) -> Any:
    """The first divisor whose fractions all but one in 8 of x are, on `grid`; 0.0 when there is none."""
    for n in divisors:
        if matches(x, grid, n, n, 8):
            return n
    return 0.0


@kernel
def count_singles(x: Any) -> Any:
    """Numbers of x that are exactly a float32."""
    count = 0
    for i in range(len(x)):
        count += is_single(x[i])
    return count


@kernel
def single_text_share(x: Any, digits: Any, top: Any) -> Any:
    """Rows of x that are a float32 printed with `digits` significant digits and at most `top` decimals."""
    hits = 0
    for i in range(len(x)):
        single = np.float64(np.float32(x[i]))
        power = POWERS[decimals_of(abs(single), digits, top)]
        hits += same(np.rint(single * power) / power, x[i])
    return hits


def sample_of(x: Floats, size: int) -> Floats:
    """At most `size` finite values: contiguous stretches from all over the column."""
    finite = x if len(x) <= size else x[_stretches(len(x), size)]
    return finite[np.isfinite(finite) & (np.abs(finite) < 1e15)]


def _stretches(n: int, size: int) -> Any:
    parts = 8
    each = size // parts
    # In the middle of each eighth: what happens at an end only must not count for an eighth.
    firsts = (2 * np.arange(parts) + 1) * n // (2 * parts) - each // 2
    return (firsts[:, None] + np.arange(each)).ravel()


def propose(x: Floats) -> list[Proposal]:
    """Grids worth measuring for the values of one tag, the plain bits always among them.

    Parameters
    ----------
    x
        A sample of finite values, float64.

    Examples
    --------
    >>> found = propose(np.round(np.random.default_rng(1).normal(20, 3, 400), 1))
    >>> (DECIMAL + 1, 1.0) in found, (BITS64, 1.0) in found
    (True, True)
    >>> any(grid == DIVIDE and param == 3.0 for grid, param in propose(np.arange(400.0) ** 2 / 3))
    True
    """
    out: list[Proposal] = [(BITS64, 1.0)]
    if len(x) < 2:
        return out
    d, _ = find_decimals(x, 0, len(x), False)
    if d >= 0:
        out.append((DECIMAL + int(d), 1.0))
        if d <= 3 and matches(x, DECIMAL + d, 1.0, POWERS[d], 50):
            return out
        out += _digits(x, int(d))
    distinct = np.unique(x)
    singles = int(count_singles(x[:256])) * 8 >= 7 * min(len(x), 256)
    if singles:
        out.append((BITS32, 1.0))
        d32, _ = find_decimals(x, 0, len(x), True)
        if d32 >= 0:
            out.append((DECIMAL32 + int(d32), 1.0))
    if d != 0:
        out += _averages(x, int(d)) + _steps(distinct, singles)
    return out


def _digits(x: Floats, d: int) -> list[Proposal]:
    """Numbers printed with so many significant digits; float32 numbers printed."""
    out: list[Proposal] = []
    few = x[::2] if len(x) > 1024 else x
    digits, places = count_digits(few)
    if 0 < digits < DECIMALS_MAX and d >= 2:
        # Room for smaller numbers than the sample has costs nothing.
        out.append((SIGNIFICANT + int(digits), float(min(places + 3, DECIMALS_MAX))))
    if places >= 6:
        for s in (digits, digits + 1):
            if s <= DECIMALS_MAX and single_text_share(few, s, places) * 8 >= 7 * len(few):
                out.append((SINGLE_TEXT + int(s), float(places)))
                break
    return out


def _averages(x: Floats, d: int) -> list[Proposal]:
    """Fractions of small whole numbers, exact or printed with d decimals."""
    out: list[Proposal] = []
    few = x[:64]
    n = float(find_fraction(few, DIVIDE, DIVISORS))
    if n:
        out.append((DIVIDE, n))
    if d >= 2:
        n = float(find_fraction(few, ROUNDED + d, DIVISORS[POWERS[d] > DIVISORS * 4]))
        if n:
            out.append((ROUNDED + d, n))
    return out


def _steps(distinct: Floats, single: bool) -> list[Proposal]:
    """Multiples of a step found from the differences."""
    if len(distinct) < 3:
        return []
    step = find_step(distinct, 1e-6 if single else 1e-11)
    if not step > 0:
        return []
    if not single:
        step, _ = polish_step(distinct, step)
    out: list[Proposal] = [(MULTIPLE32 if single else MULTIPLE, float(step))]
    whole = np.rint(1.0 / step)
    if 1 <= whole < 1e9 and abs(whole * step - 1.0) < 1e-9:
        out.append((DIVIDE32 if single else DIVIDE, float(whole)))
    return out
