"""Compaction, verification and retention on a cluster: the same table as done here; a dead worker costs time only."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client, LocalCluster
from history_frames import DAY, T0, regular
from polars.testing import assert_frame_equal

from iiot_dask.core.clock import ManualClock
from iiot_dask.core.errors import ChecksumError
from iiot_dask.history import History, Retention
from iiot_dask.history.jobs import run_jobs

NOW = T0 + 30 * DAY


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as opened,
    ):
        yield opened


def filled(folder: Path) -> History:
    history = History(folder, clock=ManualClock(NOW))
    for day in range(6):
        history.append(regular(3, 3_000, start=T0 + day * DAY, seed=day))
        history.append(regular(3, 30, start=T0 + day * DAY + 10**9, seed=50 + day))
    return history


def test_care_on_a_cluster_is_care(tmp_path: Path, client: Client) -> None:
    history = filled(tmp_path / "there")
    wanted = history.scan().collect()
    seen: list[tuple[int, int]] = []
    done = history.compact(lambda a, b: seen.append((a, b)), rows_max=20_000, client=client)
    assert done.merges > 1
    assert done.duplicates == 6 * 3 * 30
    assert seen[-1][0] == seen[-1][1]
    assert_frame_equal(history.scan().collect(), wanted)
    report = history.verify(client=client)
    assert report.ok
    assert (report.rows, report.files) == (wanted.height, history.info().files)
    alone = filled(tmp_path / "here")
    alone.compact(rows_max=20_000)
    policy = Retention.of("27d", ["1m"])
    rolled = history.retain(policy, dry_run=False, client=client)
    assert rolled.samples == alone.retain(policy, dry_run=False).samples == wanted.height // 2
    assert_frame_equal(history.scan().collect(), alone.scan().collect())
    assert_frame_equal(history.aggregate("1h").collect(), alone.aggregate("1h").collect(), rel_tol=1e-12)
    history.vacuum("0s", dry_run=False)
    assert sorted(f.path for f in history.store.list()) == sorted(history.log.paths())
    assert history.verify().ok


def test_damage_found_on_a_worker_is_named_here(tmp_path: Path, client: Client) -> None:
    history = filled(tmp_path / "hurt")
    path = Path(history.url) / min(history.log.paths())  # of the first day
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    [problem] = history.verify(client=client).damaged
    assert path.name in problem
    version = history.log.refresh()
    with pytest.raises(ChecksumError, match=path.name):
        history.compact(client=client)
    assert history.log.refresh() >= version
    assert history.scan(start=T0 + DAY).collect().height == 5 * 9_000


def test_a_worker_that_dies_costs_time_only(tmp_path: Path, client: Client) -> None:
    def first_time_dies(job: tuple[str, int]) -> int:
        """Kills its worker the first time it is run. A closure, so that it travels by value."""
        mark = Path(job[0]) / f"ran-{job[1]}"
        if job[1] == 1 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return job[1] * 10

    jobs = [(str(tmp_path), i) for i in range(5)]
    assert sorted(result for _, result in run_jobs(jobs, first_time_dies, client)) == [0, 10, 20, 30, 40]
