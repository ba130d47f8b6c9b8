"""Derived tags written back: into a history, exactly once because a (tag, time) is stored once."""

from __future__ import annotations

from typing import Any

import polars as pl

from iiot_dask.core.errors import CapacityError, DataError
from iiot_dask.flow.sinks.base import AwayError, RefusedError, Sink
from iiot_dask.history import History


class HistorySink(Sink):
    """Appends rows (tag, time, value[, quality]) to a history; a correction replaces what it corrects.

    Parameters
    ----------
    history
        Where to; closed by whoever opened it.
    value
        The column to store.
    more
        Options of `Sink`. Writes gather for a second by default: each is a commit.
    """

    name = "history"

    def __init__(self, history: History, *, value: str = "value", **more: Any) -> None:
        super().__init__(**{"linger_s": 1.0, "batch_rows": 500_000, **more})
        self.history, self.value = history, value

    def write(self, rows: pl.DataFrame) -> None:
        """See `Sink.write`."""
        if self.value not in rows.columns:
            msg = f"there is no column {self.value!r}; there are {', '.join(rows.columns)}"
            raise RefusedError(msg)
        frame = rows.with_columns(pl.col(self.value).cast(pl.Float64).alias("value"))
        frame = frame.select("tag", "time", "value", *(["quality"] if "quality" in rows.columns else []))
        try:
            self.history.append(frame.drop_nulls("value"))
        except DataError as error:
            raise RefusedError(str(error)) from error
        except CapacityError as error:
            raise AwayError(str(error)) from error
