r"""The bytes of one journal segment: a header, then framed records; and the file that holds them.

Layout (little endian), version 1:

- prefix, 24 bytes: magic ``IIOTJNL\0``, version uint16, 0 uint16, header length uint32, CRC-32 of the header uint32,
  CRC-32 of the 20 bytes before. Every future version keeps these 24 bytes, so an old program can tell a newer file
  from a damaged one.
- header: JSON object with ``identity`` (journal), ``first`` (offset of the first record), ``created_ns`` and
  ``positions`` (newest durable position of each source when the segment began).
- records, each padded to 8 bytes: head of 32 bytes (magic, kind, offset, lengths of meta and body, CRC-32 of meta and
  body, CRC-32 of the 28 bytes before), meta (JSON ``[source, position, rows]``), body (one Arrow IPC record batch
  message of `core.batch.SCHEMA`).

The head has a checksum of its own, so its length can be trusted when only the payload is damaged; when the head is
damaged the next record is found by its magic. CRC-32 (IEEE 802.3) finds every single bit flip and every burst of up to
32 bits. A segment's records end where the next segment begins: that is how records whose fsync failed, and which were
written again to a new segment, are left out.
"""

from __future__ import annotations

import os
import struct
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from iiot_dask.core.batch import SCHEMA, Batch
from iiot_dask.core.errors import CapacityError, ChecksumError, DataError, VersionError

MAGIC = b"IIOTJNL\x00"
VERSION = 1
SUFFIX = ".journal"
PREFIX = struct.Struct("<8sHHIII")
RECORD_MAGIC = b"\xabRC1"
HEAD = struct.Struct("<4sB3xQIIII")
KIND_BATCH = 1
HEADER_BYTES_MAX = 64 << 20
META_BYTES_MAX = 1 << 20
BODY_BYTES_MAX = 256 << 20
INDEX_EVERY = 256 << 10
"""Bytes of a segment between two entries of its index in memory."""
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Record:
    """One durable record: `offset` in the journal, its `source`, the source's `position` (or None) and the rows."""

    offset: int
    source: str
    position: str | None
    batch: Batch


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a record lies: file position and length (bytes, with head and padding), and what its head says."""

    offset: int
    at: int
    size: int
    meta: int
    body: int
    crc: int


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes ``at <= position < stop`` of a segment that are no valid record, and why."""

    at: int
    stop: int
    reason: str


@dataclass(frozen=True, slots=True)
class Header:
    """A segment's header."""

    identity: str
    first: int
    created_ns: int
    positions: Mapping[str, str]


def encode_header(header: Header) -> bytes:
    """Prefix and header, padded to 8 bytes.

    Examples
    --------
    >>> header = Header("ab", 7, 0, {"press": "12"})
    >>> decode_header(encode_header(header))[0] == header
    True
    """
    text = orjson.dumps(
        {
            "identity": header.identity,
            "first": header.first,
            "created_ns": header.created_ns,
            "positions": dict(header.positions),
        }
    )
    text += b" " * _pad(len(text))
    prefix = PREFIX.pack(MAGIC, VERSION, 0, len(text), zlib.crc32(text), 0)[:-4]
    return prefix + struct.pack("<I", zlib.crc32(prefix)) + text


def decode_header(data: bytes | memoryview) -> tuple[Header, int]:
    """The header at the start of `data`, and the position of the first record, bytes.

    Raises
    ------
    ChecksumError
        If the bytes are damaged or no segment.
    VersionError
        If a newer program wrote them.
    """
    if len(data) < PREFIX.size:
        msg = f"segment of {len(data)} bytes has no header; one takes at least {PREFIX.size}"
        raise ChecksumError(msg)
    magic, version, _, length, crc, own = PREFIX.unpack_from(data)
    if magic != MAGIC or zlib.crc32(data[: PREFIX.size - 4]) != own:
        msg = f"segment begins with {bytes(data[:8])!r} and a wrong checksum; expected {MAGIC!r}"
        raise ChecksumError(msg)
    if version > VERSION:
        msg = f"segment has format version {version}; this program reads up to {VERSION}"
        raise VersionError(msg)
    text = bytes(data[PREFIX.size : PREFIX.size + length])
    if len(text) != length or zlib.crc32(text) != crc:
        msg = f"segment header of {length} bytes does not match its checksum"
        raise ChecksumError(msg)
    raw = orjson.loads(text)
    return Header(raw["identity"], raw["first"], raw["created_ns"], raw["positions"]), PREFIX.size + length


