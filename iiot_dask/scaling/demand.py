"""Seeded demand: a factory (shifts, ramps, start bursts, jitter, weekends, growth, surges), and one without a clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import polars as pl

START_NS = 1_767_571_200_000_000_000
"""2026-01-05T00:00:00Z, a Monday."""


def factory_demand(
    days: int = 42,
    *,
    seed: int = 0,
    step_s: float = 1.0,
    peak: float = 20_000.0,
    levels: tuple[float, ...] = (0.35, 1.0, 0.75),
    weekend: float = 1.0,
    surges: int = 12,
    growth: float = 0.004,
    noise: float = 0.03,
) -> pl.DataFrame:
    """Messages per second of a plant with shifts at 22, 6 and 14 o'clock.

    Parameters
    ----------
    days, step_s
        Length, and seconds between rows.
    peak
        Load of the busiest shift on the first day, messages/s.
    levels
        Load of the night, early and late shift as a share of `peak`.
    weekend
        Factor on Saturday and Sunday.
    surges
        Unannounced rises to 1.6 times for 20 minutes, from the third week on.
    growth
        Per day.
    noise
        Relative standard deviation, per step and (slowly) per day.

    Returns
    -------
    polars.DataFrame
        ``time`` (datetime[ns, UTC]), ``rate`` (float64), ``surge`` (bool: in a surge or within 15 min after one).

    Examples
    --------
    >>> demand = factory_demand(2, seed=1, step_s=60.0)
    >>> demand.columns, demand.height
    (['time', 'rate', 'surge'], 2880)
    """
    import polars as pl

    rng = np.random.default_rng(seed)
    n = round(days * 86_400 / step_s)
    t = np.arange(n) * step_s
    rate = np.full(n, levels[0])
    before = levels[0]
    for day in range(days):
        factor = weekend if day % 7 >= 5 else 1.0
        for hour, level in ((6, levels[1]), (14, levels[2]), (22, levels[0])):
            begin = day * 86_400 + hour * 3600 + rng.uniform(-90, 90)
            after = level * (factor if hour != 22 else 1.0)
            ramp = np.clip((t - begin) / 180, 0, 1)
            rate += (after - before) * ramp
            # Machines start up: more messages for ten minutes.
            age = t - begin
            rate += np.where((age > 0) & (age < 600), 0.15 * after * np.minimum(age / 60, 1) * (1 - age / 600), 0)
            before = after
    rate *= peak * (1 + growth) ** (t / 86_400)
    daily = 1 + rng.normal(0, noise, days + 1)
    rate *= np.interp(t / 86_400, np.arange(days + 1), daily)
    rate *= np.maximum(0.0, 1 + rng.normal(0, noise, n))
    surge = np.zeros(n, np.bool_)
    if days > 14:
        for begin in np.sort(rng.uniform(14 * 86_400, days * 86_400, surges)):
            rate[(t >= begin) & (t < begin + 1200)] *= 1.6
            surge |= (t >= begin) & (t < begin + 2100)
    time = pl.Series(START_NS + (t * 1e9).astype(np.int64)).cast(pl.Datetime("ns", "UTC"))
    return pl.DataFrame({"time": time, "rate": rate, "surge": surge})


def irregular_demand(days: int = 28, *, seed: int = 0, step_s: float = 10.0, mean: float = 10_000.0) -> pl.DataFrame:
    """Messages per second without a clock: a slowly wandering level and bursts at any time; what no profile can foresee.

    Parameters
    ----------
    days, step_s
        Length, and seconds between rows.
    mean
        Middle of the level, messages/s.

    Returns
    -------
    polars.DataFrame
        ``time`` (datetime[ns, UTC]), ``rate`` (float64).

    Examples
    --------
    >>> irregular_demand(1, seed=2, step_s=60.0).height
    1440
    """
    import polars as pl

    rng = np.random.default_rng(seed)
    n = round(days * 86_400 / step_s)
    # A level that forgets within half a day, drawn each minute.
    minutes = np.empty(round(days * 1440) + 2)
    keep = np.exp(-1 / 720)
    state = 0.0
    for at, shock in enumerate(rng.normal(0, np.sqrt(1 - keep**2), len(minutes))):
        state = keep * state + shock
        minutes[at] = state
    t = np.arange(n) * step_s
    rate = mean * np.exp(0.35 * np.interp(t / 60, np.arange(len(minutes)), minutes))
    for begin in rng.uniform(0, days * 86_400, days * 6):
        length, height = rng.exponential(900), rng.uniform(0.3, 1.2)
        rate[(t >= begin) & (t < begin + length)] *= 1 + height
    rate *= np.maximum(0.0, 1 + rng.normal(0, 0.05, n))
    time = pl.Series(START_NS + (t * 1e9).astype(np.int64)).cast(pl.Datetime("ns", "UTC"))
    return pl.DataFrame({"time": time, "rate": rate})
