"""A Sparkplug B host: births, data and deaths of edge nodes to samples, events and requests for a rebirth. No I/O.

Rules of this file:

- What a metric is called and how wide it is, only its birth says. Data of a node whose birth was not seen makes no
  samples: it is counted, and the node is asked for its birth.
- An alias belongs to one birth of one node or device; the next birth, or a death, forgets it.
- A gap in a node's sequence is loss only when nothing late has filled it after `REORDER_NS`.
- A node is asked at most once a second, then ever less often while it does not help; all nodes together at most
  `ASKS_MAX` times a call.
- Apart from that request nothing is ever sent: a historian commands no device.

Source: Eclipse Sparkplug 3.0, chapters 5 (operational behaviour) and 6 (payloads).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from iiot_dask.adapter.contract import Event, EventKind
from iiot_dask.core import sparkplug_b as spb
from iiot_dask.core.errors import ConfigError
from iiot_dask.core.quality import SPARKPLUG, Quality
from iiot_dask.core.tags import check_tag

from . import frames, payload, sequence
from . import sparkplug_scan as scan
from .columns import NOTHING, Growing, Samples
from .naming import Tags
from .pair_table import PairTable
from .report import coalesce
from .topic_table import TopicTable
from .topics import Route

Ints = npt.NDArray[np.int64]

REORDER_NS = 2_000_000_000
"""How long a gap in a sequence may stay open before it is loss."""
ASK_NS = 1_000_000_000
ASK_MAX_NS = 60_000_000_000
"""First and longest pause between two requests to one node; who needed none for so long starts with the first again."""
ASKS_MAX = 50

IGNORED, NBIRTH, NDEATH, DBIRTH, DDEATH, NDATA, DDATA = range(7)
_KINDS = {"NBIRTH": NBIRTH, "NDEATH": NDEATH, "DBIRTH": DBIRTH, "DDEATH": DDEATH, "NDATA": NDATA, "DDATA": DDATA}
_CONTROL = ("Node Control/", "Device Control/")
_STAMP_MAX = (2**63 - 1) // 10**6
_GENERATION = 1 << 32

_REJECTED_BIRTH = "data of a node or device whose birth was not seen"
_REJECTED_ALIAS = "metric that its birth did not announce"
_REJECTED_TYPE = "metric value is no number or boolean"
_REJECTED_NAME = "metric name makes no legal tag name"


@dataclass(slots=True)
class _Node:
    """One edge node: its death certificate's number, its devices, and when it may be asked again."""

    topic: str
    path: str
    source: int
    bd_seq: int | None = None
    up: bool | None = None
    devices: list[int] = field(default_factory=list)
    ask_next_ns: int = 0
    ask_pause_ns: int = ASK_NS
    gap_until_ns: int | None = None


