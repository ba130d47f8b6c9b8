"""What frames say: polls, states, errors and the opening, to payload bytes and back.

Rows travel as Arrow IPC, everything else as JSON, columns where there are many of a thing. A frame is checksummed before
it gets here (`wire`), so a payload that does not parse was written wrong, and the error says which frame and how.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import orjson

from iiot_dask.adapter.contract import RAW_BYTES_MAX, Event, EventKind, Kept, Poll, TagInfo
from iiot_dask.adapter.wire import Frame, Kind
from iiot_dask.core.batch import Batch
from iiot_dask.core.config import Adapter as AdapterConfig
from iiot_dask.core.config import Tag, Topic
from iiot_dask.core.errors import (
    AdapterError,
    ConfigError,
    DataError,
    IiotError,
    LocalAdapterError,
    RemoteAdapterError,
    SchemaError,
)

ROWS_MAX = 100_000
"""Most rows of one poll."""
POSITION_BYTES_MAX = 64 << 10
"""Longest position, UTF-8 bytes."""
TEXT_MAX = 2_000
"""Longest reason or sentence, characters; the rest is cut."""
TAGS_A_FRAME = 4_000
EVENTS_A_FRAME = 500

_HEAD = struct.Struct("<I")
_EVENT_KINDS = frozenset(get_args(EventKind))
_TAG_KINDS = frozenset({None, "analog", "state", "counter"})

Family = Literal["config", "remote", "local"]
FAMILIES: dict[Family, type[IiotError]] = {
    "config": ConfigError,
    "remote": RemoteAdapterError,
    "local": LocalAdapterError,
}


@dataclass(frozen=True, slots=True)
class Failure:
    """An ERROR frame: who is to blame, in one sentence."""

    family: Family
    sentence: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure an exception means; what is none of ours is the adapter's own fault, named by its type.

        Examples
        --------
        >>> Failure.of(RemoteAdapterError("plc-7 refuses the connection"))
        Failure(family='remote', sentence='plc-7 refuses the connection')
        >>> Failure.of(ZeroDivisionError("division by zero"))
        Failure(family='local', sentence='ZeroDivisionError: division by zero')
        """
        for family, kind in FAMILIES.items():
            if isinstance(error, kind):
                return cls(family, str(error) or type(error).__name__)
        if isinstance(error, AdapterError):
            return cls("local", str(error))
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return cls("local", text)

    def frame(self) -> Frame:
        """As an ERROR frame."""
        return Frame(Kind.ERROR, orjson.dumps({"family": self.family, "sentence": clip(self.sentence)}))


@dataclass(frozen=True, slots=True)
class State:
    """A STATE frame without samples: the child's life ("opened", "alive", "closed") or the answer of a check."""

    state: Literal["opened", "alive", "closed", "checked"]
    problems: tuple[str, ...] = ()

    def frame(self) -> Frame:
        """As a STATE frame."""
        return Frame(Kind.STATE, orjson.dumps({"state": self.state, "problems": [clip(p) for p in self.problems]}))


