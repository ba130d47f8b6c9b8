"""Journal: rows/s in and out, ms a group, and what an fsync costs here. Prints one JSON document.

``iiot-dask bench ingest [--directory DIR] [--rows N]``; DIR should lie on the disk that will hold the journal.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from iiot_dask.core.batch import Batch
from iiot_dask.core.clock import SystemClock
from iiot_dask.core.config import Journal as JournalConfig
from iiot_dask.core.metrics import Metrics
from iiot_dask.ingest.journal import Journal


def batch_of(rows: int) -> Batch:
    rng = np.random.default_rng(rows)
    times = np.sort(rng.integers(0, 10**9, rows)) + 1_700_000_000_000_000_000
    value = np.round(rng.normal(20, 3, rows), 2)
    return Batch.of(tag=rng.integers(0, 2000, rows), time=times, value=value, received=times + 10**6)


def fsync_s(directory: Path, size: int, times: int = 20) -> float:
    """Median seconds of a write of `size` bytes and its fdatasync: the floor for a group."""
    took = []
    with (directory / "floor").open("wb", buffering=0) as stream:
        for _ in range(times):
            start = time.perf_counter()
            stream.write(os.urandom(size))
            os.fdatasync(stream.fileno())
            took.append(time.perf_counter() - start)
    return float(np.median(took))


def throughput(directory: Path, rows_total: int, rows: int) -> dict[str, float]:
    metrics = Metrics()
    batch = batch_of(rows)
    count = max(1, rows_total // rows)
    with Journal(directory, JournalConfig(), clock=SystemClock(), metrics=metrics) as journal:
        start = time.perf_counter()
        cpu = time.process_time()
        for i in range(count):
            journal.append("bench", batch, str(i))
        while journal.durable < count:
            journal.wait(journal.durable, 10)
        wrote = time.perf_counter() - start
        cpu = time.process_time() - cpu
        start = time.perf_counter()
        read = sum(len(record.batch) for record in journal.read(0))
        took = time.perf_counter() - start
        assert read == count * rows
        commit = metrics.histogram("journal_commit_s")
        return {
            "rows_a_record": rows,
            "write_rows_s": count * rows / wrote,
            "write_cpu_share": cpu / wrote,
            "read_rows_s": read / took,
            "bytes_a_row": journal.bytes() / read,
            "groups": metrics.value("journal_groups_total"),
            "group_ms_p50": commit.quantile(0.5) * 1e3,
            "group_ms_p99": commit.quantile(0.99) * 1e3,
        }


def latency(directory: Path, appends: int = 100) -> dict[str, float]:
    """Append -> durable, one small record at a time: the wait to share an fsync and the fsync itself."""
    batch = batch_of(100)
    took = []
    with Journal(directory, JournalConfig(), clock=SystemClock(), metrics=Metrics()) as journal:
        for i in range(appends):
            start = time.perf_counter()
            journal.append("bench", batch, None)
            journal.wait(i, 10)
            took.append(time.perf_counter() - start)
    return {"append_to_durable_ms_p50": float(np.median(took)) * 1e3, "p99": float(np.quantile(took, 0.99)) * 1e3}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="iiot-dask bench ingest", description=__doc__)
    parser.add_argument("--directory", type=Path, default=None)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--json", action="store_true", help="on one line")
    arguments = parser.parse_args(argv)
    base = Path(tempfile.mkdtemp(prefix="journal-bench-", dir=arguments.directory))
    try:
        result = {
            "fsync_ms_4kB": fsync_s(base, 4096) * 1e3,
            "fsync_ms_8MB": fsync_s(base, 8 << 20) * 1e3,
            "throughput": [
                throughput(base / str(rows), arguments.rows // scale, rows)
                for rows, scale in ((100, 20), (1000, 4), (10_000, 1), (100_000, 1))
            ],
            "latency": latency(base / "latency"),
        }
    finally:
        shutil.rmtree(base)
    print(json.dumps(result, indent=None if arguments.json else 2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
