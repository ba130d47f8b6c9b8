"""`backtest`: a policy against a recorded or made-up demand, in a deterministic fluid simulation (`plant.py`).

The policy sees the load of the step, the backlog and the cluster; workers it asks for count as cost from then on, and work
after they have booted. The oracle knows every step in advance and has workers at once, just enough for the wanted
utilisation. Everything here is a simulation: ratios compare policies, they are no measurement of a cluster.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from iiot_dask.core.errors import ConfigError, SchemaError
from iiot_dask.core.times import SpanLike, span_ns
from iiot_dask.scaling import plant
from iiot_dask.scaling.load import Observed
from iiot_dask.scaling.plant import Faults, SimulatedCluster
from iiot_dask.scaling.report import Report
from iiot_dask.scaling.sizing import Sizing

if TYPE_CHECKING:
    import polars as pl

DAY_S = 86_400.0
HOUR_S = 3600.0
UNDONE_S = 600.0


class Decides(Protocol):
    """All a back-test needs of a policy."""

    def decide(self, now: int, observed: Observed | None) -> int:
        """The number of workers wanted at `now`, ns since 1970-01-01 UTC; None: there are no metrics."""
        ...


def backtest(
    demand: pl.DataFrame,
    policy: Decides,
    boot_s: float = 90.0,
    *,
    capacity: float | None = None,
    utilisation: float | None = None,
    every: SpanLike = "10s",
    unscored: SpanLike = 0,
    minimum: int | None = None,
    day_s: float = DAY_S,
    faults: Faults | None = None,
) -> Report:
    """Run a policy over a demand.

    Parameters
    ----------
    demand
        Rows ``time`` (datetime or ns) at equal steps and ``rate`` (messages/s); a bool column ``surge`` marks rows that
        are scored apart; a bool column ``trusted`` is false where the load is meaningless, as in an outage.
    policy
        A fresh one; it is used up.
    boot_s
        True (median) boot time of the simulated workers, seconds.
    capacity, utilisation, minimum
        Of the simulated workers and of the oracle; by default the policy's own.
    every
        How often the policy is asked (at least one step).
    unscored
        So much of the beginning is only learnt from.
    day_s
        Length of the plant's day, for `actions_per_day`, seconds.
    faults
        What goes wrong in the simulated cluster.

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
    faults = faults or Faults()
    time, rate, surge, dt = _steps(demand)
    trusted = demand["trusted"].to_numpy() if "trusted" in demand.columns else np.ones(len(rate), np.bool_)
    sizes = _sizes(policy, capacity, utilisation, minimum, faults)
    stride = max(1, round(span_ns(every) / 1e9 / dt))
    skip = round(span_ns(unscored) / 1e9 / dt)
    if skip >= len(rate):
        msg = f"unscored {unscored!r} leaves nothing of a demand of {len(rate) * dt:.0f} s"
        raise ConfigError(msg)
    trace = np.empty((len(rate), 4))
    wanted = np.empty(len(rate), np.int64)
    acc = np.zeros(11)
    chance = np.random.default_rng([faults.seed, 1]).random(len(rate) if faults.loss_per_h else 1)
    before = policy.decide(int(time[0]), Observed(float(rate[0])))
    cluster = SimulatedCluster(before, boot_s, faults)
    arrived_mean, power = float(rate[0]), 0.0
    changes: list[tuple[float, int]] = []
    for at in range(0, len(rate), stride):
        stop = min(at + stride, len(rate))
        now = at * dt
        power = float(sizes[0]) * cluster.ready
        served = min(power, arrived_mean + float(acc[plant.BACKLOG]) / (stride * dt))
        shown = None
        if not any(start <= now < end for start, end in faults.gaps):
            shown = Observed(
                float(rate[at]),
                float(acc[plant.BACKLOG]),
                cluster.ready,
                cluster.booting,
                served,
                min(1.0, served / power) if power > 0 else float("nan"),
                trusted=bool(trusted[at]),
            )
        want = policy.decide(int(time[at]), shown)
        owed = cluster.scale(want, now)
        if at >= skip:
            acc[plant.COST] += owed
            if want != before:
                changes.append((now, want - before))
        before = want
        wanted[at:stop] = want
        part = slice(at, stop)
        draws = chance[part] if faults.loss_per_h else chance[:0]
        plant.advance(
            rate[part], surge[part], draws, dt, now, cluster.boots, cluster.born, cluster.counts, sizes, acc, trace[part], at >= skip
        )  # fmt: skip
        arrived_mean = float(rate[part].mean())
    return _report(time, rate, wanted, trace, acc, changes, skip, dt, day_s, sizes)


