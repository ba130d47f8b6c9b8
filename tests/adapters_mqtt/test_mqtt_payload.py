"""The compiled JSON reader against orjson and `decimal`, document by document."""

import json
import re
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import orjson
import pytest
from hypothesis import example
from hypothesis import strategies as st
from iiot_dask_adapters.mqtt import json_scan, json_shape, payload
from iiot_dask_adapters.mqtt.json_scan import Path

from iiot_dask.core.config import Topic
from iiot_dask.core.quality import Quality
from tests.adapters_mqtt.fuzz import fuzz

RECEIVED = 10**18
ABSENT = object()


def pack(documents):
    sizes = np.array([len(d) for d in documents], np.int64)
    data = np.frombuffer(b"#" + b"".join(documents) + b"#", np.uint8)
    return data, np.cumsum(sizes) - sizes + 1, sizes


def decode(documents, value="v", time="ts", unit="ms", kind="json"):
    topic = Topic(filter="f", tag="t", payload=kind, value=value, time=time, time_unit=unit)
    data, starts, sizes = pack(documents)
    return payload.decoder(topic)(data, starts, sizes, RECEIVED + np.arange(len(documents)))


def walk(whole, path):
    for level in path.split(".") if path else []:
        if isinstance(whole, dict):
            whole = whole.get(level, ABSENT)
        elif isinstance(whole, list) and level.isdigit() and int(level) < len(whole):
            whole = whole[int(level)]
        else:
            return ABSENT
    return whole


def naive(document, value, time, unit):
    """(value, time, quality, outcome) by the obvious route."""
    try:
        orjson.loads(document)
    except ValueError:
        return None, None, None, payload.MALFORMED
    whole = json.loads(document, parse_float=Decimal)
    v, t = walk(whole, value), walk(whole, time) if time else ABSENT
    if isinstance(v, str):
        try:
            v = Decimal(v) if json.dumps(json.loads(v)) and v[-1:].isdigit() else v
        except ValueError:
            return None, None, None, payload.WRONG_TYPE
    if v is ABSENT:
        return None, None, None, payload.NO_VALUE
    if isinstance(v, (dict, list, str)):
        return None, None, None, payload.WRONG_TYPE
    power = {"s": 9, "ms": 6, "us": 3, "ns": 0}[unit]
    outcome, quality = payload.SAMPLE, 0
    if isinstance(t, str):
        try:
            t = Decimal(t)
        except ArithmeticError:
            t = False
    if t is ABSENT or t is None:
        ns = None
    elif isinstance(t, (bool, list, dict)) or abs(int(Decimal(t).scaleb(power).to_integral_value())) >= 2**63:
        ns, outcome = None, payload.BAD_TIME
    else:
        ns = int(Decimal(t).scaleb(power).to_integral_value())
    if ns is None:
        ns, quality = RECEIVED, Quality.UNCERTAIN_TIME_REPLACED
    if v is None:
        quality = Quality.BAD_NO_VALUE
    return float("nan") if v is None else float(v), ns, int(quality), outcome


def agree(document, value="v", time="ts", unit="ms"):
    columns = decode([document], value, time, unit)
    want = naive(document, value, time, unit)
    assert columns.outcome[0] == want[3], (document, columns.outcome[0], want)
    if want[3] in (payload.SAMPLE, payload.BAD_TIME):
        got = (columns.value[0], int(columns.time[0]), int(columns.quality[0]))
        assert (np.isnan(got[0]) and np.isnan(want[0])) or got[0] == want[0], (document, got, want)
        assert got[1:] == want[1:3], (document, got, want)


keys = st.sampled_from(["v", "ts", "a", "0", "é", '"', "x" * 20])
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**17), 10**17),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.sampled_from(["1.5", "12", "-0", "1e5", "0x10", "01"]),
)
trees = st.recursive(
    scalars, lambda kids: st.one_of(st.lists(kids, max_size=4), st.dictionaries(keys, kids, max_size=4)), max_leaves=12
)


