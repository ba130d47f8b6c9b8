"""The column of ULP corrections: per row, or per level where equal grid numbers always need the same one.

Whoever computed k * a / b in two roundings left a correction that depends on k alone; a level's correction is then
told once, when the level first occurs.

    byte      0 = one a row, 1 = one a level
    varint    how many
    ...       an integer stream
"""

from __future__ import annotations

from typing import Any

import numpy as np

from iiot_dask.codec import ints
from iiot_dask.codec.bits import Ints, kernel
from iiot_dask.codec.coded import Coded
from iiot_dask.codec.frame import get_varint, put_varint
from iiot_dask.core.errors import CodecError

_UNSEEN = -128


def table_size(k: Ints) -> int:
    """Entries of a table over the range of k; 0 when that would be out of proportion to the rows."""
    span = int(k.max()) - int(k.min()) + 1
    return span if span <= 4 * len(k) + 65536 else 0


@kernel
def collect_levels(k: Any, c: Any, miss: Any, low: Any, table: Any, out: Any) -> Any:
    """Corrections of levels by first occurrence; -1 when a level needs two different ones. Exceptions don't count."""
    count = 0
    for i in range(len(k)):
        known = table[k[i] - low]
        if known == _UNSEEN:
            value = np.int64(0) if miss[i] else c[i]
            table[k[i] - low] = np.int8(value)
            out[count] = value
            count += 1
        elif not miss[i] and known != c[i]:
            return -1
    return count


@kernel
def spread_levels(k: Any, levels: Any, low: Any, table: Any, out: Any) -> Any:
    """Inverse of `collect_levels`; False when there are too few or too many levels."""
    at = 0
    for i in range(len(k)):
        known = table[k[i] - low]
        if known == _UNSEEN:
            if at == len(levels) or abs(levels[at]) > 127:
                return False
            known = np.int8(levels[at])
            table[k[i] - low] = known
            at += 1
        out[i] = known
    return at == len(levels)


def dump_corrections(k: Ints, c: Ints, miss: Any) -> bytes:
    """The part of a blob; nothing when all corrections are 0."""
    if not c.any():
        return b""
    size = table_size(k)
    if size:
        levels = np.empty(len(k), np.int64)
        count = collect_levels(k, c, miss, int(k.min()), np.full(size, _UNSEEN, np.int8), levels)
        if 0 < count < len(k) // 2:
            return _dump(1, levels[:count].copy())
    return _dump(0, c)


def _dump(mode: int, column: Ints) -> bytes:
    out = bytearray((mode,))
    put_varint(out, len(column))
    return bytes(out) + ints.dump(Coded, column, level=0)


def load_corrections(part: memoryview, k: Ints) -> Ints:
    """One correction a row.

    Raises
    ------
    CodecError
        If the part does not fit the grid numbers.
    """
    if len(part) == 0:
        return np.empty(0, np.int64)
    count, at = get_varint(part, 1)
    out = np.empty(len(k), np.int64)
    size = table_size(k)
    if part[0] == 0 and count == len(k):
        return ints.load(part[at:], count)
    if part[0] == 1 and count <= len(k) and size:
        levels = ints.load(part[at:], count)
        if spread_levels(k, levels, int(k.min()), np.full(size, _UNSEEN, np.int8), out):
            return out
    msg = f"corrections (form {part[0]}, {count} of them) do not fit {len(k)} samples"
    raise CodecError(msg)
