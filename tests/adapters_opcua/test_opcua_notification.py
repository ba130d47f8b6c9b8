"""The fast reader against asyncua's own encoder and decoder, and against damaged bytes."""

import random
import struct
import uuid
from datetime import UTC, datetime

import numpy as np
import pytest
from asyncua import ua
from asyncua.ua.ua_binary import struct_to_binary
from iiot_dask_adapters.opcua.kernels import INEXACT, NULL, NUMBER, OTHER
from iiot_dask_adapters.opcua.notification import DATA_CHANGE, read_data_change, read_publish

from iiot_dask.core.errors import DataError

V = ua.VariantType
STAMP = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
STAMP_NS = int(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()) * 10**9 + 123456000

NUMBERS = [
    (V.Boolean, True, 1.0), (V.Boolean, False, 0.0), (V.SByte, -128, -128.0), (V.Byte, 255, 255.0),
    (V.Int16, -32768, -32768.0), (V.UInt16, 65535, 65535.0), (V.Int32, -(2**31), -(2.0**31)),
    (V.UInt32, 2**32 - 1, 2.0**32 - 1), (V.Int64, -(2**63), -(2.0**63)), (V.Int64, -3, -3.0), (V.Int64, 2**53, 2.0**53),
    (V.UInt64, 2**63, 2.0**63), (V.UInt64, 0, 0.0), (V.Float, 0.5, 0.5), (V.Double, -1e300, -1e300),
    (V.Double, 5e-324, 5e-324), (V.Float, float("inf"), float("inf")), (V.UInt64, (2**53 - 1) * 4, 2.0**55 - 4),
]  # fmt: skip
OTHERS = [
    (V.String, "12.5"), (V.String, None), (V.DateTime, STAMP), (V.Guid, uuid.uuid4()), (V.ByteString, b"\x01" * 300),
    (V.XmlElement, ua.XmlElement("<a/>")), (V.NodeId, ua.NodeId(5)), (V.NodeId, ua.NodeId("text", 3)), (V.NodeId, ua.NodeId(70_000, 3)),
    (V.NodeId, ua.NodeId(uuid.uuid4(), 2)), (V.NodeId, ua.NodeId(b"bytes", 2)), (V.StatusCode, ua.StatusCode(0)),
    (V.QualifiedName, ua.QualifiedName("n", 2)), (V.LocalizedText, ua.LocalizedText("t", "en")),
    (V.LocalizedText, ua.LocalizedText("t")), (V.ExtensionObject, ua.Range(0.0, 1.0)), (V.Double, [1.0, 2.0]),
    (V.String, ["a", None, "ccc"]), (V.Int16, []), (V.Double, [[1.0, 2.0], [3.0, 4.0]]), (V.LocalizedText, [ua.LocalizedText("x", "en")]),
    (V.ExtensionObject, [ua.Range(0.0, 1.0)]), (V.Boolean, [True]), (V.NodeId, [ua.NodeId("a", 1)]),
]  # fmt: skip


def body(values):
    items = [ua.MonitoredItemNotification(ClientHandle=handle, Value=value) for handle, value in values]
    return struct_to_binary(ua.DataChangeNotification(MonitoredItems=items))


def data(kind, value, **extra):
    return ua.DataValue(ua.Variant(value, kind), **extra)


def test_every_number_type():
    columns = read_data_change(body([(i, data(kind, value)) for i, (kind, value, _) in enumerate(NUMBERS)]))
    assert columns.handle.tolist() == list(range(len(NUMBERS)))
    assert columns.value.tolist() == [wanted for *_, wanted in NUMBERS]
    assert set(columns.kind.tolist()) == {NUMBER}


@pytest.mark.parametrize("whole", [2**53 + 1, 2**64 - 1, 2**63 + 1])
def test_integers_no_float_equals(whole):
    columns = read_data_change(body([(1, data(V.UInt64, whole)), (2, data(V.Int64, -(2**53) - 1))]))
    assert columns.kind.tolist() == [INEXACT, INEXACT]
    assert np.isnan(columns.value).all()


def test_all_other_types_are_stepped_over():
    values = []
    for i, (kind, value) in enumerate(OTHERS):
        values += [(2 * i, data(kind, value)), (2 * i + 1, data(V.Double, float(i)))]
    columns = read_data_change(body(values))
    assert columns.value[1::2].tolist() == [float(i) for i in range(len(OTHERS))]
    assert set(columns.kind[1::2].tolist()) == {NUMBER}
    assert set(columns.kind[0::2].tolist()) <= {OTHER, NULL}
    assert columns.handle.tolist() == list(range(len(values)))


