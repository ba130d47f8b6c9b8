"""Budgets hold, and an adapter that leaks, hangs, spams or crashes leaves its neighbours as they were."""

import os
import time

import numpy as np
import psutil

from iiot_dask.adapter.environment import environment
from iiot_dask.adapter.limits import Limits, cores, take_limits
from iiot_dask.core.config import Adapter

HOSTILE = {
    "leaks": {"do": "leak", "at": 0, "rows": 1, "limits": {"memory": 400 << 20}},
    "spins": {"do": "spin", "at": 1000, "limits": {"silence": "2s", "cpu": 0.5}},
    "spams": {"rows": 100_000, "pause": 0},
    "crashes": {"do": "segv", "at": 10, "rows": 10},
}


def section(name, **options):
    return Adapter(name=name, kind="counting", options=options)


class Watch:
    """Rows and ages (read in the child -> delivered in the host, ns) of the neighbours, and rows of everyone."""

    def __init__(self, rig):
        self.rig = rig
        self.rows = dict.fromkeys(("good", "fine"), 0)
        self.ages = []
        self.all = {}
        rig.deliver = self.take

    def take(self, delivery):
        self.rig.host.acknowledge(delivery.adapter, delivery.poll.position or "0", delivery.incarnation)
        batch = delivery.poll.batch
        if batch is None:
            return
        self.all[delivery.adapter] = self.all.get(delivery.adapter, 0) + len(batch)
        if delivery.adapter in self.rows:
            self.rows[delivery.adapter] += len(batch)
            self.ages.append(time.time_ns() - int(batch.received[0]))

    def measure(self, windows=3, seconds=1.5):
        """Rows/s of the slower neighbour; the 99th percentile of the ages, the best of a few windows."""
        before, began, ages = dict(self.rows), time.monotonic(), []
        for _ in range(windows):
            first = len(self.ages)
            time.sleep(seconds)
            ages.append(float(np.quantile(self.ages[first:], 0.99)))
        span = time.monotonic() - began
        return min((self.rows[n] - before[n]) / span for n in self.rows), min(ages)


def test_four_hostile_adapters_leave_their_neighbours_as_they_were(rig):
    neighbours = [{"name": name, "kind": "counting", "options": {"per_s": 10_000}} for name in ("good", "fine")]
    r = rig(adapters=neighbours)
    watch = Watch(r)
    with r:
        r.until(lambda: all(rows > 1000 for rows in watch.rows.values()))
        rate, p99 = watch.measure()
        for name, options in HOSTILE.items():
            r.host.configure(section(name, **options))
        # Each has done its worst at least once, and goes on.
        r.until(lambda: watch.all.get("spams", 0) > 1_000_000)
        r.until(lambda: all(s.restarts for s in r.host.status() if s.name in {"leaks", "crashes", "spins"}))
        rate_then, p99_then = watch.measure()
        status = {s.name: s for s in r.host.status()}
        r.host.stop(2)  # one of them will not hear it
    assert rate_then >= 0.7 * rate, (rate, rate_then)
    assert p99_then <= 20 * p99, (p99, p99_then)
    assert [status[n].restarts for n in watch.rows] == [0, 0]
    # Restarts come at once here; what a policy in use waits is the supervisor's test.
    assert status["leaks"].restarts >= 1
    assert status["crashes"].restarts >= 1
    assert "hangs" in status["spins"].reason or status["spins"].restarts >= 1


def faults(r):
    return [event.reason for d in list(r.deliveries) for event in d.poll.events if event.kind == "disconnected"]


def test_a_file_can_not_grow_past_its_limit(rig, patient):
    r = rig(at=0, do="write", limits={"file_size": 1 << 20}, policy=patient)
    with r:
        r.until(lambda: faults(r))
    assert "File too large" in faults(r)[0]
    assert (r.folder / "n.big").stat().st_size == 1 << 20


def test_an_adapter_can_not_raise_its_own_limits(rig, patient):
    """Only the soft limit could be raised again; root may do anything and is asked for its own resignation first."""
    r = rig(at=0, do="raise_limits", limits={"open_files": 100}, policy=patient)
    with r:
        r.until(lambda: faults(r))
    assert faults(r)[0].startswith("limit 100 100 refused")


def test_more_rows_than_its_rate_wait_in_the_child(rig):
    r = rig(rows=1000, pause=0, limits={"rate": 20_000})
    with r:
        r.until(lambda: r.metrics.value("adapter_paced_total", adapter="n") > 3)
        before, began = len(r.values), time.monotonic()
        time.sleep(2)
        rate = (len(r.values) - before) / (time.monotonic() - began)
        assert rate < 2 * 20_000  # unpaced it is hundreds of thousands
        r.host.stop(30)
    assert r.values == list(range(len(r.values)))
    assert r.status.restarts == 0


def test_one_that_takes_more_cpu_than_its_share_gets_what_is_left(rig):
    r = rig(at=1000, do="spin", limits={"silence": "60s", "cpu": 0.1})
    with r:
        r.until(lambda: "idle class" in r.status.held_by)
        pid = r.status.pid
        assert {os.sched_getscheduler(t.id) for t in psutil.Process(pid).threads()} == {os.SCHED_IDLE}
        assert len(os.sched_getaffinity(pid)) == 1
        os.kill(pid, 9)
        r.until(lambda: r.status.incarnation == 1 and r.status.state == "running")
        r.host.stop(1)
    said = [e.reason for d in r.deliveries for e in d.poll.events if e.kind == "info"]
    assert "options.limits.cpu = 0.1: it runs in the idle class until its next start" in said[0]


def test_cores_are_as_many_as_the_budget_and_spread_by_name():
    there = set(range(8))
    runs = [cores(there, 2.5, f"adapter-{i}") for i in range(50)]
    assert {len(run) for run in runs} == {3}
    assert set().union(*runs) == there
    assert cores(there, 100, "x") == there


def test_only_what_it_needs_is_in_its_environment(rig, monkeypatch):
    monkeypatch.setenv("CLOUD_TOKEN", "not yours")
    monkeypatch.setenv("SITE_PROXY", "http://proxy")
    monkeypatch.setenv("PLC_PASSWORD", "hunter2-very-secret")
    options = {"token": "env:PLC_PASSWORD", "limits": {"environment": ["SITE_PROXY"]}}
    r = rig(at=0, do="environment", **options)
    with r:
        r.until(lambda: "PATH" in r.notes())
    names = set(r.notes())
    assert {"SITE_PROXY", "PLC_PASSWORD", "PATH", "PYTHONPATH"} <= names
    assert "CLOUD_TOKEN" not in names
    shown, limits = take_limits(section("n", **options))
    assert {"SITE_PROXY", "PLC_PASSWORD"} <= set(environment(shown, limits))
    assert "CLOUD_TOKEN" not in environment(shown, Limits.model_validate({}))
