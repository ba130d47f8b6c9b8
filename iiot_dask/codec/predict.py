"""Fixed predictors: what each would cost, judged on a few stretches of a column, and the residuals of the one chosen."""

from __future__ import annotations

from typing import Any

import numpy as np

from iiot_dask.codec.bits import U0, float_bits, inlined, kernel, zigzag

LEVEL, DELTA, DELTA2, LINE, LPC_LEVEL, LPC_DELTA = range(6)
SAMPLE = 4096
_STRETCHES = 8
_EXPONENT_BITS = np.uint64(52)
_MANTISSA = np.uint64((1 << 52) - 1)
_MANTISSA_UNIT = 2.0**-52
_BEND = 0.344


@inlined
def log2_of(x: Any) -> Any:
    """log2 of a normal float64 x >= 1 to 0.005, without a call: exponent, mantissa, and a parabola for the bend between."""
    bits = float_bits(x)
    m = np.float64(bits & _MANTISSA) * _MANTISSA_UNIT
    return np.float64(np.int64(bits >> _EXPONENT_BITS) - 1023) + m * (1.0 + _BEND - _BEND * m)


@inlined
def cost_of(r: Any) -> Any:
    """Estimated bits of one residual (uint64, two's complement): log2(1 + zigzag)."""
    return log2_of(1.0 + np.float64(zigzag(r)))


@kernel
def log_cost(r: Any) -> Any:
    """Mean estimated bits of residuals r."""
    total = 0.0
    for i in range(len(r)):
        total += cost_of(r[i])
    return total / max(len(r), 1)


@kernel
def centre_of(j: Any) -> Any:
    """Median of some 128 numbers, two's complement in uint64."""
    few = j[:: max(1, len(j) // 128)].view(np.int64)
    return np.uint64(np.sort(few)[len(few) // 2])


@kernel
def slope_of(j: Any, m: Any) -> Any:
    """Mean step of j[:m], rounded to nearest, two's complement in uint64."""
    return np.uint64(np.int64(np.rint(np.float64(np.int64(j[m - 1])) / m)))


@kernel
def best_fixed(j: Any) -> Any:
    """(predictor, estimated bits a number, parameter) of the cheapest fixed predictor of j (uint64)."""
    n = len(j)
    centre = centre_of(j)
    slope = slope_of(j[1:], n - 1) if n > 1 else U0
    each = n if n <= SAMPLE else SAMPLE // _STRETCHES
    parts = 1 if n <= SAMPLE else _STRETCHES
    level = delta = delta2 = line = 0.0
    count = 0
    for part in range(parts):
        a = (n - each) * part // max(parts - 1, 1)
        for i in range(max(a, 2), a + each):
            step = j[i] - j[i - 1]
            level += cost_of(j[i] - centre)
            delta += cost_of(step)
            delta2 += cost_of(step - (j[i - 1] - j[i - 2]))
            line += cost_of(j[i] - slope * np.uint64(i))
            count += 1
    best, bits, param = LEVEL, level, centre
    if delta < bits:
        best, bits, param = DELTA, delta, U0
    if delta2 < bits:
        best, bits, param = DELTA2, delta2, U0
    if line < bits:
        best, bits, param = LINE, line, slope
    return best, bits / max(count, 1), param


@kernel
def residuals(j: Any, predictor: Any, param: Any, r: Any) -> None:
    """Residuals of a fixed predictor; what lies before the first number counts as 0."""
    n = len(j)
    if predictor == LEVEL:
        for i in range(n):
            r[i] = j[i] - param
    elif predictor == LINE:
        for i in range(n):
            r[i] = j[i] - param * np.uint64(i)
    elif predictor == DELTA:
        r[0] = j[0]
        for i in range(1, n):
            r[i] = j[i] - j[i - 1]
    else:
        r[0] = j[0]
        if n > 1:
            r[1] = j[1] - j[0] - j[0]
        for i in range(2, n):
            r[i] = j[i] - j[i - 1] - (j[i - 1] - j[i - 2])


@kernel
def restore_fixed(r: Any, predictor: Any, param: Any) -> None:
    """Inverse of `residuals`, in place."""
    n = len(r)
    if predictor == LEVEL:
        for i in range(n):
            r[i] += param
    elif predictor == LINE:
        for i in range(n):
            r[i] += param * np.uint64(i)
    else:
        for _ in range(2 if predictor == DELTA2 else 1):
            total = U0
            for i in range(n):
                total += r[i]
                r[i] = total
