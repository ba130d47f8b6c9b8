"""Readers of the simulated factory that share no code with it beyond the protobuf messages."""

import time

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

MARK = "marker"


def until(ask, what, timeout_s=60):
    """The first true answer of `ask`, asked again and again; fails, with what was waited for, after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"no {what} within {timeout_s} s"
        time.sleep(0.02)
    return answer


class Listener:
    """Subscribes to everything and keeps (topic, payload) in order of arrival."""

    def __init__(self, port, client_id="listener"):
        self.messages = []
        self._ready = False
        self._marks = 0
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv311)
        self.client.on_message = self._take
        self.client.on_subscribe = self._subscribed
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        self.client.subscribe([("#", 1)])
        until(lambda: self._ready, "SUBACK")

    def _subscribed(self, *_):
        self._ready = True

    def _take(self, _client, _user, message):
        if message.topic == MARK:
            self._marks += 1
        else:
            self.messages.append((message.topic, message.payload))

    def catch_up(self):
        """Everything the broker had before this call has arrived."""
        wanted = self._marks + 1
        self.client.publish(MARK, b"", 1)
        until(lambda: self._marks >= wanted, "marker")

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def listen():
    made = []

    def make(port):
        made.append(Listener(port))
        return made[-1]

    yield make
    for listener in made:
        listener.close()


@pytest.fixture(name="until")
def until_fixture():
    return until
