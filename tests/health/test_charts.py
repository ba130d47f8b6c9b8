"""Every transmission fault of the lab is found and named, healthy tags are left alone, and the short way is the long way."""

import numba
import numpy as np
import pytest

from iiot_dask.core.batch import Batch
from iiot_dask.health import Kind, Knobs, Monitor, charts, detect, kernel
from iiot_dask.health.lab import FAULTS, labelled
from iiot_dask.health.monitor import LIVE_KINDS

S = 1_000_000_000


def score(frame, labels):
    """(kinds found per label, everything else found as (what was done, what was said))."""
    found = detect(frame, until=int(frame["received"][-1]))
    done = {label.tag: label for label in labels}
    named, other = set(), []
    for row in found.to_dicts():
        label = done.get(row["node"])
        if label is not None and row["kind"] == label.kind and row["detected"].timestamp() * S >= label.start_ns - S:
            named.add(label.tag)
        else:
            other.append((label.kind if label else "healthy", row["kind"]))
    missed = [label.kind for label in labels if label.tag not in named]
    return missed, other


@pytest.mark.parametrize(("seed", "strength"), [(1010, 1.0), (1011, 0.5)])
def test_each_fault_is_found_and_named_and_nothing_else(seed, strength):
    frame, labels = labelled(len(FAULTS) * 8, 2400, seed=seed, strength=strength)
    missed, other = score(frame, labels)
    assert len(labels) == len(FAULTS) * 4
    assert len(missed) <= 0.05 * len(labels), missed
    assert len(other) <= 0.02 * len(labels), other
    assert not [said for done, said in other if done == "healthy"]


def test_the_score_can_fail():
    frame, labels = labelled(32, 600, seed=1, strength=0.0, faulty=0.5)
    missed, _ = score(frame, labels)
    assert missed


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
    frame, labels = labelled(32, 800, seed=1020)
    want = detect(frame)
    asked = []

    @numba.njit
    def never(*_):
        return False

    monkeypatch.setattr(charts, "calm", never)
    slow = numba.njit(kernel.update_kernel.py_func)
    monkeypatch.setattr(kernel, "update_kernel", lambda *args: asked.append(1) or slow(*args))
    got = detect(frame)
    assert asked
    assert labels
    assert got.drop("score").equals(want.drop("score"))
