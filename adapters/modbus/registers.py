"""From registers to numbers: addresses, types, byte orders and the vectorised decoding of whole blocks. No I/O.

Byte orders are named as everyone names them: a 32-bit value 0xAABBCCDD is on the wire as ``abcd`` (big-endian, the
specification's order), ``cdab`` (words swapped), ``badc`` (bytes swapped in each word) or ``dcba`` (both). The same
two switches - swap words, swap bytes - apply to every width, so 16-bit and 64-bit values use the same four names.
Sources: Modbus Application Protocol 1.1b3, section 4.3 (data model) and 6.1-6.4 (read functions).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from iiot_dask.core.config import Order, RegisterType
from iiot_dask.core.errors import ConfigError, DataError
from iiot_dask.core.quality import Quality

Table = Literal["coil", "discrete", "input", "holding"]
FUNCTION: dict[Table, int] = {"coil": 1, "discrete": 2, "holding": 3, "input": 4}
"""Table -> the function code that reads it."""

WIDTH: dict[RegisterType, int] = {
    "bool": 1, "int8": 1, "uint8": 1, "int16": 1, "uint16": 1, "float16": 1, "bcd": 1, "bits": 1,
    "int32": 2, "uint32": 2, "float32": 2, "int64": 4, "uint64": 4, "float64": 4, "string": 8,
}  # fmt: skip
"""Registers a type takes unless the address says otherwise (which only bcd, bits and string may)."""

STRETCHY: frozenset[RegisterType] = frozenset({"bcd", "bits", "string"})
EXACT_MAX = 1 << 53
"""Largest magnitude below which every integer is a float64."""

_PLAIN: dict[RegisterType, str] = {
    "int16": ">i2", "uint16": ">u2", "int32": ">i4", "uint32": ">u4", "int64": ">i8", "uint64": ">u8",
    "float16": ">f2", "float32": ">f4", "float64": ">f8",
}  # fmt: skip
_ADDRESS = re.compile(
    r"(?:(?P<table>coil|discrete|input|holding):)?(?P<number>0[xX][0-9a-fA-F]{1,4}|\d{1,6})"
    r"(?::(?P<width>\d{1,3}))?(?:\.(?P<low>\d{1,2})(?:-(?P<high>\d{1,2}))?)?"
)
_REFERENCE: dict[str, Table] = {"0": "coil", "1": "discrete", "3": "input", "4": "holding"}

Words = npt.NDArray[np.uint16]
Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Layout:
    """How the registers of one value become a number; points that share a layout are decoded together.

    `width` is in registers; `low` and `bits` select a bit field (bit 0 = least significant), `bits` 0 = the whole value.
    """

    type: RegisterType
    order: Order = "abcd"
    width: int = 1
    low: int = 0
    bits: int = 0


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address: `start` counts from 0 as on the wire; `width` 0 = the type's own."""

    table: Table
    start: int
    width: int = 0
    low: int = 0
    bits: int = 0


@dataclass(frozen=True, slots=True)
class Point:
    """One tag: where it is, how it is decoded, how its number is scaled (value = raw * scale + offset)."""

    tag: int
    unit: int
    table: Table
    start: int
    layout: Layout
    scale: float = 1.0
    offset: float = 0.0
    invalid: float | None = None
    """Raw number that means "no value", before scaling."""

    @property
    def stop(self) -> int:
        """First register (or bit) after the point."""
        return self.start + self.layout.width


