"""The plant file that reads a simulated factory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from iiot_dask.core.errors import ConfigError
from iiot_dask.sim.signal import KINDS

if TYPE_CHECKING:
    from iiot_dask.sim.factory import Device, Factory

ADAPTERS: tuple[str, ...] = ("presses", "compressor", "robots", "cells")
"""Adapter names of the plant file: two Modbus endpoints, one OPC UA server, one MQTT broker (JSON and Sparkplug)."""

OPCUA_NAMESPACE = "urn:iiot-dask:sim"


def plant_file(factory: Factory, endpoints: Mapping[str, str], data: str, name: str) -> dict[str, Any]:
    """The plant file as plain data, ready for a TOML writer or `core.plantfile.parse`.

    Parameters
    ----------
    factory
        The plant.
    endpoints
        Endpoint of each adapter in `ADAPTERS`, such as ``{"presses": "tcp://127.0.0.1:5020", ...}``.
    data
        Data directory, relative to the plant file.
    name
        The plant's name.

    Raises
    ------
    ConfigError
        If an endpoint is missing.

    Examples
    --------
    >>> from iiot_dask.sim.factory import Factory
    >>> ends = dict.fromkeys(ADAPTERS, "tcp://127.0.0.1:1")
    >>> plant = plant_file(Factory(tags=100), ends, "plant-data", "demo")
    >>> [(a["name"], a["kind"]) for a in plant["adapters"]]
    [('presses', 'modbus'), ('compressor', 'modbus'), ('robots', 'opcua'), ('cells', 'mqtt')]
    """
    missing = [adapter for adapter in ADAPTERS if adapter not in endpoints]
    if missing:
        msg = f"endpoints of {', '.join(missing)} are missing; given: {', '.join(sorted(endpoints)) or 'none'}"
        raise ConfigError(msg)
    own, *shared = (factory.devices[d] for d in factory.of("modbus"))
    modbus = {"presses": shared, "compressor": [own]}
    adapters: list[dict[str, Any]] = [
        {
            "name": adapter,
            "kind": "modbus",
            "endpoint": endpoints[adapter],
            "tags": [tag for device in devices for tag in _modbus_tags(factory, device)],
        }
        for adapter, devices in modbus.items()
    ]
    opcua = [factory.devices[d] for d in factory.of("opcua")]
    adapters.append(
        {
            "name": "robots",
            "kind": "opcua",
            "endpoint": endpoints["robots"],
            "tags": [tag for device in opcua for tag in _opcua_tags(factory, device)],
        }
    )
    adapters.append({"name": "cells", "kind": "mqtt", "endpoint": endpoints["cells"], "topics": _topics()})
    return {
        "plant": {"name": name, "data": data},
        "adapters": adapters,
        # Lossless: the truth is compared to the last bit. Devices stamp in whole ms, so the snap loses nothing of theirs.
        "classes": [{"match": "*", "time_snap": "1ms", "period": "2s"}],
        "cluster": {"day": f"{round(factory.shifts.day_s * 1000)}ms"},
    }


def _common(factory: Factory, tag: int) -> dict[str, Any]:
    unit = KINDS[factory.kind[tag]].unit
    return {"tag": factory.names[tag]} | ({"unit": unit} if unit else {})


def _modbus_tags(factory: Factory, device: Device) -> list[dict[str, Any]]:
    from iiot_dask.sim.factory import MODBUS_MAP

    out = []
    for tag in range(device.start, device.stop):
        address, kind, order, scale = MODBUS_MAP[KINDS[factory.kind[tag]].name]
        row = {"address": address, "type": kind, "order": order, "unit_id": device.unit_id, "scan": "1s"}
        out.append(_common(factory, tag) | row | ({"scale": scale} if scale != 1.0 else {}))
    return out


def _opcua_tags(factory: Factory, device: Device) -> list[dict[str, Any]]:
    return [
        _common(factory, tag) | {"node": f"nsu={OPCUA_NAMESPACE};s={factory.names[tag]}", "scan": "1s"}
        for tag in range(device.start, device.stop)
    ]


def _topics() -> list[dict[str, Any]]:
    from iiot_dask.sim.factory import GROUP

    json = {"filter": "factory/+/+/+", "tag": "site1/{1}/{2}/{3}", "value": "v", "time": "ts", "time_unit": "ms"}
    return [
        json | {"payload": "json"},
        {"filter": f"spBv1.0/{GROUP}/+/+/#", "tag": "spb/{2}/{3}", "payload": "sparkplug"},
    ]
