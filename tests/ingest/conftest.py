"""A journal in a temporary directory, and batches whose content follows from one number."""

from collections.abc import Callable

import numpy as np
import pytest

from iiot_dask.core.batch import Batch
from iiot_dask.core.clock import SystemClock
from iiot_dask.core.config import Journal as JournalConfig
from iiot_dask.core.metrics import Metrics
from iiot_dask.ingest.journal import Journal


def make_batch(seed: int, rows: int) -> Batch:
    rng = np.random.default_rng(seed)
    return Batch.of(
        tag=rng.integers(0, 1000, rows),
        time=rng.integers(0, 2**60, rows),
        value=rng.normal(size=rows),
        received=np.full(rows, seed),
        quality=rng.integers(0, 255, rows),
        seq=rng.integers(0, 2**62, rows) if seed % 2 else None,
    )


@pytest.fixture
def batch_of() -> Callable[[int, int], Batch]:
    return make_batch


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def open_journal(tmp_path, metrics):
    """Make journals over ``tmp_path / "journal"``; what is still open at the end is closed."""
    opened: list[Journal] = []

    def build(directory=None, **config):
        rules = JournalConfig(**{"commit": 0, **config})
        journal = Journal(directory or tmp_path / "journal", rules, clock=SystemClock(), metrics=metrics)
        opened.append(journal)
        return journal

    yield build
    for journal in opened:
        journal.close()


def put(journal: Journal, source: str, batch: Batch, position: str | None = None) -> int:
    """Append and wait until it is durable; its offset."""
    import queue

    done: queue.Queue[int] = queue.Queue(1)
    journal.append(source, batch, position, done.put_nowait)
    return done.get(timeout=30)


@pytest.fixture
def append():
    return put
