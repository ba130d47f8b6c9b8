"""Deliveries become durable records under plant-wide numbers, and what can not be used is counted, kept and told."""

import queue
import threading
from dataclasses import dataclass

import numpy as np
import pytest

from iiot_dask.adapter.contract import Event, Poll, TagInfo
from iiot_dask.core.batch import Batch
from iiot_dask.core.clock import ManualClock
from iiot_dask.core.errors import CapacityError
from iiot_dask.ingest.catalogue import NO_TAG, Catalogue
from iiot_dask.ingest.inbox import Inbox, translate_kernel
from iiot_dask.ingest.quarantine import Quarantine

NOW_NS = 1_700_000_000_000_000_000


@dataclass(frozen=True)
class Delivery:
    adapter: str
    incarnation: int
    poll: Poll


class Bench:
    """An inbox with real parts, and everything it said."""

    def __init__(self, tmp_path, journal, metrics):
        self.journal = journal
        self.metrics = metrics
        self.catalogue = Catalogue(tmp_path / "catalogue")
        self.quarantine = Quarantine(tmp_path / "quarantine", 1 << 20, 4)
        self.acks: queue.Queue[tuple[str, str]] = queue.Queue()
        self.events: list[tuple[str, Event]] = []
        self.inbox = Inbox(
            self.catalogue,
            journal,
            lambda adapter, position, _incarnation: self.acks.put((adapter, position)),
            lambda adapter, event: self.events.append((adapter, event)),
            self.quarantine,
            clock=ManualClock(NOW_NS),
            metrics=metrics,
        )

    def take(self, adapter="a", incarnation=1, **poll):
        self.inbox.take(Delivery(adapter, incarnation, Poll(**poll)))

    def ack(self):
        return self.acks.get(timeout=30)

    def records(self, count):
        while self.journal.durable < count:
            self.journal.wait(self.journal.durable, 30)
        return list(self.journal.read(0))


@pytest.fixture
def bench(tmp_path, open_journal, metrics):
    bench = Bench(tmp_path, open_journal(), metrics)
    yield bench
    bench.catalogue.close()


def tags(*names):
    return tuple(TagInfo(name, "d", "1") for name in names)


def rows(*local, received=NOW_NS):
    n = len(local)
    return Batch.of(tag=local, time=range(n), value=[float(i) for i in local], received=[received] * n)


def test_rows_are_renumbered_and_acknowledged_once_durable(bench):
    bench.catalogue.register("other", tags("o"))
    bench.take(tags=tags("x", "y"), batch=rows(1, 0, 1), position="p1")
    assert bench.ack() == ("a", "p1")
    (record,) = bench.records(1)
    assert (record.source, record.position) == ("a", "p1")
    assert record.batch.tag.tolist() == [2, 1, 2]
    assert record.batch.value.tolist() == [1.0, 0.0, 1.0]
    assert bench.metrics.value("ingest_rows_total", adapter="a") == 3


def test_tags_announced_later_continue_the_count(bench):
    for k in range(100):
        bench.take(tags=tags(f"t{k}"), batch=rows(*range(k + 1)))
    assert bench.records(100)[-1].batch.tag.tolist() == list(range(100))
    assert bench.inbox.tags() == {"a": 100}


def test_a_restarted_adapter_counts_from_zero_again(bench):
    bench.take(tags=tags("x", "y"), batch=rows(0, 1))
    bench.take(incarnation=2, tags=tags("y"), batch=rows(0))
    assert [r.batch.tag.tolist() for r in bench.records(2)] == [[0, 1], [1]]


def test_deliveries_of_a_replaced_incarnation_are_dropped_and_counted(bench):
    bench.take(incarnation=2, tags=tags("x"))
    bench.take(incarnation=1, batch=rows(0, 0), position="old")
    assert bench.metrics.value("ingest_dropped_rows_total", adapter="a", reason="stale") == 2
    assert bench.quarantine.counts() == {("a", "stale"): 2}
    assert bench.journal.durable == 0


def test_numbers_never_announced_are_left_out_counted_and_kept(bench):
    bench.take(tags=tags("x"), batch=rows(0, 1, 0, 4_000_000_000), position="p")
    assert bench.ack() == ("a", "p")
    assert bench.records(1)[0].batch.tag.tolist() == [0, 0]
    assert bench.metrics.value("ingest_dropped_rows_total", adapter="a", reason="unknown_tag") == 2
    (line,) = bench.quarantine.lines()
    assert line["reason"] == "local tag number 1 was never announced; 1 were"
    assert Batch.from_bytes(bytes.fromhex(line["raw"])).tag.tolist() == [1, 4_000_000_000]


