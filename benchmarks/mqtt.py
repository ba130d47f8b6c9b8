"""MQTT: one reading a message, from the socket through adapter process, journal (fsync) and history; and a plain client.

``iiot-dask bench mqtt [--short] [--json]``. A broker of our own replays packets built beforehand (100,000 topics), so what
is measured is what is behind the broker: our engine, or a paho client with a callback that parses JSON and keeps the row,
on the same bytes in the same run. Behind mosquitto the measure is what a raw socket reader gets of it. Rates are of wall time;
beside them stands the CPU time a message costs each process, which other work on the machine disturbs less.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from iiot_dask.core import sparkplug_b as spb
from iiot_dask.core.config import Topic
from iiot_dask.core.plantfile import load
from iiot_dask.engine import Engine
from iiot_dask.sim import broker as brokers
from iiot_dask.sim.mqtt_bulk import connect, length, text
from iiot_dask.sim.mqtt_replay import packets

PATIENCE_S = 120.0
REPEATS = 3
GOALS = {
    "stored_messages_s_qos0": 500_000,
    "stored_messages_s_qos1": 200_000,
    "times_plain_client": 10,
    "share_of_raw_reader": 0.9,
    "sparkplug_metrics_s": 1_000_000,
    "durable_ms_p99_at_100000": 50,
    "durable_ms_p99_at_300000": 50,
}


class Replayer:
    """The replaying broker in a process of its own; see `iiot_dask.sim.mqtt_replay`."""

    def __init__(self, topics: int, qos: int, to: int | None = None) -> None:
        command = [sys.executable, "-m", "iiot_dask.sim.mqtt_replay", "--topics", str(topics), "--qos", str(qos)]
        command += [] if to is None else ["--to", str(to)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self._answer()["port"]) if to is None else to

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            msg = f"the replaying broker ended with status {self._process.wait()}"
            raise RuntimeError(msg)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def subscribed(self) -> None:
        """Wait for the subscriber."""
        self._answer()

    def send(self, messages: int, rate: float = 0) -> dict[str, Any]:
        """Send; returns when all are sent and, with QoS 1, acknowledged."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{messages} {rate}\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def cpu_s(*pids: int) -> float:
    """CPU seconds of processes so far."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(t.user + t.system for t in times)


class Ours:
    """Our engine on one MQTT section."""

    def __init__(self, directory: Path, port: int, qos: int, topics: str) -> None:
        plant = directory / "plant.toml"
        plant.write_text(
            f'[plant]\nname = "bench"\ndata = "data"\n\n[cluster]\nminimum = 1\nmaximum = 1\n\n[[adapters]]\nname = "cells"\n'
            f'kind = "mqtt"\nendpoint = "mqtt://127.0.0.1:{port}"\nqos = {qos}\n{topics}'
        )
        self.engine = Engine(load(plant)).start()

    @property
    def durable(self) -> int:
        """Rows on disk."""
        return int(self.engine.metrics.value("journal_rows_total"))

    @property
    def stored(self) -> int:
        """Rows in history."""
        return int(self.engine.metrics.value("history_rows_total"))

    def wait(self, what: str, rows: int) -> int:
        """Wall time, ns, at which `what` ("durable" or "stored") had reached `rows`, to about a millisecond."""
        deadline = time.monotonic() + PATIENCE_S
        while getattr(self, what) < rows:
            if time.monotonic() > deadline:
                msg = f"{getattr(self, what)} of {rows} rows {what} within {PATIENCE_S:g} s: {self.engine.failure}"
                raise TimeoutError(msg)
            time.sleep(0.001)
        return time.time_ns()

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far of the adapter's process and of the engine's."""
        (status,) = self.engine.host.status()
        assert status.pid is not None
        return {"adapter": cpu_s(status.pid), "engine": cpu_s(os.getpid())}


