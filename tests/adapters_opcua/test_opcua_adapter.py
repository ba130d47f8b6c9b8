"""The adapter against an asyncua server on loopback."""

import asyncio

import numpy as np
import pytest
from asyncua import ua
from iiot_dask_adapters.opcua import OpcUaAdapter

from iiot_dask.core.errors import ConfigError
from iiot_dask.core.quality import Quality

G = Quality.GOOD


async def opened(context):
    adapter = OpcUaAdapter(context)
    await adapter.open(None)
    return adapter


def up(c):
    return "connected" in c.kinds()


def test_values_times_and_qualities(kit):
    async def go():
        async with kit.Plant(1) as plant:
            await plant.add("flag", value=True)
            await plant.add("count", 0, ua.VariantType.UInt32)
            adapter = await opened(kit.context(plant.port, ["v0", "flag", "count"], classes=(("*/v?", 10**9),)))
            got = await kit.drive(adapter, up)
            await plant.put("v0", 1.5, 1)
            await plant.put("v0", 2.5, 2, ua.StatusCodes.UncertainLastUsableValue)
            await plant.put("v0", None, 3, ua.StatusCodes.BadSensorFailure)
            await plant.put("v0", 4.5, 4)
            await plant.put("flag", True, 5, variant=ua.VariantType.Boolean)
            await plant.put("flag", False, 6, variant=ua.VariantType.Boolean)
            await plant.put("count", 4_000_000_000, 7, variant=ua.VariantType.UInt32)
            got = await kit.drive(adapter, lambda c: (7.0, 4e9, G) in c.seconds("s/line/count"), got)
            got.add(await adapter.finish())
            await adapter.close()
            return got

    got = asyncio.run(go())
    assert got.seconds("s/line/v0")[-4:] == [
        (1.0, 1.5, G), (2.0, 2.5, Quality.UNCERTAIN_LAST_USABLE), (3.0, pytest.approx(np.nan, nan_ok=True),
        Quality.BAD_SENSOR_FAILURE), (4.0, 4.5, G),
    ]  # fmt: skip
    assert got.seconds("s/line/flag")[-1] == (6.0, 0.0, G)
    assert [t.tag for t in got.tags] == ["s/line/v0", "s/line/flag", "s/line/count"]
    assert (got.tags[0].device, got.tags[0].period_ns, got.tags[1].period_ns) == ("s/line", 10**9, None)
    assert (got.rows.received > got.rows.time).all()
    assert got.kinds() == ["connected"]


def test_500_variables_changed_10_times_come_exactly_once(kit):
    async def go():
        async with kit.Plant(500) as plant:
            names = [f"v{i}" for i in range(500)]
            adapter = await opened(kit.context(plant.port, names))
            got = await kit.drive(adapter, up)
            first = await kit.drive(adapter, lambda c: len(got.rows) + len(c.rows) >= 500)
            for change in range(10):
                for i, name in enumerate(names):
                    await plant.put(name, 1000.0 * change + i + 1, change)
                got.add(await adapter.read())
            got = await kit.drive(adapter, lambda c: len(c.rows) + len(first.rows) >= 5500, got)
            got.add(await adapter.finish())
            await adapter.close()
            return got

    got = asyncio.run(go())
    rows = got.rows.take(got.rows.time < kit.START_NS + 20 * 10**9)
    assert len(rows) == 5000
    change = (rows.time - kit.START_NS) // 10**9
    assert (rows.value == 1000.0 * change + rows.tag + 1).all()
    assert len(set(zip(rows.tag.tolist(), change.tolist(), strict=True))) == 5000
    assert set(got.kinds()) == {"connected"}


def test_one_bad_node_never_stops_the_others_and_comes_late(kit):
    async def go():
        async with kit.Plant(2) as plant:
            adapter = await opened(kit.context(plant.port, ["v0", "late", "v1"]))
            got = await kit.drive(adapter, lambda c: "rejected" in c.kinds())
            await plant.put("v0", 1.0, 1)
            await plant.put("v1", 2.0, 1)
            got = await kit.drive(adapter, lambda c: (1.0, 2.0, G) in c.seconds("s/line/v1"), got)
            await plant.add("late", 0.0)
            await plant.put("late", 3.0, 3)
            got = await kit.drive(adapter, lambda c: (3.0, 3.0, G) in c.seconds("s/line/late"), got)
            await adapter.close()
            return got

    got = asyncio.run(go())
    rejected = [e for e in got.events if e.kind == "rejected"]
    assert len(rejected) == 1
    assert "s/line/late" in rejected[0].reason
    assert "BadNodeIdUnknown" in rejected[0].reason
    assert (1.0, 1.0, G) in got.seconds("s/line/v0")


