"""Stage 7, query: one question to the history, answered as samples, as windows, or as the points of a drawing.

In: a history, tags, a time range. Out: a Polars LazyFrame, or arrays for a chart.
"""

from iiot_dask.query.downsample import trend
from iiot_dask.query.live import JournalTail, open_history
from iiot_dask.query.request import query

__all__ = ["JournalTail", "open_history", "query", "trend"]
