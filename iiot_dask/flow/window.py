"""Event-time windows: tumbling, sliding and session, with aggregates that merge."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from iiot_dask.core.errors import CapacityError, ConfigError
from iiot_dask.core.times import span_text
from iiot_dask.flow.marks import Marks
from iiot_dask.flow.names import Names
from iiot_dask.flow.operator import Operator, State, column, room
from iiot_dask.flow.panes import HEAD, NONE, OUT, PANE, SESSION, bound, end_sessions, finish, sessions, slide
from iiot_dask.flow.quantile import Quantiles
from iiot_dask.flow.reorder import times_of

PANES_MAX = 720
"""Most panes of a sliding window: each tag keeps so many accumulators of about 100 bytes."""
AGGREGATES = ("count", "min", "max", "mean", "sum", "first", "last", "std", "twm", "range", "duration")
_QUANTILE = re.compile(r"p(\d{1,2}(?:\.\d+)?)")


def check_aggregates(names: Sequence[str]) -> tuple[str, ...]:
    """The names, if all are known: `AGGREGATES` or a percentile such as ``p99``.

    Raises
    ------
    ConfigError
        Naming the one that is not.
    """
    if not names:
        msg = "window: no aggregate is asked for; give at least one of " + ", ".join((*AGGREGATES, "p50, p99, p99.9 …"))
        raise ConfigError(msg)
    for name in names:
        if name not in AGGREGATES and not _QUANTILE.fullmatch(name):
            msg = f"window: aggregate {name!r} is unknown; {', '.join(AGGREGATES)} and percentiles (p50, p99.9 …) are allowed"
            raise ConfigError(msg)
    return tuple(names)


def _finished(out: npt.NDArray[np.void], aggregates: Sequence[str]) -> dict[str, Any]:
    count = out["count"]
    with np.errstate(invalid="ignore", divide="ignore"):
        made: dict[str, Callable[[], Any]] = {
            "mean": lambda: out["sum"] / count,
            "std": lambda: np.sqrt(out["m2"] / np.where(count > 1, count - 1, 1)),
            "twm": lambda: np.where(out["held_ns"] > 0, out["integral"] / (out["held_ns"] * 1e-9), out["last"]),
            "range": lambda: out["max"] - out["min"],
            "duration": lambda: (out["last_ns"] - out["first_ns"]) * 1e-9,
        }
        return {name: made[name]() if name in made else out[name] for name in aggregates}


@dataclass(frozen=True)
class Window(Operator):
    """Aggregates of one column over windows of event time; a row out has its window's start as time.

    Parameters
    ----------
    size_ns, every_ns
        Length and distance of windows, ns; equal = tumbling. Windows start at multiples of `every_ns` since 1970.
    aggregates
        See `check_aggregates`. ``twm`` is the time-weighted mean: each value holds until the tag's next sample.
    on
        The column; NaN does not enter.
    """

    size_ns: int
    every_ns: int
    aggregates: tuple[str, ...]
    on: str = "value"

    def __post_init__(self) -> None:
        if self.size_ns <= 0 or self.every_ns <= 0 or self.size_ns % self.every_ns:
            msg = f"window {span_text(max(self.size_ns, 0))} every {span_text(max(self.every_ns, 0))}: the size must be a whole multiple of the distance, both above 0"
            raise ConfigError(msg)
        if self.size_ns // self.every_ns > PANES_MAX:
            msg = f"window {span_text(self.size_ns)} every {span_text(self.every_ns)}: {self.size_ns // self.every_ns} panes; at most {PANES_MAX} are allowed"
            raise CapacityError(msg)
        check_aggregates(self.aggregates)

    @property
    def label(self) -> str:
        """How it reads in the graph."""
        every = "" if self.every_ns == self.size_ns else f" every {span_text(self.every_ns)}"
        return f"window {span_text(self.size_ns)}{every}: {', '.join(self.aggregates)}"

    @property
    def span_ns(self) -> int:
        """See `Operator`."""
        return self.size_ns

    def step(self, state: State, frame: pl.DataFrame, marks: Marks, names: Names) -> tuple[pl.DataFrame, Marks]:
        """See `Operator`."""
        k, tags = self.size_ns // self.every_ns, len(names)
        heads = room(state, "heads", tags, HEAD, {"pane": NONE, "ended": NONE})
        rings = state.get("rings", np.zeros((0, k), PANE))
        if len(rings) < len(heads):
            grown = np.zeros((len(heads), k), PANE)
            grown["pane"] = NONE
            grown[: len(rings)] = rings
            state["rings"] = rings = grown
        ids, times = frame.get_column("id").to_numpy(), times_of(frame)
        values = column(frame, self.on, self.label)
        out = np.empty(bound(ids, times, heads, self.every_ns, k), OUT)
        n = slide(rings, heads, ids, times, values, self.every_ns, k, out)
        n = finish(rings, heads, marks.of(len(heads)), self.every_ns, k, out, n)
        out = out[:n]
        if k > 1 or n > 1:
            out = out[np.lexsort((out["start"], out["id"]))]
        columns = _finished(out, [a for a in self.aggregates if a in AGGREGATES])
        wanted = [a for a in self.aggregates if a not in AGGREGATES]
        if wanted:
            quantiles = Quantiles(state, tuple(float(a[1:]) / 100 for a in wanted))
            quantiles.add(ids, times // self.every_ns, values)
            columns |= dict(zip(wanted, quantiles.take(out["id"], out["start"] // self.every_ns, k), strict=True))
            quantiles.forget(heads["ended"] - k)
        return _frame(out, columns, self.aggregates), marks.back(self.size_ns)


@dataclass(frozen=True)
class Session(Operator):
    """Aggregates over sessions: runs of samples no more than `gap_ns` apart; a row out has its session's first time.

    ``twm`` and ``duration`` cover the first to the last sample.
    """

    gap_ns: int
    aggregates: tuple[str, ...]
    on: str = "value"

    def __post_init__(self) -> None:
        if self.gap_ns <= 0:
            msg = f"session: a gap of {self.gap_ns} ns; it must be above 0"
            raise ConfigError(msg)
        for name in check_aggregates(self.aggregates):
            if name not in AGGREGATES:
                msg = f"session: percentile {name!r} is not kept for sessions; {', '.join(AGGREGATES)} are allowed"
                raise ConfigError(msg)

    @property
    def label(self) -> str:
        """How it reads in the graph."""
        return f"session gap {span_text(self.gap_ns)}: {', '.join(self.aggregates)}"

    @property
    def span_ns(self) -> int:
        """See `Operator`."""
        return 100 * self.gap_ns

    def step(self, state: State, frame: pl.DataFrame, marks: Marks, names: Names) -> tuple[pl.DataFrame, Marks]:
        """See `Operator`."""
        open_ones = room(state, "sessions", len(names), SESSION, {})
        ids, times = frame.get_column("id").to_numpy(), times_of(frame)
        out = np.empty(len(ids) + len(open_ones), OUT)
        n = sessions(open_ones, ids, times, column(frame, self.on, self.label), self.gap_ns, out)
        upto = marks.of(len(open_ones))
        n = end_sessions(open_ones, upto, self.gap_ns, out, n)
        out = out[:n][np.lexsort((out[:n]["start"], out[:n]["id"]))]
        # An open session will come out stamped with its start: nothing after that is complete.
        after = np.where(open_ones["open"], np.minimum(open_ones["first_ns"] - 1, upto), upto)
        low = min(marks.low, int(after.min())) if len(after) else marks.low
        return _frame(out, _finished(out, self.aggregates), self.aggregates), Marks(after, low)


def _frame(out: npt.NDArray[np.void], columns: dict[str, Any], order: Sequence[str]) -> pl.DataFrame:
    made = {"id": pl.Series(out["id"].copy()), "time": pl.Series(out["start"].copy()).cast(pl.Datetime("ns", "UTC"))}
    return pl.DataFrame(made | {name: pl.Series(np.ascontiguousarray(columns[name])) for name in order})