@pytest.mark.parametrize("shuffled", [False, True])
def test_server_restarts_on_the_same_port(kit, shuffled):
    async def go():
        plant = await kit.Plant(2).start()
        adapter = await opened(kit.context(plant.port, ["v0", "v1"]))
        got = await kit.drive(adapter, up)
        await plant.put("v0", 1.0, 1)
        got = await kit.drive(adapter, lambda c: (1.0, 1.0, G) in c.seconds("s/line/v0"), got)
        await plant.stop()
        got = await kit.drive(adapter, lambda c: "disconnected" in c.kinds(), got)
        again = await kit.Plant(2, plant.port, extra_namespace=shuffled).start()
        assert (again.index != plant.index) == shuffled
        got = await kit.drive(adapter, lambda c: c.kinds().count("connected") == 2, got)
        await again.put("v0", 2.0, 20)
        await again.put("v1", 3.0, 20)
        got = await kit.drive(adapter, lambda c: (20.0, 3.0, G) in c.seconds("s/line/v1"), got)
        await adapter.close()
        await again.stop()
        return got

    got = asyncio.run(go())
    assert got.kinds() == ["connected", "disconnected", "connected"]
    assert got.events[1].node == "plc"
    times = got.of("s/line/v0").time
    assert len(set(times.tolist())) == len(times)


def test_nobody_there_at_start_is_reported_once_and_retried(kit):
    async def go():
        plant = await kit.Plant(1).start()
        await plant.stop()
        adapter = await opened(kit.context(plant.port, ["v0"]))
        got = await kit.drive(adapter, lambda c: "disconnected" in c.kinds())
        for _ in range(10):
            got.add(await adapter.read())
        assert got.kinds() == ["disconnected"]
        assert len(got.tags) == 1
        await plant.start()
        got = await kit.drive(adapter, up, got)
        await adapter.close()
        await plant.stop()

    asyncio.run(go())


def test_overflow_at_the_server_is_an_event(kit):
    """The asyncua server drops without saying so; the status (good, info type DataValue, overflow) is written instead."""

    async def go():
        async with kit.Plant(1) as plant:
            adapter = await opened(kit.context(plant.port, ["v0"]))
            got = await kit.drive(adapter, lambda c: up(c) and len(c.rows))
            await plant.put("v0", 5.0, 1, 0x0000_0480)
            got = await kit.drive(
                adapter, lambda c: "overflow" in c.kinds() and (1.0, 5.0, G) in c.seconds("s/line/v0"), got
            )
            await adapter.close()
            return got

    got = asyncio.run(go())
    event = next(e for e in got.events if e.kind == "overflow")
    assert event.node == "s/line"
    assert "s/line/v0" in event.reason


def test_waiting_for_initial_data_is_no_row_but_later_badness_is(kit):
    async def go():
        async with kit.Plant(1) as plant:
            await plant.server.write_attribute_value(
                plant.nodes["v0"].nodeid,
                ua.DataValue(StatusCode=ua.StatusCode(ua.StatusCodes.BadWaitingForInitialData)),
            )
            adapter = await opened(kit.context(plant.port, ["v0"]))
            got = await kit.drive(adapter, up)
            for _ in range(5):
                got.add(await adapter.read())
            assert len(got.rows) == 0
            await plant.put("v0", 1.0, 1)
            await plant.put("v0", None, 2, ua.StatusCodes.BadWaitingForInitialData)
            got = await kit.drive(adapter, lambda c: len(c.rows) == 2, got)
            await adapter.close()
            return got

    got = asyncio.run(go())
    assert got.of("s/line/v0").quality.tolist() == [G, Quality.BAD_WAITING]


def test_no_source_time_is_replaced_and_said(kit):
    async def go():
        async with kit.Plant(1) as plant:
            adapter = await opened(kit.context(plant.port, ["v0"]))
            got = await kit.drive(adapter, lambda c: up(c) and len(c.rows))
            await plant.put("v0", 7.0, 0, source=False)
            got = await kit.drive(adapter, lambda c: 7.0 in c.rows.value, got)
            await adapter.close()
            return got

    got = asyncio.run(go())
    row = got.rows.take(got.rows.value == 7.0)
    assert row.quality.tolist() == [Quality.UNCERTAIN_TIME_REPLACED]
    assert abs(int(row.time[0] - row.received[0])) < 60 * 10**9


