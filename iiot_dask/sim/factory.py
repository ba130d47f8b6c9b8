"""`Factory`: devices, tags, shifts and faults of a simulated plant, a pure function of a few numbers.

A device reports all its tags at once, on a grid of its own: every 0.5 s while it works, every 2 s (each fourth point of
the same grid) while it idles. How many devices work follows the shifts, so the message rate of the whole plant does;
within a shift each tag's period is regular. OPC UA devices change once a second; Modbus devices are polled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from iiot_dask.core.errors import ConfigError
from iiot_dask.sim.fault import Fault
from iiot_dask.sim.shift import Shifts
from iiot_dask.sim.signal import KINDS, MACHINE_KINDS, Signals, mix

Protocol = Literal["modbus", "opcua", "json", "sparkplug"]
PROTOCOLS: tuple[Protocol, ...] = ("modbus", "opcua", "json", "sparkplug")

TAGS_MIN = 100
TAGS_MAX = 10_000_000
MODBUS_TAGS_MAX = 500
OPCUA_TAGS_MAX = 400
"""Above 2,000 tags only MQTT grows: asyncua serves about this many changes a second in a small part of a core."""

DEVICES_PER_LINE = 30
GROUP, NODE = "plant", "edge1"
"""Sparkplug group and edge node."""
OWN_ENDPOINT = "site1/utilities/compressor1"
"""The Modbus device that has an endpoint, and an adapter, to itself."""

MS = 1_000_000
ACTIVE_NS = 500 * MS
QUIET_EVERY = 4
SECOND_NS = 1000 * MS
JITTER_MS = 5

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# Modbus map of every machine: kind -> (address, type, word order, scale). Raw integer = value / scale.
MODBUS_MAP: dict[str, tuple[str, str, str, float]] = {
    "temperature": ("holding:0", "float32", "abcd", 1.0),
    "oil_temperature": ("holding:2", "float32", "cdab", 1.0),
    "pressure": ("holding:4", "int16", "abcd", 0.01),
    "inlet_pressure": ("holding:5", "uint16", "abcd", 0.01),
    "flow": ("holding:6", "float32", "abcd", 1.0),
    "coolant_flow": ("holding:8", "int16", "abcd", 0.1),
    "rpm": ("holding:9", "uint16", "abcd", 1.0),
    "energy": ("holding:10", "uint32", "abcd", 1.0),
    "setpoint": ("holding:12", "int16", "abcd", 0.1),
    "valve": ("coil:0", "bool", "abcd", 1.0),
}
FLOAT32: dict[str, frozenset[str]] = {
    "modbus": frozenset(k for k, row in MODBUS_MAP.items() if row[1] == "float32"),
    "opcua": frozenset({"setpoint"}),
    "json": frozenset(),
    "sparkplug": frozenset({"temperature", "oil_temperature", "setpoint", "load"}),
}
"""Kinds each protocol carries as 32-bit floats; what arrives is the rounded value, and so is the truth."""


@dataclass(frozen=True, slots=True)
class Device:
    """A topology node with tags ``start <= tag < stop``; `unit_id` for Modbus devices only."""

    path: str
    protocol: Protocol
    start: int
    stop: int
    unit_id: int = 0


class Factory:
    """The plant.

    Parameters
    ----------
    tags
        How many tags, `TAGS_MIN` to `TAGS_MAX`.
    seed
        Any integer; equal arguments give equal plants, to the last bit.
    day_s
        Length of the cycle of three shifts, seconds.
    duration_s
        How long a run is meant to last, seconds; only places the default faults.
    faults
        The fault plan; None = one device outage, one flatline and one device with corrupt payloads.
    levels
        Activity of the shifts, 0..1.

    Raises
    ------
    ConfigError
        If a number is out of range or a fault names a node that can not show it.

    Examples
    --------
    >>> factory = Factory(tags=2000, seed=7)
    >>> {p: sum(d.stop - d.start for d in factory.devices if d.protocol == p) for p in PROTOCOLS}
    {'modbus': 500, 'opcua': 400, 'json': 900, 'sparkplug': 200}
    >>> factory.names[0], [f.kind for f in factory.faults]
    ('site1/utilities/compressor1/temperature', ['outage', 'flatline', 'corrupt'])
    """

    def __init__(
        self,
        tags: int = 2000,
        seed: int = 7,
        day_s: float = 60.0,
        duration_s: float = 90.0,
        faults: Sequence[Fault] | None = None,
        levels: tuple[float, ...] = (0.4, 1.0, 0.7),
    ) -> None:
        if not TAGS_MIN <= tags <= TAGS_MAX:
            msg = f"tags {tags!r} is outside {TAGS_MIN}..{TAGS_MAX}"
            raise ConfigError(msg)
        if not duration_s > 0:
            msg = f"duration_s {duration_s!r} is not a positive number of seconds"
            raise ConfigError(msg)
        self.tags, self.seed, self.duration_s = tags, seed, float(duration_s)
        self.shifts = Shifts(float(day_s), tuple(levels))
        self.devices, self.names, kind = _layout(tags)
        self.kind: Ints = np.array(kind, np.int64)
        self.device_of: Ints = np.repeat(np.arange(len(self.devices)), [d.stop - d.start for d in self.devices])
        self.signals = Signals(self.kind, seed, self.shifts)
        self.protocol: Ints = np.array([PROTOCOLS.index(d.protocol) for d in self.devices])
        self.start: Ints = np.array([d.start for d in self.devices])
        self.size: Ints = np.array([d.stop - d.start for d in self.devices])
        self._schedule()
        self._wire()
        self.faults = tuple(_default_faults(self) if faults is None else faults)
        self._flat = [self._stuck(f) for f in self.faults if f.kind == "flatline"]
        self._check()

    def _schedule(self) -> None:
        rng = np.random.default_rng(self.seed)
        n = len(self.devices)
        self.rank: Floats = np.empty(n)
        for protocol in range(len(PROTOCOLS)):
            rows = np.flatnonzero(self.protocol == protocol)
            self.rank[rows] = (rng.permutation(len(rows)) + 0.5) / len(rows)
        self.grid_ns: Ints = np.where(self.protocol >= PROTOCOLS.index("json"), ACTIVE_NS, SECOND_NS)
        # Phases are at least the jitter, which is subtracted, so that no report lies before the start.
        self.phase_ns: Ints = rng.integers(JITTER_MS, self.grid_ns // MS, n) * MS
        self.by_shift = self.protocol >= PROTOCOLS.index("json")

    def _wire(self) -> None:
        name = np.array([k.name for k in KINDS])
        protocol = self.protocol[self.device_of]
        self.single = np.zeros(self.tags, np.bool_)
        for number, text in enumerate(PROTOCOLS):
            narrow = np.array([k in FLOAT32[text] for k in name])
            self.single |= (protocol == number) & narrow[self.kind]
        scale = np.array([MODBUS_MAP[k][3] if k in MODBUS_MAP else 1.0 for k in name])
        self.modbus_scale: Floats = np.where(protocol == 0, scale[self.kind], 1.0)

    def _stuck(self, fault: Fault) -> tuple[int, int, int, int]:
        """(tag, from ns, to ns, the time whose value it repeats)."""
        tag = self.names.index(fault.node) if fault.node in self.names else -1
        if tag < 0:
            msg = f"fault 'flatline': tag {fault.node!r} is none of the factory's"
            raise ConfigError(msg)
        begin, end = round(fault.start_s * 1e9), round(fault.end_s * 1e9)
        before = begin - 2 * QUIET_EVERY * ACTIVE_NS
        _, t_ns = self.reports(max(0, before), begin + JITTER_MS * MS, self.device_of[tag : tag + 1])
        sent = t_ns[t_ns < begin]
        return tag, begin, end, int(sent[-1]) if len(sent) else begin

    def _check(self) -> None:
        paths = {d.path: d for d in self.devices}
        for fault in self.faults:
            if fault.kind == "flatline":
                continue
            wanted: Protocol = "modbus" if fault.kind == "outage" else "json"
            device = paths.get(fault.node)
            if device is None or device.protocol != wanted:
                msg = f"fault {fault.kind!r}: {fault.node!r} is no {wanted} device of the factory"
                raise ConfigError(msg)
            if fault.kind == "outage" and device.path != OWN_ENDPOINT:
                msg = f"fault 'outage': {fault.node!r} shares its endpoint; only {OWN_ENDPOINT!r} can go alone"
                raise ConfigError(msg)

    def of(self, protocol: Protocol) -> Ints:
        """Device numbers of one protocol, ascending."""
        return np.flatnonzero(self.protocol == PROTOCOLS.index(protocol))

    def tags_of(self, devices: Ints) -> tuple[Ints, Ints]:
        """Tag numbers of the devices in order, and for each the position in `devices` it came from."""
        sizes = self.size[devices]
        at = np.repeat(np.arange(len(devices)), sizes)
        first = np.cumsum(sizes) - sizes
        return self.start[devices][at] + np.arange(len(at)) - first[at], at

    def reports(self, t0_ns: int, t1_ns: int, devices: Ints | None = None) -> tuple[Ints, Ints]:
        """Which devices report when, for grid points in ``[t0_ns, t1_ns)`` after the start.

        Returns
        -------
        device, t_ns
            int64 arrays of equal length, ordered by time; times are whole milliseconds, at most 5 ms before the grid
            point (a device's clock is no metronome).

        Examples
        --------
        >>> factory = Factory(tags=2000)
        >>> rate = [len(factory.reports(t * 10**9, (t + 8) * 10**9)[0]) / 8 for t in (8, 28, 48)]
        >>> [round(r / 10) * 10 for r in rate]  # devices per second: night, day, late shift
        [210, 310, 260]
        """
        rows = np.arange(len(self.devices)) if devices is None else devices
        phase, grid = self.phase_ns[rows], self.grid_ns[rows]
        j0 = np.maximum(0, -((phase - t0_ns) // grid))
        count = np.maximum(0, -((phase - t1_ns) // grid) - j0)
        at = np.repeat(np.arange(len(rows)), count)
        j = j0[at] + np.arange(len(at)) - (np.cumsum(count) - count)[at]
        t = phase[at] + j * grid[at]
        device = rows[at]
        working = self.rank[device] < self.shifts.activity(t * 1e-9)
        keep = ~self.by_shift[device] | working | ((j + device) % QUIET_EVERY == 0)
        device, t, j = device[keep], t[keep], j[keep]
        shake = mix(mix(device.astype(np.uint64)) ^ j.astype(np.uint64)) % np.uint64(JITTER_MS)
        t = t - shake.astype(np.int64) * MS
        order = np.argsort(t, kind="stable")
        return device[order], t[order]

    def samples(self, t0_ns: int, t1_ns: int, devices: Ints | None = None) -> tuple[Ints, Ints, Floats]:
        """Every sample of `reports`: tag numbers, times (ns since the start), values as they cross the wire."""
        device, t_ns = self.reports(t0_ns, t1_ns, devices)
        tag, at = self.tags_of(device)
        times = t_ns[at]
        return tag, times, self.values(tag, times)

    def values(self, tag: Ints, t_ns: Ints) -> Floats:
        """Values of tags at times (ns since the start), with flatlines, rounded as the tag's wire type rounds."""
        times = t_ns
        for stuck, begin, end, held in self._flat:
            rows = (tag == stuck) & (t_ns >= begin) & (t_ns < end)
            if rows.any():
                times = np.where(rows, held, times)
        out = self.signals.at(tag, times)
        scale = self.modbus_scale[tag]
        out = np.where(scale != 1.0, np.rint(out / scale) * scale, out)
        single = self.single[tag]
        if single.any():
            out = np.where(single, out.astype(np.float32).astype(np.float64), out)
        return out

    def to_dict(self) -> dict[str, Any]:
        """The arguments as plain data, for a configuration file."""
        return {
            "tags": self.tags,
            "seed": self.seed,
            "day_s": self.shifts.day_s,
            "duration_s": self.duration_s,
            "levels": list(self.shifts.levels),
            "faults": [asdict(f) for f in self.faults],
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Factory:
        """Build from what `to_dict` gave.

        Raises
        ------
        ConfigError
            If a key is unknown or a value out of range.
        """
        try:
            rest = {k: v for k, v in raw.items() if k not in ("faults", "levels")}
            return cls(**rest, levels=tuple(raw["levels"]), faults=[Fault(**f) for f in raw["faults"]])
        except (TypeError, KeyError) as error:
            msg = f"factory configuration: {error}"
            raise ConfigError(msg) from error

    def plant_file(self, endpoints: Mapping[str, str], data: str = "plant-data", name: str = "demo") -> dict[str, Any]:
        """The plant file that reads this factory at `endpoints` (adapter name -> endpoint); see `sim.plant`."""
        from iiot_dask.sim.plant import plant_file

        return plant_file(self, endpoints, data, name)


def _layout(tags: int) -> tuple[list[Device], list[str], list[int]]:
    share = {
        "modbus": min(MODBUS_TAGS_MAX, tags // 4),
        "opcua": min(OPCUA_TAGS_MAX, tags // 5),
        "sparkplug": tags // 10,
    }
    share["json"] = tags - sum(share.values())
    devices: list[Device] = []
    names: list[str] = []
    kind: list[int] = []
    lines = 0

    def add(path: str, protocol: Protocol, kinds: Sequence[int], unit_id: int = 0) -> None:
        devices.append(Device(path, protocol, len(names), len(names) + len(kinds), unit_id))
        names.extend(f"{path}/{KINDS[k].name}" for k in kinds)
        kind.extend(kinds)

    for protocol, machine in (("modbus", "press"), ("opcua", "robot"), ("json", "mixer"), ("sparkplug", "cell")):
        left, number = share[protocol], 0
        if protocol == "modbus":
            add(OWN_ENDPOINT, "modbus", range(MACHINE_KINDS), unit_id=1)
            left -= MACHINE_KINDS
        elif protocol == "sparkplug":
            add(f"spb/{NODE}", "sparkplug", [MACHINE_KINDS])
            left -= 1
        while left > 0:
            number += 1
            size = min(MACHINE_KINDS, left)
            line = lines + 1 + (number - 1) // DEVICES_PER_LINE
            path = f"spb/{NODE}/{machine}{number}" if protocol == "sparkplug" else f"site1/line{line}/{machine}{number}"
            add(path, protocol, range(size), unit_id=number if protocol == "modbus" else 0)  # type: ignore[arg-type]
            left -= size
        lines += -(-number // DEVICES_PER_LINE)
    return devices, names, kind


def _default_faults(factory: Factory) -> list[Fault]:
    """One fault of each kind: late enough that health has learned the plant, early enough to see it end."""
    end = factory.duration_s
    json = factory.of("json")
    # Devices that work in every shift: the longest regular record, and enough samples to show a flatline.
    steady = [int(d) for d in json[np.argsort(factory.rank[json])] if factory.size[d] == MACHINE_KINDS]
    stuck, torn = factory.devices[steady[0]], factory.devices[steady[1 % len(steady)]]
    return [
        Fault("outage", OWN_ENDPOINT, 0.35 * end, 0.60 * end),
        Fault("flatline", f"{stuck.path}/temperature", 0.40 * end, 0.90 * end),
        Fault("corrupt", torn.path, 0.55 * end, 0.70 * end),
    ]
