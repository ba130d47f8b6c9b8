"""The compiled protobuf walk against `google.protobuf`, message by message."""

import struct

import numpy as np
import pytest
from hypothesis import example
from hypothesis import strategies as st
from iiot_dask_adapters.mqtt import sparkplug_scan as scan

from iiot_dask.core import sparkplug_b as spb
from iiot_dask.core.errors import DataError
from tests.adapters_mqtt.fuzz import fuzz

NUMBERS = (spb.DataType.INT8, spb.DataType.INT16, spb.DataType.INT32, spb.DataType.INT64, spb.DataType.UINT32,
           spb.DataType.UINT64, spb.DataType.FLOAT, spb.DataType.DOUBLE, spb.DataType.BOOLEAN)  # fmt: skip


def pack(payloads):
    sizes = np.array([len(p) for p in payloads], np.int64)
    data = np.frombuffer(b"#" + b"".join(payloads) + b"#", np.uint8).copy()
    return data, np.cumsum(sizes) - sizes + 1, sizes


def quality(metric):
    """As the walk defines it: the value beside the last key `Quality`."""
    keys = list(metric.properties.keys)
    at = len(keys) - 1 - keys[::-1].index("Quality") if "Quality" in keys else -1
    if at < 0 or at >= len(metric.properties.values):
        return scan.ABSENT
    found = metric.properties.values[at]
    which = found.WhichOneof("value")
    return getattr(found, which) if which in ("int_value", "long_value") else scan.ABSENT


def agree(payload):
    data, starts, sizes = pack([payload])
    names, messages, metrics = scan.scan(data, starts, sizes)
    try:
        want = spb.parse(payload)
    except DataError:
        assert messages[0, scan.STATUS] == scan.MALFORMED, payload.hex(" ")
        return
    assert messages[0, scan.STATUS] == scan.OK, payload.hex(" ")
    assert messages[0, scan.SEQ] == np.int64(np.uint64(want.seq)) if want.HasField("seq") else scan.ABSENT
    assert messages[0, scan.COUNT] == len(want.metrics) == len(metrics)
    datatype = np.array([m.datatype for m in want.metrics], np.int64)
    values, number = scan.values(metrics, datatype)
    for row, m, value, is_number in zip(metrics, want.metrics, values, number, strict=True):
        assert bool(row[scan.FLAGS] & scan.HAS_ALIAS) == m.HasField("alias")
        assert np.uint64(row[scan.ALIAS]) == m.alias
        assert bool(row[scan.FLAGS] & scan.HAS_NAME) == m.HasField("name")
        start, size = int(row[scan.NAME_START]), int(row[scan.NAME_LEN])
        name = m.name if isinstance(m.name, bytes) else m.name.encode()  # bytes where it is no UTF-8
        assert names[start : start + size].tobytes() == name
        assert np.uint64(row[scan.TIME]) == m.timestamp
        assert row[scan.DATATYPE] == m.datatype
        for bit, flag in (
            (scan.IS_NULL, m.is_null),
            (scan.HISTORICAL, m.is_historical),
            (scan.TRANSIENT, m.is_transient),
        ):
            assert bool(row[scan.FLAGS] & bit) == flag
        expected = spb.number(m)
        kind = m.WhichOneof("value")
        assert is_number == (m.is_null or kind in spb.VALUE_FIELDS[:-1])
        assert np.array_equal(value, expected, equal_nan=True), (payload.hex(" "), value, expected)


ints = st.integers(0, 2**64 - 1)
small = st.integers(0, 2**32 - 1)