def test_status_times_and_absence():
    values = [
        (7, data(V.Double, 1.0, StatusCode=ua.StatusCode(0x80340000), SourceTimestamp=STAMP, ServerTimestamp=STAMP)),
        (8, ua.DataValue(ua.Variant(), StatusCode=ua.StatusCode(0x40000480))),
        (9, data(V.Double, 2.0, ServerTimestamp=STAMP)),
        (10, data(V.Double, 2.0, SourceTimestamp=datetime(1601, 1, 1, tzinfo=UTC))),
    ]
    columns = read_data_change(body(values))
    assert columns.status.tolist() == [0x80340000, 0x40000480, 0, 0]
    assert columns.kind.tolist() == [NUMBER, NULL, NUMBER, NUMBER]
    assert columns.source.tolist() == [STAMP_NS, 0, 0, 0]
    assert columns.server.tolist() == [STAMP_NS, 0, STAMP_NS, 0]


def test_picoseconds_follow_their_time():
    """By hand: asyncua puts them after both times, Part 6, table 26 each after its own."""
    ticks = 116_444_736_000_000_000
    item = struct.pack("<IBBdqHqH", 5, 0x3D, 11, 1.5, ticks + 1, 1299, ticks + 2, 9999)
    columns = read_data_change(struct.pack("<i", 1) + item + struct.pack("<i", -1))
    assert (columns.value.tolist(), columns.source.tolist(), columns.server.tolist()) == ([1.5], [112], [299])


def test_a_time_out_of_range_is_absent_not_wrong():
    ticks = struct.pack("<q", 2**62 + 2**61)
    raw = struct.pack("<iIBBd", 1, 5, 0x05, 11, 1.5) + ticks + struct.pack("<i", -1)
    assert read_data_change(raw).source.tolist() == [0]


def test_rare_types_are_left_to_the_general_reader():
    nested = ua.DataValue(ua.Variant(ua.DataValue(ua.Variant(1.0, V.Double)), V.DataValue))
    assert read_data_change(body([(1, nested)])) is None


def test_an_empty_notification():
    assert len(read_data_change(struct.pack("<ii", -1, -1))) == 0
    assert len(read_data_change(struct.pack("<ii", 0, 0))) == 0


def everything():
    values = [
        (i, data(k, v, SourceTimestamp=STAMP, StatusCode=ua.StatusCode(1 << 30))) for i, (k, v, _) in enumerate(NUMBERS)
    ]
    return body(values + [(100 + i, data(k, v, ServerTimestamp=STAMP)) for i, (k, v) in enumerate(OTHERS)])


def test_cut_anywhere_is_an_error_not_a_crash():
    whole = everything()
    end = len(whole) - 4  # the empty list of diagnostics at the end is not read
    read_data_change(whole[:end])
    for stop in range(end):
        with pytest.raises(DataError):
            read_data_change(whole[:stop])


def test_damaged_bytes_never_crash_or_allocate_beyond_the_message():
    rng = random.Random(5)
    whole = bytearray(everything())
    outcomes = set()
    for _ in range(3000):
        raw = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        try:
            columns = read_data_change(bytes(raw))
        except DataError:
            outcomes.add("refused")
            continue
        outcomes.add("read")
        assert columns is None or len(columns) <= len(raw) // 5
    assert outcomes == {"refused", "read"}
    for count in (2**31 - 1, 2**20, -5):
        with pytest.raises(DataError):
            read_data_change(struct.pack("<i", count) + bytes(50))


def response(parts, more=False, sequence=7):
    message = ua.NotificationMessage(SequenceNumber=sequence, NotificationData=parts)
    result = ua.PublishResult(
        SubscriptionId=3, AvailableSequenceNumbers=[5, 6], MoreNotifications=more, NotificationMessage=message
    )
    return struct_to_binary(result)


def test_a_publish_response():
    change = ua.DataChangeNotification(
        MonitoredItems=[ua.MonitoredItemNotification(ClientHandle=1, Value=data(V.Double, 4.5))]
    )
    status = ua.StatusChangeNotification(Status=ua.StatusCode(ua.StatusCodes.BadTimeout))
    publish = read_publish(b"xx" + response([change, status], more=True), 2)
    assert (publish.subscription, publish.available, publish.more, publish.sequence) == (3, (5, 6), True, 7)
    assert [kind for kind, _ in publish.parts] == [DATA_CHANGE, 820]
    assert read_data_change(publish.parts[0][1]).value.tolist() == [4.5]
    assert read_publish(response([])).parts == ()


def test_a_damaged_publish_response_is_an_error():
    whole = response([ua.DataChangeNotification(MonitoredItems=[])])
    end = len(whole) - 8  # the two empty lists at the end are not read
    for stop in range(end):
        with pytest.raises(DataError):
            read_publish(whole[:stop])
    rng = random.Random(6)
    for _ in range(2000):
        raw = bytearray(whole)
        raw[rng.randrange(len(raw))] = rng.randrange(256)
        try:
            read_publish(bytes(raw))
        except DataError:
            continue
