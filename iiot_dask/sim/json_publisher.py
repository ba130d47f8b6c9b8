"""The JSON side: one QoS 1 message a sample on ``factory/{line}/{device}/{signal}``, and malformed ones on order."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from iiot_dask.sim.factory import Factory
from iiot_dask.sim.ledger import Ledger
from iiot_dask.sim.mqtt_bulk import BulkPublisher, text
from iiot_dask.sim.signal import KINDS

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MALFORMED: tuple[bytes, ...] = (
    b'{"v": 12.',
    b"\xff\xfe\x00\x01\x80sensor",
    b'{"v": 3,,"ts":17000}',
    b"<html>504 Gateway Time-out</html>",
    b'{"v" 20.5 "ts" 1700000000000}',
)
"""Payloads no JSON parser takes: cut short, binary, doubled comma, a proxy's error page, colons lost."""


class JsonPublisher:
    """Publishes samples; every message is one ledger row."""

    def __init__(self, factory: Factory, session: BulkPublisher, ledger: Ledger) -> None:
        self._session = session
        self._ledger = ledger
        self._topic: dict[int, bytes] = {}
        self._whole: npt.NDArray[np.bool_] = np.array([k.decimals == 0 for k in KINDS])[factory.kind]
        for number in factory.of("json"):
            device = factory.devices[number]
            for tag in range(device.start, device.stop):
                # "site1/line5/mixer3/flow" goes out on "factory/line5/mixer3/flow".
                self._topic[tag] = text("factory/" + factory.names[tag].split("/", 1)[1])
        self.malformed: dict[str, int] = {}

    async def publish(self, tag: Ints, time_ns: Ints, value: Floats) -> None:
        """Send samples; times are ns UTC in whole ms."""
        row = self._ledger.add(tag, time_ns, value, acknowledged=False)
        columns = (value.tolist(), (time_ns // 10**6).tolist(), self._whole[tag].tolist())
        payloads = [
            b'{"v":%d,"ts":%d}' % (v, ms) if whole else b'{"v":%a,"ts":%d}' % (v, ms)
            for v, ms, whole in zip(*columns, strict=True)
        ]
        await self._session.publish([self._topic[t] for t in tag.tolist()], payloads, row)

    async def corrupt(self, device: str, tags: Ints) -> None:
        """Send one malformed payload on each tag's topic, and count them."""
        sent = self.malformed.get(device, 0)
        payloads = [MALFORMED[(sent + k) % len(MALFORMED)] for k in range(len(tags))]
        await self._session.publish([self._topic[t] for t in tags.tolist()], payloads)
        self.malformed[device] = sent + len(tags)
