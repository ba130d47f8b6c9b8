"""OPC UA publish responses from bytes to columns: one pass over the body, no object per value. No I/O.

asyncua builds half a dozen Python objects for each changed value; here a numba pass over the bytes of a whole
`DataChangeNotification` fills arrays. Source: OPC UA Part 6, 5.2 (binary encoding: 5.2.2.9 NodeId, 5.2.2.16 Variant,
5.2.2.17 DataValue) and Part 4, 7.25.2 (DataChangeNotification), 5.14.5 (Publish).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from iiot_dask.core.errors import DataError

from .kernels import MALFORMED, UNSUPPORTED, values

DATA_CHANGE = 811
"""Numeric NodeId (namespace 0) of DataChangeNotification's binary encoding."""
STATUS_CHANGE = 820
"""Numeric NodeId (namespace 0) of StatusChangeNotification's binary encoding."""

EPOCH_TICKS = 116_444_736_000_000_000
"""1970-01-01 in DateTime's 100 ns ticks since 1601-01-01 (Part 6, 5.2.2.5)."""
TICKS_MAX = (1 << 63) // 100 - 1


@dataclass(frozen=True, slots=True)
class Columns:
    """Values of one notification: arrays of equal length n.

    `handle` uint32 client handles; `kind` uint8 (NUMBER, NULL, OTHER, INEXACT); `value` float64, NaN unless a number;
    `status` uint32 StatusCodes; `source` and `server` int64 ns since 1970-01-01 UTC, 0 where absent or out of range.
    """

    handle: npt.NDArray[np.uint32]
    kind: npt.NDArray[np.uint8]
    value: npt.NDArray[np.float64]
    status: npt.NDArray[np.uint32]
    source: npt.NDArray[np.int64]
    server: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.handle)


@dataclass(frozen=True, slots=True)
class Publish:
    """A publish response without its header: `parts` are (numeric type id in namespace 0, or -1; body)."""

    subscription: int
    available: tuple[int, ...]
    more: bool
    sequence: int
    parts: tuple[tuple[int, bytes], ...]


def read_publish(data: bytes, start: int = 0) -> Publish:
    """Read the parameters of a PublishResponse from the byte after its response header.

    Raises
    ------
    DataError
        If the bytes end early or a length makes no sense.
    """
    try:
        subscription, count = struct.unpack_from("<Ii", data, start)
        available = struct.unpack_from(f"<{_some(count, len(data) // 4)}I", data, start + 8)
        at = start + 8 + 4 * len(available)
        more, sequence, _, count = struct.unpack_from("<?Iqi", data, at)
        at += 17
        parts = []
        for _ in range(_some(count, len(data))):
            kind, at = _node_id(data, at)
            encoding = data[at]
            at += 1
            size = struct.unpack_from("<i", data, at)[0] if encoding else -1
            at += 4 if encoding else 0
            body = data[at : at + max(size, 0)]
            if len(body) < size:
                msg = f"a notification of {size} bytes has only {len(body)}"
                raise DataError(msg)
            parts.append((kind, body))
            at += max(size, 0)
    except (struct.error, IndexError) as error:
        msg = f"a publish response of {len(data)} bytes ends early: {error}"
        raise DataError(msg) from error
    return Publish(subscription, available, more, sequence, tuple(parts))


def _some(count: int, most: int) -> int:
    if count > most:
        msg = f"a list of {count} items in a message that has room for {most}"
        raise DataError(msg)
    return max(count, 0)  # -1 is a null list


def _node_id(data: bytes, at: int) -> tuple[int, int]:
    """The numeric id in namespace 0 (else -1), and the offset after it."""
    form = data[at]
    if form == 0:
        return data[at + 1], at + 2
    if form == 1:
        namespace, number = struct.unpack_from("<BH", data, at + 1)
        return (number if not namespace else -1), at + 4
    if form == 2:
        namespace, number = struct.unpack_from("<HI", data, at + 1)
        return (number if not namespace else -1), at + 7
    if form in (3, 5):
        (size,) = struct.unpack_from("<i", data, at + 3)
        return -1, at + 7 + _some(size, len(data))
    if form == 4:
        return -1, at + 19
    msg = f"a NodeId of encoding {form}; 0..5 are allowed"
    raise DataError(msg)


def read_data_change(body: bytes) -> Columns | None:
    """The body of a DataChangeNotification as columns; None if it holds what this reader leaves to a general one.

    That is: a value of type DataValue, Variant or DiagnosticInfo, which servers hardly ever send.

    Raises
    ------
    DataError
        If the bytes end early or a type id is unknown.
    """
    raw = np.frombuffer(body, np.uint8)
    count = int.from_bytes(body[:4], "little", signed=True) if len(body) >= 4 else -2
    if count < -1 or count * 5 > len(body):
        msg = f"a data change notification of {len(body)} bytes claims {count} values"
        raise DataError(msg)
    n = max(count, 0)
    handle, kind, value = np.zeros(n, np.uint32), np.zeros(n, np.uint8), np.full(n, np.nan)
    status, ticks, pico = np.zeros(n, np.uint32), np.zeros((n, 2), np.int64), np.zeros((n, 2), np.uint16)
    code = values(raw, handle, kind, value, status, ticks, pico)
    if code == UNSUPPORTED:
        return None
    if code == MALFORMED:
        msg = f"a data change notification of {len(body)} bytes and {n} values is malformed"
        raise DataError(msg)
    times = to_ns(ticks, pico)
    return Columns(handle, kind, value, status, times[:, 0], times[:, 1])


def to_ns(ticks: npt.NDArray[np.int64], pico: npt.NDArray[np.uint16]) -> npt.NDArray[np.int64]:
    """DateTime ticks (100 ns since 1601) and picoseconds (units of 10 ps) as ns since 1970; 0 if absent or too far off.

    Examples
    --------
    >>> to_ns(np.array([EPOCH_TICKS + 1, 0]), np.array([500, 0], np.uint16))
    array([105,   0])
    """
    since = ticks - EPOCH_TICKS
    fits = (ticks > 0) & (np.abs(since) < TICKS_MAX)
    # Picoseconds above 9999 are not allowed (Part 4, 7.11.2) and are ignored.
    extra = np.where(pico <= 9999, pico, 0).astype(np.int64) // 100
    out: npt.NDArray[np.int64] = np.where(fits, np.where(fits, since, 0) * 100 + extra, 0)
    return out
