"""`ModbusBench`: a Modbus TCP slave for the conformance kit, written from the specification, not with the client's library."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from iiot_dask.adapter.bench import Bench, LoopThread

WORDS = 100
"""Holding registers it has, from 0; beyond them it answers exception 2."""
POISONS_MAX = 4


class ModbusBench(Bench):
    """Every holding register counts the requests it was asked in: each answer is another value."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._port = 0
        self._asked = 0
        self._poison: deque[bytes] = deque(maxlen=POISONS_MAX)
        self._writers: set[asyncio.StreamWriter] = set()

    def __enter__(self) -> Self:
        self._thread = LoopThread()
        self.mend()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._thread.close()

    def section(self, tags: Sequence[str]) -> dict[str, Any]:
        """The tags in a row of registers, read every 20 ms."""
        return {
            "endpoint": f"tcp://127.0.0.1:{self._port}",
            "timeout": "200ms",
            "options": {"backoff_max": "200ms"},
            "tags": [
                {"tag": tag, "address": f"holding:{number}", "type": "uint16", "scan": "20ms"}
                for number, tag in enumerate(tags)
            ],
        }

    def absent_tag(self, section: dict[str, Any]) -> dict[str, Any]:
        """A register beyond the last one."""
        absent = {"tag": "kit/absent", "address": f"holding:{WORDS}", "type": "uint16", "scan": "20ms"}
        return section | {"tags": [*section["tags"], absent]}

    def poison(self, data: bytes) -> None:
        """The bytes instead of the next answer."""
        self._poison.append(data)

    def cut(self) -> None:
        """Refuse connections, abort those there are."""
        self._thread.run(self._stop())

    def mend(self) -> None:
        """Listen, from the second time on at the same port."""
        self._thread.run(self._start())

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):  # the client has left
            while True:
                transaction, _, length, unit = struct.unpack(">HHHB", await reader.readexactly(7))
                request = await reader.readexactly(length - 1)
                answer = self._answer(request)
                head = struct.pack(">HHHB", transaction, 0, len(answer) + 1, unit)
                writer.write(self._poison.popleft() if self._poison else head + answer)
        self._writers.discard(writer)
        writer.close()

    def _answer(self, request: bytes) -> bytes:
        function = request[0]
        if function != 3:
            return bytes([function | 0x80, 1])
        start, count = struct.unpack(">HH", request[1:5])
        if start + count > WORDS:
            return bytes([function | 0x80, 2])
        self._asked += 1
        return struct.pack(f">BB{count}H", function, 2 * count, *[self._asked & 0xFFFF] * count)
