"""The Sparkplug B side: one edge node and its devices (Sparkplug 3.0: births, data, death, rebirth on command)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from iiot_dask.core import sparkplug_b as spb
from iiot_dask.core.errors import DataError
from iiot_dask.sim.factory import GROUP, NODE, Factory
from iiot_dask.sim.ledger import Ledger
from iiot_dask.sim.mqtt_session import MqttSession
from iiot_dask.sim.signal import KINDS

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_TYPES: dict[str, spb.DataType] = {
    "temperature": spb.DataType.FLOAT,
    "oil_temperature": spb.DataType.FLOAT,
    "setpoint": spb.DataType.FLOAT,
    "load": spb.DataType.FLOAT,
    "rpm": spb.DataType.INT16,
    "energy": spb.DataType.UINT64,
    "valve": spb.DataType.BOOLEAN,
}
"""Datatype by kind; all others are double."""

_COMMANDS = f"{spb.NAMESPACE}/{GROUP}/NCMD/{NODE}"


class SparkplugNode:
    """Edge node `NODE` of group `GROUP`; the tag ``spb/edge1/load`` is its own metric, the rest belong to devices.

    Parameters
    ----------
    factory
        The plant.
    session
        Its connection, not yet connected: the will is set here.
    ledger
        Where every metric sent, births included, is written down.
    sample
        Gives (time ns UTC, values) of tags now, for births.
    """

    def __init__(
        self, factory: Factory, session: MqttSession, ledger: Ledger, sample: Callable[[Ints], tuple[int, Floats]]
    ) -> None:
        self._factory = factory
        self._session = session
        self._ledger = ledger
        self._sample = sample
        self._seq = 0
        self._bd_seq = 0
        self._alive = False
        self.rebirths = 0
        self.bad_commands = 0
        self._type = [_TYPES.get(k.name, spb.DataType.DOUBLE) for k in KINDS]
        self._field = {spb.DataType.FLOAT: "float_value", spb.DataType.DOUBLE: "double_value"}
        session.client.will_set(self._topic("NDEATH"), self._death(), qos=1)
        session.client.on_message = self._on_message

    def _topic(self, kind: str, device: str = "") -> str:
        return f"{spb.NAMESPACE}/{GROUP}/{kind}/{NODE}" + (f"/{device}" if device else "")

    def _death(self) -> bytes:
        payload = spb.Payload()
        spb.set_value(payload.metrics.add(name=spb.BIRTH_DEATH_SEQ), spb.DataType.INT64, self._bd_seq)
        out: bytes = payload.SerializeToString()
        return out

    def start(self) -> None:
        """Listen for commands and be born; the session must be connected."""
        self._session.client.subscribe(_COMMANDS, 1)
        self._alive = True
        self.birth()

    def birth(self) -> None:
        """NBIRTH, then a DBIRTH for each device, with every metric's name, alias, datatype and present value."""
        self._seq = 0
        for number in self._factory.of("sparkplug"):
            device = self._factory.devices[number]
            tags = np.arange(device.start, device.stop)
            time_ns, values = self._sample(tags)
            payload = self._payload(time_ns)
            name = device.path.split("/")[2] if device.path.count("/") == 2 else ""
            if not name:
                spb.set_value(payload.metrics.add(name=spb.BIRTH_DEATH_SEQ), spb.DataType.INT64, self._bd_seq)
                spb.set_value(payload.metrics.add(name=spb.NODE_REBIRTH), spb.DataType.BOOLEAN, 0.0)
            for tag, value in zip(tags.tolist(), values.tolist(), strict=True):
                kind = int(self._factory.kind[tag])
                metric = payload.metrics.add(name=KINDS[kind].name, alias=tag, timestamp=time_ns // 10**6)
                spb.set_value(metric, self._type[kind], value)
            self._send("DBIRTH" if name else "NBIRTH", name, payload, tags, time_ns, values)

    def publish(self, device: int, time_ns: int, tags: Ints, values: Floats) -> None:
        """NDATA or DDATA of one device: metrics by alias alone, as the births allow; `time_ns` in whole ms UTC."""
        payload = self._payload(time_ns)
        ms = time_ns // 10**6
        for tag, value in zip(tags.tolist(), values.tolist(), strict=True):
            datatype = self._type[self._factory.kind[tag]]
            metric = payload.metrics.add(alias=tag, timestamp=ms)
            field = self._field.get(datatype)
            if field is not None:
                setattr(metric, field, value)
            else:
                spb.set_value(metric, datatype, value)
                metric.ClearField("datatype")
        levels = self._factory.devices[device].path.split("/")
        name = levels[2] if len(levels) == 3 else ""
        self._send("DDATA" if name else "NDATA", name, payload, tags, time_ns, values)

    def _payload(self, time_ns: int) -> Any:
        payload = spb.Payload(timestamp=time_ns // 10**6, seq=self._seq)
        self._seq = (self._seq + 1) % 256
        return payload

    def _send(self, kind: str, name: str, payload: Any, tags: Ints, time_ns: int, values: Floats) -> None:
        row = self._ledger.add(tags, np.full(len(tags), time_ns), values, acknowledged=False)
        # Births and data go at QoS 0, as the specification demands (5.9 to 5.15); only the death is QoS 1.
        self._session.publish(self._topic(kind, name), payload.SerializeToString(), 0, (row, row + len(tags)))

    def _on_message(self, _client: Any, _user: Any, message: Any) -> None:
        try:
            metrics = spb.parse(message.payload).metrics
        except DataError:
            self.bad_commands += 1
            return
        if self._alive and any(m.name == spb.NODE_REBIRTH and m.boolean_value for m in metrics):
            self.rebirths += 1
            self.birth()

    def stop(self) -> None:
        """Send no more, not even births on command; the session stays up."""
        self._alive = False

    def die(self) -> None:
        """NDEATH by hand, for a deliberate disconnect (the broker will not send the will then)."""
        self._session.publish(self._topic("NDEATH"), self._death(), 1)
