"""Sparkplug B payloads: protobuf messages built from a table of field numbers, and the datatype codes.

The table below holds the field names, numbers and types that Eclipse Sparkplug 3.0, chapter 6 ("Payloads") defines for
`Payload` and its parts (proto2). The message classes are made from it at import, in a descriptor pool of their own, so
they can live in one process beside any other Sparkplug package.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from iiot_dask.core.errors import DataError

PAYLOAD_BYTES_MAX = 4 << 20
"""Largest payload `parse` takes, bytes; a birth of 50,000 metrics is about 2 MiB."""

NAMESPACE = "spBv1.0"
"""First level of every Sparkplug B topic."""

BIRTH_DEATH_SEQ = "bdSeq"
NODE_REBIRTH = "Node Control/Rebirth"

VALUE_FIELDS = ("int_value", "long_value", "float_value", "double_value", "boolean_value", "string_value")


class DataType(IntEnum):
    """The `datatype` of a metric (Sparkplug 3.0, 6.4.16)."""

    UNKNOWN = 0
    INT8 = 1
    INT16 = 2
    INT32 = 3
    INT64 = 4
    UINT8 = 5
    UINT16 = 6
    UINT32 = 7
    UINT64 = 8
    FLOAT = 9
    DOUBLE = 10
    BOOLEAN = 11
    STRING = 12
    DATE_TIME = 13
    TEXT = 14
    UUID = 15
    DATA_SET = 16
    BYTES = 17
    FILE = 18
    TEMPLATE = 19
    PROPERTY_SET = 20
    PROPERTY_SET_LIST = 21
    INT8_ARRAY = 22
    INT16_ARRAY = 23
    INT32_ARRAY = 24
    INT64_ARRAY = 25
    UINT8_ARRAY = 26
    UINT16_ARRAY = 27
    UINT32_ARRAY = 28
    UINT64_ARRAY = 29
    FLOAT_ARRAY = 30
    DOUBLE_ARRAY = 31
    BOOLEAN_ARRAY = 32
    STRING_ARRAY = 33
    DATE_TIME_ARRAY = 34


SIGNED_BITS: dict[int, int] = {DataType.INT8: 8, DataType.INT16: 16, DataType.INT32: 32, DataType.INT64: 64}
"""Signed datatypes and their width: on the wire they travel as the two's complement in an unsigned field."""

NUMERIC: frozenset[int] = frozenset(range(DataType.INT8, DataType.BOOLEAN + 1)) | {int(DataType.DATE_TIME)}
"""Datatypes whose value is one number (booleans are 0 and 1, date-times are ms since 1970-01-01 UTC)."""

_SCALARS = (
    "int_value:uint32 long_value:uint64 float_value:float double_value:double boolean_value:bool string_value:string"
)

# message -> fields "name:type", numbered from 1. "*" = repeated, "|" starts the oneof `value`.
_MESSAGES: dict[str, str] = {
    "Payload": "timestamp:uint64 *metrics:Payload.Metric seq:uint64 uuid:string body:bytes",
    "Payload.Metric": (
        "name:string alias:uint64 timestamp:uint64 datatype:uint32 is_historical:bool is_transient:bool is_null:bool"
        f" metadata:Payload.MetaData properties:Payload.PropertySet | {_SCALARS} bytes_value:bytes"
        " dataset_value:Payload.DataSet template_value:Payload.Template extension_value:Payload.Extension"
    ),
    "Payload.MetaData": (
        "is_multi_part:bool content_type:string size:uint64 seq:uint64 file_name:string file_type:string md5:string"
        " description:string"
    ),
    "Payload.PropertySet": "*keys:string *values:Payload.PropertyValue",
    "Payload.PropertyValue": (
        f"type:uint32 is_null:bool | {_SCALARS} propertyset_value:Payload.PropertySet"
        " propertysets_value:Payload.PropertySetList extension_value:Payload.Extension"
    ),
    "Payload.PropertySetList": "*propertyset:Payload.PropertySet",
    "Payload.DataSet": "num_of_columns:uint64 *columns:string *types:uint32 *rows:Payload.DataSet.Row",
    "Payload.DataSet.Row": "*elements:Payload.DataSet.DataSetValue",
    "Payload.DataSet.DataSetValue": f"| {_SCALARS} extension_value:Payload.Extension",
    "Payload.Template": (
        "version:string *metrics:Payload.Metric *parameters:Payload.Template.Parameter template_ref:string"
        " is_definition:bool"
    ),
    "Payload.Template.Parameter": f"name:string type:uint32 | {_SCALARS} extension_value:Payload.Extension",
    # The specification's extension messages have no fields of their own; unknown ones are kept by protobuf.
    "Payload.Extension": "",
}

_PACKAGE = "iiot_dask.sparkplug_b"
_Field = descriptor_pb2.FieldDescriptorProto


