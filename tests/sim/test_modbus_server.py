"""The Modbus side, read by two strangers: mbpoll (libmodbus) and pymodbus' client."""

import asyncio
import re
import struct
import subprocess

import numpy as np
import pytest
from pymodbus.client import AsyncModbusTcpClient

from iiot_dask.core.errors import CapacityError
from iiot_dask.sim.factory import MODBUS_MAP, Factory
from iiot_dask.sim.modbus_server import ModbusServer, Registers, encode
from iiot_dask.sim.signal import KINDS, MACHINE_KINDS

UNIT = 3


class Bench:
    """A server, its time, and what it says it served."""

    def __init__(self, tags=400):
        self.factory = Factory(tags=tags, seed=5)
        self.now_ns = 0
        self.served = []
        _own, *shared = self.factory.of("modbus").tolist()
        self.registers = Registers(self.factory, np.array(shared), lambda: self.now_ns, self._note)
        self.server = ModbusServer(self.registers)

    def _note(self, tags, values):
        self.served.append(dict(zip((self.factory.names[t] for t in tags), values.tolist(), strict=True)))

    def device(self, unit=UNIT):
        return next(d for d in self.factory.devices if d.unit_id == unit and "press" in d.path)

    def expected(self, unit=UNIT):
        device = self.device(unit)
        tags = np.arange(device.start, device.stop)
        return dict(zip(self.factory.names[device.start : device.stop],
                        self.factory.values(tags, np.full(len(tags), self.now_ns)).tolist(), strict=True))  # fmt: skip


@pytest.fixture
def bench():
    return Bench()


def naive_registers(row):
    """One device's registers with struct, one tag at a time."""
    out = [0] * 13
    for kind in range(MACHINE_KINDS):
        address, word, order, scale = MODBUS_MAP[KINDS[kind].name]
        space, at = address.split(":")
        if space == "coil":
            continue
        raw = row[kind] if word == "float32" else round(row[kind] / scale)
        code = {"float32": ">f", "uint32": ">I", "int16": ">h", "uint16": ">H"}[word]
        packed = struct.pack(code, raw)
        words = [w for (w,) in struct.iter_unpack(">H", packed)]
        out[int(at) : int(at) + len(words)] = words[::-1] if order == "cdab" else words
    return out


def test_registers_are_those_of_the_naive_encoder():
    rng = np.random.default_rng(6)
    values = np.column_stack([np.round(rng.uniform(-40, 90, 50), 1)] * 2 + [np.round(rng.uniform(-9, 9, 50), 2)]
                             + [np.round(rng.uniform(0, 9, 50), 2)] + [np.round(rng.uniform(0, 90, 50), 1)] * 2
                             + [rng.integers(0, 65_536, 50), rng.integers(0, 2**32, 50)]
                             + [np.round(rng.uniform(-80, 80, 50), 1), rng.integers(0, 2, 50)])  # fmt: skip
    registers, coils = encode(values)
    assert registers.tolist() == [naive_registers(row) for row in values]
    assert coils[:, 0].tolist() == [bool(v) for v in values[:, 9]]


async def running(bench, body):
    await bench.server.start()
    try:
        return await body()
    finally:
        await bench.server.stop()


def test_a_client_reads_what_the_factory_says_and_the_log_says_what_it_read(bench):
    bench.now_ns = 7_300_000_000

    async def body():
        async with AsyncModbusTcpClient("127.0.0.1", port=bench.server.port) as client:
            held = await client.read_holding_registers(0, count=13, device_id=UNIT)
            coil = await client.read_coils(0, count=1, device_id=UNIT)
            part = await client.read_holding_registers(3, count=3, device_id=UNIT)
            return held.registers, coil.bits[0], part.registers

    held, coil, part = asyncio.run(running(bench, body))
    expected = bench.expected()
    row = list(expected.values())
    assert held == naive_registers(row)
    assert coil == bool(row[9])
    assert part == held[3:6]
    names = list(expected)
    path = bench.device().path
    assert bench.served[0] == {n: expected[n] for n in names if not n.endswith("/valve")}
    assert bench.served[1] == {f"{path}/valve": row[9]}
    # Registers 3..5: the second half of a float is nobody's value, the two whole integers are.
    assert bench.served[2] == {f"{path}/{k}": expected[f"{path}/{k}"] for k in ("pressure", "inlet_pressure")}


