"""`Ranked`: few distinct numbers, kept once in order; the column holds their ranks, entropy-coded.

For levels of a converter, set points, states: steps between neighbouring levels become steps of one, whatever the
distance of the levels.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from iiot_dask.codec.bits import Ints, kernel
from iiot_dask.codec.coded import Coded
from iiot_dask.codec.frame import Buffer, get_varint, put_varint
from iiot_dask.codec.packed import Packed
from iiot_dask.core.errors import CodecError

_ONE_RUN = np.zeros(1, np.int64)
LEVELS_MAX = 1 << 15


@kernel
def find_levels(k: Any, limit: Any) -> Any:
    """Distinct numbers of k, ascending; an empty array when there are more than `limit`."""
    size = 64
    while size < 4 * limit:
        size *= 2
    slots = np.zeros(size, np.int64)
    used = np.zeros(size, np.bool_)
    levels = np.empty(limit, np.int64)
    count = 0
    mask = np.uint64(size - 1)
    for i in range(len(k)):
        # Fibonacci hashing (Knuth 6.4): the high bits of a product with 2**64 / golden ratio.
        h = (np.uint64(k[i]) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)) & mask
        while used[h] and slots[h] != k[i]:
            h = (h + np.uint64(1)) & mask
        if not used[h]:
            if count == limit:
                return np.empty(0, np.int64)
            used[h] = True
            slots[h] = k[i]
            levels[count] = k[i]
            count += 1
    return np.sort(levels[:count])


@kernel
def pick_levels(levels: Any, ranks: Any) -> Any:
    """Replace ranks by their levels in place; False when a rank is out of range."""
    for i in range(len(ranks)):
        if ranks[i] < 0 or ranks[i] >= len(levels):
            return False
        ranks[i] = levels[ranks[i]]
    return True


class Ranked:
    """Levels as `Packed` differences, ranks as `Coded`.

    Examples
    --------
    >>> k = np.array([10, 1000, 7])[np.random.default_rng(0).integers(0, 3, 900)]
    >>> payload = Ranked.encode(k, np.zeros(1, np.int64))
    >>> len(payload) < 225, bool((Ranked.decode(payload, 900) == k).all())
    (True, True)
    """

    id: ClassVar[int] = 5
    name: ClassVar[str] = "ranked"

    @staticmethod
    def encode(k: Ints, starts: Ints) -> bytes:  # noqa: ARG004 -- the signature of every integer codec
        """Encode int64 `k` (n,), n > 0."""
        levels = find_levels(k, min(len(k), LEVELS_MAX))
        if len(levels) == 0:
            levels = np.unique(k)
        head = Packed.encode(levels, _ONE_RUN)
        out = bytearray()
        put_varint(out, len(levels))
        put_varint(out, len(head))
        return b"".join((out, head, Coded.encode(np.searchsorted(levels, k), _ONE_RUN)))

    @staticmethod
    def decode(payload: Buffer, n: int) -> Ints:
        """The n numbers of `payload`, int64.

        Raises
        ------
        CodecError
            If the payload is not what `encode` writes for n numbers.
        """
        data = memoryview(payload)
        count, at = get_varint(data, 0)
        size, at = get_varint(data, at)
        if not 1 <= count <= n or at + size > len(data):
            msg = f"rank payload of {len(data)} bytes says {count} levels for {n} numbers, {size} bytes of levels"
            raise CodecError(msg)
        k = Coded.decode(data[at + size :], n)
        if not pick_levels(Packed.decode(data[at : at + size], count), k):
            msg = f"a rank is beyond the {count} levels"
            raise CodecError(msg)
        return k
