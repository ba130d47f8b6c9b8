"""A broker that replays: it speaks enough MQTT to be subscribed to, and then sends packets that were built beforehand.

For measuring: a real broker routes, queues and counts, and is slower than what is behind it. This one joins a whole round of
messages (one a topic) in one array, writes the time and the values into it, and hands it to the socket. With QoS 1 it holds
to the subscriber's receive maximum, deals packet ids in a circle and checks that each comes back once and in order.

``python -m iiot_dask.sim.mqtt_replay --topics N --qos Q`` listens on a free port of 127.0.0.1 and serves one subscriber. It
prints one JSON line when it listens (``port``), one when it is subscribed to, and one for each command it was given on stdin:
``MESSAGES RATE`` sends so many messages at so many a second (0 = as fast as they are taken). With ``--to PORT`` it is a publisher
(QoS 0) of the same messages to a real broker instead.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from iiot_dask.core.errors import RemoteAdapterError
from iiot_dask.sim.mqtt_bulk import connect, length, text

PIECE_BYTES = 256 << 10
"""Bytes handed to the socket at once, about."""
IDENTIFIERS = 65_535
DEVICE_SENSORS = 100
QUIET_S = 60.0
"""Longest wait for the subscriber to take or acknowledge anything."""
TICK_S = 0.002

Bytes = npt.NDArray[np.uint8]


def topic(number: int) -> str:
    """Name of topic `number`: a plant of devices with a hundred sensors each; all names are of one length.

    Examples
    --------
    >>> topic(12_345)
    'plant/d00123/s45'
    """
    return f"plant/d{number // DEVICE_SENSORS:05}/s{number % DEVICE_SENSORS:02}"


@dataclass(frozen=True, slots=True)
class Form:
    """Where in a packet the parts lie that change: packet id, value (six digits and a point), time (ms)."""

    identifier: int
    value: int
    time: int
    size: int


def packets(topics: int, qos: int, version: int) -> tuple[Bytes, Form]:
    """One PUBLISH a topic as uint8[topics, size], payload ``{"v":100.00,"ts":0000000000000}``.

    Examples
    --------
    >>> table, form = packets(2, 1, 3)
    >>> bytes(table[1, form.identifier + 2 :])
    b'{"v":100.00,"ts":0000000000000}'
    """
    payload = b'{"v":100.00,"ts":0000000000000}'
    name = text(topic(0))
    middle = (b"\0\0" if qos else b"") + (b"\0" if version == 5 else b"")
    size = length(len(name) + len(middle) + len(payload))
    head = bytes((0x30 | qos << 1,)) + size
    row = np.frombuffer(head + name + middle + payload, np.uint8)
    table = np.tile(row, (topics, 1))
    names = np.frombuffer("".join(topic(n) for n in range(topics)).encode(), np.uint8).reshape(topics, -1)
    table[:, len(head) + 2 : len(head) + len(name)] = names
    at = len(head) + len(name)
    start = at + len(middle)
    return table, Form(at, start + 5, start + 17, len(row))


def digits(out: Bytes, numbers: npt.NDArray[np.int64]) -> None:
    """Write numbers in decimal, one a row of `out`, filling its width."""
    left = numbers
    for column in range(out.shape[1] - 1, -1, -1):
        out[:, column] = 48 + left % 10
        left = left // 10


class Replay:
    """One subscriber's connection.

    Parameters
    ----------
    sock
        Connected; CONNECT and SUBSCRIBE are not read yet.
    topics, qos
        How many topics, and the quality of service of every message.
    """

    def __init__(self, sock: socket.socket, topics: int, qos: int) -> None:
        self._sock = sock
        self._qos = qos
        self._rng = np.random.default_rng(topics)
        self._read = b""
        self._acked, self._sent = 0, 0
        self._time_ms = 0
        self._window = IDENTIFIERS
        self._version = self._greet()
        self._table, self._form = packets(topics, qos, self._version)
        self._walk = self._rng.integers(10_000, 90_000, topics)
        self._next = topics  # position in the round

    def _greet(self) -> int:
        kind, body = self._packet()
        if kind != 0x10:
            msg = f"the subscriber began with packet {kind:#x}; CONNECT was expected"
            raise RemoteAdapterError(msg)
        version = body[6]
        if version == 5:
            self._window = min(self._window, _receive_maximum(body[10:]))
        self._sock.sendall(b"\x20\x03\0\0\0" if version == 5 else b"\x20\x02\0\0")
        kind, body = self._packet()
        if kind != 0x82:
            msg = f"the subscriber went on with packet {kind:#x}; SUBSCRIBE was expected"
            raise RemoteAdapterError(msg)
        codes = bytes((self._qos,))
        filler = b"\0" if version == 5 else b""
        self._sock.sendall(bytes((0x90, 2 + len(filler) + len(codes))) + body[:2] + filler + codes)
        return version

    def _packet(self) -> tuple[int, bytes]:
        """The next small packet: its first byte and what follows the length (one byte of length is enough here)."""
        while len(self._read) < 2 or len(self._read) < 2 + self._read[1]:
            piece = self._sock.recv(4096)
            if not piece:
                msg = "the subscriber left before it had subscribed"
                raise RemoteAdapterError(msg)
            self._read += piece
        end = 2 + self._read[1]
        packet, self._read = self._read[:end], self._read[end:]
        return packet[0], packet[2:]

    def send(self, messages: int, rate: float) -> dict[str, Any]:
        """Send so many messages and, with QoS 1, wait for their acknowledgements.

        Returns
        -------
        dict
            ``messages``, ``bytes``, ``began_ns`` and ``ended_ns`` (wall clock; the end is the last byte handed to the socket
            or the last acknowledgement), ``late_s`` (longest time behind schedule).
        """
        began_ns, began = time.time_ns(), time.monotonic()
        goal, late, start = self._sent + messages, 0.0, self._sent
        self._sock.setblocking(False)
        while self._sent < goal:
            due = goal if rate <= 0 else min(goal, start + int((time.monotonic() - began + TICK_S) * rate))
            if due <= self._sent:
                self._wait(TICK_S, write=False)
                continue
            if rate > 0:
                late = max(late, time.monotonic() - began - (self._sent - start) / rate)
            self._piece(min(due - self._sent, max(1, PIECE_BYTES // self._form.size)))
        while self._qos and self._acked < self._sent:
            self._wait(QUIET_S, write=False, must=True)
        return {
            "messages": messages, "bytes": messages * self._form.size, "began_ns": began_ns, "ended_ns": time.time_ns(),
            "late_s": late,
        }  # fmt: skip

    def _piece(self, count: int) -> None:
        """Send up to `count` messages from where the round stands, as the window allows."""
        if self._next == len(self._table):
            self._renew()
        count = min(count, len(self._table) - self._next)
        if self._qos:
            while (room := self._window - (self._sent - self._acked)) <= 0:
                self._wait(QUIET_S, write=False, must=True)
            count = min(count, room)
        part = self._table[self._next : self._next + count]
        if self._qos:
            identifiers = (self._sent + np.arange(count)) % IDENTIFIERS + 1
            part[:, self._form.identifier] = identifiers >> 8
            part[:, self._form.identifier + 1] = identifiers & 255
        # Acknowledgements are settled against what was sent, and the first may come before the last byte is out.
        self._sent += count
        self._next += count
        self._write(memoryview(part.reshape(-1).data))

    def _renew(self) -> None:
        """A new round: every topic has a new value and the present time."""
        self._walk += self._rng.integers(-30, 31, len(self._walk))
        np.clip(self._walk, 10_000, 99_999, out=self._walk)  # JSON knows no leading zeros
        form, table = self._form, self._table
        digits(table[:, form.value : form.value + 3], self._walk // 100)
        digits(table[:, form.value + 4 : form.value + 6], self._walk % 100)
        # A round that follows within a millisecond has the next one, or its rows would be those of the round before.
        self._time_ms = max(time.time_ns() // 10**6, self._time_ms + 1)
        table[:, form.time : form.time + 13] = np.frombuffer(f"{self._time_ms:013}".encode(), np.uint8)
        self._next = 0

    def _write(self, data: memoryview) -> None:
        while data:
            try:
                data = data[self._sock.send(data) :]
            except BlockingIOError:
                self._wait(QUIET_S, write=True, must=True)
        if self._qos:
            self._wait(0.0, write=False)

    def _wait(self, seconds: float, *, write: bool, must: bool = False) -> None:
        """Wait for room or for bytes, and take in what came."""
        read, ready, _ = select.select([self._sock], [self._sock] if write else [], [], seconds)
        if read:
            self._take(self._sock.recv(1 << 20))
        elif must and not ready:
            msg = f"the subscriber neither took nor acknowledged anything for {seconds:g} s"
            raise RemoteAdapterError(msg)

    def _take(self, data: bytes) -> None:
        if not data:
            msg = f"the subscriber left after {self._acked} of {self._sent} acknowledgements"
            raise RemoteAdapterError(msg)
        self._read += data
        while len(self._read) >= 2:
            # A ping between acknowledgements is taken singly, and so is a piece of one at the end.
            whole = len(self._read) // 4 * 4
            run = np.frombuffer(self._read, np.uint8, whole).reshape(-1, 4)
            other = np.flatnonzero((run[:, 0] != 0x40) | (run[:, 1] != 2))
            count = int(other[0]) if len(other) else len(run)
            if count:
                self._settle(run[:count, 2].astype(np.int64) << 8 | run[:count, 3])
                self._read = self._read[4 * count :]
                continue
            size = 2 + self._read[1]
            if len(self._read) < size:
                return
            if self._read[0] == 0xC0:
                self._sock.sendall(b"\xd0\0")
            elif self._read[0] != 0xE0:
                msg = f"the subscriber sent packet {self._read[0]:#x}; PUBACK, PINGREQ and DISCONNECT were expected"
                raise RemoteAdapterError(msg)
            self._read = self._read[size:]

    def _settle(self, identifiers: npt.NDArray[np.int64]) -> None:
        wanted = (self._acked + np.arange(len(identifiers))) % IDENTIFIERS + 1
        if not np.array_equal(wanted, identifiers) or self._acked + len(identifiers) > self._sent:
            msg = f"acknowledgement {int(identifiers[0])} after {self._acked} messages; {int(wanted[0])} was next"
            raise RemoteAdapterError(msg)
        self._acked += len(identifiers)


class Feed(Replay):
    """The same messages, published to a broker with QoS 0 over MQTT 3.1.1."""

    def _greet(self) -> int:
        self._sock.sendall(connect("iiot-dask-replay"))
        kind, body = self._packet()
        if kind != 0x20 or body[1] != 0:
            msg = f"the broker answered CONNECT with packet {kind:#x}, {body.hex()}"
            raise RemoteAdapterError(msg)
        return 3


def _receive_maximum(rest: bytes) -> int:
    """The receive maximum among the properties of a CONNECT of MQTT 5, 65,535 where none stands (3.1.2.11.3)."""
    sizes = {0x11: 4, 0x21: 2, 0x27: 4, 0x22: 2, 0x19: 1, 0x17: 1}
    at, end = 1, 1 + rest[0]
    while at < end and rest[at] in sizes:
        if rest[at] == 0x21:
            return int.from_bytes(rest[at + 1 : at + 3], "big")
        at += 1 + sizes[rest[at]]
    return IDENTIFIERS


def main(argv: Sequence[str] | None = None) -> int:
    """Serve one subscriber, obeying stdin; ends with it."""
    parser = argparse.ArgumentParser(prog="python -m iiot_dask.sim.mqtt_replay", description=__doc__)
    parser.add_argument("--topics", type=int, default=100_000)
    parser.add_argument("--qos", type=int, choices=(0, 1), default=0)
    parser.add_argument("--to", type=int, default=None, metavar="PORT")
    arguments = parser.parse_args(argv)
    if arguments.to is not None:
        with socket.create_connection(("127.0.0.1", arguments.to)) as sock:
            _serve(Feed(sock, arguments.topics, 0))
        return 0
    with socket.create_server(("127.0.0.1", 0)) as listener:
        _say({"port": listener.getsockname()[1]})
        sock, _ = listener.accept()
    with sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _serve(Replay(sock, arguments.topics, arguments.qos))
    return 0


def _serve(replay: Replay) -> None:
    _say({"subscribed": True})
    for line in sys.stdin:
        messages, rate = line.split()
        _say(replay.send(int(messages), float(rate)))


def _say(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
