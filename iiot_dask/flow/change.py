"""Operators over a sample and the one before it: delta, rate, counter, resample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl

from iiot_dask.core.errors import ConfigError
from iiot_dask.core.jit import njit
from iiot_dask.core.times import span_text
from iiot_dask.flow.marks import Marks
from iiot_dask.flow.names import Names
from iiot_dask.flow.operator import Operator, State, column, room
from iiot_dask.flow.reorder import times_of

BEFORE = np.dtype([("seen", "?"), ("time", "i8"), ("value", "f8"), ("total", "f8")])


@njit
def differences(before: Any, ids: Any, times: Any, values: Any, per: float, out: Any) -> None:
    """`out` float64[n]: value minus the tag's last one (per == 0), or per `per` ns; NaN for a tag's first."""
    for i in range(len(ids)):
        v = values[i]
        if np.isnan(v):
            out[i] = np.nan
            continue
        b = before[ids[i]]
        d = v - b.value
        out[i] = np.nan if not b.seen else (d if per == 0.0 else d * (per / (times[i] - b.time)))
        b.seen = True
        b.time = times[i]
        b.value = v


@njit
def totals(before: Any, ids: Any, values: Any, modulus: float, out: Any) -> None:
    """`out` float64[n]: how much a counter has counted since the tag's first sample.

    A step down of more than half the modulus is a roll-over; any other step down is a restart from zero.
    """
    for i in range(len(ids)):
        v = values[i]
        if np.isnan(v):
            out[i] = np.nan
            continue
        b = before[ids[i]]
        if b.seen:
            d = v - b.value
            if d < 0.0:
                d = d + modulus if modulus > 0.0 and -d > modulus / 2.0 else v
            b.total += d
        b.seen = True
        b.value = v
        out[i] = b.total


@dataclass(frozen=True)
class Delta(Operator):
    """The change since the tag's last sample, as column `into`; a tag's first sample gives no row. `per_ns` > 0: a rate."""

    per_ns: int = 0
    on: str = "value"
    into: str = "value"

    @property
    def label(self) -> str:
        """How it reads in the graph."""
        return f"rate of {self.on} per {span_text(self.per_ns)}" if self.per_ns else f"delta of {self.on}"

    def step(self, state: State, frame: pl.DataFrame, marks: Marks, names: Names) -> tuple[pl.DataFrame, Marks]:
        """See `Operator`."""
        before = room(state, "before", len(names), BEFORE, {})
        out = np.empty(frame.height)
        ids, times = frame.get_column("id").to_numpy(), times_of(frame)
        differences(before, ids, times, column(frame, self.on, self.label), float(self.per_ns), out)
        return frame.with_columns(pl.Series(self.into, out)).filter(pl.Series(~np.isnan(out))), marks


@dataclass(frozen=True)
class Counter(Operator):
    """What a counter has counted since its first sample, over roll-overs (of `modulus`) and restarts."""

    modulus: float = 0.0
    on: str = "value"
    into: str = "value"
    endless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.modulus < 0 or not np.isfinite(self.modulus):
            msg = f"counter: modulus {self.modulus}; 0 (no roll-over, only restarts) or above is allowed, 2**32 for instance"
            raise ConfigError(msg)

    @property
    def label(self) -> str:
        """How it reads in the graph."""
        return f"counter {self.on}" + (f" modulo {self.modulus:g}" if self.modulus else "")

    def step(self, state: State, frame: pl.DataFrame, marks: Marks, names: Names) -> tuple[pl.DataFrame, Marks]:
        """See `Operator`."""
        before = room(state, "before", len(names), BEFORE, {})
        out = np.empty(frame.height)
        totals(before, frame.get_column("id").to_numpy(), column(frame, self.on, self.label), self.modulus, out)
        return frame.with_columns(pl.Series(self.into, out)), marks


@njit
def grid_count(before: Any, ids: Any, times: Any, values: Any, every: int, gap: int) -> int:
    """How many grid points `grid` will write."""
    n = 0
    last_id = -1
    last = 0
    for i in range(len(ids)):
        if values[i] != values[i]:
            continue
        g = ids[i]
        if g != last_id:
            seen, last = before[g].seen, before[g].time
        else:
            seen = True
        if seen and (gap == 0 or times[i] - last <= gap):
            n += (times[i] - 1) // every - (last - 1) // every
        last_id, last = g, times[i]
    return n


@njit
def grid(
    before: Any, ids: Any, times: Any, values: Any, every: int, gap: int, linear: bool, oid: Any, ot: Any, ov: Any
) -> int:
    """Values at the multiples of `every` in [last sample, sample), held or on the line between the two."""
    n = 0
    for i in range(len(ids)):
        v = values[i]
        if np.isnan(v):
            continue
        g, t = ids[i], times[i]
        b = before[g]
        if b.seen and (gap == 0 or t - b.time <= gap):
            point = ((b.time - 1) // every + 1) * every
            while point < t:
                oid[n] = g
                ot[n] = point
                ov[n] = b.value + (v - b.value) * ((point - b.time) / (t - b.time)) if linear else b.value
                n += 1
                point += every
        b.seen = True
        b.time = t
        b.value = v
    return n


@dataclass(frozen=True)
class Resample(Operator):
    """The value at every multiple of `every_ns`, by the rule ``step`` (held) or ``linear``; known once the next sample is.

    Between samples more than `gap_ns` apart (default 100 `every_ns`; 0 = any distance) nothing is made up.
    """

    every_ns: int
    rule: Literal["step", "linear"]
    gap_ns: int
    on: str = "value"

    def __post_init__(self) -> None:
        if self.every_ns <= 0:
            msg = "resample: the distance must be above 0"
            raise ConfigError(msg)
        if self.rule not in ("step", "linear"):
            msg = f"resample: rule {self.rule!r}; 'step' and 'linear' are allowed"
            raise ConfigError(msg)

    @property
    def label(self) -> str:
        """How it reads in the graph."""
        return f"resample {span_text(self.every_ns)} {self.rule}"

    @property
    def span_ns(self) -> int:
        """See `Operator`."""
        return self.gap_ns or 1000 * self.every_ns

    def step(self, state: State, frame: pl.DataFrame, marks: Marks, names: Names) -> tuple[pl.DataFrame, Marks]:
        """See `Operator`."""
        before = room(state, "before", len(names), BEFORE, {})
        ids, times = frame.get_column("id").to_numpy(), times_of(frame)
        values = column(frame, self.on, self.label)
        n = grid_count(before, ids, times, values, self.every_ns, self.gap_ns)
        oid, ot, ov = np.empty(n, np.uint32), np.empty(n, np.int64), np.empty(n)
        grid(before, ids, times, values, self.every_ns, self.gap_ns, self.rule == "linear", oid, ot, ov)
        made = {
            "id": oid,
            "time": pl.Series(ot).cast(pl.Datetime("ns", "UTC")),
            "value": ov,
            "quality": np.zeros(n, np.uint8),
        }
        # A sample may still come just after the watermark and give grid points back to the last sample before it.
        upto = marks.of(len(before))
        held = np.where(before["seen"], np.minimum(before["time"] - 1, upto), upto)
        if self.gap_ns:
            held = np.where(upto - before["time"] > self.gap_ns, upto, held)
        return pl.DataFrame(made), Marks(held, min(marks.low, int(held.min())) if len(held) else marks.low)
