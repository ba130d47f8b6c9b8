"""The composition root: the one file that imports every stage and joins them into a running engine.

Order of start is the order of the flow turned round (what takes data is ready before what gives it); order of stop is
the flow itself, so everything that was acknowledged is in history when `stop` returns.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import psutil
import structlog

from iiot_dask.adapter.contract import Event
from iiot_dask.adapter.host import AdapterStatus, Host
from iiot_dask.core.clock import Clock, SystemClock
from iiot_dask.core.directory import DataDirectory
from iiot_dask.core.errors import CapacityError
from iiot_dask.core.metrics import Metrics
from iiot_dask.core.plantfile import LoadedPlant
from iiot_dask.dashboard.snapshot import AdapterRow, IncidentRow, Quantiles, Snapshot
from iiot_dask.health.incident import Incident
from iiot_dask.health.incidents import Incidents
from iiot_dask.health.store import IncidentStore
from iiot_dask.history import History, Retention
from iiot_dask.history.committer import Committer
from iiot_dask.history.keeper import Keeper
from iiot_dask.ingest.catalogue import Catalogue
from iiot_dask.ingest.inbox import Inbox
from iiot_dask.ingest.journal import Journal
from iiot_dask.ingest.quarantine import Quarantine
from iiot_dask.query.live import JournalTail
from iiot_dask.scaler import Scaler
from iiot_dask.stream.driver import Driver, Graph
from iiot_dask.stream.microbatch import MicroBatch
from iiot_dask.stream.topology import OnFailure, OnResult, StreamGraph
from iiot_dask.stream.work import ShardResult
from iiot_dask.taps import Taps
from iiot_dask.warm import WarmWorker, warm_ingest, warm_work
from iiot_dask.work import PlantWork

if TYPE_CHECKING:
    # Pipelines load on first use: a plant without one does not compile their kernels.
    from iiot_dask.core.times import SpanLike
    from iiot_dask.flow import Pipeline
    from iiot_dask.flow.live import LiveRun
    from iiot_dask.flow.sinks import Sink

TICK_S = 1.0
RECENT_TICKS = 10
"""A snapshot's latencies are of the rows of so many ticks."""
LATENCIES = ("ingest_durable_s", "processed_seconds")
QUARANTINE_BYTES_MAX = 64 << 20
QUARANTINE_FILES_MAX = 64

log = structlog.get_logger("iiot_dask.engine")


