"""`Keeper`: compaction at regular times, beside a running stream.

Why it must run: the cost of a Delta commit and of a look at the log grows with the number of live files (12 ms with few, 40 ms
with 1,400), and a stream adds files at every flush.
"""

from __future__ import annotations

import threading

import structlog

from iiot_dask.core.clock import Clock, SystemClock
from iiot_dask.core.errors import IiotError
from iiot_dask.core.metrics import Metrics
from iiot_dask.core.times import SpanLike, span_ns
from iiot_dask.history.history import History
from iiot_dask.history.retention import Retention

log = structlog.get_logger("iiot_dask.history")


class Keeper:
    """Compacts a history every so often on a thread of its own, rolls up what is old, deletes what that left behind.

    A round that fails is logged, counted in ``history_keeper_failures_total`` and tried again at the next time; ingest goes on.

    Parameters
    ----------
    history
        What to look after; open one for the keeper alone, so that its looks at the log disturb nobody.
    every
        Time from the end of one round to the next.
    retention
        Dead files older than this are deleted after each round; see `History.vacuum`.
    policy
        How long samples and windows are kept, applied in each round; None: for ever.

    Examples
    --------
    >>> import tempfile
    >>> keeper = Keeper(History(tempfile.mkdtemp()), every="1h", metrics=Metrics())
    >>> keeper.round()
    True
    >>> keeper.start(); keeper.stop()
    """

    def __init__(
        self,
        history: History,
        *,
        every: SpanLike = "5m",
        retention: SpanLike = "1d",
        policy: Retention | None = None,
        metrics: Metrics,
        clock: Clock | None = None,
    ) -> None:
        self.history = history
        self.every_s = span_ns(every) / 1e9
        self.retention = retention
        self.policy = policy or Retention()
        self.metrics = metrics
        self.clock: Clock = clock or SystemClock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="iiot-keeper", daemon=True)

    def start(self) -> None:
        """Begin; the first round comes after the first wait."""
        self._thread.start()

    def stop(self) -> None:
        """End after the round under way; idempotent."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def round(self) -> bool:
        """Compact and clean once; False if that failed."""
        begin = self.clock.monotonic_ns()
        try:
            done = self.history.compact()
            aged = self.history.retain(self.policy, dry_run=False)
            gone = self.history.vacuum(self.retention, dry_run=False)
        except (IiotError, OSError) as error:
            self.metrics.count("history_keeper_failures_total")
            log.exception("compaction failed; it is tried again", every_s=self.every_s, error=str(error))
            return False
        self.metrics.count("history_compactions_total", done.merges)
        self.metrics.count("history_duplicates_dropped_total", done.duplicates)
        self.metrics.count("history_files_deleted_total", len(gone.files))
        self.metrics.count("history_samples_rolled_up_total", aged.samples)
        self.metrics.gauge("history_files", aged.files_after)
        self.metrics.histogram("history_compact_seconds").observe((self.clock.monotonic_ns() - begin) / 1e9)
        return True

    def _run(self) -> None:
        while not self._stop.wait(self.every_s):
            self.round()
