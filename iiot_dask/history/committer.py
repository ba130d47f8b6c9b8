"""`Committer`: the one that commits a stream's epochs to the history, each exactly once.

Order of an epoch's commit, and what a crash after each step leaves:

1. the checkpoint is written (fsync): an unused file, overwritten by the replay;
2. the log is read: an epoch whose stop offset is committed already is skipped, one that leaves a gap is refused;
3. files and (application id, stop offset) enter the log as one version: done, the replay will be skipped;
4. checkpoints of other offsets are removed: left-overs go after the next commit;
5. `on_commit` is called: the journal is trimmed at the next commit instead.

delta-rs does not refuse a repeated application version, so 2 and 3 need one committer a stream: a file lock sees to it.
"""

from __future__ import annotations

import fcntl
import queue
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import structlog

from iiot_dask.core.clock import Clock, SystemClock
from iiot_dask.core.errors import CapacityError, ConfigError, DataError, InUseError
from iiot_dask.core.metrics import Metrics
from iiot_dask.history import checkpoint, delta
from iiot_dask.history.history import History
from iiot_dask.history.store import Store
from iiot_dask.stream.driver import Epoch

BACKOFF_S = (0.05, 0.2, 1.0, 3.0)
"""Waits between the tries of one commit, s; after the last try the failure is raised to whoever puts or settles."""

log = structlog.get_logger("iiot_dask.history")
_APP = re.compile(r"[A-Za-z0-9_.-]{1,100}")


