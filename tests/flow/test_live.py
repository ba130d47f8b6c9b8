"""Live runs: against real Dask workers that are killed, feeds that overflow, late rows; results equal batch."""

import os
import signal
import time

import numpy as np
import polars as pl
import pytest
from distributed import Client, LocalCluster
from flow_rows import STAMP, S
from polars.testing import assert_frame_equal
from streamz import Stream

from iiot_dask.flow import chain, pipeline
from iiot_dask.flow import live as live_module
from iiot_dask.flow.live import LiveRun
from iiot_dask.flow.router import Router
from iiot_dask.history import History

WHAT = (
    pipeline("s/*")
    .event_time(lateness="2s")
    .filter(pl.col("quality") < 64)
    .rate("1s", into="rate")
    .window("5s", ["count", "mean", "max", "twm"])
)


def rows_of(first, last, tags=20, seed=0):
    """One row a tag and second of [first, last)."""
    seconds = np.arange(first, last)
    value = np.random.default_rng([seed, first]).normal(20, 3, len(seconds) * tags).round(1)
    return pl.DataFrame(
        {
            "tag": [f"s/{i}" for _ in seconds for i in range(tags)],
            "time": pl.Series(np.repeat(seconds, tags) * S).cast(STAMP),
            "value": value,
            "quality": pl.Series(np.zeros(len(value), np.uint8)),
        }
    )


def until(true, seconds=60):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def collected(run):
    out = []
    run.stream.sink(out.append)
    return out


def newest(frames):
    """What a sink that upserts by (tag, time) would hold."""
    rows = pl.concat(frames, how="vertical").sort("version", maintain_order=True)
    return rows.unique(["tag", "time"], keep="last").sort("tag", "time").drop("version")


@pytest.fixture
def history(tmp_path):
    with History(str(tmp_path / "history")) as opened:
        yield opened


@pytest.fixture(scope="module")
def cluster():
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        ) as made,
        Client(made, set_as_default=False) as client,
    ):
        yield client


def feed(parts, history, between=lambda run, i: None, **options):
    source = Stream()
    run = LiveRun(WHAT, lambda tags: source, history, **options)
    out = collected(run)
    with run:
        for i, part in enumerate(parts):
            history.append(part)
            source.emit(part.to_arrow())
            between(run, i)
    assert run.failure is None
    return run, out


@pytest.mark.parametrize("override", [None, "stream", "micro-batch"])
def test_live_equals_history(history, override):
    run, out = feed([rows_of(a, a + 3) for a in range(0, 60, 3)], history, router=Router(override))
    assert_frame_equal(newest(out), WHAT.over(history), check_exact=True)
    assert "stopped" in run._repr_html_()


def test_late_rows_correct_what_was_published(history):
    parts = [rows_of(a, a + 3) for a in range(0, 60, 3)]
    late = rows_of(12, 15, seed=9).with_columns(value=pl.lit(999.0))

    def published(run, i):
        if i == len(parts) - 1:
            until(lambda: run.latest(live_module.SHOWN_ROWS_MAX).height >= 20 * 10)

    run, out = feed([*parts, late], history, published, router=Router("stream"))
    assert run.corrected > 0
    before = pl.concat(out).filter(pl.col("version") == 0)
    assert before["max"].max() < 999.0
    assert_frame_equal(newest(out), WHAT.over(history), check_exact=True)


def test_late_rows_are_corrected_under_load_too(history, monkeypatch):
    monkeypatch.setattr(live_module, "CORRECT_S", 0.0)
    source = Stream()
    run = LiveRun(WHAT, lambda tags: source, history, router=Router("stream")).start()
    at = 0
    deadline = time.monotonic() + 60
    # A feed that never rests: the correction may not wait for a quiet moment.
    while run.corrected == 0:
        assert time.monotonic() < deadline
        part = (
            rows_of(at, at + 3)
            if at % 30
            else pl.concat([rows_of(at, at + 3), rows_of(max(at - 30, 0), at + 1, seed=3)])
        )
        history.append(part)
        source.emit(part.to_arrow())
        at += 3
    run.stop()
    assert run.failure is None


