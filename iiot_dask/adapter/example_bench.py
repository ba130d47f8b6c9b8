"""`ExampleBench`: the device of `ExampleAdapter`, a TCP server that sends lines."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iiot_dask.adapter.bench import TcpBench

WAITING_MAX = 1000
"""Most messages kept while nobody is connected; the oldest go."""


class ExampleBench(TcpBench):
    """Sends to everyone who is connected; what is said while nobody is, waits for the first."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._names: Sequence[str] = ()
        self._value = 0.0
        self._waiting: deque[bytes] = deque(maxlen=WAITING_MAX)

    def section(self, tags: Sequence[str]) -> dict[str, Any]:
        """Reads the tags under their own names."""
        self._names = tags
        return {"endpoint": f"tcp://127.0.0.1:{self.port}", "tags": [{"tag": tag, "address": tag} for tag in tags]}

    def absent_tag(self, section: dict[str, Any]) -> dict[str, Any]:
        """One more name, never sent."""
        return section | {"tags": [*section["tags"], {"tag": "kit/absent", "address": "absent"}]}

    def send(self, rows: int) -> None:
        """Lines of now."""
        lines = []
        for _ in range(rows):
            self._value += 0.5
            lines += [f"{name},{self._value},{time.time_ns()}\n" for name in self._names]
        self.thread.run(self._say("".join(lines).encode()))

    def stamp(self, time_ns: int) -> None:
        """A line of another time."""
        self.thread.run(self._say("".join(f"{name},1.0,{time_ns}\n" for name in self._names).encode()))

    def poison(self, data: bytes) -> None:
        """The bytes, and the end of a line."""
        self.thread.run(self._say(data + b"\n"))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Say what waited, then listen."""
        for data in self._waiting:
            writer.write(data)
        self._waiting.clear()
        await reader.read()  # until the other side has closed

    async def _say(self, data: bytes) -> None:
        if not self.writers:
            self._waiting.append(data)
        for writer in self.writers:
            writer.write(data)
