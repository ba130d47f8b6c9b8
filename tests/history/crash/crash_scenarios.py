"""What is killed: a stream that writes and commits, appends, a compaction, a retention. Each starts from what is on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from iiot_dask.core.batch import Batch
from iiot_dask.core.clock import ManualClock
from iiot_dask.core.metrics import Metrics
from iiot_dask.history import History, Retention, write_block
from iiot_dask.history.committer import Committer
from iiot_dask.stream.driver import Epoch

DAY = 86_400 * 10**9
T0 = 1_790_000_000 * 10**9 // DAY * DAY
EPOCH, EPOCHS = 40, 3
APP = "crash"
POLICY = Retention.of("2d", ["1h"])


def opened(folder: Path) -> History:
    return History(folder / "history", clock=ManualClock(T0 + 10 * DAY))


def rows_of(first: int, stop: int) -> pl.DataFrame:
    """The stream's rows by offset: two tags in turn, the second a day later; every seventh repeats the time before it."""
    at = np.arange(first, stop)
    time = T0 + (at % 2) * DAY + (at - (at % 7 == 6) * 2) * 10**9
    return pl.DataFrame({"tag": [f"s{i % 2}" for i in at.tolist()], "time": time, "value": at * 0.5})


def stream(folder: Path) -> None:
    """A journal's stream from where it was committed last to the end, as its driver does it."""
    history = opened(folder)
    ids = history.tags.ensure(["s0", "s1"])
    committer = Committer(
        history, APP, folder / "checkpoints", metrics=Metrics(), on_commit=lambda _: None, shards=1, backoff_s=(0.0,)
    )
    offset, _ = committer.settle()
    while offset < EPOCH * EPOCHS:
        stop = offset + EPOCH
        rows = rows_of(offset, stop)
        tag = ids[rows["tag"].str.tail(1).cast(pl.Int64).to_numpy()]
        batch = Batch.of(tag=tag, time=rows["time"], value=rows["value"], received=np.full(EPOCH, 5))
        entries = write_block(history.url, batch, f"{APP}-{offset:016d}-{stop:016d}-0000")
        committer.put(Epoch(offset, stop, tuple(entries), (b"state",), EPOCH))
        offset = committer.settle()[0]
    committer.close()


def append(folder: Path) -> None:
    """Two appends; the second writes one sample of the first again."""
    history = opened(folder)
    history.append(pl.DataFrame({"tag": ["a"] * 5, "time": range(T0, T0 + 5), "value": [1.0] * 5}))
    history.append(pl.DataFrame({"tag": ["a", "b"], "time": [T0, T0], "value": [2.0, 3.0]}))


def compact(folder: Path) -> None:
    opened(folder).compact()


def retain(folder: Path) -> None:
    opened(folder).retain(POLICY, dry_run=False)
