"""More grids, for numbers that were computed or printed: what `grid` starts, with parameters and corrections.

    0x51 p      k / p                            averages over p samples, counts per p
    0x52 p      k * p rounded to float32         0x53 p   k / p rounded to float32
    0x60 + s    float32 printed with s significant digits and at most `param` decimals; k = ordered float32 bits
    0x70 + s    decimals of s significant digits, at most `param` decimals; k counts them from 0 up, so that a number
                printed coarser because it is larger costs no more
    0x80 + d    k / param rounded to d decimals  averages and converter counts that were printed

A number that lies a few units in the last place (ULP) beside its grid point keeps the difference in a column of
corrections, which is nearly all zero; farther off it is an exception. Decimals (0x10 + d) take corrections too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from iiot_dask.codec.bits import bits_float, bits_single, float_bits, inlined, kernel, single_bits
from iiot_dask.codec.grid import (
    BITS32,
    BITS64,
    DECIMAL,
    DECIMAL32,
    DECIMALS_MAX,
    K_MAX,
    MULTIPLE,
    POWERS,
    is_single,
    ordered,
    ordered32,
    same,
)

DIVIDE, MULTIPLE32, DIVIDE32 = 0x51, 0x52, 0x53
SINGLE_TEXT, SIGNIFICANT, ROUNDED = 0x60, 0x70, 0x80
CORRECTION_MAX = 64


@kernel
def known(grid: Any, param: Any) -> Any:
    """Whether `point` can be asked for this grid: what a decoder checks first."""
    if grid in (MULTIPLE, DIVIDE, MULTIPLE32, DIVIDE32, BITS64, BITS32):
        return True
    if grid >= ROUNDED + 16 or grid < DECIMAL:
        return False
    if SINGLE_TEXT <= grid < ROUNDED:
        return 0.0 <= param <= DECIMALS_MAX and (grid & 0x0F) > 0
    return grid < MULTIPLE or grid >= ROUNDED


def name_of(grid: int, param: float) -> str:
    """A grid in words of arithmetic, for people.

    Examples
    --------
    >>> name_of(DECIMAL + 2, 1.0), name_of(DIVIDE, 3.0), name_of(SIGNIFICANT + 5, 7.0)
    ('k / 10**2', 'k / 3', '5 significant digits')
    """
    digits = grid & 0x0F
    if grid == BITS64:
        return "float64 bits"
    if grid == BITS32:
        return "float32 bits"
    if grid in (MULTIPLE, MULTIPLE32):
        return f"k * {param:.9g}" + (" as float32" if grid == MULTIPLE32 else "")
    if grid in (DIVIDE, DIVIDE32):
        return f"k / {param:g}" + (" as float32" if grid == DIVIDE32 else "")
    if grid >= ROUNDED:
        return f"k / {param:g} to {digits} decimals"
    if grid >= SIGNIFICANT:
        return f"{digits} significant digits"
    if grid >= SINGLE_TEXT:
        return f"float32 printed with {digits} digits"
    return f"k / 10**{digits}" + (" as float32" if grid >= DECIMAL32 else "")


@inlined
def has_param(grid: Any) -> Any:
    """Whether a grid byte is followed by a parameter."""
    return grid >= MULTIPLE


@inlined
def decimals_of(x: Any, digits: Any, top: Any) -> Any:
    """Decimals of |x| printed with `digits` significant digits, 0 to `top`."""
    d = digits - 1
    while d > 0 and x >= POWERS[digits - d]:
        d -= 1
    while d < top and x * POWERS[min(d - digits + 1, DECIMALS_MAX)] < 1.0 and d - digits + 1 < DECIMALS_MAX:
        d += 1
    return min(d, top)


@inlined
def _significant_point(k: Any, digits: Any, top: Any) -> Any:
    """The k-th decimal of `digits` significant digits."""
    m = abs(k)
    decade = np.int64(9) * np.int64(POWERS[digits - 1])
    steps = np.int64(0)
    if m >= np.int64(POWERS[digits]):
        steps = min((m - np.int64(POWERS[digits - 1])) // decade, top)
    x = np.float64(m - steps * decade) / POWERS[top - steps]
    return -x if k < 0 else x


@inlined
def _significant_index(x: Any, digits: Any, top: Any) -> Any:
    """Inverse of `_significant_point`, as float64; NaN when out of reach."""
    v = abs(x)
    d = decimals_of(v, digits, top)
    m = np.rint(v * POWERS[d])
    if not m < K_MAX:
        return np.nan
    k = m + np.float64(top - d) * 9.0 * POWERS[digits - 1]
    return -k if x < 0 else k


@inlined
def _single(k: Any) -> Any:
    """Ordered float32 bits -> the float, as float64."""
    bits = k if k >= 0 else k ^ np.int64(0x7FFFFFFF)
    return np.float64(bits_single(np.uint32(bits & np.int64(0xFFFFFFFF))))


@kernel
def index(x: Any, grid: Any, param: Any) -> Any:
    """Grid number nearest to x as float64 (NaN: none)."""
    digits = grid & 0x0F
    if grid in (MULTIPLE, MULTIPLE32):
        return np.rint(x / param)
    if grid in (DIVIDE, DIVIDE32) or grid >= ROUNDED:
        return np.rint(x * param)
    if grid >= SIGNIFICANT:
        return _significant_index(x, digits, np.int64(param))
    if grid >= SINGLE_TEXT or grid == BITS32:
        single = np.float32(x)
        return np.float64(ordered32(single_bits(single))) if np.isfinite(single) else np.nan
    return np.rint(x * POWERS[digits])


@kernel
def point(k: Any, grid: Any, param: Any) -> Any:
    """The float at grid number k (int64)."""
    digits = grid & 0x0F
    if grid == MULTIPLE:
        return np.float64(k) * param
    if grid == DIVIDE:
        return np.float64(k) / param
    if grid == MULTIPLE32:
        return np.float64(np.float32(np.float64(k) * param))
    if grid == DIVIDE32:
        return np.float64(np.float32(np.float64(k) / param))
    if grid >= ROUNDED:
        return np.rint(np.float64(k) / param * POWERS[digits]) / POWERS[digits]
    if grid >= SIGNIFICANT:
        return _significant_point(k, digits, np.int64(param))
    if grid >= SINGLE_TEXT:
        x = _single(k)
        power = POWERS[decimals_of(abs(x), digits, np.int64(param))]
        return np.rint(x * power) / power
    if grid == BITS32:
        return _single(k)
    if grid >= DECIMAL32:
        return np.float64(np.float32(np.float64(k) / POWERS[digits]))
    return np.float64(k) / POWERS[digits]


@kernel
def corrected(grid: Any) -> Any:
    """0: takes no corrections, 1: in ULP of float64, 2: in ULP of float32."""
    if grid in (MULTIPLE, DIVIDE) or DECIMAL <= grid < DECIMAL32 or grid >= ROUNDED:
        return 1
    return 2 if grid in (MULTIPLE32, DIVIDE32) or DECIMAL32 <= grid < MULTIPLE else 0


@kernel
def shift_ulp(y: Any, c: Any, way: Any) -> Any:
    """The float c ULP above y: float64's for way 1, float32's for way 2."""
    if way == 2:
        return _single(ordered32(single_bits(np.float32(y))) + c)
    return bits_float(ordered(ordered(float_bits(y)) + np.uint64(c)))


@kernel
def ulp_between(x: Any, y: Any, way: Any) -> Any:
    """ULP from y up to x (int64), clipped to beyond `CORRECTION_MAX` when far."""
    if way == 2:
        return ordered32(single_bits(np.float32(x))) - ordered32(single_bits(np.float32(y)))
    d = np.int64(ordered(float_bits(x)) - ordered(float_bits(y)))
    return min(max(d, -CORRECTION_MAX - 1), CORRECTION_MAX + 1)


@kernel
def to_lattice(x: Any, grid: Any, param: Any, k: Any, c: Any, miss: Any) -> Any:
    """(misses, rows with a correction): k, corrections and misses of x on one grid, verified bit for bit."""
    way = corrected(grid)
    before = np.int64(0)
    misses = 0
    corrections = 0
    for i in range(len(x)):
        c[i] = 0
        miss[i] = np.uint8(1)
        k[i] = before
        q = index(x[i], grid, param)
        if not abs(q) < K_MAX:
            misses += 1
            continue
        number = np.int64(q)
        y = point(number, grid, param)
        if not same(y, x[i]):
            off = ulp_between(x[i], y, way) if way and (way == 1 or is_single(x[i])) else np.int64(0)
            # Across zero a correction would be a jump between signs; those few are exceptions.
            if off == 0 or abs(off) > CORRECTION_MAX or not same(shift_ulp(y, off, way), x[i]):
                misses += 1
                continue
            c[i] = off
            corrections += 1
        miss[i] = np.uint8(0)
        before = number
        k[i] = number
    return misses, corrections


@kernel
def from_lattice(k: Any, c: Any, a: Any, b: Any, grid: Any, param: Any, x: Any) -> Any:
    """x[a:b] from its grid numbers and corrections (none when c is empty); False when the grid is unknown."""
    if not known(grid, param):
        return False
    if grid == BITS64:
        for i in range(a, b):
            x[i] = bits_float(ordered(np.uint64(k[i])))
        return True
    if grid == MULTIPLE:
        for i in range(a, b):
            x[i] = np.float64(k[i]) * param
    elif DECIMAL <= grid < DECIMAL32:
        power = POWERS[grid & 0x0F]
        for i in range(a, b):
            x[i] = np.float64(k[i]) / power
    else:
        for i in range(a, b):
            x[i] = point(k[i], grid, param)
    way = corrected(grid)
    if len(c) and way:
        for i in range(a, b):
            if c[i]:
                x[i] = shift_ulp(x[i], c[i], way)
    return True
