"""Blocks: within limits, whole values, every point once; taken apart and joined again. And when they are read."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from iiot_dask_adapters.modbus.plan import Limits, merge, rejoin, span, split
from iiot_dask_adapters.modbus.registers import Layout, Point
from iiot_dask_adapters.modbus.schedule import Backoff, Group, Unit, spread

from iiot_dask.core.errors import ConfigError
from iiot_dask.core.quality import Quality

SHAPES = [
    Layout("uint16"),
    Layout("float32", "cdab", 2),
    Layout("float64", "abcd", 4),
    Layout("string", "abcd", 20),
    Layout("bool", low=3, bits=1),
]


def point(tag, start, how=SHAPES[0], unit=1, table="holding", **extra):
    return Point(tag, unit, table, start, how, **extra)


@st.composite
def points(draw):
    rows = draw(
        st.lists(
            st.tuples(st.integers(0, 400), st.integers(0, 4), st.integers(1, 2), st.booleans()), min_size=1, max_size=60
        )
    )
    return [
        point(tag, start, Layout("bool") if coil else SHAPES[shape], unit, "coil" if coil else "holding")
        for tag, (start, shape, unit, coil) in enumerate(rows)
    ]


limits = st.builds(Limits, words=st.integers(20, 125), bits=st.integers(1, 300), gap=st.integers(0, 40))


@given(points(), limits)
def test_every_block_is_within_limits_and_every_point_whole_in_one(all_points, limit):
    blocks = merge(all_points, limit)
    assert sorted(p.tag for block in blocks for p in block.points) == [p.tag for p in all_points]
    for block in blocks:
        assert 1 <= block.count <= limit.of(block.table)
        covered = np.zeros(block.count, bool)
        for p in block.points:
            assert (p.unit, p.table) == (block.unit, block.table)
            assert block.start <= p.start
            assert p.stop <= block.start + block.count
            covered[p.start - block.start : p.stop - block.start] = True
        # No run of unused registers is longer than the gap allowed.
        unused = "".join("x" if c else "." for c in covered)
        assert max(map(len, unused.split("x"))) <= limit.gap


@given(points(), limits)
def test_taking_apart_and_joining_keeps_every_point(all_points, limit):
    for block in merge(all_points, limit):
        todo, single = [block], []
        while todo:
            part = todo.pop()
            if len(part.points) == 1:
                single.append(part)
            else:
                todo += split(part)
        assert sorted(p.tag for part in single for p in part.points) == sorted(p.tag for p in block.points)
        joined = rejoin(single, limit)
        assert sorted(p.tag for part in joined for p in part.points) == sorted(p.tag for p in block.points)
        for part in joined:
            assert part.count <= limit.of(part.table)
            covered = {a for p in part.points for a in range(p.start, p.stop)}
            assert len(covered) == part.count  # nothing that was not proven is read along


def test_200_readings_in_two_requests():
    assert len(merge([point(i, i) for i in range(200)], Limits())) == 2


def test_a_single_point_can_not_be_split():
    with pytest.raises(ValueError, match="one point"):
        split(span([point(0, 5)]))


@pytest.mark.parametrize("wrong", [{"words": 126}, {"words": 0}, {"bits": 2001}, {"gap": -1}])
def test_limits_beyond_the_specification(wrong):
    with pytest.raises(ConfigError):
        Limits(**wrong)


def test_a_block_decodes_scales_and_flags():
    how = Layout("int16")
    block = span([
        point(0, 10, how, scale=0.1, offset=-5.0), point(1, 11, how, invalid=-32768.0), point(2, 12, Layout("bcd")),
        point(3, 13, Layout("float32", "abcd", 2), scale=1e308), point(4, 12, Layout("bool", low=0, bits=1)),
    ])  # fmt: skip
    data = np.array([100, 0x8000, 0x00A1, *np.array([1e30], ">f4").view(">u2")], np.uint16)
    values, quality = block.decode(data)
    by_tag = dict(zip(block.tags.tolist(), zip(values.tolist(), quality.tolist(), strict=True), strict=True))
    assert by_tag[0] == (5.0, 0)
    assert [by_tag[t][1] for t in (1, 2, 3)] == [Quality.BAD_NO_VALUE, Quality.BAD_TYPE, Quality.BAD_RANGE]
    assert all(np.isnan(by_tag[t][0]) for t in (1, 2, 3))
    assert by_tag[4] == (1.0, 0)


def test_scans_stay_on_their_grid_and_missed_ones_are_counted():
    group = Group(1, 100, (point(0, 0),), Limits(), due_ns=50)
    assert [group.take(now) for now in (0, 50, 60, 155, 380)] == [False, True, False, True, True]
    assert (group.due_ns, group.overruns) == (450, 1)
    assert group.take(2000, counting=False)
    assert (group.due_ns, group.overruns) == (2050, 1)


def test_phases_are_spread():
    groups = [Group(1, 1000, (point(0, 0),), Limits()) for _ in range(10)]
    spread(groups, 5000)
    due = sorted(g.due_ns for g in groups)
    assert due[0] == 5000
    assert due[-1] < 6000
    assert min(np.diff(due)) > 30


def test_a_refused_point_is_asked_less_and_less():
    group = Group(1, 100, (point(0, 0), point(1, 1)), Limits())
    (block,) = group.blocks
    good, bad = split(block)
    group.adopt(block, [good], [bad], now_ns=0)
    asked = []
    for now in range(100, 2000, 100):
        if bad in group.due_blocks(now):
            asked.append(now)
            group.refuse(1, now)
    assert asked == [100, 300, 700, 1500]
    group.accept(1, 40_000_000_000)
    assert [b.count for b in group.blocks] == [2]


def test_back_off_doubles_to_its_cap_with_jitter():
    delays = [Backoff(100, 1000, np.random.default_rng(seed)) for seed in range(50)]
    first, later = [b.next() for b in delays], [[b.next() for _ in range(6)][-1] for b in delays]
    assert all(80 <= d <= 120 for d in first)
    assert all(800 <= d <= 1200 for d in later)
    assert len(set(first)) > 20


def test_a_unit_goes_down_once_and_comes_back():
    unit = Unit(1, ("d",), [Group(1, 10, (point(0, 0),), Limits())], Backoff(100, 1000, np.random.default_rng(0)))
    assert [unit.fail(0), unit.fail(200)] == [True, False]
    assert not unit.ready(unit.retry_ns - 1)
    assert unit.ready(unit.retry_ns)
    assert [unit.answer(), unit.answer()] == [True, False]
    assert [unit.garble(0), unit.garble(0), unit.garble(0), unit.garble(0)] == [False, False, True, False]
