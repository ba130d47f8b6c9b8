"""Compiling (or loading from the disk cache) every kernel before the first real row needs it.

The first call of a numba kernel after an installation compiles it, which takes seconds and holds the GIL; rows that
arrive meanwhile would be late. So a few made-up rows go the whole way through the shard's program first, into a temporary
directory that is thrown away.
"""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
from distributed import WorkerPlugin

from iiot_dask.adapter.contract import Poll, TagInfo
from iiot_dask.adapter.courier import Delivery
from iiot_dask.core.batch import Batch
from iiot_dask.core.clock import SystemClock
from iiot_dask.core.config import Journal as JournalConfig
from iiot_dask.core.metrics import Metrics
from iiot_dask.history import History
from iiot_dask.ingest.catalogue import Catalogue
from iiot_dask.ingest.inbox import Inbox
from iiot_dask.ingest.journal import Journal
from iiot_dask.ingest.quarantine import Quarantine
from iiot_dask.stream.microbatch import split
from iiot_dask.stream.work import Order
from iiot_dask.work import PlantWork

TAGS = 8
_S = 1_000_000_000
_NOW = 1_750_000_000 * _S
_once = threading.Lock()
_warm = False


def _rows(second: int, rng: np.random.Generator) -> Batch:
    """Decimals, a state, a counter, a hard float and a bad row: what makes the codecs take their different ways."""
    tag = np.tile(np.arange(TAGS), 20)
    time = _NOW + second * _S + np.repeat(np.arange(20) * 50_000_000, TAGS) + tag
    noise = rng.normal(20, 1, len(tag))
    value = np.choose(tag % 4, [np.round(noise, 1), tag % 2, np.arange(len(tag)), noise])
    return Batch.of(
        tag=tag, time=time, value=value, received=time, quality=np.where(np.arange(len(tag)) % 37 == 0, 128, 0)
    )


def warm_work() -> None:
    """Everything a worker runs; once a process."""
    global _warm  # noqa: PLW0603 -- compiled code is per process, and so is this
    with _once:
        if _warm:
            return
        with tempfile.TemporaryDirectory(prefix="iiot-warm-") as folder, History(folder) as history:
            history.tags.ensure([f"t{i}" for i in range(TAGS)])
            work = PlantWork(folder, "warm")
            state = work.start(0, 1, None)
            rng = np.random.default_rng(0)
            for second in range(30):
                rows = _rows(second, rng)
                work.step(state, rows, Order(second, _NOW + second * _S, flush=False, epoch_first=0, stop=0))
            answer = work.step(state, Batch.empty(), Order(30, _NOW + 99 * _S, flush=True, epoch_first=0, stop=1))
            assert answer.flushed is not None
            work.start(0, 1, answer.flushed.checkpoint)
            history.add(answer.flushed.entries)
            history.scan("*").collect()
            history.aggregate("10s").collect()
        _warm = True


def warm_ingest() -> None:
    """Everything between an adapter and the journal."""
    clock, metrics = SystemClock(), Metrics()
    with tempfile.TemporaryDirectory(prefix="iiot-warm-") as name:
        folder = Path(name)
        with (
            Catalogue(folder / "catalogue") as catalogue,
            Journal(folder / "journal", JournalConfig.model_validate({}), clock=clock, metrics=metrics) as journal,
            Quarantine(folder / "quarantine", 1 << 20, 2) as quarantine,
        ):
            inbox = Inbox(
                catalogue, journal, lambda *_: None, lambda *_: None, quarantine, clock=clock, metrics=metrics
            )
            rows = _rows(0, np.random.default_rng(0))
            tags = tuple(TagInfo(f"t{i}", "d", str(i)) for i in range(TAGS))
            inbox.take(Delivery("warm", 0, Poll(tags=tags, batch=rows, position="1")))
            inbox.take(Delivery("warm", 1, Poll(tags=tags, batch=rows, position="2")))
            journal.wait(1, 30.0)
            for record in journal.read(0):
                split(record.batch, 2)


class WarmWorker(WorkerPlugin):  # type: ignore[misc]  # distributed has no types
    """Warms each worker process before it takes tasks, those that the cluster adds later too."""

    name = "iiot-warm"

    def setup(self, worker: Any) -> None:
        """Called by Dask when a worker joins."""
        del worker
        warm_work()
