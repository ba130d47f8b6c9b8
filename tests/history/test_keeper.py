from __future__ import annotations

import threading
from pathlib import Path

import pytest
from history_frames import T0, regular
from polars.testing import assert_frame_equal

from iiot_dask.core.metrics import Metrics
from iiot_dask.history import History
from iiot_dask.history.keeper import Keeper


def test_a_round_compacts_and_cleans(history: History) -> None:
    for i in range(4):
        history.append(regular(3, 600, start=T0 + i * 600 * 10**9))
    wanted = history.scan().collect()
    metrics = Metrics()
    keeper = Keeper(History(history.url), retention="0s", metrics=metrics)
    assert keeper.round()
    assert_frame_equal(history.scan().collect(), wanted)
    assert sorted(f.path for f in history.store.list()) == sorted(history.log.paths())
    assert metrics.value("history_compactions_total") == 1
    assert metrics.value("history_files") == history.info().files


def test_a_failed_round_is_counted_and_the_next_one_works(history: History) -> None:
    history.append(regular(3, 600))
    [path] = (Path(history.url) / p for p in history.log.paths())
    content = path.read_bytes()
    path.write_bytes(content[:-9])
    metrics = Metrics()
    keeper = Keeper(History(history.url), metrics=metrics)
    assert not keeper.round()
    assert metrics.value("history_keeper_failures_total") == 1
    path.write_bytes(content)
    assert keeper.round()
    assert history.verify().ok


def test_the_thread_works_by_itself_and_ends(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = threading.Semaphore(0)
    keeper = Keeper(history, every="1ms", metrics=Metrics())
    monkeypatch.setattr(keeper, "round", rounds.release)
    keeper.start()
    for _ in range(3):
        assert rounds.acquire(timeout=60)
    keeper.stop()
    keeper.stop()
    assert not keeper._thread.is_alive()