def test_a_tag_of_another_adapter_is_refused_as_an_event_and_the_rest_goes_on(bench):
    bench.take("first", tags=tags("x"), batch=rows(0))
    bench.take("second", tags=tags("y", "x"), batch=rows(0, 1, 0), position="p")
    assert bench.ack() == ("second", "p")
    assert [r.batch.tag.tolist() for r in bench.records(2)] == [[0], [1, 1]]
    ((adapter, event),) = bench.events
    assert (adapter, event.kind, event.node) == ("second", "rejected", "d")
    assert event.reason == "identity: tag 'x' of adapter 'second' is already owned by adapter 'first'"
    assert bench.metrics.value("ingest_dropped_rows_total", adapter="second", reason="refused_tag") == 1
    assert bench.metrics.value("ingest_refused_tags_total", adapter="second") == 1
    assert bench.quarantine.counts() == {("second", "refused_tag"): 1}


def test_all_rows_refused_still_carry_the_position(bench):
    bench.take(tags=tags("bad//name"), batch=rows(0, 0), position="p")
    assert bench.ack() == ("a", "p")
    assert len(bench.records(1)[0].batch) == 0
    assert bench.journal.positions() == {"a": "p"}


def test_events_are_told_in_order_and_payloads_kept(bench):
    events = (
        Event("connected", "a", 1),
        Event("malformed", "d", 2, "no JSON", 3, b"{{"),
        Event("rejected", "d", 3, "unknown topic", 1, b""),
    )
    bench.take(events=events)
    assert [e for _, e in bench.events] == list(events)
    assert bench.quarantine.counts() == {("a", "malformed"): 3, ("a", "rejected"): 1}
    assert bench.journal.durable == 0


def test_a_listener_that_fails_costs_nothing(bench, monkeypatch):
    def broken(*_):
        msg = "listener"
        raise RuntimeError(msg)

    bench.inbox.on_event = broken
    bench.take(tags=tags("x"), events=(Event("info", "a", 1),), batch=rows(0), position="p")
    assert bench.ack() == ("a", "p")
    assert bench.metrics.value("ingest_event_errors_total") == 1


def test_an_empty_poll_writes_nothing(bench):
    bench.take()
    bench.take(tags=tags("x"))
    bench.take(batch=Batch.empty())
    assert bench.journal.durable == 0
    bench.take(position="only")
    assert bench.ack() == ("a", "only")


def test_receive_times_not_set_are_filled_in(bench):
    batch = Batch.of(tag=[0, 0], time=[1, 2], value=[1.0, 2.0], received=[0, 7], seq=[4, 5])
    bench.take(tags=tags("x"), batch=batch)
    got = bench.records(1)[0].batch
    assert got.received.tolist() == [NOW_NS, 7]
    assert got.seq.tolist() == [4, 5]


def test_acknowledgements_of_a_dead_incarnation_stay_away_from_its_successor(bench, monkeypatch):
    gate = threading.Event()
    real = __import__("os").fdatasync
    monkeypatch.setattr("os.fdatasync", lambda descriptor: (gate.wait(30), real(descriptor)))
    bench.take(incarnation=1, tags=tags("x"), batch=rows(0), position="old")
    bench.take(incarnation=2, tags=tags("x"), batch=rows(0), position="new")
    gate.set()
    assert bench.ack() == ("a", "new")
    assert bench.acks.empty()
    assert bench.metrics.value("ingest_stale_acks_total", adapter="a") == 1
    assert bench.journal.positions() == {"a": "new"}


def test_a_closed_journal_is_an_error_for_the_deliverer(bench):
    bench.take(tags=tags("x"))
    bench.journal.close()
    with pytest.raises(CapacityError, match="is closed"):
        bench.take(batch=rows(0), position="p")
    assert bench.acks.empty()


def test_adapters_deliver_at_once(bench):
    def send(name):
        bench.take(name, tags=tags(*(f"{name}/{i}" for i in range(10))))
        for i in range(30):
            bench.take(name, batch=rows(*range(10)), position=str(i))

    names = [f"a{k}" for k in range(4)]
    threads = [threading.Thread(target=send, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    records = bench.records(120)
    frame = bench.catalogue.frame()
    for name in names:
        mine = [r for r in records if r.source == name]
        assert [r.position for r in mine] == [str(i) for i in range(30)]
        wanted = bench.catalogue.ids([f"{name}/{i}" for i in range(10)]).tolist()
        assert all(r.batch.tag.tolist() == wanted for r in mine)
    assert frame["tag"].n_unique() == 40


@pytest.mark.parametrize("seed", range(20))
def test_kernel_is_a_look_up(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(0, 50))
    table = np.full(64, NO_TAG, np.uint32)
    table[:size] = np.where(rng.random(size) < 0.2, NO_TAG, rng.integers(0, 1000, size))
    local = rng.integers(0, 70, 200).astype(np.uint32)
    local[:2] = [0, 2**32 - 1]
    out = np.empty(200, np.uint32)
    missing = translate_kernel(local, table, size, out)
    twin = [int(table[k]) if k < size else int(NO_TAG) for k in local]
    assert out.tolist() == twin
    assert missing == twin.count(int(NO_TAG))
