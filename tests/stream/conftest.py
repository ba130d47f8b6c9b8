"""Stand-ins of the journal, the committer and the graph, and a `Work` whose result is easy to check."""

import contextlib
import json
import threading
from collections import deque
from dataclasses import dataclass, field

import pytest

from iiot_dask.core.batch import Batch
from iiot_dask.core.clock import SystemClock
from iiot_dask.core.config import Streaming
from iiot_dask.core.errors import CapacityError
from iiot_dask.core.metrics import Metrics
from iiot_dask.stream import driver as driver_module
from iiot_dask.stream import recovery as recovery_module
from iiot_dask.stream.driver import Driver
from iiot_dask.stream.microbatch import split
from iiot_dask.stream.work import Flushed, ShardResult, pick, run_step


@dataclass(frozen=True)
class Record:
    offset: int
    batch: Batch


class MemoryJournal:
    """Records in a list; `gap` leaves offsets out."""

    def __init__(self):
        self.records = []
        self.durable = 0
        self.skipped_to = 0
        self._cond = threading.Condition()

    def append(self, batch):
        with self._cond:
            self.records.append(Record(self.durable, batch))
            self.durable += 1
            self._cond.notify_all()

    def gap(self, count=1):
        with self._cond:
            self.durable += count
            self._cond.notify_all()

    def advance(self, offset):
        with self._cond:
            self.durable = max(self.durable, offset)
            self.skipped_to = offset

    def wait(self, after, timeout_s):
        with self._cond:
            self._cond.wait_for(lambda: self.durable > after, timeout_s)
            return self.durable

    def read(self, start, stop=None):
        with self._cond:
            found = [r for r in self.records if start <= r.offset < (self.durable if stop is None else stop)]
        yield from found


@dataclass(frozen=True)
class Entry:
    """A file: which shard wrote which values of which tags, and the sum of all rows ever as the state knew it."""

    shard: int
    rows: int
    tags: tuple
    values: tuple


class SumWork:
    """Keeps the running sum of all values of a shard as state; a flush writes the epoch's rows."""

    def __init__(self, poison=None):
        self.poison = poison

    def start(self, shard, shards, checkpoint):
        return {"shard": shard, "rows": [], **(json.loads(checkpoint) if checkpoint else {"sum": 0.0, "steps": 0})}

    def step(self, state, batch, order):
        if self.poison is not None and self.poison in batch.value.tolist():
            msg = f"value {self.poison} is poison"
            raise ValueError(msg)
        state["sum"] += float(batch.value.sum())
        state["rows"] += zip(batch.tag.tolist(), batch.value.tolist(), strict=True)
        state["steps"] += 1
        flushed = None
        if order.flush:
            rows, state["rows"] = state["rows"], []
            entries = ()
            if rows:
                tags, values = zip(*rows, strict=True)
                entries = (Entry(state["shard"], len(rows), tags, values),)
            left = {"sum": state["sum"], "steps": state["steps"]}
            flushed = Flushed(entries, json.dumps(left).encode())
        return ShardResult(state["shard"], len(batch), {"sum": state["sum"]}, flushed)


class MemorySink:
    """Commits at once, refusing gaps; `refuse` makes the next puts fail as a committer would."""

    def __init__(self, shards=2):
        self.epochs = []
        self.offset = 0
        self.states = [None] * shards
        self.refuse = 0
        self.settles = 0

    def put(self, epoch):
        if self.refuse:
            self.refuse -= 1
            msg = "an earlier epoch could not be committed"
            raise CapacityError(msg)
        assert epoch.first == self.offset, "a gap or a repeat between epochs"
        assert epoch.rows == sum(e.rows for e in epoch.entries)
        self.offset, self.states = epoch.stop, list(epoch.checkpoints)
        self.epochs.append(epoch)

    def settle(self):
        self.settles += 1
        return self.offset, self.states

    def rows(self):
        """(tag, value) of everything committed, per shard in order."""
        out = {}
        for epoch in self.epochs:
            for entry in epoch.entries:
                out.setdefault(entry.shard, []).extend(zip(entry.tags, entry.values, strict=True))
        return out


@dataclass
class LocalGraph:
    """Runs the steps at once, in the caller's thread; `faults` are raised instead of the next results, in order."""

    on_result: object
    on_failure: object
    work: object
    shards: int
    faults: deque = field(default_factory=deque)
    hold: bool = False
    held: list = field(default_factory=list)
    restarts: int = 0
    longest: int = 0
    emitted: int = 0
    flushes_empty: int = 0

    def restart(self, checkpoints):
        self.restarts += 1
        self.links = list(checkpoints)
        for micro in self.held:
            self.on_failure(micro, RuntimeError("abandoned"))
        self.held = []

    def emit(self, micro, through):
        from iiot_dask.stream.work import Order

        self.emitted += 1
        self.longest = max(self.longest, micro.index + 1)
        if self.hold:
            self.held.append(micro)
            return
        fault = self.faults.popleft() if self.faults else None
        if fault is not None:
            self.on_failure(micro, fault)
            through()
            return
        order = Order(micro.index, micro.now_ns, micro.flush, micro.epoch_first, micro.stop)
        try:
            for shard, part in enumerate(split(micro.batch, self.shards)):
                self.links[shard] = run_step(self.work, self.links[shard], shard, self.shards, part, order)
        except Exception as error:  # noqa: BLE001 -- as the real graph does
            self.on_failure(micro, error)
        else:
            self.on_result(micro, [pick(link) for link in self.links])
        through()


@pytest.fixture
def fast(monkeypatch):
    """Short waits, so that failures are over quickly."""
    monkeypatch.setattr(recovery_module, "DELAY_MIN_NS", 1_000_000)
    monkeypatch.setattr(recovery_module, "DELAY_MAX_NS", 4_000_000)
    monkeypatch.setattr(driver_module, "POLL_S", 0.01)


class Rig:
    """A driver over stand-ins."""

    def __init__(self, work=None, shards=2, poisoned=None, handle=None, **config):
        self.journal, self.sink, self.metrics = MemoryJournal(), MemorySink(shards), Metrics()
        self.handled = []
        self.config = Streaming(**{"batch": "5ms", "flush": "50ms", "shards": shards, "in_flight": 4, **config})

        def build(on_result, on_failure):
            self.graph = LocalGraph(on_result, on_failure, work or SumWork(), shards)
            return self.graph

        self.driver = Driver(
            self.journal, self.sink, build, handle or (lambda micro, _: self.handled.append(micro)),
            config=self.config, clock=SystemClock(), metrics=self.metrics, poisoned=poisoned,
        )  # fmt: skip

    def slots(self):
        """Slots free now."""
        return self.driver._slots._value


@pytest.fixture
def rig(fast):
    rigs = []

    def build(**more):
        rigs.append(Rig(**more))
        return rigs[-1]

    yield build
    for made in rigs:
        with contextlib.suppress(CapacityError):
            made.driver.stop(10)


def batch(number, rows=6):
    """Rows whose values are unique: ``number * 1000 + i``."""
    return Batch.of(
        tag=range(rows),
        time=[number] * rows,
        value=[number * 1000.0 + i for i in range(rows)],
        received=[number] * rows,
    )


@pytest.fixture
def batch_of():
    return batch


@pytest.fixture
def wanted():
    def rows(numbers, shards=2, rows=6):
        out = {}
        for number in numbers:
            for i in range(rows):
                out.setdefault(i % shards, []).append((i, number * 1000.0 + i))
        return out

    return rows


@pytest.fixture
def sum_work():
    return SumWork


@pytest.fixture
def memory_parts():
    return lambda: (MemoryJournal(), MemorySink())
