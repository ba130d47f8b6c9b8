"""Batches as strangers send them: every column type, nulls, dictionaries that grow, what is refused."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iiot_dask_adapters.common.tags import Tags
from iiot_dask_adapters.flight.columns import Columns, Memory, check_schema
from iiot_dask_adapters.flight.inbox import streams_of

from iiot_dask.core.errors import LocalAdapterError, SchemaError


def seen(batches, memory=None, tags_max=10**6):
    """(rows by tag name, refused) of batches through one session."""
    tags = Tags((), tags_max, "edge")
    columns = Columns(tags)
    out, refused, names = [], {}, []
    for batch in batches:
        check_schema(batch.schema)
        rows, left = columns.rows(batch, 9, memory)
        names += [info.tag for info in tags.fresh()]
        for why, count in left.items():
            refused[why] = refused.get(why, 0) + count
        out += zip(
            [names[t] for t in rows.tag.tolist()],
            rows.time.tolist(),
            rows.value.tolist(),
            rows.quality.tolist(),
            strict=True,
        )
    return out, refused


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int64(), pa.large_string()),
    ],
    ids=str,
)
@pytest.mark.parametrize("sliced", [False, True])
def test_tags_as_text_and_as_dictionaries(kind, sliced):
    tag = (
        pa.array(["x", "a/t", "a/p", "a/t", "x", "ü/ß"]).cast(kind)
        if not pa.types.is_dictionary(kind)
        else (pa.array(["x", "a/t", "a/p", "a/t", "x", "ü/ß"]).cast(kind.value_type).dictionary_encode().cast(kind))
    )
    batch = pa.record_batch({"tag": tag, "time": pa.array(range(6)), "value": pa.array(np.arange(6.0))})
    batch = batch.slice(1, 4) if sliced else batch
    rows, refused = seen([batch, batch])
    want = ["a/t", "a/p", "a/t", "x"] if sliced else ["x", "a/t", "a/p", "a/t", "x", "ü/ß"]
    assert [row[0] for row in rows] == 2 * want
    assert [row[2] for row in rows] == 2 * ([1.0, 2.0, 3.0, 4.0] if sliced else list(range(6)))
    assert refused == {}


@pytest.mark.parametrize(
    ("kind", "unit_ns"),
    [
        (pa.timestamp("s"), 10**9),
        (pa.timestamp("ms", "UTC"), 10**6),
        (pa.timestamp("us"), 10**3),
        (pa.timestamp("ns", "Europe/Berlin"), 1),
        (pa.int64(), 1),
    ],
    ids=str,
)
def test_times(kind, unit_ns):
    batch = pa.record_batch({"tag": ["a", "a"], "time": pa.array([5, -5]).cast(kind), "value": [1.0, 2.0]})
    assert [row[1] for row in seen([batch])[0]] == [5 * unit_ns, -5 * unit_ns]


@pytest.mark.parametrize(
    "kind",
    [pa.float64(), pa.float32(), pa.float16(), pa.int8(), pa.uint8(), pa.int32(), pa.int64(), pa.uint64(), pa.bool_()],
    ids=str,
)
def test_values(kind):
    value = pa.array([True, False, None]) if kind == pa.bool_() else pa.array([1, 0, None], kind)
    rows, _ = seen([pa.record_batch({"tag": ["a"] * 3, "time": [1, 2, 3], "value": value})])
    assert [row[2] for row in rows[:2]] == [1.0, 0.0]
    assert np.isnan(rows[2][2])
    assert [row[3] for row in rows] == [0, 0, 141]


def test_a_large_integer_becomes_the_nearest_double():
    batch = pa.record_batch({"tag": ["a"], "time": [1], "value": pa.array([2**63 + 1], pa.uint64())})
    assert seen([batch])[0][0][2] == float(2**63)


def test_quality_and_nan():
    batch = pa.record_batch(
        {"tag": ["a"] * 3, "time": [1, 2, 3], "value": [1.0, float("nan"), float("nan")], "quality": [64, 0, 160]}
    )
    assert [row[3] for row in seen([batch])[0]] == [64, 141, 160]


def test_what_a_row_lacks_costs_that_row_only():
    batch = pa.record_batch(
        {
            "tag": ["a/t", None, "a//b", "a/t"],
            "time": pa.array([1, 2, 3, None], pa.timestamp("ns")),
            "value": [1.0, 2.0, 3.0, 4.0],
        }
    )
    rows, refused = seen([batch])
    assert [row[:2] for row in rows] == [("a/t", 1)]
    assert sorted(refused.values()) == [1, 1, 1]
    assert any("empty level" in why for why in refused)


def test_the_guard_on_the_number_of_tags():
    batch = pa.record_batch({"tag": [f"t{k}" for k in range(10)], "time": list(range(10)), "value": [0.0] * 10})
    rows, refused = seen([batch], tags_max=4)
    assert len(rows) == 4
    assert sum(refused.values()) == 6
    assert all("tags_max" in why for why in refused)


def test_a_dictionary_that_grows_or_changes():
    def batch(words, codes):
        tag = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(words, pa.string()))
        return pa.record_batch(
            {"tag": tag, "time": pa.array(codes, pa.int64()), "value": pa.array(codes, pa.float64())}
        )

    batches = [
        batch(["a", "b"], [0, 1]),
        batch(["a", "b", "c"], [2, 0]),
        batch(["c", "a"], [0, 1]),
        batch([], []),
        batch(["z"], [0]),
    ]
    with_memory = seen(batches, Memory())
    assert with_memory == seen(batches)
    assert [row[0] for row in with_memory[0]] == ["a", "b", "c", "a", "c", "a", "z"]


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"tag": pa.string(), "value": pa.float64()}, "'time' is missing"),
        ({"tag": pa.int32(), "time": pa.int64(), "value": pa.float64()}, "'tag' is int32, not text"),
        ({"tag": pa.string(), "time": pa.string(), "value": pa.float64()}, "'time' is string, not a timestamp"),
        ({"tag": pa.string(), "time": pa.int64(), "value": pa.string()}, "'value' is string, not a number"),
        ({"tag": pa.string(), "time": pa.int64(), "value": pa.float64(), "x": pa.int8()}, "'x' is unknown"),
        (
            {"tag": pa.string(), "time": pa.int64(), "value": pa.float64(), "quality": pa.float32()},
            "'quality' is float, not an integer",
        ),
    ],
)
def test_schemas_that_are_refused(schema, said):
    with pytest.raises(SchemaError, match=said):
        check_schema(pa.schema(schema))


@pytest.mark.parametrize(
    "batch",
    [
        {"tag": ["a"], "time": pa.array([2**62], pa.timestamp("s")), "value": [1.0]},
        {"tag": ["a"], "time": [1], "value": [1.0], "quality": [256]},
        {"tag": ["a"], "time": [1], "value": [1.0], "seq": [-1]},
    ],
)
def test_what_does_not_fit_is_said_not_wrapped(batch):
    with pytest.raises(SchemaError, match="does not fit"):
        seen([pa.record_batch(batch)])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=12), st.integers(-(2**62), 2**62), st.floats()), max_size=40), st.booleans())
def test_any_text_any_value(rows, coded):
    texts = pa.array([r[0] for r in rows if _utf8(r[0])], pa.string())
    rows = [r for r in rows if _utf8(r[0])]
    batch = pa.record_batch(
        {
            "tag": texts.dictionary_encode() if coded else texts,
            "time": pa.array([r[1] for r in rows], pa.int64()),
            "value": pa.array([r[2] for r in rows], pa.float64()),
        }
    )
    got, refused = seen([batch])
    assert len(got) + sum(refused.values()) == len(rows)
    wanted = dict.fromkeys(r[0] for r in rows)
    assert {row[0] for row in got} <= set(wanted)


def _utf8(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@pytest.mark.parametrize(
    "text", ["", "x", "{}", '{"version":1}', '{"version":1,"streams":3}', '{"version":2,"streams":{}}']
)
def test_a_position_of_another_is_refused(text):
    with pytest.raises(LocalAdapterError, match="position"):
        streams_of(text)
