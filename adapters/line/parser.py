"""`Parser`: bodies of line protocol to rows and sentences about what could not be read. No I/O.

The compiled scanner reads what it recognises, `slow.parse` the rest; rows keep the order of their lines. Each pair of
series and field is named once, by `slow.measure_and_tags` and the tag template; then it is a look-up in an array.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from iiot_dask.core.errors import ConfigError, DataError
from iiot_dask.core.quality import Quality

from ..common.rows import Rows
from ..common.table import NOTHING, Table
from ..common.tags import CROWDED, Tags
from ..common.template import Template
from . import slow
from .scan import COUNTERS, FULL, GROW, LINES, STRINGS, line_end, scan

ROWS = 1 << 17
LEFT = 1 << 12
FAULTS_MAX = 100
"""Faulty lines of one body that are kept with their bytes; further ones are counted."""
_REPLACED = int(Quality.UNCERTAIN_TIME_REPLACED)

UNITS_NS = {"n": 1, "ns": 1, "u": 10**3, "us": 10**3, "µ": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9}
"""Precisions of both versions, and version 1's ``m`` and ``h``, in ns."""
UNITS_V1_NS = UNITS_NS | {"m": 60 * 10**9, "h": 3600 * 10**9}


@dataclass(frozen=True, slots=True)
class Fault:
    """A line that gave no row, or not all of its rows; `malformed` = it does not parse."""

    line: bytes
    reason: str
    malformed: bool


@dataclass(slots=True)
class Parsed:
    """One body: its rows, the lines taken whole or in part, the first faults, how many lines and texts were left out."""

    rows: Rows
    lines: int = 0
    texts: int = 0
    faults: list[Fault] = field(default_factory=list)
    faulty: int = 0

    def fault(self, line: bytes, reason: str, *, malformed: bool) -> None:
        """Note a faulty line."""
        self.faulty += 1
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(Fault(line, reason, malformed))


