"""Quality codes: one byte a sample, OPC UA's severity in its top two bits.

0-63 is good, 64-127 uncertain, 128-255 bad, so `quality < 64` is the test for good on a whole column. Protocol codes
are mapped by the tables below; a code in a table has a sub-code of its own, so the original can be told again.
Sources: OPC UA Part 4 (StatusCode), Part 8 (data access codes); Modbus Application Protocol 1.1b3 section 7;
Eclipse Sparkplug 3.0 section 6.4.13 (Quality property: 0 bad, 192 good, 500 stale).
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt


class Quality(IntEnum):
    """Sample quality, stored as uint8.

    Examples
    --------
    >>> Quality.BAD_NOT_CONNECTED > Quality.BAD > Quality.UNCERTAIN > Quality.GOOD
    True
    >>> Quality(64).severity.name
    'UNCERTAIN'
    """

    GOOD = 0
    GOOD_LOCAL_OVERRIDE = 1
    GOOD_CLAMPED = 2

    UNCERTAIN = 64
    UNCERTAIN_LAST_USABLE = 65
    UNCERTAIN_SENSOR_INACCURATE = 66
    UNCERTAIN_SUBSTITUTE = 67
    UNCERTAIN_RANGE_EXCEEDED = 68
    UNCERTAIN_SUBNORMAL = 69
    UNCERTAIN_INITIAL = 70
    UNCERTAIN_NO_COMMUNICATION = 71
    UNCERTAIN_TIME_REPLACED = 72
    """The device gave no usable time; the receive time stands in."""

    BAD = 128
    BAD_CONFIGURATION = 129
    BAD_NOT_CONNECTED = 130
    BAD_DEVICE_FAILURE = 131
    BAD_SENSOR_FAILURE = 132
    BAD_LAST_KNOWN = 133
    BAD_COMMUNICATION = 134
    BAD_OUT_OF_SERVICE = 135
    BAD_WAITING = 136
    BAD_NODE_UNKNOWN = 137
    BAD_TYPE = 138
    BAD_RANGE = 139
    BAD_NOT_READABLE = 140
    BAD_NO_VALUE = 141
    BAD_ILLEGAL_FUNCTION = 144
    BAD_ILLEGAL_ADDRESS = 145
    BAD_ILLEGAL_VALUE = 146
    BAD_SERVER_FAILURE = 147
    BAD_ACKNOWLEDGE = 148
    BAD_BUSY = 149
    BAD_NEGATIVE_ACKNOWLEDGE = 150
    BAD_PARITY = 151
    BAD_GATEWAY_PATH = 152
    BAD_GATEWAY_TARGET = 153
    BAD_STALE = 160

    @property
    def severity(self) -> Quality:
        """`GOOD`, `UNCERTAIN` or `BAD`: the code without its sub-code."""
        return Quality.GOOD if self < 64 else Quality.UNCERTAIN if self < 128 else Quality.BAD


OPCUA: dict[int, Quality] = {
    0x00000000: Quality.GOOD,
    0x00960000: Quality.GOOD_LOCAL_OVERRIDE,
    0x00300000: Quality.GOOD_CLAMPED,
    0x40000000: Quality.UNCERTAIN,
    0x40900000: Quality.UNCERTAIN_LAST_USABLE,
    0x40930000: Quality.UNCERTAIN_SENSOR_INACCURATE,
    0x40910000: Quality.UNCERTAIN_SUBSTITUTE,
    0x40940000: Quality.UNCERTAIN_RANGE_EXCEEDED,
    0x40950000: Quality.UNCERTAIN_SUBNORMAL,
    0x40920000: Quality.UNCERTAIN_INITIAL,
    0x408F0000: Quality.UNCERTAIN_NO_COMMUNICATION,
    0x80000000: Quality.BAD,
    0x80890000: Quality.BAD_CONFIGURATION,
    0x808A0000: Quality.BAD_NOT_CONNECTED,
    0x808B0000: Quality.BAD_DEVICE_FAILURE,
    0x808C0000: Quality.BAD_SENSOR_FAILURE,
    0x80310000: Quality.BAD_COMMUNICATION,
    0x808D0000: Quality.BAD_OUT_OF_SERVICE,
    0x80320000: Quality.BAD_WAITING,
    0x80340000: Quality.BAD_NODE_UNKNOWN,
    0x80740000: Quality.BAD_TYPE,
    0x803C0000: Quality.BAD_RANGE,
    0x803A0000: Quality.BAD_NOT_READABLE,
}
"""OPC UA StatusCode (code bits, info bits cleared) -> ours."""

MODBUS: dict[int, Quality] = {
    1: Quality.BAD_ILLEGAL_FUNCTION,
    2: Quality.BAD_ILLEGAL_ADDRESS,
    3: Quality.BAD_ILLEGAL_VALUE,
    4: Quality.BAD_SERVER_FAILURE,
    5: Quality.BAD_ACKNOWLEDGE,
    6: Quality.BAD_BUSY,
    7: Quality.BAD_NEGATIVE_ACKNOWLEDGE,
    8: Quality.BAD_PARITY,
    10: Quality.BAD_GATEWAY_PATH,
    11: Quality.BAD_GATEWAY_TARGET,
}
"""Modbus exception code -> ours."""

SPARKPLUG: dict[int, Quality] = {0: Quality.BAD, 192: Quality.GOOD, 500: Quality.BAD_STALE}
"""Sparkplug `Quality` property -> ours."""


def from_opcua(status: int) -> Quality:
    """Map an OPC UA StatusCode (32 bit, info bits allowed) to a quality; unknown codes keep their severity.

    Examples
    --------
    >>> from_opcua(0x80340000), from_opcua(0x80FF0000), from_opcua(0x00000400)
    (<Quality.BAD_NODE_UNKNOWN: 137>, <Quality.BAD: 128>, <Quality.GOOD: 0>)
    """
    known = OPCUA.get(status & 0xFFFF0000)
    if known is not None:
        return known
    return (Quality.GOOD, Quality.UNCERTAIN, Quality.BAD, Quality.BAD)[(status >> 30) & 3]


def from_modbus(exception: int) -> Quality:
    """Map a Modbus exception code to a quality; an unknown code is plain `BAD`."""
    return MODBUS.get(exception, Quality.BAD)


def from_sparkplug(code: int) -> Quality:
    """Map a Sparkplug quality property to a quality; an unknown code is plain `BAD`."""
    return SPARKPLUG.get(code, Quality.BAD)


def is_good(quality: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Element-wise: is the sample good? uint8 array of any shape in, bool array of the same shape out."""
    return quality < 64
