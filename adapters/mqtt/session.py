"""One MQTT session on paho-mqtt 2.2, with the bulk taken round it. The only file that knows paho.

Rules of this file:

- paho owns connect, TLS, keep-alive, SUBSCRIBE and every small packet. PUBLISH packets never reach it: whole socket
  buffers go to the `Inbox`, which hands back only what is none.
- Nothing is acknowledged before `acknowledge`: the broker keeps what is not on our disk.
- While the inbox is full the socket is not read, so the broker waits. Keep-alive goes on meanwhile.
- One thread runs the socket; notices and publications are bounded deques, the inbox has its own lock.

Private names of paho used here (`_in_packet`, `_packet_handle`, `_packet_queue`, `_loop_rc_handle`, `_ping_t`,
`_last_bytes_received`, `_ssl_wrap_socket`) are those of 2.2.0, which pyproject.toml pins.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.exception import MQTTException
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from iiot_dask.core.clock import Clock

from .inbox import READ_BYTES, Inbox, Taken

NOTICES_MAX = 1_000
PUBLICATIONS_MAX = 1_000
SUBSCRIBE_FILTERS_MAX = 100
STABLE_NS = 10_000_000_000
"""A connection that lasted this long was a good one: the back-off starts anew."""
BACKOFF_FIRST_S = 0.25
TAKEOVERS_SUSPECTED = 3

_TAKEN_OVER = 0x8E
_PUBREL, _PUBCOMP = 6, 0x70
_IDLE_S = 1.0
_READS_MAX = 16
_LEAVE_S = 3.0
"""Longest wait for the broker to close the connection after our DISCONNECT."""
_DISCONNECT = b"\xe0\x00"

NoticeKind = Literal["connected", "disconnected", "rejected", "info"]


@dataclass(frozen=True, slots=True)
class Settings:
    """How to reach a broker and what to ask of it; spans in seconds, sizes in bytes. `filters` are (filter, QoS)."""

    host: str
    port: int
    client_id: str
    filters: tuple[tuple[str, int], ...]
    version: Literal[3, 5] = 5
    clean: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    timeout_s: float = 3.0
    keepalive_s: int = 30
    session_expiry_s: int = 86_400
    receive_maximum: int = 65_535
    frame_bytes_max: int = 4 << 20
    inbox_bytes: int = 8 << 20
    inbox_messages: int = 100_000
    reconnect_max_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that happened to the session itself."""

    kind: NoticeKind
    reason: str
    time_ns: int


def backoff_s(attempt: int, longest_s: float, draw: float) -> float:
    """Pause before attempt `attempt` (1, 2, …), in seconds: doubling from 0.25 s to a cap, then 50-100 % of it by `draw`.

    The share is drawn so that ten thousand clients of one restarted broker do not come back in step.

    Examples
    --------
    >>> [backoff_s(n, 30.0, 1.0) for n in (1, 2, 8, 50)], backoff_s(2, 30.0, 0.0)
    ([0.25, 0.5, 30.0, 30.0], 0.25)
    """
    whole = min(longest_s, BACKOFF_FIRST_S * 2.0 ** min(attempt - 1, 30))
    return whole * (0.5 + 0.5 * draw)


class _Client(paho.Client):
    """paho, fed packet by packet instead of reading the socket itself."""

    why = ""

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> ssl.SSLSocket:
        """The TLS handshake. paho's own leaves the socket of a failed one open until the collector finds it."""
        context: ssl.SSLContext = self._ssl_context  # type: ignore[assignment]  # set, or TLS would not be asked for
        secured = context.wrap_socket(tcp_sock, server_hostname=self._host, do_handshake_on_connect=False)
        try:
            secured.settimeout(self._connect_timeout)
            secured.do_handshake()
        except BaseException:
            secured.close()
            raise
        return secured

    def feed(self, command: int, body: bytes) -> int:
        """Handle one packet that is not a PUBLISH; `body` is what follows the remaining length."""
        incoming = self._in_packet
        incoming["command"], incoming["packet"] = command, bytearray(body)
        incoming["remaining_length"], incoming["pos"] = len(body), 0
        try:
            rc = self._packet_handle()
        except (MQTTException, ValueError, IndexError, KeyError, struct.error) as error:
            self.why = f"packet {command:#x} of {len(body)} bytes does not parse: {error}"
            rc = MQTTErrorCode.MQTT_ERR_PROTOCOL
        incoming["command"], incoming["packet"] = 0, bytearray()
        return int(rc)

    def heard(self) -> None:
        """Bytes came: the keep-alive timer starts anew."""
        self._last_bytes_received = paho.time_func()

    def deaf(self) -> None:
        """We do not read for now, so do not hold the broker's silence against it."""
        self._ping_t = 0.0

    def send(self, packets: bytes) -> None:
        """Queue packets that are bytes already; paho is not told what they are, so it acts on none of them."""
        self._packet_queue(0, packets, 0, 0)

    def fail(self, rc: int, why: str = "") -> None:
        """Drop the connection and tell the callbacks, which find the reason in `why`."""
        self.why = why or self.why
        self._loop_rc_handle(MQTTErrorCode(rc))


