"""A user's frame becomes columns: whatever speaks Arrow in, tag names, int64 ns, float64 and uint8 out, or a clear error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from iiot_dask.core.errors import SchemaError, map_errors

_REQUIRED = ("tag", "time", "value")


@dataclass(frozen=True, slots=True)
class Frame:
    """Rows of a frame, in its order: `names` (distinct tags), `tag` (position in names), `time` ns, `value`, `quality`."""

    names: list[str]
    tag: npt.NDArray[np.int64]
    time: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]
    quality: npt.NDArray[np.uint8]


def normal(frame: Any) -> Frame:
    """Check and convert a frame: Polars, pandas, or anything with ``__arrow_c_stream__``.

    Columns: ``tag`` text, ``time`` a timestamp with a time zone (converted to UTC) or int64 ns since 1970-01-01 UTC,
    ``value`` any number or Boolean (null becomes NaN; without a ``quality`` column also bad), ``quality`` 0-255 (absent or
    null: good). Others are ignored.

    Raises
    ------
    SchemaError
        Naming the column, what it is and what was allowed.

    Examples
    --------
    >>> f = normal(pl.DataFrame({"tag": ["a", "b", "a"], "time": [1, 2, 3], "value": [True, False, None]}))
    >>> f.names, f.tag.tolist(), f.value.tolist(), f.quality.tolist()
    (['a', 'b'], [0, 1, 0], [1.0, 0.0, nan], [0, 0, 128])
    """
    table = _polars(frame)
    for name in _REQUIRED:
        if name not in table.columns:
            msg = f"the frame has no column {name!r}; it has {table.columns}, and tag, time and value are needed"
            raise SchemaError(msg)
    if not table.height:
        # Columns without rows often have no type either.
        return Frame([], np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0, np.uint8))
    names, tag = _tags(table["tag"])
    value, missing = _values(table["value"])
    if "quality" in table.columns:
        quality = _quality(table["quality"])
    else:
        quality = np.zeros(table.height, np.uint8)
        quality[missing] = 128
    return Frame(names, tag, _times(table["time"]), value, quality)


def _polars(frame: Any) -> pl.DataFrame:
    if isinstance(frame, pl.LazyFrame):
        return frame.collect()
    if isinstance(frame, pl.DataFrame):
        return frame
    if not hasattr(frame, "__arrow_c_stream__"):
        msg = f"a frame is Polars, pandas or anything with __arrow_c_stream__, not {type(frame).__name__}"
        raise SchemaError(msg)
    with map_errors({pl.exceptions.PolarsError: SchemaError}, "reading the frame through Arrow"):
        return pl.DataFrame(frame)


def _tags(column: pl.Series) -> tuple[list[str], npt.NDArray[np.int64]]:
    if column.dtype not in (pl.String, pl.Categorical, pl.Enum):
        msg = f"column 'tag' is {column.dtype}; text is wanted"
        raise SchemaError(msg)
    if column.null_count():
        msg = f"column 'tag' holds {column.null_count()} nulls; every row has a tag"
        raise SchemaError(msg)
    names = column.unique(maintain_order=True)
    lookup = pl.DataFrame({"tag": names, "at": np.arange(len(names), dtype=np.int64)})
    at = column.to_frame("tag").join(lookup, on="tag", how="left", maintain_order="left")["at"]
    return names.cast(pl.String).to_list(), at.to_numpy()


def _times(column: pl.Series) -> npt.NDArray[np.int64]:
    if column.null_count():
        msg = f"column 'time' holds {column.null_count()} nulls; every row has a time"
        raise SchemaError(msg)
    if isinstance(column.dtype, pl.Datetime):
        if column.dtype.time_zone is None:
            msg = "column 'time' has no time zone; say which with .dt.replace_time_zone('UTC')"
            raise SchemaError(msg)
        with map_errors({pl.exceptions.PolarsError: SchemaError}, "column 'time' as nanoseconds"):
            scale = {"ns": 1, "us": 1_000, "ms": 1_000_000}[column.dtype.time_unit]
            units = column.to_physical()
            limit = np.iinfo(np.int64).max // scale
            if scale > 1 and len(units) and not (-limit <= units.min() <= units.max() <= limit):  # type: ignore[operator]
                msg = f"column 'time' reaches from {column.min()!r} to {column.max()!r}; int64 nanoseconds hold 1677-09-21 to 2262-04-11"
                raise SchemaError(msg)
            return (units * scale).to_numpy()
    if column.dtype == pl.Int64:
        return column.to_numpy()
    msg = f"column 'time' is {column.dtype}; a timestamp with a time zone, or Int64 ns since 1970-01-01 UTC, is wanted"
    raise SchemaError(msg)


def _values(column: pl.Series) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    if not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)):
        msg = f"column 'value' is {column.dtype}; numbers or Booleans are wanted"
        raise SchemaError(msg)
    missing = column.is_null().to_numpy()
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy(), missing


def _quality(column: pl.Series) -> npt.NDArray[np.uint8]:
    if not (column.dtype.is_integer() or column.dtype == pl.Null):
        msg = f"column 'quality' is {column.dtype}; codes 0 to 255 are wanted"
        raise SchemaError(msg)
    with map_errors({pl.exceptions.PolarsError: SchemaError}, "column 'quality' as codes 0 to 255"):
        return column.cast(pl.UInt8).fill_null(0).to_numpy()