@fuzz(
    100,
    trees,
    st.booleans(),
    st.sampled_from(["v", "", "a.v", "a.0.v", "0", "é", "v.v"]),
    st.sampled_from(["ts", "a.ts", ""]),
)
@example({"a": {"v": 1}, "v": 2}, True, "a.v", "ts")
@example({"é": 3}, True, "é", "ts")
def test_any_document_reads_as_by_orjson(tree, ascii_only, value, time):
    agree(json.dumps(tree, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass"), value, time)


@fuzz(100, trees, st.data())
def test_any_damage_is_told_as_by_orjson(tree, data):
    document = bytearray(json.dumps(tree, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(document)))
        action = data.draw(st.sampled_from(["cut", "drop", "insert", "set"]))
        byte = data.draw(st.sampled_from(list(b'{}[],:"\\ue0123456789.-+ \x00\x1f\x7f\x80\xc0\xe2\xed\xf4\xff')))
        if action == "cut":
            del document[at:]
        elif action == "insert":
            document.insert(at, byte)
        elif at < len(document):
            if action == "drop":
                del document[at]
            else:
                document[at] = byte
    agree(bytes(document))


@fuzz(75, st.binary(max_size=12))
def test_any_bytes_are_told_as_by_orjson(document):
    agree(document, "", "")


STRICT = [
    b"", b" ", b"1 2", b"01", b"1.", b".5", b"-", b"+1", b"1e", b"1e+", b"0e0", b"-0", b"-0.0", b"1E+5", b"NaN",
    b"Infinity", b"nul", b"true", b"truex", b'"\\ud800"', b'"\\udc00"', b'"\\ud83d\\ude00"', b'"\\ud83d\\u0041"',
    b'"\x00"', b'"\x7f"', b'"\xed\xa0\x80"', b'"\xc0\x80"', b'"\xf4\x90\x80\x80"', b'"\xe2\x82\xac"', b'"\\x"', b'"\\/"',
    b"[1,]", b'{"a":1,}', b"[,1]", b'{"a"}', b'{"a":}', b"{1:2}", b"[1}", b'{"a":1]', b"\xef\xbb\xbf1", b"\x0c1", b"1\x00",
    b"1e400", b"-1e400", b"1e-400", b"1" * 309, b"1" * 400, b"0." + b"1" * 800, b'{"x":1e999,"v":1}', b"[[[[1]]]]",
    b"18446744073709551616", b"9007199254740993", b"2.2250738585072011e-308", b"4.9e-324",
    b"1.7976931348623157e308", b"1.7976931348623159e308", b'{"v":1,"v":2}', b'{"v":{"v":1},"v":3}', b'\t{ "v" :\r\n1 }\n',
]  # fmt: skip


@pytest.mark.parametrize("document", STRICT, ids=repr)
@pytest.mark.parametrize("path", ["", "v"])
def test_corner_documents(document, path):
    agree(document, path)


def test_an_exponent_beyond_every_parser_is_zero_not_a_crash():
    columns = decode([b'{"v":1e-99999999999999999999999,"ts":1e-99999999999999999999999}'])
    assert columns.samples.all()
    assert columns.value[0] == 0


def test_a_repeated_key_replaces_what_an_earlier_one_held():
    columns = decode([b'{"a":{"v":1},"a":{}}', b'{"a":{"v":1},"a":2}', b'{"a":2,"a":{"v":7}}'], "a.v")
    assert columns.outcome.tolist() == [payload.NO_VALUE, payload.NO_VALUE, payload.SAMPLE]
    assert columns.value[2] == 7


def test_nesting_is_bounded():
    deep = json_scan.DEPTH_MAX
    fine, deeper = b"[" * deep + b"]" * deep, b"[" * (deep + 1) + b"]" * (deep + 1)
    assert decode([fine, deeper, b"[" * 5_000_000], "v").outcome.tolist() == [
        payload.NO_VALUE,
        payload.MALFORMED,
        payload.MALFORMED,
    ]


def test_damage_after_both_fields_is_still_damage():
    assert decode([b'{"v":1,"ts":2', b'{"v":1,"ts":2}}', b'{"v":1,"ts":2,"x":"\xff"}']).outcome.tolist() == [1, 1, 1]


@fuzz(75, st.integers(-(2**62), 2**62), st.integers(0, 9), st.sampled_from(["s", "ms", "us", "ns"]))
def test_times_are_exact_to_the_last_nanosecond(digits, places, unit):
    text = f"{Decimal(digits).scaleb(-places):f}".encode()
    agree(b'{"v":1,"ts":' + text + b"}", unit=unit)
    agree(b'{"v":1,"ts":"' + text + b'"}', unit=unit)


DAY = 1_795_478_400_000_000_000  # 2026-11-24


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.999999999", -1),
        ("2026-11-24T00:00:00z", DAY),
        ("2026-11-24T06:00:00.123456789Z", DAY + 6 * 3600 * 10**9 + 123_456_789),
        ("2026-11-24T06:00:00.1234567899Z", DAY + 6 * 3600 * 10**9 + 123_456_789),
        ("2026-11-24 06:00:00,5+01:00", DAY + 5 * 3600 * 10**9 + 500_000_000),
        ("2026-11-24t06:00:00-0530", DAY + 41_400 * 10**9),
        ("2026-11-24T06:00:00+05", DAY + 3600 * 10**9),
        ("2024-02-29T00:00:00z", 1_709_164_800_000_000_000),
    ],
)
def test_iso_times(text, ns):
    columns = decode([b'{"v":1,"ts":"%s"}' % text.encode()], unit="iso")
    assert columns.time[0] == ns
    assert columns.quality[0] == 0


