"""`aggregate`: windows from statistics where they can tell, from samples where they can not.

A chunk answers for itself when no other row can hold its samples (see `index.overlapping`), the query's time range covers
it, and it lies in one window. Everything else is decoded; a chunk that straddles a window edge is such an edge.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from iiot_dask.history.block import Columns
from iiot_dask.history.index import NS_MIN, Rows, overlapping
from iiot_dask.history.kernels import statistics, window_kernel
from iiot_dask.history.read import decode_group, in_order, plan
from iiot_dask.history.store import Store

SCHEMA = pl.Schema(
    {
        "tag": pl.String(),
        "time": pl.Datetime("ns", "UTC"),
        "count": pl.Int64(),
        **dict.fromkeys(("min", "max", "mean", "sum", "first", "last"), pl.Float64()),
    }
)
"""Columns of an aggregate; `time` is the start of the window."""

Partial = dict[str, npt.NDArray[Any]]
"""Partial windows: tag (position), window (ns), good, min, max, sum, first, last, first_ns."""

_KEYS = ("good", "min", "max", "sum", "first", "last", "first_ns")


def windows(store: Store, rows: Rows, ids: npt.NDArray[np.int64], start: int, last: int, every_ns: int) -> Partial:
    """Windows with at least one good sample, sorted by tag then time; `tag` is the position in `ids` (sorted)."""
    told = _told(rows, start, last, every_ns)
    parts = [_from_statistics(rows.take(told), ids, every_ns)]
    rest = rows.take(~told)
    groups = plan(rest, ids, start, last)
    parts += in_order(groups, lambda g: _from_samples(decode_group(store, g), np.searchsorted(ids, g.ids), every_ns))
    return combine(parts)


def _told(rows: Rows, start: int, last: int, every_ns: int) -> npt.NDArray[np.bool_]:
    first_ns, end_ns = rows.head["start_ns"], rows.head["end_ns"]
    inside = (first_ns >= start) & (end_ns <= last) & (first_ns // every_ns == end_ns // every_ns)
    out: npt.NDArray[np.bool_] = inside & ~overlapping(rows)
    return out


def _from_statistics(rows: Rows, ids: npt.NDArray[np.int64], every_ns: int) -> Partial:
    head = rows.head
    keep = head["good"] > 0
    at = np.searchsorted(ids, head["tag_id"][keep])
    out = {key: head[key][keep] for key in _KEYS}
    # A row's range may hold ids that are not wanted only if it is a block, and blocks never get here.
    return {"tag": at, "window": window_starts(head["start_ns"][keep], every_ns), **out}


def _from_samples(columns: Columns, at: npt.NDArray[np.integer], every_ns: int) -> Partial:
    tag, time, value, quality = columns
    bounds = np.empty(len(tag) + 1, np.int64)
    n = window_kernel(tag, time, every_ns, bounds)
    bounds = bounds[: n + 1]
    stats = statistics(time, value, quality, bounds)
    keep = stats["good"] > 0
    begin = bounds[:-1][keep]
    out = {key: stats[key][keep] for key in _KEYS}
    return {"tag": at[tag[begin]], "window": window_starts(time[begin], every_ns), **out}


def window_starts(time: npt.NDArray[np.int64], every_ns: int) -> npt.NDArray[np.int64]:
    """Start of the window of each time, ns; a window that begins before int64 does is labelled with its first time.

    Examples
    --------
    >>> window_starts(np.array([-1, 0, 10, -(2**63)]), 10).tolist()
    [-10, 0, 10, -9223372036854775808]
    """
    cell = time // every_ns
    lowest = NS_MIN // every_ns
    return np.where((cell == lowest) & (lowest * every_ns < NS_MIN), NS_MIN, cell * every_ns)


def combine(parts: Iterable[Partial]) -> Partial:
    """Partial windows of the same (tag, window) made one; partials do not overlap in time."""
    whole = [p for p in parts if len(p["tag"])]
    if not whole:
        return {
            k: np.empty(0, np.int64 if k in {"tag", "window", "good", "first_ns"} else np.float64)
            for k in ("tag", "window", *_KEYS)
        }
    joined = {key: np.concatenate([p[key] for p in whole]) for key in ("tag", "window", *_KEYS)}
    order = np.lexsort((joined["first_ns"], joined["window"], joined["tag"]))
    joined = {key: column[order] for key, column in joined.items()}
    new = np.ones(len(order), np.bool_)
    new[1:] = (np.diff(joined["tag"]) != 0) | (np.diff(joined["window"]) != 0)
    begin = np.flatnonzero(new)
    if len(begin) == len(order):
        return joined
    end = np.append(begin[1:], len(order)) - 1
    return {
        **{key: joined[key][begin] for key in ("tag", "window", "first", "first_ns")},
        "last": joined["last"][end],
        "good": np.add.reduceat(joined["good"], begin),
        "sum": np.add.reduceat(joined["sum"], begin),
        "min": np.minimum.reduceat(joined["min"], begin),
        "max": np.maximum.reduceat(joined["max"], begin),
    }


def frame_of(found: Partial, names: pl.Series) -> pl.DataFrame:
    """Windows as a frame with `SCHEMA`; `names`: the names of the ids that `tag` counts."""
    return pl.DataFrame(
        {
            "tag": names.gather(pl.Series(found["tag"].astype(np.uint32))),
            "time": pl.Series(found["window"]).cast(pl.Datetime("ns", "UTC")),
            "count": found["good"],
            "min": found["min"],
            "max": found["max"],
            "mean": found["sum"] / found["good"],
            "sum": found["sum"],
            "first": found["first"],
            "last": found["last"],
        },
        schema=SCHEMA,
    )
