"""A scripted Modbus TCP slave that shares no code with the client's stack, and a way to drive an adapter."""

import asyncio
import struct
from collections import Counter
from dataclasses import dataclass, field

import hypothesis
import numpy as np
import pytest
from iiot_dask_adapters.modbus import ModbusAdapter

from iiot_dask.adapter.contract import Context
from iiot_dask.core.batch import Batch
from iiot_dask.core.clock import SystemClock
from iiot_dask.core.config import Adapter
from iiot_dask.core.quality import Quality

# A loaded machine may stand still for a second; that is no finding.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


@dataclass
class Slave:
    """Answers reads from `words` (unit, function, address) -> value, default the address; faults are switches."""

    words: dict = field(default_factory=dict)
    units: set = field(default_factory=lambda: {1})
    illegal: set = field(default_factory=set)  # (unit, address)
    exception: dict = field(default_factory=dict)  # unit -> code
    longest: int = 125
    connections_max: int = 100
    mangle: object = None  # (frame, request number) -> bytes, list of bytes, or None for silence
    requests: list = field(default_factory=list)  # (unit, function, start, count)
    answered: Counter = field(default_factory=Counter)  # unit -> values answered
    connections: int = 0
    together: int = 0  # most connections at one time
    port: int = 0
    server: object = None
    writers: set = field(default_factory=set)

    async def start(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def stop(self):
        self.server.close()
        for writer in list(self.writers):
            writer.transport.abort()
        while self.writers:  # noqa: ASYNC110 -- each connection leaves in a turn of the loop or two
            await asyncio.sleep(0)
        await self.server.wait_closed()

    async def __aenter__(self):
        return await self.start()

    async def __aexit__(self, *_):
        await self.stop()

    async def serve(self, reader, writer):
        self.connections += 1
        self.writers.add(writer)
        self.together = max(self.together, len(self.writers))
        if len(self.writers) >= self.connections_max:
            self.server.close()  # further ones are refused
        try:
            while True:
                head = await reader.readexactly(7)
                tid, _, length, unit = struct.unpack(">HHHB", head)
                pdu = await reader.readexactly(length - 1)
                function, start, count = struct.unpack(">BHH", pdu[:5])
                self.requests.append((unit, function, start, count))
                if unit not in self.units:
                    continue
                body = self.answer(unit, function, start, count)
                frame = struct.pack(">HHHB", tid, 0, len(body) + 1, unit) + body
                out = self.mangle(frame, len(self.requests)) if self.mangle else frame
                if asyncio.iscoroutine(out):
                    out = await out
                for part in out if isinstance(out, list) else [out]:
                    if part == b"CLOSE":
                        writer.transport.abort()
                    elif part:
                        writer.write(part)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client left
        finally:
            self.writers.discard(writer)
            writer.close()

    def answer(self, unit, function, start, count):
        code = self.exception.get(unit)
        if code is None and any((unit, a) in self.illegal for a in range(start, start + count)):
            code = 2
        if code is None and count > self.longest:
            code = 3
        if code is not None:
            return bytes([function | 0x80, code])
        values = [self.words.get((unit, function, a), a) for a in range(start, start + count)]
        self.answered[unit] += count
        if function in (1, 2):
            packed = np.packbits(np.array([v & 1 for v in values], np.uint8), bitorder="little").tobytes()
            return bytes([function, len(packed)]) + packed
        return bytes([function, 2 * count]) + struct.pack(f">{count}H", *values)


class Collected:
    """Everything an adapter handed over."""

    def __init__(self):
        self.tags, self.batches, self.events = [], [], []

    def add(self, poll):
        self.tags += poll.tags
        self.events += poll.events
        if poll.batch is not None:
            self.batches.append(poll.batch)

    @property
    def rows(self):
        return Batch.concat(self.batches)

    def of(self, tag):
        rows = self.rows
        number = [t.tag for t in self.tags].index(tag)
        return rows.take(rows.tag == number)

    def last(self, tag):
        rows = self.of(tag)
        return (float(rows.value[-1]), Quality(int(rows.quality[-1]))) if len(rows) else None

    def kinds(self):
        return [event.kind for event in self.events]


def context_of(port, tags, scheme="tcp", **extra):
    config = {"name": "line", "kind": "modbus", "endpoint": f"{scheme}://127.0.0.1:{port}", "timeout": "200ms", **extra}
    config["tags"] = [{"scan": "20ms", **tag} for tag in tags]
    return Context(Adapter.model_validate(config), lambda reference: reference, SystemClock())


async def drive(adapter, until, collected=None, limit=600):
    """Read until `until(collected)` holds; the number of reads is bounded, so that a wrong adapter fails."""
    collected = collected or Collected()
    for _ in range(limit):
        collected.add(await adapter.read())
        if until(collected):
            return collected
    pytest.fail(f"not reached in {limit} reads; {len(collected.rows)} rows, events {collected.events[-5:]}")


async def opened(context):
    adapter = ModbusAdapter(context)
    await adapter.open(None)
    return adapter


@pytest.fixture
def kit():
    """The names above, as tests can not import a conftest."""

    class Kit:
        pass

    Kit.Slave, Kit.Collected, Kit.context, Kit.drive, Kit.opened = Slave, Collected, context_of, drive, opened
    for name in ("context", "drive", "opened"):
        setattr(Kit, name, staticmethod(getattr(Kit, name)))
    return Kit
