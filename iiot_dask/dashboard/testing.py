"""An example snapshot for tests and doctests of whoever shows one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from iiot_dask.dashboard.snapshot import AdapterRow, IncidentRow, Quantiles, Snapshot, Workers


def example_snapshot(**changes: Any) -> Snapshot:
    """A running plant with one adapter and one incident; `changes` replaces fields.

    Examples
    --------
    >>> example_snapshot(state="failed").state
    'failed'
    """
    base = Snapshot(
        time_ns=1_000_000_000,
        plant="example",
        state="running",
        uptime_s=12.0,
        tags=3,
        samples=36,
        samples_per_s=3.0,
        backlog_rows=0,
        acknowledged=Quantiles(0.004, 0.009, 0.02),
        processed=Quantiles(0.06, 0.12, 0.3),
        workers=Workers(now=1, wanted=2, reactive=1, forecast=2, reason="forecast"),
        stored_rows=30,
        stored_bytes=60,
        rss_bytes=1 << 28,
        cpu_share=0.2,
        adapters=(AdapterRow("cells", "mqtt", "running", 4711, 0, 36, 0, 0.2, ""),),
        incidents=(IncidentRow(1, "site1/line1/press1", "outage", 5, 7, None, 30.0, 12),),
        counters={"stream_recoveries_total": 0.0},
    )
    return replace(base, **changes)
