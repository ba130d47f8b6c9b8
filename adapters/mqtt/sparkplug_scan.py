"""Sparkplug B payloads to columns: a compiled walk over protobuf bytes, many messages at once.

Rules of this file: only what a historian needs is kept; what is skipped is still measured, so that a damaged payload
is told; what can not be judged without the whole schema (data sets, templates, metadata, groups, merged property sets)
is marked `FALLBACK` and goes through `google.protobuf` once, which hands it back stripped.

Sources: Protocol Buffers, "Encoding"; Eclipse Sparkplug 3.0, chapter 6 (field numbers), 6.4.13 (the Quality property).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from iiot_dask.core import sparkplug_b as spb
from iiot_dask.core.errors import DataError

from ..common.jit import compiled

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

# Columns of a message row.
STATUS, SEQ, STAMP, FIRST, COUNT = range(5)
MESSAGE_COLUMNS = 5
OK, MALFORMED, FALLBACK = range(3)

# Columns of a metric row. BITS holds the value field as it stood on the wire.
MESSAGE, FLAGS, ALIAS, NAME_START, NAME_LEN, TIME, FIELD, DATATYPE, BITS, QUALITY = range(10)
METRIC_COLUMNS = 10

HAS_ALIAS, HAS_NAME, HAS_TIME, IS_NULL, HISTORICAL, TRANSIENT, HAS_DATATYPE, HAS_PROPERTIES = (1 << k for k in range(8))

# Value fields of a metric, by number.
INT, LONG, FLOAT, DOUBLE, BOOLEAN, STRING = range(10, 16)

ABSENT = -1

_QUALITY = np.frombuffer(b"Quality", np.uint8)


@compiled
def varint(data: Bytes, at: int, stop: int) -> tuple[int, int]:
    """A base-128 varint as the int64 of the same bits: (value, offset after it); offset -1 = damaged, -2 = undecided."""
    value = np.int64(0)
    for k in range(10):
        if at + k >= stop:
            return 0, -1
        byte = np.int64(data[at + k])
        if k == 9 and byte > 1:
            return 0, -2
        value |= (byte & 127) << (7 * k)
        if byte < 128:
            return int(value), at + k + 1
    return 0, -1


@compiled
def skip(data: Bytes, at: int, stop: int, wire: int) -> int:
    """Offset after a field of wire type `wire` that starts at `at`; -1 = damaged, -2 = undecided."""
    if wire == 0:
        _, at = varint(data, at, stop)
        return at
    if wire == 1:
        return at + 8 if at + 8 <= stop else -1
    if wire == 5:
        return at + 4 if at + 4 <= stop else -1
    if wire == 2:
        size, at = varint(data, at, stop)
        if at < 0:
            return at
        return at + size if 0 <= size <= stop - at else -1
    # Groups: 3 opens, 4 closes; 6 and 7 do not exist.
    return -2 if wire in (3, 4) else -1


@compiled
def tag(data: Bytes, at: int, stop: int) -> tuple[int, int, int]:
    """A field's number, its wire type, and the offset after both; offset -1 = damaged, -2 = undecided."""
    key, after = varint(data, at, stop)
    if after < 0:
        return 0, 0, after
    if key <= 0 or after - at > 5 or key >> 32 or key >> 3 == 0:
        return 0, 0, -1
    return key >> 3, key & 7, after


@compiled
def fixed(data: Bytes, at: int, size: int) -> int:
    """A little-endian integer of `size` bytes, as the int64 of the same bits."""
    value = np.int64(0)
    for k in range(size):
        value |= np.int64(data[at + k]) << (8 * k)
    return int(value)


@compiled
def _property_value(data: Bytes, at: int, stop: int) -> tuple[int, int]:
    """The integer a PropertyValue holds (`ABSENT` = none), and 0; or -1 = damaged, -2 = undecided."""
    found = ABSENT
    while at < stop:
        number, wire, at = tag(data, at, stop)
        if at < 0:
            return ABSENT, at
        if wire == 0 and number in (3, 4):
            value, at = varint(data, at, stop)
            found = value & 0xFFFFFFFF if number == 3 else value
        elif wire == 2 and number >= 9:
            return ABSENT, -2  # nested sets
        else:
            at = skip(data, at, stop, wire)
        if at < 0:
            return ABSENT, at
    return found, 0


@compiled
def properties(data: Bytes, start: int, stop: int) -> tuple[int, int]:
    """The `Quality` of a PropertySet (`ABSENT` = none), and 0; or -1 = damaged, -2 = undecided."""
    at, keys, wanted = start, 0, -1
    while at < stop:
        number, wire, at = tag(data, at, stop)
        if at < 0:
            return ABSENT, at
        first, at = at, skip(data, at, stop, wire)
        if at < 0:
            return ABSENT, at
        if number == 1 and wire == 2:
            size, first = varint(data, first, stop)
            same = size == len(_QUALITY)
            for k in range(len(_QUALITY)):
                same = same and data[first + k] == _QUALITY[k]
            if same:
                wanted = keys
            keys += 1
    at, values, quality = start, 0, ABSENT
    while at < stop:
        number, wire, at = tag(data, at, stop)
        first, at = at, skip(data, at, stop, wire)
        if number == 2 and wire == 2:
            _, first = varint(data, first, stop)
            found, fault = _property_value(data, first, at)
            if fault:
                return ABSENT, fault
            if values == wanted:
                quality = found
            values += 1
    return quality, 0


