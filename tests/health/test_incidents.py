"""The engine alone: events, graces, promotion, replays, restarts."""

import numpy as np
import pytest

from iiot_dask.adapter.contract import Event
from iiot_dask.health.incidents import Incidents, Rules
from iiot_dask.health.kinds import CHANGE_DTYPE, Kind

S = 1_000_000_000
DEVICES = {"l/a": range(4), "l/b": range(4, 8), "l/c": range(8, 12)}


def change(tags, kind, active, start, detected=None, score=9.0):
    rows = [
        (t, kind, active, round(start * S), round((start if detected is None else detected) * S), score) for t in tags
    ]
    return np.array(rows, CHANGE_DTYPE)


class Desk:
    """An engine with a clock and the newest record of every incident."""

    def __init__(self, adapters=None, **more):
        self.engine = Incidents(**more)
        for device, tags in DEVICES.items():
            names = [f"{device}/{t}" for t in tags]
            self.engine.tags(
                list(tags), names, [device] * len(names), None if adapters is None else [adapters[device]] * len(names)
            )
        self.engine.take(change(range(12), Kind.ARMED, True, 0, score=8.0), 0)
        self.latest = {}
        self.now = 0

    def run(self, until):
        while self.now < until:
            self.now += 0.5
            for one in self.engine.tick(round(self.now * S)):
                self.latest[one.incident] = one

    def silent(self, tags, start):
        self.run(start + 8)
        self.engine.take(change(tags, Kind.SILENCE, True, start, start + 8), round(self.now * S))

    def back(self, tags, start, end):
        self.run(end)
        self.engine.take(change(tags, Kind.SILENCE, False, start, end), round(self.now * S))

    def event(self, kind, node, at, adapter="plc", **more):
        self.run(at)
        self.engine.event(adapter, Event(kind, node, round(at * S), **more), round(self.now * S))

    def shown(self):
        return [
            (i.kind, i.node, i.start_ns / S, None if i.end_ns is None else i.end_ns / S)
            for i in self.latest.values()
            if i.parent is None
        ]


def test_a_dead_device_is_one_outage_with_its_members():
    desk = Desk()
    desk.silent(range(4), 10)
    desk.run(30)
    (one,) = desk.latest.values()
    assert (one.kind, one.node, len(one.tags), one.end_ns) == ("outage", "l/a", 4, None)
    assert one.detail == "4 of 4 tags silent"
    desk.back(range(4), 10, 50)
    desk.run(52)
    assert desk.shown() == [("outage", "l/a", 10, 50)]


def test_members_that_stay_silent_become_incidents_of_their_own():
    desk = Desk()
    desk.silent(range(4), 10)
    desk.run(30)
    desk.back([0, 1, 2], 10, 50)
    desk.run(90)
    assert desk.shown() == [("outage", "l/a", 10, 50), ("silence", "l/a/3", 10, None)]


def test_a_wider_cause_promotes_the_first_incident():
    desk = Desk()
    desk.silent(range(4), 10)
    desk.run(30)
    desk.silent(range(4, 8), 40)
    desk.run(70)
    (shown,) = desk.shown()
    assert shown == ("outage", "l", 10, None)
    assert len(desk.latest) == 1
    assert len(desk.latest[1].tags) == 8


def test_silences_found_first_become_parts_of_the_outage():
    desk = Desk(rules=Rules(group_wait_ns=0))
    desk.silent([0], 10)
    desk.silent([1], 20)
    desk.silent([2], 30)
    desk.run(60)
    assert desk.shown() == [("outage", "l/a", 10, None)]
    assert desk.latest[2].parent == 1


def test_device_down_opens_after_its_grace_and_device_up_ends_it():
    desk = Desk()
    desk.event("device_down", "l/b", 10, reason="no answer")
    desk.run(12)
    assert desk.shown() == []
    desk.silent(range(4, 8), 11)
    desk.run(30)
    assert desk.shown() == [("outage", "l/b", 10, None)]
    assert len(desk.latest[1].tags) == 4
    desk.event("device_up", "l/b", 40)
    desk.back(range(4, 8), 11, 41)
    desk.run(120)
    assert desk.shown() == [("outage", "l/b", 10, 40)]


