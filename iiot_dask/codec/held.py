"""`Held`: equal neighbours as in `Runs`, but both columns entropy-coded.

For values a device holds between updates: what changes is coded as a series of its own, without the repeats that would
upset its prediction.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from iiot_dask.codec.bits import Ints
from iiot_dask.codec.coded import Coded
from iiot_dask.codec.frame import Buffer, get_varint, put_varint
from iiot_dask.codec.runs import count_runs, find_runs, spread_runs
from iiot_dask.core.errors import CodecError

_ONE_RUN = np.zeros(1, np.int64)


class Held:
    """Numbers and lengths - 1 of runs, each as `Coded` writes them.

    Examples
    --------
    >>> k = np.repeat(np.random.default_rng(0).integers(0, 99, 500), 4)
    >>> payload = Held.encode(k, np.zeros(1, np.int64))
    >>> len(payload) < 520, bool((Held.decode(payload, 2000) == k).all())
    (True, True)
    """

    id: ClassVar[int] = 4
    name: ClassVar[str] = "held"

    @staticmethod
    def encode(k: Ints, starts: Ints) -> bytes:  # noqa: ARG004 -- the signature of every integer codec
        """Encode int64 `k` (n,), n > 0."""
        runs = count_runs(k)
        numbers = np.empty(runs, np.int64)
        lengths = np.empty(runs, np.int64)
        find_runs(k, numbers, lengths)
        first = Coded.encode(numbers, _ONE_RUN)
        out = bytearray()
        put_varint(out, runs)
        put_varint(out, len(first))
        return b"".join((out, first, Coded.encode(lengths, _ONE_RUN)))

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
        if not 1 <= runs <= n or at + size > len(data):
            msg = f"held-value payload of {len(data)} bytes says {runs} runs for {n} numbers, {size} bytes of numbers"
            raise CodecError(msg)
        k = np.empty(n, np.int64)
        if not spread_runs(Coded.decode(data[at : at + size], runs), Coded.decode(data[at + size :], runs), k):
            msg = f"run lengths do not add up to {n} numbers"
            raise CodecError(msg)
        return k
