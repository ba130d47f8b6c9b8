"""Interned strings at scale: UTF-8 bytes in one growing heap, found through an open-addressing hash in numba.

A Python dict of 10 million strings takes about 1.3 GB and a second to look up; this takes the bytes themselves plus 24
bytes a string, and looks up whole Arrow columns without making Python objects. Linear probing, load at most one half;
a hit is verified against the bytes, so equal hashes are harmless. The hash is MurmurHash64A (Austin Appleby, public
domain) with a fixed seed; fingerprints on disk depend on it, so it never changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iiot_dask.core.jit import njit

MISSING = np.int64(-1)
_M = np.uint64(0xC6A4A7935BD1E995)
_SEED = np.uint64(0x1107)


@njit
def hash_kernel(data: Any, start: int, stop: int) -> Any:
    """MurmurHash64A of ``data[start:stop]``, uint64."""
    size = stop - start
    h = _SEED ^ (np.uint64(size) * _M)
    whole = start + (size // 8) * 8
    for i in range(start, whole, 8):
        k = np.uint64(0)
        for j in range(8):
            k |= np.uint64(data[i + j]) << np.uint64(8 * j)
        k *= _M
        k ^= k >> np.uint64(47)
        k *= _M
        h ^= k
        h *= _M
    if whole < stop:
        for j in range(stop - whole):
            h ^= np.uint64(data[whole + j]) << np.uint64(8 * j)
        h *= _M
    h ^= h >> np.uint64(47)
    h *= _M
    h ^= h >> np.uint64(47)
    return h


@njit
def _slot(data: Any, start: int, stop: int, h: Any, slots: Any, hashes: Any, heap: Any, ends: Any) -> int:
    """The slot that holds the string, or the empty one where it belongs."""
    mask = len(slots) - 1
    at = np.int64(h & np.uint64(mask))
    while slots[at] != 0:
        row = np.int64(slots[at]) - 1
        if hashes[row] == h and ends[row + 1] - ends[row] == stop - start:
            same = True
            for j in range(stop - start):
                if heap[ends[row] + j] != data[start + j]:
                    same = False
                    break
            if same:
                return int(at)
        at = (at + 1) & mask
    return int(at)


@njit
def find_kernel(data: Any, offsets: Any, slots: Any, hashes: Any, heap: Any, ends: Any, out: Any) -> None:
    """Write each string's row to `out` (int64), -1 where it is unknown."""
    for i in range(len(out)):
        h = hash_kernel(data, offsets[i], offsets[i + 1])
        at = _slot(data, offsets[i], offsets[i + 1], h, slots, hashes, heap, ends)
        out[i] = np.int64(slots[at]) - 1


@njit
def add_kernel(data: Any, offsets: Any, slots: Any, hashes: Any, heap: Any, ends: Any, rows: int, out: Any) -> int:
    """As `find_kernel`, but an unknown string becomes the next row; returns the new number of rows."""
    for i in range(len(out)):
        h = hash_kernel(data, offsets[i], offsets[i + 1])
        at = _slot(data, offsets[i], offsets[i + 1], h, slots, hashes, heap, ends)
        if slots[at] == 0:
            size = offsets[i + 1] - offsets[i]
            heap[ends[rows] : ends[rows] + size] = data[offsets[i] : offsets[i + 1]]
            ends[rows + 1] = ends[rows] + size
            hashes[rows] = h
            rows += 1
            slots[at] = rows
        out[i] = np.int64(slots[at]) - 1
    return rows


@njit
def rehash_kernel(hashes: Any, rows: int, slots: Any) -> None:
    """Enter all rows into an empty table of slots."""
    mask = len(slots) - 1
    for row in range(rows):
        at = np.int64(hashes[row] & np.uint64(mask))
        while slots[at] != 0:
            at = (at + 1) & mask
        slots[at] = row + 1


