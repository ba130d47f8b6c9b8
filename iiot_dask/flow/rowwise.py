"""Operators that look at one row at a time: filter, map, derive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from iiot_dask.core.errors import ConfigError, SchemaError
from iiot_dask.core.tags import check_tag
from iiot_dask.flow.marks import Marks
from iiot_dask.flow.names import Names
from iiot_dask.flow.operator import Operator, State, column

KEPT = ("id", "time")
"""Columns only the pipeline itself sets."""


def needs_tag(expressions: tuple[pl.Expr, ...]) -> bool:
    """Whether an expression reads the tag's name, which is looked up only then."""
    return any("tag" in expression.meta.root_names() for expression in expressions)


def with_tag(frame: pl.DataFrame, names: Names) -> pl.DataFrame:
    """The frame with the column ``tag``."""
    return frame.with_columns(names.texts(frame.get_column("id").to_numpy()))


@dataclass(frozen=True)
class Filter(Operator):
    """Keeps the rows where a Polars expression over tag, time, value, quality … is true (null is not)."""

    expression: pl.Expr

    @property
    def label(self) -> str:
        """How it reads in the graph."""
        return f"filter {self.expression}"

    def step(self, state: State, frame: pl.DataFrame, marks: Marks, names: Names) -> tuple[pl.DataFrame, Marks]:
        """See `Operator`."""
        del state
        if needs_tag((self.expression,)):
            return with_tag(frame, names).filter(self.expression).drop("tag"), marks
        return frame.filter(self.expression), marks


@dataclass(frozen=True)
class Map(Operator):
    """Sets columns from row-wise Polars expressions, or one column from a function of NumPy arrays (numba included)."""

    columns: Mapping[str, pl.Expr]
    function: Callable[[Any], Any] | None = None
    on: str = "value"

    def __post_init__(self) -> None:
        for name in self.columns:
            if name in KEPT or name == "tag":
                msg = f"map: column {name!r} belongs to the pipeline; `derive` renames tags, `shift` moves times"
                raise ConfigError(msg)

    @property
    def label(self) -> str:
        """How it reads in the graph."""
        if self.function is not None:
            return f"map {self.on} = {getattr(self.function, '__name__', 'function')}({self.on})"
        return "map " + ", ".join(f"{name} = {expression}" for name, expression in self.columns.items())

    def step(self, state: State, frame: pl.DataFrame, marks: Marks, names: Names) -> tuple[pl.DataFrame, Marks]:
        """See `Operator`."""
        del state
        if self.function is not None:
            values = np.asarray(self.function(column(frame, self.on, self.label)))
            if values.shape != (frame.height,):
                msg = (
                    f"{self.label}: gave an array of shape {values.shape} for {frame.height} values; one each is needed"
                )
                raise SchemaError(msg)
            return frame.with_columns(pl.Series(self.on, values)), marks
        if needs_tag(tuple(self.columns.values())):
            return with_tag(frame, names).with_columns(**self.columns).drop("tag"), marks
        return frame.with_columns(**self.columns), marks


@dataclass(frozen=True)
class Derive(Operator):
    """Rows of new tags, ready to be written back: ``derive("{tag}/mean", value="mean")``."""

    template: str
    value: str = "value"

    def __post_init__(self) -> None:
        if "{tag}" not in self.template:
            msg = f"derive {self.template!r}: the new name must hold '{{tag}}', so that tags stay apart"
            raise ConfigError(msg)

    @property
    def label(self) -> str:
        """How it reads in the graph."""
        return f"derive {self.template} = {self.value}"

    def start(self) -> State:
        """The state before the first row."""
        return {"new": np.empty(0, np.int64)}

    def step(self, state: State, frame: pl.DataFrame, marks: Marks, names: Names) -> tuple[pl.DataFrame, Marks]:
        """See `Operator`."""
        # Numbers given by `names` below this line are sources; those it gives here are derived and must not be derived again.
        ids = frame.get_column("id").to_numpy()
        new = state["new"]
        top = int(ids.max()) + 1 if len(ids) else 0
        if top > len(new):
            new = np.concatenate([new, np.full(top - len(new), -1, np.int64)])
        for number in np.unique(ids[new[ids] < 0]) if len(ids) else ():
            new[number] = names.number(check_tag(self.template.replace("{tag}", names.known[number])))
        state["new"] = new
        values = column(frame, self.value, self.label)
        quality = (
            frame.get_column("quality")
            if "quality" in frame.columns
            else pl.repeat(0, frame.height, dtype=pl.UInt8, eager=True)
        )
        out = pl.DataFrame(
            {
                "id": pl.Series(new[ids].astype(np.uint32)),
                "time": frame.get_column("time"),
                "value": pl.Series(values),
                "quality": quality,
            }
        )
        known = np.flatnonzero(new >= 0)
        upto = np.full(len(names), marks.low, np.int64)
        upto[new[known]] = marks.of(len(new))[known]
        return _in_order(out), Marks(upto, marks.low)


def _in_order(frame: pl.DataFrame) -> pl.DataFrame:
    """By (id, time) again: the new numbers come in another order than the old ones."""
    ids = frame.get_column("id").to_numpy()
    return frame if len(ids) < 2 or (ids[1:] >= ids[:-1]).all() else frame.sort("id", maintain_order=True)
