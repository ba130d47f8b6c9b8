"""`Batch`: the one record that flows from socket to history.

Columns (Arrow): ``tag`` uint32, ``time`` timestamp[ns, UTC] (device time), ``value`` float64, ``quality`` uint8,
``received`` timestamp[ns, UTC], ``seq`` uint64 or null. Validated once where it enters; trusted inside. Nulls are
allowed in ``seq`` only: a missing value is NaN with a bad or uncertain quality.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iiot_dask.core.errors import ChecksumError, SchemaError

TIME = pa.timestamp("ns", tz="UTC")

SCHEMA = pa.schema(
    [
        pa.field("tag", pa.uint32(), nullable=False),
        pa.field("time", TIME, nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("quality", pa.uint8(), nullable=False),
        pa.field("received", TIME, nullable=False),
        pa.field("seq", pa.uint64(), nullable=True),
    ]
)
"""The Arrow schema of a batch, version 1 of the record."""

ROW_BYTES = 16
"""Logical size of a sample, bytes: int64 time + float64 value. Every compression ratio is against this."""


def _wrap(values: npt.NDArray[np.generic], kind: pa.DataType) -> pa.Array:
    """An Arrow array over a NumPy one, without a copy.

    Not `pa.array`: its first call imports pandas, which costs an adapter's process seconds just when rows begin to come.
    """
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def numpy_of(column: pa.Array, kind: npt.DTypeLike) -> npt.NDArray[Any]:
    """A read-only view of an Arrow array of fixed-width values without nulls; `kind` is its type's NumPy name.

    Not `to_numpy`: its first call imports pandas, like that of `pa.array`.

    Examples
    --------
    >>> numpy_of(pa.array([1, 2, 3])[1:], np.int64).tolist()
    [2, 3]
    """
    data = column.buffers()[1]
    if not len(column) or data is None:
        return np.empty(0, kind)
    out = np.frombuffer(data, kind, len(column), column.offset * np.dtype(kind).itemsize)
    out.flags.writeable = False
    return out


@dataclass(frozen=True, slots=True)
class Batch:
    """An immutable run of samples; `data` has exactly `SCHEMA`.

    Examples
    --------
    >>> batch = Batch.of(tag=[7, 7], time=[1, 2], value=[20.5, 20.6], received=[3, 3])
    >>> len(batch), batch.value.tolist(), batch.quality.tolist(), batch.seq is None
    (2, [20.5, 20.6], [0, 0], True)
    """

    data: pa.RecordBatch

    @classmethod
    def of(
        cls,
        *,
        tag: npt.ArrayLike,
        time: npt.ArrayLike,
        value: npt.ArrayLike,
        received: npt.ArrayLike,
        quality: npt.ArrayLike | None = None,
        seq: npt.ArrayLike | None = None,
    ) -> Self:
        """Build from arrays of equal length; times are int64 ns since 1970-01-01 UTC, quality defaults to good.

        Raises
        ------
        SchemaError
            If lengths differ.
        """
        tags = np.ascontiguousarray(tag, dtype=np.uint32)
        n = len(tags)
        columns: list[npt.NDArray[Any]] = [
            tags,
            np.ascontiguousarray(time, dtype=np.int64),
            np.ascontiguousarray(value, dtype=np.float64),
            np.zeros(n, np.uint8) if quality is None else np.ascontiguousarray(quality, dtype=np.uint8),
            np.ascontiguousarray(received, dtype=np.int64),
        ]
        numbered = None if seq is None else np.ascontiguousarray(seq, dtype=np.uint64)
        lengths = [len(c) for c in columns] + ([] if numbered is None else [len(numbered)])
        if len(set(lengths)) != 1:
            msg = f"columns of unequal length {dict(zip(SCHEMA.names, lengths, strict=False))}; all must be equal"
            raise SchemaError(msg)
        arrays = [_wrap(column, field.type) for column, field in zip(columns, SCHEMA, strict=False)]
        arrays.append(pa.nulls(n, pa.uint64()) if numbered is None else _wrap(numbered, pa.uint64()))
        return cls.checked(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))

    @classmethod
    def empty(cls) -> Self:
        """A batch of no rows."""
        return cls(pa.RecordBatch.from_arrays([_wrap(np.empty(0, np.uint8), f.type) for f in SCHEMA], schema=SCHEMA))

    @classmethod
    def checked(cls, data: pa.RecordBatch) -> Self:
        """Wrap `data` after checking schema, buffers and nulls: the one validation a foreign batch passes.

        Raises
        ------
        SchemaError
            If the schema differs, a buffer is damaged, or a column other than ``seq`` holds nulls.
        """
        if not data.schema.equals(SCHEMA):
            msg = f"batch has columns {[f'{f.name}: {f.type}' for f in data.schema]}; expected {[f'{f.name}: {f.type}' for f in SCHEMA]}"
            raise SchemaError(msg)
        try:
            data.validate(full=True)
        except pa.ArrowInvalid as error:
            msg = f"batch of {data.num_rows} rows has damaged buffers: {error}"
            raise SchemaError(msg) from error
        for name in SCHEMA.names[:-1]:
            nulls = data.column(name).null_count
            if nulls:
                msg = f"column {name!r} holds {nulls} nulls; only 'seq' may (a missing value is NaN with a bad quality)"
                raise SchemaError(msg)
        return cls(data)

    def __len__(self) -> int:
        return int(self.data.num_rows)

    def _numpy(self, name: str, kind: npt.DTypeLike) -> npt.NDArray[Any]:
        return numpy_of(self.data.column(name), kind)

    @property
    def tag(self) -> npt.NDArray[np.uint32]:
        """Dense tag ids, uint32, read-only view."""
        return self._numpy("tag", np.uint32)

    @property
    def time(self) -> npt.NDArray[np.int64]:
        """Device times, int64 ns since 1970-01-01 UTC, read-only view."""
        return self._numpy("time", np.int64)

    @property
    def value(self) -> npt.NDArray[np.float64]:
        """Values, float64, read-only view."""
        return self._numpy("value", np.float64)

    @property
    def quality(self) -> npt.NDArray[np.uint8]:
        """Quality codes, uint8, read-only view; see `iiot_dask.core.quality`."""
        return self._numpy("quality", np.uint8)

    @property
    def received(self) -> npt.NDArray[np.int64]:
        """Receive times, int64 ns since 1970-01-01 UTC, read-only view."""
        return self._numpy("received", np.int64)

    @property
    def seq(self) -> npt.NDArray[np.uint64] | None:
        """Sequence numbers, uint64, or None when any row has none."""
        if self.data.column("seq").null_count:
            return None
        return self._numpy("seq", np.uint64)

    def take(self, rows: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> Batch:
        """The rows at integer positions, or where a bool mask is true."""
        positions = np.flatnonzero(rows) if rows.dtype == np.bool_ else np.ascontiguousarray(rows, np.int64)
        return Batch(self.data.take(_wrap(positions, pa.int64())))

    def with_tag(self, tag: npt.NDArray[np.uint32]) -> Batch:
        """The same rows under other tag ids (uint32, same length)."""
        return Batch(self.data.set_column(0, SCHEMA.field(0), _wrap(np.ascontiguousarray(tag), pa.uint32())))

    @staticmethod
    def concat(batches: Iterable[Batch]) -> Batch:
        """All rows in order; no batches give an empty batch."""
        parts = [b.data for b in batches if len(b)]
        if not parts:
            return Batch.empty()
        return Batch(parts[0]) if len(parts) == 1 else Batch(pa.concat_batches(parts))

    def to_bytes(self) -> bytes:
        """Arrow IPC stream of this batch. Guard it with a checksum of your own: IPC has none."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, SCHEMA) as writer:
            writer.write_batch(self.data)
        return bytes(sink.getvalue())

    @classmethod
    def from_bytes(cls, payload: bytes | memoryview | pa.Buffer) -> Self:
        """Read what `to_bytes` wrote, fully validated. Check your checksum first: damaged IPC can crash a reader.

        Raises
        ------
        ChecksumError
            If the bytes are no Arrow IPC stream.
        SchemaError
            If the stream's schema is not `SCHEMA` or its buffers are damaged.
        """
        try:
            with pa.ipc.open_stream(payload) as reader:
                batches = list(reader)
        except (pa.ArrowInvalid, OSError, EOFError) as error:
            msg = f"{memoryview(payload).nbytes} bytes are no Arrow IPC stream: {error}"
            raise ChecksumError(msg) from error
        if len(batches) != 1:
            msg = f"the stream holds {len(batches)} record batches; a batch is exactly 1"
            raise SchemaError(msg)
        return cls.checked(batches[0])

    def _repr_html_(self) -> str:
        """A table of the first rows."""
        import polars as pl

        html: str = pl.DataFrame(pl.from_arrow(self.data)).head(10)._repr_html_()
        return f"<b>Batch</b> of {len(self):,} rows{html}"
