"""The JSON side: one QoS 1 message a sample on ``factory/{line}/{device}/{signal}``, and malformed ones on order."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from iiot_dask.sim.factory import Factory
from iiot_dask.sim.ledger import Ledger
from iiot_dask.sim.mqtt_session import MqttSession
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

    def __init__(self, factory: Factory, session: MqttSession, ledger: Ledger) -> None:
        self._session = session
        self._ledger = ledger
        self._topic: dict[int, str] = {}
        self._whole: npt.NDArray[np.bool_] = np.array([k.decimals == 0 for k in KINDS])[factory.kind]
        for number in factory.of("json"):
            device = factory.devices[number]
            for tag in range(device.start, device.stop):
                # "site1/line5/mixer3/flow" goes out on "factory/line5/mixer3/flow".
                self._topic[tag] = "factory/" + factory.names[tag].split("/", 1)[1]
        self.malformed: dict[str, int] = {}

    def publish(self, tag: Ints, time_ns: Ints, value: Floats) -> None:
        """Send samples; times are ns UTC in whole ms."""
        row = self._ledger.add(tag, time_ns, value, acknowledged=False)
        whole = self._whole[tag].tolist()
        for number, ms, v, integer in zip(
            tag.tolist(), (time_ns // 10**6).tolist(), value.tolist(), whole, strict=True
        ):
            payload = b'{"v":%d,"ts":%d}' % (v, ms) if integer else b'{"v":%a,"ts":%d}' % (v, ms)
            self._session.publish(self._topic[number], payload, 1, (row, row + 1))
            row += 1

    def corrupt(self, device: str, tags: Ints) -> None:
        """Send one malformed payload on each tag's topic, and count them."""
        sent = self.malformed.get(device, 0)
        for tag in tags.tolist():
            self._session.publish(self._topic[tag], MALFORMED[sent % len(MALFORMED)], 1)
            sent += 1
        self.malformed[device] = sent
