"""`resample`: every tag on one grid of times, held (step) or drawn straight (linear) between its good samples.

Groups come in order of tag and time; a tag's last good sample is carried from one to the next, so memory does not grow with
the length of the question. What came before its start, and for straight lines after its end, is looked up first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from iiot_dask.core.errors import ConfigError
from iiot_dask.core.jit import njit
from iiot_dask.history.globs import matching
from iiot_dask.history.index import Rows
from iiot_dask.history.latest import Nearest, nearest
from iiot_dask.history.place import Decoded, join, split
from iiot_dask.history.read import Group, in_order, plan
from iiot_dask.history.store import Store

SCHEMA = pl.Schema({"tag": pl.String(), "time": pl.Datetime("ns", "UTC"), "value": pl.Float64()})
"""Columns of a resampling; `value` is null where nothing is known."""

POINTS_MAX = 100_000_000
"""Most grid points of one question, all tags together times their grid; beyond it is a slip of a unit."""
FRAME_POINTS = 2_000_000

Ints = npt.NDArray[np.int64]
Rule = str | Mapping[str, str]
RULES = ("step", "linear")


@dataclass(frozen=True, slots=True)
class Grid:
    """Times ``first, first + every, …``, `count` of them (ns)."""

    first: int
    every: int
    count: int


@njit
def fill_kernel(
    at: Any, time: Any, value: Any, quality: Any, linear: Any, first: int, every: int, gap: int,
    next_point: Any, last_time: Any, last_value: Any, known: Any, out: Any,
) -> None:  # fmt: skip
    """Advance each tag over its samples: every grid point before a sample is settled by the sample before it.

    Rows of the outputs and of `out` (float64[tags, points], NaN = unknown) are tags; `known`: whether a sample was seen.
    """
    points = out.shape[1]
    for t in range(len(at) - 1):
        for i in range(at[t], at[t + 1]):
            if quality[i] >= 128 or np.isnan(value[i]):
                continue
            p = next_point[t]
            while p < points and first + p * every < time[i]:
                if known[t]:
                    point = first + p * every
                    if linear[t] and point > last_time[t]:
                        if time[i] - last_time[t] <= gap:
                            share = (point - last_time[t]) / (time[i] - last_time[t])
                            out[t, p] = last_value[t] + (value[i] - last_value[t]) * share
                    elif point - last_time[t] <= gap:
                        out[t, p] = last_value[t]
                p += 1
            next_point[t] = p
            last_time[t], last_value[t], known[t] = time[i], value[i], True


@njit
def close_kernel(
    linear: Any,
    first: int,
    every: int,
    gap: int,
    next_point: Any,
    last_time: Any,
    last_value: Any,
    known: Any,
    out: Any,
) -> None:
    """The grid points after each tag's last sample: held by a step, unknown on a line but for its very end."""
    points = out.shape[1]
    for t in range(len(known)):
        if not known[t]:
            continue
        for p in range(next_point[t], points):
            past = first + p * every - last_time[t]
            if past == 0 or (not linear[t] and past <= gap):
                out[t, p] = last_value[t]


class _State:
    """Where the tags of a stretch of ids stand."""

    def __init__(self, grid: Grid, linear: npt.NDArray[np.bool_], before: Nearest, a: int, b: int) -> None:
        n = b - a
        self.linear = linear[a:b]
        self.next = np.zeros(n, np.int64)
        self.time, self.value, self.known = before.time[a:b].copy(), before.value[a:b].copy(), before.found[a:b].copy()
        self.out = np.full((n, grid.count), np.nan)

    def feed(self, grid: Grid, gap: int, decoded: Decoded) -> None:
        at = np.zeros(len(decoded.counts) + 1, np.int64)
        np.cumsum(decoded.counts, out=at[1:])
        self.samples(grid, gap, at, *(decoded.columns[c] for c in ("time", "value", "quality")))

    def samples(self, grid: Grid, gap: int, at: Any, time: Any, value: Any, quality: Any) -> None:
        fill_kernel(
            at, time, value, quality, self.linear, grid.first, grid.every, gap,
            self.next, self.time, self.value, self.known, self.out,
        )  # fmt: skip