@compiled
def metric(data: Bytes, at: int, stop: int, row: Ints) -> int:
    """Read one Metric into `row`; 0, or -1 = damaged, -2 = undecided."""
    row[:] = 0
    row[QUALITY] = ABSENT
    while at < stop:
        number, wire, at = tag(data, at, stop)
        if at < 0:
            return at
        if wire == 0 and number in (2, 3, 4, 5, 6, 7, INT, LONG, BOOLEAN):
            value, at = varint(data, at, stop)
            if at < 0:
                return at
            if number == 2:
                row[ALIAS] = value
                row[FLAGS] |= HAS_ALIAS
            elif number == 3:
                row[TIME] = value
                row[FLAGS] |= HAS_TIME
            elif number == 4:
                row[DATATYPE] = value & 0xFFFFFFFF
                row[FLAGS] |= HAS_DATATYPE
            elif number == 5:
                row[FLAGS] = (row[FLAGS] & ~HISTORICAL) | (HISTORICAL if value else 0)
            elif number == 6:
                row[FLAGS] = (row[FLAGS] & ~TRANSIENT) | (TRANSIENT if value else 0)
            elif number == 7:
                row[FLAGS] = (row[FLAGS] & ~IS_NULL) | (IS_NULL if value else 0)
            else:
                row[FIELD] = number
                row[BITS] = value & 0xFFFFFFFF if number == INT else value
                if number == BOOLEAN:
                    row[BITS] = 1 if value else 0
            continue
        first, at = at, skip(data, at, stop, wire)
        if at < 0:
            return at
        if number == FLOAT and wire == 5:
            row[FIELD], row[BITS] = FLOAT, fixed(data, first, 4)
        elif number == DOUBLE and wire == 1:
            row[FIELD], row[BITS] = DOUBLE, fixed(data, first, 8)
        elif wire == 2 and number == 1:
            row[NAME_LEN], row[NAME_START] = varint(data, first, stop)
            row[FLAGS] |= HAS_NAME
        elif wire == 2 and number in (STRING, 16):
            row[FIELD] = number
        elif wire == 2 and number == 9:
            if row[FLAGS] & HAS_PROPERTIES:
                return -2
            row[FLAGS] |= HAS_PROPERTIES
            _, first = varint(data, first, stop)
            row[QUALITY], fault = properties(data, first, at)
            if fault:
                return fault
        elif wire == 2 and number in (8, 17, 18, 19):
            return -2
    return 0


@compiled
def count(data: Bytes, starts: Ints, sizes: Ints, messages: Ints) -> int:
    """Fill `STATUS`, `SEQ`, `STAMP`, `FIRST` and `COUNT` of `messages`; the number of metrics in all sound payloads.

    Metrics themselves are not looked into yet.
    """
    total = 0
    for k in range(len(starts)):
        at, stop, status = starts[k], starts[k] + sizes[k], OK
        row = messages[k]
        row[SEQ], row[STAMP], row[FIRST], row[COUNT] = ABSENT, ABSENT, total, 0
        while at < stop:
            number, wire, at = tag(data, at, stop)
            if at >= 0:
                first, at = at, skip(data, at, stop, wire)
                if at >= 0:
                    if wire == 2 and number == 2:
                        row[COUNT] += 1
                    elif wire == 0 and number == 1:
                        row[STAMP], _ = varint(data, first, stop)
                    elif wire == 0 and number == 3:
                        row[SEQ], _ = varint(data, first, stop)
            if at < 0:
                status = MALFORMED if at == -1 else FALLBACK
                row[COUNT] = 0
                break
        row[STATUS] = status
        total += row[COUNT]
    return total


@compiled
def walk(data: Bytes, starts: Ints, sizes: Ints, messages: Ints, metrics: Ints) -> None:
    """Fill `metrics` (as many rows as `count` told); a payload with a damaged metric becomes `MALFORMED`."""
    for k in range(len(starts)):
        row = messages[k]
        if row[STATUS] != OK:
            continue
        at, stop, here = starts[k], starts[k] + sizes[k], row[FIRST]
        # Also those after a damaged one must say whose they are.
        metrics[here : here + row[COUNT]] = 0
        metrics[here : here + row[COUNT], MESSAGE] = k
        while at < stop:
            number, wire, at = tag(data, at, stop)
            first, at = at, skip(data, at, stop, wire)
            if wire == 2 and number == 2:
                _, first = varint(data, first, stop)
                fault = metric(data, first, at, metrics[here])
                metrics[here, MESSAGE] = k
                here += 1
                if fault:
                    row[STATUS] = MALFORMED if fault == -1 else FALLBACK
                    break


