"""Operators over states: thresholds with hysteresis, conditions that last, how long a state lasted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from iiot_dask.core.errors import ConfigError
from iiot_dask.core.jit import njit
from iiot_dask.core.times import span_text
from iiot_dask.flow.marks import Marks
from iiot_dask.flow.names import Names
from iiot_dask.flow.operator import Operator, State, column, room
from iiot_dask.flow.reorder import times_of

LATCH = np.dtype([("known", "?"), ("on", "?"), ("told", "?"), ("since", "i8"), ("value", "f8"), ("top", "f8")])


@njit
def latch(state: Any, ids: Any, values: Any, high: float, low: float, out: Any) -> None:
    """`out` int8[n]: 1 while on (from value >= high until value < low), 0 off, -1 where the value is NaN."""
    for i in range(len(ids)):
        v = values[i]
        if np.isnan(v):
            out[i] = -1
            continue
        s = state[ids[i]]
        if v >= high:
            s.on = True
        elif v < low:
            s.on = False
        s.known = True
        out[i] = 1 if s.on else 0


@dataclass(frozen=True)
class Threshold(Operator):
    """Column `into` (bool): on from value >= `high` until value < `low`; the space between does not change it."""

    high: float
    low: float
    on: str = "value"
    into: str = "active"

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            msg = f"threshold: low {self.low} is above high {self.high}"
            raise ConfigError(msg)

    @property
    def label(self) -> str:
        """How it reads in the graph."""
        return f"threshold {self.into}: {self.on} >= {self.high:g} until < {self.low:g}"

    def step(self, state: State, frame: pl.DataFrame, marks: Marks, names: Names) -> tuple[pl.DataFrame, Marks]:
        """See `Operator`."""
        latches = room(state, "latch", len(names), LATCH, {})
        out = np.empty(frame.height, np.int8)
        latch(latches, frame.get_column("id").to_numpy(), column(frame, self.on, self.label), self.high, self.low, out)
        return frame.with_columns(pl.Series(self.into, out > 0)).filter(pl.Series(out >= 0)), marks


@njit
def lasting(
    state: Any,
    ids: Any,
    times: Any,
    values: Any,
    above: float,
    below: float,
    span: int,
    rows: Any,
    since: Any,
    top: Any,
) -> int:
    """Rows at which a condition above < value < below has lasted `span` ns, once a run; with its begin and extreme."""
    n = 0
    for i in range(len(ids)):
        v = values[i]
        if np.isnan(v):
            continue
        s = state[ids[i]]
        if above < v < below:
            if not s.on:
                s.on = True
                s.told = False
                s.since = times[i]
                s.top = v
            s.top = max(s.top, v)
            if not s.told and times[i] - s.since >= span:
                s.told = True
                rows[n] = i
                since[n] = s.since
                top[n] = s.top
                n += 1
        else:
            s.on = False
    return n


@dataclass(frozen=True)
class Lasting(Operator):
    """One row when a value has stayed within (`above`, `below`) for `for_ns`: at the sample that proves it.

    Columns: id, time, value, ``since`` (its first sample), ``top`` (largest so far). Once a run.
    """

    above: float
    below: float
    for_ns: int
    on: str = "value"

    @property
    def label(self) -> str:
        """How it reads in the graph."""
        return f"lasting {self.above:g} < {self.on} < {self.below:g} for {span_text(self.for_ns)}"

    @property
    def span_ns(self) -> int:
        """See `Operator`."""
        return self.for_ns

    def step(self, state: State, frame: pl.DataFrame, marks: Marks, names: Names) -> tuple[pl.DataFrame, Marks]:
        """See `Operator`."""
        latches = room(state, "latch", len(names), LATCH, {})
        ids, times, values = frame.get_column("id").to_numpy(), times_of(frame), column(frame, self.on, self.label)
        rows, since, top = np.empty(len(ids), np.int64), np.empty(len(ids), np.int64), np.empty(len(ids))
        n = lasting(latches, ids, times, values, self.above, self.below, self.for_ns, rows, since, top)
        out = frame.select("id", "time", pl.col(self.on).alias("value"))[rows[:n]]
        begun = pl.Series("since", since[:n]).cast(pl.Datetime("ns", "UTC"))
        return out.with_columns(begun, pl.Series("top", top[:n])), marks


@njit
def runs(state: Any, ids: Any, times: Any, values: Any, oid: Any, start: Any, stop: Any, level: Any) -> int:
    """State runs that a change of value ended: tag, first time, time of the change, value."""
    n = 0
    for i in range(len(ids)):
        v = values[i]
        if np.isnan(v):
            continue
        s = state[ids[i]]
        if s.known and v != s.value:
            oid[n] = ids[i]
            start[n] = s.since
            stop[n] = times[i]
            level[n] = s.value
            n += 1
        if not s.known or v != s.value:
            s.known = True
            s.since = times[i]
            s.value = v
    return n


@dataclass(frozen=True)
class Durations(Operator):
    """How long each state lasted: a row when a state ends, stamped with its begin: value, ``until``, ``duration`` (s)."""

    on: str = "value"

    @property
    def label(self) -> str:
        """How it reads in the graph."""
        return f"durations of {self.on}"

    @property
    def span_ns(self) -> int:
        """See `Operator`."""
        return 86_400_000_000_000

    def step(self, state: State, frame: pl.DataFrame, marks: Marks, names: Names) -> tuple[pl.DataFrame, Marks]:
        """See `Operator`."""
        latches = room(state, "latch", len(names), LATCH, {})
        ids, times = frame.get_column("id").to_numpy(), times_of(frame)
        size = len(ids)
        oid, start, stop, level = (
            np.empty(size, np.uint32),
            np.empty(size, np.int64),
            np.empty(size, np.int64),
            np.empty(size),
        )
        n = runs(latches, ids, times, column(frame, self.on, self.label), oid, start, stop, level)
        stamp = pl.Datetime("ns", "UTC")
        out = pl.DataFrame(
            {
                "id": oid[:n], "time": pl.Series(start[:n]).cast(stamp), "value": level[:n],
                "until": pl.Series(stop[:n]).cast(stamp), "duration": (stop[:n] - start[:n]) * 1e-9,
            }
        )  # fmt: skip
        upto = marks.of(len(latches))
        held = np.where(latches["known"], np.minimum(latches["since"] - 1, upto), upto)
        return out, Marks(held, min(marks.low, int(held.min())) if len(held) else marks.low)
