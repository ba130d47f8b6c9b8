"""Quality codes keep OPC UA's severity, and protocol tables can be told apart again."""

import numpy as np
import pytest

from iiot_dask.core.quality import MODBUS, OPCUA, SPARKPLUG, Quality, from_modbus, from_opcua, from_sparkplug, is_good


@pytest.mark.parametrize("code", list(Quality))
def test_severity_is_the_top_two_bits(code):
    assert code.severity == (Quality.GOOD, Quality.UNCERTAIN, Quality.BAD, Quality.BAD)[code >> 6]
    assert code.name.split("_")[0] == code.severity.name
    assert 0 <= code <= 255


@pytest.mark.parametrize("table", [OPCUA, MODBUS])
def test_a_code_of_a_table_has_a_quality_of_its_own(table):
    assert len(set(table.values())) == len(table)


@pytest.mark.parametrize("status", list(OPCUA))
def test_opcua_severity_is_kept_and_info_bits_do_not_matter(status):
    wanted = (Quality.GOOD, Quality.UNCERTAIN, Quality.BAD)[status >> 30]
    assert from_opcua(status).severity == wanted
    assert from_opcua(status | 0x0400 | 0x0002) == OPCUA[status]


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        (0x00FF0000, Quality.GOOD),
        (0x40FF0000, Quality.UNCERTAIN),
        (0x80FF0000, Quality.BAD),
        (0xC0000000, Quality.BAD),
        (0xFFFFFFFF, Quality.BAD),
    ],
)
def test_unknown_opcua_codes_keep_their_severity(status, wanted):
    assert from_opcua(status) == wanted


def test_modbus_and_sparkplug():
    assert from_modbus(2) == Quality.BAD_ILLEGAL_ADDRESS
    assert {from_modbus(code).severity for code in range(256)} == {Quality.BAD}
    assert from_modbus(99) == Quality.BAD
    assert [from_sparkplug(code) for code in SPARKPLUG] == [Quality.BAD, Quality.GOOD, Quality.BAD_STALE]
    assert from_sparkplug(12345) == Quality.BAD


def test_good_is_below_64():
    codes = np.arange(256, dtype=np.uint8)
    assert is_good(codes).tolist() == [code < 64 for code in range(256)]
    assert is_good(codes.reshape(16, 16)).shape == (16, 16)
