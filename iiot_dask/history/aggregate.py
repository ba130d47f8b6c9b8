"""`aggregate`: windows from statistics where they can tell, from samples where they can not.

A chunk answers for itself when no other row has a sample within its range, the query's time range covers it, and it lies
in one window. Everything else is decoded: a chunk that straddles a window edge, and blocks. Whether a block really has a
sample inside a chunk is known once it is decoded, so an answer from statistics is not lost to a block that only might.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from iiot_dask.history import rollup
from iiot_dask.history.index import Rows, overlapping
from iiot_dask.history.kernels import statistics
from iiot_dask.history.place import join, split
from iiot_dask.history.read import Group, in_order, plan
from iiot_dask.history.store import Store
from iiot_dask.history.windows import Windows

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
"""Partial windows: tag (position), window (ns), good, min, max, sum, first, last, first_ns, last_ns."""

KEYS = ("good", "min", "max", "sum", "first", "last", "first_ns", "last_ns")
_INTS = {"tag", "window", "good", "first_ns", "last_ns"}


def told(rows: Rows, start: int, last: int, cut: Windows) -> npt.NDArray[np.bool_]:
    """Which rows lie within the range and in one window, so that their statistics say what is wanted of them."""
    first_ns, end_ns = rows.head["start_ns"], rows.head["end_ns"]
    out: npt.NDArray[np.bool_] = (first_ns >= start) & (end_ns <= last) & (rows.head["tag_id"] >= 0)
    out[out] = cut.start_of(first_ns[out]) == cut.start_of(end_ns[out])
    return out


def windows_of(
    store: Store,
    rows: Rows,
    ids: npt.NDArray[np.int64],
    start: int,
    last: int,
    cut: Windows,
    more: Iterable[Partial] = (),
) -> Partial:
    """Windows with at least one good sample, sorted by tag then time; `tag` is the position in `ids` (sorted).

    `more`: partial windows from elsewhere (roll-ups), of the same form.
    """
    sure = told(rows, start, last, cut) & ~overlapping(rows)
    parts = [_from_statistics(rows.take(sure), ids, cut)]
    rest = rows.take(~sure)
    for found in in_order(plan(rest, ids, start, last), lambda g: _from_group(store, g, cut)):
        parts += [{**p, "tag": np.searchsorted(ids, p.pop("ids"))} for p in found]
    return combine([*parts, *more])


def _from_group(store: Store, group: Group, cut: Windows) -> list[Partial]:
    """Partial windows of a group, with the ids of tags as ``ids``."""
    found = split(store, group)
    easy = told(found.alone, group.start, group.last, cut)
    alone = _from_statistics(found.alone.take(easy), group.ids, cut)
    alone["ids"] = group.ids[alone.pop("tag")]
    hard = type(found)(group, found.alone.take(~easy), found.tag[~easy], found.loose, found.held)
    decoded = join(store, hard)
    at = np.zeros(len(decoded.counts) + 1, np.int64)
    np.cumsum(decoded.counts, out=at[1:])
    columns = decoded.columns
    bounds, starts = cut.runs(at, columns["time"])
    stats = statistics(columns["time"], columns["value"], columns["quality"], bounds)
    keep = stats["good"] > 0
    tag = np.searchsorted(at, bounds[:-1][keep], side="right") - 1
    return [alone, {"ids": group.ids[tag], "window": starts[keep], **{key: stats[key][keep] for key in KEYS}}]


def _from_statistics(rows: Rows, ids: npt.NDArray[np.int64], cut: Windows) -> Partial:
    head = rows.head
    keep = head["good"] > 0
    at = np.searchsorted(ids, head["tag_id"][keep])
    return {"tag": at, "window": cut.start_of(head["start_ns"][keep]), **{key: head[key][keep] for key in KEYS}}


def from_rollups(
    store: Store, rows: Rows, ids: npt.NDArray[np.int64], start: int, last: int, cut: Windows
) -> list[Partial]:
    """Partial windows of roll-up rows; in a calendar each roll-up window belongs where it starts."""
    if not len(rows):
        return []
    if len(cut.anchors) == 1:
        return [rollup.partials(store, rows, ids, start, last, cut.every_ns)]
    every = np.array([rollup.every_of(file.path) for file in rows.files], np.int64)[rows.file]
    out = []
    for length in np.unique(every).tolist():
        found = dict(rollup.partials(store, rows.take(every == length), ids, start, last, length))
        out.append({**found, "window": cut.start_of(found["window"])})
    return out


def combine(parts: Iterable[Partial]) -> Partial:
    """Partial windows of the same (tag, window) made one; their samples are distinct, their times may interleave."""
    whole = [p for p in parts if len(p["window"])]
    if not whole:
        return {k: np.empty(0, np.int64 if k in _INTS else np.float64) for k in ("tag", "window", *KEYS)}
    joined = {key: np.concatenate([p[key] for p in whole]) for key in ("tag", "window", *KEYS)}
    order = np.lexsort((joined["first_ns"], joined["window"], joined["tag"]))
    joined = {key: column[order] for key, column in joined.items()}
    new = np.ones(len(order), np.bool_)
    new[1:] = (np.diff(joined["tag"]) != 0) | (np.diff(joined["window"]) != 0)
    begin = np.flatnonzero(new)
    if len(begin) == len(order):
        return joined
    # The last value is of the partial that ends last, which need not be the one that begins last.
    ends = np.lexsort((joined["last_ns"], np.cumsum(new)))[np.append(begin[1:], len(order)) - 1]
    return {
        **{key: joined[key][begin] for key in ("tag", "window", "first", "first_ns")},
        **{key: joined[key][ends] for key in ("last", "last_ns")},
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
