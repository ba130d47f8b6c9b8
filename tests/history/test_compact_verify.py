"""Compaction changes nothing but size and speed; damage is always found; dead files go."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from history_frames import DAY, HOUR, T0, regular, samples
from polars.testing import assert_frame_equal

from iiot_dask.core.batch import Batch
from iiot_dask.core.clock import ManualClock
from iiot_dask.core.errors import ChecksumError, DataError, IiotError
from iiot_dask.history import History, compact, kernels, layout, merge, outputs, seal, write_block
from iiot_dask.history.merge import File, closure, hot_slices, tiers
from iiot_dask.history.vacuum import vacuum

UTC = dt.UTC


def test_sealed_chunks_are_aligned_and_answer_for_themselves(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    history.append(regular(3, 6 * 3600))
    history.append(samples([("slow", T0 + i * HOUR, 1.0) for i in range(24)]))
    whole, windows = history.scan().collect(), history.aggregate("1h").collect()
    seen: list[tuple[int, int]] = []
    planned = history.compact(dry_run=True)
    assert (planned.rows_after, planned.merges) == (whole.height, 1)
    done = history.compact(lambda a, b: seen.append((a, b)))
    assert (done.rows_before, done.rows_after, done.duplicates) == (whole.height, whole.height, 0)
    assert seen[-1] == (whole.height, whole.height)
    assert history.compact().merges == 0
    assert_frame_equal(history.scan().collect(), whole)
    rows, _ = history.select("site*", -(2**63), 2**63 - 1)
    chunks = rows.take(rows.head["tag_id"] >= 0)
    assert set(chunks.head["count"].tolist()) == {3600}
    assert set((chunks.head["start_ns"] % HOUR).tolist()) == {0}
    # Not one sample is decoded for the hours of chunks.
    from iiot_dask.history import aggregate

    monkeypatch.setattr(aggregate, "join", lambda *_: pytest.fail("decoded"))
    found = history.aggregate("1h", "site*").collect()
    assert_frame_equal(found, windows.filter(pl.col("tag") != "slow"), rel_tol=1e-12)


def test_late_rows_only_cost_where_they_lie(history: History) -> None:
    history.append(regular(3, 2 * 3600))
    history.compact()
    history.append(samples([("site/line1/tag1", T0 + 5, 99.0), ("site/line1/tag1", T0 + 10**9, 98.0)]))
    assert history.aggregate("1h").collect()["max"].to_list() == pytest.approx([25, 25, 99.0, 25, 25, 25], abs=2)
    done = history.compact()
    assert done.duplicates == 1
    assert history.info().kinds["block"].files == 0
    assert history.scan("*tag1", T0, T0 + 2 * 10**9).collect()["value"].to_list()[1:] == [99.0, 98.0]


def test_units_nest_in_days_and_hours() -> None:
    assert all(DAY % int(u) == 0 for u in seal.UNITS)
    assert all(HOUR % int(u) == 0 for u in seal.UNITS if u <= HOUR)


@pytest.mark.usefixtures("small")
def test_appends_go_on_while_compacting(history: History) -> None:
    other = History(history.url)
    for i in range(10):
        history.append(regular(3, 10, start=T0 + i * 10 * 10**9))
    errors: list[BaseException] = []
    stop = threading.Event()

    def append() -> None:
        try:
            for i in range(10, 25):
                other.append(regular(3, 10, start=T0 + i * 10 * 10**9))
        except IiotError as error:
            errors.append(error)
        finally:
            stop.set()

    thread = threading.Thread(target=append)
    thread.start()
    while not stop.is_set():
        history.compact()
        assert history.scan().collect().height % 30 == 0
    thread.join()
    history.compact()
    assert not errors
    assert history.scan().collect().height == 750
    assert history.verify().ok


@pytest.mark.usefixtures("small")
def test_two_compactions_at_once_do_not_double(history: History) -> None:
    for i in range(6):
        history.append(regular(3, 10, start=T0 + i * 10 * 10**9))
    wanted = history.scan().collect()
    others = [History(history.url) for _ in range(3)]
    reports: list[compact.Compaction] = []
    threads = [threading.Thread(target=lambda h=h: reports.append(h.compact())) for h in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reports) == 3
    assert_frame_equal(history.scan().collect(), wanted)
    assert history.info().rows == wanted.height
    assert history.verify().ok


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("lie", ["samples", "values", "counts"])
def test_a_merge_that_does_not_add_up_is_not_committed(
    history: History, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    history.append(regular(3, 20))
    wanted, version = history.scan().collect(), history.log.refresh()
    real = compact.decode_counted

    def wrong(store, group):
        (tag, time, value, quality), held = real(store, group)
        return {
            "samples": ((tag[1:], time[1:], value[1:], quality[1:]), held - 1),
            "values": ((tag, time, value, quality), held),
            "counts": ((tag, time, value, quality), held + 1),
        }[lie]

    monkeypatch.setattr(compact, "decode_counted", wrong)
    if lie == "values":
        monkeypatch.setattr(outputs, "digest", lambda *_: 7)
    with pytest.raises(ChecksumError, match="does not add up and was not committed"):
        history.compact()
    assert history.log.refresh() == version
    monkeypatch.undo()
    assert_frame_equal(history.scan().collect(), wanted)


def file(path: str, tags, times, orders, level: int = 1, rows: int = 10) -> File:
    return File(path, rows, 1, "2026-01-01", 0, level, tags, times, orders)


def test_closure_never_jumps_over_a_newer_row() -> None:
    old, between, apart = (
        file("a", (0, 5), (0, 9), (1, 1)),
        file("b", (3, 9), (5, 20), (2, 2)),
        file("c", (0, 5), (50, 60), (2, 2)),
    )
    new, newest = file("d", (8, 8), (0, 99), (3, 3)), file("e", (0, 9), (0, 99), (4, 4))
    everything = [old, between, apart, new, newest]
    assert [f.path for f in closure([old, new], everything)] == ["a", "b", "d"]
    assert [f.path for f in closure([old], everything)] == ["a"]
    assert {f.path for f in closure([old, newest], everything)} >= {"a", "b", "e"}


def test_plan_of_levels() -> None:
    hot = [file(str(i), (0, 1), (0, 1), (i, i), level=0, rows=40) for i in range(5)]
    assert [[f.path for f in part] for part in hot_slices(hot, 100)] == [["0", "1"], ["2", "3"], ["4"]]
    assert [len(part) for part in hot_slices(hot, 1)] == [1] * 5
    sealed = [file(str(i), (0, 1), (0, 1), (i, i)) for i in range(merge.FAN_IN)]
    assert tiers(sealed[1:], 0) == []
    assert [(level, len(part)) for level, part in tiers(sealed, 0)] == [(2, merge.FAN_IN)]
    assert [(level, len(part)) for level, part in tiers(sealed[:2], 2 * DAY)] == [(merge.TOP, 2)]
    whole = file("t", (0, 1), (0, 1), (0, 0), level=merge.TOP, rows=100 * merge.REWRITE_ROWS)
    assert tiers([whole], 2 * DAY) == []
    assert tiers([whole, sealed[0]], 2 * DAY) == []
    assert [len(part) for _, part in tiers([whole, *sealed], 2 * DAY)] == [merge.FAN_IN + 1]


def test_a_day_that_goes_on_is_merged_in_tiers(tmp_path: Path, small, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock(T0 + 12 * HOUR)
    history = History(tmp_path, clock=clock)
    for i in range(12):
        history.append(regular(2, 10, start=T0 + i * 20 * 10**9, seed=i))
        history.compact()
    assert history.info().files <= 2 * 2 * merge.FAN_IN
    wanted = history.scan().collect()
    clock.advance(86_400)
    assert history.compact().merges == 1
    assert all("-s9-" in path for path in history.log.paths())
    assert_frame_equal(history.scan().collect(), wanted)


@pytest.mark.usefixtures("small")
def test_vacuum_removes_only_the_dead(history: History) -> None:
    history.append(regular(3, 20))
    version = history.log.version
    history.compact()
    batch = Batch.of(tag=[0], time=[1], value=[1.0], received=[1])
    waiting = write_block(history.url, batch, "waiting")
    left = Path(history.url) / "day=2026-01-01" / "shard=0" / ".tmp-abc"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    assert history.vacuum().files == []
    named = history.vacuum("0s")
    assert named.dry_run
    assert len(named.files) >= 3
    assert waiting[0].path in named.files
    assert History(history.url, version=version).scan().collect().height == 60
    assert vacuum(history, 0, dry_run=False).files == named.files
    assert sorted(f.path for f in history.store.list()) == sorted(history.log.paths())
    assert history.verify().ok
    with pytest.raises(DataError):
        History(history.url, version=version).scan().collect()


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def true_or_named(lazy: pl.LazyFrame, truth: pl.DataFrame, name: str) -> None:
    """What comes out is the truth, or an error that names the damaged file."""
    try:
        found = lazy.collect()
    except (IiotError, pl.exceptions.ComputeError) as error:
        said = str(error)
    else:
        assert_frame_equal(found, truth)
        return
    assert name in said


@pytest.mark.parametrize("sealed", [False, True])
def test_no_flipped_bit_is_ever_returned_as_data(history: History, sealed: bool) -> None:
    """Each flip: `verify` names the file; a scan and an aggregate raise, or return what is true."""
    rng = np.random.default_rng(7)
    history.append(regular(3, 1500))
    history.append(samples([("odd", T0 + i, rng.normal(), int(rng.integers(0, 256))) for i in range(300)]))
    if sealed:
        history.compact()
    wanted, windows = history.scan().collect(), history.aggregate("10m").collect()
    files = [Path(history.url) / p for p in history.log.paths()]
    for _ in range(250):
        path = files[int(rng.integers(len(files)))]
        bit = int(rng.integers(path.stat().st_size * 8))
        flip(path, bit)
        fresh = History(history.url)
        report = fresh.verify()
        assert len(report.damaged) == 1
        assert path.name in report.damaged[0]
        assert report.files == len(files) - 1
        true_or_named(fresh.scan(), wanted, path.name)
        true_or_named(fresh.aggregate("10m"), windows, path.name)
        flip(path, bit)
    assert history.verify().ok


@pytest.mark.parametrize("damage", ["missing", "short", "empty", "swapped"])
def test_a_damaged_file_is_named_and_the_rest_is_readable(history: History, damage: str) -> None:
    history.append(regular(2, 100))
    history.append(regular(2, 100, start=T0 + DAY))
    history.append(regular(2, 100, start=T0 + 2 * DAY))
    paths = sorted(Path(history.url) / p for p in history.log.paths())
    content = paths[0].read_bytes()
    if damage == "missing":
        paths[0].unlink()
    else:
        paths[0].write_bytes({"short": content[:-50], "empty": b"", "swapped": paths[1].read_bytes()}[damage])
    fresh = History(history.url)
    report = fresh.verify()
    assert not report.ok
    assert [paths[0].name in text for text in report.damaged] == [True]
    assert report.document()["ok"] is False
    assert fresh.scan(start=T0 + DAY).collect().height == 400
    with pytest.raises((IiotError, pl.exceptions.ComputeError), match=paths[0].name[:20]):
        fresh.scan().collect()
    with pytest.raises(IiotError):
        fresh.compact()


@pytest.mark.usefixtures("small")
def test_a_row_that_lies_is_found(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics that do not belong to the samples, in a file whose every checksum is right."""
    real = kernels.statistics

    def lies(*arguments):
        found = real(*arguments)
        found["sum"] = found["sum"] + 1
        return found

    from iiot_dask.history import block

    monkeypatch.setattr(block, "statistics", lies)
    history.append(regular(1, 10))
    monkeypatch.undo()
    [problem] = history.verify().damaged
    assert "says sum" in problem
    assert "tag id 0" in problem


