"""Patterns in time: sequences and absence of events, rises and falls, peaks, cycles. One row a match.

All of them are small automata a tag over samples in order, so they run live and over history alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from iiot_dask.core.errors import ConfigError
from iiot_dask.core.jit import njit
from iiot_dask.core.times import span_text
from iiot_dask.flow.marks import Marks
from iiot_dask.flow.names import Names
from iiot_dask.flow.operator import Operator, State, column, room
from iiot_dask.flow.reorder import times_of
from iiot_dask.flow.rowwise import needs_tag, with_tag

SWING = np.dtype([("known", "?"), ("up", "?"), ("low", "f8"), ("low_ns", "i8"), ("high", "f8"), ("high_ns", "i8")])
STEPS = np.dtype([("at", "i8"), ("since", "i8")])
_STAMP = pl.Datetime("ns", "UTC")


@njit
def swings(
    state: Any, ids: Any, times: Any, values: Any, size: float, oid: Any, ot: Any, ov: Any, proven: Any, kind: Any
) -> int:
    """Turning points of at least `size`: a maximum once the value has fallen by it, a minimum once it has risen by it."""
    n = 0
    for i in range(len(ids)):
        v, t = values[i], times[i]
        if np.isnan(v):
            continue
        s = state[ids[i]]
        if not s.known:
            s.known = True
            s.up = True
            s.low = v
            s.low_ns = t
            s.high = v
            s.high_ns = t
            continue
        if s.up:
            if v > s.high:
                s.high = v
                s.high_ns = t
            elif s.high - v >= size:
                oid[n] = ids[i]
                ot[n] = s.high_ns
                ov[n] = s.high
                proven[n] = t
                kind[n] = 1
                n += 1
                s.up = False
                s.low = v
                s.low_ns = t
        elif v < s.low:
            s.low = v
            s.low_ns = t
        elif v - s.low >= size:
            oid[n] = ids[i]
            ot[n] = s.low_ns
            ov[n] = s.low
            proven[n] = t
            kind[n] = -1
            n += 1
            s.up = True
            s.high = v
            s.high_ns = t
    return n


@dataclass(frozen=True)
class Peaks(Operator):
    """Maxima (``kind`` = "peak") and minima ("valley") that stand out by `prominence`, stamped with their own time.

    ``proven`` is the time of the sample that showed the turn. The first run up from the first sample counts as a rise.
    """

    prominence: float
    which: Literal["peak", "valley", "both"] = "peak"
    on: str = "value"

    def __post_init__(self) -> None:
        if not self.prominence > 0:
            msg = f"peaks: prominence {self.prominence}; it must be above 0"
            raise ConfigError(msg)
        if self.which not in ("peak", "valley", "both"):
            msg = f"peaks: which = {self.which!r}; 'peak', 'valley' and 'both' are allowed"
            raise ConfigError(msg)

    @property
    def label(self) -> str:
        """How it reads in the graph."""
        return (
            f"{self.which}s of {self.on} by {self.prominence:g}"
            if self.which != "both"
            else f"peaks and valleys of {self.on}"
        )

    @property
    def span_ns(self) -> int:
        """See `Operator`."""
        return 3_600_000_000_000

    def step(self, state: State, frame: pl.DataFrame, marks: Marks, names: Names) -> tuple[pl.DataFrame, Marks]:
        """See `Operator`."""
        swing = room(state, "swing", len(names), SWING, {})
        ids, times, size = frame.get_column("id").to_numpy(), times_of(frame), frame.height
        oid, ot, ov = np.empty(size, np.uint32), np.empty(size, np.int64), np.empty(size)
        proven, kind = np.empty(size, np.int64), np.empty(size, np.int8)
        values = column(frame, self.on, self.label)
        n = swings(swing, ids, times, values, self.prominence, oid, ot, ov, proven, kind)
        out = pl.DataFrame(
            {
                "id": oid[:n], "time": pl.Series(ot[:n]).cast(_STAMP), "value": ov[:n],
                "proven": pl.Series(proven[:n]).cast(_STAMP), "kind": np.where(kind[:n] > 0, "peak", "valley"),
            },
            schema_overrides={"kind": pl.String},
        )  # fmt: skip
        if self.which != "both":
            out = out.filter(pl.col("kind") == self.which)
        upto = marks.of(len(swing))
        turn = np.where(swing["up"], swing["high_ns"], swing["low_ns"])
        held = np.where(swing["known"], np.minimum(turn - 1, upto), upto)
        return out, Marks(held, min(marks.low, int(held.min())) if len(held) else marks.low)


@njit
def moves(
    first: Any,
    ids: Any,
    times: Any,
    values: Any,
    by: float,
    within: int,
    ring_t: Any,
    ring_v: Any,
    rows: Any,
    size: Any,
) -> int:
    """Rows where the value is `by` (signed) away from one at most `within` ns before; the window of each tag in a ring."""
    n = 0
    depth = ring_t.shape[1]
    for i in range(len(ids)):
        v, t, g = values[i], times[i], ids[i]
        if np.isnan(v):
            continue
        a, b = first[g, 0], first[g, 1]
        while a < b and t - ring_t[g, a % depth] > within:
            a += 1
        # The ring holds the extremes only (a monotone queue): the oldest is the best partner of every later sample.
        if a < b and (v - ring_v[g, a % depth]) * (1.0 if by > 0 else -1.0) >= abs(by):
            rows[n] = i
            size[n] = v - ring_v[g, a % depth]
            n += 1
            a = b
        while a < b and ((ring_v[g, (b - 1) % depth] >= v) if by > 0 else (ring_v[g, (b - 1) % depth] <= v)):
            b -= 1
        if b - a == depth:
            a += 1
        ring_t[g, b % depth] = t
        ring_v[g, b % depth] = v
        b += 1
        first[g, 0], first[g, 1] = a, b
    return n


@dataclass(frozen=True)
class Move(Operator):
    """A row when a value has risen (`by` > 0) or fallen (`by` < 0) by that much within `within_ns`; then it starts anew.

    ``size`` is the move. A tag remembers up to `DEPTH` extremes of the span.
    """

    by: float
    within_ns: int
    on: str = "value"
    DEPTH = 256

    def __post_init__(self) -> None:
        if self.by == 0 or not np.isfinite(self.by) or self.within_ns <= 0:
            msg = f"move: by {self.by} within {self.within_ns} ns; `by` must not be 0 and the span must be above 0"
            raise ConfigError(msg)

    @property
    def label(self) -> str:
        """How it reads in the graph."""
        return (
            f"{'rise' if self.by > 0 else 'fall'} of {self.on} by {abs(self.by):g} within {span_text(self.within_ns)}"
        )

    @property
    def span_ns(self) -> int:
        """See `Operator`."""
        return self.within_ns

    def start(self) -> State:
        """The state before the first row."""
        return {
            "first": np.zeros((0, 2), np.int64),
            "ring_t": np.zeros((0, self.DEPTH), np.int64),
            "ring_v": np.zeros((0, self.DEPTH)),
        }

    def step(self, state: State, frame: pl.DataFrame, marks: Marks, names: Names) -> tuple[pl.DataFrame, Marks]:
        """See `Operator`."""
        have = len(state["first"])
        if len(names) > have:
            for name, held in state.items():
                grown = np.zeros((max(len(names), 2 * have, 16), held.shape[1]), held.dtype)
                grown[:have] = held
                state[name] = grown
        ids, times = frame.get_column("id").to_numpy(), times_of(frame)
        rows, size_of = np.empty(len(ids), np.int64), np.empty(len(ids))
        values = column(frame, self.on, self.label)
        n = moves(
            state["first"], ids, times, values, self.by, self.within_ns, state["ring_t"], state["ring_v"], rows, size_of
        )
        return frame[rows[:n]].with_columns(pl.Series("size", size_of[:n])), marks


@njit
def follow(state: Any, ids: Any, times: Any, hits: Any, within: int, rows: Any, since: Any) -> int:
    """Advance each tag's automaton over `hits` bool[steps, n]; rows at which it has gone through, with its begin."""
    n = 0
    steps = hits.shape[0]
    for i in range(len(ids)):
        s = state[ids[i]]
        if s.at > 0 and times[i] - s.since > within:
            s.at = 0
        if hits[s.at, i]:
            if s.at == 0:
                s.since = times[i]
            s.at += 1
            if s.at == steps:
                s.at = 0
                rows[n] = i
                since[n] = s.since
                n += 1
        elif s.at == 1 and hits[0, i]:
            # The first event again: the newest begin leaves the most time for the rest.
            s.since = times[i]
    return n


