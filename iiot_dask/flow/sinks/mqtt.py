"""Results published by MQTT: one JSON message a row, QoS 1, so that a repeat is the same message on the same topic."""

from __future__ import annotations

from typing import Any

import orjson
import polars as pl

from iiot_dask.core.errors import ConfigError
from iiot_dask.flow.sinks.base import AwayError, Sink

WAIT_S = 10.0
"""Longest wait for a connection, and for the acknowledgements of a batch, seconds."""


class MqttSink(Sink):
    """Publishes each row as ``{"time": …ms, column: value, …}``.

    Parameters
    ----------
    host, port
        The broker.
    topic
        Of a row; ``{tag}`` is its tag.
    client_id, username, password
        Of the session.
    retain
        Keep the last message for new subscribers.
    more
        Options of `Sink`.
    """

    name = "mqtt"

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 1883,
        *,
        topic: str = "iiot/{tag}",
        client_id: str = "iiot-dask-sink",
        username: str | None = None,
        password: str | None = None,
        retain: bool = False,
        **more: Any,
    ) -> None:
        super().__init__(**{"batch_rows": 1_000, **more})
        if any(c in topic for c in "+#"):
            msg = f"topic {topic!r}: a publisher's topic has no wildcard"
            raise ConfigError(msg)
        self.host, self.port, self.topic, self.retain = host, port, topic, retain
        self.client_id, self.username, self.password = client_id, username, password
        self._client: Any = None

    def _connected(self) -> Any:
        import threading

        import paho.mqtt.client as paho
        from paho.mqtt.enums import CallbackAPIVersion

        if self._client is not None and self._client.is_connected():
            return self._client
        self.disconnect()
        up = threading.Event()
        client = paho.Client(CallbackAPIVersion.VERSION2, self.client_id, protocol=paho.MQTTv5)
        if self.username is not None:
            client.username_pw_set(self.username, self.password)
        client.on_connect = lambda *a: up.set() if a[3] == 0 else None
        client.connect(self.host, self.port, keepalive=30)
        client.loop_start()
        self._client = client
        if not up.wait(WAIT_S):
            self.disconnect()
            msg = f"broker {self.host}:{self.port} gave no session within {WAIT_S:.0f} s"
            raise AwayError(msg)
        return client

    def write(self, rows: pl.DataFrame) -> None:
        """See `Sink.write`."""
        client = self._connected()
        milliseconds = rows.with_columns(time=pl.col("time").dt.epoch("ms"))
        sent = []
        # A message a row is what MQTT is; results are few, the bulk goes to history.
        for row in milliseconds.iter_rows(named=True):
            tag = row.pop("tag")
            payload = orjson.dumps({k: v for k, v in row.items() if v is not None})
            sent.append(client.publish(self.topic.replace("{tag}", tag), payload, qos=1, retain=self.retain))
        for message in sent:
            try:
                message.wait_for_publish(WAIT_S)
            except (RuntimeError, ValueError) as error:
                msg = f"broker {self.host}:{self.port}: {error}"
                raise AwayError(msg) from error
            if not message.is_published():
                msg = f"broker {self.host}:{self.port} did not acknowledge within {WAIT_S:.0f} s"
                raise AwayError(msg)

    def disconnect(self) -> None:
        """End the session."""
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
            self._client = None