def resampled(
    store: Store,
    rows_of: Callable[[Ints, int, int], Rows],
    ids: Ints,
    names: pl.Series,
    grid: Grid,
    linear: npt.NDArray[np.bool_],
    gap: int,
) -> Iterator[pl.DataFrame]:
    """Frames with `SCHEMA`, tag by tag in the order of `ids`, every tag with every grid point.

    Parameters
    ----------
    rows_of
        The index rows of tags between two times (inclusive).
    linear
        Of each tag: straight lines instead of steps.
    gap
        Longest time a value is held, or a line drawn, ns.
    """
    if not len(ids) or not grid.count:
        return
    last = grid.first + grid.every * (grid.count - 1)
    before = nearest(store, lambda some: rows_of(some, _LOW, grid.first - 1), ids, grid.first - 1, good=True)
    after = Nearest(np.zeros(len(ids), np.bool_), *_nothing(len(ids)))
    if linear.any():
        lines = np.flatnonzero(linear)
        found = nearest(
            store, lambda some: rows_of(some, last + 1, _HIGH), ids[lines], last + 1, good=True, forward=True
        )
        after.found[lines], after.time[lines], after.value[lines] = found.found, found.time, found.value
    step = max(1, FRAME_POINTS // grid.count)
    for a in range(0, len(ids), step):
        b = min(a + step, len(ids))
        state = _State(grid, linear, before, a, b)
        part = ids[a:b]
        groups = plan(rows_of(part, grid.first, last), part, grid.first, last)
        for group, decoded in in_order(groups, lambda g: (g, join(store, split(store, g)))):
            state_of(state, group, part).feed(grid, gap, decoded)
        _finish(state, grid, gap, after, a, b)
        yield _frame(names[a:b], grid, state.out)


_LOW, _HIGH = int(np.iinfo(np.int64).min), int(np.iinfo(np.int64).max)


def _nothing(n: int) -> tuple[Ints, npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
    return np.zeros(n, np.int64), np.zeros(n), np.zeros(n, np.uint8)


def state_of(state: _State, group: Group, part: Ints) -> _State:
    """The state of the tags of one group: a view, so that what it learns stays."""
    a = int(np.searchsorted(part, group.ids[0]))
    b = a + len(group.ids)
    view = _State.__new__(_State)
    view.linear, view.next, view.known = state.linear[a:b], state.next[a:b], state.known[a:b]
    view.time, view.value, view.out = state.time[a:b], state.value[a:b], state.out[a:b]
    return view


def _finish(state: _State, grid: Grid, gap: int, after: Nearest, a: int, b: int) -> None:
    more = np.flatnonzero(after.found[a:b])
    if len(more):
        at = np.zeros(b - a + 1, np.int64)
        np.cumsum(after.found[a:b], out=at[1:])
        state.samples(grid, gap, at, after.time[a:b][more], after.value[a:b][more], np.zeros(len(more), np.uint8))
    close_kernel(state.linear, grid.first, grid.every, gap, state.next, state.time, state.value, state.known, state.out)


def _frame(names: pl.Series, grid: Grid, out: npt.NDArray[np.float64]) -> pl.DataFrame:
    tags = len(names)
    times = grid.first + grid.every * np.arange(grid.count, dtype=np.int64)
    return pl.DataFrame(
        {
            "tag": names.gather(np.repeat(np.arange(tags, dtype=np.uint32), grid.count)),
            "time": pl.Series(np.tile(times, tags)).cast(SCHEMA["time"]),
            "value": pl.Series(out.ravel()).fill_nan(None),
        },
        schema=SCHEMA,
    )


def grid_of(every_ns: int, first: int, last: int, tags: int) -> Grid:
    """The multiples of `every_ns` within ``first .. last`` ns.

    Raises
    ------
    ConfigError
        If they are too many.

    Examples
    --------
    >>> grid_of(10, -5, 25, 1)
    Grid(first=0, every=10, count=3)
    """
    begin = -(-first // every_ns)
    count = max(0, last // every_ns - begin + 1)
    if count * max(tags, 1) > POINTS_MAX:
        msg = f"a grid of {count:,} points for {tags:,} tags; at most {POINTS_MAX:,} in all: take a longer step or a shorter range"
        raise ConfigError(msg)
    return Grid(begin * every_ns, every_ns, count)


def lines_of(rule: Rule, names: pl.Series) -> npt.NDArray[np.bool_]:
    """Which tags are drawn as lines: one rule for all, or a mapping glob -> rule whose first match decides.

    Raises
    ------
    ConfigError
        If a rule is none of `RULES`.

    Examples
    --------
    >>> lines_of({"*/state": "step", "*": "linear"}, pl.Series(["a/state", "a/level"])).tolist()
    [False, True]
    """
    given = {"*": rule} if isinstance(rule, str) else dict(rule)
    out = np.zeros(len(names), np.bool_)
    for glob, what in reversed(given.items()):
        if what not in RULES:
            msg = f"rule {what!r} for {glob!r}; {' or '.join(map(repr, RULES))} is wanted"
            raise ConfigError(msg)
        out[matching(names, [glob])] = what == "linear"
    return out
