"""`PlantRun`: the servers of a simulated factory, driven from one asyncio loop by a tick."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from iiot_dask.core.clock import Clock
from iiot_dask.sim import broker as brokers
from iiot_dask.sim.factory import MS, PROTOCOLS, Factory
from iiot_dask.sim.fault import Fault
from iiot_dask.sim.json_publisher import JsonPublisher
from iiot_dask.sim.ledger import Ledger, write
from iiot_dask.sim.modbus_server import ModbusServer, Registers
from iiot_dask.sim.mqtt_bulk import BulkPublisher
from iiot_dask.sim.mqtt_session import MqttSession
from iiot_dask.sim.opcua_server import OpcUaServer
from iiot_dask.sim.sparkplug_node import SparkplugNode

TICK_S = 0.025
WINDOW_NS_MAX = 500 * MS
"""Most plant time one tick sends; a plant too big for its machine falls behind (`late_s_max`) in bounded steps."""
DRAIN_S = 10.0
"""Longest wait for the broker's acknowledgements after the last sample, seconds."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Emit = Callable[..., None]


class PlantRun:
    """All servers of one factory.

    `open` makes every endpoint reachable, `begin` makes devices send, `quiesce` makes them stop, `close` ends the servers
    and writes the truth. Modbus devices answer from `open` to `close`, with frozen values outside begin..quiesce.

    Parameters
    ----------
    factory
        The plant.
    broker
        ``auto``, ``mosquitto`` or ``amqtt``.
    directory
        Where the broker's files and the truth go.
    clock
        Wall and steady time.
    emit
        Called with an event's name and its fields.
    """

    def __init__(
        self, factory: Factory, broker: brokers.BrokerName, directory: Path, *, clock: Clock, emit: Emit
    ) -> None:
        self.factory = factory
        self._directory = directory
        self._clock = clock
        self._emit = emit
        self._ledger = Ledger()
        self._broker = brokers.make(broker, directory)
        self._start_ns = self._start_steady_ns = self._stop_ns = 0
        self._frozen_ns = 0
        self._running = False
        self._task: asyncio.Task[None] | None = None
        self._pending: list[Fault] = sorted(factory.faults, key=lambda f: f.start_s)
        self._happened: list[dict[str, Any]] = []
        self._on: dict[int, Fault] = {}
        self._late_ns_max = 0
        own, *shared = factory.of("modbus").tolist()
        self._modbus = [
            ModbusServer(Registers(factory, np.array(part), self._now, self._served)) for part in (shared, [own])
        ]
        self._opcua = OpcUaServer(factory)
        self._sending: Ints = np.flatnonzero(factory.protocol != PROTOCOLS.index("modbus"))
        self._json: JsonPublisher
        self._node: SparkplugNode
        self._bulk: BulkPublisher | None = None
        self._edge: MqttSession | None = None
        self.failed = ""

    def _now(self) -> int:
        """The plant's time in ns since its start; 0 before it, standing still after it."""
        return self._clock.monotonic_ns() - self._start_steady_ns if self._running else self._frozen_ns

    def _served(self, tags: Ints, values: Floats) -> None:
        self._ledger.add(tags, np.full(len(tags), self._clock.now_ns()), values, acknowledged=True)

    def _lost(self, reason: str) -> None:
        self.failed = reason
        self._emit("error", reason=reason)

    async def open(self) -> dict[str, str]:
        """Start every server; returns the endpoint of each adapter of the plant file."""
        # The broker first: a child is forked before this process has threads.
        self._broker.start()
        for server in self._modbus:
            await server.start()
        await self._opcua.start()
        port = self._broker.port
        bulk = BulkPublisher("sim-json", port, self._ledger.acknowledge_rows, self._lost)
        edge = MqttSession("sim-edge1", port, self._ledger.acknowledge, self._lost)
        self._json = JsonPublisher(self.factory, bulk, self._ledger)
        self._node = SparkplugNode(self.factory, edge, self._ledger, self._sample)
        self._bulk, self._edge = bulk, edge
        await bulk.connect()
        return {
            "presses": self._modbus[0].endpoint,
            "compressor": self._modbus[1].endpoint,
            "robots": self._opcua.endpoint,
            "cells": f"mqtt://127.0.0.1:{port}",
        }

    @property
    def broker(self) -> str:
        """Name of the broker in use."""
        return self._broker.name

    def _sample(self, tags: Ints) -> tuple[int, Floats]:
        """Values now, at a time in whole ms."""
        t_ns = self._now() // MS * MS
        return self._start_ns + t_ns, self.factory.values(tags, np.full(len(tags), t_ns))

    async def begin(self) -> None:
        """Let the devices send; the plant's time starts now, in whole ms. Asked again, it only says so again."""
        if self._start_ns or self._edge is None:
            self._emit("started", ns=self._start_ns)
            return
        await self._edge.connect()
        self._start_ns = self._clock.now_ns() // MS * MS
        self._start_steady_ns = self._clock.monotonic_ns()
        self._running = True
        self._node.start()
        self._emit("started", ns=self._start_ns)
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._lost(f"tick failed: {type(error).__name__}: {error}")

    async def _run(self) -> None:
        done = 0
        while self._running:
            now = min(self._now() // MS * MS, done + WINDOW_NS_MAX)
            await self._tick(done, now)
            late = self._now() - now
            self._late_ns_max = max(self._late_ns_max, late)
            done = now
            await asyncio.sleep(max(0.0, TICK_S - late / 1e9))

    async def _tick(self, t0: int, t1: int) -> None:
        await self._turn_faults(t1)
        device, t_ns = self.factory.reports(t0, t1, self._sending)
        if not len(device):
            return
        tag, at = self.factory.tags_of(device)
        times = t_ns[at]
        value = self.factory.values(tag, times)
        protocol = self.factory.protocol[device[at]]
        utc = self._start_ns + times
        rows = protocol == PROTOCOLS.index("json")
        await self._json.publish(tag[rows], utc[rows], value[rows])
        await self._send_corrupt(device)
        for k in np.flatnonzero(self.factory.protocol[device] == PROTOCOLS.index("sparkplug")).tolist():
            mine = at == k
            self._node.publish(int(device[k]), self._start_ns + int(t_ns[k]), tag[mine], value[mine])
        rows = protocol == PROTOCOLS.index("opcua")
        if rows.any():
            self._ledger.add(tag[rows], utc[rows], value[rows], acknowledged=True)
            await self._opcua.write(tag[rows], utc[rows], value[rows])

    async def _send_corrupt(self, device: Ints) -> None:
        for fault in self._on.values():
            if fault.kind != "corrupt":
                continue
            for number in device.tolist():
                found = self.factory.devices[number]
                if found.path == fault.node:
                    await self._json.corrupt(fault.node, np.arange(found.start, found.stop))

    async def _turn_faults(self, t_ns: int) -> None:
        t_s = t_ns / 1e9
        for row, fault in list(self._on.items()):
            if not fault.active(t_s):
                if fault.kind == "outage":
                    await self._modbus[1].start()
                del self._on[row]
                self._happened[row]["end_ns"] = self._moment(fault, fault.end_s)
                self._emit("fault_end", **self._happened[row])
        while self._pending and self._pending[0].start_s <= t_s:
            fault = self._pending.pop(0)
            if not fault.active(t_s):
                continue
            if fault.kind == "outage":
                await self._modbus[1].stop()
            self._on[len(self._happened)] = fault
            start_ns = self._moment(fault, fault.start_s)
            self._happened.append({"kind": fault.kind, "node": fault.node, "start_ns": start_ns, "end_ns": None})
            self._emit("fault_start", **self._happened[-1])

    def _moment(self, fault: Fault, at_s: float) -> int:
        """A flatline follows the plan to the ns (it is part of the signals); the others happen when they happen."""
        return self._start_ns + (round(at_s * 1e9) if fault.kind == "flatline" else self._now())

    async def quiesce(self) -> None:
        """Stop sending and wait until the broker has acknowledged everything; servers stay up."""
        drained = True
        if self._running:
            self._frozen_ns = self._now()
            self._running = False
            if self._task is not None:
                await asyncio.wait([self._task])
            self._node.stop()
            self._stop_ns = self._clock.now_ns()
            drained = all([await s.drain(DRAIN_S) for s in (self._bulk, self._edge) if s is not None])
        self._emit("stopped", ns=self._stop_ns, rows=len(self._ledger), drained=drained)

    async def close(self) -> None:
        """Stop sending, end the servers, write truth.parquet and truth.json into the directory."""
        await self.quiesce()
        if self._start_ns:
            self._node.die()
        for session in (self._bulk, self._edge):
            if session is not None:
                await session.close()
        for server in self._modbus:
            await server.stop()
        await self._opcua.stop()
        self._broker.stop()
        samples = self._ledger.frame(
            self.factory.names, self.factory.protocol[self.factory.device_of], tuple(PROTOCOLS)
        )
        write(self._directory, samples, self._info())
        self._emit("truth", rows=len(samples), directory=str(self._directory))

    def _info(self) -> dict[str, Any]:
        times = os.times()
        return {
            "version": 1,
            "factory": self.factory.to_dict(),
            "broker": self._broker.name,
            "start_ns": self._start_ns,
            "stop_ns": self._stop_ns,
            "rows": len(self._ledger),
            "acknowledged_rows": self._ledger.acknowledged_rows,
            "truncated_rows": self._ledger.truncated_rows,
            "refused": self._edge.refused if self._edge is not None else 0,
            "malformed": self._json.malformed if self._bulk is not None else {},
            "rebirths": self._node.rebirths if self._edge is not None else 0,
            "faults": self._happened,
            "cpu_s": round(times.user + times.system, 3),
            "late_s_max": round(self._late_ns_max / 1e9, 3),
            "failed": self.failed,
        }
