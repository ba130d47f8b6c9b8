"""Legal tag names, and globs against fnmatch."""

import fnmatch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iiot_dask.core.errors import ConfigError
from iiot_dask.core.tags import TAG_BYTES_MAX, check_tag, matches


@pytest.mark.parametrize(
    "tag", ["a", "site1/press/1/temperature", "ü/ñ/温度", "a b/c", "...", "a/.../b", "x" * TAG_BYTES_MAX, "a:b;c=d"]
)
def test_legal(tag):
    assert check_tag(tag) == tag


@pytest.mark.parametrize(
    ("tag", "why"),
    [
        ("", "has 0 UTF-8 bytes; 1 to 512"),
        ("x" * 513, "has 513 UTF-8 bytes"),
        ("ü" * 257, "has 514 UTF-8 bytes"),
        ("a\nb", "control character"),
        ("a\x00", "control character"),
        ("a\x7fb", "control character"),
        ("/a", "empty level"),
        ("a/", "empty level"),
        ("a//b", "empty level"),
        ("a/../b", "empty level, '.' or '..'"),
        ("./a", "'.' or '..'"),
        ("\ud800", "not valid Unicode"),
    ],
)
def test_illegal_ones_say_why(tag, why):
    with pytest.raises(ConfigError, match="tag ") as caught:
        check_tag(tag)
    assert why in str(caught.value)


@given(st.text(max_size=40))
@settings(deadline=None, derandomize=True)
def test_what_is_legal_is_printable_and_has_sound_levels(text):
    try:
        check_tag(text)
    except ConfigError:
        return
    assert all(level not in {"", ".", ".."} for level in text.split("/"))
    assert text.encode().decode() == text


NAMES = ["site1/press/1/t", "site1/press/2/t", "site1/oven/1/p", "site2/press/1/t", "Site1/press/1/t", "a[1]", "a1"]
GLOBS = [
    "*",
    "site1/*",
    "*/t",
    "site?/press/*",
    "site[12]/*/1/*",
    "a[[]1]",
    "a1",
    "",
    "nothing",
    "site1/press/1/t",
    "*press*",
]


@pytest.mark.parametrize("glob", GLOBS)
def test_globs_are_fnmatch_with_case(glob):
    assert matches(NAMES, glob).tolist() == [i for i, name in enumerate(NAMES) if fnmatch.fnmatchcase(name, glob)]


def test_several_globs_are_their_union_in_order():
    assert matches(NAMES, ["a1", "*oven*", "site1/press/1/t"]).tolist() == [0, 2, 6]
    assert matches(NAMES, ["*", "a1"]).tolist() == list(range(7))
    assert matches(NAMES, []).tolist() == []
    assert matches([], "*").tolist() == []
