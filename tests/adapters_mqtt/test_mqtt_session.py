"""The session against a scripted broker: refusals, takeovers, silence, nonsense, resumed sessions."""

import asyncio
import socket
import time

import numpy as np
import pytest
from iiot_dask_adapters.mqtt import MqttAdapter
from iiot_dask_adapters.mqtt.session import Session, Settings
from iiot_dask_adapters.mqtt.warm import publish

from iiot_dask.core.clock import SystemClock
from iiot_dask.core.errors import LocalAdapterError
from tests.adapters_mqtt.conftest import Reader, context, wait_for
from tests.adapters_mqtt.scripted_broker import ScriptedBroker

QUICK = {"options": {"reconnect_max": "100ms", "linger": "0ms"}, "timeout": "1s"}


@pytest.fixture
def broker():
    made = []

    def make(serve):
        made.append(ScriptedBroker(serve))
        return made[-1]

    yield make
    for one in made:
        one.close()


def reasons(reader, kind):
    return [e.reason for e in reader.events if e.kind == kind]


def read(port, until, acknowledge=True, **keys):
    """Run an adapter until `until(reader)`; the reader."""

    async def run():
        reader = Reader(context(port, **(QUICK | keys)), acknowledge)
        await reader.adapter.open(None)
        try:
            await reader.read_until(until)
        finally:
            await reader.adapter.close()
        return reader

    return asyncio.run(run())


def hold(broker, sock):
    """Serve until the client leaves."""
    while True:
        kind, _ = broker.read(sock)
        if kind == 12:
            sock.sendall(b"\xd0\x00")
        if kind == 14:
            return


def test_a_refused_connection_is_told_once_and_tried_again(broker):
    made = broker(lambda b, sock: b.greet(sock, code=0x87))
    reader = read(made.port, lambda r: made.connections >= 4)
    assert reasons(reader, "disconnected") == ["the broker refused client 'iiot-dask-cells': Not authorized"]


def test_a_broker_without_mqtt_5_gets_a_hint(broker):
    made = broker(lambda b, sock: b.greet(sock, code=0x84))
    reader = read(made.port, lambda r: r.events)
    assert reasons(reader, "disconnected")[0].endswith("brokers without MQTT 5 need version = 3")


def test_a_refused_subscription_is_told_and_the_session_stays(broker):
    def serve(b, sock):
        b.greet(sock, granted=0x87)
        hold(b, sock)

    made = broker(serve)
    reader = read(made.port, lambda r: "rejected" in r.kinds())
    assert reasons(reader, "rejected") == ["the broker refused the subscription 'f/+/+': Not authorized"]
    assert asyncio.run(MqttAdapter.check(context(made.port, **QUICK))) == [
        f"adapter 'cells': mqtt://127.0.0.1:{made.port}: the broker refused the subscription 'f/+/+': Not authorized"
    ]
    assert made.connections == 2


def test_a_takeover_names_the_client_id(broker):
    def serve(b, sock):
        b.greet(sock)
        sock.sendall(b"\xe0\x02\x8e\x00")
        hold(b, sock)

    reader = read(broker(serve).port, lambda r: "disconnected" in r.kinds())
    assert "Session taken over; another client uses the id 'iiot-dask-cells'" in reasons(reader, "disconnected")[0]


def test_repeated_short_connections_raise_the_suspicion_of_a_takeover(broker):
    made = broker(lambda b, sock: b.greet(sock))
    reader = read(made.port, lambda r: any("does another client use" in x for x in reasons(r, "disconnected")))
    assert made.connections >= 3
    assert len(reader.events) < 20


def test_a_broker_that_says_nothing_is_left_and_tried_again(broker):
    made = broker(hold)
    reader = read(made.port, lambda r: made.connections >= 2)
    assert reasons(reader, "disconnected") == ["connection lost: the broker did not answer CONNECT in time"]


@pytest.mark.parametrize(
    "nonsense",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x20\x03\x00", b"\x30\xff\xff\xff\xff", b"\x20\x00", b"\xff" * 50, b"\x90\x01\x00",
     b"\x36\x04\x00\x01ab", b"\x30\x02\x00\x09"],
)  # fmt: skip
def test_nonsense_ends_the_connection_and_nothing_else(broker, nonsense):
    def serve(b, sock):
        if b.connections == 1:
            b.until(sock, 1)
            sock.sendall(nonsense)
            sock.shutdown(socket.SHUT_WR)
            hold(b, sock)
        else:
            b.greet(sock)
            sock.sendall(publish(b"f/a/b", b'{"v":5,"ts":1}', 1))
            hold(b, sock)

    reader = read(broker(serve).port, lambda r: len(r) == 1)
    assert reader.kinds()[:2] == ["disconnected", "connected"]


def test_every_connection_subscribes_also_a_resumed_one(broker):
    def serve(b, sock):
        b.greet(sock, session_present=b.connections > 1)
        if b.connections == 3:
            hold(b, sock)

    made = broker(serve)
    read(made.port, lambda r: made.connections == 3 and r.adapter._session.answered)
    assert [n for n, kind, _ in made.packets if kind == 8] == [1, 2, 3]