def parse_address(text: str, base: int = 0) -> Address:
    """Read ``holding:100``, ``input:0x64``, ``holding:100.3``, ``holding:100:4``, ``holding:100.4-7`` or ``40101``.

    ``:N`` is the number of registers (bcd, bits, string), ``.B`` one bit, ``.L-H`` a bit field. Five and six digits
    without a table are the classic reference numbers, which count from 1: 40001 is ``holding:0``.

    Parameters
    ----------
    base
        What the device's manual calls its first register, 0 or 1; taken off numbers after a table name.

    Raises
    ------
    ConfigError
        If the text is no address, or lies outside 0..65535.

    Examples
    --------
    >>> parse_address("holding:100"), parse_address("40101").start, parse_address("input:0x10.3").low
    (Address(table='holding', start=100, width=0, low=0, bits=0), 100, 3)
    >>> parse_address("register:1")
    Traceback (most recent call last):
    iiot_dask.core.errors.ConfigError: address 'register:1' ...
    """
    found = _ADDRESS.fullmatch(text.strip())
    if found is None:
        msg = f"address {text!r} is none of 'holding:100', 'input:0x64', 'coil:3', 'discrete:3', 'holding:100.3' (bit), 'holding:100:4' (registers), '40101'"
        raise ConfigError(msg)
    number = found["number"]
    if found["table"]:
        table: Table = found["table"]  # type: ignore[assignment]  # the pattern allows exactly the four
        start = int(number, 16 if number[:2] in ("0x", "0X") else 10) - base
    elif len(number) in (5, 6) and number[0] in _REFERENCE and number.isdigit():
        table, start = _REFERENCE[number[0]], int(number[1:]) - 1
    else:
        msg = f"address {text!r} names no table; 'holding:{number}' (or coil, discrete, input), or five or six digits such as '40101'"
        raise ConfigError(msg)
    low, high = int(found["low"] or 0), int(found["high"] or found["low"] or 0)
    bits = high - low + 1 if found["low"] is not None else 0
    if not 0 <= start <= 0xFFFF or (found["low"] is not None and not low <= high <= 63):
        msg = f"address {text!r} is register {start}, bits {low}-{high}; registers 0..65535 (base {base}) and bits 0..63 are allowed"
        raise ConfigError(msg)
    return Address(table, start, int(found["width"] or 0), low, bits)


def layout(address: Address, kind: RegisterType | None, order: Order = "abcd") -> Layout:
    """The layout of an address and a type; no type is bool for coils and single bits, uint16 for registers.

    Raises
    ------
    ConfigError
        If type, width and bits do not go together, or the value would reach past register 65535.

    Examples
    --------
    >>> layout(parse_address("holding:8"), "float32", "cdab")
    Layout(type='float32', order='cdab', width=2, low=0, bits=0)
    """
    bit_table = address.table in ("coil", "discrete")
    if kind is None:
        kind = "bool" if bit_table or address.bits == 1 else "bits" if address.bits else "uint16"
    if kind not in get_args(RegisterType):
        msg = f"type {kind!r} is none of {', '.join(get_args(RegisterType))}"
        raise ConfigError(msg)
    if bit_table and (kind != "bool" or address.bits or address.width > 1):
        msg = f"{address.table}:{address.start} is a single bit; its type is 'bool', not {kind!r}"
        raise ConfigError(msg)
    width = address.width or WIDTH[kind]
    if kind not in STRETCHY and width != WIDTH[kind]:
        msg = (
            f"type {kind!r} takes {WIDTH[kind]} registers, not {width}; only {', '.join(sorted(STRETCHY))} take a width"
        )
        raise ConfigError(msg)
    if address.bits and kind not in ("bool", "bits"):
        msg = f"type {kind!r} is no bit field; with '.{address.low}' it is 'bool' or 'bits'"
        raise ConfigError(msg)
    most = 125 if kind == "string" else 4
    if not 1 <= width <= most or address.low + address.bits > 16 * width or address.start + width > 0x10000:
        msg = f"{address.table}:{address.start} as {kind!r}: {width} registers, bits {address.low}..{address.low + max(address.bits, 1) - 1}; at most {most} registers, within 0..65535 and the value's {16 * width} bits"
        raise ConfigError(msg)
    return Layout(kind, order, width, address.low, address.bits)