def test_a_blink_of_a_device_is_nothing():
    desk = Desk()
    desk.event("device_down", "l/b", 10)
    desk.event("device_up", "l/b", 12)
    desk.run(60)
    assert desk.shown() == []


def test_many_devices_down_by_event_are_one_outage_of_the_line():
    desk = Desk()
    for i, device in enumerate(DEVICES):
        desk.event("device_down", device, 10 + i)
    desk.run(60)
    assert desk.shown() == [("outage", "l", 10, None)]
    for device in DEVICES:
        desk.event("device_up", device, 70)
    desk.run(80)
    assert desk.shown() == [("outage", "l", 10, 70)]


def test_a_device_unknown_to_the_topology_is_named_as_it_is():
    desk = Desk()
    desk.event("device_down", "elsewhere/1", 10)
    desk.run(20)
    desk.event("device_up", "elsewhere/1", 30)
    desk.run(40)
    assert desk.shown() == [("outage", "elsewhere/1", 10, 30)]


def test_an_adapters_restart_is_no_incident():
    desk = Desk(adapters=dict.fromkeys(DEVICES, "plc"))
    desk.event("disconnected", "plc", 10)
    desk.silent(range(12), 10)
    desk.run(23)
    desk.event("connected", "plc", 23)
    desk.back(range(12), 10, 24)
    desk.run(90)
    assert desk.shown() == []


def test_a_lost_session_that_lasts_is_one_outage():
    adapters = {"l/a": "plc", "l/b": "plc", "l/c": "other"}
    desk = Desk(adapters=adapters)
    desk.event("disconnected", "plc", 10, reason="refused")
    desk.silent(range(8), 11)
    desk.run(60)
    assert desk.shown() == [("outage", "plc", 10, None)]
    assert "refused" in desk.latest[1].detail
    assert len(desk.latest[1].tags) == 8
    desk.event("connected", "plc", 70)
    desk.back(range(8), 11, 71)
    desk.run(150)
    assert desk.shown() == [("outage", "plc", 10, 70)]


def test_an_adapter_of_one_device_names_the_device():
    desk = Desk(adapters={"l/a": "plc", "l/b": "other", "l/c": "other"})
    desk.event("disconnected", "plc", 10)
    desk.silent(range(4), 11)
    desk.run(60)
    assert desk.shown() == [("outage", "l/a", 10, None)]


def test_session_and_silence_of_the_same_device_are_one_even_when_nobody_says_who_reads_it():
    desk = Desk()
    desk.event("disconnected", "plc", 10)
    desk.silent(range(4), 11)
    desk.run(60)
    assert [row[:2] for row in desk.shown()] == [("outage", "l/a")]


def test_corrupt_messages_are_one_incident_that_ends_after_quiet():
    desk = Desk()
    for t in range(10, 40, 3):
        desk.event("malformed", "l/c", t, count=5, reason="not JSON")
    desk.run(50)
    (one,) = desk.latest.values()
    assert (one.kind, one.node, one.score, one.end_ns) == ("corrupt", "l/c", 50.0, None)
    desk.run(100)
    assert desk.shown() == [("corrupt", "l/c", 10, 37)]


def test_replayed_changes_change_nothing():
    desk = Desk()
    desk.silent([0], 10)
    desk.run(30)
    desk.back([0], 10, 31)
    desk.run(60)
    before = dict(desk.latest)
    desk.engine.take(change([0], Kind.SILENCE, True, 10, 18), 0)
    desk.engine.take(change([0], Kind.SILENCE, False, 10, 31), 0)
    desk.run(120)
    assert desk.latest == before


