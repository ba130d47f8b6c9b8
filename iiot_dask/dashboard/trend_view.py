"""Any tag's trend, down-sampled on the server: a browser never gets more points than it has pixels."""

from __future__ import annotations

from typing import Any

import structlog

from iiot_dask.core.errors import IiotError
from iiot_dask.core.times import span_ns
from iiot_dask.dashboard import theme
from iiot_dask.dashboard.store import Store

POINTS = 1200
SPANS = {"1 minute": "1m", "10 minutes": "10m", "1 hour": "1h", "1 day": "1d", "30 days": "30d"}

log = structlog.get_logger("iiot_dask.dashboard")


class TrendView:
    """A filter, a choice of tags, a span, and the line."""

    def __init__(self, store: Store) -> None:
        import panel as pn
        from bokeh.models import ColumnDataSource
        from bokeh.plotting import figure

        self.store = store
        self.filter = pn.widgets.TextInput(label="Find tag (text or glob)", placeholder="press*/temperature", width=240)
        self.tag = pn.widgets.Select(label="Tag", options=store.choices(""), width=360)
        self.span = pn.widgets.Select(label="Span", options=SPANS, value="1m", width=130)
        self.note = pn.pane.HTML("", sizing_mode="stretch_width", css_classes=["iiot-trend-note"])
        self.source = ColumnDataSource({"time_ms": [], "value": []})
        self.figure = figure(x_axis_type="datetime", height=300, sizing_mode="stretch_width", toolbar_location="right")
        self.figure.line("time_ms", "value", source=self.source, color=theme.BLUE, line_width=1.5)
        self.filter.param.watch(lambda _: self.choose(), "value")
        self.tag.param.watch(lambda _: self.update(), "value")
        self.span.param.watch(lambda _: self.update(), "value")

    def panel(self) -> Any:
        """The layout."""
        import panel as pn

        return pn.Column(pn.Row(self.filter, self.tag, self.span), self.figure, self.note, sizing_mode="stretch_width")

    def choose(self) -> None:
        """Offer the tags that fit the filter."""
        options = self.store.choices(self.filter.value_input or self.filter.value or "")
        if self.tag.value in options or not self.tag.value:
            self.tag.options = options
        else:
            self.tag.options = [self.tag.value, *options]

    def update(self) -> None:
        """Draw the newest span of the chosen tag."""
        if not self.tag.options:
            self.choose()
        newest, tag = self.store.newest, self.tag.value
        if newest is None or not tag or self.store.trends is None:
            return
        try:
            times, values = self.store.trends.trend(
                tag, newest.time_ns - span_ns(self.span.value), newest.time_ns + 1, POINTS
            )
        except IiotError as error:
            # A damaged file must not take the page down: it is said where the line would be.
            self.note.object = theme.tile("trend", str(error), theme.RED)
            log.warning("trend not drawn", tag=tag, error=str(error))
            return
        self.source.data = {"time_ms": times / 1e6, "value": values}
        self.figure.title.text = tag
        self.note.object = f'<span style="color:{theme.GREY}">{len(times)} points shown</span>'
