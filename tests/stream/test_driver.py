"""The driver alone, over stand-ins: order, epochs, recovery, poison, ends. Every test ends with all slots given back."""

import threading
import time

import pytest

from iiot_dask.core.batch import Batch
from iiot_dask.core.errors import CapacityError
from iiot_dask.stream import driver as driver_module


def until(condition, timeout_s=30.0):
    """Wait for a condition that another thread brings about."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


def test_everything_appended_is_committed_once_and_in_order(rig, batch_of, sum_work, wanted):
    r = rig()
    r.driver.start()
    for i in range(50):
        r.journal.append(batch_of(i))
    r.driver.stop()
    assert r.sink.rows() == wanted(range(50))
    assert r.sink.offset == 50
    assert sum(len(m.batch) for m in r.handled) == 300
    assert [m.first for m in r.handled] == sorted(m.first for m in r.handled)
    assert r.driver.read_rows == 300
    assert r.slots() == 4


def test_states_go_on_over_epochs_and_restarts(rig, batch_of):
    first = rig()
    first.driver.start()
    for i in range(10):
        first.journal.append(batch_of(i))
    first.driver.stop()
    second = rig()
    second.journal, second.sink = first.journal, first.sink
    second.driver.source, second.driver.sink = first.journal, first.sink
    second.driver.start()
    for i in range(10, 20):
        second.journal.append(batch_of(i))
    second.driver.stop()
    import json

    sums = [json.loads(state)["sum"] for state in second.sink.states]
    assert sums == [sum(i * 1000.0 + k for i in range(20) for k in range(s, 6, 2)) for s in (0, 1)]


def test_an_epoch_closes_by_rows_and_by_time(rig, batch_of):
    r = rig(flush_rows=30, flush="1h", batch_rows=6)
    r.driver.start()
    for i in range(10):
        r.journal.append(batch_of(i))
    until(lambda: r.sink.offset == 10)
    assert [e.rows for e in r.sink.epochs] == [30, 30]
    r.driver.stop()
    r = rig(flush="20ms")
    r.driver.start()
    r.journal.append(batch_of(0))
    until(lambda: r.sink.offset == 1)
    r.driver.stop()


def test_gaps_of_offsets_are_passed(rig, batch_of, wanted):
    r = rig()
    r.driver.start()
    r.journal.append(batch_of(0))
    r.journal.gap(5)
    r.journal.append(batch_of(1))
    r.journal.gap(2)
    until(lambda: r.driver.cursor == 9)
    r.driver.stop()
    assert r.sink.offset == 9
    assert r.sink.rows() == wanted([0, 1])


def test_records_without_rows_move_the_offset_on(rig):
    r = rig()
    r.driver.start()
    for _ in range(5):
        r.journal.append(Batch.empty())
    r.driver.stop()
    assert r.sink.offset == 5
    assert [e.entries for e in r.sink.epochs] == [()]


def test_silence_is_ticked_and_a_chain_of_ticks_has_an_end(rig, batch_of, monkeypatch):
    monkeypatch.setattr(driver_module, "TICK_NS", 200_000)
    r = rig(batch="200us")
    r.driver.batcher.batches_max = 20
    r.driver.start()
    until(lambda: r.graph.emitted > 200)
    # Nothing came in, so nothing was committed; the chain began anew every 20 ticks.
    assert r.sink.epochs == []
    assert r.graph.longest <= 20
    assert r.graph.restarts >= 9
    r.journal.append(batch_of(0))
    r.driver.stop()
    assert r.sink.offset == 1
    import json

    # The state went through all those restarts.
    assert json.loads(r.sink.states[0])["steps"] > 200


def test_now_follows_the_data_while_there_is_a_backlog(rig, batch_of):
    r = rig(batch_rows=6)
    for i in range(20):
        r.journal.append(batch_of(i))
    r.driver.start()
    r.driver.stop()
    nows = [m.now_ns for m in r.handled if len(m.batch)]
    assert nows[:-1] == list(range(19))
    assert nows[-1] > 10**18


@pytest.mark.parametrize("where", [0, 1, 5, 12])
def test_a_failure_replays_the_epoch_nothing_lost_or_doubled(rig, batch_of, wanted, where):
    r = rig(batch_rows=6, flush_rows=24)
    r.graph.faults.extend([None] * where + [OSError("worker lost"), OSError("again")])
    for i in range(30):
        r.journal.append(batch_of(i))
    r.driver.start()
    r.driver.stop()
    assert r.sink.rows() == wanted(range(30))
    assert r.metrics.value("stream_recoveries_total") >= 1
    assert r.metrics.value("stream_stalled") == 0
    assert r.driver.problem is None
    assert r.driver.read_rows == 180
    assert r.slots() == 4
    # What had been answered before comes again, and says so.
    seen = set()
    for micro in r.handled:
        assert micro.replay == any(o in seen for o in range(micro.first, micro.stop)) or not len(micro.batch)
        seen |= set(range(micro.first, micro.stop))


def test_failures_of_the_surroundings_are_tried_again_for_ever(rig, batch_of, wanted):
    r = rig()
    r.graph.faults.extend([OSError(28, "No space left on device")] * 60)
    r.driver.start()
    r.journal.append(batch_of(0))
    until(lambda: r.metrics.value("stream_recoveries_total") > 5)
    assert r.metrics.value("stream_stalled") == 1
    assert "No space left" in r.driver.problem
    until(lambda: r.sink.offset == 1)
    assert r.driver.failed is None
    r.driver.stop()
    assert r.sink.rows() == wanted([0])


def test_a_commit_that_fails_replays_from_what_was_committed(rig, batch_of, wanted):
    r = rig(batch_rows=6, flush_rows=12)
    r.sink.refuse = 3
    for i in range(12):
        r.journal.append(batch_of(i))
    r.driver.start()
    r.driver.stop()
    assert r.sink.rows() == wanted(range(12))
    assert r.metrics.value("stream_recoveries_total") == 3


def test_a_settle_that_fails_is_tried_again(rig, batch_of, wanted, monkeypatch):
    r = rig()
    r.driver.start()
    real, answers = r.sink.settle, [CapacityError("disk"), OSError("disk")]

    def settle():
        if answers:
            raise answers.pop()
        return real()

    r.sink.settle = settle
    r.graph.faults.append(OSError("worker lost"))
    for i in range(5):
        r.journal.append(batch_of(i))
    r.driver.stop()
    assert answers == []
    assert r.sink.rows() == wanted(range(5))


def test_a_poisonous_record_is_found_handed_over_and_left_out(rig, batch_of, wanted, sum_work):
    handed = []
    r = rig(work=sum_work(poison=7003.0), poisoned=lambda record, error: handed.append((record.offset, str(error))))
    for i in range(20):
        r.journal.append(batch_of(i))
    r.driver.start()
    r.driver.stop()
    assert handed == [(7, "value 7003.0 is poison")]
    assert r.sink.offset == 20
    assert r.sink.rows() == wanted([i for i in range(20) if i != 7])
    assert r.metrics.value("stream_poisoned_records_total") == 1
    assert r.slots() == 4


def test_without_quarantine_a_poisonous_record_stops_the_stream_with_all_in_the_journal(rig, batch_of, sum_work):
    r = rig(work=sum_work(poison=3000.0), batch_rows=6, flush_rows=6)
    for i in range(6):
        r.journal.append(batch_of(i))
    r.driver.start()
    until(lambda: r.driver.failed is not None)
    assert "the stream stops at offset 3: its step fails again and again" in str(r.driver.failed)
    with pytest.raises(CapacityError, match="the stream ended before all was in history"):
        r.driver.stop()
    assert r.sink.offset == 3


def test_a_program_that_fails_on_everything_is_stopped_not_fed_to_quarantine(rig, batch_of, sum_work, monkeypatch):
    monkeypatch.setattr("iiot_dask.stream.recovery.POISON_MAX", 4)
    handed = []

    class Broken:
        def start(self, *_):
            return {}

        def step(self, *_):
            msg = "bug"
            raise TypeError(msg)

    r = rig(work=Broken(), poisoned=lambda record, _: handed.append(record.offset))
    for i in range(30):
        r.journal.append(batch_of(i))
    r.driver.start()
    until(lambda: r.driver.failed is not None)
    assert len(handed) <= 4
    assert r.sink.offset <= 4


def test_a_handler_that_fails_does_not_hold_history_up(rig, batch_of, wanted):
    def broken(*_):
        msg = "view"
        raise KeyError(msg)

    r = rig(handle=broken)
    r.driver.start()
    for i in range(5):
        r.journal.append(batch_of(i))
    r.driver.stop()
    assert r.sink.rows() == wanted(range(5))
    assert r.metrics.value("stream_handler_errors_total") >= 1
    assert r.slots() == 4


def test_a_slow_handler_holds_the_reader_back(rig, batch_of):
    gate = threading.Event()
    r = rig(handle=lambda *_: gate.wait(30), batch_rows=6, flush="1h", in_flight=3)
    for i in range(50):
        r.journal.append(batch_of(i))
    r.driver.start()
    until(lambda: r.slots() == 0)
    time.sleep(0.05)
    assert r.graph.emitted == 3
    assert r.driver.cursor <= 4
    gate.set()
    r.driver.stop()
    assert r.sink.offset == 50
    assert r.slots() == 3


def test_a_stop_that_takes_too_long_says_what_waits(rig, batch_of):
    r = rig()
    r.graph.hold = True
    r.driver.start()
    r.journal.append(batch_of(0))
    until(lambda: r.graph.held)
    r.journal.append(batch_of(1))
    with pytest.raises(CapacityError, match=r"did not drain within 0.2 s; \d journal records wait"):
        r.driver.stop(0.2)
    assert not any(thread.is_alive() for thread in r.driver._threads)
    assert r.sink.offset == 0


def test_micro_batches_abandoned_by_a_restart_give_their_slots_back(rig, batch_of, wanted):
    r = rig(batch_rows=6, flush="1h", in_flight=4)
    r.graph.hold = True
    r.driver.start()
    for i in range(8):
        r.journal.append(batch_of(i))
    until(lambda: len(r.graph.held) == 4)
    assert r.slots() == 0
    r.graph.hold = False
    r.driver._on_failure(r.graph.held.pop(), OSError("worker lost"))
    r.driver.stop()
    assert r.sink.rows() == wanted(range(8))
    assert r.slots() == 4


def test_failures_of_an_older_pass_are_not_taken_for_new_ones(rig, batch_of, wanted):
    r = rig(batch_rows=6, flush="1h")
    r.graph.hold = True
    r.driver.start()
    for i in range(3):
        r.journal.append(batch_of(i))
    until(lambda: len(r.graph.held) == 3)
    first, *rest = r.graph.held
    r.graph.held, r.graph.hold = [], False
    r.driver._on_failure(first, OSError("worker lost"))
    until(lambda: r.graph.restarts == 2)
    for micro in rest:
        r.driver._on_failure(micro, OSError("late news"))
    r.driver.stop()
    assert r.metrics.value("stream_recoveries_total") == 1
    assert r.sink.rows() == wanted(range(3))
    assert r.slots() == 4


def test_an_answer_of_an_older_pass_is_not_handled(rig, batch_of):
    r = rig(flush="1h")
    r.driver.start()
    r.journal.append(batch_of(0))
    until(lambda: r.handled)
    stale = r.handled[0]
    r.driver._on_failure(stale, OSError("lost"))
    until(lambda: r.graph.restarts == 2)
    r.driver._slots.acquire()
    r.driver._slots.acquire()
    count = len([m for m in r.handled if m.generation == stale.generation])
    r.driver._on_result(stale, [])
    r.driver.stop()
    assert len([m for m in r.handled if m.generation == stale.generation]) == count


def test_stop_before_start_and_twice(rig):
    r = rig()
    r.driver.stop()
    r.driver.start()
    r.driver.stop()
    r.driver.stop()


def test_a_journal_older_than_history_is_told_where_to_go_on(rig, batch_of):
    r = rig()
    r.sink.offset = 100
    r.journal.append(batch_of(0))
    r.driver.start()
    assert r.journal.skipped_to == 100
    r.journal.append(batch_of(1))
    r.driver.stop()
    assert [(e.first, e.stop, e.rows) for e in r.sink.epochs] == [(100, 101, 6)]


def test_a_sink_that_breaks_ends_the_stream_visibly(rig, batch_of):
    r = rig()
    r.sink.put = lambda _: (_ for _ in ()).throw(ZeroDivisionError("bug"))
    r.driver.start()
    r.journal.append(batch_of(0))
    until(lambda: r.driver.failed is not None)
    assert r.metrics.value("stream_thread_failures_total") == 1
    with pytest.raises(CapacityError, match="ended before all was in history: bug"):
        r.driver.stop()
    assert not any(thread.is_alive() for thread in r.driver._threads)


@pytest.mark.parametrize("seed", range(15))
def test_any_order_of_faults(rig, batch_of, wanted, seed, sum_work):
    """Random failures of steps and commits, gaps, poison and pauses: each row once, each slot back."""
    import numpy as np

    rng = np.random.default_rng(seed)
    bad = int(rng.integers(0, 40))
    handed = []
    r = rig(
        work=sum_work(poison=bad * 1000.0 + 2), poisoned=lambda record, _: handed.append(record.offset),
        batch_rows=int(rng.integers(1, 30)), flush_rows=int(rng.integers(10, 60)), in_flight=int(rng.integers(1, 6)),
    )  # fmt: skip
    slots = r.slots()
    r.graph.faults.extend(OSError("lost") if rng.random() < 0.2 else None for _ in range(60))
    r.sink.refuse = int(rng.integers(0, 3))
    r.driver.start()
    for i in range(40):
        r.journal.append(batch_of(i))
        if rng.random() < 0.1:
            r.journal.gap(int(rng.integers(1, 4)))
        if rng.random() < 0.2:
            time.sleep(0.003)
    r.driver.stop()
    assert len(handed) == 1
    assert r.sink.rows() == wanted([i for i in range(40) if i != bad])
    assert r.sink.offset == r.journal.durable
    assert r.slots() == slots
