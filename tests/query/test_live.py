"""The live tail: what a journal holds and no commit has, with real journals, commits, trims and processes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from query_shapes import HOUR, T0

from iiot_dask.core.batch import Batch
from iiot_dask.core.clock import SystemClock
from iiot_dask.core.config import Journal as JournalConfig
from iiot_dask.core.metrics import Metrics
from iiot_dask.history import History, block
from iiot_dask.ingest.journal import Journal
from iiot_dask.query import JournalTail, open_history
from iiot_dask.query import live as live_module

S = 10**9


class Plant:
    """A journal and a history as an engine has them; commits are made by hand."""

    def __init__(self, path, **config) -> None:
        self.path = path
        self.history = History(path / "history")
        self.journal = Journal(
            path / "journal", JournalConfig(commit=0, **config), clock=SystemClock(), metrics=Metrics()
        )
        self.rows: dict[tuple[str, int], float] = {}
        self.sent: list[Batch] = []
        self.done = 0

    def send(self, rows: list[tuple[str, int, float]]) -> None:
        names = [r[0] for r in rows]
        batch = Batch.of(
            tag=self.history.tags.ensure(names), time=[r[1] for r in rows], value=[r[2] for r in rows],
            received=[time.time_ns()] * len(rows),
        )  # fmt: skip
        self.journal.append("test", batch, None)
        self.sent.append(batch)
        self.rows |= {(tag, at): value for tag, at, value in rows}
        assert self.journal.wait(len(self.sent) - 1, 10) == len(self.sent)

    def commit(self, stop: int) -> None:
        entries = block.write_block(
            self.history.url, Batch.concat(self.sent[self.done : stop]), f"e-{self.done}-{stop}"
        )
        self.history.add(entries, (self.journal.identity, stop))
        self.done = stop

    def wanted(self) -> pl.DataFrame:
        keys = sorted(self.rows)
        return pl.DataFrame(
            {"tag": [k[0] for k in keys], "time": [k[1] for k in keys], "value": [self.rows[k] for k in keys]}
        )


def seen(history: History) -> pl.DataFrame:
    return history.scan().collect().select("tag", pl.col("time").to_physical(), "value").sort("tag", "time")


@pytest.fixture
def plant(tmp_path):
    made = Plant(tmp_path)
    yield made
    made.journal.close()


def test_what_is_durable_shows_once_whatever_is_committed(plant: Plant) -> None:
    history = open_history(plant.path)
    rng = np.random.default_rng(1)
    assert seen(history).is_empty()
    for step in range(30):
        at = rng.integers(0, 40, 25)  # many times are written again, late and out of order
        plant.send([(f"t{i % 4}", T0 + int(a) * S, float(step * 100 + i)) for i, a in enumerate(at.tolist())])
        assert_frame_equal(seen(history), plant.wanted())
        if step % 4 == 3:
            plant.commit(int(rng.integers(plant.done, len(plant.sent)) + 1))
        if step % 9 == 8:
            plant.history.compact()
            plant.journal.trim(plant.done)
        assert_frame_equal(seen(history), plant.wanted())
        assert_frame_equal(
            history.aggregate("10s")
            .collect()
            .select("tag", "count")
            .group_by("tag")
            .agg(pl.col("count").sum())
            .sort("tag"),
            plant.wanted().group_by("tag").agg(count=pl.len().cast(pl.Int64)).sort("tag"),
        )
        newest = plant.wanted().group_by("tag").agg(pl.all().sort_by("time").last()).sort("tag")
        assert_frame_equal(history.latest().sort("tag")["value"].to_frame(), newest["value"].to_frame())
    plant.commit(len(plant.sent))
    assert_frame_equal(seen(history), plant.wanted())
    assert_frame_equal(seen(plant.history), plant.wanted())


def test_a_committed_rewrite_is_newer_than_what_was_committed_before_it(plant: Plant) -> None:
    history = open_history(plant.path)
    plant.send([("a", T0, 1.0)])
    plant.send([("a", T0 + S, 2.0)])
    plant.commit(1)
    # Offset 0 is committed; its record is still in the journal, in one bundle with offset 1.
    plant.history.append(pl.DataFrame({"tag": ["a"], "time": [T0], "value": [5.0]}))
    assert seen(history)["value"].to_list() == [5.0, 2.0]


def test_segments_are_followed_and_trimmed(tmp_path) -> None:
    plant = Plant(tmp_path, segment_bytes=1 << 16)
    history = open_history(tmp_path)
    for step in range(60):
        plant.send([(f"t{i}", T0 + step * S, float(step)) for i in range(300)])
        if step % 7 == 6:
            plant.commit(len(plant.sent) - 2)
            plant.journal.trim(plant.done)
        if step % 5 == 0:
            assert history.scan().select(pl.len()).collect().item() == 300 * (step + 1)
    assert len(list((tmp_path / "journal").glob("*.journal"))) < 10
    reopened = open_history(tmp_path)
    assert_frame_equal(seen(reopened), plant.wanted())
    plant.journal.close()


def test_a_question_that_began_ends_whatever_is_trimmed(tmp_path) -> None:
    plant = Plant(tmp_path, segment_bytes=1 << 16)
    history = open_history(tmp_path)
    for step in range(20):
        plant.send([(f"t{i}", T0 + step * S, float(step)) for i in range(400)])
    frames = history.frames()
    rows, _ = history.select("*", T0, T0 + HOUR)
    plant.commit(20)
    plant.journal.trim(20)
    files = {id(f): f for f in rows.files}
    live = [f for f in files.values() if f.path == "the journal"]
    assert sum(len(live[0].samples(int(r)).time) for r in rows.row[rows.file == len(rows.files) - 1]) == 8000
    assert sum(frame.height for frame in frames) == 8000
    plant.journal.close()


def test_damage_and_half_written_records_show_nothing_wrong(tmp_path) -> None:
    plant = Plant(tmp_path)
    for step in range(6):
        plant.send([(f"t{i}", T0 + step * S, float(step)) for i in range(50)])
    plant.journal.close()
    (segment,) = (tmp_path / "journal").glob("*.journal")
    content = bytearray(segment.read_bytes())
    rng = np.random.default_rng(3)
    whole = plant.wanted()
    for _ in range(150):
        torn = bytearray(content)
        torn[int(rng.integers(0, len(torn)))] ^= 1 << int(rng.integers(0, 8))
        segment.write_bytes(torn[: int(rng.integers(0, len(torn)))] if rng.random() < 0.5 else torn)
        found = seen(open_history(tmp_path))
        # Whole records or none, never another value.
        assert found.height % 50 == 0
        assert found.join(whole, on=["tag", "time", "value"], how="semi").height == found.height
    segment.write_bytes(content)
    assert_frame_equal(seen(open_history(tmp_path)), whole)


def test_a_history_older_than_its_journal_shows_what_is_left(tmp_path) -> None:
    plant = Plant(tmp_path, segment_bytes=1 << 16)
    for step in range(20):
        plant.send([(f"t{i}", T0 + step * S, float(step)) for i in range(400)])
    plant.journal.trim(15)  # as if a history from before the commit had been put back
    first = plant.journal.first
    plant.journal.close()
    assert first > 0
    assert open_history(tmp_path).scan().select(pl.len()).collect().item() == (20 - first) * 400


def test_only_what_is_durable_shows_inside_the_engine(plant: Plant) -> None:
    limit = 0
    history = plant.history.with_tail(JournalTail(plant.path / "journal", lambda: limit))
    plant.send([("a", T0, 1.0)])
    plant.send([("a", T0 + S, 2.0)])
    assert seen(history).is_empty()
    limit = 1
    assert seen(history)["value"].to_list() == [1.0]
    limit = 2
    assert seen(history)["value"].to_list() == [1.0, 2.0]


def test_workers_see_the_tail_too(plant: Plant) -> None:
    plant.send([(f"t{i}", T0 + i * S, float(i)) for i in range(20)])
    plant.commit(1)
    plant.send([(f"t{i}", T0 + (i % 7) * S, float(-i)) for i in range(20)])
    history = open_history(plant.path)
    wanted = plant.wanted()
    assert history.dask(partition_rows=8).compute()["value"].sum() == wanted["value"].sum()
    assert len(history.dask(index="time", partition_rows=8).compute()) == wanted.height
    sums = history.map(lambda frame: frame["value"].sum(), "t1*").sort("tag")
    by_tag = (
        wanted.filter(pl.col("tag").str.starts_with("t1")).group_by("tag").agg(result=pl.col("value").sum()).sort("tag")
    )
    assert_frame_equal(sums, by_tag)
    assert history.arrow("t1").reader().read_all().num_rows == wanted.filter(tag="t1").height


def test_the_cache_of_decoded_records_is_bounded(plant: Plant, monkeypatch) -> None:
    monkeypatch.setattr(live_module, "BUNDLE_ROWS", 100)
    monkeypatch.setattr(live_module, "CACHE_ROWS_MAX", 250)
    tail = JournalTail(plant.path / "journal")
    history = plant.history.with_tail(tail)
    for step in range(12):
        plant.send([(f"t{i}", T0 + step * S, float(step)) for i in range(60)])
        assert history.scan().select(pl.len()).collect().item() == 60 * (step + 1)
    assert tail._cached_rows == sum(len(s.time) for s in tail._cache.values()) <= 250


WRITER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {here!r})
from test_live import Plant, T0, S
plant = Plant(Path(sys.argv[1]), segment_bytes=1 << 17)
for step in range(400):
    plant.send([(f"t{{i}}", T0 + step * S, float(step)) for i in range(100)])
    if step % 20 == 19:
        plant.commit(len(plant.sent) - 5)
        plant.journal.trim(plant.done)
    if step == 0:
        print("begun", flush=True)
plant.commit(len(plant.sent))
plant.journal.close()
"""


def test_a_reader_in_another_process_never_sees_a_gap_or_a_double(tmp_path) -> None:
    from pathlib import Path

    code = textwrap.dedent(WRITER.format(here=str(Path(__file__).parent)))
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline().strip() == "begun"
        history = open_history(tmp_path)
        counts = [0]
        while writer.poll() is None or counts[-1] < 40_000:
            frame = history.scan().collect()
            by_tag = frame.group_by("tag").agg(pl.len(), pl.col("value").max(), pl.col("value").n_unique().alias("n"))
            # Of every tag the first n steps, each once.
            assert (by_tag["len"] == by_tag["n"]).all()
            assert (by_tag["len"] == by_tag["value"] + 1).all()
            assert by_tag["len"].n_unique() == 1
            assert frame.height >= counts[-1]
            counts.append(frame.height)
            assert len(counts) < 5000
        assert writer.wait(60) == 0
    assert counts[-1] == 40_000
    assert len(set(counts)) > 5
