"""The graph on real Dask clusters: exactly one answer a micro-batch, flat memory, and worker processes that die."""

import gc
import json
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from distributed import Client, LocalCluster

from iiot_dask.core.clock import SystemClock
from iiot_dask.core.config import Streaming
from iiot_dask.core.metrics import Metrics
from iiot_dask.stream.driver import Driver
from iiot_dask.stream.microbatch import MicroBatch
from iiot_dask.stream.topology import DispatchError, StreamGraph


@pytest.fixture(scope="module")
def client():
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


class Answers:
    """Collects what the graph says; each micro-batch may be answered once."""

    def __init__(self):
        self.results, self.failures, self.through = {}, {}, 0
        self.order = []
        self.count = Counter()
        self.cond = threading.Condition()

    def on_result(self, micro, results):
        with self.cond:
            self.results[micro.first] = results
            self.order.append(micro.first)
            self.count[micro.first] += 1
            self.cond.notify_all()

    def on_failure(self, micro, error):
        with self.cond:
            self.failures[micro.first] = error
            self.count[micro.first] += 1
            self.cond.notify_all()

    def went_through(self):
        with self.cond:
            self.through += 1
            self.cond.notify_all()

    def wait(self, condition, timeout_s=60):
        with self.cond:
            assert self.cond.wait_for(condition, timeout_s), (len(self.results), self.failures)


@pytest.fixture
def graph_of(client):
    graphs = []

    def build(work, shards=2, in_flight=8):
        answers = Answers()
        graph = StreamGraph(
            client, work, shards=shards, in_flight=in_flight, on_result=answers.on_result, on_failure=answers.on_failure
        )
        graph.restart([None] * shards)
        graphs.append(graph)
        return graph, answers

    yield build
    for graph in graphs:
        graph.close()


def micro(number, batch, *, flush=False, index=None, generation=0):
    return MicroBatch(generation, number if index is None else index, 0, number, number + 1, batch, flush, 0)


def test_answers_come_in_order_and_hold_the_chained_state(graph_of, sum_work, batch_of):
    graph, answers = graph_of(sum_work())
    for i in range(30):
        graph.emit(micro(i, batch_of(i), flush=i == 29), answers.went_through)
    answers.wait(lambda: len(answers.results) == 30 and answers.through == 30)
    assert answers.order == list(range(30))
    assert set(answers.count.values()) == {1}
    for shard in (0, 1):
        values = np.cumsum([sum(i * 1000.0 + k for k in range(shard, 6, 2)) for i in range(30)])
        assert [answers.results[i][shard].output["sum"] for i in range(30)] == values.tolist()
    assert all(r.flushed is None for i in range(29) for r in answers.results[i])
    assert sum(e.rows for r in answers.results[29] for e in r.flushed.entries) == 180


def test_a_step_that_raises_is_its_own_error_and_what_follows_is_answered_too(graph_of, sum_work, batch_of):
    graph, answers = graph_of(sum_work(poison=2001.0))
    for i in range(6):
        graph.emit(micro(i, batch_of(i)), answers.went_through)
    answers.wait(lambda: sum(answers.count.values()) == 6 and answers.through == 6)
    assert set(answers.results) == {0, 1}
    assert isinstance(answers.failures[2], ValueError)
    assert set(answers.count.values()) == {1}
    graph.restart([b'{"sum": 10.0, "steps": 0}', None])
    graph.emit(micro(100, batch_of(1), index=0, generation=1), answers.went_through)
    answers.wait(lambda: 100 in answers.results)
    assert answers.results[100][0].output["sum"] == 10.0 + 1000.0 + 1002.0 + 1004.0


class SlowWork:
    """Takes its time in the first step of a pass."""

    def __init__(self, seconds):
        self.seconds = seconds

    def start(self, *_):
        time.sleep(self.seconds)
        return {}

    def step(self, state, batch, order):
        from iiot_dask.stream.work import ShardResult

        return ShardResult(0, len(batch), None)


def test_a_restart_cancels_what_is_under_way(graph_of, batch_of):
    graph, answers = graph_of(SlowWork(1.0), shards=1)
    for i in range(5):
        graph.emit(micro(i, batch_of(i)), answers.went_through)
    graph.restart([None])
    answers.wait(lambda: len(answers.failures) == 5 and answers.through == 5)
    assert all(isinstance(error, DispatchError) for error in answers.failures.values())
    graph.emit(micro(10, batch_of(1), index=0, generation=1), answers.went_through)
    answers.wait(lambda: 10 in answers.results)
    assert set(answers.count.values()) == {1}
    assert graph.under_way == set()


