"""Arrow batches as strangers send them, to rows: the schema check and the casts, a column at a time. No I/O.

Columns, in any order: ``tag`` (text, plain or dictionary-coded), ``time`` (timestamp of any unit, without zone = UTC, or
int64 ns), ``value`` (any number or boolean; null = NaN of quality `BAD_NO_VALUE`), and optionally ``quality`` (0-255),
``seq`` (uint64) and ``received``, which is checked and not kept: here it is the time of this host.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from iiot_dask.core.batch import TIME
from iiot_dask.core.errors import ConfigError, SchemaError
from iiot_dask.core.quality import Quality

from ..common.rows import Rows
from ..common.table import NOTHING, Table
from ..common.tags import Tags

NEEDED = ("tag", "time", "value")
OPTIONAL = ("quality", "received", "seq")


def check_schema(schema: pa.Schema) -> None:
    """Whether batches of this schema can be taken.

    Raises
    ------
    SchemaError
        Naming the columns that are missing, unknown or of a wrong type, and what is allowed.

    Examples
    --------
    >>> check_schema(pa.schema({"tag": pa.string(), "time": pa.int64(), "value": pa.float32()}))
    >>> check_schema(pa.schema({"tag": pa.string(), "when": pa.int64(), "value": pa.string()}))
    Traceback (most recent call last):
    iiot_dask.core.errors.SchemaError: 'time' is missing; 'when' is unknown; 'value' is string, not a number or boolean
    """
    names = schema.names
    problems = [f"{name!r} is missing" for name in NEEDED if name not in names]
    problems += [f"{name!r} is unknown" for name in names if name not in NEEDED + OPTIONAL]
    problems += [f"{name!r} comes twice" for name in sorted({n for n in names if names.count(n) > 1})]
    for name in names:
        if name in NEEDED + OPTIONAL and (wanted := _misfit(name, schema.field(name).type)):
            problems.append(f"{name!r} is {schema.field(name).type}, not {wanted}")
    if problems:
        raise SchemaError("; ".join(problems))


def _misfit(name: str, kind: pa.DataType) -> str:
    """What a column should be; empty when it is."""
    types = pa.types
    if name == "tag":
        inner = kind.value_type if types.is_dictionary(kind) else kind
        return "" if types.is_string(inner) or types.is_large_string(inner) else "text or dictionary-coded text"
    if name in ("time", "received"):
        return "" if types.is_timestamp(kind) or types.is_int64(kind) else "a timestamp or int64 ns"
    if name == "value":
        fits = types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind)
        return "" if fits else "a number or boolean"
    return "" if types.is_integer(kind) else "an integer"


class Columns:
    """One session's tags: texts are numbered by a hash over their bytes, and named once.

    Examples
    --------
    >>> tags = Tags((), 10, "edge")
    >>> batch = pa.record_batch({"tag": ["a/t", "a/p", "a//x"], "time": [1, 2, 3], "value": [0.5, None, 1.0]})
    >>> rows, refused = Columns(tags).rows(batch, received_ns=9)
    >>> rows.tag.tolist(), rows.value.tolist(), rows.quality.tolist(), list(refused.values())
    ([0, 1], [0.5, nan], [0, 141], [1])
    """

    def __init__(self, tags: Tags) -> None:
        self._tags = tags
        self._table = Table(1 << 40)
        self._known: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._reasons: dict[int, str] = {}

    def rows(
        self, batch: pa.RecordBatch, received_ns: int, memory: Memory | None = None
    ) -> tuple[Rows, dict[str, int]]:
        """The rows of a batch of a checked schema, and how many are left out for which reason.

        Parameters
        ----------
        memory
            What is remembered of the put before it on the same connection: its dictionary.

        Raises
        ------
        SchemaError
            If a time or a value does not fit.
        """
        n = batch.num_rows
        try:
            tag, refused = self._tag(batch.column("tag"), memory)
            time = _ints(_cast(batch.column("time"), TIME))
            value, absent = _floats(batch.column("value"))
            quality = np.zeros(n, np.uint8)
            if "quality" in batch.schema.names:
                quality = _ints(_cast(batch.column("quality"), pa.uint8()), np.uint8)
            seq = None
            if "seq" in batch.schema.names and not batch.column("seq").null_count:
                seq = _ints(_cast(batch.column("seq"), pa.uint64()), np.uint64)
        except pa.ArrowException as error:
            msg = f"a batch of {n} rows does not fit: {error}"
            raise SchemaError(msg) from error
        # A missing value is never good.
        lie = np.isnan(value) & (quality < 64) if absent or np.isnan(value).any() else None
        if lie is not None:
            quality = np.where(lie, np.uint8(Quality.BAD_NO_VALUE), quality)
        good = tag >= 0
        timeless = batch.column("time").null_count
        if timeless:
            none = batch.column("time").is_null().to_numpy(zero_copy_only=False)
            refused["no time"] = int((none & good).sum())
            good &= ~none
        rows = Rows(tag, time, value, quality, np.full(n, received_ns, np.int64), seq)
        if good.all():
            return rows, {}
        at = np.flatnonzero(good)
        kept = Rows(tag[at], time[at], value[at], quality[at], rows.received[at], None if seq is None else seq[at])
        return kept, {why: count for why, count in refused.items() if count}

    def _tag(self, column: pa.Array, memory: Memory | None) -> tuple[npt.NDArray[np.int64], dict[str, int]]:
        """Local tag number of each row, negative = refused, and the reasons."""
        if not pa.types.is_dictionary(column.type):
            # Plain text: each row's bytes through the hash.
            tags = self._named(self._numbers(column))
            codes = None
        else:
            numbers = memory.numbers(column.dictionary, self._numbers) if memory else self._numbers(column.dictionary)
            tags = self._named(numbers)
            codes = column.indices
        if codes is not None:
            at = _ints(codes.fill_null(0).cast(pa.int64()))
            tags = tags[at] if len(tags) else np.full(len(at), NOTHING, np.int64)
        if column.null_count:
            tags = np.where(column.is_null().to_numpy(zero_copy_only=False), NOTHING, tags)
        refused: dict[str, int] = {}
        bad = np.flatnonzero(tags < 0)
        if len(bad):
            numbers, counts = np.unique(tags[bad], return_counts=True)
            for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
                why = self._reasons.get(number, "no tag")
                refused[why] = refused.get(why, 0) + count
        return tags, refused

    def _numbers(self, texts: pa.Array) -> npt.NDArray[np.int64]:
        if not len(texts):
            return np.empty(0, np.int64)
        wide = pa.types.is_large_string(texts.type)
        _, offsets, data = texts.buffers()
        kind = np.int64 if wide else np.int32
        ends = np.frombuffer(offsets, kind, len(texts) + 1, texts.offset * np.dtype(kind).itemsize).astype(np.int64)
        held = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8)
        return self._table.numbers(held, ends[:-1].copy(), np.diff(ends))

    def _named(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        known, now = len(self._known), len(self._table)
        if now > known:
            fresh = np.empty(now - known, np.int64)
            for k in range(now - known):
                fresh[k] = self._name(known + k)
            self._known = np.concatenate((self._known, fresh))
        return self._known[numbers] if len(numbers) else numbers

    def _name(self, number: int) -> int:
        try:
            text = self._table.text(number).decode()
            return self._tags.add(text, text)
        except (ConfigError, UnicodeDecodeError) as error:
            # -1 is "no tag"; reasons are numbered downwards from -2.
            code = -2 - number
            self._reasons[code] = str(error)
            return code


class Memory:
    """The dictionary of one connection's newest put: as long as it stays or only grows, it is not looked up again."""

    def __init__(self) -> None:
        self._dictionary: Any = None
        self._numbers: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def numbers(self, dictionary: pa.Array, look_up: Any) -> npt.NDArray[np.int64]:
        """Numbers of a dictionary's texts."""
        before = 0 if self._dictionary is None else len(self._dictionary)
        if not before or len(dictionary) < before or not dictionary.slice(0, before).equals(self._dictionary):
            self._numbers = look_up(dictionary)
        elif len(dictionary) > before:
            self._numbers = np.concatenate((self._numbers, look_up(dictionary.slice(before))))
        self._dictionary = dictionary
        return self._numbers


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if column.type == kind:
        return column
    if pa.types.is_timestamp(column.type) and column.type.tz is None:
        # Without a zone it is UTC already; a cast would say so too, but only for the same unit.
        column = pc.assume_timezone(column, "UTC")
    return column.cast(kind)


def _ints(column: pa.Array, kind: Any = np.int64) -> npt.NDArray[Any]:
    """The bytes of a fixed-width column as they lie there; nulls are whatever they are."""
    size = np.dtype(kind).itemsize
    buffer = column.buffers()[1]
    if buffer is None or not len(column):
        return np.empty(0, kind)
    return np.frombuffer(buffer, kind, len(column), column.offset * size)


def _floats(column: pa.Array) -> tuple[npt.NDArray[np.float64], bool]:
    """Values as float64, null = NaN; an integer beyond 2**53 becomes the nearest double. And whether any was null."""
    if not pa.types.is_float64(column.type):
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.uint8())
        column = column.cast(pa.float64(), safe=False)
    if column.null_count:
        return _ints(column.fill_null(float("nan")), np.float64), True
    return _ints(column, np.float64), False
