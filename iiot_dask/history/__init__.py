"""Stage 6, history: samples in a Delta Lake table of Parquet files whose rows are compressed runs of samples.

In: batches (from workers, committed exactly once a stream) and frames (`History.append`). Out: samples, windows and
statistics, through Polars, Dask and any Parquet reader. Hot rows are *blocks* of many tags; compaction seals them into
single-tag *chunks*.
"""

from iiot_dask.history.block import write_block
from iiot_dask.history.history import History, Receipt
from iiot_dask.history.layout import FileEntry
from iiot_dask.history.retention import Retention, Tier
from iiot_dask.history.tagtable import TagTable

__all__ = ["FileEntry", "History", "Receipt", "Retention", "TagTable", "Tier", "write_block"]