class Host:
    """The state of all edge nodes.

    Parameters
    ----------
    tags
        Where tags are named.
    adapter
        Name of the adapter: the node of events that concern no device.
    limit
        Most metrics remembered.
    rebirth
        Whether nodes are asked for their birth.
    stale_rows
        Whether a death writes a row of quality `BAD_STALE` for every metric.
    """

    def __init__(self, tags: Tags, adapter: str, limit: int, *, rebirth: bool = True, stale_rows: bool = False) -> None:
        self._tags = tags
        self._adapter = adapter
        self._limit = limit
        self._rebirth = rebirth
        self._stale_rows = stale_rows
        self._nodes: list[_Node] = []
        self._node_number: dict[tuple[str, str], int] = {}
        self._source_number: dict[tuple[int, str], int] = {}
        # Per topic number.
        self._topic_kind, self._topic_source = Growing(), Growing()
        # Per source (a node's own metrics, or a device).
        self._source_node, self._source_path, self._session = Growing(), Growing(), Growing()
        self._source_up: list[bool | None] = []
        self._births = 0
        # Per slot (a metric of a source): its tag and datatype.
        self._slot_tag, self._slot_type = Growing(), Growing()
        self._names = TopicTable(limit)
        self._bd_name = self._name_number(spb.BIRTH_DEATH_SEQ)
        self._slot_of_name = PairTable()
        self._slot_of_alias = PairTable(self._is_alive)
        # Per node.
        self._last = Growing()
        self._missing = np.zeros((16, 256), np.uint8)
        self._wanted: dict[int, str] = {}
        self._open_gaps: set[int] = set()
        self._twice: Ints = np.empty(0, np.int64)

    # --- topics

    def topic(self, number: int, route: Route, found: tuple[str, ...], topic: str) -> None:
        """Learn what a topic number is."""
        levels = topic.split("/")
        kind = IGNORED
        source = NOTHING
        if len(levels) in (4, 5) and levels[0] == spb.NAMESPACE and levels[2] in _KINDS:
            device = levels[4] if len(levels) == 5 else ""
            if (levels[2][0] == "D") == bool(device):
                kind = _KINDS[levels[2]]
                source = self._source(levels[1], levels[3], device, route, found)
        while len(self._topic_kind) <= number:
            self._topic_kind.append(IGNORED)
            self._topic_source.append(NOTHING)
        self._topic_kind.cells[number], self._topic_source.cells[number] = kind, source

    def _source(self, group: str, name: str, device: str, route: Route, found: tuple[str, ...]) -> int:
        path = route.fill(found) or self._adapter
        node = self._node_number.get((group, name))
        if node is None:
            node = self._node_number[group, name] = len(self._nodes)
            self._nodes.append(_Node(f"{spb.NAMESPACE}/{group}/NCMD/{name}", path, NOTHING))
            self._last.append(sequence.UNKNOWN)
            if node == len(self._missing):
                self._missing = np.concatenate((self._missing, np.zeros_like(self._missing)))
            own = [spb.NAMESPACE, group, "NBIRTH", name]
            bare = route.match(own)
            self._nodes[node].path = (route.fill(bare) if bare else "") or path
            self._nodes[node].source = self._add_source(node, "", self._nodes[node].path)
        if not device:
            return self._nodes[node].source
        known = self._source_number.get((node, device))
        return self._add_source(node, device, path) if known is None else known

    def _add_source(self, node: int, device: str, path: str) -> int:
        number = self._source_number[node, device] = len(self._source_up)
        self._source_node.append(node)
        self._source_path.append(self._tags.node(path))
        self._session.append(NOTHING)
        self._source_up.append(None)
        if device:
            self._nodes[node].devices.append(number)
        return number

    def _is_alive(self, sessions: Ints) -> npt.NDArray[np.bool_]:
        alive: npt.NDArray[np.bool_] = self._session.of(sessions % _GENERATION) == sessions
        return alive

    def _name_number(self, name: str) -> int:
        raw = np.frombuffer(name.encode(), np.uint8).copy()
        return int(self._names.numbers(raw, np.array([0]), np.array([len(raw)]))[0])

    # --- messages

    def take(self, data: npt.NDArray[np.uint8], rows: Ints, topics: Ints, now_ns: int) -> Samples:
        """Messages in order of arrival to samples and events.

        Parameters
        ----------
        data, rows
            `frames.COLUMNS` rows of offsets into `data`.
        topics
            int64, their topic numbers.
        now_ns
            A steady clock, ns.
        """
        kind, source = self._topic_kind.of(topics), self._topic_source.of(topics)
        starts, sizes = rows[:, frames.PAYLOAD_START].copy(), rows[:, frames.PAYLOAD_LEN].copy()
        names, messages, metrics = scan.scan(data, starts, sizes)
        large = (rows[:, frames.FLAGS] & frames.OVERSIZE) != 0
        damaged = (messages[:, scan.STATUS] == scan.MALFORMED) & ~large
        run = _Run(names, rows, messages, metrics, source)
        parts = [Samples.concat([])]
        for bad, what in ((damaged, payload.MALFORMED), (large, payload.TOO_LARGE)):
            parts[0].events.extend(self._events("malformed", payload.REASONS[what], data, run, bad & (kind != IGNORED)))
        usable = ~damaged & ~large & (kind != IGNORED)
        single = np.flatnonzero(usable & (kind < NDATA)).tolist()
        first = 0
        for k in [*single, len(rows)]:
            data_messages = first + np.flatnonzero(usable[first:k])
            if len(data_messages):
                parts.append(self._data(data, run, data_messages, now_ns))
            if k < len(rows):
                parts.append(self._birth_or_death(run, k, int(kind[k]), now_ns))
            first = k + 1
        return Samples.concat(parts)

    def _events(
        self, kind: EventKind, reason: str, data: npt.NDArray[np.uint8], run: _Run, which: npt.NDArray[np.bool_]
    ) -> list[Event]:
        hit = np.flatnonzero(which)
        if not len(hit):
            return []
        rows = run.rows[hit]
        return coalesce(
            kind, reason, self._source_path.of(run.source[hit]), self._tags.nodes, data, rows[:, frames.PAYLOAD_START],
            rows[:, frames.PAYLOAD_LEN], rows[:, frames.RECEIVED], self._adapter,
        )  # fmt: skip

    def _data(self, data: npt.NDArray[np.uint8], run: _Run, which: Ints, now_ns: int) -> Samples:
        """NDATA and DDATA between two births or deaths."""
        source = run.source[which]
        node = self._source_node.of(source)
        self._follow(node, run.messages[which, scan.SEQ].copy(), now_ns)
        session = self._session.of(source)
        orphan = np.zeros(len(run.rows), np.bool_)
        orphan[which[session == NOTHING]] = True
        events = self._events("rejected", _REJECTED_BIRTH, data, run, orphan)
        for n in np.unique(node[session == NOTHING]).tolist():
            self._wanted.setdefault(n, "its birth was not seen")
        keep = np.zeros(len(run.rows), np.bool_)
        keep[which[session != NOTHING]] = True
        metrics = run.metrics[keep[run.metrics[:, scan.MESSAGE]]]
        slot = self._slots(run, metrics)
        lost = slot == NOTHING
        if lost.any():
            stranger = np.zeros(len(run.rows), np.bool_)
            stranger[metrics[lost, scan.MESSAGE]] = True
            events += self._events("rejected", _REJECTED_ALIAS, data, run, stranger)
            for n in np.unique(self._source_node.of(run.source[metrics[lost, scan.MESSAGE]])).tolist():
                self._wanted.setdefault(n, "it sent a metric its birth did not announce")
        samples = self._rows(run, metrics[~lost], slot[~lost])
        samples.events[:0] = events
        return samples

    def _slots(self, run: _Run, metrics: Ints) -> Ints:
        """The slot of each metric, by alias, else by name; `NOTHING` where its birth did not announce it."""
        source = run.source[metrics[:, scan.MESSAGE]]
        flags = metrics[:, scan.FLAGS]
        slot = np.full(len(metrics), NOTHING, np.int64)
        aliased = (flags & scan.HAS_ALIAS) != 0
        slot[aliased] = self._slot_of_alias.get(self._session.of(source[aliased]), metrics[aliased, scan.ALIAS])
        named = (slot == NOTHING) & ((flags & scan.HAS_NAME) != 0)
        if named.any():
            part = metrics[named]
            name = self._names.find(run.names, part[:, scan.NAME_START].copy(), part[:, scan.NAME_LEN].copy())
            slot[named] = self._slot_of_name.get(source[named], name)
        return slot

    def _rows(self, run: _Run, metrics: Ints, slot: Ints) -> Samples:
        """Samples of metrics whose slots are known; those that are no numbers, transient or control make none."""
        tag = self._slot_tag.of(slot)
        own = (metrics[:, scan.FLAGS] & scan.HAS_DATATYPE) != 0
        datatype = np.where(own, metrics[:, scan.DATATYPE], self._slot_type.of(slot))
        value, number = scan.values(metrics, datatype)
        good = (tag != NOTHING) & number & ((metrics[:, scan.FLAGS] & scan.TRANSIENT) == 0)
        odd = (tag != NOTHING) & ~number
        events: list[Event] = []
        if odd.any():
            events = self._odd(run, metrics[odd, scan.MESSAGE])
        metrics, tag, value = metrics[good], tag[good], value[good]
        message = metrics[:, scan.MESSAGE]
        received = run.rows[message, frames.RECEIVED]
        stamp = np.where(
            (metrics[:, scan.FLAGS] & scan.HAS_TIME) != 0, metrics[:, scan.TIME], run.messages[message, scan.STAMP]
        )
        timed = (stamp >= 0) & (stamp <= _STAMP_MAX)
        time = np.where(timed, stamp, 0) * 10**6
        quality = _quality(metrics[:, scan.QUALITY])
        quality[~timed] = np.maximum(quality[~timed], Quality.UNCERTAIN_TIME_REPLACED)
        empty = np.isnan(value)
        quality[empty] = np.maximum(quality[empty], Quality.BAD_NO_VALUE)
        return Samples(tag, np.where(timed, time, received), value, quality, received, events)

    def _odd(self, run: _Run, message: Ints) -> list[Event]:
        """Values that are no numbers, told per source."""
        numbers, first, counts = np.unique(run.source[message], return_index=True, return_counts=True)
        return [
            Event(
                "rejected",
                self._path(number),
                int(run.rows[message[k], frames.RECEIVED]),
                _REJECTED_TYPE,
                count,
            )
            for number, k, count in zip(numbers.tolist(), first.tolist(), counts.tolist(), strict=True)
        ]

    def _path(self, source: int) -> str:
        return self._tags.nodes[int(self._source_path.cells[source])]

    # --- sequences

    def _follow(self, node: Ints, seq: Ints, now_ns: int) -> None:
        out = np.empty(len(node), np.uint8)
        sequence.check(node, seq, self._last.cells, self._missing, out)
        for n in np.unique(node[out == sequence.GAP]).tolist():
            if self._nodes[n].gap_until_ns is None:
                self._nodes[n].gap_until_ns = now_ns + REORDER_NS
                self._open_gaps.add(n)
        twice = node[out == sequence.TWICE]
        if len(twice):
            self._twice = np.concatenate((self._twice, twice))

    def _forget_gap(self, n: int) -> None:
        self._missing[n] = 0
        self._nodes[n].gap_until_ns = None
        self._open_gaps.discard(n)

    # --- births and deaths

    def _birth_or_death(self, run: _Run, k: int, kind: int, now_ns: int) -> Samples:
        if kind == NBIRTH:
            return self._node_birth(run, k)
        if kind == NDEATH:
            return self._node_death(run, k)
        source = int(run.source[k])
        n = int(self._source_node.cells[source])
        self._follow(np.array([n]), run.messages[k : k + 1, scan.SEQ].copy(), now_ns)
        if kind == DDEATH:
            return self._fall(run, k, [source], source)
        if self._session.cells[self._nodes[n].source] == NOTHING:
            self._wanted.setdefault(n, "a device was born before its node")
        return self._birth(run, k, source)

    def _node_birth(self, run: _Run, k: int) -> Samples:
        source = int(run.source[k])
        n = int(self._source_node.cells[source])
        node = self._nodes[n]
        self._session.cells[node.devices] = NOTHING
        self._last.cells[n] = run.messages[k, scan.SEQ] & 255 if run.messages[k, scan.SEQ] >= 0 else 0
        self._forget_gap(n)
        self._wanted.pop(n, None)
        node.bd_seq = self._bd_seq(run, k)
        return self._birth(run, k, source)

    def _bd_seq(self, run: _Run, k: int) -> int | None:
        metrics = run.of(k)
        named = metrics[(metrics[:, scan.FLAGS] & scan.HAS_NAME) != 0]
        name = self._names.find(run.names, named[:, scan.NAME_START].copy(), named[:, scan.NAME_LEN].copy())
        hit = named[(name == self._bd_name) & (named[:, scan.FIELD] != 0)]
        return int(hit[-1, scan.BITS]) & 0xFF if len(hit) else None

    def _birth(self, run: _Run, k: int, source: int) -> Samples:
        """Metrics of one birth: new aliases, datatypes, tags, and the values it carries."""
        self._births += 1
        session = source + self._births * _GENERATION
        self._session.cells[source] = session
        metrics = run.of(k)
        metrics = metrics[(metrics[:, scan.FLAGS] & scan.HAS_NAME) != 0]
        name = self._names.numbers(run.names, metrics[:, scan.NAME_START].copy(), metrics[:, scan.NAME_LEN].copy())
        events = self._announce(run, k, source, metrics, name)
        slot = self._slot_of_name.get(np.full(len(metrics), source), name)
        known = slot != NOTHING
        metrics, slot = metrics[known], slot[known]
        self._slot_type.cells[slot] = metrics[:, scan.DATATYPE]
        aliased = (metrics[:, scan.FLAGS] & scan.HAS_ALIAS) != 0
        self._slot_of_alias.put(
            np.full(int(aliased.sum()), session), metrics[aliased, scan.ALIAS].copy(), slot[aliased].copy()
        )
        if self._source_up[source] is not True:
            self._source_up[source] = True
            events.append(Event("device_up", self._path(source), int(run.rows[k, frames.RECEIVED]), "born"))
        samples = self._rows(run, metrics, slot)
        samples.events[:0] = events
        return samples

    def _announce(self, run: _Run, k: int, source: int, metrics: Ints, name: Ints) -> list[Event]:
        """Give a slot to each metric that has none, and a tag to each that is a number and no control."""
        slot = self._slot_of_name.get(np.full(len(metrics), source), name)
        datatype = metrics[:, scan.DATATYPE]
        numeric = np.isin(datatype, _NUMERIC)
        untagged = (slot == NOTHING) | ((self._slot_tag.of(slot) == NOTHING) & numeric)
        refused = 0
        for j in np.flatnonzero(untagged & (name != NOTHING)).tolist():
            start, size = int(metrics[j, scan.NAME_START]), int(metrics[j, scan.NAME_LEN])
            raw = run.names[start : start + size].tobytes()
            tag = self._tag(source, raw) if numeric[j] else NOTHING
            refused += numeric[j] and tag == NOTHING and not _is_control(raw)
            if slot[j] == NOTHING:
                # A name twice in one birth gets two slots; the last one counts, as everywhere.
                made = self._slot_tag.append(tag)
                self._slot_type.append(int(datatype[j]))
                self._slot_of_name.put(np.array([source]), name[j : j + 1].copy(), np.array([made]))
            else:
                self._slot_tag.cells[slot[j]] = tag
        refused += int(np.count_nonzero(name == NOTHING))
        if not refused:
            return []
        reason = f"{_REJECTED_NAME}, or there are more than {self._limit}"
        return [Event("rejected", self._path(source), int(run.rows[k, frames.RECEIVED]), reason, int(refused))]

    def _tag(self, source: int, name: bytes) -> int:
        if _is_control(name):
            return NOTHING
        try:
            text = name.decode()
            tag = check_tag(f"{self._path(source)}/{text}")
        except (UnicodeDecodeError, ConfigError):
            return NOTHING
        return self._tags.add(tag, text)

    def _node_death(self, run: _Run, k: int) -> Samples:
        source = int(run.source[k])
        n = int(self._source_node.cells[source])
        node = self._nodes[n]
        certificate = self._bd_seq(run, k)
        if node.bd_seq is not None and certificate is not None and certificate != node.bd_seq:
            # The will of an earlier connection, delivered late: the node has been born again since.
            reason = f"death certificate {certificate} is not of the present birth ({node.bd_seq}); not heeded"
            return _told(Event("info", node.path, int(run.rows[k, frames.RECEIVED]), reason))
        node.bd_seq = None
        self._last.cells[n] = sequence.UNKNOWN
        self._forget_gap(n)
        return self._fall(run, k, [source, *node.devices], source)

    def _fall(self, run: _Run, k: int, sources: list[int], blamed: int) -> Samples:
        """Sources are dead: their aliases mean nothing, and one event tells it."""
        received = int(run.rows[k, frames.RECEIVED])
        stale = self._stale(sources, run, k) if self._stale_rows else Samples.concat([])
        self._session.cells[sources] = NOTHING
        told = self._source_up[blamed] is not False
        for source in sources:
            self._source_up[source] = None if source != blamed else False
        if told:
            stale.events.append(Event("device_down", self._path(blamed), received, "death certificate"))
        return stale

    def _stale(self, sources: list[int], run: _Run, k: int) -> Samples:
        a, _, slot = self._slot_of_name.items()
        alive = [s for s in sources if self._session.cells[s] != NOTHING]
        tag = self._slot_tag.of(slot[np.isin(a, alive)])
        tag = np.unique(tag[tag != NOTHING])
        received = int(run.rows[k, frames.RECEIVED])
        stamp = int(run.messages[k, scan.STAMP])
        time = stamp * 10**6 if 0 <= stamp <= _STAMP_MAX else received
        full = np.full(len(tag), received)
        return Samples(
            tag,
            np.full(len(tag), time),
            np.full(len(tag), np.nan),
            np.full(len(tag), Quality.BAD_STALE, np.uint8),
            full,
        )

    # --- requests

    def tick(self, now_ns: int, wall_ns: int) -> tuple[list[tuple[str, bytes]], list[Event]]:
        """What is due: (topic, payload) of rebirth requests to send now, and events.

        Parameters
        ----------
        now_ns
            The steady clock of `take`, ns.
        wall_ns
            Wall time, ns since 1970-01-01 UTC, for payloads and events.
        """
        events = [*self._duplicates(wall_ns), *self._losses(now_ns, wall_ns)]
        sends: list[tuple[str, bytes]] = []
        if not self._rebirth:
            self._wanted.clear()
        for n, why in list(self._wanted.items()):
            node = self._nodes[n]
            if len(sends) == ASKS_MAX:
                break
            if now_ns < node.ask_next_ns:
                continue
            del self._wanted[n]
            if now_ns - node.ask_next_ns >= ASK_MAX_NS:
                node.ask_pause_ns = ASK_NS
            node.ask_next_ns = now_ns + node.ask_pause_ns
            node.ask_pause_ns = min(2 * node.ask_pause_ns, ASK_MAX_NS)
            sends.append((node.topic, _request(wall_ns)))
            events.append(Event("info", node.path, wall_ns, f"asked for its birth: {why}"))
        return sends, events

    def _duplicates(self, wall_ns: int) -> list[Event]:
        twice, self._twice = self._twice, np.empty(0, np.int64)
        return [
            Event("duplicate", self._nodes[n].path, wall_ns, "sequence number told twice", count)
            for n, count in zip(*(x.tolist() for x in np.unique(twice, return_counts=True)), strict=True)
        ]

    def _losses(self, now_ns: int, wall_ns: int) -> list[Event]:
        events = []
        for n in sorted(self._open_gaps):
            node = self._nodes[n]
            missing = int(self._missing[n].sum())
            if not missing:
                self._forget_gap(n)
            elif node.gap_until_ns is not None and now_ns >= node.gap_until_ns:
                self._forget_gap(n)
                events.append(Event("overflow", node.path, wall_ns, "gap in the sequence: messages are lost", missing))
                self._wanted.setdefault(n, "its sequence has a gap")
        return events


