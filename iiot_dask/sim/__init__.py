"""Stage 1: a simulated factory on real protocol servers, with the truth of what it sent.

`Factory` is pure; `scenario` gives its samples as frames; `sim.process.FactoryProcess` runs it as a process with a
Modbus, an OPC UA and an MQTT side.
"""

from __future__ import annotations

from iiot_dask.sim.factory import Factory
from iiot_dask.sim.fault import Fault
from iiot_dask.sim.scenario import Scenario, scenario
from iiot_dask.sim.shift import Shifts

__all__ = ["Factory", "Fault", "Scenario", "Shifts", "scenario"]
