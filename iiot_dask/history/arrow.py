"""Samples as an Arrow stream: `__arrow_c_stream__` over frames that are decoded as they are asked for.

DuckDB, pyarrow, pandas, Polars and whoever else speaks the Arrow PyCapsule interface read a history of any size this way,
in bounded memory and without a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import polars as pl
import pyarrow as pa

SCHEMA = pa.schema(
    [
        pa.field("tag", pa.string_view()),
        pa.field("time", pa.timestamp("ns", "UTC")),
        pa.field("value", pa.float64()),
        pa.field("quality", pa.uint8()),
    ]
)


class Samples:
    """A question whose answer streams; each stream asks it anew.

    Examples
    --------
    >>> import tempfile
    >>> from iiot_dask.history import History
    >>> h = History(tempfile.mkdtemp())
    >>> _ = h.append(pl.DataFrame({"tag": ["a", "b"], "time": [1, 2], "value": [3.0, 4.0]}))
    >>> pa.table(h.arrow("a")).column("value").to_pylist()
    [3.0]
    """

    def __init__(self, frames: Callable[[], Iterator[pl.DataFrame]], columns: list[str]) -> None:
        self._frames = frames
        self.schema = pa.schema([SCHEMA.field(name) for name in columns])

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for frame in self._frames():
            yield from frame.to_arrow(compat_level=pl.CompatLevel.newest()).cast(self.schema).to_batches()

    def reader(self) -> pa.RecordBatchReader:
        """The stream, once."""
        return pa.RecordBatchReader.from_batches(self.schema, iter(self))

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.reader().__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> Any:
        return self.schema.__arrow_c_schema__()