@contextlib.contextmanager
def ours(port: int, qos: int, topics: str) -> Iterator[Ours]:
    """An engine in a directory of its own, stopped and removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="mqtt-bench-"))
    try:
        running = Ours(directory, port, qos, topics)
        try:
            yield running
        finally:
            running.engine.stop()
    finally:
        shutil.rmtree(directory)


JSON_TOPICS = '[[adapters.topics]]\nfilter = "plant/+/+"\ntag = "site1/{1}/{2}"\n'


def throughput(topics: int, messages: int, qos: int, rates: Sequence[float], seconds: float) -> dict[str, Any]:
    """Our engine behind the replaying broker: first sight of every topic, full speed, and latencies at fixed rates."""
    broker = Replayer(topics, qos)
    try:
        with ours(broker.port, qos, JSON_TOPICS) as running:
            broker.subscribed()
            first = broker.send(topics)
            learnt = running.wait("durable", topics) - first["began_ns"]
            running.wait("stored", topics)
            out: dict[str, Any] = {"qos": qos, "topics": topics, "new_topics_s": topics / learnt * 1e9}
            # The first round after the names met cold caches.
            broker.send(topics)
            done = running.wait("stored", 2 * topics) and 2 * topics
            before = running.cpu()
            sent = broker.send(messages)
            done += messages
            durable, stored = running.wait("durable", done), running.wait("stored", done)
            after = running.cpu()
            out |= {
                "messages": messages,
                "durable_messages_s": messages / (durable - sent["began_ns"]) * 1e9,
                "stored_messages_s": messages / (stored - sent["began_ns"]) * 1e9,
                "cpu_ns_a_message": {k: (after[k] - before[k]) / messages * 1e9 for k in after},
                "latency": [],
            }
            for rate in rates:
                runs = []
                for _ in range(REPEATS):
                    done += round(rate * seconds)
                    runs.append(latency(broker, running, rate, seconds, done))
                # Other work on the machine only ever adds to a latency.
                out["latency"].append(min(runs, key=lambda run: run["durable_ms_p99"]))
            return out
    finally:
        broker.close()


def latency(broker: Replayer, running: Ours, rate: float, seconds: float, done: int) -> dict[str, float]:
    """Receive -> durable at a fixed rate."""
    histogram = running.engine.metrics.histogram("ingest_durable_s")
    before = histogram.counts.copy()
    sent = broker.send(round(rate * seconds), rate)
    running.wait("durable", done)
    running.wait("stored", done)
    return {
        "messages_s": rate,
        "durable_ms_p50": histogram.quantile(0.5, before) * 1e3,
        "durable_ms_p99": histogram.quantile(0.99, before) * 1e3,
        "sender_late_ms": sent["late_s"] * 1e3,
    }


def plain(port: int, messages: int) -> None:
    """A plain paho consumer: a callback that parses JSON and keeps the row. Prints when the last one came, and its CPU time.

    It stays connected, because the acknowledgement of the last message goes out after the callback; whoever started it ends it.
    """
    import paho.mqtt.client as mqtt

    rows: list[tuple[str, int, float]] = []

    def on_message(_client: Any, _data: Any, message: Any) -> None:
        document = json.loads(message.payload)
        rows.append((message.topic, document["ts"], document["v"]))
        if len(rows) == messages:
            print(json.dumps({"ended_ns": time.time_ns(), "cpu_s": time.process_time()}), flush=True)

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="plain", protocol=mqtt.MQTTv311)
    client.on_message = on_message
    client.on_connect = lambda c, *_: c.subscribe("plant/+/+", 1)
    client.connect("127.0.0.1", port)
    client.loop_forever()


def baseline(topics: int, messages: int, qos: int) -> dict[str, float]:
    """The plain consumer behind the same replaying broker."""
    broker = Replayer(topics, qos)
    code = f"from iiot_dask_benchmarks.mqtt import plain; plain({broker.port}, {messages})"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as consumer:
        try:
            broker.subscribed()
            before = cpu_s(consumer.pid)
            sent = broker.send(messages)
            assert consumer.stdout is not None
            answer = json.loads(consumer.stdout.readline())
        finally:
            broker.close()
            consumer.terminate()
    return {
        "qos": qos,
        "messages_s": messages / (answer["ended_ns"] - sent["began_ns"]) * 1e9,
        "cpu_ns_a_message": (answer["cpu_s"] - before) / messages * 1e9,
    }


def raw_reader(port: int, size: int) -> None:
    """Subscribe with a bare socket and count bytes. Prints one line when subscribed, and when `size` bytes have come."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(connect("raw"))
        sock.recv(4)
        body = b"\0\1" + text("plant/+/+") + b"\0"
        sock.sendall(b"\x82" + length(len(body)) + body)
        sock.recv(5)
        print(json.dumps({"subscribed": True}), flush=True)
        room = bytearray(1 << 20)
        while size > 0:
            size -= sock.recv_into(room)
        print(json.dumps({"ended_ns": time.time_ns()}), flush=True)


