"""`Coded`: prediction, then the entropy coder. The archive tier's codec for integers.

unit, first number (zigzag); j[i] = (k[i] - first) / unit
predictor byte   0: level less a centre; 1, 2: difference, of differences; 3: distance from a straight line;
4: LPC of the level less a centre; 5: LPC of the differences
parameters       0, 4: centre (zigzag); 3: slope (zigzag); 4, 5: order, shift, coefficients (zigzag)
the residuals, as in `rans`; what lies before the first number counts as 0
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from iiot_dask.codec.bits import U0, Ints, bytes_of, kernel, read_varint, unzigzag, write_varint, zigzag
from iiot_dask.codec.frame import Buffer
from iiot_dask.codec.lpc import (
    ORDER_MAX,
    autocorrelation,
    best_lpc_order,
    clipped,
    levinson,
    lpc_residual,
    lpc_restore,
    quantise,
)
from iiot_dask.codec.packed import common_unit, slope_of
from iiot_dask.codec.rans import decode_entropy, encode_entropy
from iiot_dask.core.errors import CodecError

LEVEL, DELTA, DELTA2, LINE, LPC_LEVEL, LPC_DELTA = range(6)
_LPC_GAIN = 0.02
SAMPLE = 4096


@kernel
def log_cost(r: Any) -> Any:
    """Estimated bits a residual, from some 4096 of them: mean log2(1 + zigzag)."""
    n = len(r)
    stride = max(1, n >> 12)
    total = 0.0
    count = 0
    for i in range(0, n, stride):
        total += np.log2(1.0 + np.float64(zigzag(r[i])))
        count += 1
    return total / max(count, 1)


@kernel
def differences(j: Any, out: Any) -> None:
    """out[i] = j[i] - j[i - 1], out[0] = j[0]."""
    out[0] = j[0]
    for i in range(1, len(j)):
        out[i] = j[i] - j[i - 1]


@kernel
def centre_of(j: Any) -> Any:
    """Median of up to 500 numbers, two's complement in uint64."""
    return np.uint64(np.sort(j[:: max(1, len(j) // 500)].view(np.int64))[len(j[:: max(1, len(j) // 500)]) // 2])


@kernel
def best_fixed(j: Any, r: Any) -> Any:
    """(predictor, bits, parameter) of the cheapest of the fixed predictors; r holds its residuals."""
    n = len(j)
    d = np.empty(n, np.uint64)
    centre = centre_of(j)
    for i in range(n):
        r[i] = j[i] - centre
    best, bits, param = LEVEL, log_cost(r), centre
    differences(j, d)
    cost = log_cost(d)
    if cost < bits:
        best, bits, param = DELTA, cost, U0
        r[:] = d
    dd = np.empty(n, np.uint64)
    differences(d, dd)
    cost = log_cost(dd)
    if cost < bits:
        best, bits, param = DELTA2, cost, U0
        r[:] = dd
    slope = slope_of(j[1:], n - 1) if n > 1 else U0
    for i in range(n):
        dd[i] = j[i] - slope * np.uint64(i)
    cost = log_cost(dd)
    if cost < bits:
        best, bits, param = LINE, cost, slope
        r[:] = dd
    return best, bits, param


@kernel
def fit_lpc(x: Any, c: Any) -> Any:
    """(order, shift) of the predictor of x; the quantised coefficients go to c. Order 0: not worth it."""
    f = clipped(x)
    orders = min(ORDER_MAX, len(f) // 8)
    if orders < 1:
        return 0, 0
    coefficients = np.zeros((orders, orders))
    errors = levinson(autocorrelation(f, orders), orders, coefficients)
    order = best_lpc_order(errors, orders, len(x))
    if order == 0:
        return 0, 0
    return order, quantise(coefficients[order - 1], order, c)


@kernel
def encode_coded(k: Any, out: Any, kinds: Any, lpc: Any) -> Any:
    """The payload of k (uint64, n > 0) into `out`; returns the bytes. `lpc`: try linear prediction too."""
    n = len(k)
    unit = common_unit(k, 0, n)
    at = write_varint(out, 0, unit)
    at = write_varint(out, at, zigzag(k[0]))
    j = np.empty(n, np.uint64)
    signed = np.int64(unit)
    for i in range(n):
        d = k[i] - k[0]
        j[i] = d if signed == 1 else np.uint64(np.int64(d) // signed)
    r = np.empty(n, np.uint64)
    best, bits, param = best_fixed(j, r)
    # The estimate LPC is compared with comes from the same stretch.
    if lpc and n > SAMPLE:
        bits = log_cost(r[(n - SAMPLE) // 2 :][:SAMPLE])
    c = np.zeros(ORDER_MAX, np.int64)
    order = 0
    shift = 0
    # Below two bits a residual is mostly a choice between -1, 0 and 1, where linear prediction has nothing to add.
    if lpc and bits > 2.0 and n >= 256:
        # Predictors are fitted and compared on a stretch from the middle; only the winner runs over everything.
        m = min(n, SAMPLE)
        a = (n - m) // 2
        x = np.empty(m, np.uint64)
        other = np.empty(m, np.uint64)
        trial = np.zeros(ORDER_MAX, np.int64)
        for predictor in (LPC_LEVEL, LPC_DELTA):
            centre = U0
            if predictor == LPC_LEVEL:
                centre = centre_of(j)
                for i in range(m):
                    x[i] = j[a + i] - centre
            else:
                differences(j[a : a + m], x)
                x[0] = U0
            found, moved = fit_lpc(x, trial)
            if found == 0:
                continue
            lpc_residual(x, trial, found, moved, other)
            cost = log_cost(other[found:])
            if cost + 16.0 * found / n < bits - _LPC_GAIN:
                best, bits, param, order, shift = predictor, cost, centre, found, moved
                c[:] = trial
        if best == LPC_LEVEL:
            for i in range(n):
                j[i] -= param
            lpc_residual(j, c, order, shift, r)
        elif best == LPC_DELTA:
            d = np.empty(n, np.uint64)
            differences(j, d)
            lpc_residual(d, c, order, shift, r)
    out[at] = np.uint8(best)
    at += 1
    if best in (LEVEL, LINE, LPC_LEVEL):
        at = write_varint(out, at, zigzag(param))
    if best >= LPC_LEVEL:
        at = write_varint(out, at, np.uint64(order))
        at = write_varint(out, at, np.uint64(shift))
        for i in range(order):
            at = write_varint(out, at, zigzag(np.uint64(c[i])))
    for i in range(n):
        r[i] = zigzag(r[i])
    return at + encode_entropy(r, out[at:], kinds)


@kernel
def restore(r: Any, predictor: Any, param: Any, c: Any, order: Any, shift: Any) -> None:
    """Residuals (uint64) -> numbers j, in place."""
    n = len(r)
    if predictor == LEVEL:
        for i in range(n):
            r[i] += param
        return
    if predictor == LINE:
        for i in range(n):
            r[i] += param * np.uint64(i)
        return
    if predictor >= LPC_LEVEL:
        lpc_restore(r, c, order, shift)
    if predictor == LPC_LEVEL:
        for i in range(n):
            r[i] += param
        return
    for _ in range(2 if predictor == DELTA2 else 1):
        total = U0
        for i in range(n):
            total += r[i]
            r[i] = total


@kernel
def decode_coded(data: Any, k: Any) -> Any:
    """Fill k (uint64); False when data is not what the format says."""
    end = len(data)
    unit, at = read_varint(data, 0, end)
    first, at = read_varint(data, at, end)
    if at < 0 or at >= end or data[at] > LPC_DELTA:
        return False
    predictor = np.int64(data[at])
    at += 1
    param = U0
    c = np.zeros(ORDER_MAX, np.int64)
    order = U0
    shift = U0
    if predictor in (LEVEL, LINE, LPC_LEVEL):
        param, at = read_varint(data, at, end)
    if predictor >= LPC_LEVEL:
        order, at = read_varint(data, at, end)
        shift, at = read_varint(data, at, end)
        if at < 0 or order > np.uint64(ORDER_MAX) or shift > np.uint64(30):
            return False
        for i in range(np.int64(order)):
            value, at = read_varint(data, at, end)
            c[i] = np.int64(unzigzag(value))
    if at < 0 or not decode_entropy(data, at, k):
        return False
    for i in range(len(k)):
        k[i] = unzigzag(k[i])
    restore(k, predictor, unzigzag(param), c, np.int64(order), np.int64(shift))
    base = unzigzag(first)
    for i in range(len(k)):
        k[i] = k[i] * unit + base
    return True


class Coded:
    """Fixed or linear prediction and rANS; any int64. Runs of several tags are coded as one, without a restart.

    Examples
    --------
    >>> k = np.round(500 * np.sin(np.arange(4000) / 9)).astype(np.int64)
    >>> payload = Coded.encode(k, np.zeros(1, np.int64))
    >>> len(payload) < 1700, bool((Coded.decode(payload, 4000) == k).all())
    (True, True)
    """

    id: ClassVar[int] = 3
    name: ClassVar[str] = "coded"

    @staticmethod
    def encode(k: Ints, starts: Ints) -> bytes:  # noqa: ARG004 -- the signature of every integer codec
        """Encode int64 `k` (n,), n > 0."""
        out = np.empty(13 * len(k) + 8192, np.uint8)
        size = encode_coded(k.view(np.uint64), out, 3, True)
        return out[:size].tobytes()

    @staticmethod
    def decode(payload: Buffer, n: int) -> Ints:
        """The n numbers of `payload`, int64.

        Raises
        ------
        CodecError
            If the payload is not what `encode` writes for n numbers.
        """
        k = np.empty(n, np.uint64)
        if not decode_coded(bytes_of(memoryview(payload)), k):
            msg = f"entropy-coded payload of {len(payload)} bytes does not describe {n} numbers"
            raise CodecError(msg)
        return k.view(np.int64)
