"""Operators across tags: groups by topology level, the k largest, the latest value of other tags beside each row.

They see a time only when it is complete for every tag, so they wait for the lowest watermark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from iiot_dask.core.errors import ConfigError, SchemaError
from iiot_dask.core.times import span_text
from iiot_dask.flow.marks import END, NEVER, Marks
from iiot_dask.flow.names import Names
from iiot_dask.flow.operator import Operator, State, column
from iiot_dask.flow.reorder import times_of

GROUP_AGGREGATES = ("count", "sum", "mean", "min", "max", "spread")


def _aggregate(values: npt.NDArray[np.float64], starts: npt.NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
    """Aggregates of the stretches of `values` that begin at `starts`; sums from left to right, the same every time."""
    count = np.diff(np.append(starts, len(values)))
    if not len(starts):
        return {name: np.empty(0, np.int64 if name == "count" else np.float64) for name in names}
    total = np.add.reduceat(values, starts)
    low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    made = {"count": count, "sum": total, "mean": total / count, "min": low, "max": high, "spread": high - low}
    return {name: made[name] for name in names}


def complete(state: State, frame: pl.DataFrame, low: int) -> pl.DataFrame:
    """The rows up to the lowest watermark, by (time, id); later ones wait in `state["waiting"]`."""
    rows = pl.concat([state["waiting"], frame]) if "waiting" in state else frame
    if low == END:
        ready, waiting = rows, rows.clear()
    elif low == NEVER:
        ready, waiting = rows.clear(), rows
    else:
        bound = pl.lit(low).cast(pl.Datetime("ns", "UTC"))
        ready, waiting = rows.filter(pl.col("time") <= bound), rows.filter(pl.col("time") > bound)
    state["waiting"] = waiting
    return ready.sort("time", "id")


def _all(marks: Marks, names: Names) -> Marks:
    return Marks(np.full(len(names), marks.low, np.int64), marks.low)


@dataclass(frozen=True)
class Group(Operator):
    """One row a group and time: tags that share their first `level` names ("a/b/c" at level 2 is "a/b").

    Use it after a window or a resample, which give all tags the same times. `prefix` sets the groups' tags apart.
    """

    level: int
    aggregates: tuple[str, ...]
    on: str = "value"
    prefix: str = ""
    keyed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.level < 1:
            msg = f"group: level {self.level}; 1 (the first name of the path) or more is allowed"
            raise ConfigError(msg)
        for name in self.aggregates:
            if name not in GROUP_AGGREGATES:
                msg = f"group: aggregate {name!r} is unknown; {', '.join(GROUP_AGGREGATES)} are allowed"
                raise ConfigError(msg)

    @property
    def label(self) -> str:
        """How it reads in the graph."""
        return f"group level {self.level}: {', '.join(self.aggregates)} of {self.on}"

    def start(self) -> State:
        """The state before the first row."""
        return {"group": np.empty(0, np.int64)}

    def step(self, state: State, frame: pl.DataFrame, marks: Marks, names: Names) -> tuple[pl.DataFrame, Marks]:
        """See `Operator`."""
        if self.on not in frame.columns:
            msg = f"{self.label}: there is no column {self.on!r}; there are {', '.join(frame.columns)}"
            raise SchemaError(msg)
        ready = complete(state, frame, marks.low)
        ids = ready.get_column("id").to_numpy()
        group = state["group"]
        top = int(ids.max()) + 1 if len(ids) else 0
        if top > len(group):
            group = np.concatenate([group, np.full(top - len(group), -1, np.int64)])
        for number in np.unique(ids[group[ids] < 0]) if len(ids) else ():
            group[number] = names.number(self.prefix + "/".join(names.known[number].split("/")[: self.level]))
        state["group"] = group
        # Numbers depend on what came first, names do not: sums are made in the order of the tags' names.
        rows = (
            ready.with_columns(names.texts(ids), pl.Series("group", group[ids].astype(np.uint32)))
            .filter(pl.col(self.on).is_not_null())
            .sort("group", "time", "tag")
        )
        key, times = rows.get_column("group").to_numpy(), times_of(rows)
        new = np.ones(len(key), np.bool_)
        new[1:] = (key[1:] != key[:-1]) | (times[1:] != times[:-1])
        starts = np.flatnonzero(new)
        made = _aggregate(column(rows, self.on, self.label), starts, self.aggregates)
        out = pl.DataFrame({"id": key[starts], "time": rows.get_column("time").gather(starts), **made})
        return out, _all(marks, names)


@dataclass(frozen=True)
class TopK(Operator):
    """At each time the `k` tags with the largest value of `by`; column ``rank`` from 1. Equal values: the lower tag name."""

    k: int
    by: str = "value"
    keyed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.k < 1:
            msg = f"top_k: k = {self.k}; 1 or more is allowed"
            raise ConfigError(msg)

    @property
    def label(self) -> str:
        """How it reads in the graph."""
        return f"top {self.k} by {self.by}"

    def step(self, state: State, frame: pl.DataFrame, marks: Marks, names: Names) -> tuple[pl.DataFrame, Marks]:
        """See `Operator`."""
        if self.by not in frame.columns:
            msg = f"{self.label}: there is no column {self.by!r}; there are {', '.join(frame.columns)}"
            raise SchemaError(msg)
        ready = complete(state, frame, marks.low)
        named = ready.with_columns(names.texts(ready.get_column("id").to_numpy()))
        out = (
            named.sort(["time", self.by, "tag"], descending=[False, True, False], nulls_last=True)
            .with_columns(rank=pl.int_range(pl.len(), dtype=pl.Int64).over("time") + 1)
            .filter(pl.col("rank") <= self.k)
            .drop("tag")
            .sort("id", "time")
        )
        return out, _all(marks, names)


@dataclass(frozen=True)
class Beside(Operator):
    """Beside each row of the other tags: the latest value of the tag `columns` names, at or before the row's time.

    The tags joined in are taken out of the rows, unless `keep`. A value older than `tolerance_ns` (0: any age) is null.
    """

    columns: Mapping[str, str]
    tolerance_ns: int = 0
    keep: bool = False
    keyed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.columns:
            msg = "beside: no tag is named; give column='tag' at least once"
            raise ConfigError(msg)

    @property
    def label(self) -> str:
        """How it reads in the graph."""
        within = f" within {span_text(self.tolerance_ns)}" if self.tolerance_ns else ""
        return "beside " + ", ".join(f"{c} = {t}" for c, t in self.columns.items()) + within

    @property
    def span_ns(self) -> int:
        """See `Operator`."""
        return self.tolerance_ns or 3_600_000_000_000

    def step(self, state: State, frame: pl.DataFrame, marks: Marks, names: Names) -> tuple[pl.DataFrame, Marks]:
        """See `Operator`."""
        ready = complete(state, frame, marks.low)
        joined = {name: names.number(tag) for name, tag in self.columns.items()}
        left = ready if self.keep else ready.filter(~pl.col("id").is_in(list(joined.values())))
        left = left.sort("time")
        tolerance = f"{self.tolerance_ns}ns" if self.tolerance_ns else None
        for name, number in joined.items():
            key = f"last {name}"
            fresh = ready.filter(pl.col("id") == number).select("time", pl.col("value").alias(name))
            right = pl.concat([state[key], fresh]) if key in state else fresh
            left = left.join_asof(right.sort("time"), on="time", strategy="backward", tolerance=tolerance)
            state[key] = right.tail(1)
        return left.sort("id", "time"), _all(marks, names)