@njit
def missing(
    state: Any, ids: Any, times: Any, after: Any, wanted: Any, within: int, marks: Any, oid: Any, ot: Any
) -> int:
    """Tags whose `wanted` event did not come within `within` ns after an `after` event: its id and begin."""
    n = 0
    for i in range(len(ids)):
        g = ids[i]
        s = state[g]
        if s.at == 1 and times[i] - s.since > within:
            oid[n] = g
            ot[n] = s.since
            n += 1
            s.at = 0
        if s.at == 1 and wanted[i]:
            s.at = 0
        elif s.at == 0 and after[i]:
            s.at = 1
            s.since = times[i]
    for g in range(len(state)):
        s = state[g]
        if s.at == 1 and marks[g] > s.since and marks[g] - s.since > within:
            oid[n] = g
            ot[n] = s.since
            n += 1
            s.at = 0
    return n


def _hits(frame: pl.DataFrame, names: Names, events: tuple[pl.Expr, ...]) -> Any:
    seen = with_tag(frame, names) if needs_tag(events) else frame
    columns = seen.select(**{f"e{i}": e.fill_null(value=False) for i, e in enumerate(events)})
    return np.ascontiguousarray(np.stack([columns.get_column(f"e{i}").to_numpy() for i in range(len(events))]))


