"""Named scenarios: a factory's samples and faults as frames, without a socket, in no time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from iiot_dask.core.errors import ConfigError
from iiot_dask.core.quality import Quality
from iiot_dask.core.times import SpanLike, TimeLike, span_ns, time_ns
from iiot_dask.sim.factory import MS, OWN_ENDPOINT, PROTOCOLS, Factory
from iiot_dask.sim.signal import mix, uniform

if TYPE_CHECKING:
    import polars as pl

SAMPLES_MAX = 200_000_000
"""Most samples a scenario makes (6.6 GB); a longer one is refused, not cut."""

_LEVELS: Mapping[str, tuple[float, ...]] = {
    "shift-change": (0.4, 1.0, 0.7),
    "steady": (0.7,),
}
SCENARIOS: tuple[str, ...] = tuple(_LEVELS)


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happened in a scenario, and what was wrong.

    `samples`: ``tag`` (str), ``time``, ``value``, ``quality`` (uint8), ``received``, in order of ``received``; times are
    ns UTC. `faults`: ``kind``, ``node``, ``start``, ``end``, the incidents to be found. `topology`: ``node``,
    ``parent``, with tags as leaves. `factory`: the plant itself.
    """

    name: str
    factory: Factory = field(repr=False)
    samples: pl.DataFrame = field(repr=False)
    faults: pl.DataFrame = field(repr=False)
    topology: pl.DataFrame = field(repr=False)

    def _repr_html_(self) -> str:
        """The faults and the first samples."""
        title = f"<b>Scenario {self.name!r}</b>: {len(self.samples):,} samples of {self.factory.tags:,} tags"
        return f"{title}{self.faults._repr_html_()}{self.samples.head(5)._repr_html_()}"


def scenario(
    name: str = "shift-change",
    tags: int = 2000,
    seed: int = 7,
    duration: SpanLike = "3m",
    day: SpanLike = "1m",
    start: TimeLike = "2026-01-05T06:00:00Z",
    latency: SpanLike = "20ms",
    **factory: Any,
) -> Scenario:
    """Samples of a simulated factory with the truth about its faults.

    Parameters
    ----------
    name
        ``shift-change`` (three shifts a day, of activity 0.4, 1.0 and 0.7) or ``steady`` (0.7 all day).
    tags, seed
        Size of the plant and its seed; equal arguments give equal frames.
    duration
        Length of the record.
    day
        Length of the plant's day: ``"24h"`` for real time, shorter compressed.
    start
        Device time of the start.
    latency
        Mean delay from device time to receive time, exponentially distributed.
    **factory
        Further arguments of `Factory`: ``faults``, ``levels``.

    Raises
    ------
    ConfigError
        If the name is unknown, an argument is out of range or the record would exceed `SAMPLES_MAX`.

    Examples
    --------
    >>> found = scenario("shift-change", tags=200, duration="1m")
    >>> found.samples.columns, found.faults["kind"].to_list()
    (['tag', 'time', 'value', 'quality', 'received'], ['outage', 'flatline', 'corrupt'])
    >>> found.samples.equals(scenario("shift-change", tags=200, duration="1m").samples)
    True
    """
    if name not in _LEVELS:
        msg = f"scenario {name!r} is unknown; {', '.join(SCENARIOS)} are there"
        raise ConfigError(msg)
    length = span_ns(duration)
    options = {"levels": _LEVELS[name]} | factory
    plant = Factory(tags=tags, seed=seed, day_s=span_ns(day) / 1e9, duration_s=length / 1e9, **options)
    _check_size(plant, length)
    return Scenario(
        name, plant, _samples(plant, length, time_ns(start), span_ns(latency)), _faults(plant, start), topology(plant)
    )


