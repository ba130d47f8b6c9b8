"""The sample of each tag nearest to a moment: the last at or before it, or the first at or after it.

Rows are looked at from the moment outwards, in spans that grow, and only for tags that have no answer yet. A chunk that
stands alone answers from its statistics; of what is decoded nothing outside the span counts, because a row that was not
looked at might have written it again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from iiot_dask.core.jit import njit
from iiot_dask.history.index import NS_MAX, NS_MIN, Rows
from iiot_dask.history.place import Split, join, qualities, split
from iiot_dask.history.read import Group, in_order, plan
from iiot_dask.history.store import Store

FIRST_ROWS = 1_000_000
"""Samples of the first span, at least; twice the tags if those are more."""
GROWTH = 8

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Nearest:
    """One sample a tag, by position in the ids asked for: `found` tells for which there is one."""

    found: npt.NDArray[np.bool_]
    time: Ints
    value: npt.NDArray[np.float64]
    quality: npt.NDArray[np.uint8]


@njit
def ends_kernel(
    tag: Any, time: Any, value: Any, quality: Any, good: bool, forward: bool, low: int, high: int,
    out_time: Any, out_value: Any, out_quality: Any, found: Any,
) -> None:  # fmt: skip
    """Of sorted samples within ``low..high``, the last (or first) of each tag; with `good` those that are bad do not count."""
    for i in range(len(tag)):
        if time[i] < low or time[i] > high or (good and (quality[i] >= 128 or np.isnan(value[i]))):
            continue
        t = tag[i]
        if not found[t] or (time[i] < out_time[t] if forward else time[i] >= out_time[t]):
            found[t] = True
            out_time[t], out_value[t], out_quality[t] = time[i], value[i], quality[i]


def nearest(
    store: Store, rows_of: Callable[[Ints], Rows], ids: Ints, moment: int, *, good: bool, forward: bool = False
) -> Nearest:
    """The sample of each tag nearest to `moment` (ns), at or before it, or with `forward` at or after it.

    Parameters
    ----------
    rows_of
        The index rows of some of the tags that reach to that side of the moment.
    ids
        Tag ids, sorted.
    good
        Only samples that are not bad and not NaN; their quality then counts as 0 where statistics answer.
    """
    n = len(ids)
    out = Nearest(np.zeros(n, np.bool_), np.zeros(n, np.int64), np.full(n, np.nan), np.zeros(n, np.uint8))
    rows = rows_of(ids)
    edge = rows.head["start_ns"] if forward else rows.head["end_ns"]
    if not len(rows):
        return out
    # Beyond this no row has a sample.
    far = int(rows.head["end_ns"].max()) if forward else int(rows.head["start_ns"].min())
    span = _first_span(rows, edge, moment, max(FIRST_ROWS, 2 * n), forward=forward)
    while True:
        bound = min(moment + span, NS_MAX) if forward else max(moment - span, NS_MIN)
        open_ids = np.flatnonzero(~out.found)
        near = rows.take(edge <= bound if forward else edge >= bound)
        low, high = (moment, bound) if forward else (bound, moment)
        start, last = (moment, NS_MAX) if forward else (NS_MIN, moment)
        for found in in_order(plan(near, ids[open_ids], start, last), lambda g: _of_group(store, g, good, forward)):
            group, part = found
            at = np.searchsorted(ids, group.ids)
            # A tag cut into several groups comes in order of time: the first or the last of them counts.
            inside = part.found & (part.time >= low) & (part.time <= high)
            if forward:
                inside &= ~out.found[at]
            at = at[inside]
            out.found[at] = True
            out.time[at], out.value[at], out.quality[at] = part.time[inside], part.value[inside], part.quality[inside]
        if out.found.all() or (bound >= far if forward else bound <= far):
            return out
        span = min(span * GROWTH, NS_MAX)
        rest = ids[~out.found]
        rows = rows_of(rest)
        edge = rows.head["start_ns"] if forward else rows.head["end_ns"]
        if not len(rows):
            return out


def _first_span(rows: Rows, edge: Ints, moment: int, wanted: int, *, forward: bool) -> int:
    order = np.argsort(edge) if forward else np.argsort(-np.maximum(edge, NS_MIN + 1))
    total = np.cumsum(rows.head["count"][order])
    at = min(int(np.searchsorted(total, wanted)), len(order) - 1)
    reach = int(edge[order[at]])
    return max(10**9, reach - moment if forward else moment - reach)


def _of_group(store: Store, group: Group, good: bool, forward: bool) -> tuple[Group, Nearest]:
    n = len(group.ids)
    out = Nearest(np.zeros(n, np.bool_), np.zeros(n, np.int64), np.full(n, np.nan), np.zeros(n, np.uint8))
    found = split(store, group)
    ends_kernel(*found.loose, good, forward, NS_MIN, NS_MAX, out.time, out.value, out.quality, out.found)
    _from_alone(store, found, out, good, forward)
    return group, out


def _from_alone(store: Store, found: Split, out: Nearest, good: bool, forward: bool) -> None:
    """The chunks that stand alone: their statistics, and samples only where those do not tell."""
    head = found.alone.head
    when = head["start_ns"] if forward else head["end_ns"]
    known = head["first_ns"] if forward else head["last_ns"]
    what = head["first"] if forward else head["last"]
    if good:
        when = known
    usable = np.flatnonzero(head["good"] > 0) if good else np.arange(len(when))
    # Chunks are sorted by tag, then time, and do not overlap: the first or last usable one of a tag is the one.
    tag = found.tag[usable]
    edge = np.flatnonzero(np.diff(tag, prepend=-1)) if forward else np.flatnonzero(np.diff(tag, append=-1))
    best = usable[edge]
    at = found.tag[best]
    better = ~out.found[at] | (when[best] < out.time[at] if forward else when[best] > out.time[at])
    best, at = best[better], at[better]
    out.found[at] = True
    out.time[at], out.value[at], out.quality[at] = when[best], what[best], 0
    if good:
        return
    exact = (known[best] == when[best]) & (head["good"][best] > 0)
    codes = qualities(store, found.alone.take(best[exact]), forward=forward)
    out.quality[at[exact]] = codes
    rest = best[~exact]
    if len(rest):
        empty = tuple(column[:0] for column in found.loose)
        some = Split(found.group, found.alone.take(rest), found.tag[rest], empty, 0)  # type: ignore[arg-type]
        decoded = join(store, some)
        out.found[at[~exact]] = False
        time, value, quality = (decoded.columns[c] for c in ("time", "value", "quality"))
        ends_kernel(
            decoded.tag, time, value, quality, False, forward, NS_MIN, NS_MAX,
            out.time, out.value, out.quality, out.found,
        )  # fmt: skip