@dataclass(frozen=True, slots=True)
class Opening:
    """The OPEN frame: all a child needs to know. Secrets are in it by reference only."""

    config: AdapterConfig
    base: Path
    position: str | None
    classes: tuple[tuple[str, int], ...]
    limits: Mapping[str, Any]

    def frame(self) -> Frame:
        """As an OPEN frame."""
        document = {
            "config": self.config.model_dump(),
            "base": str(self.base),
            "position": self.position,
            "classes": [list(item) for item in self.classes],
            "limits": dict(self.limits),
        }
        # json, not orjson: a plug-in's options may hold TOML's nan and inf; its dates and times arrive as text.
        return Frame(Kind.OPEN, json.dumps(document, default=str).encode())

    @classmethod
    def of(cls, frame: Frame) -> Opening:
        """Read an OPEN frame; the configuration was validated by the host and is taken as it is.

        Raises
        ------
        SchemaError
            If it does not hold an opening.
        """
        try:
            raw = json.loads(frame.payload)
            section = raw["config"]
            # Spans are ns here and seconds in a plant file, so validating again would read them wrong.
            tags = tuple(Tag.model_construct(**tag) for tag in section.pop("tags"))
            topics = tuple(Topic.model_construct(**topic) for topic in section.pop("topics"))
            browse = tuple(section.pop("browse"))
            config = AdapterConfig.model_construct(**section, tags=tags, topics=topics, browse=browse)
            classes = tuple((str(glob), int(period)) for glob, period in raw["classes"])
            return cls(config, Path(raw["base"]), raw["position"], classes, raw["limits"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _wrong(frame, error) from error


def clip(text: str) -> str:
    """At most `TEXT_MAX` characters, always encodable."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 1] + "…"


def ack(position: str) -> Frame:
    """An ACK frame."""
    return Frame(Kind.ACK, position.encode())


def kept_frame(kept: Sequence[Kept]) -> Frame:
    """A KEPT frame.

    Raises
    ------
    DataError
        When it is sent: if there is more than one frame may hold.
    """
    rows = [[item.node, item.reason, base64.b64encode(item.raw).decode(), item.time_ns] for item in kept]
    return Frame(Kind.KEPT, orjson.dumps(rows))


def read_kept(frame: Frame) -> list[Kept]:
    """What a KEPT frame holds.

    Raises
    ------
    SchemaError
        If it holds something else.
    """
    try:
        return [Kept(node, reason, base64.b64decode(raw), at) for node, reason, raw, at in orjson.loads(frame.payload)]
    except (ValueError, TypeError) as error:
        raise _wrong(frame, error) from error


# -- polls: up -------------------------------------------------------------------------------------------------------


def poll_frames(poll: Poll) -> Iterator[Frame]:
    """A poll as frames, in the order they must be taken: tags, events and rows; the position is in the last one.

    Raises
    ------
    LocalAdapterError
        If the poll breaks the contract: what, and what was allowed.
    """
    check_poll(poll)
    for start in range(0, len(poll.tags), TAGS_A_FRAME):
        yield Frame(Kind.SCHEMA, _tags_payload(poll.tags[start : start + TAGS_A_FRAME]))
    events = list(poll.events)
    while len(events) > EVENTS_A_FRAME:
        yield Frame(Kind.STATE, orjson.dumps({"events": _events(events[:EVENTS_A_FRAME]), "position": None}))
        del events[:EVENTS_A_FRAME]
    head = {"events": _events(events), "position": poll.position}
    if poll.batch is not None and len(poll.batch):
        text = orjson.dumps(head)
        yield Frame(Kind.BATCH, b"".join((_HEAD.pack(len(text)), text, poll.batch.to_bytes())))
    elif events or poll.position is not None:
        yield Frame(Kind.STATE, orjson.dumps(head))


def check_poll(poll: Poll) -> None:
    """Hold a poll against the contract.

    Raises
    ------
    LocalAdapterError
        Naming what is wrong, its value and what was allowed.
    """
    msg = None
    # What a plug-in returns may be anything, whatever its signature says.
    given: Any = poll
    if not isinstance(given, Poll):
        msg = f"read() returned {type(given).__name__}; a Poll is needed"
        raise LocalAdapterError(msg)
    batch: Any = given.batch
    if batch is not None and not isinstance(batch, Batch):
        msg = f"a poll's batch is {type(batch).__name__}; a Batch or None is needed"
    elif batch is not None and len(batch) > ROWS_MAX:
        msg = f"a poll holds {len(batch)} rows; at most {ROWS_MAX} are allowed"
    elif poll.position is not None and not _is_position(poll.position):
        msg = f"position {str(poll.position)[:60]!r} is no text of at most {POSITION_BYTES_MAX} UTF-8 bytes"
    else:
        msg = next((m for m in map(_tag_problem, poll.tags) if m), None)
        msg = msg or next((m for m in map(_event_problem, poll.events) if m), None)
    if msg is not None:
        raise LocalAdapterError(msg)


def _is_position(position: Any) -> bool:
    if not isinstance(position, str):
        return False
    try:
        return len(position.encode()) <= POSITION_BYTES_MAX
    except UnicodeEncodeError:
        return False


def _tag_problem(info: Any) -> str | None:
    if not isinstance(info, TagInfo):
        return f"a poll announces {type(info).__name__}; TagInfo is needed"
    texts = (info.tag, info.device, info.address)
    if not all(isinstance(t, str) for t in texts) or info.kind not in _TAG_KINDS:
        return f"{info!r} has a field of a wrong type"
    if not (info.unit is None or isinstance(info.unit, str)) or not (
        info.period_ns is None or (isinstance(info.period_ns, int) and info.period_ns > 0)
    ):
        return f"{info!r} has a field of a wrong type; unit is text, period_ns an int above 0, or None"
    return None


def _event_problem(event: Any) -> str | None:
    if not isinstance(event, Event):
        return f"a poll reports {type(event).__name__}; Event is needed"
    if event.kind not in _EVENT_KINDS:
        return f"event kind {event.kind!r}; allowed: {', '.join(sorted(_EVENT_KINDS))}"
    if not isinstance(event.node, str) or not event.node:
        return f"event {event.kind!r} has node {event.node!r}; a device path or the adapter's name is needed"
    if not isinstance(event.count, int) or event.count < 1 or not isinstance(event.time_ns, int):
        return f"event {event.kind!r} has count {event.count!r}, time_ns {event.time_ns!r}; ints are needed, count 1 or more"
    if len(event.raw) > RAW_BYTES_MAX:
        return f"event {event.kind!r} carries {len(event.raw)} raw bytes; at most {RAW_BYTES_MAX} are allowed"
    return None


def _tags_payload(tags: Sequence[TagInfo]) -> bytes:
    columns = {name: [getattr(info, name) for info in tags] for name in TagInfo.__slots__}
    try:
        return orjson.dumps(columns)
    except TypeError as error:
        msg = f"tags can not be announced: {error}"
        raise LocalAdapterError(msg) from error


def _events(events: Sequence[Event]) -> list[list[Any]]:
    return [
        [e.kind, clip(e.node), e.time_ns, clip(e.reason), e.count, base64.b64encode(e.raw).decode()] for e in events
    ]


# -- polls: down -----------------------------------------------------------------------------------------------------


def read_up(frame: Frame) -> Poll | State | Failure:
    """What a frame from a child says.

    Raises
    ------
    SchemaError
        If the payload is not what its kind says.
    """
    try:
        if frame.kind is Kind.SCHEMA:
            columns = orjson.loads(frame.payload)
            rows = zip(*(columns[name] for name in TagInfo.__slots__), strict=True)
            return Poll(tags=tuple(TagInfo(*row) for row in rows))
        if frame.kind is Kind.BATCH:
            (size,) = _HEAD.unpack_from(frame.payload)
            start = _HEAD.size + size
            head = orjson.loads(frame.payload[_HEAD.size : start])
            return Poll((), Batch.from_bytes(memoryview(frame.payload)[start:]), _read_events(head), head["position"])
        document = orjson.loads(frame.payload)
        if frame.kind is Kind.ERROR:
            if document["family"] not in FAMILIES:
                msg = f"family {document['family']!r}; allowed: {', '.join(FAMILIES)}"
                raise SchemaError(msg)
            return Failure(document["family"], document["sentence"])
        if "state" in document:
            return State(document["state"], tuple(document["problems"]))
        return Poll(events=_read_events(document), position=document["position"])
    except DataError as error:
        msg = f"{frame.kind.name} frame of {len(frame.payload)} bytes: {error}"
        raise SchemaError(msg) from error
    except (ValueError, KeyError, TypeError, IndexError, struct.error) as error:
        raise _wrong(frame, error) from error


def _read_events(document: Mapping[str, Any]) -> tuple[Event, ...]:
    return tuple(
        Event(kind, node, time_ns, reason, count, base64.b64decode(raw))
        for kind, node, time_ns, reason, count, raw in document["events"]
    )


def _wrong(frame: Frame, error: Exception) -> SchemaError:
    return SchemaError(f"{frame.kind.name} frame of {len(frame.payload)} bytes: {type(error).__name__}: {error}")
