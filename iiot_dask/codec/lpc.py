"""Linear prediction of integers, orders up to 32: autocorrelation, Levinson-Durbin, quantised coefficients.

Analysis is in floats and may differ between machines; only the quantised coefficients are stored, and prediction from
them is integer arithmetic modulo 2**64, the same everywhere.

Source: Levinson 1946 / Durbin 1960 as in Makhoul, "Linear prediction: a tutorial review", Proc. IEEE 63 (1975);
quantisation after FLAC (RFC 9639, section 9.2.6), Robinson's "Shorten" (1994).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from iiot_dask.codec.bits import U0, inlined, kernel

ORDER_MAX = 32
COEFFICIENT_BITS = 14
ORDERS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_COEFFICIENT_COST = 14.0
_COEFFICIENT_SHARE = 0.001  # bits a number a coefficient must save on top: each costs time on every read
_CLIP = 12.0


@kernel
def clipped(x: Any) -> Any:
    """The numbers of x (uint64, two's complement) as floats, at most 12 mean magnitudes large.

    Least squares would give a few outliers all the say.
    """
    n = len(x)
    out = np.empty(n)
    total = 0.0
    for i in range(n):
        out[i] = np.float64(np.int64(x[i]))
        total += abs(out[i])
    limit = _CLIP * total / max(n, 1) + 1.0
    for i in range(n):
        out[i] = min(max(out[i], -limit), limit)
    return out


@kernel
def autocorrelation(x: Any, orders: Any) -> Any:
    """Sum of x[i] * x[i - lag] for lags 0..orders, float64."""
    # Oldest first: numbers and sums run upwards together, which compiles to vectors.
    out = np.zeros(orders + 1)
    for i in range(orders, len(x)):
        v = x[i]
        for back in range(orders + 1):
            out[back] += v * x[i - orders + back]
    return out[::-1].copy()


@kernel
def levinson(r: Any, orders: Any, coefficients: Any) -> Any:
    """Predictors of all orders into coefficients[order - 1, :order]; returns the error energy left by each order."""
    errors = np.empty(orders + 1)
    a = np.zeros(orders)
    before = np.zeros(orders)
    error = r[0] * (1.0 + 1e-9) + 1e-9
    errors[0] = error
    for m in range(orders):
        acc = r[m + 1]
        for i in range(m):
            acc -= a[i] * r[m - i]
        k = acc / error
        before[:m] = a[:m]
        a[m] = k
        for i in range(m):
            a[i] = before[i] - k * before[m - 1 - i]
        error *= max(1.0 - k * k, 1e-12)
        errors[m + 1] = error
        coefficients[m, : m + 1] = a[: m + 1]
    return errors


@kernel
def best_lpc_order(errors: Any, orders: Any, count: Any) -> Any:
    """Order among `ORDERS` with the fewest estimated bits for `count` numbers; 0 = no prediction."""
    best = 0
    best_cost = 0.5 * count * np.log2(max(errors[0], 1e-9))
    for order in ORDERS:
        if order <= orders:
            cost = (
                0.5 * count * np.log2(max(errors[order], 1e-9))
                + (_COEFFICIENT_COST + _COEFFICIENT_SHARE * count) * order
            )
            if cost < best_cost:
                best_cost = cost
                best = order
    return best


@kernel
def quantise(coefficients: Any, order: Any, out: Any) -> Any:
    """Integer coefficients into out[:order]; returns their shift (0-30): coefficient = integer / 2**shift."""
    largest = 1e-9
    for i in range(order):
        largest = max(largest, abs(coefficients[i]))
    shift: Any = min(30, max(0, COEFFICIENT_BITS - np.int64(np.ceil(np.log2(largest)))))
    carry = 0.0
    for i in range(order):
        # Carrying the rounding error on keeps the sum of the coefficients, which is the gain at rest.
        wanted = coefficients[i] * np.float64(1 << shift) + carry
        out[i] = np.int64(np.rint(wanted))
        carry = wanted - np.float64(out[i])
    return shift


@kernel
def oldest_first(c: Any, order: Any) -> Any:
    """Coefficients (uint64) in the order of the numbers they belong to: both run upwards, which compiles to vectors."""
    out = np.empty(order, np.uint64)
    for lag in range(order):
        out[lag] = np.uint64(c[order - 1 - lag])
    return out


@inlined
def predict(x: Any, i: Any, back: Any, order: Any, shift: Any) -> Any:
    """Prediction of x[i] (uint64, two's complement) from the `order` numbers before; missing ones count as 0."""
    total = U0
    for lag in range(max(0, order - i), order):
        total += back[lag] * x[i - order + lag]
    return np.uint64(np.int64(total) >> shift)


@kernel
def lpc_residual(x: Any, c: Any, order: Any, shift: Any, out: Any) -> None:
    """Out = x - prediction."""
    back = oldest_first(c, order)
    for i in range(min(order, len(x))):
        out[i] = x[i] - predict(x, i, back, order, shift)
    for i in range(order, len(x)):
        total = U0
        for lag in range(order):
            total += back[lag] * x[i - order + lag]
        out[i] = x[i] - np.uint64(np.int64(total) >> shift)


@kernel
def lpc_restore(x: Any, c: Any, order: Any, shift: Any) -> None:
    """Replace residuals by the numbers, in place.

    The newest eight stay in registers: loading vectors from memory that was written a moment ago stalls the core.
    """
    back = oldest_first(c, order)
    near = np.zeros(8, np.uint64)
    for lag in range(min(order, 8)):
        near[lag] = np.uint64(c[lag])
    c0, c1, c2, c3, c4, c5, c6, c7 = near[0], near[1], near[2], near[3], near[4], near[5], near[6], near[7]
    h0 = h1 = h2 = h3 = h4 = h5 = h6 = h7 = U0
    n = len(x)
    far = max(order - 8, 0)
    for i in range(n):
        total = c7 * h7 + c6 * h6 + c5 * h5 + c4 * h4 + c3 * h3 + c2 * h2 + c1 * h1
        if i >= order:
            for lag in range(far):
                total += back[lag] * x[i - order + lag]
        else:
            for lag in range(order - i, far):
                total += back[lag] * x[i - order + lag]
        total += c0 * h0
        h7, h6, h5, h4, h3, h2, h1 = h6, h5, h4, h3, h2, h1, h0
        h0 = x[i] + np.uint64(np.int64(total) >> shift)
        x[i] = h0
