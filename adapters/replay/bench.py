"""`ReplayBench`: a recording for the conformance kit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from iiot_dask.adapter.bench import Bench

ROWS = 20_000
START_NS = 1_700_000_000_000_000_000


class ReplayBench(Bench):
    """A file has all its rows from the start, and neither goes away nor lies: most trials do not apply to it."""

    def section(self, tags: Sequence[str]) -> dict[str, Any]:
        """A recording of the tags in turn, a second apart, played two rows at a time."""
        each = ROWS // len(tags)
        columns = {
            "tag": list(tags) * each,
            "time": [START_NS + at * 1_000_000_000 for at in range(each) for _ in tags],
            "value": [float(at) for at in range(each) for _ in tags],
        }
        pq.write_table(pa.table(columns), self.folder / "recording.parquet")
        return {"endpoint": "recording.parquet", "options": {"batch_rows": len(tags)}}
