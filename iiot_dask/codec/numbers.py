"""Floats to grid numbers, corrections and exceptions: the common grids in blocks that compile to vectors, the rest one by one."""

from __future__ import annotations

from typing import Any

import numpy as np

from iiot_dask.codec.bits import U0, U1, U63, Bytes, Floats, Ints, float_bits, inlined, kernel
from iiot_dask.codec.grid import BITS64, DECIMAL, DECIMAL32, K_MAX, MULTIPLE, POWERS, bits_to_grid
from iiot_dask.codec.lattice import CORRECTION_MAX, DIVIDE, to_lattice

Proposal = tuple[int, float]
Numbers = tuple[Ints, Ints, Bytes, int]
_BLOCK = 256
_FAR = np.uint64(2 * CORRECTION_MAX)
_NEAR = np.uint64(CORRECTION_MAX)
_MISSED = CORRECTION_MAX + 1
_MISS = np.uint64(_MISSED)


@inlined
def _ordered(bits: Any) -> Any:
    return bits ^ ((U0 - (bits >> U63)) >> U1)


@inlined
def _number(q: Any) -> Any:
    """Grid number of a rounded quotient; 0 where it is out of reach or NaN, so that the conversion is always defined."""
    return np.int64(q if abs(q) < K_MAX else 0.0)


@inlined
def _off(v: Any, q: Any, y: Any) -> Any:
    """ULP from the grid point y up to v; `_MISS` when that is too far."""
    off = _ordered(float_bits(v)) - _ordered(float_bits(y))
    return np.int64(off if (abs(q) < K_MAX) & (off + _NEAR <= _FAR) else _MISS)


@kernel
def to_lattice64(x: Any, grid: Any, param: Any, k: Any, c: Any, miss: Any) -> Any:
    """`to_lattice` for decimals, multiples and fractions in float64, block by block; returns the misses."""
    n = len(x)
    misses = 0
    before = np.int64(0)
    power = POWERS[grid & 0x0F] if grid < DECIMAL32 else param
    multiple = grid == MULTIPLE
    for a in range(0, n, _BLOCK):
        b = min(n, a + _BLOCK)
        # Only columns of one width in these loops: with bytes among them they compile to one row at a time.
        if multiple:
            for i in range(a, b):
                q = np.rint(x[i] / param)
                k[i] = _number(q)
                c[i] = _off(x[i], q, np.float64(k[i]) * param)
        else:
            for i in range(a, b):
                q = np.rint(x[i] * power)
                k[i] = _number(q)
                c[i] = _off(x[i], q, np.float64(k[i]) / power)
        wrong: Any = 0
        for i in range(a, b):
            wrong += np.int64(c[i] == _MISSED)
        miss[a:b] = 0
        if wrong:
            # A miss repeats the number before it, so that it costs the integer stream nothing.
            for i in range(a, b):
                if c[i] == _MISSED:
                    miss[i] = 1
                    c[i] = 0
                    k[i] = before
                before = k[i]
            misses += wrong
        before = k[b - 1]
    return misses


@kernel
def fill_numbers(x: Any, grid: Any, param: Any, k: Any, c: Any, miss: Any) -> Any:
    """Grid numbers, corrections and exceptions of x into columns, corrections zeroed before; returns the exceptions."""
    if grid == BITS64:
        bits_to_grid(x, 0, len(x), k, miss)
        return 0
    if grid in (MULTIPLE, DIVIDE) or DECIMAL <= grid < DECIMAL32:
        return to_lattice64(x, grid, param, k, c, miss)
    misses, _ = to_lattice(x, grid, param, k, c, miss)
    return misses


def to_numbers(x: Floats, proposal: Proposal) -> Numbers:
    """(grid numbers, corrections, exceptions, number of exceptions) of x on one grid."""
    n = len(x)
    k, c, miss = np.empty(n, np.int64), np.zeros(n, np.int64), np.empty(n, np.uint8)
    return k, c, miss, int(fill_numbers(x, *proposal, k, c, miss))
