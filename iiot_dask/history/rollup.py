"""Roll-up rows: windows that stand for samples no longer kept. Encode, decode, fold.

A row holds the windows of one tag over a stretch of time, as blobs; its statistics are those of all its windows, so an
aggregate whose window covers the row needs no decoding, as with chunks. ``count`` of such a row is its number of windows,
``good`` the number of samples they stand for. Windows add up: two of the same tag and start are one, in parts.

The value blob of a row: version (1 byte), window length (int64 ns), then eight columns, each its length (uint32) and its
bytes: good; time of the first sample less the window's start; time of the last less that of the first; min; max; sum; first;
last. Little endian.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from iiot_dask import codec
from iiot_dask.core.errors import ChecksumError, CodecError, DataError, VersionError
from iiot_dask.core.jit import njit
from iiot_dask.history import layout
from iiot_dask.history.blobs import Blobs
from iiot_dask.history.block import Columns
from iiot_dask.history.index import NS_MAX, NS_MIN, FileIndex, Rows
from iiot_dask.history.kernels import statistics, window_kernel
from iiot_dask.history.read import read_blobs
from iiot_dask.history.store import Store

VERSION = 1
_FLOATS = ("min", "max", "sum", "first", "last")
_EVERY = re.compile(r"(?:^|/)rollup-w(\d+)-")

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows, arrays of equal length.

    Tag (id or position), start ns, number of samples, times of the first and the last ns, statistics over them.
    """

    tag: Ints
    window: Ints
    good: Ints
    first_ns: Ints
    last_ns: Ints
    min: Floats
    max: Floats
    sum: Floats
    first: Floats
    last: Floats

    def __len__(self) -> int:
        return len(self.tag)

    @classmethod
    def empty(cls) -> Self:
        """No windows."""
        columns: Any = (np.empty(0, np.float64 if f.name in _FLOATS else np.int64) for f in fields(cls))
        return cls(*columns)

    @classmethod
    def join(cls, parts: Sequence[Windows]) -> Self:
        """Windows one after the other."""
        if not parts:
            return cls.empty()
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    def take(self, at: Any) -> Windows:
        """Those at positions, or where a mask is true."""
        return Windows(*(np.ascontiguousarray(getattr(self, f.name)[at]) for f in fields(self)))

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def every_of(path: str) -> int:
    """Window length of a roll-up file from its name, ns; 0 for other files.

    Examples
    --------
    >>> every_of("day=2026-11-24/shard=0/rollup-w60000000000-ab-0-9-00-11.parquet"), every_of("day=1/shard=0/block-a.parquet")
    (60000000000, 0)
    """
    found = _EVERY.search(path)
    return int(found[1]) if found else 0


def starts(time: Ints, every_ns: int) -> Ints:
    """Start of the window of each time; a window that begins before int64 does starts at the smallest int64.

    Examples
    --------
    >>> starts(np.array([-1, 0, 10, -(2**63)]), 10).tolist()
    [-10, 0, 10, -9223372036854775808]
    """
    cell = time // every_ns
    low = NS_MIN // every_ns
    return np.where((cell == low) & (low * every_ns < NS_MIN), NS_MIN, np.maximum(cell, low + 1) * every_ns)


@njit
def settled_kernel(total: float, carry: float) -> float:
    """A compensated sum; NaN in one bit pattern, and an infinite value's carry (NaN) left out."""
    if not np.isnan(carry):
        total += carry
    return np.nan if np.isnan(total) else total


@njit
def fold_kernel(
    tag: Any,
    window: Any,
    good: Any,
    first_ns: Any,
    last_ns: Any,
    low: Any,
    high: Any,
    total: Any,
    first: Any,
    last: Any,
) -> int:
    """Windows sorted by tag and start: those of equal tag and start made one, in place; returns how many stay.

    Sums are compensated (Neumaier, ZAMM 54, 1974).
    """
    n = -1
    carry = 0.0
    for i in range(len(tag)):
        if n < 0 or tag[i] != tag[n] or window[i] != window[n]:
            if n >= 0:
                total[n] = settled_kernel(total[n], carry)
            n += 1
            carry = 0.0
            tag[n], window[n], good[n] = tag[i], window[i], good[i]
            first_ns[n], last_ns[n], low[n], high[n] = first_ns[i], last_ns[i], low[i], high[i]
            total[n], first[n], last[n] = total[i], first[i], last[i]
            continue
        good[n] += good[i]
        low[n], high[n] = min(low[n], low[i]), max(high[n], high[i])
        added = total[n] + total[i]
        if abs(total[n]) >= abs(total[i]):
            carry += (total[n] - added) + total[i]
        else:
            carry += (total[i] - added) + total[n]
        total[n] = added
        if first_ns[i] < first_ns[n]:
            first_ns[n], first[n] = first_ns[i], first[i]
        if last_ns[i] >= last_ns[n]:
            last_ns[n], last[n] = last_ns[i], last[i]
    if n >= 0:
        total[n] = settled_kernel(total[n], carry)
    return n + 1


