"""Decimal text to numbers, compiled: correctly rounded doubles, and exact integer nanoseconds.

Sources: W. D. Clinger, "How to Read Floating Point Numbers Accurately" (1990) for the short path; D. Lemire, "Number
Parsing at a Gigabyte per Second" (2021) for the 128-bit path, which also says when it can not decide (then the caller
takes a slower parser; about one number in 10^15 of random ones).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .jit import compiled

POWER_MIN, POWER_MAX = -342, 308
DIGITS_MAX = 19
"""Significant digits that fit 64 bits; further ones only say that there are more."""
EXPONENT_MAX = 100_000

MINUS, PLUS, DOT, ZERO, NINE = ord("-"), ord("+"), ord("."), ord("0"), ord("9")


def _powers() -> npt.NDArray[np.uint64]:
    """The top 128 bits of 10^e, rounded down, as (low, high) 64-bit words; row 0 is `POWER_MIN`."""
    rows = []
    for e in range(POWER_MIN, POWER_MAX + 1):
        if e >= 0:
            whole = 10**e
            size = whole.bit_length()
            top = whole << (128 - size) if size <= 128 else whole >> (size - 128)
        else:
            divisor = 10**-e
            top = (1 << (127 + divisor.bit_length())) // divisor
            top >>= top.bit_length() - 128
        rows.append((top & (2**64 - 1), top >> 64))
    return np.array(rows, np.uint64)


POWERS = _powers()
SMALL = np.array([10.0**e for e in range(23)])
SCALE = np.array([10**e for e in range(20)], np.uint64)


@compiled
def decimal(data: npt.NDArray[np.uint8], at: int, stop: int) -> tuple[int, bool, np.uint64, int, bool, bool]:
    """Read a JSON number (RFC 8259, section 6) at ``data[at]``.

    Returns
    -------
    tuple
        Offset after it (-1 = no number here), negative?, its first 19 significant digits as uint64, the power of ten
        they are to be multiplied by, digits left out?, integer (no fraction, no exponent)?
    """
    ten = np.uint64(10)
    digits = np.uint64(0)
    negative = False
    if at < stop and data[at] == MINUS:
        negative = True
        at += 1
    first = at
    count, power, more = 0, 0, False
    while at < stop and ZERO <= data[at] <= NINE:
        if count < DIGITS_MAX:
            digits = digits * ten + np.uint64(data[at] - ZERO)
            if digits:
                count += 1
        else:
            power += 1
            more = more or data[at] != ZERO
        at += 1
    if at == first or (data[first] == ZERO and at > first + 1):
        return -1, False, digits, 0, False, False
    integer = True
    if at < stop and data[at] == DOT:
        integer = False
        at += 1
        first = at
        while at < stop and ZERO <= data[at] <= NINE:
            if count < DIGITS_MAX:
                digits = digits * ten + np.uint64(data[at] - ZERO)
                power -= 1
                if digits:
                    count += 1
            else:
                more = more or data[at] != ZERO
            at += 1
        if at == first:
            return -1, False, digits, 0, False, False
    if at < stop and (data[at] | 32) == 101:  # e or E
        integer = False
        at += 1
        minus = False
        if at < stop and (data[at] == MINUS or data[at] == PLUS):
            minus = data[at] == MINUS
            at += 1
        first, exponent = at, 0
        while at < stop and ZERO <= data[at] <= NINE:
            exponent = min(exponent * 10 + (int(data[at]) - ZERO), EXPONENT_MAX)
            at += 1
        if at == first:
            return -1, False, digits, 0, False, False
        power += -exponent if minus else exponent
    return at, negative, digits, power, more, integer


@compiled
def multiply(a: np.uint64, b: np.uint64) -> tuple[np.uint64, np.uint64]:
    """The 128-bit product of two uint64, as (high, low)."""
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    a0, a1, b0, b1 = a & mask, a >> half, b & mask, b >> half
    low, cross = a0 * b0, a1 * b0
    middle = a0 * b1 + (low >> half) + (cross & mask)
    return a1 * b1 + (cross >> half) + (middle >> half), (middle << half) | (low & mask)


@compiled
def _leading_zeros(x: np.uint64) -> int:
    n, one = 0, np.uint64(1)
    for step in (32, 16, 8, 4, 2, 1):
        if x >> np.uint64(64 - step) == 0:
            n += step
            x <<= np.uint64(step)
    return n + (0 if x >> np.uint64(63) == one else 1)


@compiled
def _lemire(digits: np.uint64, power: int) -> tuple[float, bool]:
    """``digits * 10**power`` correctly rounded, and whether that could be decided; `digits` > 0."""
    if power < POWER_MIN or power > POWER_MAX:
        return 0.0, False
    shift = _leading_zeros(digits)
    man = digits << np.uint64(shift)
    exponent = ((217_706 * power) >> 16) + 64 + 1023 - shift
    low_bits, one = np.uint64(0x1FF), np.uint64(1)
    high, low = multiply(man, POWERS[power - POWER_MIN, 1])
    if (high & low_bits) == low_bits and low + man < man:
        more, rest = multiply(man, POWERS[power - POWER_MIN, 0])
        merged = low + more
        if merged < low:
            high += one
        if (high & low_bits) == low_bits and merged + one == 0 and rest + man < man:
            return 0.0, False
        low = merged
    top = high >> np.uint64(63)
    mantissa = high >> (top + np.uint64(9))
    exponent -= 1 - int(top)
    if low == 0 and (high & low_bits) == 0 and (mantissa & np.uint64(3)) == one:
        return 0.0, False
    mantissa = (mantissa + (mantissa & one)) >> one
    if mantissa >> np.uint64(53):
        mantissa >>= one
        exponent += 1
    # Subnormal and infinite results are left to the slower parser.
    if exponent < 1 or exponent > 2046:
        return 0.0, False
    return math.ldexp(float(mantissa), exponent - 1023 - 52), True


@compiled
def to_float(negative: bool, digits: np.uint64, power: int, more: bool) -> tuple[float, bool]:
    """What `decimal` read, as the nearest double (ties to even), and whether that could be decided.

    Returns
    -------
    float, bool
        The value; False = take a slower parser.
    """
    if digits == 0:
        return -0.0 if negative else 0.0, True
    value, sure = 0.0, False
    if not more and digits < np.uint64(1 << 53) and -22 <= power <= 22:
        value = float(digits)
        value = value / SMALL[-power] if power < 0 else value * SMALL[power]
        sure = True
    else:
        value, sure = _lemire(digits, power)
        if sure and more:
            above, sure = _lemire(digits + np.uint64(1), power)
            sure = sure and above == value
    return -value if negative else value, sure


@compiled
def to_integer(negative: bool, digits: np.uint64, power: int, more: bool) -> tuple[int, bool]:
    """What `decimal` read, as the nearest int64 (ties to even), and whether it fits.

    Exact for up to 19 digits, unlike a detour by a double: 1700000000.123456789 s is that many ns. Of longer fractions
    the digits after the 19th decide no more than a tie.
    """
    if digits == 0:
        return 0, True
    if power > 18 or (more and power > 0):
        return 0, False
    whole = digits
    if power > 0:
        high, whole = multiply(digits, SCALE[power])
        if high:
            return 0, False
    elif power < -19:
        return 0, True
    elif power < 0:
        scale = SCALE[-power]
        whole = digits // scale
        rest = digits - whole * scale
        # rest > scale - rest is 2 * rest > scale without the overflow.
        if rest > scale - rest or (rest == scale - rest and (more or whole & np.uint64(1))):
            whole += np.uint64(1)
    if whole > np.uint64(0x7FFFFFFFFFFFFFFF):
        return 0, False
    return -int(np.int64(whole)) if negative else int(np.int64(whole)), True