def _sizes(
    policy: Decides, capacity: float | None, utilisation: float | None, minimum: int | None, faults: Faults
) -> npt.NDArray[np.float64]:
    sizing: Sizing | None = getattr(policy, "sizing", None)
    if sizing is None and (capacity is None or utilisation is None):
        msg = "a policy without `sizing` needs capacity= and utilisation="
        raise ConfigError(msg)
    return np.array(
        [
            sizing.capacity if capacity is None and sizing else capacity,
            sizing.utilisation if utilisation is None and sizing else utilisation,
            sizing.minimum if minimum is None and sizing else minimum or 0,
            faults.loss_per_h / HOUR_S,
        ],
        np.float64,
    )


def _report(
    time: npt.NDArray[np.int64],
    rate: npt.NDArray[np.float64],
    wanted: npt.NDArray[np.int64],
    trace: npt.NDArray[np.float64],
    acc: npt.NDArray[np.float64],
    changes: list[tuple[float, int]],
    skip: int,
    dt: float,
    day_s: float,
    sizes: npt.NDArray[np.float64],
) -> Report:
    import polars as pl

    scored, waits = rate[skip:], trace[skip:, plant.T_LATE]
    days = len(scored) * dt / DAY_S
    series = pl.DataFrame(
        {
            "time": pl.Series(time).cast(pl.Datetime("ns", "UTC")),
            "rate": rate,
            "workers": trace[:, plant.T_READY].astype(np.int64),
            "wanted": wanted,
            "backlog": trace[:, plant.T_BACKLOG],
            "wait_s": trace[:, plant.T_WAIT],
        }
    )
    total = acc[plant.ARRIVED] + acc[plant.SURGE_ARRIVED]
    peak = max(sizes[2], np.ceil(scored.max() / (sizes[0] * sizes[1]) - 1e-9))
    p99, p999 = _weighted(waits, scored, (0.99, 0.999))
    scale = day_s / DAY_S
    undone = sum(
        (a > 0) != (b > 0) and later - sooner < UNDONE_S * scale
        for (sooner, a), (later, b) in itertools.pairwise(changes)
    )
    return Report(
        cost_ratio=float(acc[plant.COST] / acc[plant.ORACLE]) if acc[plant.ORACLE] else float("nan"),
        static_ratio=float(peak * len(scored) * dt / acc[plant.ORACLE]) if acc[plant.ORACLE] else float("nan"),
        late_share=float(acc[plant.LATE] / acc[plant.ARRIVED]) if acc[plant.ARRIVED] else 0.0,
        surge_late_share=(
            float(acc[plant.SURGE_LATE] / acc[plant.SURGE_ARRIVED]) if acc[plant.SURGE_ARRIVED] else float("nan")
        ),
        violation_share=float((acc[plant.LATE] + acc[plant.SURGE_LATE]) / total) if total else 0.0,
        over_70_share=float(acc[plant.OVER] / acc[plant.TIME]) if acc[plant.TIME] else 0.0,
        actions_per_day=len(changes) / (days / scale),
        oscillations_per_day=undone / (days / scale),
        wait_s_max=float(acc[plant.WAIT]),
        wait_s_p99=p99,
        wait_s_p999=p999,
        behind_s=float(acc[plant.BEHIND]),
        worker_s=float(acc[plant.COST]),
        worker_s_per_million=float(acc[plant.COST] / total * 1e6) if total else float("nan"),
        correlation=_correlation(scored, trace[skip:, plant.T_READY], max(1, round(HOUR_S * scale / dt))),
        peak_workers=int(trace[skip:, plant.T_READY].max()),
        days=days,
        series=series,
    )


def _weighted(
    values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], shares: tuple[float, ...]
) -> list[float]:
    """Quantiles of `values` that count by `weights`."""
    order = np.argsort(values)
    reach = np.cumsum(weights[order])
    if reach[-1] <= 0:
        return [0.0 for _ in shares]
    return [float(values[order[min(len(order) - 1, np.searchsorted(reach, s * reach[-1]))]]) for s in shares]


def _correlation(load: npt.NDArray[np.float64], workers: npt.NDArray[np.float64], bins: int) -> float:
    """Pearson's r of the means over `bins` steps each."""
    n = len(load) // bins
    if n < 3:
        return float("nan")
    a, b = (x[: n * bins].reshape(n, bins).mean(axis=1) for x in (load, workers))
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else float("nan")


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
