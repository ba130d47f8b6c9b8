"""What the engine says of itself once a second: plain data, for the dashboard, the CLI and ``status.json``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

VERSION = 1
"""Version of ``status.json``."""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """A latency, seconds; NaN (null in JSON) before the first value."""

    p50: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class AdapterRow:
    """One adapter process: `samples` and `errors` are totals, `age_s` seconds since its last row (None: never).

    `connected`: its session with the devices, or the broker, stands.
    """

    name: str
    kind: str
    state: str
    pid: int | None
    restarts: int
    samples: int
    errors: int
    age_s: float | None
    reason: str
    connected: bool = False


@dataclass(frozen=True, slots=True)
class IncidentRow:
    """One incident; times are int64 ns since 1970 UTC, `end_ns` is None while it lasts."""

    incident: int
    node: str
    kind: str
    start_ns: int
    detected_ns: int
    end_ns: int | None
    score: float
    tags: int


@dataclass(frozen=True, slots=True)
class Workers:
    """The cluster: workers `now`, `wanted` by the policy, and what its two halves asked for."""

    now: int = 0
    wanted: int = 0
    reactive: int = 0
    forecast: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The engine at one instant.

    `samples_per_s` is over the last second; `backlog_rows` waits in the journal; `acknowledged` is the time from a
    socket to the journal's fsync, `processed` from a socket to the Dask result, both over the last ten seconds. `stored_*` describe history.
    """

    time_ns: int
    plant: str
    state: str
    uptime_s: float
    tags: int
    samples: int
    samples_per_s: float
    backlog_rows: int
    acknowledged: Quantiles
    processed: Quantiles
    workers: Workers
    stored_rows: int
    stored_bytes: int
    rss_bytes: int
    cpu_share: float
    adapters: tuple[AdapterRow, ...] = ()
    incidents: tuple[IncidentRow, ...] = ()
    counters: dict[str, float] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """JSON with a version."""
        return orjson.dumps({"version": VERSION, **asdict(self)})

    @classmethod
    def from_bytes(cls, payload: bytes) -> Snapshot:
        """Read what `to_bytes` wrote; keys of newer programs are ignored.

        Raises
        ------
        ValueError
            If the payload is no JSON of a snapshot.
        """
        raw: dict[str, Any] = orjson.loads(payload)
        try:
            names = {name: raw[name] for name in cls.__slots__ if name in raw}
            names["acknowledged"] = _quantiles(raw["acknowledged"])
            names["processed"] = _quantiles(raw["processed"])
            names["workers"] = Workers(**raw["workers"])
            names["adapters"] = tuple(AdapterRow(**row) for row in raw["adapters"])
            names["incidents"] = tuple(IncidentRow(**row) for row in raw["incidents"])
            return cls(**names)
        except (KeyError, TypeError) as error:
            msg = f"{len(payload)} bytes are no status of version {VERSION}: {error}"
            raise ValueError(msg) from error


def _quantiles(raw: dict[str, float | None]) -> Quantiles:
    p50, p99, most = (float("nan") if raw[name] is None else float(raw[name] or 0.0) for name in ("p50", "p99", "max"))
    return Quantiles(p50, p99, most)


def read_status(path: Path) -> Snapshot | None:
    """The newest status an engine published, or None when there is none (yet)."""
    try:
        return Snapshot.from_bytes(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