@pytest.mark.parametrize(
    "text",
    ["", "soon", "2026-02-29T00:00:00Z", "2026-13-01T00:00:00Z", "2026-11-24T24:00:00Z", "2026-11-24T06:00:60Z",
     "2026-11-24T06:00:00+24:00", "2026-11-24T06:00:00.Z", "2026-11-24T06:00:00X", "2026-11-24", "9999-01-01T00:00:00Z",
     "2026-11-24T06:00:00+1:00"],
)  # fmt: skip
def test_a_text_that_is_no_time_is_replaced_by_the_receive_time(text):
    columns = decode([b'{"v":1,"ts":"%s"}' % text.encode()], unit="iso")
    assert (columns.outcome[0], columns.time[0]) == (payload.BAD_TIME, RECEIVED)
    assert columns.quality[0] == Quality.UNCERTAIN_TIME_REPLACED


@fuzz(50, st.datetimes(datetime(1700, 1, 1), datetime(2250, 1, 1)), st.integers(-23 * 60, 23 * 60))  # noqa: DTZ001
def test_iso_times_as_by_datetime(moment, east):
    text = (
        moment.isoformat(timespec="microseconds")
        + f"{'-' if east < 0 else '+'}{abs(east) // 60:02}:{abs(east) % 60:02}"
    )
    delta = datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)
    ns = ((delta.days * 86400 + delta.seconds) * 10**6 + delta.microseconds) * 1000
    assert decode([b'{"v":1,"ts":"%s"}' % text.encode()], unit="iso").time[0] == ns


@fuzz(
    75, st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["%r", "%.17g", " %.6f\n", "%+e", "00%.25f"])
)
def test_raw_numbers_read_as_by_python(number, form):
    text = form % number
    if text.startswith("00-"):
        text = "-00" + text[3:]
    columns = decode([text.encode()], kind="raw")
    assert columns.outcome[0] == payload.SAMPLE
    assert columns.value[0] == float(text)
    assert (columns.time[0], columns.quality[0]) == (RECEIVED, Quality.UNCERTAIN_TIME_REPLACED)


def test_raw_words():
    columns = decode([b"true", b"FALSE", b"NaN"], kind="raw")
    assert columns.value[:2].tolist() == [1.0, 0.0]
    assert np.isnan(columns.value[2])
    assert columns.quality[2] == Quality.BAD_NO_VALUE
    bad = [b"", b" ", b"12,5", b"1 2", b"--1", b"+-1", b"inf", b"1e999", b"\xff", b"21.5 C", b"tru", b"."]
    assert decode(bad, kind="raw").outcome.tolist() == [payload.MALFORMED] * len(bad)


def one_by_one(documents, value, time):
    """(value, time, quality, outcome) of each, read with nothing before it whose shape it could follow."""
    rows = []
    for k, document in enumerate(documents):
        c = decode([document], value, time)
        ns = int(c.time[0]) + (k if c.time[0] == RECEIVED else 0)
        rows.append((repr(c.value[0]), ns, int(c.quality[0]), int(c.outcome[0])))
    return [row if row[3] in (payload.SAMPLE, payload.BAD_TIME) else row[3] for row in rows]


