"""`Runs`: equal neighbours as (number, length - 1) pairs, both columns packed. For states, quality and sorted tag ids."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from iiot_dask.codec.bits import Ints, kernel
from iiot_dask.codec.frame import Buffer, get_varint, put_varint
from iiot_dask.codec.packed import Packed
from iiot_dask.core.errors import CodecError

_ONE_RUN = np.zeros(1, np.int64)


@kernel
def count_runs(k: Any) -> Any:
    """Number of maximal stretches of equal numbers."""
    runs = 1 if len(k) else 0
    for i in range(1, len(k)):
        runs += k[i] != k[i - 1]
    return runs


@kernel
def find_runs(k: Any, numbers: Any, lengths: Any) -> None:
    """Fill the number and length - 1 of every run."""
    run = 0
    start = 0
    for i in range(1, len(k) + 1):
        if i == len(k) or k[i] != k[start]:
            numbers[run] = k[start]
            lengths[run] = i - start - 1
            run += 1
            start = i


@kernel
def spread_runs(numbers: Any, lengths: Any, k: Any) -> Any:
    """Inverse of `find_runs`; False when the lengths do not add up to len(k)."""
    at = 0
    n = len(k)
    for run in range(len(numbers)):
        if lengths[run] < 0 or lengths[run] >= n - at:
            return False
        for i in range(at, at + lengths[run] + 1):
            k[i] = numbers[run]
        at += lengths[run] + 1
    return at == n


class Runs:
    """Run lengths; runs of tags need no restart here, as nothing is predicted.

    Examples
    --------
    >>> k = np.repeat(np.array([3, 1, 3]), [500, 20, 480])
    >>> payload = Runs.encode(k, np.zeros(1, np.int64))
    >>> len(payload) < 30, (Runs.decode(payload, 1000) == k).all()
    (True, np.True_)
    """

    id: ClassVar[int] = 2
    name: ClassVar[str] = "runs"

    @staticmethod
    def encode(k: Ints, starts: Ints) -> bytes:  # noqa: ARG004 -- the signature of every integer codec
        """Encode int64 `k` (n,), n > 0."""
        runs = count_runs(k)
        numbers = np.empty(runs, np.int64)
        lengths = np.empty(runs, np.int64)
        find_runs(k, numbers, lengths)
        first = Packed.encode(numbers, _ONE_RUN)
        out = bytearray()
        put_varint(out, runs)
        put_varint(out, len(first))
        return b"".join((out, first, Packed.encode(lengths, _ONE_RUN)))

    @staticmethod
    def decode(payload: Buffer, n: int) -> Ints:
        """The n numbers of `payload`, int64.

        Raises
        ------
        CodecError
            If the payload is not what `encode` writes for n numbers.
        """
        data = memoryview(payload)
        runs, at = get_varint(data, 0)
        size, at = get_varint(data, at)
        if runs > n or at + size > len(data):
            msg = f"run-length payload of {len(data)} bytes says {runs} runs for {n} numbers, {size} bytes of numbers"
            raise CodecError(msg)
        k = np.empty(n, np.int64)
        numbers, lengths = Packed.decode(data[at : at + size], runs), Packed.decode(data[at + size :], runs)
        if not spread_runs(numbers, lengths, k):
            msg = f"run lengths do not add up to {n} numbers"
            raise CodecError(msg)
        return k
