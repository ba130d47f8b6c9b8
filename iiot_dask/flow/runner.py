"""Runs a pipeline: rows in as they come, rows out as they become certain; late rows correct what was given out.

A `Runner` is pure: it has no thread, no clock and no file. `now_ns` is passed in, so a run can be repeated to the bit.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl

from iiot_dask.core.errors import ChecksumError, ConfigError, SchemaError, VersionError
from iiot_dask.flow.builder import Pipeline
from iiot_dask.flow.marks import END, Marks, Watermarks
from iiot_dask.flow.names import Names
from iiot_dask.flow.operator import State, pack, unpack
from iiot_dask.flow.reorder import Reorder, order, times_of

VERSION = 1
_MAGIC = b"IIFL"
_HEAD = struct.Struct("<4sHII")
"""Magic, version, length of the JSON part, CRC-32 of everything after the head."""
DIRTY_MAX = 10_000
"""Most spans of time that wait to be computed anew; beyond it neighbours are put together."""
_TIME = pl.Datetime("ns", "UTC")


@dataclass(slots=True)
class Counts:
    """What went through a run: rows taken in, given out, late, handed on before their time (buffer full)."""

    rows: int = 0
    out: int = 0
    late: int = 0
    forced: int = 0


class Runner:
    """One run of a pipeline.

    Parameters
    ----------
    pipeline
        What to do.
    rows_max
        Most rows that wait to be in order; see `Reorder`.

    Examples
    --------
    >>> from iiot_dask.flow import pipeline
    >>> frame = pl.DataFrame({"tag": ["a"] * 6, "time": range(6), "value": [1.0, 2, 3, 4, 5, 6]}).with_columns(
    ...     (pl.col("time") * 1_000_000_000).cast(pl.Datetime("ns", "UTC")))
    >>> run = pipeline("a").event_time(lateness="1s").window("2s", ["sum"]).runner()
    >>> run.push(frame, now_ns=0).get_column("sum").to_list()  # [4 s, 6 s) may still get rows
    [3.0, 7.0]
    >>> run.finish().get_column("sum").to_list()
    [11.0]
    """

    def __init__(self, pipeline: Pipeline, *, rows_max: int = 5_000_000) -> None:
        self.pipeline = pipeline
        self.names = Names()
        self.watermarks = Watermarks(self.names, pipeline.lateness_of, pipeline.idle_ns, pipeline.source)
        self.reorder = Reorder(rows_max)
        self.states: list[State] = [operator.start() for operator in pipeline.operators]
        self.counts = Counts()
        self.dirty: dict[str, list[tuple[int, int]]] = {}
        """By tag: spans of time [first, last] in ns that late rows touched, until `corrections` takes them."""

    def push(self, frame: pl.DataFrame, now_ns: int) -> pl.DataFrame:
        """Take rows in; the rows that are now certain.

        Parameters
        ----------
        frame
            tag (String or Categorical), time (Datetime ns UTC), value (numeric)[, quality …], in any order.
        now_ns
            Wall time, ns since 1970: only for telling idle sources.

        Raises
        ------
        SchemaError
            If a column is missing or has another type.
        """
        rows = self._take(frame)
        self.counts.rows += rows.height
        ids = rows.get_column("id").to_numpy()
        self.watermarks.see(ids, times_of(rows), now_ns)
        marks = self.watermarks.marks(now_ns)
        return self._through(rows, marks)

    def feed(self, frame: pl.DataFrame, upto_ns: int) -> pl.DataFrame:
        """Take in rows that are complete up to `upto_ns` for all tags (history): nothing waits, nothing is late.

        Calls must go forward in time; within a call rows may come in any order, the last of equal (tag, time) counts.
        """
        return self._fed(self._take(frame), upto_ns)

    def feed_made(self, frame: pl.DataFrame, upto_ns: int) -> pl.DataFrame:
        """As `feed`, for what another run gave: tag, time and any further columns."""
        ids = pl.Series("id", self.names.ids(frame.get_column("tag")))
        return self._fed(pl.DataFrame([ids]).hstack(frame.drop("tag")), upto_ns)

    def _fed(self, rows: pl.DataFrame, upto_ns: int) -> pl.DataFrame:
        self.counts.rows += rows.height
        picked = np.empty(rows.height, np.int64)
        n = order(
            rows.get_column("id").to_numpy(), times_of(rows), np.ones(rows.height, np.bool_), len(self.names), picked
        )
        return self._operate(rows[picked[:n]], Marks(np.full(len(self.names), upto_ns, np.int64), upto_ns))

    def finish(self) -> pl.DataFrame:
        """The input has ended: everything that waits, and every open window."""
        rows = pl.DataFrame(schema=self._schema) if self.reorder.waiting is None else self.reorder.waiting.clear()
        return self._through(rows, Marks(np.full(len(self.names), END, np.int64), END))

    _schema: ClassVar[pl.Schema] = pl.Schema(
        {"id": pl.UInt32(), "time": _TIME, "value": pl.Float64(), "quality": pl.UInt8()}
    )

    def _take(self, frame: pl.DataFrame) -> pl.DataFrame:
        for name in ("tag", "time", "value"):
            if name not in frame.columns:
                msg = f"pipeline input has no column {name!r}; it has {', '.join(frame.columns) or 'none'}"
                raise SchemaError(msg)
        if frame.schema["time"] != _TIME:
            msg = f"pipeline input: column 'time' is {frame.schema['time']}; Datetime('ns', 'UTC') is needed"
            raise SchemaError(msg)
        quality = (
            frame.get_column("quality")
            if "quality" in frame.columns
            else pl.repeat(0, frame.height, dtype=pl.UInt8, eager=True)
        )
        return pl.DataFrame(
            {
                "id": pl.Series(self.names.ids(frame.get_column("tag"))),
                "time": frame.get_column("time"),
                "value": frame.get_column("value").cast(pl.Float64),
                "quality": quality.cast(pl.UInt8),
            }
        )

    def _through(self, rows: pl.DataFrame, marks: Marks) -> pl.DataFrame:
        rows, late = self.reorder.push(rows, marks, len(self.names))
        if late.height:
            self._remember(late)
        self.counts.forced = self.reorder.forced
        return self._operate(rows, marks)

    def _operate(self, rows: pl.DataFrame, marks: Marks) -> pl.DataFrame:
        for operator, state in zip(self.pipeline.operators, self.states, strict=True):
            rows, marks = operator.step(state, rows, marks, self.names)
        out = rows.with_columns(self.names.texts(rows.get_column("id").to_numpy()))
        self.counts.out += out.height
        return out.select("tag", *(c for c in out.columns if c not in ("id", "tag")))

    def _remember(self, late: pl.DataFrame) -> None:
        self.counts.late += late.height
        spans = late.group_by("id").agg(first=pl.col("time").min(), last=pl.col("time").max())
        for number, first, last in zip(
            spans.get_column("id").to_list(),
            spans.get_column("first").to_physical().to_list(),
            spans.get_column("last").to_physical().to_list(),
            strict=True,
        ):
            held = self.dirty.setdefault(self.names.known[number], [])
            held.append((first, last))
            if len(held) > 1 and sum(map(len, self.dirty.values())) > DIRTY_MAX:
                held[:] = [(min(a for a, _ in held), max(b for _, b in held))]

    def take_dirty(self) -> dict[str, list[tuple[int, int]]]:
        """The spans of time that late rows touched since the last call, by tag, overlapping ones put together."""
        found, self.dirty = self.dirty, {}
        return {tag: merged(spans) for tag, spans in found.items()}

    def checkpoint(self) -> bytes:
        """The whole run as bytes: versioned, with a checksum, no pickle. `resume` goes on from it."""
        w = self.watermarks
        head = json.dumps(
            {
                "pipeline": self.pipeline.describe(), "names": self.names.known, "sources": w.sources, "newest": w.newest,
                "seen_ns": w.seen_ns, "counts": [self.counts.rows, self.counts.out, self.counts.late, self.counts.forced],
                "dirty": self.dirty,
            }
        ).encode()  # fmt: skip
        own: State = {"source_of": w.source_of, "late": w.allowed, "kept": w.kept, "released": self.reorder.released}
        if self.reorder.waiting is not None:
            own["waiting"] = self.reorder.waiting
        body = head + pack([own, *self.states])
        return _HEAD.pack(_MAGIC, VERSION, len(head), zlib.crc32(body)) + body

    @classmethod
    def resume(cls, pipeline: Pipeline, data: bytes, *, rows_max: int = 5_000_000) -> Runner:
        """Go on from a checkpoint.

        Raises
        ------
        VersionError
            If a newer program wrote it.
        ChecksumError
            If the bytes are damaged.
        ConfigError
            If it is a checkpoint of another pipeline.
        """
        magic, version, size, crc = _HEAD.unpack_from(data) if len(data) >= _HEAD.size else (b"", 0, 0, 0)
        if magic == _MAGIC and version > VERSION:
            msg = f"pipeline checkpoint has version {version}; this program reads 1 to {VERSION}"
            raise VersionError(msg)
        body = data[_HEAD.size :]
        if magic != _MAGIC or zlib.crc32(body) != crc:
            msg = f"pipeline checkpoint ({len(data)} bytes) is damaged or none"
            raise ChecksumError(msg)
        head: dict[str, Any] = json.loads(body[:size])
        if head["pipeline"] != pipeline.describe():
            msg = f"the checkpoint is of another pipeline:\n{head['pipeline']}\nthis one is:\n{pipeline.describe()}"
            raise ConfigError(msg)
        run = cls(pipeline, rows_max=rows_max)
        run.names = Names(head["names"])
        own, *run.states = unpack(body[size:])
        w = run.watermarks = Watermarks(run.names, pipeline.lateness_of, pipeline.idle_ns, pipeline.source)
        w.sources, w.newest, w.seen_ns = head["sources"], head["newest"], head["seen_ns"]
        w.source_of, w.allowed, w.kept = own["source_of"], own["late"], own["kept"]
        run.reorder.released, run.reorder.waiting = own["released"], own.get("waiting")
        run.counts = Counts(*head["counts"])
        run.reorder.forced = run.counts.forced
        run.dirty = {tag: [(a, b) for a, b in spans] for tag, spans in head["dirty"].items()}
        return run


def merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Overlapping or touching spans put together, ascending.

    Examples
    --------
    >>> merged([(5, 9), (1, 3), (2, 4), (20, 21)])
    [(1, 9), (20, 21)]
    """
    out: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if out and first <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], last))
        else:
            out.append((first, last))
    return out