@st.composite
def metrics(draw):
    m = spb.Metric()
    for name, kind in (("alias", ints), ("timestamp", ints), ("datatype", st.sampled_from([*NUMBERS, 12, 99]))):
        if draw(st.booleans()):
            setattr(m, name, draw(kind))
    if draw(st.booleans()):
        m.name = draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=8))
    for name in ("is_null", "is_historical", "is_transient"):
        if draw(st.booleans()):
            setattr(m, name, draw(st.booleans()))
    field = draw(st.sampled_from(["int", "long", "float", "double", "boolean", "string", "bytes", "dataset", "none"]))
    if field == "dataset":
        m.dataset_value.num_of_columns = draw(small)
    elif field != "none":
        kind = {"int": small, "long": ints, "float": st.floats(width=32), "double": st.floats(), "boolean": st.booleans(),
                "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=4), "bytes": st.binary(max_size=4)}  # fmt: skip
        setattr(m, f"{field}_value", draw(kind[field]))
    if draw(st.integers(0, 3)) == 0:
        for key in draw(st.lists(st.sampled_from(["Quality", "x", "qualitY"]), max_size=3)):
            m.properties.keys.append(key)
            value = m.properties.values.add(type=3)
            if draw(st.booleans()):
                value.int_value = draw(small)
            else:
                value.string_value = "s"
    if draw(st.integers(0, 9)) == 0:
        m.metadata.description = "d"
    return m


@st.composite
def payloads(draw):
    p = spb.Payload()
    for m in draw(st.lists(metrics(), max_size=4)):
        p.metrics.append(m)
    if draw(st.booleans()):
        p.seq = draw(st.one_of(st.integers(0, 255), ints))
    if draw(st.booleans()):
        p.timestamp = draw(ints)
    if draw(st.booleans()):
        p.body = draw(st.binary(max_size=5))
    return p.SerializeToString()


@fuzz(125, payloads())
def test_any_payload_reads_as_by_protobuf(payload):
    agree(payload)


@fuzz(187, payloads(), st.data())
def test_any_damage_is_told_as_by_protobuf(payload, data):
    raw = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw)))
        action = data.draw(st.sampled_from(["cut", "drop", "insert", "set"]))
        if action == "cut":
            del raw[at:]
        elif action == "insert":
            raw.insert(at, data.draw(st.integers(0, 255)))
        elif at < len(raw):
            if action == "drop":
                del raw[at]
            else:
                raw[at] = data.draw(st.integers(0, 255))
    agree(bytes(raw))


@fuzz(125, st.binary(max_size=30))
@example(b"\x0b\x0c")  # an empty group
@example(b"\x12\x04\x0b\x08\x01\x0c")
@example(b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02")  # a varint past 64 bits
@example(b"\x12\x02\x4a\x00")
def test_any_bytes_are_told_as_by_protobuf(payload):
    agree(payload)


def test_the_quality_property_is_found():
    p = spb.Payload()
    m = p.metrics.add(alias=1, int_value=5)
    m.properties.keys.extend(["unit", "Quality"])
    m.properties.values.add(string_value="bar")
    m.properties.values.add(int_value=500)
    data, starts, sizes = pack([p.SerializeToString()])
    _, _, found = scan.scan(data, starts, sizes)
    assert found[0, scan.QUALITY] == quality(m) == 500


@pytest.mark.parametrize(
    ("datatype", "low", "high"), [(1, -128, 127), (2, -(2**15), 2**15 - 1), (3, -(2**31), 2**31 - 1)]
)
def test_signed_integers_however_far_the_node_widened_them(datatype, low, high):
    bits = {1: 8, 2: 16, 3: 32}[datatype]
    rows = [(v & ((1 << w) - 1), v) for v in (low, -1, 0, 1, high) for w in {bits, 32}]
    p = spb.Payload()
    for wire, _ in rows:
        p.metrics.add(int_value=wire)
    data, starts, sizes = pack([p.SerializeToString()])
    _, _, found = scan.scan(data, starts, sizes)
    assert scan.values(found, np.full(len(rows), datatype))[0].tolist() == [v for _, v in rows]


def test_a_damaged_payload_leaves_its_neighbours_alone():
    good = spb.Payload(seq=1)
    good.metrics.add(alias=7, double_value=2.5)
    good.metrics.add(alias=8, double_value=3.5)
    raw = good.SerializeToString()
    half = raw[:-4]
    fallback = spb.Payload(seq=2)
    fallback.metrics.add(alias=9).dataset_value.num_of_columns = 1
    data, starts, sizes = pack([raw, half, fallback.SerializeToString(), raw])
    _, messages, metrics = scan.scan(data, starts, sizes)
    assert messages[:, scan.STATUS].tolist() == [scan.OK, scan.MALFORMED, scan.OK, scan.OK]
    usable = metrics[messages[metrics[:, scan.MESSAGE], scan.STATUS] == scan.OK]
    assert usable[:, scan.ALIAS].tolist() == [7, 8, 9, 7, 8]
    assert struct.pack("<q", usable[-1, scan.BITS]) == struct.pack("<d", 3.5)