def test_a_feed_that_overflows_loses_nothing(history, monkeypatch):
    monkeypatch.setattr(live_module, "FEED_ROWS_MAX", 100)
    run = LiveRun(WHAT, lambda tags: Stream(), history)
    out = collected(run)
    # Before the run begins nobody takes rows, so the feed overflows for sure.
    for a in range(0, 60, 3):
        history.append(rows_of(a, a + 3))
        run.offer(rows_of(a, a + 3).to_arrow())
    assert run.overflowed > 0
    with run:
        pass
    assert run.corrected > 0
    assert_frame_equal(newest(out), WHAT.over(history), check_exact=True)


def test_killed_workers_lose_and_double_nothing(history, cluster):
    def kill(run, i):
        if i in (5, 12):
            workers = cluster.scheduler_info()["workers"]
            pids = cluster.run(os.getpid)
            holder = cluster.who_has()
            busy = [w for places in holder.values() for w in places if w in workers]
            os.kill(pids[busy[0]] if busy else next(iter(pids.values())), signal.SIGKILL)

    _run, out = feed(
        [rows_of(a, a + 3) for a in range(0, 60, 3)], history, kill, client=cluster, router=Router("stream")
    )
    assert_frame_equal(newest(out), WHAT.over(history), check_exact=True)
    published = pl.concat(out).filter(pl.col("version") == 0)
    assert not published.select("tag", "time").is_duplicated().any()


def test_a_checkpoint_is_taken_when_enough_was_kept(history, cluster, monkeypatch):
    monkeypatch.setattr(chain, "KEPT_MAX", 4)
    saved = []

    def look(run, i):
        until(lambda: run.steps > i)
        saved.append((run._chain.base is not None, len(run._chain.kept)))

    _run, out = feed(
        [rows_of(a, a + 3) for a in range(0, 60, 3)], history, look, client=cluster, router=Router("stream")
    )
    assert saved[-1][0]
    assert max(kept for _, kept in saved) < 4
    assert_frame_equal(newest(out), WHAT.over(history), check_exact=True)


def test_a_path_switched_under_load_changes_nothing(history, monkeypatch):
    router = Router("stream")

    def switch(run, i):
        router.override = ("stream", "micro-batch", "batch")[i % 3]
        router.path = router.override

    monkeypatch.setitem(live_module.WAIT_S, "batch", 0.2)
    _run, out = feed([rows_of(a, a + 3) for a in range(0, 90, 3)], history, switch, router=router)
    assert_frame_equal(newest(out), WHAT.over(history), check_exact=True)
    assert not pl.concat(out).filter(pl.col("version") == 0).select("tag", "time").is_duplicated().any()


def test_changing_a_run_backfills_and_loses_no_row_between(history):
    history.append(rows_of(0, 30))
    source = Stream()
    run = LiveRun(WHAT, lambda tags: source.map(lambda table: table), history).start()
    other = WHAT.window("10s", ["max"], on="max")
    stop, part = run.stop, rows_of(30, 60)

    def stop_while_rows_come(**options):
        history.append(part)
        source.emit(part.to_arrow())
        stop(**options)

    run.stop = stop_while_rows_come
    changed = run.change(other, backfill="40000d")
    out = collected(changed)
    shown = changed.latest(10_000)
    changed.stop()
    assert_frame_equal(newest([shown, *out]).sort("tag", "time"), other.over(history), check_exact=True)
    assert run.explain().path == "stream"


def test_a_wrong_pipeline_ends_its_run_visibly(history):
    source = Stream()
    wrong = pipeline("s/*").event_time(lateness=0).window("1s", ["mean"], on="nothing")
    run = LiveRun(wrong, lambda tags: source, history).start()
    source.emit(rows_of(0, 10).to_arrow())
    run._thread.join(30)
    assert "nothing" in str(run.failure)
    assert "failed" in run._repr_html_()
    run.stop()
