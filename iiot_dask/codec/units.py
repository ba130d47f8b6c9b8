"""Common units and straight lines in runs of integers, and the exact division by a unit.

Numbers are two's complement in uint64; all arithmetic is modulo 2**64. Dividing by a known divisor of every difference needs
no division: shift out its power of two, multiply by the inverse of its odd part.
Source: Granlund and Montgomery, "Division by invariant integers using multiplication", PLDI 1994, section 9 (exact division
and the divisibility test by the same inverse).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from iiot_dask.codec.bits import U0, U1, bit_length, inlined, kernel

_PROBES = 64
_STRIDE = 256
U2 = np.uint64(2)


@inlined
def _inverse(odd: Any) -> Any:
    """The number x with odd * x == 1 modulo 2**64, by Newton's iteration (each doubles the right bits; 3 are right at first)."""
    x = odd
    for _ in range(5):
        x *= U2 - odd * x
    return x


@inlined
def _split(unit: Any) -> Any:
    """(trailing zero bits, odd part) of unit > 0."""
    shift = np.uint64(bit_length(unit & (U0 - unit)) - 1)
    return shift, unit >> shift


@inlined
def _gcd(a: Any, b: Any) -> Any:
    while b > U0:
        a, b = b, a % b
    return a


@kernel
def _first_indivisible(k: Any, a: Any, start: Any, b: Any, unit: Any) -> Any:
    """First row from `start` on whose distance from row a is no multiple of `unit`; b when all are."""
    shift, odd = _split(unit)
    inverse = _inverse(odd)
    most = ~U0 // odd
    low = (U1 << shift) - U1
    base = np.int64(k[a])
    for first in range(start, b, _STRIDE):
        stop = min(first + _STRIDE, b)
        # A whole stretch before the branch: that compiles to vectors.
        wrong: Any = 0
        for i in range(first, stop):
            d = np.uint64(abs(np.int64(k[i]) - base))
            wrong += np.int64((d & low) != U0) | np.int64((d >> shift) * inverse > most)
        if wrong:
            for i in range(first, stop):
                d = np.uint64(abs(np.int64(k[i]) - base))
                if (d & low) != U0 or (d >> shift) * inverse > most:
                    return i
    return b


@kernel
def common_unit(k: Any, a: Any, b: Any) -> Any:
    """Greatest common divisor of k[i] - k[a] over a run of uint64 (two's complement); 1 when the span overflows."""
    low = np.int64(k[a])
    high = low
    for i in range(a + 1, b):
        v = np.int64(k[i])
        low = min(low, v)
        high = max(high, v)
    if np.uint64(high) - np.uint64(low) >= U1 << np.uint64(63):
        return U1
    if low == high:
        return U1
    unit = U0
    for i in range(a + 1, b, max(1, (b - a) // _PROBES)):
        unit = _gcd(unit, np.uint64(abs(np.int64(k[i] - k[a]))))
    start = a + 1
    while unit != U1 and start < b:
        if unit == U0:
            unit = np.uint64(abs(np.int64(k[start] - k[a])))
            start += 1
            continue
        start = _first_indivisible(k, a, start, b, unit)
        if start < b:
            unit = _gcd(unit, np.uint64(abs(np.int64(k[start] - k[a]))))
    return unit


@kernel
def divide_from(k: Any, a: Any, b: Any, base: Any, unit: Any, j: Any) -> None:
    """j[:b - a] = (k[a:b] - base) / unit, two's complement in uint64; every difference must be a multiple of unit."""
    if unit == U1:
        for i in range(a, b):
            j[i - a] = k[i] - base
        return
    shift, odd = _split(unit)
    inverse = _inverse(odd)
    for i in range(a, b):
        j[i - a] = np.uint64(np.int64(k[i] - base) >> np.int64(shift)) * inverse


@kernel
def is_line(k: Any, a: Any, b: Any) -> Any:
    """Whether all steps of k[a:b] are equal (modulo 2**64)."""
    if b - a < 2:
        return True
    step = k[a + 1] - k[a]
    for first in range(a + 1, b, _STRIDE):
        wrong = U0
        for i in range(first, min(first + _STRIDE, b)):
            wrong |= (k[i] - k[i - 1]) ^ step
        if wrong:
            return False
    return True
