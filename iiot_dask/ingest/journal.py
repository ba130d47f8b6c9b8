"""The durable log between adapters and the stream: append, one fsync for many, then acknowledge.

Rules. (1) `durable` and the callbacks move only after the bytes are on disk. (2) An fsync that failed is never tried
again on the same file, because the kernel may have dropped the pages: the segment is sealed where it was last known
good and the same records go to a new segment. (3) Offsets never come back: after a cut tail the next one skips every
offset the cut bytes can have held. (4) Each wait has a bound in rows or bytes and says so in the metrics.

One writer thread groups appends; it waits for company about twice as long as an fsync takes here (never longer than `commit`):
waiting costs latency, not waiting costs an fsync, so neither is ever more than a few times what was needed. Reading needs
no thread and takes no lock on the data path.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import traceback
import uuid
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pyarrow as pa
import structlog

from iiot_dask.core.batch import Batch
from iiot_dask.core.clock import Clock
from iiot_dask.core.config import Journal as JournalConfig
from iiot_dask.core.errors import CapacityError, InUseError
from iiot_dask.core.metrics import Metrics
from iiot_dask.ingest.recovery import Damaged, cut, open_segments
from iiot_dask.ingest.segment import (
    Header,
    Record,
    Segment,
    encode_header,
    encode_payload,
    join,
    record_bytes,
    sync_directory,
    write_all,
)

__all__ = ["Journal", "Record"]

GROUP_BYTES = 8 << 20
"""A group is written once it holds this many bytes, even if `commit` is not over."""
WORTH = 2.0
"""A group waits so many times the usual duration of a write and its fsync for more to share it."""
REMEMBERED = 8.0
"""The usual duration is the mean of about so many groups."""
BACKOFF_MIN_S = 0.05
BACKOFF_MAX_S = 2.0
CLOSE_ATTEMPTS = 3
"""Times `close` lets the last group fail before it gives up on it (nothing in it was acknowledged)."""

log = structlog.get_logger("iiot_dask.ingest")


@dataclass(frozen=True, slots=True)
class _Entry:
    offset: int
    source: str
    position: str | None
    rows: int
    meta: bytes
    body: pa.Buffer
    crc: int
    durable: Callable[[int], None] | None

    @property
    def size(self) -> int:
        return record_bytes(len(self.meta), self.body.size)


class Journal:
    """Append-only segments of records in `directory`, made when missing.

    Parameters
    ----------
    directory
        Where the segments lie; one journal object at a time, in one process (`flock`).
    config
        Limits: segment and total bytes, queue rows, commit span.
    clock, metrics
        Time and where counts go: ``journal_rows_total``, ``journal_groups_total``, ``journal_commit_s`` (histogram),
        ``journal_bytes``, ``journal_queue_rows``, ``journal_full`` (1 while the disk refuses),
        ``journal_write_errors_total``, ``journal_torn_tails_total``, ``journal_damaged_total``.

    Raises
    ------
    InUseError
        If another journal object holds the directory.
    VersionError
        If a newer program wrote a segment.
    CapacityError
        If the directory can not be read or written.

    Examples
    --------
    >>> import tempfile
    >>> from iiot_dask.core.clock import SystemClock
    >>> batch = Batch.of(tag=[1], time=[2], value=[3.5], received=[4])
    >>> with Journal(Path(tempfile.mkdtemp()), JournalConfig(), clock=SystemClock(), metrics=Metrics()) as journal:
    ...     journal.append("press-line", batch, "page-1")
    ...     end = journal.wait(0, timeout_s=10)
    ...     [(r.offset, r.source, r.batch.value.tolist()) for r in journal.read(0)], end, journal.positions()
    ([(0, 'press-line', [3.5])], 1, {'press-line': 'page-1'})
    """

    def __init__(self, directory: Path, config: JournalConfig, *, clock: Clock, metrics: Metrics) -> None:
        self.directory = directory
        self.config = config
        self.clock = clock
        self.metrics = metrics
        directory.mkdir(parents=True, exist_ok=True)
        self._lock_file = _lock(directory)
        self._cond = threading.Condition()
        self._segment_bytes = min(config.segment_bytes, config.bytes_max // 4)
        self._damaged = Damaged(directory / "damaged", metrics)
        try:
            found = open_segments(directory, self._damaged)
            self.identity = _identity(directory, found.identity)
        except BaseException as error:
            os.close(self._lock_file)
            if isinstance(error, OSError):
                msg = f"journal {directory} can not be opened: {error}"
                raise CapacityError(msg) from error
            raise
        self._segments = found.segments
        self._positions = found.positions
        self._durable = self._next = found.next
        self._active: int | None = None
        self._bytes = sum(s.size for s in self._segments)
        self._queue: deque[_Entry] = deque()  # bounded by queue_rows and bytes_max, see `_room`
        self._queue_rows = 0
        self._queue_bytes = 0
        self._opened_ns = 0
        self._cost_ns = float(config.commit)
        self._closing = False
        self._problem: CapacityError | None = None
        self._failed: BaseException | None = None
        self._resume(skips=found.skips)
        self.metrics.gauge("journal_bytes", self._bytes)
        self._writer = threading.Thread(target=self._write, name="iiot-journal", daemon=True)
        self._writer.start()

    def _resume(self, *, skips: bool) -> None:
        """Make the first free offset durable if offsets are left out; go on in the newest segment if it is empty."""
        try:
            if skips:
                torn = self._segments[-1] if self._segments else None
                self._begin(self._next, b"")
                if torn is not None:
                    cut(torn)
            elif self._segments and self._segments[-1].size == self._segments[-1].start:
                self._active = os.open(self._segments[-1].path, os.O_RDWR)
        except OSError as error:
            # Memory knows the offset, and the torn bytes are still there for the next start to find.
            self._refused(error, 0)

    # -- appending ----------------------------------------------------------------------------------------------

    def append(
        self, source: str, batch: Batch, position: str | None, durable: Callable[[int], None] | None = None
    ) -> None:
        """Queue a record; returns at once unless a limit is reached, then waits until there is room.

        Parameters
        ----------
        source
            Who sent it: an adapter's name.
        batch
            Its rows; none is fine, to carry a position.
        position
            Where the source stands after these rows, or None.
        durable
            Called with the record's offset after its fsync, on the writer's thread: it must return at once.

        Raises
        ------
        CapacityError
            If the journal is closed (also while waiting), or the record is larger than a quarter of ``bytes_max``.
        """
        meta, body, crc = encode_payload(source, batch, position)
        rows, size = len(batch), record_bytes(len(meta), body.size)
        if size > self.config.bytes_max // 4:
            msg = f"record of source {source!r} has {size} bytes; at most {self.config.bytes_max // 4} fit ([journal] bytes_max / 4)"
            raise CapacityError(msg)
        with self._cond:
            self._cond.wait_for(lambda: self._stopped() or self._room(rows, size))
            if self._stopped():
                msg = f"journal {self.directory} is closed; the record of source {source!r} was not taken"
                raise CapacityError(msg) from self._failed
            if not self._queue:
                self._opened_ns = self.clock.monotonic_ns()
            self._queue.append(_Entry(self._next, source, position, rows, meta, body, crc, durable))
            self._next += 1
            self._queue_rows += rows
            self._queue_bytes += size
            self.metrics.gauge("journal_queue_rows", self._queue_rows)
            self._cond.notify_all()

    def _stopped(self) -> bool:
        return self._closing or self._failed is not None

    def _room(self, rows: int, size: int) -> bool:
        if self._bytes + self._queue_bytes + size > self.config.bytes_max:
            return False
        return not self._queue or self._queue_rows + rows <= self.config.queue_rows

    # -- the writer's thread ------------------------------------------------------------------------------------

    def _write(self) -> None:
        try:
            while group := self._gather():
                self._commit(group)
        except BaseException as error:  # noqa: BLE001 -- nobody waits for a thread: whoever appends, waits or closes is told
            with self._cond:
                self._failed = error
                self._cond.notify_all()
            self.metrics.count("journal_writer_failures_total")
            log.critical("journal writer ended", error=repr(error), traceback=traceback.format_exc())

    def _gather(self) -> list[_Entry]:
        """The next group; empty when closing and nothing waits."""
        with self._cond:
            self._cond.wait_for(lambda: self._queue or self._closing)
            span_ns = min(float(self.config.commit), WORTH * self._cost_ns)
            left_ns = self._opened_ns + span_ns - self.clock.monotonic_ns()
            if left_ns > 0:
                self._cond.wait_for(lambda: self._queue_bytes >= GROUP_BYTES or self._closing, left_ns / 1e9)
            group, size = [], 0
            while self._queue and size < GROUP_BYTES:
                group.append(self._queue.popleft())
                size += group[-1].size
            # What is left waited already; its span starts anew with the next group, which follows at once.
            self._opened_ns = self.clock.monotonic_ns() - (self.config.commit if self._queue else 0)
            return group

    def _commit(self, group: list[_Entry]) -> None:
        """Write and fsync a group, however long the disk refuses; then move `durable` and call back."""
        data, sizes = join([(e.offset, e.meta, e.body, e.crc) for e in group])
        delay_s, attempts = BACKOFF_MIN_S, 0
        while True:
            started_ns = self.clock.monotonic_ns()
            try:
                segment = self._put(data, group[0].offset)
                break
            except OSError as error:
                attempts += 1
                self._refused(error, len(group))
                if self._closing and attempts >= CLOSE_ATTEMPTS:
                    raise
            with self._cond:
                self._cond.wait_for(lambda: self._closing, delay_s)
            delay_s = min(2 * delay_s, BACKOFF_MAX_S)
        took_ns = self.clock.monotonic_ns() - started_ns
        self._cost_ns += (took_ns - self._cost_ns) / REMEMBERED
        self.metrics.histogram("journal_commit_s").observe(took_ns / 1e9)
        self._landed(group, segment, sizes)
        for entry in group:
            self._call(entry)

    def _put(self, data: bytes, first: int) -> Segment:
        """Write `data` after the active segment's end, or to a new segment, and make it durable."""
        if self._active is None:
            return self._begin(first, data)
        segment = self._segments[-1]
        try:
            write_all(self._active, data, segment.size)
        except OSError:
            # Give back the space a partial write took. What stays is left out by the next segment's first offset.
            self._seal()
            os.truncate(segment.path, segment.size)
            raise
        try:
            os.fdatasync(self._active)
        except OSError:
            self._seal()
            raise
        return segment

    def _begin(self, first: int, data: bytes) -> Segment:
        """A new segment that holds `data`; it appears under its name only once it is durable."""
        path = Segment.path_of(self.directory, first)
        fresh = path.with_suffix(".new")
        header = encode_header(Header(self.identity, first, self.clock.now_ns(), self._positions))
        # A file whose fsync failed is replaced, never continued.
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
        try:
            write_all(descriptor, header + data, 0)
            os.fdatasync(descriptor)
            fresh.replace(path)
            sync_directory(self.directory)
        except OSError:
            os.close(descriptor)
            fresh.unlink(missing_ok=True)
            raise
        segment = Segment(path, len(header), len(header))
        with self._cond:
            if self._segments and self._segments[-1].first == first:
                # An empty segment of this name has just been replaced.
                self._bytes -= self._segments.pop().size
            self._segments.append(segment)
            self._bytes += segment.size
            self._active = descriptor
        return segment

    def _seal(self) -> None:
        if self._active is not None:
            os.close(self._active)
            self._active = None

    def _refused(self, error: OSError, records: int) -> None:
        self.metrics.count("journal_write_errors_total", errno=errno.errorcode.get(error.errno or 0, "unknown"))
        self.metrics.gauge("journal_full", 1)
        if self._problem is None:
            log.error("journal can not write; adapters wait", error=str(error), records=records)
        self._problem = CapacityError(f"journal {self.directory} can not write ({error}); adapters wait until it can")
        self._problem.__cause__ = error

    def _landed(self, group: list[_Entry], segment: Segment, sizes: list[tuple[int, int]]) -> None:
        if self._problem is not None:
            log.info("journal writes again")
            self._problem = None
        rows = sum(e.rows for e in group)
        size = sum(s for _, s in sizes)
        with self._cond:
            at = segment.size
            for offset, record in sizes:
                segment.grew(offset, at, record)
                at += record
            self._bytes += size
            self._queue_rows -= rows
            self._queue_bytes -= size
            for entry in group:
                if entry.position is not None:
                    self._positions[entry.source] = entry.position
            self._durable = group[-1].offset + 1
            if segment.size >= self._segment_bytes:
                self._seal()
            self._cond.notify_all()
        self.metrics.count("journal_rows_total", rows)
        self.metrics.count("journal_groups_total")
        self.metrics.gauge("journal_full", 0)
        self.metrics.gauge("journal_bytes", self._bytes)
        self.metrics.gauge("journal_queue_rows", self._queue_rows)

    def _call(self, entry: _Entry) -> None:
        if entry.durable is None:
            return
        try:
            entry.durable(entry.offset)
        except Exception as error:  # noqa: BLE001 -- the record is safe, its owner gets the next; counted and told
            self.metrics.count("journal_callback_errors_total")
            log.warning(
                "durable callback failed",
                source=entry.source,
                offset=entry.offset,
                error=repr(error),
                traceback=traceback.format_exc(),
            )

    # -- reading ------------------------------------------------------------------------------------------------

    @property
    def durable(self) -> int:
        """Offset after the last durable record."""
        return self._durable

    @property
    def first(self) -> int:
        """Offset of the oldest record still kept; equals `durable` when there is none."""
        with self._cond:
            return self._segments[0].first if self._segments else self._durable

    @property
    def problem(self) -> CapacityError | None:
        """Why the disk refuses at the moment, or None."""
        return self._problem

    def wait(self, after: int, timeout_s: float) -> int:
        """Wait until `durable` is above `after`, at most `timeout_s` seconds; returns `durable`.

        Raises
        ------
        CapacityError
            If the writer has ended by an error: nothing will become durable any more.
        """
        with self._cond:
            self._cond.wait_for(lambda: self._durable > after or self._stopped(), timeout_s)
            if self._failed is not None and self._durable <= after:
                msg = f"journal {self.directory} stopped: {self._failed}"
                raise CapacityError(msg) from self._failed
            return self._durable

    def read(self, start: int, stop: int | None = None) -> Iterator[Record]:
        """Durable records ``start <= offset < stop`` in order; damaged and trimmed ones are missing.

        A damaged stretch is copied to ``damaged/``, counted once, and skipped. Any number of threads may read.
        """
        with self._cond:
            end = self._durable if stop is None else min(stop, self._durable)
            segments = list(self._segments)
        for index, segment in enumerate(segments):
            # A segment ends where the next begins: what lies beyond was written again there.
            limit = min(end, segments[index + 1].first) if index + 1 < len(segments) else end
            if limit > start and segment.first < limit:
                try:
                    yield from segment.read(start, limit, self._damaged.take)
                except FileNotFoundError:
                    # Trimmed since; nobody trims what is still to be committed.
                    self.metrics.count("journal_read_trimmed_total")

    def advance(self, offset: int) -> None:
        """Deal no offset below `offset` any more: someone has committed up to there, so this is an older copy of the log.

        Records already here keep their offsets.
        """
        with self._cond:
            if offset > self._next and not self._queue and self._next == self._durable:
                self.metrics.count("journal_offsets_skipped_total", offset - self._next)
                log.warning(
                    "journal is older than what was committed from it; offsets are skipped", next=self._next, to=offset
                )
                # The writer is idle: nothing is queued, and nothing can be while this lock is held.
                self._seal()
                self._next = self._durable = offset
                try:
                    self._begin(offset, b"")
                except OSError as error:
                    # Memory knows; whoever committed up to `offset` will say so again at the next start.
                    self._refused(error, 0)
                self._cond.notify_all()

    # -- the rest -----------------------------------------------------------------------------------------------

    def trim(self, before: int) -> int:
        """Delete segments all of whose offsets are below `before`, except the newest; returns the bytes freed.

        The newest stays because its header and records hold the positions.
        """
        freed = 0
        with self._cond:
            while len(self._segments) > 1 and self._segments[1].first <= before:
                segment = self._segments.pop(0)
                segment.path.unlink(missing_ok=True)
                freed += segment.size
            self._bytes -= freed
            self.metrics.gauge("journal_bytes", self._bytes)
            if freed:
                self._cond.notify_all()
        return freed

    def positions(self) -> dict[str, str]:
        """Newest durable position of each source."""
        with self._cond:
            return dict(self._positions)

    def bytes(self) -> int:
        """Bytes the segments take on disk."""
        return self._bytes

    def close(self) -> None:
        """Write what is queued, end the writer, let go of the directory; closing twice is fine.

        Raises
        ------
        CapacityError
            If the disk would not take the last records; none of them was acknowledged.
        """
        with self._cond:
            if self._lock_file < 0:
                return
            self._closing = True
            self._cond.notify_all()
        self._writer.join()
        self._seal()
        os.close(self._lock_file)
        self._lock_file = -1
        if self._failed is not None:
            msg = f"journal {self.directory} lost {self._next - self._durable} records that were never acknowledged: {self._failed}"
            raise CapacityError(msg) from self._failed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _lock(directory: Path) -> int:
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        msg = f"journal {directory} is in use by another process; one at a time is allowed"
        raise InUseError(msg) from error
    return descriptor


def _identity(directory: Path, known: str | None) -> str:
    """The journal's id: from its segments, else from the file ``identity``, else new; the file is put right."""
    path = directory / "identity"
    found = known or _read_identity(path) or uuid.uuid4().hex
    text = f"{found} {zlib.crc32(found.encode()):08x}\n".encode()
    if not path.exists() or path.read_bytes() != text:
        fresh = directory / "identity.new"
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o640)
        try:
            write_all(descriptor, text, 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        fresh.replace(path)
        sync_directory(directory)
    return found


def _read_identity(path: Path) -> str | None:
    if not path.exists():
        return None
    found, _, crc = path.read_text(errors="replace").strip().partition(" ")
    if f"{zlib.crc32(found.encode()):08x}" != crc:
        # Without segments nothing was ever committed under this id, so a new one is as good.
        log.warning("journal identity is damaged; a new one is made", path=str(path))
        return None
    return found
