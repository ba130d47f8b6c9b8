"""What people see on a terminal: live status, tables, progress bars. All of it goes to stderr, results go to stdout."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from iiot_dask.core.times import time_text

if TYPE_CHECKING:
    # A summary is only drawn here; making one pulls in the whole engine.
    from iiot_dask.dashboard.snapshot import Snapshot
    from iiot_dask.demo import Summary


def progress_console(*, quiet: bool) -> Console:
    """The console for progress: stderr, or nowhere when only JSON is wanted."""
    return Console(stderr=True, quiet=quiet, highlight=False)


def _text(renderable: Any) -> str:
    sink = io.StringIO()
    Console(file=sink, width=118, highlight=False).print(renderable)
    return sink.getvalue().rstrip("\n")


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    return table


def status_view(snapshot: Snapshot) -> Group:
    """The engine's state as a renderable for `rich.live`."""
    w = snapshot.workers
    head = Text(
        f"{snapshot.plant}: {snapshot.state} {snapshot.uptime_s:5.0f} s   {snapshot.tags:,} tags   "
        f"{snapshot.samples:,} samples   {snapshot.samples_per_s:,.0f}/s   backlog {snapshot.backlog_rows:,}\n"
        f"durable p50 {snapshot.acknowledged.p50 * 1e3:.1f} ms p99 {snapshot.acknowledged.p99 * 1e3:.1f} ms   "
        f"processed p50 {snapshot.processed.p50 * 1e3:.1f} ms p99 {snapshot.processed.p99 * 1e3:.1f} ms   "
        f"workers {w.now} (wanted {w.wanted}, forecast {'-' if w.forecast is None else w.forecast})   "
        f"stored {snapshot.stored_rows:,} rows in {snapshot.stored_bytes:,} bytes"
    )
    adapters = _table(
        "", ["adapter", "state", "samples", "last", "restarts"],
        [[a.name, a.state, f"{a.samples:,}", "-" if a.age_s is None else f"{a.age_s:.1f} s", a.restarts] for a in snapshot.adapters],
    )  # fmt: skip
    faults = _table(
        "", ["incident", "node", "tags", "began", "ended"],
        [[i.kind, i.node, i.tags, time_text(i.start_ns)[11:19], "lasts" if i.end_ns is None else time_text(i.end_ns)[11:19]]
         for i in sorted(snapshot.incidents, key=lambda i: -i.start_ns)[:8]],
    )  # fmt: skip
    return Group(head, adapters, faults)


@contextmanager
def live_status(console: Console, source: Callable[[], Snapshot]) -> Iterator[Callable[[], None]]:
    """A live view on a terminal; yields what refreshes it. Off a terminal it stays silent."""
    if console.quiet or not console.is_terminal:
        yield lambda: None
        return
    with Live(status_view(source()), console=console, transient=True, auto_refresh=False) as live:
        yield lambda: live.update(status_view(source()), refresh=True)


@contextmanager
def bar(console: Console, title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal; yields ``report(done, total)``."""
    with Progress(
        TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console, transient=True, disable=console.quiet or not console.is_terminal,
    ) as progress:  # fmt: skip
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def snapshot_text(snapshot: Snapshot) -> str:
    """The last status of a run."""
    return _text(status_view(snapshot))


def demo_text(summary: Summary) -> str:
    """What a demo stored and found."""
    protocols = _table(
        "What was sent, and what history holds",
        ["protocol", "sent", "stored", "missing", "unexpected", "duplicates", "bad quality"],
        [
            [name, f"{p['sent']:,}", f"{p['stored']:,}", p["missing"], p["unexpected"], p["duplicates"], p["bad"]]
            for name, p in summary.protocols.items()
        ],
    )
    faults = _table(
        "\nInjected faults",
        ["kind", "node", "found", "after s"],
        [[f["kind"], f["node"], "yes" if f["found"] else "NO", f["detected_after_s"]] for f in summary.faults],
    )
    latency = summary.latency
    tail = [
        f"\nincidents without a fault: {len(summary.unexplained)}",
        *(f"  {i['kind']} {i['node']} {i['start']}" for i in summary.unexplained),
        f"compression {summary.history['ratio']:.1f} : 1 ({summary.history['bytes_per_sample']:.2f} bytes a sample on disk)",
        f"to the journal's fsync p50 {latency['acknowledged_p50_ms']:.1f} ms, p99 {latency['acknowledged_p99_ms']:.1f} ms",
        f"to the Dask result     p50 {latency['processed_p50_ms']:.1f} ms, p99 {latency['processed_p99_ms']:.1f} ms",
        f"workers {min(summary.worker_counts)} to {max(summary.worker_counts)}",
        f"first sample stored {summary.first_stored_s:.1f} s after the start",
        f"data: {summary.data}   look: iiot-dask query {summary.data} --tags '*temperature' --every 10s",
    ]
    return _text(Group(protocols, faults, Text("\n".join(tail))))


def incidents_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Incidents for people."""
    if not rows:
        return "no incidents"
    cells = [
        [
            r["incident"],
            r["kind"],
            r["node"],
            len(r["tags"]),
            f"{r['start']:%Y-%m-%d %H:%M:%S}",
            "lasts" if r["end"] is None else f"{r['end']:%H:%M:%S}",
        ]
        for r in rows
    ]
    return _text(_table("", ["no", "kind", "node", "tags", "began (UTC)", "ended"], cells))


def history_text(action: str, document: Mapping[str, Any]) -> str:
    """A history report for people."""
    rows = [
        [key, f"{value:,}" if isinstance(value, int) else value]
        for key, value in document.items()
        if not isinstance(value, (list, dict))
    ]
    out = _text(_table("", [action, ""], rows))
    damaged = document.get("damaged")
    if damaged:
        out += "\n" + "\n".join(f"damaged: {item}" for item in damaged)
    return out