def behind_mosquitto(topics: int, messages: int) -> dict[str, Any]:
    """Messages/s through mosquitto: of a raw socket reader, and of ours to the disk; the best of a few runs of each."""
    directory = Path(tempfile.mkdtemp(prefix="mqtt-bench-"))
    broker = brokers.make("mosquitto", directory)
    broker.start()
    try:
        feed = Replayer(topics, 0, to=broker.port)
        feed.subscribed()
        raw = max(through_raw(feed, broker.port, messages) for _ in range(REPEATS))
        with ours(broker.port, 0, JSON_TOPICS) as running:
            mine, done = 0.0, 0
            deadline = time.monotonic() + PATIENCE_S
            while "cells" not in running.engine.connected and time.monotonic() < deadline:
                time.sleep(0.01)
            for k in range(REPEATS + 1):
                sent = feed.send(messages)
                done += messages
                ended = running.wait("durable", done)
                # The first run meets a hundred thousand new names.
                mine = max(mine, messages / (ended - sent["began_ns"]) * 1e9) if k else 0.0
        feed.close()
    finally:
        broker.stop()
        shutil.rmtree(directory)
    return {"raw_messages_s": raw, "durable_messages_s": mine, "share": mine / raw}


def through_raw(feed: Replayer, port: int, messages: int) -> float:
    """Messages/s that reach a raw reader."""
    size = messages * packets(1, 0, 3)[1].size
    code = f"from iiot_dask_benchmarks.mqtt import raw_reader; raw_reader({port}, {size})"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        sent = feed.send(messages)
        ended = json.loads(reader.stdout.readline())["ended_ns"]
    return messages / (ended - int(sent["began_ns"])) * 1e9


def sparkplug(nodes: int, metrics: int, rounds: int) -> dict[str, float]:
    """Metrics/s decoded: NDATA of doubles by alias, from received bytes to columns of tags; the best of a few runs."""
    from iiot_dask_adapters.mqtt.decode import Decoder
    from iiot_dask_adapters.mqtt.inbox import Inbox
    from iiot_dask_adapters.mqtt.naming import Tags
    from iiot_dask_adapters.mqtt.options import options
    from iiot_dask_adapters.mqtt.topics import routes
    from iiot_dask_adapters.mqtt.warm import publish

    route = Topic(filter="spBv1.0/g/+/+/#", tag="spb/{2}/{3}", payload="sparkplug")
    decoder = Decoder(routes([route], "bench"), Tags((), 1 << 24), options({}, "bench"), "bench")
    inbox = Inbox(5, 4 << 20, 64 << 20, 100_000)

    def run(wire: bytes) -> tuple[int, float, float]:
        left = memoryview(wire)

        def recv_into(room: memoryview) -> int:
            nonlocal left
            size = min(len(room), len(left))
            room[:size] = left[:size]
            left = left[size:]
            return size

        wall, cpu = time.perf_counter(), time.thread_time()
        while left:
            inbox.receive(recv_into)
            inbox.split(time.time_ns())
        taken = inbox.take()
        assert taken is not None
        rows = len(decoder.decode(taken.data, taken.rows, time.monotonic_ns()))
        return rows, time.perf_counter() - wall, time.thread_time() - cpu

    births = [
        publish(f"spBv1.0/g/NBIRTH/n{n}".encode(), spb_payload(0, metrics, birth=True), 0, flags=0)
        for n in range(nodes)
    ]
    run(b"".join(births))
    best = {"metrics_s": 0.0, "cpu_ns_a_metric": float("inf")}
    for k in range(1, rounds + 1):
        data = spb_payload(k % 256, metrics, birth=False)
        rows, wall, cpu = run(
            b"".join(publish(f"spBv1.0/g/NDATA/n{n}".encode(), data, 0, flags=0) for n in range(nodes))
        )
        assert rows == nodes * metrics, (rows, nodes * metrics)
        best = {
            "metrics_s": max(best["metrics_s"], rows / wall),
            "cpu_ns_a_metric": min(best["cpu_ns_a_metric"], cpu / rows * 1e9),
        }
    return best | {"nodes": nodes, "metrics_a_message": metrics}


