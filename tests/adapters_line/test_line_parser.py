"""Bytes to rows: the compiled scanner and the complete parser give the same, whatever is in the bytes."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iiot_dask_adapters.common.table import Table
from iiot_dask_adapters.common.tags import Tags
from iiot_dask_adapters.common.template import Template
from iiot_dask_adapters.line.parser import HOLES, Parser

from iiot_dask.core.errors import ConfigError
from iiot_dask.core.quality import Quality

CORPUS = Path(__file__).with_name("corpus.txt").read_bytes()
NOW = 1_764_064_123_456_789_012


def new_parser(template="{measurement}/{tags}/{field}", tags_max=1_000_000):
    tags = Tags((), tags_max, "x")
    return Parser(Template(template, "tag", fixed=HOLES), tags, tags_max), tags, []


def seen(body, unit_ns=1, compiled=True, parser=None):
    """(rows by tag name, lines, texts, faults) of one body."""
    parser, tags, names = parser or new_parser()
    parsed = parser.parse(body, "db", unit_ns, NOW, compiled=compiled)
    names += [info.tag for info in tags.fresh()]
    rows = parsed.rows
    bits = rows.value.view(np.int64).tolist()
    listed = list(
        zip([names[t] for t in rows.tag.tolist()], rows.time.tolist(), bits, rows.quality.tolist(), strict=True)
    )
    return (
        listed,
        parsed.lines,
        parsed.texts,
        sorted((f.line, f.reason, f.malformed) for f in parsed.faults),
        parsed.faulty,
    )


def both(body, unit_ns=1):
    fast, slow = seen(body, unit_ns), seen(body, unit_ns, compiled=False)
    assert fast == slow
    return fast


def test_a_telegraf_corpus_is_read_whole():
    rows, lines, texts, faults, _ = both(CORPUS)
    assert faults == []
    assert (lines, texts) == (18, 5)
    values = {(tag, time): np.int64(bits).view(np.float64) for tag, time, bits, _ in rows}
    at = 1_764_064_000_000_000_000
    assert values["cpu/cpu=cpu0/host=edge-1/usage_user", at] == 3.0060120240481345
    assert values["disk/device=sda1/fstype=ext4/host=edge-1/mode=rw/path=%2F/total", at] == 52710469632
    assert values["modbus/host=edge-1/name=press line 7/slave_id=1/type=holding_register/running", at + 1] == 1
    assert values["opcua/host=edge-1/id=ns=2;s=Line7.Speed/speed", at + 2] == 1480.5
    assert values["messung/anlage=Kühlturm,2/ort=Zürich/größe gesamt", at + 6] == 1.25
    assert values["point/host=a/g", -1] == 5e-324
    replaced = [row for row in rows if row[3] == Quality.UNCERTAIN_TIME_REPLACED]
    assert [(row[0], row[1]) for row in replaced] == [
        ("mqtt_consumer/host=edge-1/topic=factory%2Fpress%2F1/value", NOW)
    ]


def test_the_same_bytes_cut_at_every_position():
    for cut in range(len(CORPUS)):
        # A few lines before the cut are enough: what comes earlier was cut earlier.
        both(CORPUS[max(0, cut - 300) : cut])


def test_a_parser_that_remembers_gives_the_same():
    remembers = new_parser()
    first = seen(CORPUS, parser=remembers)
    assert seen(CORPUS, parser=remembers) == first
    assert seen(CORPUS[200:] + b"\n" + CORPUS, parser=remembers)[0][-len(first[0]) :] == first[0]
    assert seen(CORPUS, parser=remembers, compiled=False) == first


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"cpu", "missing fields"),
        (b"cpu ", "missing fields"),
        (b",host=a v=1", "missing measurement"),
        (b"cpu,host v=1", "missing tag value"),
        (b"cpu,host= v=1", "missing tag value"),
        (b"cpu,=a v=1", "missing tag key"),
        (b"cpu,host=a=b v=1", "invalid tag format"),
        (b"cpu,a=1,a=2 v=1", "duplicate tags"),
        (b"cpu v=", "missing field value"),
        (b"cpu =1", "missing field key"),
        (b"cpu v=1,", "missing field key"),
        (b"cpu v", "invalid field format"),
        (b"cpu v=abc", "invalid number"),
        (b"cpu v=tru", "invalid boolean"),
        (b"cpu v=1.5i", "invalid number"),
        (b"cpu v=NaN", "invalid number"),
        (b"cpu v=+1", "invalid number"),
        (b"cpu v=9223372036854775808i", "unable to parse integer 9223372036854775808i: value out of range"),
        (b"cpu v=-1u", "unable to parse integer -1u: value out of range"),
        (b"cpu v=1e999", "unable to parse float 1e999: value out of range"),
        (b'cpu v="x', "unbalanced quotes"),
        (b'cpu v="x"y', "invalid field format"),
        (b"cpu v=1 12a", "bad timestamp"),
        (b"cpu v=1 1 2", "bad timestamp"),
        (b"cpu v=1 9223372036854775807", "time outside range -9223372036854775806 - 9223372036854775806"),
        (b"cp\xff v=1", "no UTF-8 in b'cp\\xff'"),
    ],
)
def test_a_faulty_line_is_named_and_costs_no_other(line, reason):
    rows, _, _, faults, faulty = both(
        b"a v=1 1\n" + line + b"\nb v=2 2" if b'"x' not in line[-3:] else b"a v=1 1\n" + line
    )
    assert [why for _, why, _ in faults] == [reason]
    assert faulty == 1
    assert rows[0][:2] == ("a/v", 1)


@pytest.mark.parametrize(
    ("unit_ns", "given", "ns"),
    [
        (1, 5, 5),
        (10**3, 5, 5000),
        (10**6, -5, -5 * 10**6),
        (10**9, 1_764_064_000, 1_764_064_000 * 10**9),
        (3600 * 10**9, 3, 10_800 * 10**9),
    ],
)
def test_precisions(unit_ns, given, ns):
    assert both(b"m f=1 %d" % given, unit_ns)[0][0][1] == ns
    # A line without a time gets the receive time, cut to the unit.
    assert both(b"m f=1", unit_ns)[0][0][1] == NOW // unit_ns * unit_ns


def test_names_that_differ_stay_different():
    rows = both(b"m,a=x/y f=1 1\nm,a=x f=1 1\nm,a=x%2Fy f=1 1\nm,a=.. f=1 1\nm,b=1,a=x/y f=1 1\nm,a=x/y,b=1 f=1 2\n")[0]
    assert [row[0] for row in rows] == [
        "m/a=x%2Fy/f", "m/a=x/f", "m/a=x%252Fy/f", "m/a=%2E./f", "m/a=x%2Fy/b=1/f", "m/a=x%2Fy/b=1/f",
    ]  # fmt: skip


def test_templates():
    parser = new_parser("{db}/{host}/{measurement}-{field}")
    rows, _, _, faults, _ = seen(b"cpu,host=a,x=1 load=1 1\ncpu load=2 2", parser=parser)
    assert [row[0] for row in rows] == ["db/a/cpu-load"]
    assert [why for _, why, _ in faults] == [
        "no 'host', which the tag template '{db}/{host}/{measurement}-{field}' needs"
    ]
    for wrong in ("plain", "{}/x"):
        with pytest.raises(ConfigError, match=r"options\.tag"):
            Template(wrong, "options.tag", fixed=HOLES)


def test_the_guard_on_the_number_of_tags():
    body = b"\n".join(b"m,n=%d f=1 1" % k for k in range(10))
    for compiled in (True, False):
        rows, lines, _, faults, faulty = seen(body, parser=new_parser(tags_max=4), compiled=compiled)
        assert (len(rows), lines, faulty) == (4, 10, 6)
        assert all("tags_max" in why for _, why, malformed in faults if not malformed)


def test_many_fields_many_series_long_names():
    wide = b"m " + b",".join(b"f%d=%d" % (k, k) for k in range(140_000)) + b" 1"
    assert len(both(wide)[0]) == 140_000
    many = b"\n".join(b"m,n=%d f=%d,g=2 1" % (k, k) for k in range(5000))
    assert len(both(many)[0]) == 10_000
    long = b"m,n=" + b"x" * 200_000 + b" f=1 1\nm f=1 2"
    rows, _, _, faults, _ = both(long)
    assert [row[0] for row in rows] == ["m/f"]
    assert "512" in faults[0][1]


def test_more_left_lines_than_one_pass_holds():
    body = b"\n".join(b" m f=%d %d" % (k, k) if k % 2 else b"m f=%d %d" % (k, k) for k in range(12_000))
    rows = both(body)[0]
    assert [row[1] for row in rows] == list(range(12_000))


PIECES = st.sampled_from(
    [b"cpu", b",", b"=", b" ", b"\n", b"\\", b'"', b"host", b"a", b"1", b"1.5", b"-2e3", b"7i", b"8u", b"t", b"false", b"\r", b"\t",
     b"#", b"\\ ", b"\\,", b"1764064000000000000", b'"te xt"', "ü".encode(), b"\xff", b"\0", b".", b"e5", b"cpu,host=a load=1 7\n"]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES, max_size=30).map(b"".join))
def test_fuzz_of_tokens(body):
    both(body)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_fuzz_of_bytes(body):
    both(body)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20), st.integers(-(2**62), 2**62)
)
def test_every_float_comes_out_as_it_went_in(values, time):
    body = b"\n".join(f"m f={value!r} {time}".encode() for value in values)
    rows = both(body)[0]
    assert [np.int64(row[2]).view(np.float64) for row in rows] == values
    assert {row[1] for row in rows} == {time}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, len(CORPUS) - 1), max_size=6), st.lists(st.integers(0, 255), min_size=6, max_size=6))
def test_a_damaged_corpus(places, bytes_):
    body = bytearray(CORPUS)
    for place, byte in zip(places, bytes_, strict=False):
        body[place] = byte
    both(bytes(body))


def test_a_table_finds_what_it_holds_after_it_grew():
    rng = np.random.default_rng(5)
    texts = [rng.integers(0, 256, rng.integers(1, 40), dtype=np.uint8).tobytes() + b"%d" % k for k in range(5000)]
    table = Table(10**6)
    first = [table.number(text, k % 3) for k, text in enumerate(texts)]
    assert first == list(range(5000))
    assert [table.number(text, k % 3) for k, text in enumerate(texts)] == first
    assert [table.text(k) for k in range(5000)] == texts
