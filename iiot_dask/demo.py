"""`iiot-dask demo`: a simulated factory on real protocol servers, the engine on top, and a reckoning at the end.

The reckoning is honest because the two sides meet only here: the simulator, in a process of its own, counts what its
devices really sent; the engine stores what arrived; this module compares the two by (tag, time).
"""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
import tomli_w
from rich.console import Console

from iiot_dask.core.directory import PARTS
from iiot_dask.core.errors import CapacityError, ConfigError
from iiot_dask.core.plantfile import load
from iiot_dask.core.times import span_ns, time_text
from iiot_dask.dashboard.port import free_port
from iiot_dask.dashboard.snapshot import Snapshot
from iiot_dask.engine import Engine
from iiot_dask.reckoning import match_faults, reckon
from iiot_dask.runner import interrupts, quiet_logs
from iiot_dask.show import live_status
from iiot_dask.sim.broker import BrokerName
from iiot_dask.sim.factory import Factory
from iiot_dask.sim.ledger import Truth
from iiot_dask.sim.process import FactoryProcess

READY_S = 60.0
"""Longest wait for every adapter to be connected, seconds."""
DRAIN_S = 60.0
"""Longest wait for the last samples to arrive after the devices went quiet, seconds."""
QUIET_S = 2.0
"""No new sample for this long after the devices went quiet: everything sent has arrived, or never will."""
REFRESH_S = 0.25
ENDLESS_S = 3600.0
DAY_S = 45.0
"""Three shifts in this time, so the first change comes after 15 s and the second day is forecast."""

log = structlog.get_logger("iiot_dask.demo")


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the command line asked for."""

    duration: str = "60s"
    port: int = 5006
    dashboard: bool = True
    data: Path = Path("demo-data")
    tags: int = 2000
    broker: BrokerName = "auto"
    seed: int = 7
    processes: bool = False


@dataclass(slots=True)
class Summary:
    """What a demo stored and found; `document` is what ``--json`` prints."""

    data: str
    duration_s: float
    broker: str
    tags: int
    protocols: dict[str, dict[str, int]]
    faults: list[dict[str, Any]]
    incidents: list[dict[str, Any]]
    unexplained: list[dict[str, Any]]
    history: dict[str, Any]
    latency: dict[str, float]
    workers: list[dict[str, Any]]
    first_stored_s: float
    dashboard: str | None
    failure: str | None = None

    @property
    def worker_counts(self) -> list[int]:
        """Workers seen, at least one entry."""
        return [row["now"] for row in self.workers] or [0]

    @property
    def ok(self) -> bool:
        """Every sample accounted for, every fault found, nothing else found, nothing failed."""
        complete = all(p["missing"] == p["unexpected"] == p["duplicates"] == 0 for p in self.protocols.values())
        return complete and all(f["found"] for f in self.faults) and not self.unexplained and self.failure is None

    def document(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"ok": self.ok, **{name: getattr(self, name) for name in self.__slots__}}


@dataclass(slots=True)
class Watch:
    """What the demo notes while it runs: workers over time (once a second) and when the first row was stored."""

    started: float
    workers: list[dict[str, Any]] = field(default_factory=list)
    first_stored_s: float = float("nan")

    def look(self, snapshot: Snapshot) -> None:
        """Take a snapshot in."""
        if snapshot.stored_rows and math.isnan(self.first_stored_s):
            self.first_stored_s = round(time.monotonic() - self.started, 2)
        at = round(snapshot.uptime_s)
        if not self.workers or self.workers[-1]["at_s"] != at:
            w = snapshot.workers
            self.workers.append(
                {
                    "at_s": at,
                    "now": w.now,
                    "wanted": w.wanted,
                    "forecast": w.forecast,
                    "rate": round(snapshot.samples_per_s),
                }
            )


def run_demo(options: DemoOptions, console: Console) -> Summary:
    """Run the demo to its end, or to Ctrl-C, and reckon up.

    Raises
    ------
    ConfigError
        If an option is wrong, or the data directory holds something that is no former demo.
    InUseError
        If the data directory or the dashboard's port is in use.
    CapacityError
        If an adapter does not connect within `READY_S`.
    """
    started = time.monotonic()
    duration_s = span_ns(options.duration) / 1e9 or ENDLESS_S
    if options.dashboard:
        free_port("127.0.0.1", options.port)
    data = _prepare(options.data)
    quiet_logs(data / "demo.log")
    factory = Factory(tags=options.tags, seed=options.seed, day_s=DAY_S, duration_s=duration_s)
    watch = Watch(started)
    with interrupts() as stop, ExitStack() as stack:
        process = stack.enter_context(FactoryProcess(factory, data / "factory", broker=options.broker))
        _write_plant(process, data, options)
        pipeline = stack.enter_context(Engine(load(data / "plant.toml")))
        url = _serve(stack, pipeline, options, console)
        with live_status(console, pipeline.snapshot) as refresh:

            def look() -> None:
                watch.look(pipeline.snapshot())
                refresh()

            _await_adapters(pipeline, stop, look)
            process.begin()
            _sleep_until(time.monotonic() + duration_s, stop, look)
            process.quiesce()
            _await_quiet(pipeline, look)
        console.print("stopping: adapters hand over, the journal drains into history …")
        latest = pipeline.snapshot()
        pipeline.stop()
        truth = process.stop()
        if latest.state == "failed":
            pipeline.failure = pipeline.failure or "the engine failed"
    return _summary(options, data, pipeline, truth, process.broker, watch, url)


def _prepare(data: Path) -> Path:
    """An empty directory for this demo: a former demo's data is removed, anything else is refused."""
    data = data.resolve()
    if data.exists():
        from iiot_dask.core.directory import DataDirectory

        ours = {*PARTS, "FORMAT", "LOCK", "plant.toml", "status.json", "status.tmp", "factory", "demo.log"}
        if not data.is_dir() or (strangers := sorted({p.name for p in data.iterdir()} - ours)):
            what = f"holds {strangers[0]!r}" if data.is_dir() else "is a file"
            msg = f"--data {data} {what}, which is no demo's; give an empty or a new directory"
            raise ConfigError(msg)
        # Taking the lock first makes sure that no running demo loses its data.
        with DataDirectory(data):
            for entry in data.iterdir():
                if entry.name != "LOCK":
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    data.mkdir(parents=True, exist_ok=True)
    return data


