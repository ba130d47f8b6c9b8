"""The adapter against a scripted slave on loopback: what is answered is delivered, once, and nothing else."""

import asyncio
import itertools

import numpy as np
import pytest
from iiot_dask_adapters.modbus import ModbusAdapter

from iiot_dask.core.errors import ConfigError
from iiot_dask.core.quality import Quality


def words(n, start=0, **extra):
    return [{"tag": f"s/dev/t{i}", "address": f"holding:{start + i}", "type": "uint16", **extra} for i in range(n)]


def test_reads_all_tables_in_few_requests(kit):
    async def go():
        async with kit.Slave() as slave:
            slave.words = {(1, 1, 5): 1, (1, 2, 6): 0, (1, 4, 7): 700}
            tags = [
                *words(100),
                {"tag": "s/dev/coil", "address": "coil:5"},
                {"tag": "s/dev/discrete", "address": "discrete:6"},
                {"tag": "s/dev/input", "address": "input:7", "scale": 0.1, "offset": -3.0},
            ]
            adapter = await kit.opened(kit.context(slave.port, tags))
            got = await kit.drive(adapter, lambda c: len(c.rows) >= 103)
            await adapter.close()
            return slave, got

    slave, got = asyncio.run(go())
    assert [t.tag for t in got.tags][:2] == ["s/dev/t0", "s/dev/t1"]
    assert got.tags[0].device == "s/dev"
    assert got.tags[0].period_ns == 20_000_000
    assert got.tags[100].kind == "state"
    assert (got.last("s/dev/t42"), got.last("s/dev/coil")) == ((42.0, Quality.GOOD), (1.0, Quality.GOOD))
    assert got.last("s/dev/discrete") == (0.0, Quality.GOOD)
    assert got.last("s/dev/input")[0] == pytest.approx(67.0)
    assert set(slave.requests) == {(1, 3, 0, 100), (1, 1, 5, 1), (1, 2, 6, 1), (1, 4, 7, 1)}
    assert (got.rows.time == got.rows.received).all()
    assert got.kinds() == ["connected"]


def test_rows_equal_what_the_server_answered(kit):
    async def go():
        async with kit.Slave(units={1, 2, 3}) as slave:
            tags = [{**t, "tag": f"{t['tag']}u{u}", "unit_id": u} for u in (1, 2, 3) for t in words(10)]
            adapter = await kit.opened(kit.context(slave.port, tags))
            got = await kit.drive(adapter, lambda c: len(c.rows) > 1000)
            got.add(await adapter.finish())
            await adapter.close()
            return slave, got

    slave, got = asyncio.run(go())
    assert len(got.rows) == slave.answered.total()
    assert slave.connections == 3
    for tag in range(30):
        assert (np.diff(got.rows.take(got.rows.tag == tag).time) > 0).all()


def test_a_device_that_allows_one_connection_is_polled_over_one(kit):
    async def go():
        async with kit.Slave(units={1, 2, 3}, connections_max=1) as slave:
            tags = [{"tag": f"s/d{u}/x", "address": "holding:1", "unit_id": u} for u in (1, 2, 3)]
            adapter = await kit.opened(kit.context(slave.port, tags))
            got = await kit.drive(adapter, lambda c: all(len(c.of(f"s/d{u}/x")) > 3 for u in (1, 2, 3)))
            await adapter.close()
            return slave, got

    slave, got = asyncio.run(go())
    # A busy machine may cost a time-out and with it a new connection, but never a second one beside the first.
    assert slave.together == 1
    assert got.kinds().count("device_up") == got.kinds().count("device_down") == 2
    assert [e.reason.partition("allows ")[2] for e in got.events if e.kind == "info"][-1].startswith("1 connections")


