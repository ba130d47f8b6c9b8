"""What the journal holds and the history does not yet: read beside the process that writes it, without a lock.

Segments only grow, and a record's head and body carry checksums, so a reader sees whole records or none. It remembers where
it stopped; records are taken together in bundles, decoded when a question needs them and kept for the next one. A bundle
keeps its segment's file open, so a question that has begun ends, whatever the journal trims meanwhile.

From another process a record is seen once it is written, some milliseconds before its fsync; inside the engine `limit` holds
questions back to what is durable.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from iiot_dask.core.batch import Batch
from iiot_dask.core.errors import ChecksumError, DataError
from iiot_dask.history import History
from iiot_dask.history.blobs import Samples
from iiot_dask.history.block import sort_rows
from iiot_dask.history.kernels import bounds_of
from iiot_dask.history.tail import Snapshot
from iiot_dask.ingest.segment import (
    HEAD,
    HEADER_BYTES_MAX,
    PREFIX,
    SUFFIX,
    Frame,
    decode_head,
    decode_header,
    decode_payload,
    pread,
    resync,
)

BUNDLE_ROWS = 65_536
CACHE_ROWS_MAX = 16_000_000
"""Decoded samples kept between questions (25 bytes each)."""
_NAMES = ("tag_min", "tag_max", "start_ns", "end_ns", "count")

Head = tuple[int, int, int, int, int]
"""tag_min, tag_max, start_ns, end_ns, count."""


@dataclass(slots=True)
class _Bundle:
    """Neighbouring records of one segment: their frames and heads; grows until it is full."""

    segment: _Segment
    frames: list[Frame] = field(default_factory=list)
    heads: list[Head] = field(default_factory=list)
    rows: int = 0
    serial: int = field(default_factory=itertools.count().__next__)


class _Segment:
    """One journal file as far as it was read."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)
        self.inode = os.fstat(self.descriptor).st_ino
        self.identity, self.at = self._header()
        self.bundles: list[_Bundle] = []

    def _header(self) -> tuple[str, int]:
        """Identity of the journal and where the first record lies; a damaged header says neither, its records still count."""
        prefix = os.pread(self.descriptor, PREFIX.size, 0)
        length = PREFIX.unpack(prefix)[3] if len(prefix) == PREFIX.size else 0
        try:
            header, at = decode_header(os.pread(self.descriptor, PREFIX.size + min(length, HEADER_BYTES_MAX), 0))
        except ChecksumError:
            return "", resync(self.descriptor, 0, os.fstat(self.descriptor).st_size)
        return header.identity, at

    def grow(self) -> None:
        """Take in the records that are there now. Half a record at the end is looked at again the next time."""
        size = os.fstat(self.descriptor).st_size
        if size < self.at:
            # What could not be made durable was cut off; the same offsets come again elsewhere.
            self.bundles = [b for b in self.bundles if b.frames[-1].at + b.frames[-1].size <= size]
            last = self.bundles[-1].frames[-1] if self.bundles else None
            self.at = size if last is None else last.at + last.size
        while self.at < size:
            frame = decode_head(os.pread(self.descriptor, HEAD.size, self.at), self.at)
            if frame is None:
                found = resync(self.descriptor, self.at + 1, size)
                if found >= size:
                    return
                self.at = found
                continue
            if frame.at + frame.size > size:
                return
            self._take(frame)
            self.at += frame.size

    def _take(self, frame: Frame) -> None:
        try:
            batch = self.batch(frame)
        except DataError:
            return  # the journal's own reader counts it and puts it aside; the next record is sound
        if not len(batch):
            return
        if not self.bundles or self.bundles[-1].rows >= BUNDLE_ROWS:
            self.bundles.append(_Bundle(self))
        bundle = self.bundles[-1]
        tag, time = batch.tag, batch.time
        bundle.frames.append(frame)
        bundle.heads.append((int(tag.min()), int(tag.max()), int(time.min()), int(time.max()), len(batch)))
        bundle.rows += len(batch)

    def batch(self, frame: Frame) -> Batch:
        """The rows of one record, checked."""
        return decode_payload(pread(self.descriptor, frame), frame).batch


@dataclass(frozen=True, slots=True)
class _Piece:
    """Records of a bundle that a snapshot shows: frames ``first:stop``."""

    bundle: _Bundle
    first: int
    stop: int