def strip(payload: bytes) -> bytes | None:
    """The payload without what `walk` can not judge, by `google.protobuf`; None = it is no Sparkplug payload."""
    try:
        message = spb.parse(payload)
    except DataError:
        return None
    message.DiscardUnknownFields()
    for m in message.metrics:
        m.ClearField("metadata")
        if m.WhichOneof("value") in ("dataset_value", "template_value", "extension_value"):
            m.bytes_value = b""
        kept = next((v for k, v in zip(m.properties.keys, m.properties.values, strict=False) if k == "Quality"), None)
        value = None if kept is None else kept.int_value or kept.long_value
        m.ClearField("properties")
        if value is not None:
            m.properties.keys.append("Quality")
            m.properties.values.add(int_value=value & 0xFFFFFFFF)
    out: bytes = message.SerializeToString()
    return out


def scan(data: Bytes, starts: Ints, sizes: Ints) -> tuple[Bytes, Ints, Ints]:
    """Payloads to columns.

    Parameters
    ----------
    data
        uint8, a buffer.
    starts, sizes
        int64, the payloads in it.

    Returns
    -------
    uint8, int64, int64
        The buffer that names lie in (`data`, or a new one when some payload had to be stripped), messages x
        `MESSAGE_COLUMNS`, metrics x `METRIC_COLUMNS` (those of message k from its `FIRST`, `COUNT` of them).

    Examples
    --------
    >>> wire = spb.Payload(timestamp=5, seq=1)
    >>> spb.set_value(wire.metrics.add(alias=9, timestamp=5), spb.DataType.INT32, -2)
    >>> raw = np.frombuffer(wire.SerializeToString(), np.uint8).copy()
    >>> _, messages, metrics = scan(raw, np.array([0]), np.array([len(raw)]))
    >>> messages[0, [STATUS, SEQ, STAMP, COUNT]].tolist(), metrics[0, [ALIAS, FIELD, DATATYPE]].tolist()
    ([0, 1, 5, 1], [9, 10, 3])
    """
    messages = np.empty((len(starts), MESSAGE_COLUMNS), np.int64)
    metrics = np.empty((count(data, starts, sizes, messages), METRIC_COLUMNS), np.int64)
    walk(data, starts, sizes, messages, metrics)
    hard = np.flatnonzero(messages[:, STATUS] == FALLBACK).tolist()
    if not hard:
        return data, messages, metrics
    parts = [data[s : s + n].tobytes() for s, n in zip(starts.tolist(), sizes.tolist(), strict=True)]
    damaged = []
    for k in hard:
        stripped = strip(parts[k])
        if stripped is None:
            damaged.append(k)
        parts[k] = stripped or b""
    whole = np.frombuffer(b"".join(parts), np.uint8).copy()
    sizes = np.array([len(part) for part in parts], np.int64)
    starts = np.cumsum(sizes) - sizes
    metrics = np.empty((count(whole, starts, sizes, messages), METRIC_COLUMNS), np.int64)
    walk(whole, starts, sizes, messages, metrics)
    messages[damaged, STATUS] = MALFORMED
    # What protobuf wrote itself is not undecided any more.
    messages[messages[:, STATUS] == FALLBACK, STATUS] = MALFORMED
    return whole, messages, metrics


def values(metrics: Ints, datatype: Ints) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Values as float64 and whether each is a number; null metrics are NaN and numbers.

    Parameters
    ----------
    metrics
        Metric rows.
    datatype
        int64, the datatype each was born with: it says how wide a signed integer is.

    Notes
    -----
    Integers are cut to their type's width before the sign is taken: nodes differ in how far they widen negative ones
    (see `iiot_dask.core.sparkplug_b.number`).
    """
    field, bits = metrics[:, FIELD], metrics[:, BITS]
    out = np.full(len(metrics), np.nan)
    whole = (field == INT) | (field == LONG)
    width = np.zeros(len(metrics), np.int64)
    for kind, size in spb.SIGNED_BITS.items():
        width[datatype == kind] = size
    signed = whole & (width > 0)
    shift = 64 - width[signed]
    out[signed] = ((bits[signed] << shift) >> shift).astype(np.float64)
    plain = whole & (width == 0)
    out[plain] = bits[plain].view(np.uint64).astype(np.float64)
    single, double, boolean = field == FLOAT, field == DOUBLE, field == BOOLEAN
    out[single] = bits[single].astype(np.uint32).view(np.float32).astype(np.float64)
    out[double] = bits[double].view(np.float64)
    out[boolean] = bits[boolean].astype(np.float64)
    null = (metrics[:, FLAGS] & IS_NULL) != 0
    out[null] = np.nan
    return out, whole | single | double | boolean | null
