"""Sparkplug B messages against bytes assembled by hand from the protobuf wire format and the specification's numbers."""

import struct

import numpy as np
import pytest

from iiot_dask.core import sparkplug_b as spb
from iiot_dask.core.errors import DataError


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def key(number: int, wire: int) -> bytes:
    return varint(number << 3 | wire)


def block(number: int, data: bytes) -> bytes:
    return key(number, 2) + varint(len(data)) + data


def test_bytes_on_the_wire_are_the_specifications():
    metric = (
        block(1, b"temp") + key(2, 0) + varint(300) + key(3, 0) + varint(1_700_000_000_000) + key(4, 0) + varint(9)
    ) + (key(12, 5) + struct.pack("<f", 20.5))
    wire = key(1, 0) + varint(1_700_000_000_001) + block(2, metric) + key(3, 0) + varint(255)
    message = spb.parse(wire)
    (found,) = message.metrics
    assert (message.timestamp, message.seq) == (1_700_000_000_001, 255)
    assert (found.name, found.alias, found.timestamp, found.datatype) == ("temp", 300, 1_700_000_000_000, 9)
    assert spb.number(found) == 20.5
    assert message.SerializeToString(deterministic=True) == wire


@pytest.mark.parametrize(
    ("path", "number", "field"),
    [
        ("Payload", 5, "body"),
        ("Payload.Metric", 7, "is_null"),
        ("Payload.Metric", 10, "int_value"),
        ("Payload.Metric", 16, "bytes_value"),
        ("Payload.Metric", 18, "template_value"),
        ("Payload.MetaData", 8, "description"),
        ("Payload.PropertyValue", 3, "int_value"),
        ("Payload.PropertyValue", 10, "propertysets_value"),
        ("Payload.DataSet", 4, "rows"),
        ("Payload.DataSet.DataSetValue", 6, "string_value"),
        ("Payload.Template", 5, "is_definition"),
        ("Payload.Template.Parameter", 8, "string_value"),
    ],
)
def test_last_and_landmark_field_numbers(path, number, field):
    descriptor = spb.Payload.DESCRIPTOR
    for name in path.split(".")[1:]:
        descriptor = descriptor.nested_types_by_name[name]
    assert descriptor.fields_by_number[number].name == field


@pytest.mark.parametrize("datatype", [*range(1, 12), 13])
def test_every_numeric_type_survives_its_limits(datatype):
    bits = {1: 8, 2: 16, 3: 32, 4: 64, 5: 8, 6: 16, 7: 32, 8: 64, 13: 64}.get(datatype)
    if bits is None:
        values = [0, 1]
    elif datatype in spb.SIGNED_BITS:
        values = [-(2 ** (bits - 1)), -1, 0, 2 ** (bits - 1) - 1]
    else:
        values = [0, 2**bits - 1]
    for value in values:
        metric = spb.Metric()
        spb.set_value(metric, datatype, value)
        assert spb.number(spb.Metric.FromString(metric.SerializeToString())) == float(value)


@pytest.mark.parametrize(("datatype", "value"), [(1, 128), (1, -129), (6, -1), (7, 2**32), (4, 2**63), (8, -1)])
def test_overflow_is_refused(datatype, value):
    with pytest.raises(DataError, match="does not fit datatype"):
        spb.set_value(spb.Metric(), datatype, value)


def test_types_without_a_number_are_refused_or_nan():
    with pytest.raises(DataError, match="datatype 16"):
        spb.set_value(spb.Metric(), spb.DataType.DATA_SET, 1.0)
    text = spb.Metric()
    spb.set_value(text, spb.DataType.STRING, "open")
    assert text.string_value == "open"
    assert np.isnan(spb.number(text))
    null = spb.Metric()
    spb.set_value(null, spb.DataType.FLOAT, None)
    assert null.is_null


@pytest.mark.parametrize("wire", [b"\xff", block(2, b"\xff"), b"\x12\x7f", b"\x08"])
def test_damaged_bytes_are_a_data_error(wire):
    with pytest.raises(DataError, match="no Sparkplug B payload"):
        spb.parse(wire)


def test_oversize_is_refused():
    with pytest.raises(DataError, match="at most"):
        spb.parse(bytes(spb.PAYLOAD_BYTES_MAX + 1))


def test_random_bytes_never_raise_anything_else():
    rng = np.random.default_rng(3)
    for _ in range(500):
        wire = rng.bytes(int(rng.integers(0, 60)))
        try:
            spb.parse(wire)
        except DataError:
            continue
