"""The overview: figures of the moment, throughput, latency and backlog over time."""

from __future__ import annotations

from typing import Any

from iiot_dask.dashboard import theme
from iiot_dask.dashboard.chart import LiveChart
from iiot_dask.dashboard.store import Store


class OverviewView:
    """Tiles, and two live charts."""

    def __init__(self, store: Store) -> None:
        import panel as pn

        self.store = store
        self.tiles = pn.pane.HTML("", sizing_mode="stretch_width", css_classes=["iiot-tiles"])
        self.rate = LiveChart("Throughput, samples/s", [("rate", "samples/s", theme.BLUE)])
        self.latency = LiveChart(
            "Latency from socket, ms",
            [
                ("ack_p50_ms", "durable p50", theme.GREEN),
                ("ack_p99_ms", "durable p99", theme.BLUE),
                ("done_p50_ms", "processed p50", theme.GREY),
                ("done_p99_ms", "processed p99", theme.ORANGE),
            ],
        )

    def panel(self) -> Any:
        """The layout."""
        import panel as pn

        return pn.Column(
            self.tiles,
            pn.Row(self.rate.figure, self.latency.figure, sizing_mode="stretch_width"),
            sizing_mode="stretch_width",
        )

    def update(self, rows: Any) -> None:
        """Show new snapshots (SERIES_DTYPE rows) and the newest figures."""
        self.rate.add(rows)
        self.latency.add(rows)
        newest = self.store.newest
        if newest is None:
            self.tiles.object = theme.tile("engine", "no status yet", theme.GREY)
            return
        ratio = 16 * newest.stored_rows / newest.stored_bytes if newest.stored_bytes else float("nan")
        self.tiles.object = "".join(
            [
                theme.tile("engine", newest.state, theme.STATE_COLOURS.get(newest.state, theme.INK)),
                theme.tile("tags", theme.count_text(newest.tags)),
                theme.tile("samples", theme.count_text(newest.samples)),
                theme.tile("samples/s", theme.count_text(newest.samples_per_s), theme.BLUE),
                theme.tile("durable p99", theme.seconds_text(newest.acknowledged.p99)),
                theme.tile("processed p99", theme.seconds_text(newest.processed.p99)),
                theme.tile("backlog rows", theme.count_text(newest.backlog_rows)),
                theme.tile("stored rows", theme.count_text(newest.stored_rows)),
                theme.tile("compression", f"{ratio:.1f} : 1" if newest.stored_bytes else "-", theme.GREEN),
                theme.tile("memory", f"{newest.rss_bytes / 1e6:.0f} MB"),
                theme.tile("CPU", f"{newest.cpu_share:.0%} of a core"),
            ]
        )