def decode(words: Words, how: Layout) -> tuple[Floats, Codes]:
    """Numbers of n values of one layout.

    Parameters
    ----------
    words
        uint16 of shape (n, how.width), as they came, native byte order.

    Returns
    -------
    tuple
        float64 (n,) and quality uint8 (n,). What is no number is NaN with `BAD_NO_VALUE` (the device sent NaN),
        `BAD_TYPE` (BCD digit above 9) or `BAD_RANGE` (infinite; a 64-bit integer no float64 equals).

    Raises
    ------
    DataError
        If the layout is text (see `text`) or the shape does not fit.

    Examples
    --------
    >>> decode(np.array([[0x41A4, 0x0000]], np.uint16), Layout("float32", "abcd", 2))
    (array([20.5]), array([0], dtype=uint8))
    """
    if how.type == "string" or words.ndim != 2 or words.shape[1] != how.width:
        msg = f"words of shape {words.shape} can not be decoded as {how.type!r} of {how.width} registers"
        raise DataError(msg)
    ordered = _ordered(words, how.order)
    quality = np.zeros(len(words), np.uint8)
    if how.type in _PLAIN:
        raw = ordered.view(_PLAIN[how.type])[:, 0]
        values = raw.astype(np.float64)
        if how.type in ("int64", "uint64"):
            quality[~_exact(raw, values)] = Quality.BAD_RANGE
    elif how.type in ("int8", "uint8"):
        values = ordered.view(np.uint8)[:, 1].view(how.type).astype(np.float64)
    else:
        values, wrong = _field(ordered, how)
        quality[wrong] = Quality.BAD_TYPE
    quality[np.isnan(values)] = Quality.BAD_NO_VALUE
    quality[np.isinf(values)] = Quality.BAD_RANGE
    values[quality >= Quality.BAD] = np.nan
    return values, quality


def decode_one(words: list[int], how: Layout) -> float:
    """One value; the strict form of `decode`.

    Raises
    ------
    DataError
        If the registers hold nothing a float64 can represent.

    Examples
    --------
    >>> decode_one([0x1234], Layout("bcd"))
    1234.0
    >>> decode_one([0x12FF], Layout("bcd"))
    Traceback (most recent call last):
    iiot_dask.core.errors.DataError: registers 0x12ff are no bcd: BAD_TYPE
    """
    values, quality = decode(np.array([words], np.uint16), how)
    if quality[0]:
        shown = " ".join(f"0x{word:04x}" for word in words)
        msg = f"registers {shown} are no {how.type}: {Quality(int(quality[0])).name}"
        raise DataError(msg)
    return float(values[0])


def text(words: Words, order: Order = "abcd") -> str:
    """The string in a row of registers: two characters a register, cut at the first NUL, blanks at the end dropped.

    Examples
    --------
    >>> text(np.array([0x4142, 0x4300], np.uint16)), text(np.array([0x4241, 0x0043], np.uint16), "badc")
    ('ABC', 'ABC')
    """
    raw = _ordered(words.reshape(1, -1), order).tobytes().split(b"\0", 1)[0]
    return raw.decode("utf-8", errors="replace").rstrip()


def _ordered(words: Words, order: Order) -> npt.NDArray[np.uint16]:
    """The words as big-endian bytes in value order; C-contiguous, dtype >u2."""
    if order in ("cdab", "dcba"):
        words = words[:, ::-1]
    if order in ("badc", "dcba"):
        words = words.byteswap()
    return np.ascontiguousarray(words, dtype=">u2")


def _exact(raw: npt.NDArray[np.int64] | npt.NDArray[np.uint64], values: Floats) -> npt.NDArray[np.bool_]:
    """Where the float64 equals the integer. The bound comes first: casting 2**63 back to int64 is undefined."""
    bound = 2.0**63 if raw.dtype.kind == "i" else 2.0**64
    fits = values < bound
    back = np.where(fits, values, 0.0).astype(raw.dtype)
    out: npt.NDArray[np.bool_] = fits & (back == raw)
    return out


def _field(ordered: npt.NDArray[np.uint16], how: Layout) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Bool, bits and BCD: the registers as one unsigned number, then cut. Also where that number is not allowed."""
    number = np.zeros(len(ordered), np.uint64)
    for column in range(how.width):
        number = (number << np.uint64(16)) | ordered[:, column].astype(np.uint64)
    if how.bits:
        number = (number >> np.uint64(how.low)) & np.uint64((1 << how.bits) - 1)
    if how.type == "bool":
        return (number != 0).astype(np.float64), np.zeros(len(ordered), np.bool_)
    if how.type == "bits":
        values = number.astype(np.float64)
        return values, ~_exact(number, values)
    digits = (number[:, None] >> (np.arange(4 * how.width, dtype=np.uint64) * np.uint64(4))) & np.uint64(15)
    values = (digits.astype(np.float64) * 10.0 ** np.arange(4 * how.width)).sum(axis=1)
    return values, np.any(digits > 9, axis=1)