def test_a_dead_unit_is_one_event_and_no_rows_and_does_not_stop_the_others(kit):
    async def go():
        async with kit.Slave(units={1}) as slave:
            tags = [{"tag": f"s/d{u}/x", "address": "holding:1", "unit_id": u} for u in (1, 2)]
            adapter = await kit.opened(kit.context(slave.port, tags, options={"connections": 1}))
            got = await kit.drive(adapter, lambda c: "device_down" in c.kinds() and len(c.of("s/d1/x")) >= 20)
            slave.units.add(2)
            got = await kit.drive(adapter, lambda c: "device_up" in c.kinds() and len(c.of("s/d2/x")) >= 3, got)
            await adapter.close()
            return slave, got

    slave, got = asyncio.run(go())
    assert [(e.kind, e.node) for e in got.events] == [
        ("connected", "line"), ("device_down", "s/d2"), ("device_up", "s/d2"),
    ]  # fmt: skip
    assert sum(1 for request in slave.requests if request[0] == 1) >= 20
    assert len(got.rows) <= slave.answered.total() <= len(got.rows) + 1


def test_server_dies_and_returns_on_the_same_port(kit):
    async def go():
        slave = await kit.Slave().start()
        adapter = await kit.opened(kit.context(slave.port, words(3)))
        got = await kit.drive(adapter, lambda c: len(c.rows) >= 9)
        await slave.stop()
        got = await kit.drive(adapter, lambda c: "device_down" in c.kinds(), got)
        before = len(got.rows)
        assert slave.answered.total() == before
        await slave.start()
        got = await kit.drive(adapter, lambda c: len(c.rows) >= before + 9, got)
        got.add(await adapter.finish())
        await adapter.close()
        await slave.stop()
        return slave, got

    slave, got = asyncio.run(go())
    assert got.kinds() == ["connected", "disconnected", "device_down", "connected", "device_up"]
    assert slave.answered.total() == len(got.rows)


def test_nobody_there_at_start_is_reported_once(kit):
    async def go():
        slave = await kit.Slave().start()
        await slave.stop()
        adapter = await kit.opened(kit.context(slave.port, words(1)))
        got = await kit.drive(adapter, lambda c: "device_down" in c.kinds())
        for _ in range(8):
            got.add(await adapter.read())
        await adapter.close()
        return got

    got = asyncio.run(go())
    assert got.kinds() == ["disconnected", "device_down"]
    assert len(got.rows) == 0
    assert len(got.tags) == 1


@pytest.mark.parametrize("code", [1, 4, 5, 6, 8, 10, 11, 77])
def test_exceptions_become_quality(kit, code):
    async def go():
        async with kit.Slave(exception={1: code}) as slave:
            adapter = await kit.opened(kit.context(slave.port, words(5)))
            got = await kit.drive(adapter, lambda c: len(c.rows) >= 5)
            slave.exception.clear()
            got = await kit.drive(adapter, lambda c: c.last("s/dev/t4") == (4.0, Quality.GOOD), got)
            await adapter.close()
            return got

    got = asyncio.run(go())
    names = {1: "ILLEGAL_FUNCTION", 4: "SERVER_FAILURE", 5: "ACKNOWLEDGE", 6: "BUSY", 8: "PARITY",
             10: "GATEWAY_PATH", 11: "GATEWAY_TARGET"}  # fmt: skip
    first = got.rows.take(np.arange(5))
    wanted = Quality[f"BAD_{names[code]}"] if code in names else Quality.BAD
    assert first.quality.tolist() == [wanted] * 5
    assert np.isnan(first.value).all()
    assert ("device_down" in got.kinds()) == (code in (10, 11))


def test_illegal_address_in_a_block_spoils_only_its_own_tag(kit):
    async def go():
        async with kit.Slave(illegal={(1, 37), (1, 38), (1, 80)}) as slave:
            adapter = await kit.opened(kit.context(slave.port, words(100)))
            got = await kit.drive(adapter, lambda c: all(c.last(f"s/dev/t{i}") for i in range(100)))
            layout_at = len(slave.requests)
            got = await kit.drive(adapter, lambda c: len(c.of("s/dev/t0")) >= 6, got)
            later = slave.requests[layout_at:]
            slave.illegal.clear()
            got = await kit.drive(adapter, lambda c: c.last("s/dev/t38") == (38.0, Quality.GOOD), got)
            await adapter.close()
            return got, later

    got, later = asyncio.run(go())
    bad = {i for i in range(100) if np.isin(Quality.BAD_ILLEGAL_ADDRESS, got.of(f"s/dev/t{i}").quality)}
    assert bad == {37, 38, 80}
    blocks = {(start, count) for _, _, start, count in later}
    assert blocks - {(37, 1), (38, 1), (80, 1)} == {(0, 37), (39, 41), (81, 19)}
    # Refused points are asked ever less often, the others every scan.
    assert sum(r[2:] == (37, 1) for r in later) < sum(r[2:] == (0, 37) for r in later)