def _write_plant(process: FactoryProcess, data: Path, options: DemoOptions) -> None:
    raw = process.plant_file(data=".", name="demo")
    rate = process.factory.tags * 1.5
    raw["cluster"] = {
        "minimum": 1,
        "maximum": 3,
        "processes": options.processes,
        # So small a plant would never need a second worker; the demo's workers are rated so that its shifts do.
        "capacity": round(rate / 1.5, 1),
        "day": f"{DAY_S:.0f}s",
        "boot": "2s",
    }
    raw["dashboard"] = {"port": options.port}
    (data / "plant.toml").write_text(tomli_w.dumps(raw), encoding="utf-8")


def _serve(stack: ExitStack, pipeline: Engine, options: DemoOptions, console: Console) -> str | None:
    if not options.dashboard:
        return None
    from iiot_dask.dashboard.app import DashboardServer
    from iiot_dask.trends import HistoryTrends

    server = DashboardServer(pipeline.snapshot, HistoryTrends(pipeline.history), port=options.port)
    url = server.start()
    stack.callback(server.stop)
    console.print(f"dashboard: {url}")
    return url


def _await_adapters(pipeline: Engine, stop: threading.Event, look: Callable[[], None]) -> None:
    wanted = {adapter.name for adapter in pipeline.config.adapters}
    deadline = time.monotonic() + READY_S
    while not wanted <= pipeline.connected:
        if stop.wait(REFRESH_S):
            return
        look()
        if time.monotonic() > deadline:
            rows = "; ".join(f"{a.name} is {a.state} {a.reason}".strip() for a in pipeline.snapshot().adapters)
            msg = f"adapters {sorted(wanted - pipeline.connected)} did not connect within {READY_S:.0f} s: {rows}"
            raise CapacityError(msg)


def _sleep_until(deadline: float, stop: threading.Event, look: Callable[[], None]) -> None:
    while (left := deadline - time.monotonic()) > 0 and not stop.wait(min(REFRESH_S, left)):
        look()


def _await_quiet(pipeline: Engine, look: Callable[[], None]) -> None:
    """Until the adapters that are pushed to have brought nothing new for `QUIET_S`; polled ones end with the pipeline."""

    def pushed() -> int:
        return sum(a.samples for a in pipeline.snapshot().adapters if a.kind != "modbus")

    deadline = time.monotonic() + DRAIN_S
    seen, since = pushed(), time.monotonic()
    while time.monotonic() - since < QUIET_S and time.monotonic() < deadline:
        time.sleep(REFRESH_S)
        look()
        if (now := pushed()) != seen:
            seen, since = now, time.monotonic()


def _summary(
    options: DemoOptions, data: Path, pipeline: Engine, truth: Truth, broker: str, watch: Watch, url: str | None
) -> Summary:
    from iiot_dask.history import History

    with History(str(data / "history")) as history:
        history.compact()
        stored = history.scan("*").collect()
        info = history.info().document()
    incidents = _incident_rows(pipeline)
    faults, unexplained = match_faults(truth.info["faults"], incidents)
    return Summary(
        data=str(options.data),
        duration_s=round((truth.info["stop_ns"] - truth.info["start_ns"]) / 1e9, 1),
        broker=broker,
        tags=options.tags,
        protocols=reckon(truth.samples, stored),
        faults=faults,
        incidents=incidents,
        unexplained=unexplained,
        history=info,
        latency={
            f"{name}_{quantile}_ms": round(getattr(found, quantile) * 1e3, 2)
            for name, found in pipeline.latencies().items()
            for quantile in ("p50", "p99", "max")
        },
        workers=watch.workers,
        first_stored_s=watch.first_stored_s,
        dashboard=url,
        failure=pipeline.failure,
    )


def _incident_rows(pipeline: Engine) -> list[dict[str, Any]]:
    return [
        {
            "kind": i.kind,
            "node": i.node,
            "start": time_text(i.start_ns),
            "detected": time_text(i.detected_ns),
            "end": None if i.end_ns is None else time_text(i.end_ns),
            "tags": len(i.tags),
            "start_ns": i.start_ns,
            "detected_ns": i.detected_ns,
        }
        for i in pipeline.open_incidents()
    ]