def test_clocks_that_jump_together_are_one_incident():
    desk = Desk()
    desk.run(10)
    desk.engine.take(change(range(9), Kind.CLOCK_JUMP, True, 5, 10, 60.0), 10 * S)
    desk.engine.take(change([9], Kind.FLATLINE, True, 5, 10), 10 * S)
    desk.run(20)
    assert desk.shown() == [("clock_jump", "l", 5, None), ("flatline", "l/c/9", 5, None)]
    assert len(desk.latest[1].tags) == 9
    desk.engine.take(change(range(9), Kind.CLOCK_JUMP, False, 5, 30), 30 * S)
    desk.run(40)
    assert desk.shown()[0] == ("clock_jump", "l", 5, 30)


def test_a_condition_shorter_than_its_hold_still_is_told():
    desk = Desk()
    desk.engine.take(change([3], Kind.RESET, True, 10, 10), 0)
    desk.engine.take(change([3], Kind.RESET, False, 10, 10), 0)
    desk.run(20)
    assert desk.shown() == [("reset", "l/a/3", 10, 10)]


def test_the_same_cause_again_at_once_is_the_same_incident():
    desk = Desk()
    desk.engine.take(change([0], Kind.FLATLINE, True, 10, 20), 20 * S)
    desk.engine.take(change([0], Kind.FLATLINE, False, 10, 30), 30 * S)
    desk.run(40)
    desk.engine.take(change([0], Kind.FLATLINE, True, 31, 42), 42 * S)
    desk.run(50)
    assert desk.shown() == [("flatline", "l/a/0", 10, None)]


def test_open_incidents_go_on_after_a_restart():
    desk = Desk()
    desk.silent(range(4), 10)
    desk.silent([9], 12)
    desk.run(40)
    old = desk.engine.open()
    assert len(old) == 2
    again = Desk(restored=old)
    again.engine.take(change(range(4), Kind.SILENCE, True, 10, 18), 0)
    again.run(200)
    assert again.shown() == [("outage", "l/a", 10, None), ("silence", "l/c/9", 12, 60.5)]
    assert again.engine.open()[0].incident == old[0].incident


def test_bounds():
    desk = Desk(rules=Rules(open_max=3, replay_max=4))
    for tag in range(8):
        desk.engine.take(change([tag], Kind.DUPLICATE + tag, True, 10 + tag), 0)
    desk.run(30)
    assert len(desk.engine.open()) == 3
    assert desk.engine.dropped == 5


@pytest.mark.parametrize("seed", range(20))
def test_random_histories_keep_the_books(seed):
    """Whatever comes, in whatever order: when all is well again nothing is open, and every incident has ended."""
    rng = np.random.default_rng(seed)
    desk = Desk(adapters={"l/a": "p", "l/b": "p", "l/c": "q"})
    silent = {}
    t = 10.0
    for _ in range(150):
        t += float(rng.exponential(4))
        tag = int(rng.integers(12))
        what = rng.integers(6)
        if what < 2:
            if tag in silent:
                desk.back([tag], silent.pop(tag), t)
            else:
                silent[tag] = t
                desk.silent([tag], t)
                t += 8
        elif what == 2:
            desk.event(str(rng.choice(["device_down", "device_up"])), str(rng.choice(list(DEVICES))), t)
        elif what == 3:
            adapter = str(rng.choice(["p", "q"]))
            desk.event(str(rng.choice(["disconnected", "connected"])), adapter, t, adapter=adapter)
        elif what == 4:
            desk.engine.take(change([tag], Kind.ARMED, bool(rng.integers(2)), t, score=8.0), 0)
        else:
            desk.engine.take(change([tag], Kind.FLATLINE, bool(rng.integers(2)), t), 0)
    for tag, start in silent.items():
        desk.back([tag], start, t + 1)
    for device in DEVICES:
        desk.event("device_up", device, t + 2)
    for adapter in "pq":
        desk.event("connected", adapter, t + 2, adapter=adapter)
    desk.engine.take(change(range(12), Kind.FLATLINE, False, t + 3), 0)
    desk.run(t + 200)
    assert desk.engine.open() == []
    assert all(i.end_ns is not None and i.end_ns >= i.start_ns for i in desk.latest.values())
    assert all(n == 0 for n in desk.engine._tally.silent.values())
    assert desk.engine._tally.gone == set()
