"""A sink takes results out of a pipeline, in batches, with retries, and never loses one silently.

`put` never blocks: rows wait in a bounded buffer, a thread writes them. A write that fails is tried again with growing
pauses; rows that a target refuses for good, and rows that find no room because the target has been away too long, become
dead letters: Parquet files in a folder with their reason, counted, which `redeliver` sends again.

What is written twice must be the same row: every sink writes by (tag, time), so a repeat replaces and at-least-once becomes
effectively once.
"""

from __future__ import annotations

import json
import threading
import uuid
from abc import ABC, abstractmethod
from collections import deque
from pathlib import Path

import polars as pl
import structlog

from iiot_dask.core.errors import ConfigError, IiotError

log = structlog.get_logger("iiot_dask.flow.sink")


class RefusedError(IiotError):
    """The target will never take these rows: trying again does not help."""


class AwayError(IiotError, ConnectionError):
    """The target can not be reached now: the same rows are tried again."""


class Sink(ABC):
    """Base of every sink.

    Parameters
    ----------
    dead_letters
        Folder for rows that could not be delivered; None = counted and logged only.
    batch_rows
        Most rows of one write.
    buffer_rows
        Most rows that wait.
    linger_s
        How long a write waits for more rows, seconds.
    retry_s, retry_max_s
        First and longest pause between tries, seconds; doubled each time.
    """

    name = "sink"

    def __init__(
        self,
        *,
        dead_letters: str | Path | None = None,
        batch_rows: int = 10_000,
        buffer_rows: int = 1_000_000,
        linger_s: float = 0.1,
        retry_s: float = 0.1,
        retry_max_s: float = 10.0,
    ) -> None:
        if not 1 <= batch_rows <= buffer_rows:
            msg = f"sink {self.name}: batch_rows {batch_rows} must be 1 to buffer_rows ({buffer_rows})"
            raise ConfigError(msg)
        self.batch_rows, self.buffer_rows, self.linger_s = batch_rows, buffer_rows, linger_s
        self.retry_s, self.retry_max_s = retry_s, retry_max_s
        self.dead_letters = None if dead_letters is None else Path(dead_letters)
        self.written = self.dead = self.retries = 0
        self.last_error = ""
        self._rows: deque[pl.DataFrame] = deque()  # bounded: buffer_rows, in `put`
        self._waiting = 0
        self._busy = False
        self._halt = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @abstractmethod
    def write(self, rows: pl.DataFrame) -> None:
        """Deliver rows, all or none as far as the target can.

        Raises
        ------
        RefusedError
            If the target will never take them.
        AwayError, OSError
            If it can not be reached now.
        """

    def disconnect(self) -> None:
        """Let go of the connection; a sink without one has nothing to do."""
        return

    def put(self, rows: pl.DataFrame) -> None:
        """Take rows for delivery; the oldest that wait become dead letters when there is no room."""
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._deliver, name=f"iiot-sink-{self.name}", daemon=True)
                self._thread.start()
            self._rows.append(rows)
            self._waiting += rows.height
            over = []
            while self._waiting > self.buffer_rows and len(self._rows) > 1:
                over.append(self._rows.popleft())
                self._waiting -= over[-1].height
            self._changed.notify_all()
        for frame in over:
            self._bury(frame, f"no room: {self.buffer_rows} rows were waiting; {self.last_error}")

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Wait until everything put was written or buried; False if the time ran out."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._rows and not self._busy, timeout_s)

    def close(self, timeout_s: float = 30.0) -> None:
        """Deliver what waits; what can not be delivered in time becomes dead letters."""
        self.flush(timeout_s)
        with self._changed:
            self._halt = True
            left, self._waiting = list(self._rows), 0
            self._rows.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self.disconnect()
        self._halt = False
        for frame in left:
            self._bury(frame, f"closed before it could be delivered; {self.last_error}")

    def redeliver(self) -> int:
        """Put every dead letter again; how many rows. A file goes once its rows were written (or buried anew)."""
        if self.dead_letters is None:
            return 0
        rows = 0
        for path in sorted(self.dead_letters.glob("*.parquet")):
            frame = pl.read_parquet(path)
            self.put(frame)
            if not self.flush():
                break
            rows += frame.height
            path.unlink()
            path.with_suffix(".json").unlink(missing_ok=True)
        return rows

    def _deliver(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._rows or self._halt)
                if not self._rows:
                    return
                self._changed.wait_for(lambda: self._waiting >= self.batch_rows or self._halt, self.linger_s)
                frames: list[pl.DataFrame] = []
                taken = 0
                while self._rows and (not frames or taken + self._rows[0].height <= self.batch_rows):
                    frames.append(self._rows.popleft())
                    taken += frames[-1].height
                self._waiting -= taken
                self._busy = bool(frames)
            if frames:
                # Frames of different pipelines may have different columns.
                self._write_until_done(pl.concat(frames, how="diagonal"))

    def _write_until_done(self, rows: pl.DataFrame) -> None:
        pause = self.retry_s
        while True:
            try:
                self.write(rows)
            except RefusedError as error:
                if rows.height == 1:
                    self._bury(rows, str(error))
                    return
                # Halve until what is refused is alone: one bad row must not take its neighbours along.
                half = rows.height // 2
                self._write_until_done(rows[:half])
                self._write_until_done(rows[half:])
                return
            except OSError as error:
                self.last_error = str(error)
                self.retries += 1
                with self._changed:
                    halted = self._changed.wait_for(lambda: self._halt, pause)
                if halted:
                    self._bury(rows, f"closed while the target was away: {error}")
                    return
                pause = min(pause * 2, self.retry_max_s)
            else:
                self.written += rows.height
                return

    def _bury(self, rows: pl.DataFrame, reason: str) -> None:
        self.dead += rows.height
        log.warning("dead letters", sink=self.name, rows=rows.height, reason=reason)
        if self.dead_letters is not None:
            self.dead_letters.mkdir(parents=True, exist_ok=True)
            path = self.dead_letters / f"{self.name}-{uuid.uuid4().hex}.parquet"
            rows.write_parquet(path)
            path.with_suffix(".json").write_text(json.dumps({"sink": self.name, "rows": rows.height, "reason": reason}))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(written={self.written:,}, waiting={self._waiting:,}, dead={self.dead:,}, retries={self.retries:,})"
