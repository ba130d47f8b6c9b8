"""The plug-in contract: the verbs of an adapter, and the frozen records it hands over.

An adapter lives in a process of its own. It never writes to a device. It knows nothing of the catalogue: tags are
numbered from 0 in the order it announces them, and the ingest side translates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

from iiot_dask.core.batch import Batch
from iiot_dask.core.clock import Clock
from iiot_dask.core.config import Adapter as AdapterConfig

RAW_BYTES_MAX = 4096
"""Most bytes of an offending payload an `Event` carries."""

EventKind = Literal[
    "connected", "disconnected", "device_up", "device_down", "malformed", "rejected", "overflow", "duplicate", "info"
]


@dataclass(frozen=True, slots=True)
class TagInfo:
    """What an adapter knows of one tag when it announces it.

    `device` is the topology node the tag hangs from, a path such as ``"site1/press/1"``; `period_ns` is the expected
    time between samples, None when samples come on change; `kind` tells analog values from states and counters where
    the protocol says so.
    """

    tag: str
    device: str
    address: str
    unit: str | None = None
    period_ns: int | None = None
    kind: Literal["analog", "state", "counter"] | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened besides samples; `count` alike events in one record.

    `node` is the device path it concerns, or the adapter's name for its connection. `raw` holds at most
    `RAW_BYTES_MAX` bytes of the first offending payload. `device_down` / `device_up` say the *device* stopped / resumed
    answering, `disconnected` / `connected` the adapter's own session. `malformed` = bytes that do not parse, `rejected`
    = parsed but not usable (unknown topic, wrong type), `overflow` = the source says it dropped samples.
    """

    kind: EventKind
    node: str
    time_ns: int
    reason: str = ""
    count: int = 1
    raw: bytes = b""


@dataclass(frozen=True, slots=True)
class Poll:
    """One answer to `read`: newly announced tags, then rows (local tag numbers), then events.

    `position` marks how far the source has been read, opaque to everyone else; it comes back through `acknowledge` once
    the rows are durable, and through `open` after a restart. None = nothing to acknowledge.
    """

    tags: tuple[TagInfo, ...] = ()
    batch: Batch | None = None
    events: tuple[Event, ...] = ()
    position: str | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """What the host gives an adapter: its section of the plant file, its secrets, its clock."""

    config: AdapterConfig
    secret: Callable[[str], str]
    clock: Clock
    classes: tuple[tuple[str, int], ...] = field(default=())
    """(glob, expected period in ns) of the plant file's classes, for adapters that can not know a period."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Bytes that could not be used when they came, out of the quarantine: an `Event`'s `node`, `reason` and `raw`."""

    node: str
    reason: str
    raw: bytes
    time_ns: int


class Adapter(Protocol):
    """The contract. Constructed with a `Context`; constructing does no I/O.

    The verbs below are all an adapter needs. Three more are looked for by name, because not every protocol has them:

    ``options_model``: ClassVar[type[Model]]
        The pydantic model of ``[adapters.options]``; ``iiot-dask adapters spec NAME`` publishes its JSON schema.
    ``async discover(cls, context) -> list[TagInfo]``
        What could be read from the endpoint, whether configured or not. Raises `RemoteAdapterError`.
    ``async decode(cls, context, kept: Sequence[Kept]) -> Poll``
        Decode bytes again that were reported in `malformed` or `rejected` events: the same path as live ones take.
    ``bench``: ClassVar[str]
        ``"module:Class"`` of a `iiot_dask.adapter.bench.Bench`, the source the conformance kit plays with.

    Not promised: that `close` is called (the process may be killed), that every position is acknowledged (only the
    newest matters), that `read` is called at any particular rate.
    """

    kind: ClassVar[str]
    """The entry-point name."""
    summary: ClassVar[str]
    """One line for `iiot-dask adapters list`."""

    def __init__(self, context: Context) -> None: ...

    async def open(self, position: str | None) -> None:
        """Start the session; `position` is the last durable one, or None at the very first start.

        Returns once reading can begin, connected or not: a device that is absent is retried from `read` with back-off
        and reported as events. Raises `ConfigError` when no retry could help.
        """
        ...

    async def read(self) -> Poll:
        """The next rows; waits at most about 100 ms for the first. An empty `Poll` is fine.

        Never returns more than 100,000 rows; what does not fit waits inside (bounded) or in the source. Raises
        `RemoteAdapterError` or `LocalAdapterError` only if the adapter can not go on; the supervisor restarts it.
        """
        ...

    async def acknowledge(self, position: str) -> None:
        """Everything up to `position` is on disk: tell the source (PUBACK, commit) if it wants to know."""
        ...

    async def close(self) -> None:
        """End the session cleanly; the source keeps what was not acknowledged."""
        ...

    @classmethod
    async def check(cls, context: Context) -> list[str]:
        """Reach the endpoint and look at each tag: a list of sentences on what is wrong, empty when all is well."""
        ...