class Session:
    """A session with a broker that reconnects by itself until `close`.

    Parameters
    ----------
    settings
        Where, who, what.
    clock
        For receive times and the age of a connection.
    rng
        For the spread of reconnections.
    on_data
        Called from the session's thread when messages or notices came after there were none; must not block.
    """

    def __init__(self, settings: Settings, clock: Clock, rng: np.random.Generator, on_data: Callable[[], None]) -> None:
        self.settings = settings
        self.clock = clock
        self.rng = rng
        self.inbox = Inbox(settings.version, settings.frame_bytes_max, settings.inbox_bytes, settings.inbox_messages)
        self._on_data = on_data
        self._notices: deque[Notice] = deque(maxlen=NOTICES_MAX)
        self._publications: deque[tuple[str, bytes, int]] = deque(maxlen=PUBLICATIONS_MAX)
        self._connection = 0
        self._online = False
        self._connected_at = 0
        self._more = False
        self._refused = False
        self._suspicions = 0
        self._attempt = 0
        self._said = ""
        self._asked: dict[int, Sequence[str]] = {}
        self._wanted = False
        self._closing = threading.Event()
        self._wake_r, self._wake_w = socket.socketpair()
        self._wake_r.setblocking(False)
        self._wake_w.setblocking(False)
        self._client = self._make_client()
        self._thread = threading.Thread(target=self._run, name=f"mqtt-{settings.client_id}", daemon=True)

    # --- the caller's side

    def start(self) -> None:
        """Begin connecting; returns at once."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the session's thread is at work."""
        return self._thread.is_alive()

    @property
    def online(self) -> bool:
        """Whether the broker has accepted us, as far as we know."""
        return self._online

    @property
    def answered(self) -> bool:
        """Whether the broker has answered every subscription of the present connection, granted or not."""
        return self._online and self._wanted and not self._asked

    def take(self) -> Taken | None:
        """Everything that came since the last call; see `Inbox.take`."""
        full = self.inbox.full
        taken = self.inbox.take()
        if full:
            self._wake()
        return taken

    def notices(self) -> list[Notice]:
        """What happened to the session since the last call; at most `NOTICES_MAX`, the newest."""
        return [self._notices.popleft() for _ in range(len(self._notices))]

    def acknowledge(self, number: int) -> None:
        """All messages up to `number` are durable: PUBACK (QoS 1) or PUBREC (QoS 2) goes out for each."""
        self.inbox.durable(number)
        self._wake()

    def publish(self, topic: str, payload: bytes, qos: int = 0) -> None:
        """Send a message when connected; of more than `PUBLICATIONS_MAX` waiting the oldest are dropped."""
        self._publications.append((topic, payload, qos))
        self._wake()

    def close(self, timeout_s: float = 5.0) -> None:
        """Disconnect and end the thread; the broker keeps what was not acknowledged (unless `clean`)."""
        self._closing.set()
        self._wake()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        if not self._thread.is_alive():
            self._wake_r.close()
            self._wake_w.close()

    # --- the session's thread

    def _wake(self) -> None:
        # Blocked = a wake-up is on its way; closed = nobody is left to wake.
        with contextlib.suppress(BlockingIOError, OSError):
            self._wake_w.send(b"\0")

    def _make_client(self) -> _Client:
        s = self.settings
        five = s.version == 5
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=s.client_id,
            clean_session=None if five else s.clean,
            protocol=paho.MQTTv5 if five else paho.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = s.timeout_s
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_subscribe = self._subscribed
        if s.username is not None:
            client.username_pw_set(s.username, s.password)
        if s.tls is not None:
            client.tls_set_context(s.tls)
        properties: Any = None
        if five:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.ReceiveMaximum = s.receive_maximum
            properties.SessionExpiryInterval = 0 if s.clean else s.session_expiry_s
        client.connect_async(
            s.host,
            s.port,
            s.keepalive_s,
            clean_start=s.clean if five else paho.MQTT_CLEAN_START_FIRST_ONLY,
            properties=properties,
        )
        return client

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                if self._attempt:
                    self._closing.wait(
                        backoff_s(self._attempt, self.settings.reconnect_max_s, float(self.rng.random()))
                    )
                    if self._closing.is_set():
                        return
                self._attempt += 1
                if self._connect():
                    self._pump()
        except BaseException as error:
            self._say("disconnected", f"the session's thread ended: {type(error).__name__}: {error}")
            raise
        finally:
            self._online = False

    def _connect(self) -> bool:
        self._connection += 1
        self._more, self._refused = False, False
        self.inbox.restart()
        try:
            self._client.reconnect()
        except (OSError, ValueError) as error:
            # TLS errors are OSErrors; ValueError is paho's word for a host name it can not use.
            self._say("disconnected", f"{self.settings.host}:{self.settings.port} can not be reached: {error}")
            return False
        return True

    def _pump(self) -> None:
        """Serve one connection until it ends."""
        client = self._client
        sock: Any = client.socket()
        deadline = self.clock.monotonic_ns() + round((self.settings.timeout_s + 1.0) * 1e9)
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_r, selectors.EVENT_READ)
            wanted = 0
            while sock is not None and client.socket() is sock:
                wanted = self._watch(selector, sock, wanted)
                ready: dict[Any, int] = {
                    key.fileobj: mask for key, mask in selector.select(0.0 if self._more else _IDLE_S)
                }
                if self._wake_r in ready:
                    self._commands()
                if self._closing.is_set():
                    self._leave(sock)
                    return
                if self.inbox.full:
                    self._resume()
                elif self._more or ready.get(sock, 0) & selectors.EVENT_READ:
                    self._receive(sock)
                if client.want_write():
                    client.loop_write()
                if self.inbox.full:
                    client.deaf()
                client.loop_misc()
                if not self._online and self.clock.monotonic_ns() > deadline and client.socket() is sock:
                    client.fail(MQTTErrorCode.MQTT_ERR_CONN_LOST, "the broker did not answer CONNECT in time")
        # A long-lived connection starts the back-off anew; the first pause is kept, for the sake of the broker.
        if self._connected_at and self.clock.monotonic_ns() - self._connected_at >= STABLE_NS and not self._refused:
            self._attempt = 1

    def _watch(self, selector: selectors.BaseSelector, sock: Any, wanted: int) -> int:
        """Ask for what matters now: no reading while the inbox is full."""
        events = (0 if self.inbox.full else selectors.EVENT_READ) | (
            selectors.EVENT_WRITE if self._client.want_write() else 0
        )
        if events == wanted:
            return wanted
        if wanted:
            selector.unregister(sock)
        if events:
            selector.register(sock, events)
        return events

    def _commands(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake_r.recv(4_096):
                pass
        self._acknowledge()
        while self._online and self._publications:
            topic, payload, qos = self._publications.popleft()
            self._client.publish(topic, payload, qos)

    def _leave(self, sock: Any) -> None:
        """Say DISCONNECT and wait, not for ever, until the broker closes.

        Closing first would reset the connection when the broker sends anything more (PUBREL for our PUBREC, a message), and
        a reset makes it forget acknowledgements it has received and not yet read. What comes meanwhile comes again later.
        """
        client = self._client
        deadline = self.clock.monotonic_ns() + round(_LEAVE_S * 1e9)
        if self._online:
            client.send(_DISCONNECT)
        with selectors.DefaultSelector() as selector, contextlib.suppress(OSError):
            selector.register(sock, selectors.EVENT_READ)
            while self._online and (left := deadline - self.clock.monotonic_ns()) > 0:
                selector.modify(sock, selectors.EVENT_READ | (selectors.EVENT_WRITE if client.want_write() else 0))
                selector.select(left / 1e9)
                if client.want_write():
                    client.loop_write()
                with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    ended = client.socket() is not sock
                    if ended or not sock.recv(READ_BYTES):
                        break
        client.fail(MQTTErrorCode.MQTT_ERR_CONN_LOST)

    def _acknowledge(self) -> None:
        if self._online:
            packets = self.inbox.acknowledgements()
            if packets:
                self._client.send(packets)

    def _receive(self, sock: Any) -> None:
        """Read and split what the socket holds, at most `_READS_MAX` times before other work has its turn."""
        for _ in range(_READS_MAX):
            self._more = False
            try:
                got = self.inbox.receive(sock.recv_into)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError as error:
                self._client.fail(MQTTErrorCode.MQTT_ERR_CONN_LOST, str(error))
                return
            if got == 0:
                self._client.fail(MQTTErrorCode.MQTT_ERR_CONN_LOST)
                return
            if got < 0:
                return
            self._client.heard()
            self._more = self._split()
            if not self._more:
                return

    def _resume(self) -> None:
        """Go on once the full arena was taken; what was read already is split first."""
        if not self.inbox.held:
            self._more = self._split()

    def _split(self) -> bool:
        """Split what was read; False when reading must not go on (the inbox is full, or the connection ended)."""
        while True:
            empty = not self.inbox.held
            found = self.inbox.split(self.clock.now_ns())
            if empty and self.inbox.held:
                self._on_data()
            if found.what == "broken":
                self._client.fail(MQTTErrorCode.MQTT_ERR_PROTOCOL, found.reason)
                return False
            if found.what != "packet":
                self._acknowledge()  # redeliveries of what is durable already
                return found.what == "more"
            if not self._control(*found.packet):
                return False

    def _control(self, command: int, body: bytes) -> bool:
        """One packet that is no PUBLISH; False when the connection is over."""
        if command >> 4 == _PUBREL and len(body) >= 2:
            self.inbox.released(int.from_bytes(body[:2], "big"))
            self._client.send(bytes((_PUBCOMP, 2)) + body[:2])
            return True
        rc = self._client.feed(command, body)
        if rc > 0:
            self._client.fail(rc)
        return self._client.socket() is not None

    # --- paho's callbacks, all on the session's thread

    def _say(self, kind: NoticeKind, reason: str) -> None:
        """Leave a notice; the same trouble is told once, not at every attempt."""
        if kind == "disconnected":
            if reason == self._said:
                return
            self._said = reason
        self._notices.append(Notice(kind, reason, self.clock.now_ns()))
        self._on_data()

    def _connected(self, client: Any, _data: Any, flags: Any, reason: ReasonCode, _properties: Any) -> None:
        if reason.is_failure:
            self._refused = True
            hint = "; brokers without MQTT 5 need version = 3" if reason.value in (0x84, 0x01) else ""
            self._say("disconnected", f"the broker refused client {self.settings.client_id!r}: {reason}{hint}")
            return
        self.inbox.connected(self._connection, resumed=flags.session_present)
        if not flags.session_present and self._connected_at and not self.settings.clean:
            self._say("info", "the broker did not keep our session; what it held for us is lost")
        self._online, self._said = True, ""
        self._connected_at = self.clock.monotonic_ns()
        resumed = ", session resumed" if flags.session_present else ""
        self._say("connected", f"as {self.settings.client_id!r} to {self.settings.host}:{self.settings.port}{resumed}")
        self._acknowledge()
        # Also on a resumed session: the filters may have changed since it was made.
        self._asked.clear()
        filters = self.settings.filters
        for k in range(0, len(filters), SUBSCRIBE_FILTERS_MAX):
            self._subscribe(client, filters[k : k + SUBSCRIBE_FILTERS_MAX])
        self._wanted = True

    def _subscribe(self, client: Any, part: Sequence[tuple[str, int]]) -> None:
        if self.settings.version == 5:
            wanted: Any = [
                (f, SubscribeOptions(qos, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB)) for f, qos in part
            ]
        else:
            wanted = list(part)
        _, mid = client.subscribe(wanted)
        if mid is not None:
            self._asked[mid] = [f for f, _ in part]

    def _subscribed(self, _client: Any, _data: Any, mid: int, reasons: list[ReasonCode], _properties: Any) -> None:
        for name, reason in zip(self._asked.pop(mid, []), reasons, strict=False):
            if reason.is_failure:
                self._say("rejected", f"the broker refused the subscription {name!r}: {reason}")

    def _disconnected(self, _client: Any, _data: Any, flags: Any, reason: ReasonCode, _properties: Any) -> None:
        was, self._online, self._wanted = self._online, False, False
        why, self._client.why = self._client.why, ""
        if self._refused or self._closing.is_set():
            return
        if flags.is_disconnect_packet_from_server:
            taken = reason.value == _TAKEN_OVER
            text = f"the broker ended the session: {reason}"
            if taken:
                text += f"; another client uses the id {self.settings.client_id!r}: give each its own client_id"
            self._say("disconnected", text)
            return
        young = was and self.clock.monotonic_ns() - self._connected_at < STABLE_NS
        self._suspicions = self._suspicions + 1 if young else 0
        text = f"connection lost: {why or reason}"
        if self._suspicions >= TAKEOVERS_SUSPECTED:
            text += (
                f" ({self._suspicions} times soon after connecting: does another client use the id"
                f" {self.settings.client_id!r}?)"
            )
        self._say("disconnected", text)
