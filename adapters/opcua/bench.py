"""`OpcUaBench`: an asyncua server for the conformance kit, behind a relay that can be cut and can lie."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from iiot_dask.adapter.bench import Bench, LoopThread

URI = "urn:iiot-dask:kit"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class OpcUaBench(Bench):
    """A Double variable for each tag; a write of another value is a sample."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._port = 0
        self._value = 0.0
        self._nodes: list[Any] = []
        self._writers: dict[asyncio.StreamWriter, asyncio.StreamWriter] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        # The relay's lies are what is tested; the server's complaints about cut connections are not news.
        logging.getLogger("asyncua").setLevel(logging.CRITICAL)
        self._thread = LoopThread()
        self._thread.run(self._serve())
        self.mend()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._thread.run(self._server.stop())
        self._thread.close()

    def section(self, tags: Sequence[str]) -> dict[str, Any]:
        """Each tag's variable by its name."""
        self._thread.run(self._variables(tags))
        return {
            "endpoint": f"opc.tcp://127.0.0.1:{self._port}",
            "timeout": "2s",
            "options": {"publish": "20ms", "retry": "100ms", "watchdog": "200ms", "backoff_max": "200ms"},
            "tags": [{"tag": tag, "node": f"nsu={URI};s={tag}"} for tag in tags],
        }

    def absent_tag(self, section: dict[str, Any]) -> dict[str, Any]:
        """A node id that nobody has."""
        return section | {"tags": [*section["tags"], {"tag": "kit/absent", "node": f"nsu={URI};s=absent"}]}

    def send(self, rows: int) -> None:
        """So many writes, of now."""
        now = datetime.now(UTC)
        self._thread.run(self._write([now + timedelta(microseconds=n) for n in range(min(rows, 100))]))

    def stamp(self, time_ns: int) -> None:
        """A write with that source time."""
        self._thread.run(self._write([EPOCH + timedelta(microseconds=time_ns // 1000)]))

    def poison(self, data: bytes) -> None:
        """The bytes in the middle of what the server says."""
        self._thread.run(self._lie(data))

    def cut(self) -> None:
        """The relay goes; the server behind it keeps its sessions, as behind a broken switch."""
        self._thread.run(self._stop())

    def mend(self) -> None:
        """The relay listens, from the second time on at the same port."""
        self._thread.run(self._start())

    # -- in the thread -----------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        from asyncua import Server, ua

        self._server = Server()
        await self._server.init()
        self._server.set_endpoint("opc.tcp://127.0.0.1:0")
        self._server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        self._index = await self._server.register_namespace(URI)
        await self._server.start()

    async def _variables(self, tags: Sequence[str]) -> None:
        from asyncua import ua

        objects = self._server.nodes.objects
        self._nodes = [
            await objects.add_variable(ua.NodeId(tag, self._index), f"{self._index}:{tag}", 0.0) for tag in tags
        ]

    async def _write(self, stamps: Sequence[datetime]) -> None:
        from asyncua import ua

        for stamp in stamps:
            self._value += 0.5
            value = ua.DataValue(ua.Variant(self._value, ua.VariantType.Double), SourceTimestamp=stamp)
            for node in self._nodes:
                await self._server.write_attribute_value(node.nodeid, value)

    async def _start(self) -> None:
        self._relay = await asyncio.start_server(self._connected, "127.0.0.1", self._port)
        self._port = self._relay.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._relay.close()
        for near, far in self._writers.items():
            near.transport.abort()
            far.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _lie(self, data: bytes) -> None:
        for near in self._writers:
            near.write(data)

    async def _connected(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            far_reader, far = await asyncio.open_connection("127.0.0.1", self._server.bserver.port)
            self._writers[near] = far
            await asyncio.gather(_pump(reader, far), _pump(far_reader, near))
        except OSError:
            near.transport.abort()
        finally:
            self._writers.pop(near, None)
            self._tasks.discard(task)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):  # cut
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()
