"""Modbus: polled registers and coils of any number of unit ids behind one endpoint."""

from .adapter import ModbusAdapter

__all__ = ["ModbusAdapter"]
