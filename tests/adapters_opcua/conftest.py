"""An asyncua server on loopback whose variables tests change, and a way to drive an adapter."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from asyncua import Server, ua

from iiot_dask.adapter.contract import Context
from iiot_dask.core.batch import Batch
from iiot_dask.core.clock import SystemClock
from iiot_dask.core.config import Adapter
from iiot_dask.core.quality import Quality

URI = "urn:test:plant"
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
START_NS = int(START.timestamp()) * 1_000_000_000


class Plant:
    """A server with `n` Double variables ``ns;s=Line/v<i>`` below the object ``ns;s=Line``."""

    def __init__(self, n=3, port=0, extra_namespace=False):
        self.n, self.port, self.extra = n, port, extra_namespace
        self.nodes = {}

    async def start(self):
        self.server = Server()
        await self.server.init()
        self.server.set_endpoint(f"opc.tcp://127.0.0.1:{self.port}")
        self.server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        if self.extra:
            await self.server.register_namespace("urn:test:other")
        self.index = await self.server.register_namespace(URI)
        self.line = await self.server.nodes.objects.add_object(ua.NodeId("Line", self.index), f"{self.index}:Line")
        for i in range(self.n):
            await self.add(f"v{i}", 0.0)
        await self.server.start()
        self.port = self.server.bserver.port
        return self

    async def add(self, name, value, variant=None, parent=None):
        parent = parent or self.line
        node = await parent.add_variable(ua.NodeId(f"Line/{name}", self.index), f"{self.index}:{name}", value, variant)
        self.nodes[name] = node
        return node

    async def put(self, name, value, second, status=0, variant=ua.VariantType.Double, source=True):
        data = ua.DataValue(
            ua.Variant(value, variant) if value is not None else ua.Variant(),
            StatusCode=ua.StatusCode(status),
            SourceTimestamp=START + timedelta(seconds=second) if source else None,
        )
        await self.server.write_attribute_value(self.nodes[name].nodeid, data)

    async def stop(self):
        await self.server.stop()

    async def __aenter__(self):
        return await self.start()

    async def __aexit__(self, *_):
        await self.stop()


class Collected:
    """Everything an adapter handed over."""

    def __init__(self):
        self.tags, self.batches, self.events = [], [], []

    def add(self, poll):
        self.tags += poll.tags
        self.events += poll.events
        if poll.batch is not None:
            assert poll.batch.tag.max() < len(self.tags)
            self.batches.append(poll.batch)

    @property
    def rows(self):
        return Batch.concat(self.batches)

    def of(self, tag):
        rows = self.rows
        number = [t.tag for t in self.tags].index(tag)
        return rows.take(rows.tag == number)

    def seconds(self, tag):
        """(seconds since START, value, quality) of each row."""
        rows = self.of(tag)
        return [
            ((t - START_NS) / 1e9, v, Quality(q))
            for t, v, q in zip(rows.time.tolist(), rows.value.tolist(), rows.quality.tolist(), strict=True)
        ]

    def kinds(self):
        return [event.kind for event in self.events]


def context_of(port, names=(), secrets=None, classes=(), **extra):
    config = {"name": "plc", "kind": "opcua", "endpoint": f"opc.tcp://127.0.0.1:{port}", "timeout": "2s", **extra}
    config["tags"] = [
        {"tag": f"s/line/{name}", "node": node} if isinstance(name, str) else name
        for name, node in ((n, f"nsu={URI};s=Line/{n}") for n in names)
    ]
    config["options"] = {"publish": "20ms", "retry": "100ms", "watchdog": "200ms", **extra.get("options", {})}
    return Context(Adapter.model_validate(config), lambda reference: (secrets or {})[reference], SystemClock(), classes)


async def drive(adapter, until, collected=None, limit=300):
    """Read until `until(collected)` holds; the number of reads is bounded, so that a wrong adapter fails."""
    collected = collected or Collected()
    for _ in range(limit):
        collected.add(await adapter.read())
        if until(collected):
            return collected
    pytest.fail(f"not reached in {limit} reads; {len(collected.rows)} rows, events {collected.events[-5:]}")


class Proxy:
    """A TCP relay in front of a server: cut every connection, refuse new ones, hold back or alter what the server sends."""

    def __init__(self, port):
        self.target = port
        self.writers = set()
        self.tasks = set()
        self.change = lambda data: data
        self.flow = asyncio.Event()
        self.flow.set()

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()
        self.cut()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def cut(self):
        for writer in list(self.writers):
            writer.transport.abort()

    async def serve(self, reader, writer):
        self.tasks.add(asyncio.current_task())
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self.writers |= {writer, far_writer}
        await asyncio.gather(self.pump(reader, far_writer, up=True), self.pump(far_reader, writer, up=False))

    async def pump(self, reader, writer, *, up):
        try:
            while data := await reader.read(65536):
                if not up:
                    await self.flow.wait()
                    data = self.change(data)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # cut
        finally:
            writer.close()
            self.writers.discard(writer)


@pytest.fixture
def kit():
    class Kit:
        """The names above, as tests can not import a conftest."""

    Kit.Plant, Kit.Proxy, Kit.Collected, Kit.URI, Kit.START_NS = Plant, Proxy, Collected, URI, START_NS
    Kit.context, Kit.drive = staticmethod(context_of), staticmethod(drive)
    return Kit
