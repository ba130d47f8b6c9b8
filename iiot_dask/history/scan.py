"""`scan`: the history as a Polars IO source, with projection, predicate and row limit pushed down.

Polars calls its IO plug-in interface unstable; only this file touches it. A predicate is always applied to what comes out;
what can be understood of it (conjuncts about the tag alone, comparisons of time with a constant) also prunes files and rows.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from iiot_dask.history.index import NS_MAX, NS_MIN

TIME = pl.Datetime("ns", "UTC")
SCHEMA = pl.Schema({"tag": pl.String(), "time": TIME, "value": pl.Float64(), "quality": pl.UInt8()})
"""Columns of a scan."""

Batches = Callable[["Bounds", list[str]], Generator[pl.DataFrame, None, None]]


@dataclass(slots=True)
class Bounds:
    """What a predicate says for sure: ``start <= time <= last``, and expressions over the tag alone that all must hold."""

    start: int = NS_MIN
    last: int = NS_MAX
    tags: list[pl.Expr] = field(default_factory=list)

    def ids(self, ids: npt.NDArray[np.integer], names: Callable[[npt.NDArray[np.integer]], pl.Series]) -> Any:
        """Those of `ids` whose names satisfy the tag expressions."""
        if not self.tags or not len(ids):
            return ids
        frame = pl.DataFrame([names(ids)]).select(pl.all_horizontal(self.tags).fill_null(value=False))
        return ids[frame.to_series().to_numpy()]


def bounds_of(predicate: pl.Expr | None) -> Bounds:
    """Read a predicate.

    Examples
    --------
    >>> b = bounds_of((pl.col("time") >= pl.lit(5).cast(TIME)) & (pl.col("tag") == "a") & (pl.col("value") > 1))
    >>> len(b.tags)
    1
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
        low, high = _time_range(part)
        out.start, out.last = max(out.start, low), min(out.last, high)
    return out


def _conjuncts(tree: Any) -> Iterator[Any]:
    node = tree.get("BinaryExpr") if isinstance(tree, dict) else None
    if node and node["op"] in {"And", "LogicalAnd"}:
        yield from _conjuncts(node["left"])
        yield from _conjuncts(node["right"])
    else:
        yield tree


_FLIP = {"Gt": "Lt", "GtEq": "LtEq", "Lt": "Gt", "LtEq": "GtEq", "Eq": "Eq"}


def _time_range(tree: Any) -> tuple[int, int]:
    """Range of times, both ends included, a conjunct admits; everything when it is not understood."""
    everything = NS_MIN, NS_MAX
    if not isinstance(tree, dict):
        return everything
    node = tree.get("BinaryExpr")
    if node:
        op, value = node["op"], _literal(node["right"])
        if node["left"] != {"Column": "time"}:
            op, value = _FLIP.get(op, ""), _literal(node["left"]) if node["right"] == {"Column": "time"} else None
        return everything if value is None else _compared(op, value)
    call = tree.get("Function", {})
    between = call.get("function", {}).get("Boolean", {}) if isinstance(call.get("function"), dict) else {}
    between = between.get("IsBetween") if isinstance(between, dict) else None
    inputs = call.get("input", [])
    if between is None or len(inputs) != 3 or inputs[0] != {"Column": "time"}:
        return everything
    low, high = _literal(inputs[1]), _literal(inputs[2])
    if low is None or high is None:
        return everything
    # Open ends only admit less; taking them as closed is safe.
    return low, high


def _literal(tree: Any) -> int | None:
    """Ns of a datetime constant in ns, else None."""
    value = tree.get("Literal", {}).get("Scalar", {}).get("Datetime") if isinstance(tree, dict) else None
    return int(value[0]) if isinstance(value, list) and value[1] == "Nanoseconds" else None


def _compared(op: str, value: int) -> tuple[int, int]:
    # Strict comparisons admit less than this; the predicate itself sees to that.
    return {
        "Gt": (value, NS_MAX),
        "GtEq": (value, NS_MAX),
        "Lt": (NS_MIN, value),
        "LtEq": (NS_MIN, value),
        "Eq": (value, value),
    }.get(op, (NS_MIN, NS_MAX))


def lazy(schema: pl.Schema, batches: Batches) -> pl.LazyFrame:
    """A LazyFrame over `batches(bounds, columns)`, called anew at each collect; it may yield rows beyond the bounds."""
    from polars.io.plugins import register_io_source

    def source(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        del batch_size  # groups have their own size
        wanted = list(schema) if with_columns is None else with_columns
        left = n_rows
        # Closed as soon as enough is there, not when the collector gets to it.
        with contextlib.closing(batches(bounds_of(predicate), wanted)) as frames:
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