@dataclass(frozen=True)
class Sequence(Operator):
    """A row when a tag's samples have matched every event in order within `within_ns`; ``since`` is the first event."""

    events: tuple[pl.Expr, ...]
    within_ns: int

    def __post_init__(self) -> None:
        if len(self.events) < 2 or self.within_ns <= 0:
            msg = f"sequence: {len(self.events)} events within {self.within_ns} ns; two events or more and a span above 0 are needed"
            raise ConfigError(msg)

    @property
    def label(self) -> str:
        """How it reads in the graph."""
        return f"sequence of {len(self.events)} within {span_text(self.within_ns)}"

    @property
    def span_ns(self) -> int:
        """See `Operator`."""
        return self.within_ns

    def step(self, state: State, frame: pl.DataFrame, marks: Marks, names: Names) -> tuple[pl.DataFrame, Marks]:
        """See `Operator`."""
        steps = room(state, "steps", len(names), STEPS, {})
        ids, times = frame.get_column("id").to_numpy(), times_of(frame)
        rows, since = np.empty(len(ids), np.int64), np.empty(len(ids), np.int64)
        n = follow(steps, ids, times, _hits(frame, names, self.events), self.within_ns, rows, since)
        return frame[rows[:n]].with_columns(pl.Series("since", since[:n]).cast(_STAMP)), marks


@dataclass(frozen=True)
class Absence(Operator):
    """A row, stamped with the `after` event, when no `wanted` event came within `within_ns` of it."""

    after: pl.Expr
    wanted: pl.Expr
    within_ns: int

    @property
    def label(self) -> str:
        """How it reads in the graph."""
        return f"absence within {span_text(self.within_ns)}"

    @property
    def span_ns(self) -> int:
        """See `Operator`."""
        return self.within_ns

    def step(self, state: State, frame: pl.DataFrame, marks: Marks, names: Names) -> tuple[pl.DataFrame, Marks]:
        """See `Operator`."""
        steps = room(state, "steps", len(names), STEPS, {})
        ids, times = frame.get_column("id").to_numpy(), times_of(frame)
        hits = _hits(frame, names, (self.after, self.wanted))
        size = len(ids) + len(steps)
        oid, ot = np.empty(size, np.uint32), np.empty(size, np.int64)
        n = missing(steps, ids, times, hits[0], hits[1], self.within_ns, marks.of(len(steps)), oid, ot)
        out = pl.DataFrame({"id": oid[:n], "time": pl.Series(ot[:n]).cast(_STAMP)}).sort("id", "time")
        return out, marks.back(self.within_ns + 1)
