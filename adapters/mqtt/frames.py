"""Splitting a run of MQTT bytes into frames, in one compiled pass: no object is made per message.

Rules of this file: it does no I/O and holds no state; it never reads past `stop`; every PUBLISH becomes one row of
offsets into the same buffer; every other packet is handed back to the caller. Source: OASIS MQTT 3.1.1 and MQTT 5.0,
sections 2.1 (fixed header), 2.1.4 / 2.2.3 (remaining length), 3.3 (PUBLISH), 4.3 (QoS), 4.4 (redelivery).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..common.jit import compiled
from ..common.table import digest as table_digest

# Columns of a row: what one PUBLISH looks like. Starts are offsets into the buffer, bytes.
TOPIC_START, TOPIC_LEN, PAYLOAD_START, PAYLOAD_LEN, MID, FLAGS, RECEIVED = range(7)
COLUMNS = 7

# Bits of FLAGS: the low nibble of the fixed header, and one of ours.
RETAIN, QOS_BITS, DUP, OVERSIZE = 0x01, 0x06, 0x08, 0x80

# Why `split` came back.
NEED_DATA, CONTROL, FULL, PROTOCOL, LARGE = range(5)

PUBLISH = 3
HEADER_BYTES_MAX = 70_000
"""Enough for the head of any PUBLISH: fixed header, the longest topic (65,535), packet id, a few properties."""

# States of a packet id in the ledger: what is owed for it.
FREE, WAITING, OWED, RELEASED = range(4)


def ledger() -> npt.NDArray[np.int64]:
    """The books of QoS 1 and 2: per packet id its state, the connection it came by last, and a digest of its message.

    Returns
    -------
    int64 array, 65,536 x 4
        State (`FREE`, `WAITING` for our disk, `OWED` = durable but its connection is gone, `RELEASED` = PUBREC sent),
        connection number, digest, message number. The message number keeps a late confirmation of one message from
        confirming another that came to use the same packet id.
    """
    return np.zeros((65_536, 4), np.int64)


@compiled
def digest(data: npt.NDArray[np.uint8], start: int, stop: int) -> int:
    """A 64-bit digest of ``data[start:stop]``: tells a redelivery from another message; not cryptographic.

    The hash of the adapters' tables, without an owner.
    """
    return int(np.int64(table_digest(data, start, stop, 0)))


@compiled
def varint(data: npt.NDArray[np.uint8], at: int, stop: int) -> tuple[int, int]:
    """An MQTT variable byte integer: (value, offset after it); value -1 = not all there yet, -2 = longer than 4 bytes."""
    value, shift = 0, 0
    for k in range(4):
        if at + k >= stop:
            return -1, at
        byte = int(data[at + k])
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at + k + 1
        shift += 7
    return -2, at


@compiled
def head(data: npt.NDArray[np.uint8], at: int, end: int, flags: int, version: int, row: npt.NDArray[np.int64]) -> bool:
    """Read the variable header of the PUBLISH at ``data[at:end]`` into `row`; False = it breaks the protocol."""
    qos = (flags & QOS_BITS) >> 1
    if qos == 3 or at + 2 > end:
        return False
    length = (int(data[at]) << 8) | int(data[at + 1])
    row[TOPIC_START], row[TOPIC_LEN], row[FLAGS] = at + 2, length, flags
    at += 2 + length
    # No topic alias was offered, so an empty topic can not be legal.
    if length == 0 or at > end:
        return False
    row[MID] = 0
    if qos:
        if at + 2 > end:
            return False
        row[MID] = (int(data[at]) << 8) | int(data[at + 1])
        at += 2
        if row[MID] == 0:
            return False
    if version == 5:
        size, at = varint(data, at, end)
        if size < 0:
            return False
        at += size
        if at > end:
            return False
    row[PAYLOAD_START], row[PAYLOAD_LEN] = at, end - at
    return True


@compiled
def split(
    data: npt.NDArray[np.uint8],
    start: int,
    stop: int,
    version: int,
    size_max: int,
    received_ns: int,
    connection: int,
    number: int,
    books: npt.NDArray[np.int64],
    owed: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    count: int,
) -> tuple[int, int, int, int, int, int]:
    """Split ``data[start:stop]`` into frames, appending a row per new PUBLISH.

    Parameters
    ----------
    data
        Bytes as they came from the socket, uint8.
    start, stop
        The unread part.
    version
        MQTT version, 3 or 5.
    size_max
        Largest frame taken whole, bytes.
    received_ns
        Receive time of the first row, ns; each further row gets 1 ns more, so no two are alike.
    connection
        Number of this connection, for the ledger.
    number
        Message number of row 0.
    books
        See `ledger`; changed in place.
    owed
        int64, n x 3: (packet id, QoS, message number) of redelivered messages that are durable already; filled from
        the top.
    rows
        int64, capacity x `COLUMNS`; filled from row `count`.
    count
        Rows in use.

    Returns
    -------
    tuple of int
        Offset of the first byte not read, rows in use, entries of `owed` in use, why it stopped (`NEED_DATA`; `CONTROL`
        = a packet of another kind starts here; `FULL` = no row left; `LARGE` = a frame above `size_max` starts here;
        `PROTOCOL` = these bytes are no MQTT), the offset where the frame that stopped it ends, and the number of
        redelivered messages left out because they are held already.
    """
    at, debts, first, again = start, 0, count, 0
    while True:
        if at + 2 > stop:
            return at, count, debts, NEED_DATA, at, again
        size, body = varint(data, at + 1, stop)
        if size == -2:
            return at, count, debts, PROTOCOL, at, again
        if size == -1:
            return at, count, debts, NEED_DATA, at, again
        end = body + size
        kind = int(data[at]) >> 4
        if size > size_max:
            return at, count, debts, LARGE, end, again
        if end > stop:
            return at, count, debts, NEED_DATA, at, again
        if kind != PUBLISH:
            return at, count, debts, CONTROL, end, again
        if count == rows.shape[0] or debts == owed.shape[0]:
            return at, count, debts, FULL, at, again
        row = rows[count]
        if not head(data, body, end, int(data[at]) & 15, version, row):
            return at, count, debts, PROTOCOL, at, again
        row[RECEIVED] = received_ns + (count - first)
        at = end
        if row[MID] and known(data, row, connection, number + count, books):
            again += 1
            mid = row[MID]
            if books[mid, 0] != WAITING:
                owed[debts, 0], owed[debts, 1] = mid, (row[FLAGS] & QOS_BITS) >> 1
                owed[debts, 2] = books[mid, 3]
                debts += 1
            continue
        count += 1


@compiled
def known(
    data: npt.NDArray[np.uint8],
    row: npt.NDArray[np.int64],
    connection: int,
    number: int,
    books: npt.NDArray[np.int64],
) -> bool:
    """Is the message of `row` a redelivery of what we hold? Enters it in the books either way."""
    mid = row[MID]
    # Topic and payload together: everything between them is a few header bytes.
    seen = digest(data, row[TOPIC_START], row[TOPIC_START] + row[TOPIC_LEN]) ^ (
        digest(data, row[PAYLOAD_START], row[PAYLOAD_START] + row[PAYLOAD_LEN]) * 3
    )
    again = books[mid, 0] != FREE and (row[FLAGS] & DUP) != 0 and books[mid, 2] == seen
    books[mid, 1], books[mid, 2] = connection, seen
    if not again:
        books[mid, 0], books[mid, 3] = WAITING, number
    return bool(again)


@compiled
def settle(
    taken: npt.NDArray[np.int64], connection: int, books: npt.NDArray[np.int64], out: npt.NDArray[np.uint8]
) -> int:
    """Messages are durable: write their PUBACK / PUBREC packets, and book what can not be sent now.

    Parameters
    ----------
    taken
        int64, n x 3: packet id, QoS (1 or 2) and message number, in order of arrival.
    connection
        Number of the live connection; 0 = none.
    books
        The ledger; changed in place.
    out
        uint8, at least ``4 * n``: the packets, one after another.

    Returns
    -------
    int
        Bytes of `out` in use.
    """
    used = 0
    for k in range(taken.shape[0]):
        mid = taken[k, 0]
        if books[mid, 0] == FREE or books[mid, 3] != taken[k, 2]:
            continue
        if connection == 0 or books[mid, 1] != connection:
            # The broker will send it again on a later connection; then it is answered at once.
            books[mid, 0] = OWED
            continue
        out[used] = 0x40 if taken[k, 1] == 1 else 0x50
        out[used + 1] = 2
        out[used + 2] = mid >> 8
        out[used + 3] = mid & 255
        used += 4
        books[mid, 0] = FREE if taken[k, 1] == 1 else RELEASED
    return used