def test_a_client_that_is_gone_is_a_failure_not_a_silence(sum_work, batch_of):
    answers = Answers()
    with LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster:
        client = Client(cluster, set_as_default=False)
        graph = StreamGraph(
            client, sum_work(), shards=1, in_flight=4, on_result=answers.on_result, on_failure=answers.on_failure
        )
        graph.restart([None])
        graph.emit(micro(0, batch_of(0)), answers.went_through)
        answers.wait(lambda: 0 in answers.results)
        cluster.scale(0)
        client.close()
        graph.emit(micro(1, batch_of(1)), answers.went_through)
        answers.wait(lambda: 1 in answers.failures)
        assert isinstance(answers.failures[1], DispatchError)
        graph.close()


class Rig:
    """A driver over a real graph, with the stand-in journal and committer."""

    def __init__(self, client, work, journal, sink, **config):
        self.journal, self.sink, self.metrics, self.rows = journal, sink, Metrics(), 0
        self.config = Streaming(**{"batch": "5ms", "flush": "100ms", "shards": 2, "in_flight": 6, **config})

        def build(on_result, on_failure):
            self.graph = StreamGraph(
                client, work, shards=2, in_flight=self.config.in_flight, on_result=on_result, on_failure=on_failure
            )
            return self.graph

        self.driver = Driver(
            journal, sink, build, self.handle, config=self.config, clock=SystemClock(), metrics=self.metrics
        )

    def handle(self, micro, results):
        self.rows += len(micro.batch)
        assert sum(r.rows for r in results) == len(micro.batch)


def test_thousands_of_micro_batches_leave_nothing_behind(client, sum_work, batch_of, memory_parts):
    """Futures of the client, tasks and keys of the scheduler are as few at the end as after the first epochs."""
    rig = Rig(client, sum_work(), *memory_parts(), batch_rows=6, batch="1ms")
    rig.driver.start()
    scheduler = client.cluster.scheduler
    high = []
    for i in range(1500):
        rig.journal.append(batch_of(i))
        if i % 100 == 99:
            while rig.driver.cursor < i - 50:
                time.sleep(0.005)
            high.append(len(scheduler.tasks))
    rig.driver.stop()
    assert rig.metrics.value("stream_micro_batches_total") > 700
    # One epoch of at most 100 ms is all there ever is: some links, their answers, their parts.
    assert max(high) < 1500
    rig.graph.close()
    gc.collect()
    end = time.monotonic() + 20
    while (client.futures or scheduler.tasks) and time.monotonic() < end:
        time.sleep(0.05)
    assert not client.futures
    assert not scheduler.tasks
    assert rig.sink.offset == 1500
    assert rig.driver._slots._value == 6


@pytest.mark.parametrize("seed", [1, 2])
def test_kill_minus_nine_of_workers_loses_and_doubles_nothing(
    monkeypatch, sum_work, batch_of, wanted, memory_parts, seed
):
    """Two worker processes, one killed again and again in the middle of epochs; the nanny starts another."""
    # Worker processes import the stand-ins by name.
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    rng = np.random.default_rng(seed)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        rig = Rig(client, sum_work(), *memory_parts(), batch_rows=12, flush="300ms")
        rig.driver.start()
        count, kills = 400, 0
        for i in range(count):
            rig.journal.append(batch_of(i))
            time.sleep(0.004)
            if i in (60, 150, 240):
                client.wait_for_workers(1, timeout=60)
                pids = list(client.run(os.getpid, on_error="ignore").values())
                os.kill(int(rng.choice(pids)), signal.SIGKILL)
                kills += 1
        rig.driver.stop(120)
        rig.graph.close()
    assert kills == 3
    assert rig.sink.offset == count
    assert rig.sink.rows() == wanted(range(count))
    sums = [json.loads(state)["sum"] for state in rig.sink.states]
    assert sums == [sum(i * 1000.0 + k for i in range(count) for k in range(s, 6, 2)) for s in (0, 1)]
    assert rig.driver._slots._value == 6
