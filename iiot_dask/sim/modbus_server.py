"""The Modbus side: pymodbus servers whose registers are computed from the factory, and a log of what was read.

The only file of the simulator that knows pymodbus.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from iiot_dask.core.errors import CapacityError
from iiot_dask.sim.factory import MODBUS_MAP, MS, Device, Factory
from iiot_dask.sim.signal import KINDS, MACHINE_KINDS

REFRESH_NS = 100 * MS
"""A device renews its registers this often."""

REGISTERS = 13
"""Holding registers 0..12 of every device; coil 0 is the only coil."""

_WIDTH = {"float32": 2, "uint32": 2, "int16": 1, "uint16": 1, "bool": 1}
_READ_COILS, _READ_HOLDING = 1, 3

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def encode(values: Floats) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.bool_]]:
    """Registers and coils of devices.

    Parameters
    ----------
    values
        float64[devices, kinds], in the order of `KINDS`; NaN = the device has no such tag.

    Returns
    -------
    registers, coils
        uint16[devices, 13] and bool[devices, 1], laid out as `MODBUS_MAP` says.

    Examples
    --------
    >>> row = np.array([[1.0, 1.0, -0.5, 0.02, 0.0, 0.0, 1500.0, 70000.0, 0.0, 1.0]])
    >>> registers, coils = encode(row)
    >>> [f"{r:x}" for r in registers[0]], coils[0].tolist()
    (['3f80', '0', '0', '3f80', 'ffce', '2', '0', '0', '0', '5dc', '1', '1170', '0'], [True])
    """
    clean = np.nan_to_num(values)
    registers = np.zeros((len(values), REGISTERS), np.uint16)
    coils = np.zeros((len(values), 1), np.bool_)
    for k in range(MACHINE_KINDS):
        space, at, kind, order, scale = _row(k)
        raw = clean[:, k] if scale == 1.0 else clean[:, k] / scale
        if space == "coil":
            coils[:, at] = raw != 0
            continue
        if kind == "float32":
            words = raw.astype(">f4").view(">u2").reshape(-1, 2)
        elif kind == "uint32":
            words = np.rint(raw).astype(">u4").view(">u2").reshape(-1, 2)
        else:
            words = np.rint(raw).astype(np.int64).astype(np.uint16).reshape(-1, 1)
        registers[:, at : at + _WIDTH[kind]] = words[:, ::-1] if order == "cdab" else words
    return registers, coils


def _row(kind: int) -> tuple[str, int, str, str, float]:
    address, word, order, scale = MODBUS_MAP[KINDS[kind].name]
    space, _, at = address.partition(":")
    return space, int(at), word, order, scale


class Registers:
    """The memory of one server's devices, in the shape pymodbus asks for it.

    Parameters
    ----------
    factory
        The plant.
    devices
        Device numbers behind this server.
    now_ns
        Gives the plant's time, ns since its start (0 until it starts).
    served
        Called with (tags, values) for every answered read that covers whole tags.
    """

    def __init__(
        self, factory: Factory, devices: Ints, now_ns: Callable[[], int], served: Callable[[Ints, Floats], None]
    ) -> None:
        self._factory = factory
        self._now_ns = now_ns
        self._served = served
        members: list[Device] = [factory.devices[d] for d in devices]
        self._unit = {device.unit_id: row for row, device in enumerate(members)}
        self._tags = np.full((len(members), MACHINE_KINDS), -1, np.int64)
        for row, device in enumerate(members):
            self._tags[row, : device.stop - device.start] = np.arange(device.start, device.stop)
        self._values = np.full(self._tags.shape, np.nan)
        layout = [_row(k) for k in range(MACHINE_KINDS)]
        self._coil = np.array([space == "coil" for space, *_ in layout])
        self._first = np.array([at for _, at, *_ in layout])
        self._last = self._first + np.array([_WIDTH[word] for _, _, word, *_ in layout])
        self._fresh_until_ns = -1
        self._refresh(0)

    def _refresh(self, now: int) -> None:
        known = self._tags >= 0
        tag = self._tags[known]
        self._values[known] = self._factory.values(tag, np.full(len(tag), now, np.int64))
        self._holding, self._coils = encode(self._values)
        self._fresh_until_ns = now + REFRESH_NS

    def read(self, unit_id: int, function: int, address: int, count: int) -> list[int] | list[bool] | None:
        """Answer one read, or None when the unit, the function or an address does not exist."""
        row = self._unit.get(unit_id)
        bank: npt.NDArray[Any] | None = {_READ_COILS: self._coils, _READ_HOLDING: self._holding}.get(function)
        if row is None or bank is None or address + count > bank.shape[1]:
            return None
        now = self._now_ns()
        if now >= self._fresh_until_ns:
            self._refresh(now)
            bank = self._coils if function == _READ_COILS else self._holding
        whole = (self._coil == (function == _READ_COILS)) & (self._first >= address) & (self._last <= address + count)
        whole &= self._tags[row] >= 0
        self._served(self._tags[row, whole], self._values[row, whole])
        out: list[int] | list[bool] = bank[row, address : address + count].tolist()
        return out

    # What pymodbus calls its context: three methods, matched by name.
    def device_ids(self) -> list[int]:
        """Unit ids that answer."""
        return list(self._unit)

    async def async_getValues(self, device_id: int, func_code: int, address: int, count: int = 1) -> Any:  # noqa: N802
        """Values, or the exception code a device would answer with."""
        from pymodbus.constants import ExcCodes

        if device_id not in self._unit:
            return ExcCodes.GATEWAY_NO_RESPONSE
        found = self.read(device_id, func_code, address, count)
        return ExcCodes.ILLEGAL_ADDRESS if found is None else found

    async def async_setValues(self, *_: Any) -> Any:  # noqa: N802
        """Writes are refused: this plant is for reading."""
        from pymodbus.constants import ExcCodes

        return ExcCodes.ILLEGAL_FUNCTION


class ModbusServer:
    """One Modbus TCP endpoint on loopback that can go away and come back on the same port."""

    def __init__(self, registers: Registers) -> None:
        self._registers = registers
        self._server: Any = None
        self.port = 0

    @property
    def endpoint(self) -> str:
        """``tcp://127.0.0.1:PORT``."""
        return f"tcp://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen; the first time on a port the system chooses, later on that same port.

        Raises
        ------
        CapacityError
            If the port is taken.
        """
        from pymodbus.server import ModbusTcpServer
        from pymodbus.simulator import DataType, SimData, SimDevice

        placeholder = SimDevice(1, [SimData(0, datatype=DataType.REGISTERS)])
        server = ModbusTcpServer(placeholder, address=("127.0.0.1", self.port))
        server.context = self._registers
        try:
            await server.serve_forever(background=True)
        except RuntimeError as error:
            msg = f"Modbus server: port {self.port} of 127.0.0.1 can not be listened on"
            raise CapacityError(msg) from error
        self.port = server.transport.sockets[0].getsockname()[1]
        self._server = server

    async def stop(self) -> None:
        """Close the listener and every connection at once, as a device that loses power."""
        if self._server is not None:
            await self._server.shutdown()
            self._server = None