def _add_field(message: descriptor_pb2.DescriptorProto, word: str, number: int, oneof: bool) -> None:
    name, _, kind = word.lstrip("*").partition(":")
    label = _Field.LABEL_REPEATED if word.startswith("*") else _Field.LABEL_OPTIONAL
    field = message.field.add(name=name, number=number, label=label)
    if kind[0].isupper():
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
    else:
        field.type = _Field.Type.Value(f"TYPE_{kind.upper()}")
    if oneof:
        field.oneof_index = 0


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="iiot_dask/sparkplug_b.proto", package=_PACKAGE, syntax="proto2")
    made: dict[str, descriptor_pb2.DescriptorProto] = {}
    for path, text in _MESSAGES.items():
        parent, _, name = path.rpartition(".")
        message = made[parent].nested_type.add(name=name) if parent else file.message_type.add(name=name)
        made[path] = message
        number, oneof = 0, False
        for word in text.split():
            if word == "|":
                oneof = True
                message.oneof_decl.add(name="value")
                continue
            number += 1  # field numbers run from 1 without gaps in every message of the specification
            _add_field(message, word, number, oneof)
    return file


_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_file())


def _class(path: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.{path}"))


Payload: Any = _class("Payload")
"""A Sparkplug B payload: `timestamp` (ms since 1970-01-01 UTC), `metrics`, `seq` (0-255), `uuid`, `body`."""
Metric: Any = _class("Payload.Metric")
MetaData: Any = _class("Payload.MetaData")
PropertySet: Any = _class("Payload.PropertySet")
PropertyValue: Any = _class("Payload.PropertyValue")
PropertySetList: Any = _class("Payload.PropertySetList")
DataSet: Any = _class("Payload.DataSet")
Row: Any = _class("Payload.DataSet.Row")
DataSetValue: Any = _class("Payload.DataSet.DataSetValue")
Template: Any = _class("Payload.Template")
Parameter: Any = _class("Payload.Template.Parameter")


def parse(payload: bytes) -> Any:
    """Decode a payload; the result is a `Payload` message.

    Raises
    ------
    DataError
        If the bytes are more than `PAYLOAD_BYTES_MAX` or no Sparkplug B payload.

    Examples
    --------
    >>> message = Payload(timestamp=5, seq=0)
    >>> set_value(message.metrics.add(name="level", timestamp=5), DataType.INT16, -2)
    >>> again = parse(message.SerializeToString())
    >>> again.seq, again.metrics[0].name, number(again.metrics[0])
    (0, 'level', -2.0)
    """
    if len(payload) > PAYLOAD_BYTES_MAX:
        msg = f"Sparkplug payload of {len(payload)} bytes; at most {PAYLOAD_BYTES_MAX} are read"
        raise DataError(msg)
    try:
        return Payload.FromString(payload)
    except DecodeError as error:
        msg = f"{len(payload)} bytes are no Sparkplug B payload: {error}"
        raise DataError(msg) from error


def set_value(metric: Message, datatype: int, value: float | str | None) -> None:
    """Set `datatype` and the value field that belongs to it; None sets `is_null`.

    Raises
    ------
    DataError
        If the datatype is no single number, boolean or text, or an integer does not fit it.

    Examples
    --------
    >>> m = Metric(); set_value(m, DataType.INT8, -1); m.int_value
    255
    >>> set_value(m, DataType.UINT8, 256)
    Traceback (most recent call last):
    iiot_dask.core.errors.DataError: value 256 does not fit datatype UINT8 (0..255)
    """
    out: Any = metric
    out.datatype = int(datatype)
    if value is None:
        out.is_null = True
    elif datatype in (DataType.FLOAT, DataType.DOUBLE):
        setattr(out, "float_value" if datatype == DataType.FLOAT else "double_value", float(value))
    elif datatype == DataType.BOOLEAN:
        out.boolean_value = bool(value)
    elif datatype in (DataType.STRING, DataType.TEXT, DataType.UUID):
        out.string_value = str(value)
    elif datatype in NUMERIC:
        _set_integer(out, DataType(datatype), int(value))
    else:
        msg = f"datatype {datatype} holds no single number, boolean or text"
        raise DataError(msg)


def _set_integer(metric: Any, datatype: DataType, value: int) -> None:
    bits = SIGNED_BITS.get(datatype) or {DataType.UINT8: 8, DataType.UINT16: 16, DataType.UINT32: 32}.get(datatype, 64)
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if datatype in SIGNED_BITS else (0, (1 << bits) - 1)
    if not low <= value <= high:
        msg = f"value {value} does not fit datatype {datatype.name} ({low}..{high})"
        raise DataError(msg)
    setattr(metric, "long_value" if bits == 64 else "int_value", value & ((1 << bits) - 1))


def number(metric: Message, datatype: int | None = None) -> float:
    """The metric's value as a float; booleans are 0.0 and 1.0, NaN for null and for what is no single number.

    Parameters
    ----------
    metric
        A `Metric`.
    datatype
        Its datatype as its birth announced it, for data messages, which leave it out; None = the metric's own.

    Notes
    -----
    Edge nodes differ in how they widen a negative int8 or int16: some send the two's complement of the type's own width,
    some of all 32 bits. Cutting to the type's width first reads both.

    Examples
    --------
    >>> number(Metric(int_value=0xFFFFFFFE), DataType.INT16), number(Metric(int_value=0xFFFE), DataType.INT16)
    (-2.0, -2.0)
    >>> number(Metric(is_null=True))
    nan
    """
    source: Any = metric
    field = source.WhichOneof("value")
    if source.is_null or field is None or field not in VALUE_FIELDS[:-1]:
        return float("nan")
    value = getattr(source, field)
    bits = SIGNED_BITS.get(source.datatype if datatype is None else datatype)
    if bits is not None and field in ("int_value", "long_value"):
        value &= (1 << bits) - 1
        value -= (value >> (bits - 1)) << bits
    return float(value)