def test_what_is_no_number_is_counted_not_stored(kit):
    async def go():
        async with kit.Plant(1) as plant:
            await plant.add("text", "one")
            await plant.add("list", [1.0, 2.0])
            adapter = await opened(kit.context(plant.port, ["v0", "text", "list"]))
            got = await kit.drive(adapter, lambda c: up(c) and "rejected" in c.kinds())
            await plant.put("text", "123", 1, variant=ua.VariantType.String)
            await plant.put("v0", 1.0, 1)
            got = await kit.drive(adapter, lambda c: (1.0, 1.0, G) in c.seconds("s/line/v0"), got)
            await adapter.close()
            return got

    got = asyncio.run(go())
    assert set(got.rows.tag.tolist()) == {0}
    rejected = [e for e in got.events if e.kind == "rejected"]
    assert "s/line/text" in rejected[0].reason
    assert rejected[0].count == 2


def test_browsing_finds_numbers_once_and_names_them(kit):
    async def go():
        async with kit.Plant(2) as plant:
            motor = await plant.line.add_object(ua.NodeId("Line/Motor", plant.index), f"{plant.index}:Motor")
            await plant.add("speed", 1.0, parent=motor)
            await plant.add("label", "text")
            await plant.add("list", [1.0, 2.0])
            await plant.add("on", value=True)
            await motor.add_reference(plant.line.nodeid, ua.ObjectIds.Organizes)  # a cycle
            context = kit.context(plant.port, ["v0"], browse=[f"nsu={kit.URI};s=Line", "ns=2;s=Nowhere"])
            adapter = await opened(context)
            got = await kit.drive(adapter, up)
            await plant.put("speed", 5.0, 5)
            got = await kit.drive(adapter, lambda c: 5.0 in c.rows.value, got)
            await adapter.close()
            return got

    got = asyncio.run(go())
    assert [t.tag for t in got.tags] == ["s/line/v0", "plc/Line/v1", "plc/Line/on", "plc/Line/Motor/speed"]
    assert [t.kind for t in got.tags] == [None, None, "state", None]
    assert got.tags[3].device == "plc/Line/Motor"
    assert (5.0, 5.0, G) in got.seconds("plc/Line/Motor/speed")
    reasons = {e.kind: e.reason for e in got.events}
    assert "2 variables are no single numbers" in reasons["info"]
    assert "Nowhere" in reasons["rejected"]


def test_user_and_password_are_sent(kit):
    class Users:
        def get_user(self, _server, username=None, password=None, certificate=None):
            from asyncua.server.user_managers import User, UserRole

            del certificate
            return User(role=UserRole.User) if (username, password) == ("ann", "secret") else None

    async def go(password):
        plant = kit.Plant(1)
        adapter = None
        await plant.start()
        plant.server.iserver.user_manager = Users()
        plant.server.iserver.isession.user_manager = Users()
        try:
            context = kit.context(plant.port, ["v0"], {"env:P": password}, username="ann", password="env:P")
            found = await OpcUaAdapter.check(context)
            adapter = await opened(context)
            got = await kit.drive(adapter, lambda c: c.kinds())
            return found, got
        finally:
            await adapter.close()
            await plant.stop()

    found, got = asyncio.run(go("secret"))
    assert (found, got.kinds()) == ([], ["connected"])
    found, got = asyncio.run(go("wrong"))
    assert "BadUserAccessDenied" in found[0] or "BadIdentityTokenRejected" in found[0]
    assert got.kinds() == ["disconnected"]
    assert "wrong" not in found[0] + got.events[0].reason


def test_check_names_what_is_wrong(kit):
    async def go():
        async with kit.Plant(1) as plant:
            await plant.add("text", "one")
            context = kit.context(plant.port, ["v0", "missing", "text"], browse=["ns=9;s=X"])
            found = await OpcUaAdapter.check(context)
            fine = await OpcUaAdapter.check(kit.context(plant.port, ["v0"]))
        return found, fine, await OpcUaAdapter.check(context)

    found, fine, refused = asyncio.run(go())
    assert fine == []
    assert len(found) == 3
    assert "'s/line/missing'" in found[0]
    assert "BadNodeIdUnknown" in found[0]
    assert "String" in found[1]
    assert "browse 'ns=9;s=X'" in found[2]
    assert len(refused) == 1
    assert "connecting to" in refused[0]


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"endpoint": "tcp://x"}, "opc.tcp"),
        ({"options": {"publsh": 1}}, "options.publsh"),
        ({"browse": ["Line"]}, "no node id"),
        ({"security_policy": "Basic256"}, "supported"),
        ({"security_policy": "Basic256Sha256"}, "'certificate'"),
        ({"security_mode": "Sign"}, "both or neither"),
    ],
)
def test_wrong_configuration_is_a_sentence(kit, extra, said):
    async def go():
        adapter = OpcUaAdapter(kit.context(1, ["v0"], **extra))
        await adapter.open(None)

    with pytest.raises(ConfigError, match=said):
        asyncio.run(go())
