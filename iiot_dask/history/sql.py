"""`sql`: questions in SQL through Polars' SQL context, so that they prune as `scan` does and see the live tail."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import polars as pl

from iiot_dask.core.errors import ConfigError, map_errors

if TYPE_CHECKING:
    from iiot_dask.history.queries import Queries

_WINDOWS = re.compile(r"\bwindows_(\w+)\b", re.IGNORECASE)


def asked(history: Queries, query: str) -> pl.LazyFrame:
    """See `Queries.sql`."""
    tables: dict[str, pl.LazyFrame] = {"samples": history.scan()}
    words = query.lower()
    if re.search(r"\btags\b", words):
        history.tags.refresh()
        tables["tags"] = pl.DataFrame({"tag": history.tags.names()}, schema={"tag": pl.String()}).lazy()
    if re.search(r"\blatest\b", words):
        tables["latest"] = history.latest().lazy()
    for found in _WINDOWS.finditer(query):
        tables[found[0]] = history.aggregate(found[1])
    with map_errors({pl.exceptions.PolarsError: ConfigError}, f"SQL {query!r} over tables {', '.join(tables)}"):
        asking = pl.SQLContext(tables, eager=False).execute(query)
        asking.collect_schema()  # an unknown table or column is said now
        return asking
