"""The bulk publisher against a scripted broker; against real brokers it runs in test_process.py."""

import asyncio

import numpy as np
import pytest

from iiot_dask.core.errors import RemoteAdapterError
from iiot_dask.sim.mqtt_bulk import IDENTIFIERS, IN_FLIGHT_MAX, BulkPublisher, length, publishes, text

CONNACK = b"\x20\x02\x00\x00"


def puback(*numbers):
    return b"".join(b"\x40\x02" + n.to_bytes(2, "big") for n in numbers)


def parse(data):
    """Whole packets of a byte string, the slow and obvious way: (type byte, body)."""
    out = []
    while data:
        size, shift, at = 0, 0, 1
        while True:
            size |= (data[at] & 127) << shift
            shift += 7
            at += 1
            if data[at - 1] < 128:
                break
        out.append((data[0], data[at : at + size]))
        assert len(out[-1][1]) == size
        data = data[at + size :]
    return out


class Broker:
    """Says CONNACK, then whatever the test sends."""

    def __init__(self, greeting=CONNACK):
        self.greeting = greeting
        self.heard = b""
        self.writer = None
        self.more = asyncio.Event()

    async def _talk(self, reader, writer):
        self.writer = writer
        self.heard += await reader.read(65_536)
        writer.write(self.greeting)
        while data := await reader.read(1 << 20):
            self.heard += data
            self.more.set()
        writer.close()

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_):
        if self.writer is not None:
            self.writer.close()
        self.server.close()
        await self.server.wait_closed()

    @property
    def port(self):
        return self.server.sockets[0].getsockname()[1]

    def published(self):
        return [body for kind, body in parse(self.heard) if kind == 0x32]

    async def wait_published(self, count):
        while self.heard.count(b"\x32") < count or len(self.published()) < count:
            self.more.clear()
            await asyncio.wait_for(self.more.wait(), 20)


def run(body, greeting=CONNACK):
    acked, lost = [], []

    async def main():
        async with Broker(greeting) as broker:
            client = BulkPublisher("me", broker.port, lambda rows: acked.extend(rows.tolist()), lost.append)
            await body(broker, client)
            await client.close()

    asyncio.run(main())
    return acked, lost


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 2_097_152])
def test_lengths_read_back(size):
    raw = length(size)
    assert sum((byte & 127) << (7 * k) for k, byte in enumerate(raw)) == size
    assert [byte > 127 for byte in raw] == [True] * (len(raw) - 1) + [False]


def test_packets_of_every_size_are_whole():
    rng = np.random.default_rng(8)
    topics = [text("t" * int(n)) for n in rng.integers(1, 300, 60)]
    payloads = [rng.bytes(int(n)) for n in rng.integers(0, 20_000, 60)]
    found = parse(publishes(topics, payloads, range(1, 61)))
    assert [kind for kind, _ in found] == [0x32] * 60
    assert [b for _, b in found] == [
        t + (k + 1).to_bytes(2, "big") + p for k, (t, p) in enumerate(zip(topics, payloads, strict=True))
    ]


def test_the_session_opens_sends_and_closes_as_the_standard_says():
    kept = []

    async def body(broker, client):
        await client.connect()
        await client.publish([text("a/b"), text("c")], [b"1", b"2"], row=40)
        await broker.wait_published(2)
        broker.writer.write(puback(1, 2))
        assert await client.drain(10)
        await client.close()
        while not broker.heard.endswith(b"\xe0\x00"):
            broker.more.clear()
            await asyncio.wait_for(broker.more.wait(), 20)
        kept.append(broker.heard)

    acked, lost = run(body)
    assert (acked, lost) == ([40, 41], [])
    kinds = [kind for kind, _ in parse(kept[0])]
    assert kinds == [0x10, 0xC0, 0x32, 0x32, 0xE0]
    assert parse(kept[0])[0][1] == b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x02me"


def test_acknowledgements_cut_anywhere_and_mixed_with_pings_are_all_taken():
    async def body(broker, client):
        await client.connect()
        await client.publish([text("t")] * 9, [b"x"] * 9, row=100)
        stream = puback(1, 2, 3) + b"\xd0\x00" + puback(5, 4) + b"\xd0\x00\xd0\x00" + puback(9, 8, 7, 6)
        for at in range(len(stream)):
            client.data_received(stream[at : at + 1])
        assert client.in_flight == 0

    assert run(body) == ([100, 101, 102, 104, 103, 108, 107, 106, 105], [])


def test_messages_without_a_row_and_unknown_identifiers_acknowledge_nothing():
    async def body(broker, client):
        await client.connect()
        await client.publish([text("t")] * 2, [b"x"] * 2)
        client.data_received(puback(1, 2, 2, 777))
        assert client.in_flight == 0

    assert run(body) == ([], [])


def test_publishing_waits_at_the_window_and_identifiers_are_not_used_twice():
    async def body(broker, client):
        await client.connect()
        total = IN_FLIGHT_MAX + 5
        task = asyncio.create_task(client.publish([text("t")] * total, [b""] * total, row=0))
        await broker.wait_published(IN_FLIGHT_MAX)
        assert client.in_flight == IN_FLIGHT_MAX
        assert not task.done()
        client.data_received(puback(3))
        await asyncio.sleep(0)
        assert not task.done()
        client.data_received(puback(1, 2, 4, 5))
        await asyncio.wait_for(task, 10)
        client.data_received(puback(*range(6, total + 1)))
        assert client.in_flight == 0
        # Number 1 of the next round is still out: the round waits for it, nothing is overtaken.
        client._next = IDENTIFIERS - 1
        await client.publish([text("t")] * 2, [b""] * 2, row=0)
        client._next = 1
        blocked = asyncio.create_task(client.publish([text("t")], [b""], row=7))
        await asyncio.sleep(0.05)
        assert not blocked.done()
        client.data_received(puback(1))
        await asyncio.wait_for(blocked, 10)
        client.data_received(puback(1, IDENTIFIERS - 1))
        assert client.in_flight == 0

    acked, lost = run(body)
    assert len(acked) == IN_FLIGHT_MAX + 5 + 3
    assert lost == []


def test_a_refusal_is_an_error_with_its_code():
    async def body(_broker, client):
        with pytest.raises(RemoteAdapterError, match="refuses with code 5"):
            await client.connect()

    run(body, greeting=b"\x20\x02\x00\x05")


def test_nobody_listening_is_an_error():
    async def main():
        async with Broker() as broker:
            port = broker.port
        with pytest.raises(RemoteAdapterError, match=str(port)):
            await BulkPublisher("me", port, lambda _: None, lambda _: None).connect()

    asyncio.run(main())


def test_a_broker_that_goes_away_is_reported_once_and_unblocks_whoever_waits():
    async def body(broker, client):
        await client.connect()
        waiting = asyncio.create_task(
            client.publish([text("t")] * (IN_FLIGHT_MAX + 1), [b""] * (IN_FLIGHT_MAX + 1), row=0)
        )
        await broker.wait_published(IN_FLIGHT_MAX)
        broker.writer.close()
        await asyncio.wait_for(waiting, 10)
        assert not await client.drain(10)
        await client.publish([text("t")], [b""], row=9)

    acked, lost = run(body)
    assert acked == []
    assert len(lost) == 1
    assert "closed the session" in lost[0]


def test_a_packet_no_broker_sends_ends_the_session_with_a_reason():
    async def body(_broker, client):
        await client.connect()
        client.data_received(b"\x30\x03\x00\x01a")
        assert await client.drain(10)

    _, lost = run(body)
    assert len(lost) == 1
    assert "0x30" in lost[0]