def test_a_lost_session_is_told(broker):
    def serve(b, sock):
        b.greet(sock)
        if b.connections == 2:
            hold(b, sock)

    reader = read(broker(serve).port, lambda r: "info" in r.kinds())
    assert reasons(reader, "info") == ["the broker did not keep our session; what it held for us is lost"]


def test_the_session_asks_to_be_kept_and_says_how_much_it_takes(broker):
    def serve(b, sock):
        b.greet(sock)
        hold(b, sock)

    made = broker(serve)
    read(made.port, lambda r: r.adapter._session.answered)
    connect = made.packets[0][2]
    assert connect[:7] == b"\0\x04MQTT\x05"
    assert not connect[7] & 2, "clean start"
    assert b"\x11" + (86_400).to_bytes(4, "big") in connect, "session expiry"
    assert b"\x21" + (65_535).to_bytes(2, "big") in connect, "receive maximum"
    assert connect.endswith(b"\0\x0fiiot-dask-cells")


def test_what_was_not_confirmed_is_acknowledged_when_it_comes_again(broker):
    message = publish(b"f/a/b", b'{"v":5,"ts":1}', 77)
    again = publish(b"f/a/b", b'{"v":5,"ts":1}', 77, flags=2 | 8)

    def serve(b, sock):
        b.greet(sock, session_present=b.connections > 1)
        if b.connections == 1:
            sock.sendall(message)
            wait_for(lambda: seen, "the first row")
            return
        sock.sendall(again)
        hold(b, sock)

    seen = []
    made = broker(serve)

    async def run():
        reader = Reader(context(made.port, **QUICK), acknowledge=False)
        await reader.adapter.open(None)
        await reader.read_until(lambda r: len(r) == 1)
        seen.append(1)
        await reader.read_until(lambda r: made.connections == 2 and r.adapter._session.inbox.duplicates == 1)
        assert not any(kind == 4 for _, kind, _ in made.packets)
        await reader.adapter.acknowledge(reader.positions[-1])
        await reader.read_until(lambda _: any(kind == 4 for _, kind, _ in made.packets))
        await reader.adapter.close()
        return reader

    reader = asyncio.run(run())
    assert len(reader) == 1
    assert [(n, body) for n, kind, body in made.packets if kind == 4] == [(2, b"\0\x4d")]


def test_a_position_of_another_incarnation_acknowledges_nothing(broker):
    def serve(b, sock):
        b.greet(sock)
        sock.sendall(publish(b"f/a/b", b'{"v":5,"ts":1}', 77))
        hold(b, sock)

    made = broker(serve)

    async def run():
        reader = Reader(context(made.port, **QUICK), acknowledge=False)
        await reader.adapter.open("17a3:1")
        await reader.read_until(lambda r: len(r) == 1)
        await reader.adapter.acknowledge("17a3:999999")
        await reader.adapter.acknowledge("nonsense")
        await reader.adapter.close()

    asyncio.run(run())
    assert not any(kind == 4 for _, kind, _ in made.packets)


def test_keep_alive_goes_on_while_the_inbox_is_full(broker):
    """The client stops reading, the broker hears its pings, and the connection lives through several keep-alives."""
    pings = []

    def serve(b, sock):
        b.greet(sock)
        sock.settimeout(30)
        sock.sendall(b"".join(publish(b"f/a/b", b"%d" % k, flags=0) for k in range(3)))
        while len(pings) < 3:
            if b.read(sock)[0] == 12:
                pings.append(time.monotonic())
                sock.sendall(b"\xd0\x00")
        sock.sendall(b"".join(publish(b"f/a/b", b"%d" % k, flags=0) for k in range(3, 7)))
        hold(b, sock)

    made = broker(serve)
    settings = Settings("127.0.0.1", made.port, "c", (("f/+/+", 0),), keepalive_s=1, inbox_messages=2, inbox_bytes=1000)
    session = Session(settings, SystemClock(), np.random.default_rng(1), lambda: None)
    session.start()
    try:
        wait_for(lambda: len(pings) == 3, "three pings")
        assert session.online
        assert session.inbox.stops == 1
        got = []

        def more():
            taken = session.take()
            got.extend([] if taken is None else [None] * len(taken.rows))
            return len(got) == 7

        wait_for(more, "the rest")
        assert made.connections == 1
    finally:
        session.close()


def test_an_adapter_is_not_read_before_it_is_opened():
    with pytest.raises(LocalAdapterError, match="'cells' is read before it was opened"):
        asyncio.run(MqttAdapter(context(1)).read())


def test_an_absent_broker_is_told_and_found_once_it_is_there(broker):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    reader = read(port, lambda r: r.events)
    assert "can not be reached: [Errno 111] Connection refused" in reader.events[0].reason
    (sentence,) = asyncio.run(MqttAdapter.check(context(port, **QUICK)))
    assert sentence.startswith(f"adapter 'cells': mqtt://127.0.0.1:{port}: 127.0.0.1:{port} can not be reached")
