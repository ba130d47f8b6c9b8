"""What a journal does when it opens after a crash, and where damaged bytes go.

Rules. The last segment's tail is cut after its last sound record; everything else damaged stays where it is, is copied
to ``damaged/`` (bounded) and skipped by readers. Nothing here deletes a sound record. Offsets that lost bytes can have had are never dealt again: they
may have been acknowledged and committed downstream.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from iiot_dask.core.errors import ChecksumError, DataError, VersionError
from iiot_dask.core.metrics import Metrics
from iiot_dask.ingest.segment import (
    HEAD,
    HEADER_BYTES_MAX,
    PREFIX,
    SUFFIX,
    Damage,
    Header,
    Record,
    Segment,
    decode_header,
    decode_payload,
    pread,
    resync,
    sync_directory,
)

COPIES_MAX = 64
COPY_BYTES_MAX = 4 << 20

log = structlog.get_logger("iiot_dask.ingest")


class Damaged:
    """Keeps the first `COPIES_MAX` damaged stretches, each cut at `COPY_BYTES_MAX`, and counts all of them once."""

    def __init__(self, directory: Path, metrics: Metrics) -> None:
        self.directory = directory
        self.metrics = metrics
        self._seen: set[tuple[str, int]] = set()
        self._lock = threading.Lock()

    def take(self, segment: Segment, damage: Damage) -> None:
        """Count and copy a stretch, unless it was taken before."""
        key = (segment.path.name, damage.at)
        with self._lock:
            if key in self._seen:
                return
            self._seen.add(key)
        self.metrics.count("journal_damaged_total")
        log.error(
            "journal damage skipped", segment=segment.path.name, at=damage.at, stop=damage.stop, why=damage.reason
        )
        self.keep(segment.path, damage.at, damage.stop)

    def keep(self, path: Path, at: int, stop: int) -> None:
        """Copy bytes ``at..stop`` of a file aside; a full disk or folder only counts."""
        target = self.directory / f"{path.stem}-{at}.bin"
        try:
            self.directory.mkdir(exist_ok=True)
            if target.exists():
                return
            if len(list(self.directory.iterdir())) >= COPIES_MAX:
                self.metrics.count("journal_damaged_not_kept_total")
                return
            with path.open("rb") as stream:
                stream.seek(at)
                target.write_bytes(stream.read(min(stop - at, COPY_BYTES_MAX)))
        except OSError as error:
            self.metrics.count("journal_damaged_not_kept_total")
            log.warning("damaged bytes could not be copied aside", path=str(target), error=str(error))


@dataclass(frozen=True, slots=True)
class Found:
    """What a directory holds: segments in order, the next free offset, newest positions, the journal's identity.

    `skips`: offsets before `next` are left out. Only a new segment's name remembers that, so one has to be made before
    `cut` removes the evidence.
    """

    segments: list[Segment]
    next: int
    positions: dict[str, str]
    identity: str | None
    skips: bool


def open_segments(directory: Path, damaged: Damaged) -> Found:
    """Read what is in `directory`, cut a torn tail, and make everything that stays durable.

    Raises
    ------
    VersionError
        If a newer program wrote a segment.
    """
    opened = [_open(path) for path in sorted(directory.glob(f"*{SUFFIX}"))]
    kept, floor = [], 0
    for segment, header in opened:
        if header is not None or segment.start < segment.size:
            kept.append((segment, header))
            continue
        # Its creation was cut short, so it never held anything acknowledged; if it did after all, see the module's rules.
        floor = segment.first + _offsets_in(segment.size)
        damaged.keep(segment.path, 0, segment.size)
        segment.path.unlink()
    segments = [segment for segment, _ in kept]
    if not segments:
        return Found([], floor, {}, None, floor > 0)
    identity = next((h.identity for _, h in reversed(kept) if h is not None), None)
    following, torn = _settle_tail(segments[-1], damaged)
    following = max(following, floor)
    return Found(segments, following, _positions(kept, following, damaged), identity, torn)


def _offsets_in(size: int) -> int:
    """Most records that `size` bytes, damaged beyond reading, can have held, and one."""
    return size // HEAD.size + 1


def _open(path: Path) -> tuple[Segment, Header | None]:
    """A segment and its header, or None if that is damaged; `start` is then where the first sound record lies."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        data = stream.read(PREFIX.size)
        length = PREFIX.unpack(data)[3] if len(data) == PREFIX.size else 0
        try:
            header, start = decode_header(data + stream.read(min(length, HEADER_BYTES_MAX)))
        except VersionError as error:
            msg = f"{path}: {error}"
            raise VersionError(msg) from error
        except ChecksumError as error:
            log.warning("journal segment header is damaged", path=str(path), error=str(error))
            return Segment(path, resync(stream.fileno(), 0, size), size), None
    return Segment(path, start, size), header


def _settle_tail(segment: Segment, damaged: Damaged) -> tuple[int, bool]:
    """Find the end of the newest segment and fsync it; the next free offset, and whether bytes follow the end."""
    size, sound, following, pending = segment.size, segment.start, segment.first, list[Damage]()
    for item in verified(segment):
        if isinstance(item, Damage):
            pending.append(item)
            continue
        for damage in pending:
            damaged.take(segment, damage)
        pending.clear()
        offset, at, stop = item
        segment.grew(offset, at, stop - at)
        sound, following = stop, offset + 1
    segment.size = sound
    with segment.path.open("rb") as stream:
        os.fsync(stream.fileno())
    sync_directory(segment.path.parent)
    if size <= sound:
        return following, False
    damaged.metrics.count("journal_torn_tails_total")
    damaged.metrics.count("journal_torn_bytes_total", size - sound)
    log.warning("torn tail of the journal cut", segment=segment.path.name, bytes=size - sound)
    damaged.keep(segment.path, sound, size)
    # Cut records may have been acknowledged: a flipped bit looks like a torn write.
    return following + _offsets_in(size - sound), True


def cut(segment: Segment) -> None:
    """Remove what follows the last sound record."""
    with segment.path.open("rb+") as stream:
        stream.truncate(segment.size)
        os.fsync(stream.fileno())


def verified(segment: Segment) -> Iterator[tuple[int, int, int] | Damage]:
    """(offset, start, stop) of each record whose payload is sound, and what lies between them."""
    descriptor = os.open(segment.path, os.O_RDONLY)
    try:
        for frame in segment.frames(descriptor, segment.start, segment.size):
            if isinstance(frame, Damage):
                yield frame
                continue
            try:
                decode_payload(pread(descriptor, frame), frame)
            except DataError as error:
                yield Damage(frame.at, frame.at + frame.size, str(error))
            else:
                yield frame.offset, frame.at, frame.at + frame.size
    finally:
        os.close(descriptor)


def _positions(kept: list[tuple[Segment, Header | None]], stop: int, damaged: Damaged) -> dict[str, str]:
    """Newest position of each source: the newest sound header's, then those of the records since."""
    begin = max((i for i, (_, header) in enumerate(kept) if header is not None), default=0)
    header = kept[begin][1]
    out = dict(header.positions) if header is not None else {}
    for index, (segment, _) in enumerate(kept[begin:], begin):
        limit = kept[index + 1][0].first if index + 1 < len(kept) else stop
        record: Record
        for record in segment.read(segment.first, limit, damaged.take):
            if record.position is not None:
                out[record.source] = record.position
    return out
