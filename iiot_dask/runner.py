"""What the commands do, as functions of paths and options; printing is `show`'s and `cli`'s business."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iiot_dask.core.errors import ConfigError
from iiot_dask.core.plantfile import load
from iiot_dask.core.times import span_ns
from iiot_dask.dashboard.port import free_port

if TYPE_CHECKING:
    # Every command imports this module; only some of them need the libraries behind these.
    from rich.console import Console

    from iiot_dask.dashboard.app import DashboardServer
    from iiot_dask.dashboard.snapshot import Snapshot
    from iiot_dask.engine import Engine

REFRESH_S = 0.5


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; a second Ctrl-C interrupts at once. Main thread only."""
    stop = threading.Event()

    def ask(number: int, _: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def quiet_logs(file: Path | None) -> None:
    """Send this process' structured logs to a file as JSON lines (None: to stderr, warnings only)."""
    import logging

    import structlog

    level = logging.INFO if file is not None else logging.WARNING
    stream = sys.stderr if file is None else file.open("a", encoding="utf-8")
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(stream),
    )
    # Libraries log through the standard module; a cluster that closes says a lot there that is no news.
    logging.basicConfig(stream=stream, level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("distributed").setLevel(logging.ERROR)


def run_plant(path: Path, duration: str | None, *, dashboard: bool, console: Console) -> Snapshot:
    """Run the engine on a plant file until `duration`, Ctrl-C or a failure; the last status.

    Raises
    ------
    ConfigError
        If the plant file or the duration is wrong.
    InUseError
        If the data directory or the dashboard's port is in use.
    """
    plant = load(path)
    from iiot_dask.engine import Engine
    from iiot_dask.show import live_status

    seconds = None if duration is None else span_ns(duration) / 1e9
    if dashboard:
        free_port(plant.config.dashboard.address, plant.config.dashboard.port)
    with interrupts() as stop:
        pipeline = Engine(plant)
        quiet_logs(None)
        with pipeline:
            server = (
                _dashboard(pipeline, plant.config.dashboard.address, plant.config.dashboard.port) if dashboard else None
            )
            if server is not None:
                console.print(f"dashboard: {server.url}")
            try:
                with live_status(console, pipeline.snapshot) as refresh:
                    waited = 0.0
                    while not stop.wait(REFRESH_S) and pipeline.state == "running":
                        refresh()
                        waited += REFRESH_S
                        if seconds is not None and waited >= seconds:
                            break
            finally:
                if server is not None:
                    server.stop()
            console.print("stopping: adapters hand over, the journal drains into history …")
        assert pipeline.last_snapshot is not None, "stop publishes"
        return pipeline.last_snapshot


def _dashboard(pipeline: Engine, address: str, port: int) -> DashboardServer:
    from iiot_dask.dashboard.app import DashboardServer
    from iiot_dask.trends import HistoryTrends

    server = DashboardServer(pipeline.snapshot, HistoryTrends(pipeline.history), address, port)
    server.start()
    return server


def serve_dashboard(path: Path, port: int | None, console: Console) -> None:
    """Serve the dashboard of a plant that another process runs, until Ctrl-C.

    Raises
    ------
    ConfigError
        If the plant file is wrong.
    InUseError
        If the port is taken.
    """
    from iiot_dask.core.directory import DataDirectory
    from iiot_dask.dashboard.app import DashboardServer
    from iiot_dask.dashboard.snapshot import read_status
    from iiot_dask.history import History
    from iiot_dask.trends import HistoryTrends

    plant = load(path)
    directory = DataDirectory(plant.data)
    directory.check()
    chosen = plant.config.dashboard.port if port is None else port
    with interrupts() as stop, History(str(directory.part("history"))) as history:
        server = DashboardServer(
            lambda: read_status(directory.status_file), HistoryTrends(history), plant.config.dashboard.address, chosen
        )
        console.print(f"dashboard: {server.start()} (Ctrl-C ends it)")
        try:
            stop.wait()
        finally:
            server.stop()


def check_plant(path: Path) -> list[dict[str, Any]]:
    """Validate the file and reach every endpoint: one row an adapter with its problems (sentences, empty = fine).

    Raises
    ------
    ConfigError
        If the file is wrong.
    """
    plant = load(path)
    from iiot_dask.adapter.host import check_adapter

    rows = []
    for adapter in plant.config.adapters:
        problems = check_adapter(plant, adapter)
        rows.append(
            {
                "adapter": adapter.name,
                "kind": adapter.kind,
                "endpoint": adapter.endpoint or adapter.listen,
                "problems": problems,
            }
        )
    return rows


FORMATS = ("table", "csv", "json", "parquet")


def run_query(
    data: Path,
    tags: Sequence[str],
    start: str | None,
    end: str | None,
    every: str | None,
    limit: int | None,
    form: str,
    out: Path | None,
) -> None:
    """Print or write samples (or aggregates, with `every`) of the tags the globs select.

    Raises
    ------
    ConfigError
        If an option is wrong: it is named with what is allowed.
    """
    if form not in FORMATS:
        msg = f"--format {form!r}: {', '.join(FORMATS)} are allowed"
        raise ConfigError(msg)
    if form == "parquet" and out is None:
        msg = "--format parquet needs --out FILE: it is no text"
        raise ConfigError(msg)
    from iiot_dask.engine import data_directory
    from iiot_dask.query import open_history, query

    with open_history(data_directory(data)) as history:
        frame = query(history, list(tags), start, end, every)
        rows = (frame if limit is None else frame.head(limit)).collect()
    if form == "parquet":
        assert out is not None
        rows.write_parquet(out)
    elif form == "csv":
        text = rows.write_csv()
        _put(text, out)
    elif form == "json":
        _put(rows.write_json() + "\n", out)
    else:
        import polars as pl

        with pl.Config(tbl_rows=40, tbl_cols=-1, tbl_width_chars=160, fmt_str_lengths=60):
            _put(f"{rows}\n", out)


def _put(text: str, out: Path | None) -> None:
    if out is None:
        sys.stdout.write(text)
    else:
        out.write_text(text, encoding="utf-8")


def read_incidents(data: Path, *, open_only: bool) -> list[dict[str, Any]]:
    """The incidents of a data directory, newest first, as plain rows.

    Raises
    ------
    ConfigError
        If there is no data directory.
    """
    import polars as pl

    from iiot_dask.engine import data_directory
    from iiot_dask.health.store import read_incident_frame

    frame = read_incident_frame(data_directory(data) / "incidents")
    if open_only:
        frame = frame.filter(pl.col("end").is_null())
    return frame.sort("start", descending=True).to_dicts()