Strings: TypeAlias = Sequence[str] | pa.Array | pa.ChunkedArray
"""Strings as a Python sequence or an Arrow string array; no nulls."""


class StringTable:
    """Strings numbered in the order they came, 0 on.

    Examples
    --------
    >>> table = StringTable()
    >>> table.add(["b", "a", "b"]).tolist(), table.find(["a", "x"]).tolist(), len(table), table.get(1)
    ([0, 1, 0], [1, -1], 2, 'a')
    """

    def __init__(self) -> None:
        self._rows = 0
        self._slots: npt.NDArray[np.uint32] = np.zeros(64, np.uint32)
        self._hashes: npt.NDArray[np.uint64] = np.zeros(32, np.uint64)
        self._ends: npt.NDArray[np.int64] = np.zeros(33, np.int64)
        self._heap: npt.NDArray[np.uint8] = np.zeros(1024, np.uint8)

    def __len__(self) -> int:
        return self._rows

    def find(self, names: Strings) -> npt.NDArray[np.int64]:
        """Row of each string, int64; -1 where it is unknown."""
        data, offsets = _buffers(names)
        out = np.empty(len(offsets) - 1, np.int64)
        find_kernel(data, offsets, self._slots, self._hashes, self._heap, self._ends, out)
        return out

    def add(self, names: Strings) -> npt.NDArray[np.int64]:
        """Row of each string, int64; unknown ones are entered."""
        data, offsets = _buffers(names)
        out = np.empty(len(offsets) - 1, np.int64)
        self._reserve(len(out), int(offsets[-1] - offsets[0]))
        self._rows = add_kernel(
            data, offsets, self._slots, self._hashes, self._heap, self._ends, self._rows, out
        )  # fmt: skip
        return out

    def get(self, row: int) -> str:
        """The string of a row."""
        return bytes(self._heap[self._ends[row] : self._ends[row + 1]]).decode()

    def hashes(self) -> npt.NDArray[np.uint64]:
        """64-bit hash of every string, by row; a view."""
        return self._hashes[: self._rows]

    def arrow(self) -> pa.Array:
        """All strings as an Arrow `large_string` array, without a copy; later additions do not change it."""
        ends = pa.py_buffer(self._ends[: self._rows + 1])
        heap = pa.py_buffer(self._heap[: self._ends[self._rows]])
        return pa.LargeStringArray.from_buffers(self._rows, ends, heap)

    def _reserve(self, rows: int, size: int) -> None:
        need = self._rows + rows
        if need > len(self._hashes):
            room = max(need, 2 * len(self._hashes))
            self._hashes = _grown(self._hashes, room)
            self._ends = _grown(self._ends, room + 1)
        if (heap := int(self._ends[self._rows]) + size) > len(self._heap):
            self._heap = _grown(self._heap, max(heap, 2 * len(self._heap)))
        if 2 * need > len(self._slots):
            self._slots = np.zeros(1 << (2 * need - 1).bit_length(), np.uint32)
            rehash_kernel(self._hashes, self._rows, self._slots)


def _grown(old: Any, room: int) -> Any:
    new = np.zeros(room, old.dtype)
    new[: len(old)] = old
    return new


def _buffers(names: Strings) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """UTF-8 bytes and offsets of strings."""
    if isinstance(names, pa.ChunkedArray):
        names = names.combine_chunks()
    array = names if isinstance(names, pa.Array) else pa.array(names, pa.large_string())
    if array.type != pa.large_string():
        array = array.cast(pa.large_string())
    if array.null_count:
        msg = f"{array.null_count} of {len(array)} strings are null; none may be"
        raise ValueError(msg)
    _, offsets, data = array.buffers()
    # Read-only arrays throughout, so that each kernel is compiled for one signature.
    if not len(array):
        return np.frombuffer(b"", np.uint8), np.frombuffer(bytes(8), np.int64)
    ends = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    return np.frombuffer(b"" if data is None else data, np.uint8), ends
