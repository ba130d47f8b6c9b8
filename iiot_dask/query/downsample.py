"""Fewer points that draw the same picture: spikes stay, the outline stays.

MinMax preselection, then largest-triangle-three-buckets (Steinarsson, "Downsampling Time Series for Visual
Representation", 2013; MinMaxLTTB: Van Der Donckt et al., IEEE VIS 2023), by `tsdownsample`.
"""

from __future__ import annotations

import glob
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

from iiot_dask.core.errors import ConfigError

if TYPE_CHECKING:
    from iiot_dask.history import History

DECODE_MAX = 5_000_000
"""A trend over more stored samples than this is drawn from windows (minimum and maximum) instead of samples."""

Points = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]


def downsample(time: npt.NDArray[np.int64], value: npt.NDArray[np.float64], points: int) -> Points:
    """At most `points` of the samples, in order; the first and the last are among them.

    Parameters
    ----------
    time, value
        int64 ns, ascending; float64 without NaN; equal lengths.
    points
        At least 3.

    Raises
    ------
    ConfigError
        If `points` is below 3.

    Examples
    --------
    >>> t = np.arange(1_000_000, dtype=np.int64); v = np.zeros(1_000_000); v[345_678] = 9.0
    >>> shown = downsample(t, v, 500)
    >>> len(shown[0]) <= 500, float(shown[1].max())
    (True, 9.0)
    """
    if points < 3:
        msg = f"a trend of {points} points; at least 3 are wanted"
        raise ConfigError(msg)
    if len(time) <= points:
        return time, value
    from tsdownsample import MinMaxLTTBDownsampler

    # Times as an offset in float64 would lose ns; the sampler takes int64 as they are.
    at = MinMaxLTTBDownsampler().downsample(time, value, n_out=points)
    picked = np.unique(at.astype(np.int64))
    return time[picked], value[picked]


def trend(history: History, tag: str, start: int, end: int, points: int) -> Points:
    """Times (int64 ns) and values of one tag for a chart, at most `points`; bad and NaN samples are left out.

    Parameters
    ----------
    history
        Where to look.
    tag
        Exact name; one the history does not know gives no points.
    start, end
        ``start <= time < end``, ns since 1970-01-01 UTC.
    points
        Most points, at least 3.

    Raises
    ------
    ConfigError
        If `points` is below 3.
    ChecksumError
        If a file is damaged.
    """
    name = glob.escape(tag)
    rows, _ = history.select(name, start, end - 1)
    if int(rows.head["count"].sum()) > DECODE_MAX and len(rows):
        return _from_windows(history, name, start, end, points)
    keep = (pl.col("quality") < 128) & pl.col("value").is_not_nan()
    found = history.scan(name, start, end).filter(keep).select("time", "value").collect()
    return downsample(found["time"].to_physical().to_numpy(), found["value"].to_numpy(), points)


def _from_windows(history: History, name: str, start: int, end: int, points: int) -> Points:
    """Minimum and maximum of each of ``points // 2`` windows, drawn at the window's first and third quarter."""
    every = max(1, -(-(end - start) // max(1, points // 2 - 1)))
    found = history.aggregate(f"{every}ns", name, start, end).select("time", "min", "max").collect()
    begin = found["time"].to_physical().to_numpy()
    time = np.stack([begin + every // 4, begin + every * 3 // 4], axis=1).ravel()
    value = np.stack([found["min"].to_numpy(), found["max"].to_numpy()], axis=1).ravel()
    return time[:points], value[:points]