def spb_payload(seq: int, metrics: int, *, birth: bool) -> bytes:
    """A birth that names every metric, or data that gives them by alias."""
    now_ms = time.time_ns() // 10**6
    message = spb.Payload(timestamp=now_ms, seq=seq)
    for k in range(metrics):
        metric = message.metrics.add(alias=k, timestamp=now_ms)
        if birth:
            metric.name, metric.datatype = f"line/sensor{k:04}", int(spb.DataType.DOUBLE)
        metric.double_value = seq + k * 0.25
    out: bytes = message.SerializeToString()
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print one JSON document."""
    parser = argparse.ArgumentParser(prog="iiot-dask bench mqtt", description=__doc__)
    parser.add_argument("--topics", type=int, default=100_000)
    parser.add_argument("--messages", type=int, default=2_000_000)
    parser.add_argument("--short", action="store_true", help="a tenth of everything: does it work?")
    parser.add_argument("--json", action="store_true", help="on one line")
    arguments = parser.parse_args(argv)
    topics, messages = arguments.topics, arguments.messages
    seconds = 3.0
    if arguments.short:
        topics, messages, seconds = topics // 10, messages // 10, 1.0
    # The engine logs its life to stdout, which is the document's.
    with contextlib.redirect_stdout(sys.stderr):
        plain_0, plain_1 = (baseline(topics, max(20_000, messages // 20), qos) for qos in (0, 1))
        mine_0 = throughput(topics, messages, 0, (100_000.0, 300_000.0), seconds)
        mine_1 = throughput(topics, messages, 1, (100_000.0,), seconds)
        mosquitto = behind_mosquitto(topics, messages // 4) if brokers.mosquitto_program() else None
        spb_rate = sparkplug(200, 100, 10)
    p99 = {f"durable_ms_p99_at_{run['messages_s']:.0f}": run["durable_ms_p99"] for run in mine_0["latency"]}
    result = {
        "replayed": [mine_0, mine_1],
        "plain_client": [plain_0, plain_1],
        "mosquitto": mosquitto,
        "sparkplug": spb_rate,
        "goals": GOALS,
        "reached": {
            "stored_messages_s_qos0": mine_0["stored_messages_s"],
            "stored_messages_s_qos1": mine_1["stored_messages_s"],
            "times_plain_client": mine_0["stored_messages_s"] / plain_0["messages_s"],
            "times_plain_client_qos1": mine_1["stored_messages_s"] / plain_1["messages_s"],
            "share_of_raw_reader": None if mosquitto is None else mosquitto["share"],
            "sparkplug_metrics_s": spb_rate["metrics_s"],
            **p99,
        },
        "load_average": os.getloadavg()[0],
        "cores": os.cpu_count(),
    }
    print(json.dumps(result, indent=None if arguments.json else 2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
