"""kill -9 in the middle of everything: what was acknowledged is there, bit for bit, and offsets never come back."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from iiot_dask.core.clock import SystemClock
from iiot_dask.core.config import Journal as JournalConfig
from iiot_dask.core.metrics import Metrics
from iiot_dask.ingest.journal import Journal

# Appends records whose content follows from (life, number) until killed; prints an acknowledgement after each callback.
WRITER = """
import sys
from pathlib import Path
import numpy as np
from iiot_dask.core.batch import Batch
from iiot_dask.core.clock import SystemClock
from iiot_dask.core.config import Journal as JournalConfig
from iiot_dask.core.metrics import Metrics
from iiot_dask.ingest.journal import Journal

life = int(sys.argv[2])
config = JournalConfig(commit="1ms", segment_bytes=1 << 16, bytes_max=1 << 30)
journal = Journal(Path(sys.argv[1]), config, clock=SystemClock(), metrics=Metrics())
print("OPEN", journal.durable, flush=True)
rng = np.random.default_rng(life)
for number in range(1_000_000):
    rows = int(rng.integers(0, 400))
    batch = Batch.of(tag=[life] * rows, time=[number] * rows, value=np.arange(rows), received=[1] * rows)
    ack = lambda offset, number=number: print("ACK", offset, number, flush=True)
    journal.append(f"life-{life}", batch, str(number), ack)
"""


def live(directory, life, rng, errors):
    """One life of the writer, ended by SIGKILL some random time after it opened: offset -> number acknowledged."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(directory), str(life)], stdout=subprocess.PIPE, stderr=errors, text=True
    )
    try:
        # Log lines (a torn tail cut) come before.
        opened = next(line.split() for line in writer.stdout if line.startswith("OPEN"))
        # The first acknowledgement, then some random time: on both sides of rotations and of further ones.
        lines = [writer.stdout.readline()]
        time.sleep(float(rng.exponential(0.05)))
        os.kill(writer.pid, signal.SIGKILL)
        lines += writer.stdout
    finally:
        writer.kill()
        writer.stdout.close()
        assert writer.wait(30) == -signal.SIGKILL
    acked = {}
    for line in lines:
        word, *numbers = line.split()
        # The last line may be cut by the kill: then that acknowledgement never left the process.
        if line.endswith("\n") and word == "ACK" and len(numbers) == 2:
            acked[int(numbers[0])] = int(numbers[1])
    return int(opened[1]), acked


def lives(directory, count, seed, tmp_path):
    rng = np.random.default_rng(seed)
    every: dict[int, tuple[int, int]] = {}
    floor = 0
    with (tmp_path / "stderr").open("w") as errors:
        for life in range(count):
            durable, acked = live(directory, life, rng, errors)
            assert durable >= floor
            assert not set(acked) & set(every), "an offset was dealt twice"
            every |= {offset: (life, number) for offset, number in acked.items()}
            floor = max([floor, *acked]) + 1 if acked else max(floor, durable)
    return every


def judge(directory, every):
    metrics = Metrics()
    journal = Journal(directory, JournalConfig(), clock=SystemClock(), metrics=metrics)
    numbers: dict[str, list[int]] = {}
    offsets = []
    for record in journal.read(0):
        offsets.append(record.offset)
        life, number = int(record.source.split("-")[1]), int(record.position)
        numbers.setdefault(record.source, []).append(number)
        assert record.batch.value.tolist() == list(range(len(record.batch)))
        assert set(record.batch.tag) <= {life}
        assert set(record.batch.time) <= {number}
        if record.offset in every:
            assert every[record.offset] == (life, number)
    assert offsets == sorted(set(offsets))
    lost = set(every) - set(offsets)
    # Within a life nothing is missing between two records that are there.
    gaps = [source for source, seen in numbers.items() if seen != list(range(len(seen)))]
    positions = journal.positions()
    behind = [s for s, seen in numbers.items() if positions[s] != str(seen[-1])]
    journal.close()
    return lost, gaps, behind


@pytest.mark.parametrize("seed", [1])
def test_kill_minus_nine_loses_nothing_acknowledged(tmp_path, seed):
    every = lives(tmp_path / "journal", 8, seed, tmp_path)
    # Each life is killed after its first acknowledgement.
    assert len(every) >= 8
    assert judge(tmp_path / "journal", every) == (set(), [], [])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_kill_minus_nine_long_form(tmp_path, seed):
    every = lives(tmp_path / "journal", 20, 100 + seed, tmp_path)
    assert judge(tmp_path / "journal", every) == (set(), [], [])


def test_the_judge_sees_a_missing_record(tmp_path):
    """The check above is able to fail: drop the segment that holds the first acknowledged record."""
    every = lives(tmp_path / "journal", 2, 7, tmp_path)
    min((tmp_path / "journal").glob("*.journal")).unlink()
    lost, _, _ = judge(tmp_path / "journal", every)
    assert lost