def fold(windows: Windows, every_ns: int) -> Windows:
    """The same samples in windows of `every_ns`, sorted by tag and start, one each."""
    if not len(windows):
        return windows
    begin = starts(windows.window, every_ns)
    order = np.lexsort((windows.first_ns, begin, windows.tag))
    sorted_ = windows.take(order)
    columns = {**sorted_.columns(), "window": np.ascontiguousarray(begin[order])}
    names = ("tag", "window", "good", "first_ns", "last_ns", *_FLOATS)
    n = fold_kernel(*(columns[name] for name in names))
    return Windows(**{name: columns[name][:n] for name in names})


def of_samples(columns: Columns, every_ns: int) -> Windows:
    """Windows of sorted samples; over those that are not bad and not NaN."""
    tag, time, value, quality = columns
    bounds = np.empty(len(tag) + 1, np.int64)
    n = window_kernel(tag, time, every_ns, bounds)
    bounds = bounds[: n + 1]
    found = statistics(time, value, quality, bounds)
    keep = found["good"] > 0
    begin = bounds[:-1][keep]
    return Windows(
        tag=tag[begin],
        window=starts(time[begin], every_ns),
        **{name: found[name][keep] for name in ("good", "first_ns", "last_ns", *_FLOATS)},
    )


# -- rows ---------------------------------------------------------------------------------------------------------


def encode(windows: Windows, every_ns: int) -> Blobs:
    """The blobs of a row: windows of one tag, sorted."""
    ints = (windows.good, windows.first_ns - windows.window, windows.last_ns - windows.first_ns)
    parts = [codec.encode_times(np.ascontiguousarray(column)) for column in ints]
    parts += [codec.encode_values(np.ascontiguousarray(getattr(windows, name))) for name in _FLOATS]
    body = b"".join(struct.pack("<I", len(part)) + part for part in parts)
    return Blobs(None, codec.encode_times(windows.window), struct.pack("<Bq", VERSION, every_ns) + body, None)


def decode(blobs: Blobs, tag: int, count: int) -> Windows:
    """The windows of a row that says it holds `count`.

    Raises
    ------
    ChecksumError
        If a column is damaged or of another length.
    CodecError, VersionError
        If the bytes are no such row, or of a newer format.
    """
    if len(blobs.value) < 9:
        msg = f"a roll-up row of {len(blobs.value)} bytes; at least 9 are wanted"
        raise ChecksumError(msg)
    version, _ = struct.unpack_from("<Bq", blobs.value)
    if version > VERSION:
        msg = f"roll-up row of version {version}; this program reads up to {VERSION}: install a newer iiot-dask"
        raise VersionError(msg)
    window = codec.decode_times(blobs.time, count)
    columns: list[npt.NDArray[Any]] = []
    at = 9
    for i in range(8):
        size = int.from_bytes(blobs.value[at : at + 4], "little")
        part = blobs.value[at + 4 : at + 4 + size]
        columns.append(codec.decode_times(part, count) if i < 3 else codec.decode_values(part, count))
        at += 4 + size
    if {len(window), *map(len, columns)} != {count}:
        msg = f"a roll-up row says {count} windows; its columns hold {sorted({len(window), *map(len, columns)})}"
        raise ChecksumError(msg)
    good, first, span = columns[:3]
    return Windows(np.full(count, tag, np.int64), window, good, window + first, window + first + span, *columns[3:])


def head_of(windows: Windows, bounds: Ints, every_ns: int, order: int) -> dict[str, npt.NDArray[Any]]:
    """Fixed-width columns of rows: windows ``bounds[i]:bounds[i + 1]``, each of one tag."""
    begin, end = bounds[:-1], bounds[1:] - 1
    whole = Windows(**{**windows.columns(), "window": np.repeat(np.arange(len(begin)), np.diff(bounds))})
    found = Windows(**{name: column.copy() for name, column in whole.columns().items()})
    n = fold_kernel(*(found.columns()[name] for name in ("tag", "window", "good", "first_ns", "last_ns", *_FLOATS)))
    assert n == len(begin), "one row a tag and stretch"
    head: dict[str, npt.NDArray[Any]] = {
        name: getattr(found, name)[:n] for name in ("good", "first_ns", "last_ns", *_FLOATS)
    }
    head["count"] = np.diff(bounds)
    head["tag_id"] = head["tag_min"] = head["tag_max"] = windows.tag[begin]
    head["start_ns"] = windows.window[begin]
    head["end_ns"] = np.maximum(
        np.minimum(windows.window[end], NS_MAX - every_ns + 1) + (every_ns - 1), found.last_ns[:n]
    )
    head["order"] = np.full(n, order, np.int64)
    return head


