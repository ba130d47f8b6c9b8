"""Many blobs at once, straight into place: what a scan of history spends its time on, without a Python step a blob.

One kernel call checks the frames (magic, count, CRC-32) of a whole column of blobs, a second one decodes the common forms
into slices of one output: times and grid values of a single run, packed or run-length coded, with or without zstd. Every
other form, and every blob that looks wrong, is left to `decode_times` / `decode_values`, which also say what is wrong.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from iiot_dask.codec import grid as g
from iiot_dask.codec import ints
from iiot_dask.codec.bits import Bytes, Floats, Ints, kernel, read_varint
from iiot_dask.codec.frame import MAGIC, VERSION, Kind
from iiot_dask.codec.packed import Packed, decode_packed
from iiot_dask.codec.runs import Runs, spread_runs

_local = threading.local()
_PACKED, _RUNS, _ZSTD = Packed.id, Runs.id, ints.ZSTD
_FIRST = MAGIC | VERSION
_TIMES, _GRID = int(Kind.TIMES), int(Kind.VALUES_GRID)


def _crc_tables() -> npt.NDArray[np.uint32]:
    """Tables of the CRC-32 of ISO 3309, eight bytes a step (Kounavis and Berry, "slicing-by-8", 2005)."""
    out = np.zeros((8, 256), np.uint32)
    rest = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        rest = np.where(rest & 1, (rest >> 1) ^ np.uint32(0xEDB88320), rest >> 1)
    out[0] = rest
    for i in range(1, 8):
        out[i] = (out[i - 1] >> 8) ^ out[0][out[i - 1] & 0xFF]
    return out


TABLES = _crc_tables()
_ONES = np.uint32(0xFFFFFFFF)


@kernel
def crc_kernel(tables: Any, data: Any, a: Any, b: Any, crc: Any) -> Any:
    """CRC-32 of ``data[a:b]`` continued from `crc` (uint32), as zlib has it."""
    # Every step stays in uint32: numba widens mixed and inverted integers.
    c = np.uint32(crc ^ _ONES)
    i = a
    while i + 8 <= b:
        low = c ^ np.uint32(
            np.uint32(data[i])
            | np.uint32(data[i + 1]) << np.uint32(8)
            | np.uint32(data[i + 2]) << np.uint32(16)
            | np.uint32(data[i + 3]) << np.uint32(24)
        )
        c = np.uint32(
            tables[7, low & np.uint32(0xFF)]
            ^ tables[6, (low >> np.uint32(8)) & np.uint32(0xFF)]
            ^ tables[5, (low >> np.uint32(16)) & np.uint32(0xFF)]
            ^ tables[4, low >> np.uint32(24)]
            ^ tables[3, data[i + 4]]
            ^ tables[2, data[i + 5]]
            ^ tables[1, data[i + 6]]
            ^ tables[0, data[i + 7]]
        )
        i += 8
    while i < b:
        c = np.uint32((c >> np.uint32(8)) ^ tables[0, (c ^ np.uint32(data[i])) & np.uint32(0xFF)])
        i += 1
    return np.uint32(c ^ _ONES)


@kernel
def frames_kernel(
    tables: Any,
    data: Any,
    first: Any,
    end: Any,
    count: Any,
    values: bool,
    begin: Any,
    form: Any,
    raw: Any,
    grids: Any,
    params: Any,
    misses: Any,
) -> None:
    """Check frames and find the integer streams; ``form[i]`` = its codec byte, or 0 where the blob is of another form.

    `begin`: where the payload of the stream's codec begins; `raw`: bytes before zstd; `misses`: where exceptions begin and
    end (equal: none).
    """
    for r in range(len(count)):
        form[r] = 0
        at = first[r]
        stop = end[r]
        if stop - at < 7 or data[at] != _FIRST or data[at + 1] != (_GRID if values else _TIMES):
            continue
        found, after = read_varint(data, at + 2, stop)
        if after < 0 or after + 5 > stop or found != np.uint64(count[r]):
            continue
        stored = (
            np.uint32(data[after])
            | np.uint32(data[after + 1]) << np.uint32(8)
            | np.uint32(data[after + 2]) << np.uint32(16)
            | np.uint32(data[after + 3]) << np.uint32(24)
        )
        crc = crc_kernel(tables, data, at, after, np.uint32(0))
        if crc_kernel(tables, data, after + 4, stop, crc) != stored:
            continue
        at = after + 4
        misses[r, 0] = 0
        misses[r, 1] = 0
        if values:
            flags = data[at]
            at += 1 + (24 if flags == 1 else 0)
            # One run on a grid without a parameter of its own.
            if flags > 1 or at + 2 >= stop or data[at] != 1 or data[at + 1] == g.MULTIPLE:
                continue
            grids[r] = data[at + 1]
            params[r] = 1.0
            size, at = read_varint(data, at + 2, stop)
            if at < 0 or size >= np.uint64(stop - at):
                continue
            if size > np.uint64(0):
                if data[at] != 0:
                    continue
                misses[r, 0] = at + 1
                misses[r, 1] = at + np.int64(size)
                at += np.int64(size)
        code = data[at]
        at += 1
        if (code & 0x7F) != _PACKED and (code & 0x7F) != _RUNS:
            continue
        if code & _ZSTD:
            size, at = read_varint(data, at, stop)
            if at < 0 or size > np.uint64(24 * count[r] + 256):
                continue
            raw[r] = np.int64(size)
        begin[r] = at
        form[r] = code


@kernel
def packed_at(data: Any, a: Any, b: Any, words: Any, k: Any) -> Any:
    """`Packed.decode` of ``data[a:b]`` into `k` (uint64); False when it does not describe so many numbers."""
    size, at = read_varint(data, a, b)
    if at < 0 or size > np.uint64(b - at):
        return False
    end = at + np.int64(size)
    rest = b - end
    full = (rest + 7) // 8
    words[full - 1 if full else 0] = np.uint64(0)
    words.view(np.uint8)[:rest] = data[end:b]
    words[full] = np.uint64(0)
    words[full + 1] = np.uint64(0)
    return decode_packed(data[at:end], np.int64(size), words, 8 * rest, k)


@kernel
def runs_at(data: Any, a: Any, b: Any, words: Any, k: Any) -> Any:
    """`Runs.decode` of ``data[a:b]`` into `k` (uint64)."""
    runs, at = read_varint(data, a, b)
    size, at = read_varint(data, at, b)
    if at < 0 or runs > np.uint64(len(k)) or size > np.uint64(b - at):
        return False
    numbers = np.empty(np.int64(runs), np.uint64)
    lengths = np.empty(np.int64(runs), np.uint64)
    middle = at + np.int64(size)
    if not packed_at(data, at, middle, words, numbers) or not packed_at(data, middle, b, words, lengths):
        return False
    return spread_runs(numbers.view(np.int64), lengths.view(np.int64), k.view(np.int64))


@kernel
def streams_kernel(
    data: Any, rows: Any, begin: Any, end: Any, form: Any, count: Any, at: Any, words: Any, out: Any, done: Any
) -> None:
    """Decode the integer streams of `rows` to ``out[at[r]:]`` (uint64); ``done[r]`` = whether it went well."""
    for i in range(len(rows)):
        r = rows[i]
        k = out[at[r] : at[r] + count[r]]
        if (form[r] & 0x7F) == _PACKED:
            done[r] = packed_at(data, begin[i], end[i], words, k)
        else:
            done[r] = runs_at(data, begin[i], end[i], words, k)


@kernel
def grid_kernel(data: Any, grids: Any, params: Any, misses: Any, count: Any, at: Any, out: Any, done: Any) -> None:
    """Turn integers into the floats of their grid, in place, and put exceptions back."""
    for r in range(len(count)):
        if not done[r]:
            continue
        x = out[at[r] : at[r] + count[r]]
        done[r] = g.from_grid(x.view(np.int64), 0, count[r], np.int64(grids[r]), params[r], x)
        if done[r] and misses[r, 1] > misses[r, 0]:
            done[r] = g.read_misses(data[misses[r, 0] : misses[r, 1]], x)


@dataclass(frozen=True, slots=True)
class Column:
    """Blobs in one buffer: blob i is ``data[begin[i]:end[i]]`` (uint8, int64)."""

    data: Bytes
    begin: Ints
    end: Ints

    def blob(self, i: int) -> bytes:
        """One of them."""
        return self.data[self.begin[i] : self.end[i]].tobytes()


def decode_times_into(column: Column, count: Ints, at: Ints, out: Ints) -> Ints:
    """Decode times of blob i to ``out[at[i] : at[i] + count[i]]``; the positions of the blobs that are left to do.

    Parameters
    ----------
    column
        One blob a row.
    count
        Samples of each, int64; a blob that says another number is left to do.
    at
        Where each goes, int64.
    out
        int64, C-contiguous.

    Examples
    --------
    >>> from iiot_dask.codec import encode_times
    >>> blobs = [encode_times(np.arange(n)) for n in (3, 5)]
    >>> whole = np.frombuffer(b"".join(blobs), np.uint8).copy()
    >>> column = Column(whole, np.array([0, len(blobs[0])]), np.array([len(blobs[0]), len(whole)]))
    >>> out = np.empty(8, np.int64)
    >>> decode_times_into(column, np.array([3, 5]), np.array([5, 0]), out).tolist(), out.tolist()
    ([], [0, 1, 2, 3, 4, 0, 1, 2])
    """
    return _into(column, count, at, out.view(np.uint64), None)


def decode_values_into(column: Column, count: Ints, at: Ints, out: Floats) -> Ints:
    """The same for value blobs; `out`: float64."""
    return _into(column, count, at, out.view(np.uint64), out)


def _into(column: Column, count: Ints, at: Ints, out: npt.NDArray[np.uint64], values: Floats | None) -> Ints:
    n = len(count)
    begin, raw = np.zeros(n, np.int64), np.zeros(n, np.int64)
    form, grids, params = np.zeros(n, np.uint8), np.zeros(n, np.uint8), np.zeros(n)
    misses = np.zeros((n, 2), np.int64)
    frames_kernel(
        TABLES,
        column.data,
        column.begin,
        column.end,
        count,
        values is not None,
        begin,
        form,
        raw,
        grids,
        params,
        misses,
    )
    done = np.zeros(n, np.bool_)
    plain = np.flatnonzero((form > 0) & (form < _ZSTD))
    _streams(column.data, plain, begin[plain], column.end[plain], form, count, at, out, done)
    behind = np.flatnonzero(form >= _ZSTD)
    if len(behind):
        whole, edges, behind = _unfolded(column, behind, begin, raw)
        _streams(whole, behind, edges[:-1], edges[1:], form, count, at, out, done)
    if values is not None:
        grid_kernel(column.data, grids, params, misses, count, at, values, done)
    left: Ints = np.flatnonzero(~done)
    return left


def _streams(
    data: Bytes, rows: Ints, begin: Ints, end: Ints, form: Bytes, count: Ints, at: Ints, out: Any, done: Any
) -> None:
    if len(rows):
        words = np.empty(int((end - begin).max()) // 8 + 3, np.uint64)
        streams_kernel(data, rows, begin, end, form, count, at, words, out, done)


def _unfolded(column: Column, rows: Ints, begin: Ints, raw: Ints) -> tuple[Bytes, Ints, Ints]:
    """Zstd frames of `rows` unfolded behind each other: the bytes, their bounds, and the rows whose frames were sound."""
    if "decompressor" not in _local.__dict__:
        _local.decompressor = zstandard.ZstdDecompressor()
    view = column.data.data
    parts: list[bytes] = []
    sound = []
    for r, a, b, size in zip(
        rows.tolist(), begin[rows].tolist(), column.end[rows].tolist(), raw[rows].tolist(), strict=True
    ):
        part = _unfold(_local.decompressor, view[a:b], size)
        if part is not None:
            parts.append(part)
            sound.append(r)
    return np.frombuffer(b"".join(parts), np.uint8).copy(), _edges(parts), np.array(sound, np.int64)


def _unfold(decompressor: Any, frame: memoryview, size: int) -> bytes | None:
    try:
        # A frame that declares its size is unfolded to that size whatever is asked for: compare first.
        if zstandard.frame_content_size(frame) != size:
            return None
        out: bytes = decompressor.decompress(frame, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError:
        return None  # the one-blob decoder says what is wrong with it
    return out if len(out) == size else None


def _edges(parts: Sequence[bytes]) -> Ints:
    out = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(p) for p in parts], out=out[1:])
    return out