TOKEN = re.compile(rb'(?<=[:\[, ])(-?[0-9][0-9.eE+-]*|"[^"]*"|true|null)(?=[,\]} ])')
REPLACED = [b"7", b"-0", b"01", b"1.", b"1e400", b"123456789012345678901234567890", b'"12"', b'"x"', b'"\\u0041"', b'"\xff"', b"null",
            b"true", b"{}", b"[1]", b" 5", b""]  # fmt: skip


@fuzz(100, trees, st.data())
def test_documents_of_one_shape_read_as_each_alone(tree, data):
    """The first gives the shape; the others are like it but for a number, a text, a word, or a damaged byte."""
    first = json.dumps({"v": 1.5, "ts": 20, "more": tree, "n": [1, "t"]}, ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )
    documents = [first]
    tokens = [m.span() for m in TOKEN.finditer(first)]
    for _ in range(data.draw(st.integers(1, 5))):
        start, stop = data.draw(st.sampled_from(tokens)) if tokens else (0, 1)
        documents.append(first[:start] + data.draw(st.sampled_from(REPLACED)) + first[stop:])
        at = data.draw(st.integers(0, len(first) - 1))
        damaged = bytearray(first)
        damaged[at] = data.draw(st.sampled_from(list(b'{}[],:"0 .e\xff')))
        documents.append(bytes(damaged))
    value, time = (
        data.draw(st.sampled_from(["v", "more.v", "n.0", "more"])),
        data.draw(st.sampled_from(["ts", "n.1", "more.ts"])),
    )
    c = decode(documents, value, time)
    rows = zip(map(repr, c.value), c.time.tolist(), c.quality.tolist(), c.outcome.tolist(), strict=True)
    got = [row if row[3] in (payload.SAMPLE, payload.BAD_TIME) else row[3] for row in rows]
    assert got == one_by_one(documents, value, time)


def test_a_shape_is_followed_and_only_a_shape():
    """What the shape's path reads is marked by no other trace, so the marks themselves are looked at."""
    data, starts, sizes = pack([b'{"v":1.5,"ts":2}', b'{"v":-22,"ts":345}', b'{"v":1.5, "ts":2}', b'{"v":1.5,"ts":2'])
    v, t = Path.of("v"), Path.of("ts")
    marks, row = (
        np.empty((json_shape.MARKS_MAX, json_scan.MARK_COLUMNS), np.int64),
        np.empty(json_scan.COLUMNS, np.int64),
    )
    whole = (v.text, v.starts, v.index, t.text, t.starts, t.index, 6, np.empty(600, np.int64), marks, row)
    _, _, met = json_scan.document(data, starts[0], starts[0] + sizes[0], *whole)
    assert met == 2
    assert json_shape.usable(row, starts[0], marks, met)
    follows = [
        json_shape.follow(data, start, start + size, starts[0], sizes[0], marks, met, 6, row)
        for start, size in zip(starts, sizes, strict=True)
    ]
    assert [f[0] for f in follows] == [True, True, False, False]
    assert follows[1][1:] == (-22.0, 345 * 10**6)


def test_many_documents_of_one_buffer_do_not_touch_each_other():
    rng = np.random.default_rng(3)
    documents = [b'{"ts":%d,"v":%r}' % (k, float(v)) for k, v in enumerate(rng.normal(0, 1e3, 5000))]
    documents[17] = b'{"v":'
    columns = decode(documents)
    keep = np.arange(5000) != 17
    assert columns.samples.tolist() == keep.tolist()
    assert columns.value[keep].tolist() == [orjson.loads(d)["v"] for k, d in enumerate(documents) if k != 17]
    assert columns.time[keep].tolist() == (np.arange(5000)[keep] * 10**6).tolist()


def test_the_fall_back_is_rare():
    rng = np.random.default_rng(5)
    documents = [b'{"v":%r}' % float(v) for v in rng.normal(0, 1e3, 20000)]
    data, starts, sizes = pack(documents)
    rows = np.empty((20000, json_scan.COLUMNS), np.int64)
    v, t = Path.of("v"), Path.of("ts")
    json_shape.scan(
        data, starts, sizes, v.text, v.starts, v.index, t.text, t.starts, t.index, 6, rows, np.empty(20000),
        np.empty(20000, np.int64),
    )  # fmt: skip
    assert np.count_nonzero(rows[:, json_scan.STATUS] == json_scan.FALLBACK) == 0
