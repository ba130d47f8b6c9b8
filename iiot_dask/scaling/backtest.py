"""`backtest`: a policy against a recorded or made-up demand, in a deterministic fluid simulation.

Each step the load arrives, workers that have booted take what they can, the rest waits (first in, first out). The policy
sees the load of the step, the backlog and the cluster; workers it asks for count as cost from then on, and work after
`boot_s`. The oracle knows every step in advance and has workers at once, just enough for the wanted utilisation.
Everything here is a simulation: ratios compare policies, they are no measurement of a cluster.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from iiot_dask.core.errors import ConfigError, SchemaError
from iiot_dask.core.jit import njit
from iiot_dask.core.times import SpanLike, span_ns
from iiot_dask.scaling.load import Observed
from iiot_dask.scaling.policy import Policy, Sizing

if TYPE_CHECKING:
    import polars as pl

DAY_S = 86_400.0
BOOTS_MAX = 100_000

# Columns of the accumulator.
_BACKLOG, _COST, _ORACLE, _ARRIVED, _LATE, _SURGE_ARRIVED, _SURGE_LATE, _OVER, _TIME, _WAIT = range(10)


@njit
def _advance(
    rate: npt.NDArray[np.float64],
    surge: npt.NDArray[np.bool_],
    dt: float,
    now: float,
    boots: npt.NDArray[np.float64],
    workers: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.float64],
    acc: npt.NDArray[np.float64],
    trace: npt.NDArray[np.float64],
    scored: bool,
) -> None:
    """Run the fluid queue over the steps of `rate`; `workers` = (ready, first booting, after last booting)."""
    capacity, utilisation, minimum = sizes
    for i in range(len(rate)):
        while workers[1] < workers[2] and boots[workers[1] % len(boots)] <= now:
            workers[0] += 1
            workers[1] += 1
        power = capacity * workers[0]
        arrived = rate[i] * dt
        wait = 0.0
        if acc[_BACKLOG] > 0:
            wait = acc[_BACKLOG] / power if power > 0 else np.inf
        asked = acc[_BACKLOG] + arrived
        acc[_BACKLOG] = max(0.0, asked - power * dt)
        trace[i, 0] = workers[0]
        trace[i, 1] = acc[_BACKLOG]
        trace[i, 2] = min(wait, 1e9)
        now += dt
        if not scored:
            continue
        # What arrives in the middle of the step stands for all of it.
        after = acc[_BACKLOG] / power if power > 0 else np.inf
        middle = 0.5 * (wait + after) if acc[_BACKLOG] > 0 or wait > 0 else 0.0
        late = arrived if middle > 1.0 else 0.0
        if surge[i]:
            acc[_SURGE_ARRIVED] += arrived
            acc[_SURGE_LATE] += late
        else:
            acc[_ARRIVED] += arrived
            acc[_LATE] += late
            acc[_TIME] += dt
            if asked > utilisation * power * dt * (1.0 + 1e-9):
                acc[_OVER] += dt
        acc[_WAIT] = max(acc[_WAIT], min(middle, 1e9))
        acc[_COST] += dt * (workers[0] + workers[2] - workers[1])
        acc[_ORACLE] += dt * max(minimum, np.ceil(rate[i] / (capacity * utilisation) - 1e-9))


@dataclass(frozen=True, slots=True)
class Report:
    """What a policy cost and how late it was; a simulation.

    Parameters
    ----------
    cost_ratio
        Worker-seconds (booting included) over the oracle's.
    late_share
        Share of messages that waited over 1 s, surges left out.
    surge_late_share
        The same within rows marked as surge; NaN without such rows.
    over_70_share
        Share of time in which workers were used above the wanted utilisation, surges left out.
    actions_per_day
        Changes of the wanted number per day of the plant.
    wait_s_max
        Longest wait, seconds.
    worker_s
        Worker-seconds.
    worker_s_per_million
        Worker-seconds per million messages.
    peak_workers
        Most workers at once.
    days
        Scored length, days of 24 h.
    series
        One row a step: ``time``, ``rate``, ``workers`` (ready), ``wanted``, ``backlog``, ``wait_s``.
    """

    cost_ratio: float
    late_share: float
    surge_late_share: float
    over_70_share: float
    actions_per_day: float
    wait_s_max: float
    worker_s: float
    worker_s_per_million: float
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


def backtest(
    demand: pl.DataFrame,
    policy: Policy,
    boot_s: float = 90.0,
    *,
    capacity: float | None = None,
    utilisation: float | None = None,
    every: SpanLike = "10s",
    unscored: SpanLike = 0,
    minimum: int | None = None,
    day_s: float = DAY_S,
) -> Report:
    """Run a policy over a demand.

    Parameters
    ----------
    demand
        Rows ``time`` (datetime or ns) at equal steps and ``rate`` (messages/s); a bool column ``surge`` marks rows that
        are scored apart.
    policy
        A fresh one; it is used up.
    boot_s
        True boot time of the simulated workers, seconds.
    capacity, utilisation, minimum
        Of the simulated workers and of the oracle; by default the policy's own.
    every
        How often the policy is asked (at least one step).
    unscored
        So much of the beginning is only learnt from.
    day_s
        Length of the plant's day, for `actions_per_day`, seconds.

    Raises
    ------
    SchemaError
        If a column is missing, steps are unequal, or a rate is negative or not a number.
    ConfigError
        If nothing is left to score.

    Examples
    --------
    >>> from iiot_dask.scaling.demand import factory_demand
    >>> from iiot_dask.scaling.policy import policy
    >>> demand = factory_demand(4, seed=1, step_s=10.0)
    >>> peak = backtest(demand, policy=policy("static", capacity=1000.0, workers=40))
    >>> round(peak.cost_ratio, 1), peak.late_share, peak.actions_per_day
    (1.9, 0.0, 0.0)
    """
    import polars as pl

    time, rate, surge, dt = _steps(demand)
    sizing: Sizing | None = getattr(policy, "sizing", None)
    if sizing is None and (capacity is None or utilisation is None):
        msg = "a policy without `sizing` needs capacity= and utilisation="
        raise ConfigError(msg)
    sizes = np.array(
        [
            sizing.capacity if capacity is None and sizing else capacity,
            sizing.utilisation if utilisation is None and sizing else utilisation,
            sizing.minimum if minimum is None and sizing else minimum or 0,
        ],
        np.float64,
    )
    stride = max(1, round(span_ns(every) / 1e9 / dt))
    skip = round(span_ns(unscored) / 1e9 / dt)
    if skip >= len(rate):
        msg = f"unscored {unscored!r} leaves nothing of a demand of {len(rate) * dt:.0f} s"
        raise ConfigError(msg)
    trace = np.empty((len(rate), 3))
    wanted = np.empty(len(rate), np.int64)
    acc = np.zeros(10)
    boots = np.zeros(BOOTS_MAX)
    first = policy.decide(int(time[0]), Observed(float(rate[0])))
    workers = np.array([first, 0, 0], np.int64)
    actions, before = 0, first
    for at in range(0, len(rate), stride):
        stop = min(at + stride, len(rate))
        now = at * dt
        shown = Observed(float(rate[at]), float(acc[_BACKLOG]), int(workers[0]), int(workers[2] - workers[1]))
        want = policy.decide(int(time[at]), shown)
        _scale(want, now + boot_s, boots, workers)
        actions += (want != before) and at >= skip
        before = want
        wanted[at:stop] = want
        _advance(rate[at:stop], surge[at:stop], dt, now, boots, workers, sizes, acc, trace[at:stop], at >= skip)
    days = (len(rate) - skip) * dt / DAY_S
    series = pl.DataFrame(
        {
            "time": pl.Series(time).cast(pl.Datetime("ns", "UTC")),
            "rate": rate,
            "workers": trace[:, 0].astype(np.int64),
            "wanted": wanted,
            "backlog": trace[:, 1],
            "wait_s": trace[:, 2],
        }
    )
    total = acc[_ARRIVED] + acc[_SURGE_ARRIVED]
    return Report(
        cost_ratio=float(acc[_COST] / acc[_ORACLE]) if acc[_ORACLE] else float("nan"),
        late_share=float(acc[_LATE] / acc[_ARRIVED]) if acc[_ARRIVED] else 0.0,
        surge_late_share=float(acc[_SURGE_LATE] / acc[_SURGE_ARRIVED]) if acc[_SURGE_ARRIVED] else float("nan"),
        over_70_share=float(acc[_OVER] / acc[_TIME]) if acc[_TIME] else 0.0,
        actions_per_day=actions / (days * DAY_S / day_s),
        wait_s_max=float(acc[_WAIT]),
        worker_s=float(acc[_COST]),
        worker_s_per_million=float(acc[_COST] / total * 1e6) if total else float("nan"),
        peak_workers=int(trace[skip:, 0].max()),
        days=days,
        series=series,
    )


def _scale(want: int, ready_at: float, boots: npt.NDArray[np.float64], workers: npt.NDArray[np.int64]) -> None:
    """Ask for or give back workers; those that have not booted go first."""
    have = int(workers[0] + workers[2] - workers[1])
    if want > have:
        for _ in range(min(want - have, len(boots) - int(workers[2] - workers[1]))):
            boots[int(workers[2]) % len(boots)] = ready_at
            workers[2] += 1
    elif want < have:
        cancelled = min(have - want, int(workers[2] - workers[1]))
        workers[2] -= cancelled
        workers[0] -= have - want - cancelled


def _steps(
    demand: pl.DataFrame,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.bool_], float]:
    import polars as pl

    if not {"time", "rate"} <= set(demand.columns):
        msg = f"demand has columns {demand.columns}; 'time' and 'rate' are needed"
        raise SchemaError(msg)
    moments = demand["time"]
    if isinstance(moments.dtype, pl.Datetime):
        moments = moments.dt.cast_time_unit("ns")
    time = moments.cast(pl.Int64).to_numpy()
    rate = demand["rate"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    if len(time) < 2:
        msg = f"demand has {len(time)} rows; at least 2 are needed"
        raise SchemaError(msg)
    gaps = np.diff(time)
    if gaps[0] <= 0 or (abs(gaps - gaps[0]) > 1000).any():
        msg = f"demand's steps are between {gaps.min()} and {gaps.max()} ns; they must be equal and above 0"
        raise SchemaError(msg)
    if not (rate >= 0).all() or np.isinf(rate).any():
        msg = "demand's rate holds a number that is negative or not finite"
        raise SchemaError(msg)
    surge = demand["surge"].to_numpy() if "surge" in demand.columns else np.zeros(len(rate), np.bool_)
    return time, np.ascontiguousarray(rate), np.ascontiguousarray(surge), float(gaps[0]) / 1e9