def encode_payload(source: str, batch: Batch, position: str | None) -> tuple[bytes, pa.Buffer, int]:
    """Meta (padded), body and their CRC-32; independent of the offset, so callers' threads do it.

    Raises
    ------
    CapacityError
        If the record is larger than the format's limits.
    """
    meta = orjson.dumps([source, position, len(batch)])
    meta += b" " * _pad(len(meta))
    body = batch.data.serialize()
    if len(meta) > META_BYTES_MAX or body.size > BODY_BYTES_MAX:
        msg = (
            f"record of source {source!r} has {len(meta)} bytes of meta and {body.size} of rows; "
            f"at most {META_BYTES_MAX} and {BODY_BYTES_MAX} are allowed"
        )
        raise CapacityError(msg)
    return meta, body, zlib.crc32(body, zlib.crc32(meta))


def encode_head(offset: int, meta: int, body: int, crc: int) -> bytes:
    """The 32 bytes before a record's payload."""
    head = HEAD.pack(RECORD_MAGIC, KIND_BATCH, offset, meta, body, crc, 0)[:-4]
    return head + struct.pack("<I", zlib.crc32(head))


def decode_head(data: bytes | memoryview, at: int) -> Frame | None:
    """The frame whose head is the first 32 bytes of `data`, lying at file position `at`; None if it is no head.

    Raises
    ------
    VersionError
        If the head is sound but of a kind this program does not know.
    """
    if len(data) < HEAD.size:
        return None
    magic, kind, offset, meta, body, crc, own = HEAD.unpack_from(data)
    if magic != RECORD_MAGIC or zlib.crc32(data[: HEAD.size - 4]) != own:
        return None
    if kind != KIND_BATCH:
        msg = f"journal record {offset} is of kind {kind}; this program reads kind {KIND_BATCH}"
        raise VersionError(msg)
    if meta > META_BYTES_MAX or body > BODY_BYTES_MAX:
        return None
    return Frame(offset, at, record_bytes(meta, body), meta, body, crc)


def record_bytes(meta: int, body: int) -> int:
    """Bytes a record takes in the file: head, meta, body and padding."""
    return HEAD.size + meta + body + _pad(meta + body)


def decode_payload(payload: pa.Buffer, frame: Frame) -> Record:
    """The record of a frame, checksum first, then the full validation of Arrow.

    Raises
    ------
    ChecksumError
        If the payload changed since it was written.
    """
    if zlib.crc32(payload) != frame.crc:
        msg = f"journal record {frame.offset} does not match its checksum"
        raise ChecksumError(msg)
    source, position, rows = orjson.loads(memoryview(payload)[: frame.meta])
    batch = Batch.checked(pa.ipc.read_record_batch(payload.slice(frame.meta, frame.body), SCHEMA))
    if len(batch) != rows:
        msg = f"journal record {frame.offset} holds {len(batch)} rows; its meta says {rows}"
        raise ChecksumError(msg)
    return Record(frame.offset, source, position, batch)


def _pad(size: int) -> int:
    return -size % 8


def write_all(descriptor: int, data: bytes | memoryview, at: int) -> None:
    """Write all of `data` at file position `at`; a short write goes on until the system says why."""
    view = memoryview(data)
    while view:
        done = os.pwrite(descriptor, view, at)
        view = view[done:]
        at += done


