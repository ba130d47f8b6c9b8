"""Every fault of the lab is found and named, healthy tags are left alone, and the short way is the long way."""

import numba
import numpy as np
import pytest

from iiot_dask.core.batch import Batch
from iiot_dask.health import Kind, Knobs, Monitor, detect, kernel
from iiot_dask.health.monitor import LIVE_KINDS
from iiot_dask.health.scoring import Score, rows_of
from iiot_dask.sim.faultlab_kinds import FAULTS, VALUE_KINDS
from iiot_dask.sim.faultlab_record import faulty_record, outage_record, shift_record

S = 1_000_000_000


def score(record):
    out = Score()
    out.add(record.labels, rows_of(detect(record.frame, record.topology, until=record.until_ns)))
    return out


@pytest.mark.parametrize(("seed", "strength", "least"), [(1010, 1.0, 0.98), (1011, 0.5, 0.9)])
def test_each_fault_is_found_and_named_and_nothing_else(seed, strength, least):
    found = score(faulty_record(len(FAULTS) * 8, 2400, seed=seed, strength=strength))
    assert sum(found.events.values()) == len(FAULTS) * 4
    assert found.recall() >= least, found.missed
    assert found.named_share() >= 0.93, found.confusion
    transmission = [r for r in found.false if r["kind"] not in VALUE_KINDS]
    assert not transmission
    assert len(found.false) <= 2, found.false


def test_the_score_can_fail():
    blind = score(faulty_record(116, 600, seed=1, strength=0.0001))
    assert blind.missed
    assert blind.recall() < 0.9


@pytest.mark.parametrize("seed", [1001, 1002])
def test_a_schedule_changed_for_a_whole_device_is_information(seed):
    record = shift_record(seed=seed)
    found = detect(record.frame, record.topology, until=record.until_ns)
    told = [(row["kind"], row["node"]) for row in found.to_dicts()]
    assert ("schedule_change", record.labels[0].node) in told
    assert {kind for kind, _ in told} == {"schedule_change"}


@pytest.mark.parametrize("gone", [1, 6])
def test_gateways_and_a_site_that_go_are_one_incident(gone):
    record = outage_record(6, 100, seed=1003, gone=gone)
    found = detect(record.frame, record.topology, until=record.until_ns)
    assert [(r["kind"], r["node"], len(r["tags"])) for r in found.to_dicts()] == [
        ("outage", record.labels[0].node, 100 * gone)
    ]
    assert found["end"].null_count() == 0


def rows(t, *, time=None, value=None, seq=None, quality=None):
    t = np.asarray(t, np.float64)
    n = len(t)
    return Batch.of(
        tag=np.zeros(n),
        time=((t if time is None else np.asarray(time)) * S).astype(np.int64) + 1_700_000_000 * S,
        value=np.random.default_rng(3).normal(size=n) if value is None else value,
        received=(t * S).astype(np.int64) + 1_700_000_000 * S + 5_000_000,
        quality=quality,
        seq=seq,
    )


def told(batch, knobs=None):
    monitor = Monitor(0, 1, knobs or Knobs.offline())
    changes = monitor.update(batch, int(batch.received[0]))
    return [(Kind(int(c["kind"])).label, bool(c["active"])) for c in changes if c["kind"] != Kind.ARMED]


def test_a_counter_of_one_byte_comes_round():
    n = np.arange(2000)
    assert told(rows(n, seq=n % 256)) == []
    assert told(rows(n, seq=n % 65536)) == []


def test_a_row_that_took_another_way_is_not_lost():
    n = np.arange(3000)
    order = n.copy()
    for at in range(100, 2900, 40):
        order[[at, at + 1]] = order[[at + 1, at]]
    assert "loss" not in {kind for kind, _ in told(rows(n, time=order, seq=order))}


def test_a_jump_ends_when_the_clock_is_put_right():
    n = np.arange(400)
    assert told(rows(n, time=n + np.where((n > 100) & (n < 200), 3600, 0))) == [
        ("clock_jump", True),
        ("clock_jump", False),
    ]
    assert told(rows(n, time=n - np.where((n > 100) & (n < 200), 3600, 0))) == [
        ("clock_jump", True),
        ("clock_jump", False),
    ]


def test_what_is_not_wanted_is_tracked_but_not_told():
    n = np.arange(1000)
    slower = np.concatenate([n, 999 + 3 * np.arange(1, 200)])
    assert told(rows(slower)) == [("slow", True)]
    assert told(rows(slower), Knobs(stall_ns=0)) == []
    assert Kind.SLOW not in LIVE_KINDS


def test_the_short_way_is_the_long_way(monkeypatch):
    """`calm` is only a shortcut: a kernel compiled without it finds the same."""
    frame = faulty_record(2 * len(FAULTS), 800, seed=1020).frame
    want = detect(frame)
    asked = []

    @numba.njit
    def never(*_):
        return False

    monkeypatch.setattr(kernel, "_calm", never)
    slow = numba.njit(kernel.update_kernel.py_func)
    monkeypatch.setattr(kernel, "update_kernel", lambda *args: asked.append(1) or slow(*args))
    got = detect(frame)
    assert asked
    assert want.height > 20
    assert got.drop("score").equals(want.drop("score"))
