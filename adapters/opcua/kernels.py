"""The numba pass over a DataChangeNotification: every read is bounded by the length before it is made.

Free functions over arrays; offsets go in and out, `MALFORMED` or `UNSUPPORTED` (both negative) end the pass.
Source: OPC UA Part 6, 5.2.2 and table 1 (sizes of the built-in types).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from iiot_dask.core.jit import njit

Bytes = npt.NDArray[np.uint8]

NUMBER, NULL, OTHER, INEXACT = 0, 1, 2, 3
"""What a value is: a number; absent; of another type (text, array, structure); an integer no float64 equals."""

MALFORMED, UNSUPPORTED = -1, -2
FRACTION = np.uint64(1 << 53)
ONE = np.uint64(1)


@njit
def _u16(raw: Bytes, at: int) -> np.uint64:
    return np.uint64(raw[at]) | np.uint64(raw[at + 1]) << np.uint64(8)


@njit
def _u32(raw: Bytes, at: int) -> np.uint64:
    return _u16(raw, at) | _u16(raw, at + 2) << np.uint64(16)


@njit
def _u64(raw: Bytes, at: int) -> np.uint64:
    return _u32(raw, at) | _u32(raw, at + 4) << np.uint64(32)


@njit
def _skip_text(raw: Bytes, at: int) -> int:
    """Offset after a String or ByteString (length -1 = null)."""
    if at + 4 > len(raw):
        return MALFORMED
    size = int(np.int32(_u32(raw, at)))
    end = at + 4 + (max(0, size))
    return end if end <= len(raw) else MALFORMED


@njit
def _skip_node(raw: Bytes, at: int) -> int:
    """Offset after a NodeId or ExpandedNodeId."""
    if at >= len(raw):
        return MALFORMED
    form = raw[at]
    base = form & 0x0F
    if base == 0:
        at += 2
    elif base == 1:
        at += 4
    elif base == 2:
        at += 7
    elif base == 4:
        at += 19
    elif base in {3, 5}:
        at = _skip_text(raw, at + 3)
    else:
        return MALFORMED
    if at >= 0 and form & 0x80:
        at = _skip_text(raw, at)
    if at >= 0 and form & 0x40:
        at += 4
    return at


@njit
def _size(type_id: int) -> int:
    """Bytes of a fixed-size built-in type (Part 6, table 1), 0 for the others."""
    if type_id in {1, 2, 3}:
        return 1
    if type_id in {4, 5}:
        return 2
    if type_id in {6, 7, 10, 19}:
        return 4
    if type_id in {8, 9, 11, 13}:
        return 8
    return 16 if type_id == 14 else 0


@njit
def _skip_value(raw: Bytes, at: int, type_id: int) -> int:
    """Offset after one value of a built-in type."""
    size = _size(type_id)
    if size:
        return at + size
    if type_id in {12, 15, 16}:
        return _skip_text(raw, at)
    if type_id in {17, 18}:
        return _skip_node(raw, at)
    if type_id == 20:  # QualifiedName
        return _skip_text(raw, at + 2)
    if type_id == 21:  # LocalizedText
        if at >= len(raw):
            return MALFORMED
        mask = raw[at]
        at += 1
        if mask & 1:
            at = _skip_text(raw, at)
        if at >= 0 and mask & 2:
            at = _skip_text(raw, at)
        return at
    if type_id == 22:  # ExtensionObject
        at = _skip_node(raw, at)
        if at < 0 or at >= len(raw):
            return MALFORMED
        return _skip_text(raw, at + 1) if raw[at] else at + 1
    return UNSUPPORTED if type_id in {23, 24, 25} else MALFORMED


@njit
def _skip_array(raw: Bytes, at: int, mask: int) -> int:
    """Offset after the elements and dimensions of an array value."""
    type_id = mask & 0x3F
    if at + 4 > len(raw):
        return MALFORMED
    count = int(np.int32(_u32(raw, at)))
    at += 4
    size = _size(type_id)
    if size:
        at += count * size if count > 0 else 0
    else:
        for _ in range(count):
            at = _skip_value(raw, at, type_id)
            if at < 0:
                return at
    if mask & 0x40:
        if at + 4 > len(raw):
            return MALFORMED
        dimensions = int(np.int32(_u32(raw, at)))
        at += 4 + (4 * dimensions if dimensions > 0 else 0)
    return at


@njit
def _small(raw: Bytes, at: int, type_id: int) -> float:
    """A Boolean or an integer of at most 32 bits."""
    if type_id == 1:
        return 1.0 if raw[at] else 0.0
    if type_id == 2:
        return float(np.int8(raw[at]))
    if type_id == 3:
        return float(raw[at])
    if type_id == 4:
        return float(np.int16(_u16(raw, at)))
    if type_id == 5:
        return float(_u16(raw, at))
    if type_id == 6:
        return float(np.int32(_u32(raw, at)))
    return float(_u32(raw, at))


@njit
def _large(whole: np.uint64, signed: bool) -> tuple[float, bool]:
    """A 64-bit integer, and whether the float64 equals it: no bit may be set below the top 53."""
    negative = signed and (whole >> np.uint64(63)) == ONE
    size = (~whole) + ONE if negative else whole
    low = np.uint64(0)
    while (size >> low) >= FRACTION:
        low += ONE
    exact = (size & ((ONE << low) - ONE)) == np.uint64(0)
    return (-float(size) if negative else float(size)), exact


@njit
def values(
    raw: Bytes,
    handle: npt.NDArray[np.uint32],
    kind: Bytes,
    value: npt.NDArray[np.float64],
    status: npt.NDArray[np.uint32],
    ticks: npt.NDArray[np.int64],
    pico: npt.NDArray[np.uint16],
) -> int:
    """Fill the columns from the items after the count; 0, MALFORMED or UNSUPPORTED.

    `ticks` and `pico` have shape (n, 2): source, server.
    """
    n = len(raw)
    at = 4
    bits = np.zeros(1, np.uint64)
    double = bits.view(np.float64)
    half = np.zeros(1, np.uint32)
    single = half.view(np.float32)
    for i in range(len(handle)):
        if at + 5 > n:
            return MALFORMED
        handle[i] = np.uint32(_u32(raw, at))
        mask = int(raw[at + 4])
        at += 5
        kind[i] = NULL
        if mask & 0x01:
            if at >= n:
                return MALFORMED
            form = int(raw[at])
            type_id = form & 0x3F
            at += 1
            if form & 0x80:
                kind[i] = OTHER
                at = _skip_array(raw, at, form)
            elif 1 <= type_id <= 11:
                if at + _size(type_id) > n:
                    return MALFORMED
                kind[i] = NUMBER
                if type_id <= 7:
                    value[i] = _small(raw, at, type_id)
                elif type_id == 10:
                    half[0] = np.uint32(_u32(raw, at))
                    value[i] = float(single[0])
                elif type_id == 11:
                    bits[0] = _u64(raw, at)
                    value[i] = double[0]
                else:
                    number, exact = _large(_u64(raw, at), type_id == 8)
                    value[i] = number if exact else np.nan
                    kind[i] = NUMBER if exact else INEXACT
                at += _size(type_id)
            elif type_id:
                kind[i] = OTHER
                at = _skip_value(raw, at, type_id)
            if at < 0:
                return at
            if at > n:
                return MALFORMED
        if mask & 0x02:
            if at + 4 > n:
                return MALFORMED
            status[i] = np.uint32(_u32(raw, at))
            at += 4
        # The order on the wire: source time, source picoseconds, server time, server picoseconds.
        for side in range(2):
            if mask & (0x04 << side):
                if at + 8 > n:
                    return MALFORMED
                ticks[i, side] = np.int64(_u64(raw, at))
                at += 8
            if mask & (0x10 << side):
                if at + 2 > n:
                    return MALFORMED
                pico[i, side] = np.uint16(_u16(raw, at))
                at += 2
    return 0
