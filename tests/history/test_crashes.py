"""Killed at every system call that matters, and at random moments: complete, exactly once, and nothing left over."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from history_frames import DAY, T0, regular
from polars.testing import assert_frame_equal

from iiot_dask.history import History

HERE = Path(__file__).parent / "crash"
sys.path.insert(0, str(HERE))

import crash_scenarios as scenarios  # noqa: E402 -- beside the program that is killed

pytestmark = pytest.mark.service("gcc")


@dataclass
class Nursery:
    process: subprocess.Popen[str]

    def run(self, scenario: str, folder: Path, kill_at: int = 0, torn: bool = False) -> tuple[int, str]:
        """(wait status, what it said) of a child that does a scenario, and is killed at its n-th call."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        task = {"scenario": scenario, "folder": str(folder), "kill_at": kill_at, "torn": int(torn)}
        print(json.dumps(task), file=self.process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer["status"], answer["said"]

    def calls(self, scenario: str, folder: Path) -> int:
        """How many calls a scenario makes when it lives."""
        status, said = self.run(scenario, folder)
        assert status == 0, said
        return int(said)


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    library = tmp_path_factory.mktemp("killer") / "killer.so"
    source = str(HERE / "killer.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), source, "-ldl"], check=True, timeout=60)
    with subprocess.Popen(
        [sys.executable, str(HERE / "nursery.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "LD_PRELOAD": str(library), "POLARS_MAX_THREADS": "2"},
    ) as process:  # fmt: skip
        yield Nursery(process)
        assert process.stdin is not None
        process.stdin.close()


def prepared(folder: Path, scenario: str) -> None:
    """What is there before a scenario: tags and, for care, some files with late rows and duplicates."""
    history = scenarios.opened(folder)
    history.tags.ensure(["a", "b", "s0", "s1"])
    if scenario in {"compact", "retain"}:
        history.append(regular(2, 1_300))
        history.append(regular(2, 50, start=T0 + 10**9, seed=3))
        history.append(regular(2, 60, start=T0 + 9 * DAY))


def truth(scenario: str, folder: Path) -> pl.DataFrame:
    """What history holds when the scenario has run to its end."""
    if scenario == "stream":
        rows = scenarios.rows_of(0, scenarios.EPOCH * scenarios.EPOCHS)
    elif scenario == "append":
        rows = pl.DataFrame({"tag": ["a"] * 5 + ["b"], "time": [*range(T0, T0 + 5), T0], "value": [2.0, 1, 1, 1, 1, 3]})
    else:
        return History(folder / "history").scan().collect().select("tag", "time", "value")
    rows = rows.unique(["tag", "time"], keep="last", maintain_order=True).sort("tag", "time")
    return rows.with_columns(pl.col("time").cast(pl.Datetime("ns", "UTC")))


def holds(folder: Path) -> pl.DataFrame:
    return History(folder / "history").scan().collect().select("tag", "time", "value").sort("tag", "time")


def hours(folder: Path) -> pl.DataFrame:
    return History(folder / "history").aggregate("1h").collect()


def clean(folder: Path) -> None:
    """Nothing is there that no version of the table names, and everything that is there is intact."""
    history = History(folder / "history")
    named = set(history.log.paths()) | set(history.log.table.vacuum(0, dry_run=True, enforce_retention_duration=False))
    assert {found.path for found in history.store.list()} <= named
    assert history.verify().ok
    info = history.info()
    assert info.rows == history.scan().select(pl.len()).collect().item()


@pytest.fixture
def case(tmp_path: Path, nursery: Nursery) -> Case:
    return Case(tmp_path, nursery)


@dataclass
class Case:
    folder: Path
    nursery: Nursery

    def check(self, scenario: str, points: list[tuple[int, bool]] | None, stride: int = 1) -> int:
        """Kill the scenario at points (default: every `stride`-th call, whole and torn in turn); how many kills there were."""
        start, lived = self.folder / "start", self.folder / "lived"
        prepared(start, scenario)
        wanted = truth(scenario, start)
        windows = hours(start)
        shutil.copytree(start, lived)
        calls = self.nursery.calls(scenario, lived)
        assert calls >= 10
        if scenario in {"stream", "append"}:
            assert_frame_equal(holds(lived), wanted.sort("tag", "time"))
        kills = 0
        for n, torn in points or [(n, n % 2 == 0) for n in range(1, calls + 1, stride)]:
            again = self.folder / f"killed-{n}-{torn}"
            shutil.copytree(start, again)
            status, said = self.nursery.run(scenario, again, n, torn)
            assert os.WIFSIGNALED(status), (n, said)
            assert os.WTERMSIG(status) == signal.SIGKILL
            kills += 1
            self._recover(scenario, again, wanted, windows)
            shutil.rmtree(again)
        return kills

    def _recover(self, scenario: str, folder: Path, wanted: pl.DataFrame, windows: pl.DataFrame) -> None:
        if scenario == "append":
            # What was not answered may be there or not, but whole; what was answered first is there.
            found = holds(folder)
            first = pl.Series([1.0] * 5)
            assert found.height in {0, 5, 6}
            assert found.height != 5 or found["value"].equals(first)
        elif scenario == "compact":
            assert_frame_equal(holds(folder), wanted.sort("tag", "time"))
        elif scenario == "retain":
            assert_frame_equal(hours(folder), windows, rel_tol=1e-12)
        status, said = self.nursery.run(scenario, folder)
        assert status == 0, said
        scenarios.opened(folder).compact()
        if scenario == "retain":
            assert_frame_equal(hours(folder), windows, rel_tol=1e-12)
        else:
            assert_frame_equal(holds(folder), wanted.sort("tag", "time"))
        clean(folder)


SCENARIOS = ["stream", "append", "compact", "retain"]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_some_calls(case: Case, scenario: str) -> None:
    assert case.check(scenario, None, stride=9) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_every_call(case: Case, scenario: str) -> None:
    assert case.check(scenario, None) >= 10


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_fifty_random_points(case: Case, scenario: str) -> None:
    """200 over the scenarios: a random call, whole or torn; on some runs a second kill in the recovery."""
    rng = random.Random(f"crash {scenario}")
    probe = case.folder / "probe"
    prepared(probe, scenario)
    calls = case.nursery.calls(scenario, probe)
    points = [(rng.randint(1, calls), rng.random() < 0.5) for _ in range(50)]
    assert case.check(scenario, list(dict.fromkeys(points))) >= 10
