"""The record: what is accepted, what is refused by name, and damaged bytes never read as other data."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from iiot_dask.core.batch import SCHEMA, TIME, Batch
from iiot_dask.core.errors import ChecksumError, SchemaError


def batch(rows=4, seq=True):
    return Batch.of(
        tag=np.arange(rows), time=np.arange(rows) * 10, value=np.linspace(0, 1, rows), received=np.arange(rows) * 10 + 1,
        quality=np.arange(rows) % 256, seq=np.arange(rows) if seq else None,
    )  # fmt: skip


def test_columns_are_views_of_the_right_type_and_read_only():
    b = batch()
    types = [b.tag.dtype, b.time.dtype, b.value.dtype, b.quality.dtype, b.received.dtype, b.seq.dtype]
    assert types == [np.uint32, np.int64, np.float64, np.uint8, np.int64, np.uint64]
    assert b.time.tolist() == [0, 10, 20, 30]
    with pytest.raises(ValueError, match="read-only"):
        b.value[0] = 1.0


def test_unequal_lengths_are_named():
    with pytest.raises(SchemaError, match=r"unequal length \{'tag': 2, 'time': 1, "):
        Batch.of(tag=[1, 2], time=[1], value=[1.0, 2.0], received=[1, 1])
    with pytest.raises(SchemaError, match="'seq': 1"):
        Batch.of(tag=[1, 2], time=[1, 2], value=[1.0, 2.0], received=[1, 1], seq=[1])


def test_extreme_values_survive():
    b = Batch.of(
        tag=[0, 2**32 - 1], time=[-(2**63), 2**63 - 1], value=[float("inf"), -0.0], received=[0, 0], seq=[0, 2**64 - 1]
    )
    again = Batch.from_bytes(b.to_bytes())
    assert again.time.tolist() == [-(2**63), 2**63 - 1]
    assert again.seq.tolist() == [0, 2**64 - 1]
    assert np.signbit(again.value[1])


def test_nan_is_a_value_and_keeps_its_bits():
    bits = np.array([0x7FF8000000000001, 0xFFF8000000000002], np.uint64)
    b = Batch.of(tag=[0, 1], time=[0, 1], value=bits.view(np.float64), received=[0, 0])
    assert b.data.column("value").null_count == 0
    assert Batch.from_bytes(b.to_bytes()).value.view(np.uint64).tolist() == bits.tolist()


def test_seq_is_none_when_any_is_missing():
    assert batch(seq=False).seq is None
    mixed = pa.RecordBatch.from_arrays(
        [*batch().data.columns[:5], pa.array([1, None, 3, 4], pa.uint64())], schema=SCHEMA
    )
    assert Batch.checked(mixed).seq is None


@pytest.mark.parametrize("name", SCHEMA.names[:-1])
def test_nulls_are_refused_by_column(name):
    at = SCHEMA.names.index(name)
    column = pa.array([None, *batch().data.column(at).to_pylist()[1:]], SCHEMA.field(at).type)
    columns = [column if i == at else c for i, c in enumerate(batch().data.columns)]
    data = pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
    with pytest.raises(SchemaError, match=f"column '{name}' holds 1 nulls|damaged buffers"):
        Batch.checked(data)


def test_a_foreign_schema_is_shown_beside_ours():
    data = pa.RecordBatch.from_pydict({"tag": [1]})
    with pytest.raises(
        SchemaError, match=r"batch has columns \['tag: int64'\]; expected \['tag: uint32', 'time: timestamp"
    ):
        Batch.checked(data)


def test_take_mask_concat_and_renumber():
    b = batch(6)
    assert b.take(np.array([5, 0])).tag.tolist() == [5, 0]
    assert b.take(b.tag > 3).tag.tolist() == [4, 5]
    assert len(b.take(np.array([], np.int64))) == 0
    assert b.with_tag(np.full(6, 9, np.uint32)).tag.tolist() == [9] * 6
    assert b.with_tag(np.full(6, 9, np.uint32)).value.tolist() == b.value.tolist()
    assert Batch.concat([b, Batch.empty(), b.take(np.array([1]))]).tag.tolist() == [0, 1, 2, 3, 4, 5, 1]
    assert len(Batch.concat([])) == 0


def test_sliced_batches_give_their_own_rows():
    b = Batch(batch(10).data.slice(3, 4))
    assert b.tag.tolist() == [3, 4, 5, 6]
    assert b.seq.tolist() == [3, 4, 5, 6]
    assert Batch.from_bytes(b.to_bytes()).time.tolist() == [30, 40, 50, 60]


@pytest.mark.parametrize("payload", [b"", b"not arrow", b"\xff" * 100])
def test_bytes_that_are_no_stream_are_refused(payload):
    with pytest.raises(ChecksumError, match=f"{len(payload)} bytes are no Arrow IPC stream"):
        Batch.from_bytes(payload)


def test_a_stream_holds_exactly_one_batch():
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_batch(batch().data)
        writer.write_batch(batch().data)
    with pytest.raises(SchemaError, match="holds 2 record batches; a batch is exactly 1"):
        Batch.from_bytes(sink.getvalue())


def test_truncation_at_every_byte_is_refused():
    whole = batch(3).to_bytes()
    end_of_stream = 8
    for length in range(len(whole) - end_of_stream):
        with pytest.raises((ChecksumError, SchemaError)):
            Batch.from_bytes(whole[:length])


def test_shows_itself():
    assert "<b>Batch</b> of 4 rows" in batch()._repr_html_()
    assert pa.timestamp("ns", tz="UTC") == TIME


def test_no_pandas_for_rows_on_their_way():
    """Its import costs an adapter's process, and the host, a second or more just when rows begin to come."""
    code = """
import sys
import numpy as np
from iiot_dask.core.batch import Batch
batch = Batch.of(tag=[0, 1], time=[1, 2], value=[1.0, 2.0], received=[3, 3], seq=[4, 5])
batch = Batch.concat([Batch.from_bytes(batch.to_bytes()), Batch.empty()])
batch = batch.take(np.array([1, 0])).take(np.array([True, False])).with_tag(np.array([9], np.uint32))
shown = [c.tolist() for c in (batch.tag, batch.time, batch.value, batch.quality, batch.received, batch.seq)]
assert shown == [[9], [2], [2.0], [0], [3], [5]], shown
assert not any(c.flags.writeable for c in (batch.tag, batch.time, batch.value))
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
