"""`Ranked`: few distinct numbers, kept once in order; the column holds their ranks, entropy-coded.

For levels of a converter, set points, states: steps between neighbouring levels become steps of one, whatever the
distance of the levels.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from iiot_dask.codec.bits import Ints, inlined, kernel
from iiot_dask.codec.coded import Coded
from iiot_dask.codec.frame import Buffer, get_varint, put_varint
from iiot_dask.codec.packed import Packed
from iiot_dask.core.errors import CodecError

_ONE_RUN = np.zeros(1, np.int64)
LEVELS_MAX = 1 << 15


@inlined
def _hash(number: Any, mask: Any) -> Any:
    """Fibonacci hashing (Knuth 6.4): the high bits of a product with 2**64 / golden ratio."""
    return (np.uint64(number) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)) & mask


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
        h = _hash(k[i], mask)
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
def ranks_of(k: Any, levels: Any) -> Any:
    """Rank of every number among `levels`, which hold them all."""
    size = 64
    while size < 4 * len(levels):
        size *= 2
    slots = np.zeros(size, np.int64)
    ranks = np.full(size, -1, np.int64)
    mask = np.uint64(size - 1)
    for rank in range(len(levels)):
        h = _hash(levels[rank], mask)
        while ranks[h] >= 0:
            h = (h + np.uint64(1)) & mask
        slots[h] = levels[rank]
        ranks[h] = rank
    out = np.empty(len(k), np.int64)
    for i in range(len(k)):
        h = _hash(k[i], mask)
        while slots[h] != k[i] or ranks[h] < 0:
            h = (h + np.uint64(1)) & mask
        out[i] = ranks[h]
    return out


@kernel
def pick_levels(levels: Any, ranks: Any) -> Any:
    """Replace ranks by their levels in place; False when a rank is out of range."""
    for i in range(len(ranks)):
        if ranks[i] < 0 or ranks[i] >= len(levels):
            return False
        ranks[i] = levels[ranks[i]]
    return True


def levels_size(payload: Buffer) -> int:
    """Bytes of a payload that say the levels."""
    return get_varint(payload, get_varint(payload, 0)[1])[0]


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
        return b"".join((out, head, Coded.encode(ranks_of(k, levels), _ONE_RUN)))

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