def sync_directory(directory: Path) -> None:
    """Make created, renamed and deleted names durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Segment:
    """One file of records with ascending offsets; a sparse index says where in it an offset lies.

    Parameters
    ----------
    path
        The file; its name is the offset of the first record.
    start
        File position of the first record, bytes.
    size
        File position after the last record, bytes.
    """

    def __init__(self, path: Path, start: int, size: int) -> None:
        self.path = path
        self.first = int(path.stem)
        self.start = start
        self.size = size
        self._offsets = [self.first]
        self._places = [start]

    @staticmethod
    def path_of(directory: Path, first: int) -> Path:
        """The file of the segment that begins with offset `first`."""
        return directory / f"{first:020d}{SUFFIX}"

    def grew(self, offset: int, at: int, size: int) -> None:
        """Note a record of `size` bytes that now ends the segment."""
        if at - self._places[-1] >= INDEX_EVERY:
            self._offsets.append(offset)
            self._places.append(at)
        self.size = at + size

    def place(self, offset: int) -> int:
        """A file position at or before the record `offset`, on a record's first byte."""
        return self._places[max(0, bisect_right(self._offsets, offset) - 1)]

    def frames(self, descriptor: int, at: int, stop: int) -> Iterator[Frame | Damage]:
        """Walk heads from file position `at` to `stop`; payloads are not looked at."""
        while at < stop:
            frame = decode_head(os.pread(descriptor, HEAD.size, at), at)
            if frame is not None and at + frame.size <= stop:
                yield frame
                at += frame.size
                continue
            found = resync(descriptor, at + 1, stop)
            yield Damage(at, found, "no record head" if frame is None else "the record is longer than the file")
            at = found

    def read(self, start: int, stop: int, damaged: Callable[[Segment, Damage], None]) -> Iterator[Record]:
        """Records ``start <= offset < stop``; each damaged stretch is reported and skipped."""
        at, size = self.place(start), self.size
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            for frame in self.frames(descriptor, at, size):
                if isinstance(frame, Damage):
                    damaged(self, frame)
                    continue
                if frame.offset >= stop:
                    return
                if frame.offset < start:
                    continue
                try:
                    record = decode_payload(pread(descriptor, frame), frame)
                except DataError as error:
                    damaged(self, Damage(frame.at, frame.at + frame.size, str(error)))
                    continue
                yield record
        finally:
            os.close(descriptor)


def pread(descriptor: int, frame: Frame) -> pa.Buffer:
    """Meta and body of a frame, in memory aligned for Arrow."""
    buffer = pa.allocate_buffer(frame.meta + frame.body)
    view = memoryview(buffer)
    at, done = frame.at + HEAD.size, 0
    while done < len(view):
        got = os.preadv(descriptor, [view[done:]], at + done)
        if not got:
            msg = f"journal record {frame.offset} ends after {done} of {len(view)} bytes"
            raise ChecksumError(msg)
        done += got
    return buffer


def resync(descriptor: int, at: int, stop: int) -> int:
    """File position of the next sound record head at or after `at`; `stop` if there is none."""
    while at < stop:
        chunk = os.pread(descriptor, min(_CHUNK, stop - at), at)
        if not chunk:
            return stop
        found = chunk.find(RECORD_MAGIC)
        while found >= 0:
            frame = decode_head(os.pread(descriptor, HEAD.size, at + found), at + found)
            if frame is not None and frame.at + frame.size <= stop:
                return frame.at
            found = chunk.find(RECORD_MAGIC, found + 1)
        # A magic may lie across the end of a chunk.
        at += max(1, len(chunk) - len(RECORD_MAGIC) + 1)
    return stop


def join(records: Sequence[tuple[int, bytes, pa.Buffer, int]]) -> tuple[bytes, list[tuple[int, int]]]:
    """The bytes of records (offset, meta, body, crc) in a row, and (offset, size) of each."""
    parts: list[Any] = []
    sizes = []
    for offset, meta, body, crc in records:
        parts += (encode_head(offset, len(meta), body.size, crc), meta, body, b"\0" * _pad(len(meta) + body.size))
        sizes.append((offset, record_bytes(len(meta), body.size)))
    return b"".join(parts), sizes