def test_registers_are_renewed_with_time(bench):
    async def body():
        async with AsyncModbusTcpClient("127.0.0.1", port=bench.server.port) as client:
            out = []
            for now_ns in (0, 50_000_000, 5_000_000_000):
                bench.now_ns = now_ns
                out.append((await client.read_holding_registers(0, count=13, device_id=UNIT)).registers)
            return out

    first, soon, later = asyncio.run(running(bench, body))
    assert first == soon != later
    assert later == naive_registers(list(bench.expected().values()))


@pytest.mark.parametrize(("unit", "address", "count", "code"), [(UNIT, 10, 4, 2), (UNIT, 13, 1, 2), (200, 0, 1, 11)])
def test_what_does_not_exist_is_answered_with_the_exception_of_the_standard(bench, unit, address, count, code):
    async def body():
        async with AsyncModbusTcpClient("127.0.0.1", port=bench.server.port) as client:
            return await client.read_holding_registers(address, count=count, device_id=unit)

    answer = asyncio.run(running(bench, body))
    assert answer.isError()
    assert answer.exception_code == code
    assert bench.served == []


def test_writes_are_refused(bench):
    async def body():
        async with AsyncModbusTcpClient("127.0.0.1", port=bench.server.port) as client:
            answer = await client.write_register(0, 1, device_id=UNIT)
            return answer, (await client.read_holding_registers(0, count=13, device_id=UNIT)).registers

    answer, held = asyncio.run(running(bench, body))
    assert answer.isError()
    assert held == naive_registers(list(bench.expected().values()))


def test_a_dead_device_closes_its_connections_and_comes_back_on_the_same_port(bench):
    async def body():
        port = bench.server.port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await bench.server.stop()
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        await bench.server.start()
        assert bench.server.port == port
        async with AsyncModbusTcpClient("127.0.0.1", port=port) as client:
            return await client.read_coils(0, count=1, device_id=UNIT)

    assert not asyncio.run(running(bench, body)).isError()


def test_a_port_in_use_is_named(bench):
    other = Bench()

    async def body():
        other.server.port = bench.server.port
        with pytest.raises(CapacityError, match=str(bench.server.port)):
            await other.server.start()

    asyncio.run(running(bench, body))


@pytest.mark.service("mbpoll")
def test_mbpoll_reads_the_same_values(bench):
    bench.now_ns = 12_000_000_000

    def poll(*options):
        command = [
            "mbpoll",
            "-m",
            "tcp",
            "-p",
            str(bench.server.port),
            "-a",
            str(UNIT),
            "-0",
            "-1",
            *options,
            "127.0.0.1",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return [float(v) for v in re.findall(r"^\[\d+\]:\s+(-?[\d.]+)", done.stdout, re.MULTILINE)]

    async def body():
        loop = asyncio.get_running_loop()
        jobs = [
            ("-t", "4:float", "-B", "-r", "0"),
            ("-t", "4:float", "-r", "2"),
            ("-t", "4", "-r", "4", "-c", "2"),
            ("-t", "4:int", "-B", "-r", "10"),
            ("-t", "0", "-r", "0"),
        ]
        return [await loop.run_in_executor(None, poll, *job) for job in jobs]

    temperature, oil, pressures, energy, valve = asyncio.run(running(bench, body))
    expected = {name.rsplit("/", 1)[1]: value for name, value in bench.expected().items()}
    assert temperature == [pytest.approx(expected["temperature"], rel=1e-5)]
    assert oil == [pytest.approx(expected["oil_temperature"], rel=1e-5)]
    assert [v * 0.01 for v in pressures] == [
        pytest.approx(expected["pressure"]),
        pytest.approx(expected["inlet_pressure"]),
    ]
    assert energy == [expected["energy"]]
    assert valve == [expected["valve"]]
    assert sum(len(one) for one in bench.served) == 6
