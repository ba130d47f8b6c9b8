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
from iiot_dask.codec.predict import (
    DELTA,
    LEVEL,
    LINE,
    LPC_DELTA,
    LPC_LEVEL,
    SAMPLE,
    best_fixed,
    centre_of,
    log_cost,
    residuals,
    restore_fixed,
)
from iiot_dask.codec.rans import encode_entropy
from iiot_dask.codec.units import common_unit, divide_from
from iiot_dask.codec.unrans import decode_entropy
from iiot_dask.core.errors import CodecError

_LPC_GAIN = 0.02
_LPC_BITS = 2.0  # below, a residual is mostly a choice between -1, 0 and 1, where linear prediction has nothing to add
_LPC_ROWS = 256


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
def try_lpc(j: Any, best: Any, bits: Any, param: Any, c: Any) -> Any:
    """(predictor, bits, parameter, order, shift): linear prediction where it beats the fixed predictor given.

    Predictors are fitted and compared on a stretch from the middle; only the winner runs over everything.
    """
    n = len(j)
    m = min(n, SAMPLE)
    a = (n - m) // 2
    x = np.empty(m, np.uint64)
    other = np.empty(m, np.uint64)
    trial = np.zeros(ORDER_MAX, np.int64)
    if n > SAMPLE:
        # The estimate it is compared with comes from the same stretch.
        # A line is measured from its height at the stretch's first row.
        residuals(j[a : a + m], best, param, other)
        if best == LINE:
            for i in range(m):
                other[i] -= param * np.uint64(a)
        bits = log_cost(other[2:])
    order = 0
    shift = 0
    for predictor in (LPC_LEVEL, LPC_DELTA):
        centre = U0
        if predictor == LPC_LEVEL:
            centre = centre_of(j)
            for i in range(m):
                x[i] = j[a + i] - centre
        else:
            residuals(j[a : a + m], DELTA, U0, x)
            x[0] = U0
        found, moved = fit_lpc(x, trial)
        if found == 0:
            continue
        lpc_residual(x, trial, found, moved, other)
        cost = log_cost(other[found:])
        if cost + 16.0 * found / n < bits - _LPC_GAIN:
            best, bits, param, order, shift = predictor, cost, centre, found, moved
            c[:] = trial
    return best, bits, param, order, shift


@kernel
def encode_coded(k: Any, out: Any, kinds: Any, lpc: Any) -> Any:
    """The payload of k (uint64, n > 0) into `out`; returns the bytes. `lpc`: try linear prediction too."""
    n = len(k)
    unit = common_unit(k, 0, n)
    at = write_varint(out, 0, unit)
    at = write_varint(out, at, zigzag(k[0]))
    j = np.empty(n, np.uint64)
    divide_from(k, 0, n, k[0], unit, j)
    best, bits, param = best_fixed(j)
    c = np.zeros(ORDER_MAX, np.int64)
    order = 0
    shift = 0
    if lpc and bits > _LPC_BITS and n >= _LPC_ROWS:
        best, bits, param, order, shift = try_lpc(j, best, bits, param, c)
    r = np.empty(n, np.uint64)
    if best == LPC_LEVEL:
        for i in range(n):
            j[i] -= param
        lpc_residual(j, c, order, shift, r)
    elif best == LPC_DELTA:
        d = np.empty(n, np.uint64)
        residuals(j, DELTA, U0, d)
        lpc_residual(d, c, order, shift, r)
    else:
        residuals(j, best, param, r)
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
    if predictor >= LPC_LEVEL:
        lpc_restore(r, c, order, shift)
    if predictor == LPC_LEVEL:
        restore_fixed(r, LEVEL, param)
    elif predictor == LPC_DELTA:
        restore_fixed(r, DELTA, U0)
    else:
        restore_fixed(r, predictor, param)


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
