"""The per-shard program: what it answers, what it leaves at a flush, and that a restored one goes on as if never stopped."""

import io
import struct
import zlib

import numpy as np
import polars as pl
import pytest

import iiot_dask as iiot
from iiot_dask.core.batch import Batch
from iiot_dask.core.errors import ChecksumError, VersionError
from iiot_dask.stream.work import Order
from iiot_dask.work import PlantWork, ShardState

S = 1_000_000_000
T0 = 1_750_000_000 * S


def second(n, tags=4, shard=0, shards=2):
    """One sample a tag at second `n`, of the shard's own tags."""
    tag = np.arange(tags) * shards + shard
    time = np.full(tags, T0 + n * S)
    return Batch.of(tag=tag, time=time, value=tag + np.sin(n + tag), received=time + 10_000_000)


def order(index, n, *, flush=False, first=0, stop=0):
    return Order(index, T0 + n * S + 20_000_000, flush, first, stop)


def work(tmp_path, names=16):
    with iiot.History(str(tmp_path / "history")) as history:
        history.tags.ensure([f"t{i}" for i in range(names)])
    return PlantWork(str(tmp_path / "history"), "journal-a")


def test_windows_close_and_a_flush_writes_every_row_once(tmp_path):
    program = work(tmp_path)
    state = program.start(0, 2, None)
    results = [program.step(state, second(n), order(n, n)) for n in range(24)]
    last = program.step(state, second(24), order(24, 24, flush=True, stop=25))
    fast = np.concatenate([r.output.fast for r in [*results, last]])
    slow = np.concatenate([r.output.slow for r in [*results, last]])
    assert sorted(fast["window_ns"].tolist()) == sorted([T0 + n * S for n in range(24) for _ in range(4)])
    assert slow["count"].tolist() == [10] * 8
    assert all(r.flushed is None for r in results)
    assert sum(entry.rows for entry in last.flushed.entries) == 100
    assert state.pending == []


def test_a_replay_writes_the_same_files(tmp_path):
    program = work(tmp_path)

    def once():
        state = program.start(1, 2, None)
        program.step(state, second(0, shard=1), order(0, 0))
        return program.step(state, second(1, shard=1), order(1, 1, flush=True, first=7, stop=9)).flushed

    assert [e.path for e in once().entries] == [e.path for e in once().entries]


def test_a_restored_state_answers_as_the_one_that_never_stopped(tmp_path):
    program = work(tmp_path)
    going = program.start(0, 2, None)
    program.step(going, second(0), order(0, 0))
    flushed = program.step(going, second(1), order(1, 1, flush=True, stop=2)).flushed
    restored = program.start(0, 2, flushed.checkpoint)
    for n in range(2, 40):
        batch = second(n) if n < 20 else second(n, tags=3)  # a tag falls silent
        a, b = (program.step(s, batch, order(n - 2, n)).output for s in (going, restored))
        for name in ("changes", "fast", "slow"):
            assert getattr(a, name).tolist() == getattr(b, name).tolist(), (n, name)


def test_an_empty_epoch_leaves_a_checkpoint_and_no_file(tmp_path):
    program = work(tmp_path)
    state = program.start(0, 2, None)
    flushed = program.step(state, Batch.empty(), order(0, 0, flush=True)).flushed
    assert flushed.entries == ()
    assert program.start(0, 2, flushed.checkpoint).fast.state is None


def test_a_damaged_or_newer_checkpoint_is_refused(tmp_path, monkeypatch):
    state = work(tmp_path).start(0, 2, None)
    payload = state.checkpoint()
    rng = np.random.default_rng(5)
    for _ in range(200):
        at, bit = int(rng.integers(len(payload))), 1 << int(rng.integers(8))
        damaged = bytearray(payload)
        damaged[at] ^= bit
        with pytest.raises((ChecksumError, VersionError)):
            ShardState.restore(0, 2, 0, bytes(damaged))
    for size in range(0, len(payload), 97):
        with pytest.raises(ChecksumError):
            ShardState.restore(0, 2, 0, payload[:size])
    monkeypatch.setattr("iiot_dask.work.CHECKPOINT_VERSION", 3)
    newer = state.checkpoint()
    monkeypatch.undo()
    with pytest.raises(VersionError, match="version 3"):
        ShardState.restore(0, 2, 0, newer)


def test_a_checkpoint_of_version_1_goes_on(tmp_path):
    """A zip of arrays, as the first version wrote it."""
    program = work(tmp_path)
    going = program.start(0, 2, None)
    program.step(going, second(0), order(0, 0))
    program.step(going, second(1), order(1, 1, flush=True, stop=2))
    sink = io.BytesIO()
    np.savez(sink, monitor=np.frombuffer(going.monitor.to_bytes(), np.uint8), fast=going.fast.to_array(), slow=going.slow.to_array(),
             swept_ns=np.array([going.fast.swept_ns, going.slow.swept_ns], np.int64))  # fmt: skip
    old = struct.pack("<4sHI", b"IIWK", 1, zlib.crc32(sink.getvalue())) + sink.getvalue()
    restored = ShardState.restore(0, 2, program.lateness_ns, old)
    assert restored.checkpoint() == going.checkpoint()


def test_what_was_flushed_reads_back(tmp_path):
    program = work(tmp_path)
    state = program.start(0, 1, None)
    batch = second(0, shards=1)
    flushed = program.step(state, batch, order(0, 0, flush=True, stop=1)).flushed
    with iiot.History(str(tmp_path / "history")) as history:
        history.add(flushed.entries)
        rows = history.scan("*").collect()
    assert rows["tag"].to_list() == ["t0", "t1", "t2", "t3"]
    assert rows["value"].to_list() == batch.value.tolist()
    assert rows["time"].cast(pl.Int64).to_list() == batch.time.tolist()