def test_a_device_with_a_lower_limit_is_read_in_smaller_blocks(kit):
    async def go():
        async with kit.Slave(longest=30) as slave:
            adapter = await kit.opened(kit.context(slave.port, words(100)))
            got = await kit.drive(adapter, lambda c: all(c.last(f"s/dev/t{i}") for i in range(100)))
            mark = len(slave.requests)
            got = await kit.drive(adapter, lambda c: len(c.of("s/dev/t99")) >= 4, got)
            await adapter.close()
            return got, slave.requests[mark:]

    got, later = asyncio.run(go())
    assert (got.rows.quality == Quality.GOOD).all()
    assert max(count for *_, count in later) <= 30


def frames(wrong):
    """The first answer is spoiled, all others are right."""
    numbers = itertools.count()
    return lambda frame, _: wrong(frame) if next(numbers) == 0 else frame


@pytest.mark.parametrize(
    ("name", "wrong", "kind"),
    [
        ("truncated", lambda f: f[:-3], "malformed"),
        ("short count", lambda f: f[:8] + bytes([2]) + f[9:], "malformed"),
        ("wrong function", lambda f: f[:7] + b"\x04" + f[8:], "malformed"),
        ("unknown function", lambda f: f[:7] + b"\x63" + f[8:], "malformed"),
        ("protocol id", lambda f: f[:2] + b"\x12\x34" + f[4:], "malformed"),
        ("length 0", lambda f: f[:4] + b"\0\0" + f[6:], "malformed"),
        ("length 65535", lambda f: f[:4] + b"\xff\xff" + f[6:], "malformed"),
        ("no exception code", lambda f: f[:4] + b"\0\2" + f[6:7] + b"\x83", "malformed"),
        ("noise", lambda _: bytes(range(200)), "malformed"),
        ("wrong unit", lambda f: f[:6] + b"\x09" + f[7:], "device_down"),
        ("wrong transaction", lambda f: b"\xab\xcd" + f[2:], "device_down"),
        ("nothing", lambda _: b"", "device_down"),
        ("closed", lambda _: b"CLOSE", "disconnected"),
        ("half, then closed", lambda f: [f[:9], b"CLOSE"], "disconnected"),
    ],
)
def test_a_wrong_answer_is_never_a_row(kit, name, wrong, kind):
    async def go():
        async with kit.Slave() as slave:
            slave.words = {(1, 3, a): 1000 + a for a in range(4)}
            slave.mangle = frames(wrong)
            adapter = await kit.opened(kit.context(slave.port, words(4)))
            got = await kit.drive(adapter, lambda c: len(c.rows) >= 12)
            await adapter.close()
            return got

    got = asyncio.run(go())
    assert kind in got.kinds()
    assert got.rows.value.tolist() == [1000.0 + t for t in got.rows.tag]
    assert (got.rows.quality == 0).all()
    if kind == "malformed":
        assert next(e for e in got.events if e.kind == "malformed").raw


def test_a_twice_sent_answer_is_one_row_each(kit):
    async def go():
        async with kit.Slave() as slave:
            slave.mangle = lambda frame, _: frame + frame
            adapter = await kit.opened(kit.context(slave.port, words(4)))
            got = await kit.drive(adapter, lambda c: len(c.rows) >= 40)
            got.add(await adapter.finish())
            await adapter.close()
            return slave, got

    slave, got = asyncio.run(go())
    assert len(got.rows) == slave.answered.total()