class Committer:
    """Commits epochs on a thread of its own, in order.

    Parameters
    ----------
    history
        Where to.
    app_id
        Identity of the stream (the journal's): 1-100 letters, digits, ``_.-``.
    checkpoints
        Local directory for the shards' states.
    shards
        Number of states a stream starts with; a checkpoint of another number is not used.
    on_commit
        Called on the committer's thread with the offset after each commit; must not block for long.
    queue_max
        Epochs that may wait; `put` blocks beyond.

    Raises
    ------
    ConfigError
        If `app_id` is not usable.
    InUseError
        If another process commits this stream.
    """

    def __init__(
        self,
        history: History,
        app_id: str,
        checkpoints: Path,
        *,
        metrics: Metrics,
        on_commit: Callable[[int], None],
        queue_max: int = 4,
        shards: int = 1,
        clock: Clock | None = None,
        backoff_s: Sequence[float] = BACKOFF_S,
    ) -> None:
        if not _APP.fullmatch(app_id):
            msg = f"application id {app_id!r} is not made of 1-100 letters, digits, '_', '.', '-'"
            raise ConfigError(msg)
        self.history = history
        self.app_id = app_id
        self.metrics = metrics
        self.on_commit = on_commit
        self.shards = shards
        self.clock: Clock = clock or SystemClock()
        self.backoff_s = tuple(backoff_s)
        checkpoints.mkdir(parents=True, exist_ok=True)
        self._checkpoints = Store(checkpoints)
        self._lock_file = _lock(checkpoints / f".lock-{app_id}", app_id)
        self._queue: queue.Queue[Epoch | None] = queue.Queue(queue_max)
        self._failure: BaseException | None = None
        self._idle = threading.Condition()
        self._waiting = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="iiot-committer", daemon=True)
        self._thread.start()

    # -- the stream's side --------------------------------------------------------------------------------------

    def put(self, epoch: Epoch) -> None:
        """Queue an epoch; blocks while `queue_max` wait.

        Raises
        ------
        CapacityError
            If the committer is closed, or an earlier epoch could not be committed: begin again at `settle`.
        """
        self._raise()
        if self._closing.is_set():
            msg = f"the committer of {self.app_id!r} is closed"
            raise CapacityError(msg)
        with self._idle:
            self._waiting += 1
            self.metrics.gauge("history_commit_queue_epochs", self._waiting)
        self._queue.put(epoch)

    def settle(self) -> tuple[int, Sequence[bytes | None]]:
        """Wait until nothing is queued; the committed offset and the states that belong to it (None: start afresh).

        Raises
        ------
        CapacityError
            If an epoch could not be committed; the next call starts from what was.
        """
        with self._idle:
            self._idle.wait_for(lambda: self._waiting == 0)
        self._raise()
        offset = self.committed()
        return offset, self._states(offset)

    def committed(self) -> int:
        """Offset after the last one committed; 0 when nothing is."""
        self.history.log.refresh()
        return self.history.log.transaction(self.app_id) or 0

    def close(self) -> None:
        """Commit what is queued, end the thread, let the stream go. Idempotent."""
        if not self._closing.is_set():
            self._closing.set()
            self._queue.put(None)
            self._thread.join()
            self._lock_file.close()

    def _raise(self) -> None:
        with self._idle:
            failure, self._failure = self._failure, None
        if failure is not None:
            msg = f"an epoch of {self.app_id!r} could not be committed: {failure}"
            raise CapacityError(msg) from failure

    # -- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (epoch := self._queue.get()) is not None:
            # What follows a failed epoch would leave a gap; the stream replays it.
            if self._failure is None:
                self._guarded(epoch)
            with self._idle:
                self._waiting -= 1
                self.metrics.gauge("history_commit_queue_epochs", self._waiting)
                self._idle.notify_all()

    def _guarded(self, epoch: Epoch) -> None:
        for wait_s in (*self.backoff_s, None):
            try:
                self._commit(epoch)
                return
            except Exception as error:  # noqa: BLE001 -- kept, and raised to the stream by put or settle
                self.metrics.count("history_commit_failures_total")
                log.warning("commit failed", app=self.app_id, stop=epoch.stop, error=str(error), last=wait_s is None)
                if wait_s is None or not isinstance(error, (CapacityError, OSError)):
                    with self._idle:
                        self._failure = error
                    return
            self._closing.wait(wait_s)

    def _commit(self, epoch: Epoch) -> None:
        begin = self.clock.monotonic_ns()
        done = self.committed()
        if epoch.stop <= done:
            self.metrics.count("history_commits_skipped_total")
            return
        if epoch.first != done:
            msg = f"epoch {epoch.first}..{epoch.stop} of {self.app_id!r} does not follow the committed offset {done}"
            raise DataError(msg)
        self._checkpoints.put(self._name(epoch.stop), checkpoint.dump(self.app_id, epoch.stop, epoch.checkpoints))
        for entry in epoch.entries:
            self.history.store.check_size(entry.path, entry.size)
        actions = [delta.add(e.path, e.size, {"day": e.day, "shard": str(e.shard)}, e.stats) for e in epoch.entries]
        if not self.history.log.commit(actions, transaction=(self.app_id, epoch.stop), stamp=self.clock.now_ns()):
            msg = f"committing epoch {epoch.first}..{epoch.stop} of {self.app_id!r}: other writers won every time"
            raise CapacityError(msg)
        for found in list(self._checkpoints.list()):
            if found.path.startswith(f"{self.app_id}-") and found.path != self._name(epoch.stop):
                self._checkpoints.delete(found.path)
        self.metrics.count("history_commits_total")
        self.metrics.count("history_rows_total", epoch.rows)
        self.metrics.count("history_bytes_total", sum(entry.size for entry in epoch.entries))
        self.metrics.histogram("history_commit_seconds").observe((self.clock.monotonic_ns() - begin) / 1e9)
        self.on_commit(epoch.stop)

    # -- checkpoints --------------------------------------------------------------------------------------------

    def _name(self, offset: int) -> str:
        return f"{self.app_id}-{offset:020d}.checkpoint"

    def _states(self, offset: int) -> list[bytes | None]:
        fresh: list[bytes | None] = [None] * self.shards
        if offset == 0:
            return fresh
        try:
            app_id, found, states = checkpoint.load(self._checkpoints.get(self._name(offset)).to_pybytes())
        except DataError:
            # History is complete without it; only what the shards had learned is lost, and that is said aloud.
            self.metrics.count("history_checkpoints_lost_total")
            log.exception("checkpoint can not be used; the stream's state starts afresh", offset=offset)
            return fresh
        if (app_id, found, len(states)) != (self.app_id, offset, self.shards):
            self.metrics.count("history_checkpoints_lost_total")
            log.warning("checkpoint is of another stream or number of shards", offset=offset, shards=len(states))
            return fresh
        return list(states)


def _lock(path: Path, app_id: str) -> IO[bytes]:
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        msg = f"another process commits the stream {app_id!r} (lock {str(path)!r})"
        raise InUseError(msg) from error
    return file
