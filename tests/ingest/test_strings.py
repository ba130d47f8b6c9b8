"""Interned strings against a Python dict."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iiot_dask.ingest.strings import StringTable, _buffers, hash_kernel

NAMES = st.lists(st.lists(st.text(max_size=30), max_size=40), max_size=8)


def murmur64a(data: bytes, seed: int = 0x1107) -> int:
    """The reference algorithm with Python integers."""
    m, mask = 0xC6A4A7935BD1E995, (1 << 64) - 1
    h = seed ^ (len(data) * m & mask)
    whole = len(data) // 8 * 8
    for i in range(0, whole, 8):
        k = int.from_bytes(data[i : i + 8], "little") * m & mask
        k = (k ^ k >> 47) * m & mask
        h = (h ^ k) * m & mask
    if tail := data[whole:]:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ h >> 47) * m & mask
    return h ^ h >> 47


@given(st.binary(max_size=70))
@settings(deadline=None, derandomize=True)
def test_hash_is_murmur(data):
    assert int(hash_kernel(np.frombuffer(data, np.uint8), 0, len(data))) == murmur64a(data)


def test_hash_values_are_for_ever():
    """Fingerprints on disk depend on them."""
    names = ["", "a", "site1/press/1/temperature", "ü" * 20]
    table = StringTable()
    table.add(names)
    assert table.hashes().tolist() == [murmur64a(name.encode()) for name in names]
    assert murmur64a(b"site1/press/1/temperature") == 0xCE053C2CA2C3483E


@given(NAMES)
@settings(deadline=None, derandomize=True)
def test_same_as_a_dict(parts):
    table, twin = StringTable(), {}
    for names in parts:
        assert table.find(names).tolist() == [twin.get(name, -1) for name in names]
        want = [twin.setdefault(name, len(twin)) for name in names]
        assert table.add(names).tolist() == want
        assert len(table) == len(twin)
        assert table.arrow().to_pylist() == list(twin)
    assert [table.get(i) for i in range(len(twin))] == list(twin)


def test_growth_keeps_every_string_and_old_views_stay():
    table = StringTable()
    table.add(["first"])
    view = table.arrow()
    names = [f"site/{i % 7}/{i}" for i in range(50_000)]
    for begin in range(0, len(names), 7000):
        table.add(names[begin : begin + 7000])
    assert view.to_pylist() == ["first"]
    assert (table.find(names) == np.arange(1, 50_001)).all()
    assert table.find(["site/0/50001"]).tolist() == [-1]


def test_prefixes_are_told_apart():
    table = StringTable()
    names = ["x" * n for n in range(1, 200)]
    table.add(names)
    assert table.find(names).tolist() == list(range(199))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_arrow_columns_sliced_and_chunked(kind):
    table = StringTable()
    array = pa.array(["skip", "a", "b", "c"], pa.string()).cast(kind)
    assert table.add(array[1:3]).tolist() == [0, 1]
    assert table.find(pa.chunked_array([array[2:], array[1:2]])).tolist() == [1, -1, 0]
    assert table.find(array[:0]).tolist() == []


def test_nulls_are_refused():
    with pytest.raises(ValueError, match="1 of 2 strings are null"):
        _buffers(pa.array(["a", None]))
