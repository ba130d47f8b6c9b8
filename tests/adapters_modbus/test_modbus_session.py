"""Sessions against pymodbus' own servers in every framing, TLS with certificates checked."""

import asyncio
import contextlib
import datetime as dt
import ipaddress
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from iiot_dask_adapters.modbus.session import Endpoint, LostError, NoAnswerError, Session, tls_context
from pymodbus.exceptions import NoSuchIdException
from pymodbus.framer import FramerType
from pymodbus.server import ModbusTcpServer, ModbusTlsServer, ModbusUdpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from iiot_dask.core.errors import ConfigError

REGISTERS = [*range(1000, 1200)]


def devices():
    bits = SimData(0, values=[True, False, True, True], datatype=DataType.BITS)
    words = SimData(0, values=REGISTERS, datatype=DataType.REGISTERS)
    return [SimDevice(1, simdata=([bits], [bits], [words], [words]))]


class OnlyItsUnits:
    """The server's memory, silent for every unit it does not have.

    pymodbus 3.16 looks for such a unit in device 0 and, when there is none, answers exception 4 for the KeyError:
    `ignore_missing_devices` acts on `NoSuchIdException` alone, which its simulator never raises.
    """

    def __init__(self, core):
        self.core = core
        self.device_ids = core.device_ids

    async def async_getValues(self, device_id, *args):  # noqa: N802 -- pymodbus' name
        if device_id not in self.core.devices:
            raise NoSuchIdException
        return await self.core.async_getValues(device_id, *args)


@contextlib.asynccontextmanager
async def serving(scheme, **extra):
    framer = {"rtu+tcp": FramerType.RTU, "ascii+tcp": FramerType.ASCII}.get(scheme, FramerType.SOCKET)
    kind = {"udp": ModbusUdpServer, "tls": ModbusTlsServer}.get(scheme, ModbusTcpServer)
    server = kind(devices(), framer=framer, address=("127.0.0.1", 0), ignore_missing_devices=True, **extra)
    server.context = OnlyItsUnits(server.context)
    await server.serve_forever(background=True)
    transport = server.transport
    socket = transport.sockets[0] if hasattr(transport, "sockets") else transport.get_extra_info("socket")
    try:
        yield socket.getsockname()[1]
    finally:
        await server.shutdown()


@pytest.mark.parametrize("scheme", ["tcp", "udp", "rtu+tcp", "ascii+tcp"])
def test_every_framing(scheme):
    async def go():
        async with serving(scheme) as port:
            session = Session(Endpoint.parse(f"{scheme}://127.0.0.1:{port}"), 0.5)
            await session.connect()
            holding = await session.read(1, "holding", 5, 100)
            one = await session.read(1, "input", 7, 1)
            coils = await session.read(1, "coil", 0, 3)
            refused = await session.read(1, "holding", 190, 20)
            with pytest.raises(NoAnswerError):
                await session.read(9, "holding", 0, 1)
            # Without transaction ids a late answer could be taken for the next one's: the connection was given up.
            kept = session.connected
            if not kept:
                await session.connect()
            again = await session.read(1, "holding", 0, 1)
            session.close()
            return holding, one, coils, refused, kept, again

    holding, one, coils, refused, kept, again = asyncio.run(go())
    assert holding.data.tolist() == REGISTERS[5:105]
    assert (one.data.tolist(), coils.data.tolist(), again.data.tolist()) == ([1007], [1, 0, 1], [1000])
    assert (refused.exception, len(refused.data)) == (2, 0)
    assert kept == (scheme in ("tcp", "udp"))


def certificate(directory, name, address="127.0.0.1"):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    paths = directory / f"{name}.pem", directory / f"{name}.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(paths[0]), str(paths[1])


class TlsSlave(asyncio.Protocol):
    """Answers each read of one holding register with 4242, MBAP inside TLS as MODBUS/TCP Security says."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data[:2] + b"\0\0\0\x05" + data[6:8] + b"\x02" + (4242).to_bytes(2, "big"))


@pytest.mark.parametrize("trusted", ["own", "other", "wrong host"])
def test_tls_checks_the_server(tmp_path, trusted):
    own = certificate(tmp_path, "server", "127.0.0.1" if trusted != "wrong host" else "127.0.0.9")
    other = certificate(tmp_path, "other")

    async def go():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*own)
        server = await asyncio.get_running_loop().create_server(TlsSlave, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        ca = other[0] if trusted == "other" else own[0]
        session = Session(Endpoint.parse(f"tls://127.0.0.1:{port}"), 2.0, tls_context(ca, None, None))
        try:
            await session.connect()
            return await session.read(1, "holding", 0, 1)
        finally:
            session.close()
            server.close()
            await server.wait_closed()

    if trusted == "own":
        assert asyncio.run(go()).data.tolist() == [4242]
    else:
        with pytest.raises(LostError, match="certificate verify failed"):
            asyncio.run(go())


def test_certificates_that_can_not_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.pem"):
        tls_context(str(tmp_path / "absent.pem"), None, None)


@pytest.mark.parametrize("wrong", ["", None, "tcp://", "http://x:1", "tcp://x:99999", "tcp://x:1/path", "x:502"])
def test_endpoints_that_are_none(wrong):
    with pytest.raises(ConfigError, match="endpoint"):
        Endpoint.parse(wrong)


def test_endpoints():
    assert str(Endpoint.parse("tcp://[::1]")) == "tcp://[::1]:502"
    assert str(Endpoint.parse("rtu+tcp://gateway:4001")) == "rtu+tcp://gateway:4001"
