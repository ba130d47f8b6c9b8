"""`scan`: the history as a Polars IO source, with projection, predicate and row limit pushed down.

Polars calls its IO plug-in interface unstable; only this file touches it. A predicate is always applied to what comes out;
what can be understood of it (conjuncts about the tag alone, comparisons of time or value with a constant) also prunes files
and rows before anything is decoded.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from iiot_dask.history.index import NS_MAX, NS_MIN, Rows, overlapping

TIME = pl.Datetime("ns", "UTC")
SCHEMA = pl.Schema({"tag": pl.String(), "time": TIME, "value": pl.Float64(), "quality": pl.UInt8()})
"""Columns of a scan."""


@dataclass(slots=True)
class Bounds:
    """What a query says for sure about the rows it wants.

    ``start <= time <= last``; ``low <= value <= high`` (NaN counts as above everything, as Polars has it); expressions
    over the tag alone that all must hold; at most `limit` rows (None: all).
    """

    start: int = NS_MIN
    last: int = NS_MAX
    low: float = -math.inf
    high: float = math.inf
    tags: list[pl.Expr] = field(default_factory=list)
    limit: int | None = None

    def ids(self, ids: npt.NDArray[np.integer], names: Callable[[npt.NDArray[np.integer]], pl.Series]) -> Any:
        """Those of `ids` whose names satisfy the tag expressions."""
        if not self.tags or not len(ids):
            return ids
        frame = pl.DataFrame([names(ids)]).select(pl.all_horizontal(self.tags).fill_null(value=False))
        return ids[frame.to_series().to_numpy()]

    def rows(self, rows: Rows) -> Rows:
        """Those of `rows` that may hold such values.

        Only chunks that stand alone are left out: what a chunk that another row overlaps says may have been written again.
        Statistics leave out bad samples and NaN, so a chunk that holds either stays.
        """
        if self.low == -math.inf and self.high == math.inf:
            return rows
        head = rows.head
        with np.errstate(invalid="ignore"):
            outside = (head["max"] < self.low) | (head["min"] > self.high)
        outside &= head["good"] == head["count"]
        return rows.take(~outside | overlapping(rows)) if outside.any() else rows


Batches = Callable[[Bounds, list[str]], Generator[pl.DataFrame, None, None]]
"""Given what is sure and the columns needed, frames with at least those columns; rows beyond the bounds are fine."""


def bounds_of(predicate: pl.Expr | None) -> Bounds:
    """Read a predicate.

    Examples
    --------
    >>> import datetime as dt
    >>> seen = []
    >>> wanted = (pl.col("tag") == "a") & (pl.col("value") > 1) & (pl.col("time") < dt.datetime(1970, 1, 2, tzinfo=dt.UTC))
    >>> source = lazy(SCHEMA, lambda bounds, columns: (seen.append(bounds), (yield pl.DataFrame(schema=SCHEMA))))
    >>> _ = source.filter(wanted).collect()
    >>> len(seen[0].tags), seen[0].low, seen[0].last
    (1, 1.0, 86400000000000)
    """
    out = Bounds()
    if predicate is None:
        return out
    try:
        tree = json.loads(predicate.meta.serialize(format="json"))
    except (pl.exceptions.ComputeError, ValueError):
        # An expression that has no JSON form (a Python function) prunes nothing; it is still applied to the rows.
        return out
    for part in _conjuncts(tree):
        expression = pl.Expr.deserialize(io.StringIO(json.dumps(part)), format="json")
        if expression.meta.root_names() == ["tag"]:
            out.tags.append(expression)
            continue
        first, last = _range(part, "time", _datetime)
        out.start = max(out.start, NS_MIN if first is None else first)
        out.last = min(out.last, NS_MAX if last is None else last)
        low, high = _range(part, "value", _number)
        out.low = max(out.low, -math.inf if low is None else low)
        out.high = min(out.high, math.inf if high is None else high)
    return out


def _conjuncts(tree: Any) -> Iterator[Any]:
    node = tree.get("BinaryExpr") if isinstance(tree, dict) else None
    if node and node["op"] in {"And", "LogicalAnd"}:
        yield from _conjuncts(node["left"])
        yield from _conjuncts(node["right"])
    else:
        yield tree


_FLIP = {"Gt": "Lt", "GtEq": "LtEq", "Lt": "Gt", "LtEq": "GtEq", "Eq": "Eq"}


def _range(tree: Any, name: str, literal: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Range of a column, both ends included (None: open), a conjunct admits; open when it is not understood."""
    column = {"Column": name}
    if not isinstance(tree, dict):
        return None, None
    node = tree.get("BinaryExpr")
    if node:
        op, value = node["op"], literal(node["right"])
        if node["left"] != column:
            op, value = _FLIP.get(op, ""), literal(node["left"]) if node["right"] == column else None
        # Strict comparisons admit less than this; the predicate itself sees to that.
        return (value if op in {"Gt", "GtEq", "Eq"} else None, value if op in {"Lt", "LtEq", "Eq"} else None)
    call = tree.get("Function", {})
    between = call.get("function", {}).get("Boolean", {}) if isinstance(call.get("function"), dict) else {}
    between = between.get("IsBetween") if isinstance(between, dict) else None
    inputs = call.get("input", [])
    if between is None or len(inputs) != 3 or inputs[0] != column:
        return None, None
    # Open ends only admit less; taking them as closed is safe.
    return literal(inputs[1]), literal(inputs[2])


def _scalar(tree: Any) -> dict[str, Any]:
    found = tree.get("Literal", {}).get("Scalar", {}) if isinstance(tree, dict) else {}
    return found if isinstance(found, dict) else {}


def _datetime(tree: Any) -> int | None:
    """Ns of a datetime constant in ns, else None."""
    value = _scalar(tree).get("Datetime")
    return int(value[0]) if isinstance(value, list) and value[1] == "Nanoseconds" else None


def _number(tree: Any) -> float | None:
    """A float constant, else None; NaN is none, as it bounds nothing."""
    value = _scalar(tree).get("Float64")
    return float(value) if isinstance(value, (int, float)) and not math.isnan(value) else None


def series(name: str, column: npt.NDArray[Any]) -> pl.Series:
    """A decoded column as a series of `SCHEMA`, without a copy."""
    kind = {"time": pa.timestamp("ns", "UTC"), "value": pa.float64(), "quality": pa.uint8()}[name]
    array = pa.Array.from_buffers(kind, len(column), [None, pa.py_buffer(column)])
    return pl.Series(name, array)


def lazy(schema: pl.Schema, batches: Batches) -> pl.LazyFrame:
    """A LazyFrame over `batches(bounds, columns)`, called anew at each collect."""
    from polars.io.plugins import register_io_source

    def source(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        del batch_size  # groups have their own size
        wanted = list(schema) if with_columns is None else with_columns
        needed = wanted if predicate is None else [*wanted, *predicate.meta.root_names()]
        bounds = bounds_of(predicate)
        # With a predicate any number of rows may have to be read to find a few.
        bounds.limit = n_rows if predicate is None else None
        left = n_rows
        # Closed as soon as enough is there, not when the collector gets to it.
        with contextlib.closing(batches(bounds, needed)) as frames:
            for whole in frames:
                frame = whole if predicate is None else whole.filter(predicate)
                frame = frame.select(wanted)
                if left is not None:
                    frame = frame.head(left)
                    left -= frame.height
                yield frame
                if left == 0:
                    return

    return register_io_source(source, schema=schema, validate_schema=True, is_pure=False)