def rows_of(windows: Windows, every_ns: int, order: int) -> tuple[dict[str, npt.NDArray[Any]], list[Blobs]]:
    """Heads and blobs of folded windows, one row a tag."""
    new = np.flatnonzero(np.diff(windows.tag, prepend=-1))
    bounds = np.append(new, len(windows)).astype(np.int64)
    blobs = [encode(windows.take(slice(a, b)), every_ns) for a, b in pairwise(bounds.tolist())]
    return head_of(windows, bounds, every_ns, order), blobs


def check(windows: Windows, head: dict[str, npt.NDArray[Any]], row: int) -> None:
    """Compare a decoded row with its statistics.

    Raises
    ------
    ChecksumError
        If they differ.
    """
    found = head_of(windows, np.array([0, len(windows)], np.int64), 1, 0)
    rising = bool((np.diff(windows.window) > 0).all())
    for name in ("good", "first_ns", "last_ns", *_FLOATS):
        if not rising or found[name].tobytes() != head[name][row : row + 1].tobytes():
            msg = f"row {row} says {name} {head[name][row]!r}; its windows have {found[name][0]!r}"
            raise ChecksumError(msg)


def digest(windows: Windows) -> int:
    """A checksum of windows that does not depend on their order."""
    h = np.full(len(windows), 0x9E3779B97F4A7C15, np.uint64)
    for column in windows.columns().values():
        h ^= np.ascontiguousarray(column).view(np.uint64)
        h *= np.uint64(0xBF58476D1CE4E5B9)
        h ^= h >> np.uint64(31)
    return int(np.add.reduce(h)) & ((1 << 64) - 1)


def read(store: Store, rows: Rows) -> list[Windows]:
    """The windows of roll-up rows, in their order; `tag` is the id.

    Raises
    ------
    ChecksumError
        If a page or a blob is damaged; the message names file and row.
    """
    out: list[Windows] = [Windows.empty()] * len(rows)
    order = np.lexsort((rows.row, rows.file))
    edges = np.flatnonzero(np.diff(rows.file[order], prepend=-1, append=-1))
    for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        at = order[a:b]
        file = rows.files[int(rows.file[at[0]])]
        assert isinstance(file, FileIndex), "what is not committed holds samples only"
        for position, blobs in zip(at.tolist(), read_blobs(store, file, rows.row[at]), strict=True):
            tag, count = int(rows.head["tag_id"][position]), int(rows.head["count"][position])
            out[position] = decode_named(blobs, tag, count, file.path, int(rows.row[position]))
    return out


def decode_named(blobs: Blobs, tag: int, count: int, path: str, row: int) -> Windows:
    """`decode`, with file and row in the message."""
    try:
        return decode(blobs, tag, count)
    except VersionError:
        raise
    except (DataError, CodecError) as error:
        msg = f"row {row} of file {path!r} is damaged: {error}"
        raise ChecksumError(msg) from error


def partials(store: Store, rows: Rows, ids: Ints, start: int, last: int, every_ns: int) -> dict[str, npt.NDArray[Any]]:
    """Roll-up rows as partial windows of `every_ns` for an aggregate; `tag` is the position in `ids` (sorted).

    A row that lies in one window and in ``start .. last`` answers from its statistics, the others are decoded. A roll-up
    window belongs where it starts: an `every_ns` finer than the roll-up finds its samples in the first of its windows.
    """
    keep = np.isin(rows.head["tag_id"], ids)
    rows = rows.take(keep)
    head = rows.head
    inside = (head["start_ns"] >= start) & (head["end_ns"] <= last)
    told = inside & (head["start_ns"] // every_ns == head["end_ns"] // every_ns)
    whole = rows.take(told).head
    parts = [
        Windows(
            whole["tag_id"],
            whole["start_ns"],
            *(whole[name] for name in ("good", "first_ns", "last_ns", *_FLOATS)),
        ),
        *(w.take((w.window >= start) & (w.window <= last)) for w in read(store, rows.take(~told))),
    ]
    found = fold(Windows.join(parts), every_ns)
    return {**found.columns(), "tag": np.searchsorted(ids, found.tag)}


def is_rollup(path: str) -> bool:
    """Whether a file holds roll-up rows."""
    return path.rsplit("/", 1)[-1].startswith(f"{layout.ROLLUP}-")
