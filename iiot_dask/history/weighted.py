"""Time-weighted means: each value counts for as long as it held, or a straight line between neighbours is averaged.

The mean of samples answers "what was sent", this one "what was there": a slow tag that changed late in the hour weighs as
little as it lasted. Source: OPC UA Part 13 (Historical Access, aggregates TimeAverage and Interpolative), with bad samples
left out. Where no line can be drawn and nothing held before, time before a tag's first sample does not count.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from iiot_dask.core.errors import ConfigError
from iiot_dask.core.jit import njit
from iiot_dask.history.index import NS_MAX, Rows
from iiot_dask.history.latest import Nearest
from iiot_dask.history.place import join, split
from iiot_dask.history.read import in_order, plan
from iiot_dask.history.resample import RULES
from iiot_dask.history.store import Store
from iiot_dask.history.windows import Windows, window_of

Ints = npt.NDArray[np.int64]


@njit
def add_kernel(
    t: int, a: int, b: int, t0: int, v0: float, t1: int, v1: float, linear: bool, anchors: Any, every: int,
    n: int, out_tag: Any, out_window: Any, out_area: Any, out_weight: Any,
) -> int:  # fmt: skip
    """Spread the stretch ``a..b`` of a tag over the windows of its two ends; those between hold no sample. Returns `n`."""
    start, end = window_of(a, anchors, every)
    for side in range(2):
        low, high = a, min(b, end)
        if side == 1:
            if b <= end:
                break
            start, end = window_of(b, anchors, every)
            low, high = start, b
        if high <= low:
            continue
        middle = v0
        if linear and t1 > t0:
            middle += (v1 - v0) * (((low - t0) + (high - t0)) / 2.0 / (t1 - t0))
        if n == 0 or out_tag[n - 1] != t or out_window[n - 1] != start:
            out_tag[n], out_window[n], out_area[n], out_weight[n] = t, start, 0.0, 0.0
            n += 1
        weight = np.float64(high - low)
        out_area[n - 1] += middle * weight
        out_weight[n - 1] += weight
    return n


@njit
def weigh_kernel(
    at: Any, first_tag: int, time: Any, value: Any, quality: Any, low: int, linear: bool, anchors: Any, every: int,
    last_time: Any, last_value: Any, known: Any, out_tag: Any, out_window: Any, out_area: Any, out_weight: Any,
) -> int:  # fmt: skip
    """Areas and weights of windows from sorted samples, each tag's last good one carried on; returns how many."""
    n = 0
    for i in range(len(at) - 1):
        t = first_tag + i
        for j in range(at[i], at[i + 1]):
            if quality[j] >= 128 or np.isnan(value[j]):
                continue
            if known[t]:
                n = add_kernel(
                    t, max(low, last_time[t]), time[j], last_time[t], last_value[t], time[j], value[j], linear,
                    anchors, every, n, out_tag, out_window, out_area, out_weight,
                )  # fmt: skip
            last_time[t], last_value[t], known[t] = time[j], value[j], True
    return n


@njit
def close_kernel(
    tags: Any, time: Any, value: Any, end: Any, to: Any, what: Any, linear: bool, anchors: Any, every: int,
    out_tag: Any, out_window: Any, out_area: Any, out_weight: Any,
) -> int:  # fmt: skip
    """The stretch from each tag's last sample to `end`, towards the sample (`to`, `what`); returns how many windows."""
    n = 0
    for i in range(len(tags)):
        t = tags[i]
        n = add_kernel(
            t, time[t], end[i], time[t], value[t], to[i], what[i], linear, anchors, every,
            n, out_tag, out_window, out_area, out_weight,
        )  # fmt: skip
    return n


def time_means(
    store: Store,
    rows: Rows,
    ids: Ints,
    start: int,
    last: int,
    cut: Windows,
    rule: str,
    before: Nearest,
    after: Nearest | None,
) -> pl.DataFrame:
    """Time-weighted means: tag (position in `ids`), window (ns), time_mean; windows that last no time are absent.

    Parameters
    ----------
    before, after
        Each tag's good sample before `start` and (linear) after `last`.

    Raises
    ------
    ConfigError
        If `rule` is none of `resample.RULES`.
    """
    check(rule)
    linear = rule == "linear"
    time, value, known = before.time.copy(), before.value.copy(), before.found.copy()
    parts = []
    for group, decoded in in_order(plan(rows, ids, start, last), lambda g: (g, join(store, split(store, g)))):
        at = np.zeros(len(decoded.counts) + 1, np.int64)
        np.cumsum(decoded.counts, out=at[1:])
        first = int(np.searchsorted(ids, group.ids[0]))
        when, what, code = (decoded.columns[c] for c in ("time", "value", "quality"))
        out = _room(2 * len(when))
        n = weigh_kernel(
            at, first, when, what, code, start, linear, cut.anchors, cut.every_ns, time, value, known, *out
        )
        parts.append(_summed(out, n))
    parts.append(_closing(last, cut, linear, time, value, known, after))
    return _total(parts)


def _closing(
    last: int, cut: Windows, linear: bool, time: Ints, value: Any, known: Any, after: Nearest | None
) -> pl.DataFrame:
    """What comes after each tag's last sample: held to the end of its window or of the question, or a line to the next."""
    open_at = np.flatnonzero(known)
    end = np.minimum(cut.end_of(time[open_at]), min(last, NS_MAX - 1) + 1)
    to, what = end.copy(), value[open_at].copy()
    if linear:
        assert after is not None, "lines need what comes after"
        some = after.found[open_at]
        open_at, end = open_at[some], end[some]
        to, what = after.time[open_at], after.value[open_at]
    out = _room(2 * len(open_at))
    n = close_kernel(open_at, time, value, np.minimum(end, to), to, what, linear, cut.anchors, cut.every_ns, *out)
    return _summed(out, n)


def _room(n: int) -> tuple[Ints, Ints, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    return np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n), np.empty(n)


def _summed(out: Any, n: int) -> pl.DataFrame:
    return pl.DataFrame(dict(zip(("tag", "window", "area", "weight"), (column[:n] for column in out), strict=True)))


def _total(parts: list[pl.DataFrame]) -> pl.DataFrame:
    whole = pl.concat(parts).group_by("tag", "window").agg(pl.col("area").sum(), pl.col("weight").sum())
    return whole.filter(pl.col("weight") > 0).select("tag", "window", time_mean=pl.col("area") / pl.col("weight"))


def check(rule: str) -> None:
    """Refuse what is no rule.

    Raises
    ------
    ConfigError
        If it is none of `resample.RULES`.
    """
    if rule not in RULES:
        msg = f"time-weighted rule {rule!r}; {' or '.join(map(repr, RULES))} is wanted"
        raise ConfigError(msg)
