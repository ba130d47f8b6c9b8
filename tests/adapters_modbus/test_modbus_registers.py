"""Addresses, layouts and decoding against golden bytes and a slow twin."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from iiot_dask_adapters.modbus.registers import Address, Layout, decode, decode_one, layout, parse_address, text

from iiot_dask.core.errors import ConfigError, DataError
from iiot_dask.core.quality import Quality

FORMATS = {
    "int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "int64": "q", "uint64": "Q",
    "float16": "e", "float32": "f", "float64": "d",
}  # fmt: skip
ORDERS = ("abcd", "dcba", "badc", "cdab")


def on_wire(raw, order):
    """Registers of a big-endian value, arranged as the letters say: the slow twin."""
    words = [raw[i : i + 2] for i in range(0, len(raw), 2)]
    if order in ("cdab", "dcba"):
        words.reverse()
    if order in ("badc", "dcba"):
        words = [word[::-1] for word in words]
    return [int.from_bytes(word, "big") for word in words]


@pytest.mark.parametrize(
    ("order", "words"),
    [("abcd", [0x41A4, 0x0000]), ("dcba", [0x0000, 0xA441]), ("badc", [0xA441, 0x0000]), ("cdab", [0x0000, 0x41A4])],
)
def test_golden_orders_of_20_5(order, words):
    assert decode_one(words, Layout("float32", order, 2)) == 20.5
    assert on_wire(struct.pack(">f", 20.5), order) == words


@given(
    st.sampled_from(sorted(FORMATS)),
    st.sampled_from(ORDERS),
    st.lists(st.binary(min_size=8, max_size=8), min_size=1, max_size=20),
)
def test_any_bytes_decode_as_struct_says(kind, order, raws):
    size = struct.calcsize(FORMATS[kind])
    raws = [raw[:size] for raw in raws]
    values, quality = decode(np.array([on_wire(raw, order) for raw in raws], np.uint16), Layout(kind, order, size // 2))
    for raw, value, code in zip(raws, values.tolist(), quality.tolist(), strict=True):
        (wanted,) = struct.unpack(">" + FORMATS[kind], raw)
        if np.isnan(wanted):
            assert code == Quality.BAD_NO_VALUE
        elif (isinstance(wanted, float) and wanted in (float("inf"), -float("inf"))) or (
            int(float(wanted)) != wanted and isinstance(wanted, int)
        ):
            assert code == Quality.BAD_RANGE
        else:
            assert (value, code) == (float(wanted), 0)
        assert np.isnan(value) == (code >= Quality.BAD)


@pytest.mark.parametrize(
    ("words", "how", "wanted"),
    [
        ([0x12FE], Layout("int8"), -2), ([0x12FE], Layout("uint8"), 254), ([0xFE12], Layout("int8", "badc"), -2),
        ([0x1234], Layout("bcd"), 1234), ([0x0099, 0x9999], Layout("bcd", "abcd", 2), 999999),
        ([0x9999, 0x0099], Layout("bcd", "cdab", 2), 999999), ([8], Layout("bool", low=3, bits=1), 1),
        ([7], Layout("bool", low=3, bits=1), 0), ([512], Layout("bool"), 1), ([0], Layout("bool"), 0),
        ([0xABCD], Layout("bits"), 0xABCD), ([0xABCD], Layout("bits", low=4, bits=8), 0xBC),
        ([0x0001, 0x8000], Layout("bits", "abcd", 2, 15, 2), 3), ([0xFFFF] * 3, Layout("bits", "abcd", 3), 2**48 - 1),
        ([0x8000, 0, 0, 0], Layout("int64", "abcd", 4), -(2.0**63)), ([0x3C00], Layout("float16"), 1.0),
    ],
)  # fmt: skip
def test_golden_values(words, how, wanted):
    assert decode_one(words, how) == wanted


@pytest.mark.parametrize(
    ("words", "how", "name"),
    [
        ([0xA], Layout("bcd"), "BAD_TYPE"), ([0x7FC0, 0], Layout("float32", "abcd", 2), "BAD_NO_VALUE"),
        ([0x7F80, 0], Layout("float32", "abcd", 2), "BAD_RANGE"), ([0xFFFF] * 4, Layout("uint64", "abcd", 4), "BAD_RANGE"),
        ([0x20, 0, 0, 1], Layout("uint64", "abcd", 4), "BAD_RANGE"), ([0xFFFF] * 4, Layout("bits", "abcd", 4), "BAD_TYPE"),
    ],
)  # fmt: skip
def test_what_is_no_number_raises(words, how, name):
    with pytest.raises(DataError, match=name):
        decode_one(words, how)


def test_text():
    assert text(np.array([0x4869, 0x2121], np.uint16)) == "Hi!!"
    assert text(np.array([0x4869, 0x0041], np.uint16)) == "Hi"
    assert text(np.array([0x4869, 0x2020], np.uint16)) == "Hi"
    assert text(np.array([0x6948], np.uint16), "badc") == "Hi"
    assert text(np.array([0xFF41], np.uint16)) == "\N{REPLACEMENT CHARACTER}A"
    with pytest.raises(DataError):
        decode(np.zeros((1, 8), np.uint16), Layout("string", width=8))


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("holding:100", Address("holding", 100)), ("input:0xFF", Address("input", 255)), ("coil:0", Address("coil", 0)),
        ("discrete:65535", Address("discrete", 65535)), ("holding:7:10", Address("holding", 7, 10)),
        ("holding:7.15", Address("holding", 7, 0, 15, 1)), ("holding:7:2.4-19", Address("holding", 7, 2, 4, 16)),
        ("40001", Address("holding", 0)), ("400101", Address("holding", 100)), ("30002", Address("input", 1)),
        ("00001", Address("coil", 0)), ("10010", Address("discrete", 9)), (" holding:1 ", Address("holding", 1)),
    ],
)  # fmt: skip
def test_addresses(written, wanted):
    assert parse_address(written) == wanted


def test_base_one_counts_from_one():
    assert parse_address("holding:1", base=1).start == 0
    assert parse_address("40001", base=1).start == 0
    with pytest.raises(ConfigError, match=r"0\.\.65535"):
        parse_address("holding:0", base=1)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "holding",
        "holding:",
        "holding:-1",
        "holding:65536",
        "500001x",
        "20001",
        "123",
        "holding:1.64",
        "holding:1.5-3",
        "x:1",
        "40000",
    ],
)
def test_no_addresses(written):
    with pytest.raises(ConfigError, match="address"):
        parse_address(written)


@pytest.mark.parametrize(
    ("written", "kind"),
    [("coil:1", "uint16"), ("coil:1.1", None), ("holding:1:3", "float32"), ("holding:1.2", "int16"), ("holding:1.16", "bool"),
     ("holding:65535", "float32"), ("holding:1:5", "bcd"), ("holding:1:126", "string"), ("holding:1", "float128")],
)  # fmt: skip
def test_layouts_that_do_not_go_together(written, kind):
    with pytest.raises(ConfigError):
        layout(parse_address(written), kind)


def test_default_types():
    assert layout(parse_address("coil:1"), None).type == "bool"
    assert layout(parse_address("holding:1.3"), None).type == "bool"
    assert layout(parse_address("holding:1.3-5"), None).type == "bits"
    assert layout(parse_address("input:1"), None).type == "uint16"
