"""The cluster: workers now, wanted and forecast over time, and why."""

from __future__ import annotations

from html import escape
from typing import Any

from iiot_dask.dashboard import theme
from iiot_dask.dashboard.chart import LiveChart
from iiot_dask.dashboard.store import Store


class ClusterView:
    """One chart and one sentence."""

    def __init__(self, store: Store) -> None:
        import panel as pn

        self.store = store
        self.chart = LiveChart(
            "Dask workers",
            [("now", "now", theme.BLUE), ("wanted", "wanted", theme.ORANGE), ("forecast", "forecast", theme.GREEN)],
            step=True,
        )
        self.reason = pn.pane.HTML("", sizing_mode="stretch_width", css_classes=["iiot-workers"])

    def panel(self) -> Any:
        """The layout."""
        import panel as pn

        return pn.Column(self.chart.figure, self.reason, sizing_mode="stretch_width")

    def update(self, rows: Any) -> None:
        """Show new snapshots and the newest decision."""
        self.chart.add(rows)
        if self.store.newest is not None:
            w = self.store.newest.workers
            forecast = "not yet" if w.forecast is None else w.forecast
            self.reason.object = escape(
                f"{w.now} now, {w.wanted} wanted (reactive {w.reactive}, forecast {forecast}). {w.reason}"
            )