def test_a_late_answer_is_not_taken_for_the_next_request(kit):
    """The answer to the first request comes after its time is up; it holds 111, all later ones 222."""

    async def go():
        async with kit.Slave() as slave:
            slave.words = {(1, 3, 0): 111}

            async def late(frame, number):
                if number == 1:
                    slave.words = {(1, 3, 0): 222}
                    await asyncio.sleep(0.5)
                return frame

            slave.mangle = late
            adapter = await kit.opened(kit.context(slave.port, words(1)))
            got = await kit.drive(adapter, lambda c: len(c.rows) >= 5)
            await adapter.close()
            return slave, got

    slave, got = asyncio.run(go())
    assert set(got.rows.value.tolist()) == {222.0}
    assert got.kinds() == ["connected", "device_down", "device_up"]
    assert slave.connections == 1


def test_missed_scans_are_counted(kit):
    async def go():
        async with kit.Slave() as slave:

            async def slow(frame, _):
                await asyncio.sleep(0.03)
                return frame

            slave.mangle = slow
            adapter = await kit.opened(kit.context(slave.port, [{**t, "scan": "10ms"} for t in words(1)]))
            await kit.drive(adapter, lambda c: len(c.rows) >= 5)
            await adapter.close()
            return adapter.overruns

    assert asyncio.run(go()) >= 5


def test_text_is_an_event_when_it_changes(kit):
    async def go():
        async with kit.Slave() as slave:
            slave.words = {(1, 3, 0): 0x4142, (1, 3, 1): 0x3100}
            tags = [{"tag": "s/dev/serial", "address": "holding:0:2", "type": "string"}, *words(1, start=1)]
            adapter = await kit.opened(kit.context(slave.port, tags))
            got = await kit.drive(adapter, lambda c: len(c.rows) >= 3)
            slave.words[1, 3, 1] = 0x3200
            got = await kit.drive(adapter, lambda c: c.kinds().count("info") == 2, got)
            await adapter.close()
            return got

    got = asyncio.run(go())
    said = [(e.node, e.reason) for e in got.events if e.kind == "info"]
    assert said == [("s/dev", "s/dev/serial = 'AB1'"), ("s/dev", "s/dev/serial = 'AB2'")]
    assert set(got.rows.tag.tolist()) == {1}


def test_check_names_what_is_wrong(kit):
    async def go():
        async with kit.Slave(illegal={(1, 5)}, words={(1, 3, 20): 0xFFFF}) as slave:
            tags = [
                *words(8),
                {"tag": "s/dev/bcd", "address": "holding:20", "type": "bcd"},
                {"tag": "s/gone/x", "address": "holding:1", "unit_id": 9},
            ]
            context = kit.context(slave.port, tags)
            found = await ModbusAdapter.check(context)
            fine = await ModbusAdapter.check(kit.context(slave.port, words(3)))
        refused = await ModbusAdapter.check(context)
        return found, fine, refused

    found, fine, refused = asyncio.run(go())
    assert fine == []
    assert len(found) == 3
    assert "'s/dev/t5'" in found[0]
    assert "exception 2 (illegal address)" in found[0]
    assert "'s/dev/bcd'" in found[1]
    assert "BAD_TYPE" in found[1]
    assert "unit 9" in found[2]
    assert len(refused) == 1
    assert "can not be reached" in refused[0]


@pytest.mark.parametrize(
    ("tags", "extra", "said"),
    [
        ([{"tag": "a"}], {}, "no address"),
        ([{"tag": "a", "address": "holding:70000"}], {}, "0..65535"),
        ([{"tag": "a", "address": "coil:1", "type": "int16"}], {}, "single bit"),
        ([], {}, "has no tags"),
        ([{"tag": "a", "address": "holding:1"}], {"options": {"gab": 3}}, "options.gab"),
        ([{"tag": "a", "address": "holding:1"}], {"endpoint": "http://x"}, "scheme"),
        ([{"tag": "a", "address": "holding:1", "scan": "0s"}], {}, "scan"),
    ],
)
def test_wrong_configuration_is_a_sentence(kit, tags, extra, said):
    with pytest.raises(ConfigError, match=said):
        ModbusAdapter(kit.context(1, tags, **extra))