class Parser:
    r"""Remembers every series and field it has seen.

    Parameters
    ----------
    template
        What tags are called; ``{db}`` is the database or bucket.
    tags
        Where they are numbered.
    pairs_max
        Most pairs of series and field.

    Examples
    --------
    >>> parser = Parser(Template("{measurement}/{tags}/{field}", "tag", fixed=HOLES), Tags((), 10, "x"), 10)
    >>> parsed = parser.parse(b"cpu,host=a load=1,up=t 5\ncpu load=\n", "plant", 10**9, now_ns=7)
    >>> parsed.rows.time.tolist(), parsed.rows.value.tolist(), [fault.reason for fault in parsed.faults]
    ([5000000000, 5000000000], [1.0, 1.0], ['missing field value'])
    """

    def __init__(self, template: Template, tags: Tags, pairs_max: int) -> None:
        self._template = template
        self._tags = tags
        self._limit = pairs_max
        self._by_db = "db" in template.holes
        self._books: dict[str, _Book] = {}
        self._lock = threading.Lock()

    def parse(
        self, body: bytes | bytearray | memoryview, db: str, unit_ns: int, now_ns: int, *, compiled: bool = True
    ) -> Parsed:
        """Read a body; from one thread at a time, others wait.

        Parameters
        ----------
        db
            Database or bucket it was sent to.
        unit_ns
            ns of one unit of its timestamps.
        now_ns
            When it came: the receive time, and the time of lines without one (cut to the unit, as InfluxDB does).
        compiled
            False = every line through the slow parser; the result is the same.
        """
        with self._lock:
            book = self._book(db if self._by_db else "")
            data = np.frombuffer(body, np.uint8)
            parts: list[_Part] = []
            parsed = Parsed(Rows.none())
            if compiled:
                self._scan(book, data, unit_ns, now_ns, parts, parsed)
            else:
                self._crawl(book, data, unit_ns, now_ns, parts, parsed)
            book.learn(self._template, self._tags, db)
            parsed.rows = self._finish(book, data, parts, parsed, now_ns)
            return parsed

    def _book(self, db: str) -> _Book:
        book = self._books.get(db)
        if book is None:
            left = self._limit - sum(len(b.pairs) for b in self._books.values())
            book = self._books[db] = _Book(max(1, left))
        return book

    def _scan(
        self, book: _Book, data: npt.NDArray[np.uint8], unit_ns: int, now_ns: int, parts: list[_Part], parsed: Parsed
    ) -> None:
        at, size = 0, min(ROWS, len(data) // 4 + 1)
        left = np.empty((LEFT, 3), np.int64)
        counters = np.zeros(COUNTERS, np.int64)
        keys = np.empty((size, 2), np.int64)
        now = now_ns // unit_ns * unit_ns
        part = _Part.empty(size)
        while True:
            at, why, rows, lefts = scan(
                data, at, len(data), unit_ns, now, _REPLACED, *book.series.arrays(), *book.pairs.arrays(), keys,
                part.pair, part.time, part.value, part.quality, part.line, left, counters, book.last,
            )  # fmt: skip
            filled = part.first(rows)
            part = part.after(rows)
            parts += self._mend(book, data, filled, left[:lefts], unit_ns, now, parsed) if lefts else [filled]
            if why == GROW:
                room = line_end(data, at, len(data)) - at
                book.series.grow(room)
                book.pairs.grow(room)
            elif why == FULL:
                # One line may have more fields than there is room for rows.
                size = 2 * size if not rows and not lefts else size
                part = _Part.empty(size)
                keys = np.empty((size, 2), np.int64)
            else:
                break
        parsed.lines += int(counters[LINES])
        parsed.texts += int(counters[STRINGS])

    def _mend(
        self, book: _Book, data: npt.NDArray[np.uint8], part: _Part, left: npt.NDArray[np.int64], unit_ns: int,
        now: int, parsed: Parsed,
    ) -> list[_Part]:  # fmt: skip
        """The part cut where lines were left, with what the slow parser makes of those between."""
        out, done = [], 0
        for start, stop, before in left.tolist():
            slowly = self._slowly(book, data, start, stop, unit_ns, now, parsed)
            if slowly is not None:
                out += [part.between(done, before), slowly]
                done = before
        out.append(part.between(done, len(part.pair)))
        return out

    def _crawl(
        self, book: _Book, data: npt.NDArray[np.uint8], unit_ns: int, now_ns: int, parts: list[_Part], parsed: Parsed
    ) -> None:
        at, now = 0, now_ns // unit_ns * unit_ns
        while at < len(data):
            stop = int(line_end(data, at, len(data)))
            slowly = self._slowly(book, data, at, stop, unit_ns, now, parsed)
            if slowly is not None:
                parts.append(slowly)
            at = stop + 1

    def _slowly(
        self, book: _Book, data: npt.NDArray[np.uint8], start: int, stop: int, unit_ns: int, now: int, parsed: Parsed
    ) -> _Part | None:
        line = data[start:stop].tobytes()
        try:
            point = slow.parse(line, unit_ns)
        except DataError as error:
            parsed.fault(line, str(error), malformed=True)
            return None
        if point is None:
            return None
        parsed.lines += 1
        parsed.texts += point.texts
        series = book.series.number(point.series, 0) if point.fields else NOTHING
        pairs = [book.pairs.number(key, series) if series != NOTHING else NOTHING for key, _ in point.fields]
        n = len(pairs)
        return _Part(
            np.array(pairs, np.int64),
            np.full(n, now if point.time_ns is None else point.time_ns, np.int64),
            np.array([value for _, value in point.fields], np.float64),
            np.full(n, _REPLACED if point.time_ns is None else 0, np.uint8),
            np.full(n, start, np.int64),
        )

    def _finish(
        self, book: _Book, data: npt.NDArray[np.uint8], parts: list[_Part], parsed: Parsed, now_ns: int
    ) -> Rows:
        whole = _Part.concat(parts)
        tag = book.tag_of(whole.pair)
        bad = np.flatnonzero(tag < 0)
        if len(bad):
            self._refuse(book, data, whole, bad, parsed)
            good = np.flatnonzero(tag >= 0)
            tag, whole = tag[good], whole.take(good)
        return Rows(tag, whole.time, whole.value, whole.quality, np.full(len(tag), now_ns, np.int64))

    def _refuse(
        self, book: _Book, data: npt.NDArray[np.uint8], whole: _Part, bad: npt.NDArray[np.int64], parsed: Parsed
    ) -> None:
        """Rows without a tag: their lines are told, once each."""
        lines, first = np.unique(whole.line[bad], return_index=True)
        room = max(0, FAULTS_MAX - len(parsed.faults))
        for start, k in zip(lines[:room].tolist(), first[:room].tolist(), strict=True):
            pair = int(whole.pair[bad[k]])
            line = data[start : int(line_end(data, start, len(data)))].tobytes()
            parsed.fault(line, book.reasons.get(pair, CROWDED), malformed=False)
        parsed.faulty += max(0, len(lines) - room)


HOLES = ("measurement", "field", "db")
"""Holes of the tag template that are no tag keys."""


class _Book:
    """What is known of one database: series, pairs, and the tag number of each pair (negative = refused)."""

    def __init__(self, limit: int) -> None:
        self.series = Table(limit)
        self.pairs = Table(limit)
        self.last = np.full(1, NOTHING, np.int64)
        self.tags = np.empty(0, np.int64)
        self.reasons: dict[int, str] = {}

    def learn(self, template: Template, tags: Tags, db: str) -> None:
        """Name the pairs seen for the first time."""
        known, now = len(self.tags), len(self.pairs)
        if known == now:
            return
        fresh = np.empty(now - known, np.int64)
        for k, pair in enumerate(range(known, now)):
            fresh[k] = self._name(pair, template, tags, db)
        self.tags = np.concatenate((self.tags, fresh))

    def _name(self, pair: int, template: Template, tags: Tags, db: str) -> int:
        series = self.series.text(int(self.pairs.spans[pair, 2]))
        key = self.pairs.text(pair)
        try:
            measurement, names = slow.measure_and_tags(series)
            fixed = {"measurement": measurement, "field": slow.plain(key), "db": db}
            return tags.add(template.fill(fixed, names), (series + b" " + key).decode())
        except (DataError, ConfigError) as error:
            # Bounded: one sentence a pair, and pairs are bounded.
            self.reasons[pair] = str(error)
            return NOTHING

    def tag_of(self, pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Tag numbers, negative where refused or where the table was full."""
        if not len(self.tags):
            return np.full(len(pairs), NOTHING, np.int64)
        out: npt.NDArray[np.int64] = self.tags[np.maximum(pairs, 0)]
        if len(pairs) and pairs.min() < 0:
            out = np.where(pairs < 0, NOTHING, out)
        return out


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows before they have tags."""

    pair: npt.NDArray[np.int64]
    time: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]
    quality: npt.NDArray[np.uint8]
    line: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, rows: int) -> _Part:
        return cls(
            np.empty(rows, np.int64),
            np.empty(rows, np.int64),
            np.empty(rows),
            np.empty(rows, np.uint8),
            np.empty(rows, np.int64),
        )

    def first(self, rows: int) -> _Part:
        return self.between(0, rows)

    def after(self, rows: int) -> _Part:
        return self.between(rows, len(self.pair))

    def between(self, start: int, stop: int) -> _Part:
        cut = slice(start, stop)
        return _Part(self.pair[cut], self.time[cut], self.value[cut], self.quality[cut], self.line[cut])

    def take(self, at: npt.NDArray[np.int64]) -> _Part:
        return _Part(self.pair[at], self.time[at], self.value[at], self.quality[at], self.line[at])

    @classmethod
    def concat(cls, parts: list[_Part]) -> _Part:
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return cls.empty(0)
        return cls(
            np.concatenate([p.pair for p in parts]),
            np.concatenate([p.time for p in parts]),
            np.concatenate([p.value for p in parts]),
            np.concatenate([p.quality for p in parts]),
            np.concatenate([p.line for p in parts]),
        )
