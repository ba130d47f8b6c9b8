"""One MQTT connection of a simulated device: paho driven by the asyncio loop, with the ledger rows each message holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from iiot_dask.core.errors import RemoteAdapterError

IN_FLIGHT_MAX = 20_000
QUEUED_MAX = 40_000
"""Messages waiting inside paho; a publish beyond is refused, counted, and stays unacknowledged in the truth."""

CONNECT_TIMEOUT_S = 10.0


class MqttSession:
    """A publisher (and, for commands, subscriber).

    Parameters
    ----------
    client_id
        MQTT client id.
    port
        Broker port on 127.0.0.1.
    acknowledged
        Called with (first row, row after the last) when the broker has a message: its PUBACK for QoS 1, for QoS 0 the
        bytes having been handed to the socket.
    lost
        Called with a reason when the connection ends before `close`.
    """

    def __init__(
        self, client_id: str, port: int, acknowledged: Callable[[int, int], None], lost: Callable[[str], None]
    ) -> None:
        import paho.mqtt.client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion

        self._mqtt = mqtt
        self._port = port
        self._acknowledged = acknowledged
        self._lost = lost
        self._rows: dict[int, tuple[int, int]] = {}
        self._up: asyncio.Future[None] | None = None
        self._misc: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._empty.set()
        self._closing = False
        self.refused = 0
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv311)
        self.client.max_inflight_messages_set(IN_FLIGHT_MAX)
        self.client.max_queued_messages_set(QUEUED_MAX)
        self.client.on_connect = self._on_connect
        self.client.on_publish = self._on_publish
        self.client.on_disconnect = self._on_disconnect

    async def connect(self) -> None:
        """Open the session.

        Raises
        ------
        RemoteAdapterError
            If the broker does not take it.
        """
        loop = asyncio.get_running_loop()
        client, self._up = self.client, loop.create_future()
        client.on_socket_open = lambda _c, _u, sock: loop.add_reader(sock, self._read)
        client.on_socket_close = self._closed
        client.on_socket_register_write = lambda _c, _u, sock: loop.add_writer(sock, self._write)
        client.on_socket_unregister_write = self._written
        try:
            client.connect("127.0.0.1", self._port, keepalive=60)
            await asyncio.wait_for(self._up, CONNECT_TIMEOUT_S)
        except (OSError, TimeoutError) as error:
            msg = f"MQTT broker 127.0.0.1:{self._port} does not answer {CONNECT_TIMEOUT_S} s long: {error}"
            raise RemoteAdapterError(msg) from error
        self._keep_alive()

    @staticmethod
    def _closed(_client: Any, _user: Any, sock: Any) -> None:
        asyncio.get_running_loop().remove_reader(sock)

    @staticmethod
    def _written(_client: Any, _user: Any, sock: Any) -> None:
        asyncio.get_running_loop().remove_writer(sock)

    def _read(self) -> None:
        self.client.loop_read()

    def _write(self) -> None:
        self.client.loop_write()

    def _keep_alive(self) -> None:
        if self.client.loop_misc() == self._mqtt.MQTT_ERR_SUCCESS:
            self._misc = asyncio.get_running_loop().call_later(1, self._keep_alive)

    def _on_connect(self, _client: Any, _user: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if self._up is None or self._up.done():
            return
        if reason.is_failure:
            self._up.set_exception(RemoteAdapterError(f"MQTT broker 127.0.0.1:{self._port} refuses: {reason}"))
        else:
            self._up.set_result(None)

    def _on_disconnect(self, _client: Any, _user: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if not self._closing:
            self._lost(f"MQTT broker 127.0.0.1:{self._port} closed the session: {reason}")

    def _on_publish(self, _client: Any, _user: Any, mid: int, _reason: Any, _properties: Any) -> None:
        rows = self._rows.pop(mid, None)
        if rows is not None:
            self._acknowledged(*rows)
        if not self._rows:
            self._empty.set()

    def publish(self, topic: str, payload: bytes, qos: int, rows: tuple[int, int] = (0, 0)) -> None:
        """Send a message that carries the ledger rows ``rows[0] <= row < rows[1]``."""
        info = self.client.publish(topic, payload, qos)
        if info.rc == self._mqtt.MQTT_ERR_SUCCESS:
            self._rows[info.mid] = rows
            self._empty.clear()
        else:
            self.refused += 1

    async def drain(self, timeout_s: float) -> bool:
        """Wait until the broker has everything; False when `timeout_s` passes first."""
        try:
            await asyncio.wait_for(self._empty.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Send what is queued, then DISCONNECT (the broker drops the will)."""
        self._closing = True
        self.client.disconnect()
        if self._misc is not None:
            self._misc.cancel()
        while self.client.want_write():
            if self.client.loop_write() != self._mqtt.MQTT_ERR_SUCCESS:
                break
            await asyncio.sleep(0)
