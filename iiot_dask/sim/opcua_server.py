"""The OPC UA side: an asyncua server with one variable a tag, written with source timestamps.

The only file of the simulator that knows asyncua.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from iiot_dask.sim.factory import Factory
from iiot_dask.sim.plant import OPCUA_NAMESPACE
from iiot_dask.sim.signal import KINDS

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_TYPES = {"energy": "UInt32", "rpm": "Int16", "valve": "Boolean", "setpoint": "Float"}
"""Variant type by kind; all others are Double."""


class OpcUaServer:
    """The server; variables wait for their first value (BadWaitingForInitialData) until `write`."""

    def __init__(self, factory: Factory) -> None:
        self._factory = factory
        self._server: Any = None
        self._nodes: dict[int, tuple[Any, Any, type]] = {}
        self.port = 0

    @property
    def endpoint(self) -> str:
        """``opc.tcp://127.0.0.1:PORT``."""
        return f"opc.tcp://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Build the address space and listen on a port the system chooses."""
        from asyncua import Server, ua

        server = Server()
        await server.init()
        server.set_endpoint("opc.tcp://127.0.0.1:0")
        server.set_server_name("Simulated factory")
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        index = await server.register_namespace(OPCUA_NAMESPACE)
        await self._build(server, index)
        await server.start()
        self.port = server.bserver.port
        self._server = server

    async def _build(self, server: Any, index: int) -> None:
        from asyncua import ua

        factory = self._factory
        waiting = ua.StatusCode(ua.StatusCodes.BadWaitingForInitialData)
        for number in factory.of("opcua"):
            device = factory.devices[number]
            folder = await server.nodes.objects.add_object(ua.NodeId(device.path, index), f"{index}:{device.path}")
            for tag in range(device.start, device.stop):
                kind = KINDS[factory.kind[tag]].name
                variant = ua.VariantType[_TYPES.get(kind, "Double")]
                convert = {"Boolean": bool, "UInt32": int, "Int16": int}.get(variant.name, float)
                name = factory.names[tag]
                node = await folder.add_variable(ua.NodeId(name, index), f"{index}:{kind}", convert(0), variant)
                await server.write_attribute_value(node.nodeid, ua.DataValue(StatusCode=waiting))
                self._nodes[tag] = (node.nodeid, variant, convert)

    async def write(self, tag: Ints, time_ns: Ints, value: Floats) -> None:
        """Set variables in the order given; `time_ns` (ns UTC, whole ms) becomes the source timestamp."""
        from asyncua import ua

        attribute = ua.AttributeIds.Value
        space = self._server.iserver.aspace
        stamp_ns, stamp = -1, datetime.now(UTC)
        for number, ns, raw in zip(tag.tolist(), time_ns.tolist(), value.tolist(), strict=True):
            node, variant, convert = self._nodes[number]
            if ns != stamp_ns:
                stamp_ns, stamp = ns, datetime.fromtimestamp(ns / 1e9, UTC)
            await space.write_attribute_value(
                node, attribute, ua.DataValue(ua.Variant(convert(raw), variant), SourceTimestamp=stamp)
            )

    async def stop(self) -> None:
        """Close every session and the listener."""
        if self._server is not None:
            await self._server.stop()
            self._server = None
