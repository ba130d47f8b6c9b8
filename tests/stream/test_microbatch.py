"""When micro-batches and epochs close, and which shard a row goes to."""

import numpy as np
import pytest

from iiot_dask.core.batch import Batch
from iiot_dask.stream.microbatch import Batcher, split


def batcher(**more):
    return Batcher(**{"rows_max": 10, "batch_ns": 100, "flush_rows_max": 50, "flush_ns": 1000, **more})


def test_closes_on_rows_or_time_whichever_is_first():
    b = batcher()
    assert not b.due(10**9)
    b.add(3, 0)
    assert [b.due(t) for t in (0, 99, 100)] == [False, False, True]
    b.add(7, 50)
    assert b.due(50)


def test_the_first_row_sets_the_time():
    b = batcher()
    assert b.wait_ns(5) == 100
    b.add(1, 10)
    b.add(1, 60)
    assert [b.wait_ns(t) for t in (10, 60, 110, 500)] == [100, 50, 0, 0]
    b.close(110)
    assert b.wait_ns(120) == 100
    assert not b.due(10**9)


def test_an_epoch_closes_on_rows():
    b = batcher()
    closed = []
    for i in range(12):
        b.add(10, i)
        closed.append(b.close(i))
    assert [i for i, flush in enumerate(closed) if flush] == [4, 9]


def test_an_epoch_closes_on_time_also_when_idle():
    b = batcher()
    b.add(1, 0)
    assert not b.close(100)
    assert [b.close(t) for t in (600, 1099, 1100, 1200)] == [False, False, True, False]


def test_idle_ticks_alone_close_an_epoch_by_their_number_only():
    b = batcher(batches_max=5)
    assert [b.close(t * 10**6) for t in range(11)] == [False, False, False, False, True] * 2 + [False]


def test_reset_forgets_all():
    b = batcher()
    b.add(49, 0)
    b.close(0)
    b.add(3, 5)
    b.reset()
    assert not b.due(10**9)
    b.add(1, 2000)
    assert not b.close(2000)


@pytest.mark.parametrize("seed", range(20))
def test_split_keeps_every_row_once_in_order(seed):
    rng = np.random.default_rng(seed)
    rows, shards = int(rng.integers(0, 200)), int(rng.integers(1, 9))
    tag = rng.integers(0, 2**32 - 1, rows, dtype=np.uint32)
    batch = Batch.of(tag=tag, time=range(rows), value=rng.normal(size=rows), received=[0] * rows)
    parts = split(batch, shards)
    assert len(parts) == shards
    for shard, part in enumerate(parts):
        want = [i for i in range(rows) if tag[i] % shards == shard]
        assert part.time.tolist() == want
        assert part.value.tolist() == batch.value[want].tolist()
