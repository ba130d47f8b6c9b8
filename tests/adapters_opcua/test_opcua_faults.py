"""Cut, stalled and damaged connections between adapter and server."""

import asyncio
import itertools

import pytest
from iiot_dask_adapters.opcua import OpcUaAdapter
from iiot_dask_adapters.opcua import adapter as adapter_module
from iiot_dask_adapters.opcua import inbox as inbox_module
from iiot_dask_adapters.opcua import session as session_module

from iiot_dask.core.quality import Quality

G = Quality.GOOD


async def opened(context):
    adapter = OpcUaAdapter(context)
    await adapter.open(None)
    return adapter


def test_a_cut_connection_is_resumed_and_nothing_is_lost(kit):
    async def go():
        async with kit.Plant(5) as plant, kit.Proxy(plant.port) as proxy:
            adapter = await opened(kit.context(proxy.port, [f"v{i}" for i in range(5)]))
            got = await kit.drive(adapter, lambda c: "connected" in c.kinds() and len(c.rows) >= 5)
            for second in range(40):
                if second % 10 == 5:
                    proxy.cut()
                for i in range(5):
                    await plant.put(f"v{i}", float(second + 1), second)
                got.add(await adapter.read())
            got = await kit.drive(
                adapter, lambda c: all((39.0, 40.0, G) in c.seconds(f"s/line/v{i}") for i in range(5)), got
            )
            await adapter.close()
            return got

    got = asyncio.run(go())
    for i in range(5):
        seconds = [row for row in got.seconds(f"s/line/v{i}") if row[0] < 100]
        assert seconds == [(float(s), float(s + 1), G) for s in range(40)]
    reasons = [e.reason for e in got.events if e.kind == "connected"]
    assert any("resumed" in reason for reason in reasons)
    assert got.kinds().count("disconnected") == len(reasons) - 1


def test_a_lost_message_is_asked_for_again(kit, monkeypatch):
    """One publish response never reaches the reader; its sequence number is missed and the server sends it again."""
    real = session_module.read_publish
    numbers = itertools.count()

    def dropping(raw, start):
        publish = real(raw, start)
        if publish.parts and next(numbers) == 2:
            # As if it had been a keep-alive of another subscription: neither handed over nor acknowledged.
            return session_module.Publish(0, (), False, 0, ())
        return publish

    monkeypatch.setattr(session_module, "read_publish", dropping)

    async def go():
        async with kit.Plant(1) as plant:
            adapter = await opened(kit.context(plant.port, ["v0"]))
            got = await kit.drive(adapter, lambda c: "connected" in c.kinds() and len(c.rows))
            for second in range(8):
                await plant.put("v0", float(second + 1), second)
                await asyncio.sleep(0.05)  # a publishing interval apart: a message each
                got.add(await adapter.read())
            got = await kit.drive(adapter, lambda c: (7.0, 8.0, G) in c.seconds("s/line/v0"), got)
            await adapter.close()
            return got

    got = asyncio.run(go())
    assert [row for row in got.seconds("s/line/v0") if row[0] < 100] == [(float(s), float(s + 1), G) for s in range(8)]
    assert got.kinds() == ["connected"]
    assert next(numbers) > 3


def test_a_server_that_falls_silent_is_given_up_and_found_again(kit, monkeypatch):
    monkeypatch.setattr(session_module, "KEEP_ALIVE_S", 0.1)

    async def go():
        async with kit.Plant(1) as plant, kit.Proxy(plant.port) as proxy:
            adapter = await opened(kit.context(proxy.port, ["v0"], timeout="500ms"))
            got = await kit.drive(adapter, lambda c: "connected" in c.kinds() and len(c.rows))
            proxy.flow.clear()
            got = await kit.drive(adapter, lambda c: "disconnected" in c.kinds(), got)
            proxy.cut()
            proxy.flow.set()
            got = await kit.drive(adapter, lambda c: c.kinds().count("connected") == 2, got)
            await plant.put("v0", 5.0, 5)
            got = await kit.drive(adapter, lambda c: (5.0, 5.0, G) in c.seconds("s/line/v0"), got)
            await adapter.close()
            return got

    assert asyncio.run(go()).kinds() == ["connected", "disconnected", "connected"]


def test_a_server_whose_clock_stands_still_is_given_up(kit, monkeypatch):
    monkeypatch.setattr(adapter_module, "STUCK_S", 0.5)

    async def frozen(_self):
        return "2026-01-01"

    monkeypatch.setattr(session_module.Session, "server_time", frozen)

    async def go():
        async with kit.Plant(1) as plant:
            adapter = await opened(kit.context(plant.port, ["v0"], options={"watchdog": "100ms"}))
            got = await kit.drive(adapter, lambda c: c.kinds().count("connected") == 2)
            await adapter.close()
            return got

    got = asyncio.run(go())
    assert "stands still" in got.events[1].reason
    assert "a new session" in got.events[2].reason


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("noise", lambda _: b"\xff" * 4096),
        ("huge chunk", lambda data: data[:4] + b"\xff\xff\xff\x7f" + data[8:]),
        ("no body", lambda data: data[:8]),
        ("wrong type", lambda data: b"XYZ" + data[3:]),
        ("flipped", lambda data: data[:24] + bytes(b ^ 0x55 for b in data[24:])),
    ],
)
def test_damaged_messages_end_the_session_not_the_adapter(kit, name, damage):
    async def go():
        async with kit.Plant(1) as plant, kit.Proxy(plant.port) as proxy:
            adapter = await opened(kit.context(proxy.port, ["v0"], timeout="500ms"))
            got = await kit.drive(adapter, lambda c: "connected" in c.kinds() and len(c.rows))
            proxy.change = damage
            await plant.put("v0", 1.0, 1)
            got = await kit.drive(adapter, lambda c: {"disconnected", "malformed"} & set(c.kinds()), got)
            proxy.change = lambda data: data
            await plant.put("v0", 2.0, 2)
            got = await kit.drive(adapter, lambda c: (2.0, 2.0, G) in c.seconds("s/line/v0"), got)
            await adapter.close()
            return got

    got = asyncio.run(go())
    known = {(1.0, 1.0, G), (2.0, 2.0, G)}
    assert {row for row in got.seconds("s/line/v0") if row[0] < 100} <= known


def test_a_reader_that_does_not_read_holds_the_server_back_not_the_memory(kit, monkeypatch):
    monkeypatch.setattr(inbox_module, "ROWS_MAX", 50)

    async def go():
        async with kit.Plant(20) as plant:
            adapter = await opened(kit.context(plant.port, [f"v{i}" for i in range(20)], queue_size=1000))
            got = await kit.drive(adapter, lambda c: "connected" in c.kinds() and len(c.rows) >= 20)
            for second in range(50):
                for i in range(20):
                    await plant.put(f"v{i}", float(second + 1), second)
                await asyncio.sleep(0.01)
            waiting = adapter._inbox._waiting
            got = await kit.drive(
                adapter, lambda c: all((49.0, 50.0, G) in c.seconds(f"s/line/v{i}") for i in range(20)), got
            )
            await adapter.close()
            return waiting, got

    waiting, got = asyncio.run(go())
    assert waiting < 500  # at most the notification that reached the limit and one more
    for i in range(20):
        rows = [row[0] for row in got.seconds(f"s/line/v{i}") if row[0] < 100]
        assert rows == [float(s) for s in range(50)]
