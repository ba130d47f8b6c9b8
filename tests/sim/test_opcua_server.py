"""The OPC UA side, read by asyncua's own client."""

import asyncio

import numpy as np
from asyncua import Client, ua

from iiot_dask.sim.factory import Factory
from iiot_dask.sim.opcua_server import OpcUaServer
from iiot_dask.sim.plant import OPCUA_NAMESPACE
from iiot_dask.sim.signal import KINDS

START = 1_700_000_000 * 10**9


class Handler:
    def __init__(self):
        self.seen = []
        self.more = asyncio.Event()

    def datachange_notification(self, node, value, data):
        self.seen.append((node.nodeid.Identifier, data.monitored_item.Value))
        self.more.set()


async def collect(handler, wanted):
    while len(handler.seen) < wanted:
        handler.more.clear()
        await asyncio.wait_for(handler.more.wait(), 20)


async def serve(factory, body):
    server = OpcUaServer(factory)
    await server.start()
    try:
        async with Client(server.endpoint) as client:
            index = await client.get_namespace_index(OPCUA_NAMESPACE)
            tags = np.concatenate(
                [np.arange(factory.devices[d].start, factory.devices[d].stop) for d in factory.of("opcua")]
            )
            nodes = [client.get_node(ua.NodeId(factory.names[t], index)) for t in tags]
            return await body(server, client, tags, nodes)
    finally:
        await server.stop()


def test_variables_wait_for_their_first_value():
    async def body(_server, _client, _tags, nodes):
        return [await node.read_data_value(raise_on_bad_status=False) for node in nodes]

    values = asyncio.run(serve(Factory(tags=100), body))
    assert len(values) == 20
    assert {v.StatusCode.value for v in values} == {ua.StatusCodes.BadWaitingForInitialData}
    assert {v.SourceTimestamp for v in values} == {None}


def test_every_write_reaches_a_subscriber_with_its_source_time():
    factory = Factory(tags=100, seed=2)

    async def body(server, client, tags, nodes):
        handler = Handler()
        subscription = await client.create_subscription(20, handler)
        every = ua.DataChangeFilter(Trigger=ua.DataChangeTrigger.StatusValueTimestamp)
        requests = [
            ua.MonitoredItemCreateRequest(
                ua.ReadValueId(node.nodeid, ua.AttributeIds.Value),
                ua.MonitoringMode.Reporting,
                ua.MonitoringParameters(1000 + handle, 0.0, every, 1000, True),
            )
            for handle, node in enumerate(nodes)
        ]
        assert all(isinstance(made, int) for made in await subscription.create_monitored_items(requests))
        await collect(handler, len(tags))
        first = list(handler.seen)
        handler.seen.clear()
        tag, t, value = factory.samples(0, 5 * 10**9, factory.of("opcua"))
        await server.write(tag, START + t, value)
        await collect(handler, len(tag))
        return first, handler.seen, (tag, t, value)

    first, seen, (tag, t, value) = asyncio.run(serve(factory, body))
    assert {dv.StatusCode.value for _, dv in first} == {ua.StatusCodes.BadWaitingForInitialData}
    sent = {(factory.names[n], int(ms), v) for n, ms, v in zip(tag, (START + t) // 10**6, value, strict=True)}
    got = {(name, round(dv.SourceTimestamp.timestamp() * 1000), float(dv.Value.Value)) for name, dv in seen}
    assert len(got) == len(seen)
    assert got == sent
    types = {name.rsplit("/", 1)[1]: dv.Value.VariantType for name, dv in seen}
    assert types["energy"] == ua.VariantType.UInt32
    assert types["valve"] == ua.VariantType.Boolean
    assert types["setpoint"] == ua.VariantType.Float
    assert types["temperature"] == ua.VariantType.Double


def test_devices_can_be_browsed():
    factory = Factory(tags=100)

    async def body(_server, client, _tags, _nodes):
        index = await client.get_namespace_index(OPCUA_NAMESPACE)
        found = {}
        for child in await client.nodes.objects.get_children():
            if child.nodeid.NamespaceIndex == index:
                found[child.nodeid.Identifier] = [
                    (await v.read_browse_name()).Name for v in await child.get_variables()
                ]
        return found

    found = asyncio.run(serve(factory, body))
    assert list(found) == [factory.devices[d].path for d in factory.of("opcua")]
    assert found[next(iter(found))] == [k.name for k in KINDS[:10]]