def _check_size(plant: Factory, length_ns: int) -> None:
    most = int((plant.size * (length_ns // plant.grid_ns)).sum())
    if most > SAMPLES_MAX:
        msg = f"{plant.tags} tags over {length_ns / 1e9:g} s are up to {most} samples; at most {SAMPLES_MAX} are made at once"
        raise ConfigError(msg)


def _samples(plant: Factory, length_ns: int, start_ns: int, latency_ns: int) -> pl.DataFrame:
    import polars as pl

    tag, t_ns, value = plant.samples(0, length_ns)
    own = next(d for d in plant.devices if d.path == OWN_ENDPOINT)
    silent = np.zeros(len(tag), np.bool_)
    for fault in plant.faults:
        if fault.kind == "outage":
            inside = (t_ns >= fault.start_s * 1e9) & (t_ns < fault.end_s * 1e9)
            silent |= inside & (tag >= own.start) & (tag < own.stop)
    tag, t_ns, value = tag[~silent], t_ns[~silent], value[~silent]
    draw = uniform(mix(mix(tag.astype(np.uint64) ^ np.uint64(plant.seed & 0xFFFFFFFF)) ^ t_ns.astype(np.uint64)))
    received = t_ns + (-np.log1p(-draw) * latency_ns).astype(np.int64)
    # Polled devices have no clock: the time of their samples is when the answer came.
    polled = plant.protocol[plant.device_of[tag]] == PROTOCOLS.index("modbus")
    t_ns = np.where(polled, received, t_ns)
    order = np.argsort(received, kind="stable")
    moment = pl.Datetime("ns", "UTC")
    frame = pl.DataFrame(
        {
            "tag": pl.Series(plant.names, dtype=pl.String)[tag[order]],
            "time": pl.Series(start_ns + t_ns[order]).cast(moment),
            "value": value[order],
            "quality": np.full(len(tag), int(Quality.GOOD), np.uint8),
            "received": pl.Series(start_ns + received[order]).cast(moment),
        }
    )
    lost = _corrupt_rows(plant, start_ns)
    return frame if lost is None else pl.concat([frame, lost]).sort("received", maintain_order=True)


def _corrupt_rows(plant: Factory, start_ns: int) -> pl.DataFrame | None:
    """A malformed payload shows downstream as a row of quality bad without a value."""
    import polars as pl

    parts = []
    moment = pl.Datetime("ns", "UTC")
    for fault in plant.faults:
        if fault.kind != "corrupt":
            continue
        number = np.array([next(i for i, d in enumerate(plant.devices) if d.path == fault.node)])
        device, t_ns = plant.reports(round(fault.start_s * 1e9), round(fault.end_s * 1e9), number)
        tag, at = plant.tags_of(device)
        when = pl.Series(start_ns + t_ns[at] + MS).cast(moment)
        parts.append(
            pl.DataFrame(
                {
                    "tag": pl.Series(plant.names, dtype=pl.String)[tag],
                    "time": when,
                    "value": np.full(len(tag), np.nan),
                    "quality": np.full(len(tag), int(Quality.BAD_TYPE), np.uint8),
                    "received": when,
                }
            )
        )
    return pl.concat(parts) if parts else None


def _faults(plant: Factory, start: TimeLike) -> pl.DataFrame:
    import polars as pl

    zero = time_ns(start)
    rows = [(f.kind, f.node, zero + round(f.start_s * 1e9), zero + round(f.end_s * 1e9)) for f in plant.faults]
    moment = pl.Datetime("ns", "UTC")
    schema = {"kind": pl.String, "node": pl.String, "start": pl.Int64, "end": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(pl.col("start", "end").cast(moment))


def topology(plant: Factory) -> pl.DataFrame:
    """(node, parent) of every tag, device and level above it; the topmost levels have no row."""
    import polars as pl

    parents: dict[str, str] = {}
    for name in plant.names:
        node = name
        while "/" in node and node not in parents:
            parents[node] = node.rsplit("/", 1)[0]
            node = parents[node]
    return pl.DataFrame(
        {"node": list(parents), "parent": list(parents.values())}, schema={"node": pl.String, "parent": pl.String}
    )
