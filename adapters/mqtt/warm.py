"""Compiling the kernels before they are needed: the first call of each costs seconds when nothing is cached."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import frames
from .decode import Decoder
from .naming import Tags
from .options import options
from .topics import Route


def publish(topic: bytes, payload: bytes, mid: int = 1, version: int = 5, flags: int = 2) -> bytes:
    """A PUBLISH packet.

    Examples
    --------
    >>> publish(b"a", b"xy", flags=0, version=3).hex(" ")
    '30 05 00 01 61 78 79'
    """
    packet_id = mid.to_bytes(2, "big") if flags & frames.QOS_BITS else b""
    body = len(topic).to_bytes(2, "big") + topic + packet_id + (b"\0" if version == 5 else b"") + payload
    size, rest = b"", len(body)
    while True:
        size += bytes([(rest & 127) | (128 if rest > 127 else 0)])
        rest >>= 7
        if not rest:
            return bytes([0x30 | flags]) + size + body


def up(routes: Sequence[Route]) -> None:
    """Run every kernel once on a made-up message of each route."""
    packets = [
        publish("/".join("x" if level in ("+", "#") else level for level in route.levels).encode(), b'{"v":1}')
        for route in routes
    ]
    data = np.frombuffer(b"".join(packets), np.uint8)
    rows = np.empty((len(packets), frames.COLUMNS), np.int64)
    books, owed = frames.ledger(), np.zeros((8, 3), np.int64)
    # Writable, as an arena is: numba compiles once per kind of array.
    data = data.copy()
    frames.split(data, 0, len(data), 5, 1 << 20, 1, 1, 0, books, owed, rows, 0)
    frames.settle(np.array([[1, 1, 0]]), 1, books, np.empty(4, np.uint8))
    Decoder(routes, Tags((), 1 << 10), options({}, "warm"), "warm").decode(data, rows, 0)