class Engine:
    """A running plant: adapters, journal, Dask, history, health and scaling.

    Parameters
    ----------
    plant
        The loaded plant file.
    clock
        Where every stage takes the time from.

    Notes
    -----
    `start` raises what is wrong with the data directory, the cluster or the configuration before any adapter runs.
    A device that is absent is no error here: its adapter waits for it and an incident says so.
    """

    def __init__(self, plant: LoadedPlant, clock: Clock | None = None) -> None:
        self.plant = plant
        self.config = plant.config
        self.clock = SystemClock() if clock is None else clock
        self.metrics = Metrics()
        self.directory = DataDirectory(plant.data)
        self.taps = Taps()
        self.state = "new"
        self.failure: str | None = None
        self.connected: set[str] = set()
        self.last_snapshot: Snapshot | None = None
        self._runs: list[LiveRun] = []
        """Pipelines at work: at most as many as there may be taps."""
        self._undo = contextlib.ExitStack()
        self._lock = threading.Lock()
        self._halt = threading.Event()
        self._started_ns = 0
        self._rate = 0.0
        self._process = psutil.Process()
        self._cpu_share = 0.0
        self._recent = {name: deque([self.metrics.histogram(name).counts.copy()], RECENT_TICKS) for name in LATENCIES}

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Bring every stage up.

        Raises
        ------
        InUseError, VersionError, ConfigError
            If the data directory is in use, newer than this program, or can not be written.
        """
        self.state = "starting"
        self._started_ns = self.clock.monotonic_ns()
        with contextlib.ExitStack() as undo:
            undo.enter_context(self.directory)
            warm_ingest()
            warm_work()
            self._open_stores(undo)
            self._open_cluster(undo)
            self._open_stream(undo)
            self._open_adapters(undo)
            self._halt.clear()
            self._ticker = threading.Thread(target=self._tick_loop, name="iiot-ticker", daemon=True)
            self._ticker.start()
            undo.callback(self._stop_ticker)
            self._undo = undo.pop_all()
        self.state = "running"
        return self

    def _open_stores(self, undo: contextlib.ExitStack) -> None:
        data = self.directory
        self.history = History(str(data.part("history")))
        undo.callback(self.history.close)
        before = self.history.info()
        self._stored = (before.rows, before.bytes)
        self.catalogue = Catalogue(data.part("catalogue"), allot=self.history.tags.ensure)
        undo.callback(self.catalogue.close)
        self.journal = Journal(data.part("journal"), self.config.journal, clock=self.clock, metrics=self.metrics)
        undo.callback(self.journal.close)
        # Questions see what is durable and not committed yet; the committer and the keeper do not ask.
        self.history.tail = JournalTail(data.part("journal"), lambda: self.journal.durable)
        self.quarantine = Quarantine(data.part("quarantine"), QUARANTINE_BYTES_MAX, QUARANTINE_FILES_MAX)
        undo.callback(self.quarantine.close)
        self.incident_store = IncidentStore(data.part("incidents"))
        undo.callback(self.incident_store.close)
        self.incidents = Incidents(
            restored=self.incident_store.open_incidents(), first=self.incident_store.last_id() + 1
        )
        self._topology_version = -1
        self._learn_topology()

    def _open_cluster(self, undo: contextlib.ExitStack) -> None:
        from distributed import Client, LocalCluster

        cluster = self.config.cluster
        self.cluster = LocalCluster(
            n_workers=cluster.minimum,
            threads_per_worker=1,
            processes=cluster.processes,
            memory_limit=cluster.memory if cluster.processes else 0,
            host="127.0.0.1" if cluster.processes else None,
            # The scheduler unpickles what it is sent: nothing of it may listen beyond this machine.
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
            silence_logs=logging.ERROR,
        )
        undo.callback(self.cluster.close, timeout=10)
        self.client = Client(self.cluster, set_as_default=False)
        undo.callback(self.client.close, timeout=10)
        self.client.register_plugin(WarmWorker())
        memory = self.directory.part("checkpoints") / "forecast.bin"
        self.scaler = Scaler(cluster, self.cluster, memory, clock=self.clock, metrics=self.metrics)
        undo.callback(self.scaler.close)

    def _open_stream(self, undo: contextlib.ExitStack) -> None:
        stream = self.config.stream
        self.committer = Committer(
            self.history,
            self.journal.identity,
            self.directory.part("checkpoints"),
            metrics=self.metrics,
            on_commit=self._on_commit,
            shards=stream.shards,
            clock=self.clock,
        )
        undo.callback(self.committer.close)
        keeping = self.config.history
        keeper = Keeper(
            History(str(self.directory.part("history"))),
            every=keeping.compact / 1e9,
            retention=keeping.retention / 1e9,
            policy=Retention.configured(keeping),
            metrics=self.metrics,
            clock=self.clock,
        )
        keeper.start()
        undo.callback(keeper.stop)
        work = PlantWork(str(self.directory.part("history")), self.journal.identity)

        def build(on_result: OnResult, on_failure: OnFailure) -> Graph:
            graph = StreamGraph(
                self.client,
                work,
                shards=stream.shards,
                in_flight=stream.in_flight,
                on_result=on_result,
                on_failure=on_failure,
            )
            undo.callback(graph.close)
            return graph

        self.driver = Driver(
            self.journal, self.committer, build, self._handle, config=stream, clock=self.clock, metrics=self.metrics
        )
        # After the driver has drained: the pipelines have then seen every row, and the cluster is still there.
        undo.callback(self._stop_runs)
        self.driver.start()
        undo.callback(self._stop_driver)

    def _open_adapters(self, undo: contextlib.ExitStack) -> None:
        self.inbox = Inbox(
            self.catalogue,
            self.journal,
            lambda adapter, position, at: self.host.acknowledge(adapter, position, at),  # noqa: PLW0108 -- the host comes after
            self._on_event,
            self.quarantine,
            clock=self.clock,
            metrics=self.metrics,
        )
        self.host = Host(
            self.plant,
            self.inbox.take,
            self.journal.positions(),
            clock=self.clock,
            metrics=self.metrics,
            log_dir=self.directory.part("logs"),
        )
        undo.callback(self.host.stop)
        self.host.start()

    def stop(self) -> None:
        """End in flow order: adapters hand over what they hold, the journal drains into history, then all closes."""
        if self.state not in ("running", "failed"):
            return
        self.state = "stopping"
        try:
            self._undo.close()
        finally:
            self.state = "stopped"
            self._publish()

    def _stop_driver(self) -> None:
        try:
            self.driver.stop()
        except CapacityError as error:
            # What could not be drained stays in the journal for the next start; say so, close the rest.
            self.failure = str(error)
            log.exception("stream did not drain")

    def __enter__(self) -> Self:
        return self if self.state == "running" else self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # -- data on its way ----------------------------------------------------------------------------------------

    def _handle(self, micro: MicroBatch, results: list[ShardResult]) -> None:
        """On the results thread: latencies, health, live taps."""
        if len(micro.batch):
            age_ns = self.clock.now_ns() - micro.batch.received
            self.metrics.histogram("processed_seconds").observe(age_ns / 1e9)
            self.metrics.count("samples_processed_total", len(micro.batch))
        self._learn_topology()
        with self._lock:
            for result in results:
                self.incidents.take(result.output.changes, micro.now_ns)
        self.taps.emit(micro.batch, [result.output for result in results])

    def _learn_topology(self) -> None:
        if self.catalogue.version == self._topology_version:
            return
        self._topology_version = self.catalogue.version
        frame = self.catalogue.frame()
        with self._lock:
            self.incidents.tags(*(frame[name].to_list() for name in ("id", "tag", "device", "adapter")))

    def _on_event(self, adapter: str, event: Event) -> None:
        self.metrics.count("adapter_events_total", event.count, adapter=adapter, kind=event.kind)
        if event.kind == "connected":
            self.connected.add(adapter)
        elif event.kind == "disconnected":
            self.connected.discard(adapter)
        with self._lock:
            self.incidents.event(adapter, event, self.clock.now_ns())

    def _on_commit(self, offset: int) -> None:
        self.journal.trim(offset)

    # -- once a second ------------------------------------------------------------------------------------------

    def _tick_loop(self) -> None:
        before, at_ns = 0.0, self.clock.monotonic_ns()
        while not self._halt.wait(TICK_S):
            total, now_ns = self.metrics.total("ingest_rows_total"), self.clock.monotonic_ns()
            self._rate = (total - before) / max(1e-9, (now_ns - at_ns) / 1e9)
            before, at_ns = total, now_ns
            self._tick()

    def _tick(self) -> None:
        self._cpu_share = self._process.cpu_percent() / 100
        for name, before in self._recent.items():
            before.append(self.metrics.histogram(name).counts.copy())
        self.scaler.tick(self._rate, self.backlog_rows)
        self._settle_incidents()
        if self.driver.failed is not None:
            self.state = "failed"
            self.failure = f"{type(self.driver.failed).__name__}: {self.driver.failed}"
        self._publish()

    def _settle_incidents(self) -> None:
        with self._lock:
            changed: Sequence[Incident] = self.incidents.tick(self.clock.now_ns())
        if changed:
            self.incident_store.save(list(changed))

    def _stop_ticker(self) -> None:
        self._halt.set()
        self._ticker.join()
        self._settle_incidents()

    def _publish(self) -> None:
        target = self.directory.status_file
        draft = target.with_suffix(".tmp")
        try:
            self.last_snapshot = self.snapshot()
            draft.write_bytes(self.last_snapshot.to_bytes())
            draft.replace(target)
        except OSError as error:
            # A full disk must not end the engine; the journal raises its own incident for it.
            self.metrics.count("status_write_failures_total")
            log.warning("status not published", error=str(error))

    # -- looking in ---------------------------------------------------------------------------------------------

    @property
    def backlog_rows(self) -> int:
        """Rows that are durable but not yet handed to Dask."""
        return max(0, int(self.metrics.total("ingest_rows_total")) - self.driver.read_rows)

    def open_incidents(self) -> list[Incident]:
        """Incidents that last, and those of this run that have ended."""
        with self._lock:
            return list(self.incidents.all())

    def snapshot(self) -> Snapshot:
        """The engine now; safe from any thread."""
        now_ns = self.clock.now_ns()
        return Snapshot(
            time_ns=now_ns,
            plant=self.config.plant.name,
            state=self.state,
            uptime_s=(self.clock.monotonic_ns() - self._started_ns) / 1e9,
            tags=len(self.catalogue),
            samples=int(self.metrics.total("ingest_rows_total")),
            samples_per_s=self._rate,
            backlog_rows=self.backlog_rows,
            acknowledged=self._latency("ingest_durable_s"),
            processed=self._latency("processed_seconds"),
            workers=self.scaler.workers,
            stored_rows=self._stored[0] + int(self.metrics.value("history_rows_total")),
            stored_bytes=self._stored[1] + int(self.metrics.value("history_bytes_total")),
            rss_bytes=self._process.memory_info().rss,
            cpu_share=self._cpu_share,
            adapters=tuple(self._adapter_row(status, now_ns) for status in self.host.status()),
            incidents=tuple(_incident_row(incident) for incident in self.open_incidents()),
            counters={
                row["name"]: row["value"] for row in self.metrics.snapshot() if "value" in row and not row["labels"]
            },
        )

    def _latency(self, name: str) -> Quantiles:
        histogram, since = self.metrics.histogram(name), self._recent[name][0]
        return Quantiles(
            histogram.quantile(0.5, since), histogram.quantile(0.99, since), histogram.quantile(1.0, since)
        )

    def latencies(self) -> dict[str, Quantiles]:
        """Of all rows of this run: ``acknowledged`` (socket to the journal's fsync), ``processed`` (to the Dask result)."""
        found = [self.metrics.histogram(name) for name in LATENCIES]
        rows = [Quantiles(h.quantile(0.5), h.quantile(0.99), h.quantile(1.0)) for h in found]
        return dict(zip(("acknowledged", "processed"), rows, strict=True))

    def _adapter_row(self, status: AdapterStatus, now_ns: int) -> AdapterRow:
        age_s = None if status.last_ns is None else max(0.0, (now_ns - status.last_ns) / 1e9)
        return AdapterRow(
            status.name, status.kind, status.state, status.pid, status.restarts, status.samples, status.errors, age_s,
            status.reason, status.name in self.connected,
        )  # fmt: skip

    def stream(self, glob: str = "*", every: str | None = None) -> Any:
        """A `streamz.Stream` of Arrow tables of the tags `glob` selects.

        Rows (tag, time, value, quality, received), or with `every` ``"1s"`` or ``"10s"`` the windows that closed (tag,
        time, count, min, max, mean, sum, first, last, late). Fed from this process' results thread, after the rows are durable; a slow consumer of the stream slows the
        engine, so hand work on to a thread or a buffer node.
        """
        return self.taps.stream(glob, every, self.catalogue)

    def pipeline(self, described: Pipeline, *, sinks: Sequence[Sink] = (), deadline: SpanLike = "1s") -> LiveRun:
        """Run a pipeline (`iiot.pipeline`) on the live rows, its steps on this plant's Dask cluster, until stopped.

        Late rows correct what was given out, from history. The run ends with the plant, if nobody stops it before.

        Parameters
        ----------
        described
            What to run.
        sinks
            Where results go, besides the run's own `stream`.
        deadline
            How late results may be; the router chooses how many rows a step gathers by it.

        Raises
        ------
        CapacityError
            If too many live streams are open.
        """
        from iiot_dask.flow.live import LiveRun

        run = LiveRun(
            described,
            lambda globs: self.taps.stream(globs, None, self.catalogue),
            self.history,
            release=self.taps.release,
            client=self.client,
            sinks=tuple(sinks),
            deadline=deadline,
            clock=self.clock,
        ).start()
        self._runs.append(run)
        return run

    def _stop_runs(self) -> None:
        while self._runs:
            self._runs.pop().stop()


def _incident_row(incident: Incident) -> IncidentRow:
    return IncidentRow(
        incident.incident, incident.node, incident.kind, incident.start_ns, incident.detected_ns, incident.end_ns,
        float(np.float32(incident.score)), len(incident.tags),
    )  # fmt: skip


def data_directory(path: str | Path) -> Path:
    """The data directory meant by `path`: itself, a plant file's, or the parent when it is a history.

    Raises
    ------
    ConfigError
        If there is no such directory.
    """
    from iiot_dask.core.errors import ConfigError
    from iiot_dask.core.plantfile import load

    given = Path(path)
    if given.suffix == ".toml":
        return load(given).data
    found = given.parent if given.name == "history" and (given / "_delta_log").is_dir() else given
    if not (found / "history").is_dir():
        msg = f"{given}: no data directory here (no 'history' folder in it); give the plant's data directory or plant.toml"
        raise ConfigError(msg)
    return found
