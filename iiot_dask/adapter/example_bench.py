"""`ExampleBench`: the device of `ExampleAdapter`, a TCP server that sends lines."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from iiot_dask.adapter.bench import Bench, LoopThread


class ExampleBench(Bench):
    """Sends to everyone who is connected; what is said while nobody is, waits for the first."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._names: Sequence[str] = ()
        self._port = 0
        self._value = 0.0
        self._waiting: list[bytes] = []
        self._writers: set[asyncio.StreamWriter] = set()

    def __enter__(self) -> Self:
        self._thread = LoopThread()
        self.mend()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._thread.close()

    def section(self, tags: Sequence[str]) -> dict[str, Any]:
        """Reads the tags under their own names."""
        self._names = tags
        return {"endpoint": f"tcp://127.0.0.1:{self._port}", "tags": [{"tag": tag, "address": tag} for tag in tags]}

    def absent_tag(self, section: dict[str, Any]) -> dict[str, Any]:
        """One more name, never sent."""
        return section | {"tags": [*section["tags"], {"tag": "kit/absent", "address": "absent"}]}

    def send(self, rows: int) -> None:
        """Lines of now."""
        lines = []
        for _ in range(rows):
            self._value += 0.5
            lines += [f"{name},{self._value},{time.time_ns()}\n" for name in self._names]
        self._thread.run(self._say("".join(lines).encode()))

    def stamp(self, time_ns: int) -> None:
        """A line of another time."""
        self._thread.run(self._say("".join(f"{name},1.0,{time_ns}\n" for name in self._names).encode()))

    def poison(self, data: bytes) -> None:
        """The bytes, and the end of a line."""
        self._thread.run(self._say(data + b"\n"))

    def cut(self) -> None:
        """Stop listening, abort every connection."""
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
        for data in self._waiting:
            writer.write(data)
        self._waiting.clear()
        with contextlib.suppress(ConnectionError):  # it was cut
            await reader.read()  # until the other side has closed
        self._writers.discard(writer)
        writer.close()

    async def _say(self, data: bytes) -> None:
        if not self._writers:
            self._waiting.append(data)
        for writer in self._writers:
            writer.write(data)