CRASH = """
import os, sys
from iiot_dask.history import History, compact, delta
history = History(sys.argv[1])
step, count = sys.argv[2], int(sys.argv[3])
calls = [0]
def dies(module, name, after=False):
    real = getattr(module, name)
    def wrapped(*a, **k):
        calls[0] += 1
        if calls[0] == count and not after: os._exit(9)
        out = real(*a, **k)
        if calls[0] == count: os._exit(9)
        return out
    setattr(module, name, wrapped)
if step == "fsync": dies(os, "fsync")
elif step == "commit": dies(delta.Log, "commit")
elif step == "committed": dies(delta.Log, "commit", after=True)
elif step == "put": dies(type(history.store), "put", after=True)
history.compact()
"""


@pytest.mark.parametrize(
    ("step", "count"), [("fsync", 1), ("fsync", 2), ("put", 1), ("put", 2), ("commit", 1), ("committed", 1)]
)
def test_a_killed_compaction_loses_nothing(history: History, step: str, count: int) -> None:
    history.append(regular(3, 2000))
    history.append(samples([("slow", T0 + i * 10**9, 1.0) for i in range(30)]))
    wanted = history.scan().collect()
    child = subprocess.run([sys.executable, "-c", CRASH, history.url, step, str(count)], check=False, timeout=120)
    assert child.returncode == 9
    fresh = History(history.url)
    assert_frame_equal(fresh.scan().collect(), wanted)
    fresh.compact()
    assert_frame_equal(fresh.scan().collect(), wanted)
    assert fresh.info().rows == wanted.height
    fresh.vacuum("0s", dry_run=False)
    assert sorted(f.path for f in fresh.store.list()) == sorted(fresh.log.paths())
    assert layout.CHUNK in {Path(p).name.split("-")[0] for p in fresh.log.paths()}


READER = """
import sys
from iiot_dask.history import History
history = History(sys.argv[1])
last = reads = 0
while last < 3000:
    frame = history.scan().collect()
    assert frame.height % 30 == 0, f"torn read of {frame.height} rows"
    assert frame.height >= last, "a committed row went away"
    last = frame.height
    reads += 1
print(reads)
"""


@pytest.mark.usefixtures("small")
def test_readers_in_other_processes_never_see_half(history: History) -> None:
    readers = [
        subprocess.Popen([sys.executable, "-c", READER, history.url], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for i in range(100):
        history.append(regular(3, 10, start=T0 + i * 10 * 10**9))
        if i % 10 == 9:
            history.compact()
    for reader in readers:
        out, _ = reader.communicate(timeout=200)
        assert reader.returncode == 0
        assert int(out) >= 1
