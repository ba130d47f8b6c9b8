"""Floats as integers on a grid, bit for bit: which grid a run is on, and the kernels to and from it.

A grid is one byte, for some with one float64 parameter. A value the grid does not give back bit for bit becomes an
exception (NaN, infinities, -0.0 and outliers among them); a few never change the grid of their run.

    0x00        the float's own bits, as an ordered integer
    0x01        the bits of the float32 it is exactly
    0x10 + d    k / 10**d, d = 0..15, rounded once to float64
    0x30 + d    k / 10**d rounded to float32: what a device with 32-bit registers sends
    0x50 p      k * p

Exceptions are (gap, length - 1, 8 bytes of the value) of each stretch of one bit pattern.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from iiot_dask.codec.bits import (
    U0,
    U1,
    bits_float,
    bits_single,
    float_bits,
    kernel,
    read_varint,
    single_bits,
    write_varint,
)

BITS64, BITS32, DECIMAL, DECIMAL32, MULTIPLE = 0x00, 0x01, 0x10, 0x30, 0x50
DECIMALS_MAX = 15
POWERS = np.array([10.0**d for d in range(DECIMALS_MAX + 1)])
K_MAX = 2.0**53
_SAMPLE = 64
_GOLDEN = 0.6180339887498949
_MISS_BITS = 88  # about what one exception costs

SIGN = U1 << np.uint64(63)
SIGN32 = np.uint32(1 << 31)


@kernel
def ordered(bits: Any) -> Any:
    """Bits of a float64 -> integer in the same order as the floats (uint64 as two's complement)."""
    return bits ^ ((U0 - (bits >> np.uint64(63))) >> U1)


@kernel
def ordered32(bits: Any) -> Any:
    """Bits of a float32 -> int64 in the order of the floats."""
    signed = np.int64(np.int32(bits))
    return signed if signed >= 0 else signed ^ np.int64(0x7FFFFFFF)


@kernel
def same(a: Any, b: Any) -> Any:
    """Equal as bit patterns, for numbers that are not NaN: 0.0 and -0.0 differ."""
    return a == b and (a != 0.0 or np.signbit(a) == np.signbit(b))


@kernel
def fits(x: Any, power: Any, single: bool) -> Any:
    """Whether x is bit for bit k / power (rounded to float32 when `single`) for an integer |k| < 2**53."""
    k = np.rint(x * power)
    if not abs(k) < K_MAX:
        return False
    back = np.float64(np.int64(k)) / power  # by way of the integer, which has no -0.0
    if single:
        back = np.float64(np.float32(back))
    return same(back, x)


@kernel
def is_single(x: Any) -> Any:
    """Whether x is exactly a float32 and no NaN."""
    return same(np.float64(np.float32(x)), x)


@kernel
def find_decimals(x: Any, a: Any, b: Any, single: bool) -> Any:
    """(d, estimated bits a value) of the cheapest decimal grid of x[a:b], judged on up to 64 values; d = -1: none."""
    n = b - a
    count = min(n, _SAMPLE)
    need = np.zeros(DECIMALS_MAX + 2, np.int64)
    tried = 0
    largest = 0.0
    for j in range(count):
        # Steps of the golden section: spread evenly, in step with no period of the data.
        v = x[a + (j if n <= _SAMPLE else np.int64(n * (j * _GOLDEN % 1.0)))]
        if not np.isfinite(v):
            continue
        tried += 1
        largest = max(largest, abs(v))
        d = 0
        while d <= DECIMALS_MAX and not fits(v, POWERS[d], single):
            d += 1
        need[d] += 1
    if tried == 0:
        return 0, 0.0
    best = -1
    best_cost = 1e300
    fitting = 0
    for d in range(DECIMALS_MAX + 1):
        fitting += need[d]
        misses = tried - fitting
        cost = tried * max(0.0, np.log2(largest * POWERS[d] + 1.0)) + misses * _MISS_BITS
        if misses * 8 <= tried and cost < best_cost:
            best_cost = cost
            best = d
    return best, best_cost / tried


@kernel
def find_grid(x: Any, a: Any, b: Any) -> Any:
    """The grid byte for x[a:b]: decimals, decimals of float32, float32 or plain bits (the caller verifies)."""
    d, _ = find_decimals(x, a, b, False)
    if d >= 0:
        return DECIMAL + d
    singles = 0
    for i in range(a, b):
        singles += is_single(x[i])
    if (b - a - singles) * 8 > b - a:
        return BITS64
    d, bits = find_decimals(x, a, b, True)
    return DECIMAL32 + d if d >= 0 and bits < 32.0 else BITS32


@kernel
def to_grid(x: Any, a: Any, b: Any, grid: Any, param: Any, k: Any, miss: Any) -> Any:
    """k[a:b] on the grid, miss[i] = 1 where it does not give x back; returns the number of misses.

    A miss repeats the k before it, so that it costs the integer stream nothing.
    """
    misses = 0
    before = np.int64(0)
    single = grid >= DECIMAL32
    for i in range(a, b):
        v = x[i]
        hit = False
        now = np.int64(0)
        if grid == BITS32:
            hit = is_single(v)
            if hit:
                now = ordered32(single_bits(np.float32(v)))
        elif grid == MULTIPLE:
            q = np.rint(v / param)
            hit = abs(q) < K_MAX and same(np.float64(np.int64(q)) * param, v)
            if hit:
                now = np.int64(q)
        else:
            power = POWERS[grid & 0x0F]
            hit = fits(v, power, single)
            if hit:
                now = np.int64(np.rint(v * power))
        if hit:
            before = now
        else:
            misses += 1
        miss[i] = np.uint8(not hit)
        k[i] = before
    return misses


@kernel
def bits_to_grid(x: Any, a: Any, b: Any, k: Any, miss: Any) -> None:
    """The grid that takes every bit pattern."""
    for i in range(a, b):
        k[i] = np.int64(ordered(float_bits(x[i])))
        miss[i] = np.uint8(0)


@kernel
def round_to_grid(x: Any, a: Any, b: Any, grid: Any, param: Any, bound: Any, k: Any, miss: Any) -> Any:
    """`to_grid` within `bound`: a miss is a value the nearest grid point is farther from than that."""
    misses = 0
    before = np.int64(0)
    for i in range(a, b):
        v = x[i]
        if grid == MULTIPLE:
            q = np.rint(v / param)
            back = q * param
        else:
            power = POWERS[grid & 0x0F]
            q = np.rint(v * power)
            back = q / power
        hit = abs(q) < K_MAX and abs(back - v) <= bound
        if hit:
            before = np.int64(q)
        else:
            misses += 1
        miss[i] = np.uint8(not hit)
        k[i] = before
    return misses


@kernel
def lossless_run(x: Any, a: Any, b: Any, k: Any, miss: Any) -> Any:
    """Put x[a:b] on its best grid, whatever happens; returns the grid byte."""
    grid = find_grid(x, a, b)
    if grid != BITS64 and to_grid(x, a, b, grid, 1.0, k, miss) * 8 <= b - a:
        return grid
    bits_to_grid(x, a, b, k, miss)
    return BITS64


@kernel
def choose_grids(x: Any, starts: Any, grid: Any, param: Any, bound: Any, grids: Any, k: Any, miss: Any) -> Any:
    """Every run on a grid: its own lossless one, or `grid` within `bound` when grid >= 0; returns all misses."""
    n = len(x)
    for s in range(len(starts)):
        a = starts[s]
        b = starts[s + 1] if s + 1 < len(starts) else n
        if grid >= 0 and round_to_grid(x, a, b, grid, param, bound, k, miss) * 8 <= b - a:
            grids[s] = np.uint8(grid)
        else:
            grids[s] = np.uint8(lossless_run(x, a, b, k, miss))
    misses = 0
    for i in range(n):
        misses += miss[i]
    return misses


@kernel
def from_grid(k: Any, a: Any, b: Any, grid: Any, param: Any, x: Any) -> Any:
    """x[a:b] from k; False when the grid byte is unknown."""
    if grid == BITS64:
        for i in range(a, b):
            x[i] = bits_float(ordered(np.uint64(k[i])))
    elif grid == BITS32:
        for i in range(a, b):
            bits = k[i] if k[i] >= 0 else k[i] ^ np.int64(0x7FFFFFFF)
            x[i] = np.float64(bits_single(np.uint32(bits & np.int64(0xFFFFFFFF))))
    elif DECIMAL <= grid <= DECIMAL + DECIMALS_MAX:
        power = POWERS[grid & 0x0F]
        for i in range(a, b):
            x[i] = np.float64(k[i]) / power
    elif DECIMAL32 <= grid <= DECIMAL32 + DECIMALS_MAX:
        power = POWERS[grid & 0x0F]
        for i in range(a, b):
            x[i] = np.float64(np.float32(np.float64(k[i]) / power))
    elif grid == MULTIPLE:
        for i in range(a, b):
            x[i] = np.float64(k[i]) * param
    else:
        return False
    return True


@kernel
def write_misses(x: Any, miss: Any, out: Any) -> Any:
    """Append the exceptions; returns the bytes written (at most 28 a stretch)."""
    at = 0
    n = len(x)
    after = 0
    i = 0
    while i < n:
        if not miss[i]:
            i += 1
            continue
        bits = float_bits(x[i])
        stop = i + 1
        while stop < n and miss[stop] and float_bits(x[stop]) == bits:
            stop += 1
        at = write_varint(out, at, np.uint64(i - after))
        at = write_varint(out, at, np.uint64(stop - i - 1))
        for byte in range(8):
            out[at + byte] = np.uint8((bits >> np.uint64(8 * byte)) & np.uint64(0xFF))
        at += 8
        after = stop
        i = stop
    return at


@kernel
def read_misses(data: Any, x: Any) -> Any:
    """Put the exceptions back into x; False when they run over either end."""
    at: Any = 0
    row: Any = 0
    n = len(x)
    end = len(data)
    while at < end:
        gap, at = read_varint(data, at, end)
        more, at = read_varint(data, at, end)
        if at < 0 or at + 8 > end or gap >= np.uint64(n - row) or more >= np.uint64(n - row) - gap:
            return False
        bits = U0
        for byte in range(8):
            bits |= np.uint64(data[at + byte]) << np.uint64(8 * byte)
        at += 8
        row += np.int64(gap)
        for i in range(row, row + np.int64(more) + 1):
            x[i] = bits_float(bits)
        row += np.int64(more) + 1
    return True
