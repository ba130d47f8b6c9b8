"""The adapter against real brokers: exact delivery, acknowledgement after the disk, restarts, refusals."""

import asyncio

import pytest

from iiot_dask.core.quality import Quality
from tests.adapters_mqtt.conftest import Reader, context

pytestmark = pytest.mark.service("mosquitto")


def payload(k):
    return b'{"v":%d,"ts":%d}' % (k, 1_700_000_000_000 + k)


@pytest.mark.parametrize("version", [3, 5])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_every_message_comes_once_and_in_order(mosquitto, publisher, version, qos):
    async def run():
        reader = Reader(context(mosquitto.port, version=version, qos=qos))
        await reader.online()
        sender = publisher(mosquitto.port)
        for k in range(2000):
            sender.publish(f"f/press{k % 7}/temperature", payload(k), qos)
        await reader.read_until(lambda r: len(r) >= 2000)
        await asyncio.sleep(0.2)
        await reader.read()
        await reader.adapter.close()
        return reader

    reader = asyncio.run(run())
    assert sorted(reader.values()) == list(range(2000))
    for name in {row[0] for row in reader.rows}:
        mine = [row[2] for row in reader.rows if row[0] == name]
        assert mine == sorted(mine)
    assert sorted(set(reader.tags)) == [f"site/press{k}/temperature" for k in range(7)]
    assert all(row[3] == Quality.GOOD and row[1] == (1_700_000_000_000 + int(row[2])) * 10**6 for row in reader.rows)
    assert bool(reader.positions) == (qos > 0)
