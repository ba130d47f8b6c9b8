"""Brokers on loopback, a publisher, and an adapter that is read until it has what was expected."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import threading
import time

import numpy as np
import paho.mqtt.client as paho
import pytest
from iiot_dask_adapters.mqtt import MqttAdapter

from iiot_dask.adapter.contract import Context
from iiot_dask.core.clock import SystemClock
from iiot_dask.core.config import Adapter

DEADLINE_S = 60.0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, what, timeout_s=DEADLINE_S):
    """Until `condition()` is true; it looks every few ms and gives up with a sentence."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.005)


SAVED = "autosave_interval 1\nautosave_on_changes true"
"""mosquitto settings: the store is written after every change, so SIGKILL costs nothing. Slow: the whole store each time."""


class Mosquitto:
    """mosquitto with its own configuration and store; `stop` and `start` again keep port and store."""

    def __init__(self, directory, extra=""):
        self.directory = directory
        self.port = free_port()
        self.process = None
        self.extra = extra

    def start(self):
        store = self.directory / "store"
        store.mkdir(exist_ok=True)
        config = self.directory / "mosquitto.conf"
        plain = f"listener {self.port} 127.0.0.1\n{self.extra}"
        listener = self.extra.replace("{port}", str(self.port)) if "listener" in self.extra else plain
        config.write_text(
            f"{listener}\nuser root\npersistence true\npersistence_location {store}/\n"
            "max_queued_messages 0\nmax_inflight_messages 0\nset_tcp_nodelay true\n"
            + ("" if "allow_anonymous" in self.extra else "allow_anonymous true\n")
        )
        log = (self.directory / "mosquitto.log").open("ab")
        program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
        self.process = subprocess.Popen([program, "-c", str(config), "-v"], stdout=log, stderr=log)
        log.close()

        def listens():
            assert self.process.poll() is None, (self.directory / "mosquitto.log").read_text()[-2000:]
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                return False
            return True

        wait_for(listens, "mosquitto to listen")
        return self

    def stop(self, how=signal.SIGTERM):
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(20)
            self.process = None

    def log(self):
        return (self.directory / "mosquitto.log").read_text(errors="replace")


@pytest.fixture
def mosquitto(tmp_path):
    broker = Mosquitto(tmp_path).start()
    yield broker
    broker.stop()


@pytest.fixture
def make_mosquitto(tmp_path):
    made = []

    def make(extra=""):
        broker = Mosquitto(tmp_path, extra)
        made.append(broker)
        return broker.start()

    yield make
    for broker in made:
        broker.stop()


class Amqtt:
    """amqtt on a loop in a thread of its own."""

    def __init__(self):
        self.port = free_port()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)

    def start(self):
        from amqtt.broker import Broker

        async def run():
            listener = {"type": "tcp", "bind": f"127.0.0.1:{self.port}"}
            plugins = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
            self.broker = Broker({"listeners": {"default": listener}, "plugins": plugins}, loop=self.loop)
            await self.broker.start()

        self.thread.start()
        asyncio.run_coroutine_threadsafe(run(), self.loop).result(20)
        return self

    def stop(self):
        asyncio.run_coroutine_threadsafe(self.broker.shutdown(), self.loop).result(20)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(20)
        self.loop.close()


@pytest.fixture
def amqtt():
    broker = Amqtt().start()
    yield broker
    broker.stop()


class Publisher:
    """paho in its own thread; `publish` waits for nothing, `flush` for everything.

    What the broker confirmed is counted by `on_publish`, and not asked of paho's message objects: those remember for
    ever that a message could not be sent at its first try, although it was sent after the reconnection.
    """

    def __init__(self, port, client_id="publisher", version=paho.MQTTv311, **will):
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=version)
        self.client.max_inflight_messages_set(1000)
        if will:
            self.client.will_set(**will)
        self.client.reconnect_delay_set(0.2, 0.2)
        self.client.on_publish = self._count
        self.sent = self.confirmed = 0
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        wait_for(self.client.is_connected, "the publisher to connect")

    def _count(self, *_what):
        self.confirmed += 1  # one thread, paho's, counts

    def publish(self, topic, payload, qos=1, retain=False):
        info = self.client.publish(topic, payload, qos, retain)
        assert info.rc in (paho.MQTT_ERR_SUCCESS, paho.MQTT_ERR_NO_CONN), paho.error_string(info.rc)
        assert qos or info.rc == paho.MQTT_ERR_SUCCESS, "QoS 0 while there is no connection is lost at once"
        self.sent += 1

    def flush(self):
        wait_for(lambda: self.confirmed >= self.sent, "the broker to confirm every message")

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def publisher():
    made = []

    def make(port, *args, **will):
        made.append(Publisher(port, *args, **will))
        return made[-1]

    yield make
    for one in made:
        one.close()


JSON_TOPIC = {"filter": "f/+/+", "tag": "site/{1}/{2}", "payload": "json"}


def context(port, topics=(JSON_TOPIC,), scheme="mqtt", **keys):
    raw = {"name": "cells", "kind": "mqtt", "endpoint": f"{scheme}://127.0.0.1:{port}", "topics": list(topics)}
    return Context(Adapter.model_validate(raw | keys), lambda ref: ref.partition(":")[2], SystemClock())


class Reader:
    """Reads an adapter, keeps what came, acknowledges when told."""

    def __init__(self, given, acknowledge=True):
        self.adapter = MqttAdapter(given)
        self.acknowledge = acknowledge
        self.tags = []
        self.rows = []
        self.events = []
        self.positions = []

    async def read_until(self, condition, timeout_s=DEADLINE_S):
        deadline = time.monotonic() + timeout_s
        while not condition(self):
            assert time.monotonic() < deadline, (timeout_s, len(self), self.events[-5:])
            await self.read()

    async def read(self):
        poll = await self.adapter.read()
        self.tags += [info.tag for info in poll.tags]
        self.events += poll.events
        if poll.batch is not None:
            b = poll.batch
            assert len(b) <= 100_000
            self.rows += zip(
                (self.tags[t] for t in b.tag.tolist()),
                b.time.tolist(),
                b.value.tolist(),
                b.quality.tolist(),
                strict=True,
            )
        if poll.position is not None:
            self.positions.append(poll.position)
            if self.acknowledge:
                await self.adapter.acknowledge(poll.position)
        return poll

    def __len__(self):
        return len(self.rows)

    def kinds(self):
        return [e.kind for e in self.events]

    def values(self):
        return [row[2] for row in self.rows]

    async def online(self):
        await self.adapter.open(None)
        await self.read_until(lambda r: r.adapter._session.answered)


@pytest.fixture
def rng():
    return np.random.default_rng(11)
