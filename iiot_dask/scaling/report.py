"""`Report`: what a policy cost and how late it was in a back-test."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, slots=True)
class Report:
    """What a policy cost and how late it was; a simulation.

    Parameters
    ----------
    cost_ratio
        Worker-seconds (booting and billing minimums included) over the oracle's.
    static_ratio
        The same of a cluster that is always as large as the busiest instant needs.
    late_share
        Share of messages that waited over 1 s, surges left out.
    surge_late_share
        The same within rows marked as surge; NaN without such rows.
    violation_share
        Share of all messages that waited over 1 s, surges included.
    over_70_share
        Share of time in which workers were used above the wanted utilisation, surges left out.
    actions_per_day
        Changes of the wanted number per day of the plant.
    oscillations_per_day
        Rises undone, or falls undone, within ten minutes of a day of 24 h.
    wait_s_max, wait_s_p99, wait_s_p999
        Longest wait, and what 99 % and 99.9 % of the messages waited at most, seconds.
    behind_s
        Time in which messages waited over 1 s, seconds.
    worker_s
        Worker-seconds.
    worker_s_per_million
        Worker-seconds per million messages.
    correlation
        Pearson's r of hourly mean workers and hourly mean load (of a day of 24 h); NaN for less than three hours.
    peak_workers
        Most workers at once.
    days
        Scored length, days of 24 h.
    series
        One row a step: ``time``, ``rate``, ``workers`` (ready), ``wanted``, ``backlog``, ``wait_s``.
    """

    cost_ratio: float
    static_ratio: float
    late_share: float
    surge_late_share: float
    violation_share: float
    over_70_share: float
    actions_per_day: float
    oscillations_per_day: float
    wait_s_max: float
    wait_s_p99: float
    wait_s_p999: float
    behind_s: float
    worker_s: float
    worker_s_per_million: float
    correlation: float
    peak_workers: int
    days: float
    series: pl.DataFrame

    def document(self) -> dict[str, Any]:
        """The numbers as plain data."""
        return {k: v for k, v in asdict(self).items() if k != "series"}

    def plot(self, points: int = 4000) -> Any:
        """A Bokeh figure: load, and workers ready and wanted, thinned to about `points` rows by their maxima."""
        from bokeh.models import LinearAxis, Range1d
        from bokeh.plotting import figure

        every = max(1, self.series.height // points)
        import polars as pl

        thin = self.series.group_by((pl.int_range(pl.len()) // every).alias("bin"), maintain_order=True).agg(
            pl.col("time").first(), pl.col("rate", "workers", "wanted").max()
        )
        time = thin["time"].cast(pl.Datetime("ms")).to_numpy()
        out = figure(
            x_axis_type="datetime", height=320, sizing_mode="stretch_width", title="Load and workers (simulated)"
        )
        out.yaxis.axis_label = "messages/s"
        top = max(1.0, float(thin["rate"].max() or 1)) * 1.05  # type: ignore[arg-type]
        out.y_range = Range1d(0, top)
        most = max(1, self.peak_workers, int(thin["wanted"].max() or 1))  # type: ignore[arg-type]
        out.extra_y_ranges = {"workers": Range1d(0, most * 1.05)}
        out.add_layout(LinearAxis(y_range_name="workers", axis_label="workers"), "right")
        out.line(time, thin["rate"].to_numpy(), legend_label="load", color="#999999")
        for name, colour in (("wanted", "#e08214"), ("workers", "#2166ac")):
            out.step(time, thin[name].to_numpy(), y_range_name="workers", mode="after", legend_label=name, color=colour)
        return out

    def _repr_html_(self) -> str:
        """The numbers as a table."""
        rows = "".join(f"<tr><td>{k}</td><td>{v:.6g}</td></tr>" for k, v in self.document().items())
        return f"<table><caption>Back-test (simulated)</caption>{rows}</table>"


def pareto(points: dict[str, tuple[float, float]]) -> Any:
    """A Bokeh figure of cost against lateness: ``{policy: (cost ratio, late share)}``, both the smaller the better.

    Shares below one in a million are drawn at one in a million: the axis is logarithmic.
    """
    from bokeh.plotting import figure

    out = figure(
        y_axis_type="log",
        height=360,
        sizing_mode="stretch_width",
        title="Cost against lateness (simulated)",
        x_axis_label="worker-seconds over the oracle's",
        y_axis_label="share of messages later than 1 s",
    )
    names = list(points)
    cost = [points[name][0] for name in names]
    late = [max(1e-6, points[name][1]) for name in names]
    out.scatter(cost, late, size=9, color="#2166ac")
    out.text(cost, late, text=names, x_offset=6, y_offset=4, text_font_size="9pt")
    return out
