"""Live runs: against real Dask workers that are killed, feeds that overflow, late rows; results equal batch."""

import os
import signal

import numpy as np
import polars as pl
import pytest
from distributed import Client, LocalCluster
from flow_rows import STAMP, S
from polars.testing import assert_frame_equal
from streamz import Stream

from iiot_dask.flow import live as live_module
from iiot_dask.flow import pipeline
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


def feed(run_args, parts, history, between=lambda i: None, **options):
    source = Stream()
    run = LiveRun(WHAT, lambda tags: source, history, **options)
    out = collected(run)
    with run:
        for i, part in enumerate(parts):
            history.append(part)
            source.emit(part.to_arrow())
            between(i)
    assert run.failure is None
    return run, out


@pytest.mark.parametrize("override", [None, "stream", "micro-batch"])
def test_live_equals_history(history, override):
    run, out = feed(None, [rows_of(a, a + 3) for a in range(0, 60, 3)], history, router=Router(override))
    assert_frame_equal(newest(out), WHAT.over(history), check_exact=True)
    assert run.steps >= 1
    assert "running" in run._repr_html_() or "stopped" in run._repr_html_()


def test_late_rows_correct_what_was_published(history):
    parts = [rows_of(a, a + 3) for a in range(0, 60, 3)]
    late = rows_of(12, 15, seed=9).with_columns(value=pl.lit(999.0))
    # Nothing waits between the parts, so give the run the time to publish what the late rows then correct.
    _run, out = feed(None, [*parts, late], history, between=lambda i: None, router=Router("stream"))
    assert_frame_equal(newest(out), WHAT.over(history), check_exact=True)


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
    def kill(i):
        if i in (5, 12):
            workers = cluster.scheduler_info()["workers"]
            pids = cluster.run(os.getpid)
            holder = cluster.who_has()
            busy = [w for places in holder.values() for w in places if w in workers]
            os.kill(pids[busy[0]] if busy else next(iter(pids.values())), signal.SIGKILL)

    _run, out = feed(
        None, [rows_of(a, a + 3) for a in range(0, 60, 3)], history, kill, client=cluster, router=Router("stream")
    )
    assert_frame_equal(newest(out), WHAT.over(history), check_exact=True)
    published = pl.concat(out).filter(pl.col("version") == 0)
    assert not published.select("tag", "time").is_duplicated().any()


def test_a_checkpoint_is_taken_when_enough_was_kept(history, cluster, monkeypatch):
    from iiot_dask.flow import chain

    monkeypatch.setattr(chain, "KEPT_MAX", 4)
    _run, out = feed(
        None, [rows_of(a, a + 3) for a in range(0, 60, 3)], history, client=cluster, router=Router("stream")
    )
    assert_frame_equal(newest(out), WHAT.over(history), check_exact=True)


def test_a_path_switched_under_load_changes_nothing(history):
    router = Router("stream")

    def switch(i):
        router.override = ("stream", "micro-batch", "batch")[i % 3]
        router.path = router.override

    live_module.WAIT_S["batch"], before = 0.2, live_module.WAIT_S["batch"]
    try:
        _run, out = feed(None, [rows_of(a, a + 3) for a in range(0, 90, 3)], history, switch, router=router)
    finally:
        live_module.WAIT_S["batch"] = before
    assert_frame_equal(newest(out), WHAT.over(history), check_exact=True)
    assert not pl.concat(out).filter(pl.col("version") == 0).select("tag", "time").is_duplicated().any()


def test_changing_a_run_backfills(history):
    history.append(rows_of(0, 30))
    source = Stream()
    run = LiveRun(WHAT, lambda tags: source, history).start()
    other = WHAT.window("10s", ["max"], on="max")
    changed = run.change(other, backfill="40000d")
    assert changed.latest(1000).height > 0
    changed.stop()
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
