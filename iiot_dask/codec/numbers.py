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


@inlined
def _ordered(bits: Any) -> Any:
    return bits ^ ((U0 - (bits >> U63)) >> U1)


@inlined
def _number(q: Any) -> Any:
    """Grid number of a rounded quotient; 0 where it is out of reach or NaN, so that the conversion is always defined."""
    return np.int64(q if abs(q) < K_MAX else 0.0)


@inlined
def _note(i: Any, v: Any, q: Any, y: Any, c: Any, miss: Any) -> Any:
    """Fill row i; 1 when it is an exception. y is the grid point of k[i]."""
    off = _ordered(float_bits(v)) - _ordered(float_bits(y))
    hit = (abs(q) < K_MAX) & (off + _NEAR <= _FAR)
    c[i] = np.int64(off if hit else U0)
    miss[i] = np.uint8(not hit)
    return np.int64(not hit)


@kernel
def to_lattice64(x: Any, grid: Any, param: Any, k: Any, c: Any, miss: Any) -> Any:
    """`to_lattice` for decimals, multiples and fractions in float64, block by block; returns the misses."""
    n = len(x)
    misses = 0
    before = np.int64(0)
    power = POWERS[grid & 0x0F] if grid < DECIMAL32 else param
    for a in range(0, n, _BLOCK):
        b = min(n, a + _BLOCK)
        wrong = 0
        if grid == MULTIPLE:
            for i in range(a, b):
                q = np.rint(x[i] / param)
                k[i] = _number(q)
                wrong += _note(i, x[i], q, np.float64(k[i]) * param, c, miss)
        else:
            for i in range(a, b):
                q = np.rint(x[i] * power)
                k[i] = _number(q)
                wrong += _note(i, x[i], q, np.float64(k[i]) / power, c, miss)
        if wrong:
            # A miss repeats the number before it, so that it costs the integer stream nothing.
            for i in range(a, b):
                if miss[i]:
                    k[i] = before
                before = k[i]
            misses += wrong
        before = k[b - 1]
    return misses


def to_numbers(x: Floats, proposal: Proposal) -> Numbers:
    """(grid numbers, corrections, exceptions, number of exceptions) of x on one grid."""
    n = len(x)
    grid, param = proposal
    k, c, miss = np.empty(n, np.int64), np.zeros(n, np.int64), np.empty(n, np.uint8)
    if grid == BITS64:
        bits_to_grid(x, 0, n, k, miss)
        return k, c, miss, 0
    if grid in (MULTIPLE, DIVIDE) or DECIMAL <= grid < DECIMAL32:
        return k, c, miss, int(to_lattice64(x, grid, param, k, c, miss))
    misses, _ = to_lattice(x, grid, param, k, c, miss)
    return k, c, miss, misses