@dataclass(frozen=True, slots=True)
class _Run:
    """Messages of one call: the buffer their metric names lie in, frame rows, message and metric columns, sources."""

    names: npt.NDArray[np.uint8]
    rows: Ints
    messages: Ints
    metrics: Ints
    source: Ints

    def of(self, k: int) -> Ints:
        """Metrics of message `k`."""
        first = int(self.messages[k, scan.FIRST])
        return self.metrics[first : first + int(self.messages[k, scan.COUNT])]


_NUMERIC = np.array(sorted(spb.NUMERIC))
_CODES = np.array(sorted(SPARKPLUG))
_QUALITIES = np.array([SPARKPLUG[int(code)] for code in _CODES], np.uint8)


def _quality(code: Ints) -> npt.NDArray[np.uint8]:
    """Sparkplug quality codes to ours; absent is good, unknown is bad."""
    at = np.minimum(np.searchsorted(_CODES, code), len(_CODES) - 1)
    known = np.where(_CODES[at] == code, _QUALITIES[at], np.uint8(Quality.BAD))
    return np.where(code == scan.ABSENT, np.uint8(Quality.GOOD), known).astype(np.uint8)


def _is_control(name: bytes) -> bool:
    return name == spb.BIRTH_DEATH_SEQ.encode() or name.startswith(tuple(c.encode() for c in _CONTROL))


def _told(event: Event) -> Samples:
    samples = Samples.concat([])
    samples.events.append(event)
    return samples


def _request(wall_ns: int) -> bytes:
    message = spb.Payload(timestamp=wall_ns // 10**6)
    spb.set_value(message.metrics.add(name=spb.NODE_REBIRTH, timestamp=wall_ns // 10**6), spb.DataType.BOOLEAN, 1.0)
    out: bytes = message.SerializeToString()
    return out