class _View:
    """A snapshot: pieces, and their heads as columns."""

    def __init__(self, tail: JournalTail, pieces: list[_Piece]) -> None:
        self._tail = tail
        self._pieces = pieces
        heads = np.array([_head(p) for p in pieces], np.int64).reshape(-1, len(_NAMES))
        self._heads = {name: np.ascontiguousarray(heads[:, i]) for i, name in enumerate(_NAMES)}

    @property
    def heads(self) -> dict[str, npt.NDArray[Any]]:
        return self._heads

    def samples(self, row: int) -> Samples:
        return self._tail.decoded(self._pieces[row])


def _head(piece: _Piece) -> Head:
    some = piece.bundle.heads[piece.first : piece.stop]
    columns = list(zip(*some, strict=True))
    return min(columns[0]), max(columns[1]), min(columns[2]), max(columns[3]), sum(columns[4])


class JournalTail:
    """The tail of a journal directory; see the module. Safe to use from threads.

    Parameters
    ----------
    directory
        Where the journal's segments lie; absent or empty: there is no tail.
    limit
        Offset up to which (exclusive) records may be shown; None: all that are there.
    """

    def __init__(self, directory: Path, limit: Callable[[], int] | None = None) -> None:
        self.directory = directory
        self._limit = limit
        self._lock = threading.RLock()
        self._segments: dict[int, _Segment] = {}
        self._cache: OrderedDict[Any, Samples] = OrderedDict()
        self._cached_rows = 0

    @property
    def app_id(self) -> str:
        """Identity of the journal: what its stream commits under; empty while there is no segment."""
        with self._lock:
            self._look()
            return next((s.identity for s in self._segments.values() if s.identity), "")

    def snapshot(self, committed: int, *, complete: bool = True) -> Snapshot | None:
        """See `history.tail.Tail`."""
        with self._lock:
            self._look()
            firsts = sorted(self._segments)
            if complete and firsts and firsts[0] > committed:
                return None
            limit = None if self._limit is None else self._limit()
            pieces = []
            for i, first in enumerate(firsts):
                # A segment ends where the next begins: what lies beyond was written again there.
                stop = firsts[i + 1] if i + 1 < len(firsts) else None
                stop = limit if stop is None else stop if limit is None else min(stop, limit)
                if stop is None or stop > committed:
                    pieces += [p for b in self._segments[first].bundles if (p := _piece(b, committed, stop))]
            return _View(self, pieces)

    def _look(self) -> None:
        """Bring what is known of the segments up to date."""
        found: dict[int, _Segment] = {}
        for path in sorted(self.directory.glob(f"*{SUFFIX}")):
            first = int(path.stem)
            try:
                old = self._segments.get(first)
                if old is None or old.inode != path.stat().st_ino:
                    old = _Segment(path)
                old.grow()
            except FileNotFoundError:
                continue  # trimmed since the listing
            found[first] = old
        self._segments = found

    def decoded(self, piece: _Piece) -> Samples:
        """The records of a piece as samples sorted by tag and time, the last written of equal (tag, time) only."""
        frames = piece.bundle.frames[piece.first : piece.stop]
        key = (piece.bundle.serial, frames[0].offset, frames[-1].offset)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        batch = Batch.concat(piece.bundle.segment.batch(frame) for frame in frames)
        tag, time, value, quality = sort_rows(batch.tag, batch.time, batch.value, batch.quality)
        bounds = bounds_of(tag)
        found = Samples(tag[bounds[:-1]], np.diff(bounds), time, value, quality)
        with self._lock:
            # A bundle that has grown since is another key: drop what it held before.
            for stale in [k for k in self._cache if k[0] == key[0] and k[1] <= key[1]]:
                self._cached_rows -= len(self._cache.pop(stale).time)
            self._cache[key] = found
            self._cached_rows += len(time)
            while self._cached_rows > CACHE_ROWS_MAX and len(self._cache) > 1:
                self._cached_rows -= len(self._cache.popitem(last=False)[1].time)
        return found


def _piece(bundle: _Bundle, committed: int, stop: int | None) -> _Piece | None:
    offsets = [frame.offset for frame in bundle.frames]
    a = int(np.searchsorted(offsets, committed))
    b = len(offsets) if stop is None else int(np.searchsorted(offsets, stop))
    return _Piece(bundle, a, b) if a < b else None


def open_history(data: Path, storage_options: Mapping[str, str] | None = None) -> History:
    """The history of a data directory with its live tail: what the journal holds shows within a second of its fsync.

    Parameters
    ----------
    data
        A plant's data directory (it has ``history/`` and, once it ran, ``journal/``).

    Raises
    ------
    ConfigError, VersionError
        As `History` does.
    """
    history = History(str(data / "history"), storage_options)
    return history.with_tail(JournalTail(data / "journal"))
