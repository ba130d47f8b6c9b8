"""A Bokeh line chart that follows the store: streamed with a roll-over, so a session's memory stays flat."""

from __future__ import annotations

from typing import Any

from iiot_dask.dashboard.store import POINTS_MAX


class LiveChart:
    """Lines over time of some of the store's series.

    Parameters
    ----------
    title
        Shown above the plot, with the unit.
    lines
        (series name, legend, colour).
    step
        Draw steps instead of slopes, for counts of workers.
    """

    def __init__(self, title: str, lines: list[tuple[str, str, str]], *, step: bool = False) -> None:
        from bokeh.models import ColumnDataSource
        from bokeh.plotting import figure

        self.names = [name for name, _, _ in lines]
        self.source = ColumnDataSource({"time_ms": [], **{name: [] for name in self.names}})
        self.figure = figure(
            title=title, x_axis_type="datetime", height=230, sizing_mode="stretch_width", toolbar_location=None,
            output_backend="canvas",
        )  # fmt: skip
        self.figure.y_range.start = 0
        for name, legend, colour in lines:
            options = {
                "x": "time_ms",
                "y": name,
                "source": self.source,
                "color": colour,
                "line_width": 2,
                "legend_label": legend,
            }
            if step:
                self.figure.step(mode="after", **options)
            else:
                self.figure.line(**options)
        self.figure.legend.location = "top_left"
        self.figure.legend.label_text_font_size = "11px"
        self.figure.legend.background_fill_alpha = 0.6
        self.figure.legend.visible = len(lines) > 1

    def add(self, rows: Any) -> None:
        """Append SERIES_DTYPE rows; the oldest beyond `POINTS_MAX` roll over."""
        if len(rows):
            self.source.stream({name: rows[name] for name in ("time_ms", *self.names)}, rollover=POINTS_MAX)
