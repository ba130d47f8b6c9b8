"""`ModbusBench`: a Modbus TCP slave for the conformance kit, written from the specification, not with the client's library."""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iiot_dask.adapter.bench import TcpBench

WORDS = 100
"""Holding registers it has, from 0; beyond them it answers exception 2."""
POISONS_MAX = 4


class ModbusBench(TcpBench):
    """Every holding register counts the requests it was asked in: each answer is another value."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._asked = 0
        self._poison: deque[bytes] = deque(maxlen=POISONS_MAX)

    def section(self, tags: Sequence[str]) -> dict[str, Any]:
        """The tags in a row of registers, read every 20 ms."""
        return {
            "endpoint": f"tcp://127.0.0.1:{self.port}",
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

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer requests, or send what was put in an answer's place."""
        while True:
            transaction, _, length, unit = struct.unpack(">HHHB", await reader.readexactly(7))
            request = await reader.readexactly(length - 1)
            answer = self._answer(request)
            head = struct.pack(">HHHB", transaction, 0, len(answer) + 1, unit)
            writer.write(self._poison.popleft() if self._poison else head + answer)

    def _answer(self, request: bytes) -> bytes:
        function = request[0]
        if function != 3:
            return bytes([function | 0x80, 1])
        start, count = struct.unpack(">HH", request[1:5])
        if start + count > WORDS:
            return bytes([function | 0x80, 2])
        self._asked += 1
        return struct.pack(f">BB{count}H", function, 2 * count, *[self._asked & 0xFFFF] * count)
