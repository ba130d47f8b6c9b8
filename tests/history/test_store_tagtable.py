from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iiot_dask.core.errors import CapacityError, ChecksumError, ConfigError, DataError, UnknownTagError, VersionError
from iiot_dask.core.tags import check_tag, matches
from iiot_dask.history import delta
from iiot_dask.history.globs import first_illegal, matching
from iiot_dask.history.layout import FORMAT
from iiot_dask.history.store import Store
from iiot_dask.history.tagtable import TABLE_NAME, TagTable


def test_put_is_whole_and_replaces(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("a/b", b"one")
    store.put("a/b", b"second")
    assert store.get("a/b").to_pybytes() == b"second"
    assert store.get("a/b", -3).to_pybytes() == b"ond"
    assert store.get("a/b", 1, 2).to_pybytes() == b"ec"
    assert [f.path for f in store.list()] == ["a/b"]
    store.delete("a/b")
    store.delete("a/b")
    with pytest.raises(DataError, match="a/b"):
        store.get("a/b")


def test_reading_beyond_the_end_is_an_error(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("f", b"12345")
    for start, length in ((-9, None), (3, 9)):
        with pytest.raises(DataError, match="cut short"):
            store.get("f", start, length)
    store.check_size("f", 5)
    with pytest.raises(DataError, match="5 bytes; 6"):
        store.check_size("f", 6)


def test_a_failed_put_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.put("f", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CapacityError, match="No space left"):
        store.put("f", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert store.get("f").to_pybytes() == b"old"


def test_private_folders_are_not_listed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.child("_tags").put("x", b"1")
    store.put("day=1/y", b"1")
    assert [f.path for f in store.list()] == ["day=1/y"]


@pytest.mark.parametrize("url", ["", "a\0b"])
def test_no_place_is_an_error(url: str) -> None:
    with pytest.raises(ConfigError, match="empty or holds a NUL"):
        Store(url)


def test_ids_are_dense_stable_and_shared(tmp_path: Path) -> None:
    one, two = TagTable(Store(tmp_path)), TagTable(Store(tmp_path))
    assert one.ensure(["x", "y", "x"]).tolist() == [0, 1, 0]
    assert two.ensure(["z", "y"]).tolist() == [2, 1]
    assert one.ensure(["w", "z"]).tolist() == [3, 2]
    assert TagTable(Store(tmp_path)).names() == ["x", "y", "z", "w"]
    assert one.ensure([]).tolist() == []
    assert one.series(np.array([3, 0])).to_list() == ["w", "x"]
    with pytest.raises(UnknownTagError, match="'nope'"):
        one.ids_of(["x", "nope"])
    with pytest.raises(DataError, match="tag id 9 has no name"):
        one.series(np.array([9]))


def test_globs(tmp_path: Path) -> None:
    tags = TagTable(Store(tmp_path))
    tags.ensure(["a/x", "a/y/z", "b", "A/x"])
    assert tags.ids("a/*").tolist() == [0, 1]
    assert tags.ids(["b", "a/?"]).tolist() == [0, 2]
    assert tags.ids("nothing").tolist() == []
    assert tags.ids([]).tolist() == []


@pytest.mark.parametrize("name", ["", "a//b", "../x", "a/../b", "a\0b", "a\nb", "x" * 513, "\ud800"])
def test_a_hostile_name_numbers_nothing(tmp_path: Path, name: str) -> None:
    tags = TagTable(Store(tmp_path))
    with pytest.raises(ConfigError):
        tags.ensure(["fine", name])
    assert TagTable(Store(tmp_path)).names() == []


def test_many_writers_agree(tmp_path: Path) -> None:
    tables = [TagTable(Store(tmp_path)) for _ in range(4)]
    got: dict[int, dict[str, int]] = {}

    def work(k: int) -> None:
        names = [f"n{(7 * i + 3 * k) % 40}" for i in range(60)]
        got[k] = {}
        for a in range(0, 60, 5):
            part = names[a : a + 5]
            got[k].update(zip(part, tables[k].ensure(part).tolist(), strict=True))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = TagTable(Store(tmp_path)).names()
    assert len(names) == len(set(names)) == 40
    for mine in got.values():
        assert all(names[i] == name for name, i in mine.items())
    assert len(got) == 4


CHILD = """
import sys
from iiot_dask.history.store import Store
from iiot_dask.history.tagtable import TagTable
tags = TagTable(Store(sys.argv[1]))
for i in range(10):
    tags.ensure([f"p{sys.argv[2]}-{i}", f"shared-{i}"])
"""


def test_many_processes_agree(tmp_path: Path) -> None:
    children = [subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), str(k)]) for k in range(2)]
    assert [child.wait(120) for child in children] == [0, 0]
    names = TagTable(Store(tmp_path)).names()
    assert len(names) == len(set(names)) == 30


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    TagTable(Store(tmp_path)).ensure(["a", "b"])
    [file] = tmp_path.glob("names-*.parquet")
    whole = bytearray(file.read_bytes())
    for at in range(0, len(whole), 13):
        whole[at] ^= 4
        file.write_bytes(whole)
        whole[at] ^= 4
        with pytest.raises(ChecksumError, match="names-0-2"):
            TagTable(Store(tmp_path))
    file.unlink()
    with pytest.raises(DataError, match="names-0-2"):
        TagTable(Store(tmp_path))


def test_a_newer_table_is_refused_in_one_sentence(tmp_path: Path) -> None:
    TagTable(Store(tmp_path))
    log = delta.Log(Store(tmp_path), TABLE_NAME, FORMAT + 5, delta.pa.schema([("a", "int64")]), ())
    assert log.version == 0
    newer = tmp_path / "newer"
    delta.Log(Store(newer), TABLE_NAME, FORMAT + 1, delta.pa.schema([("a", delta.pa.int64())]), ())
    with pytest.raises(VersionError, match=rf"format {FORMAT + 1}; this program reads up to {FORMAT}"):
        TagTable(Store(newer))


def test_another_table_is_refused(tmp_path: Path) -> None:
    from iiot_dask.history import History

    TagTable(Store(tmp_path))
    with pytest.raises(ConfigError, match=r"is the Delta table 'iiot_dask.tags'"):
        History(tmp_path)


GLOB_NAMES = ["a", "a/b", "a/b/c", "x[1]", "x1", "ü/☃", "a+b", "a.b", "^a$", "A", "a*", "long" * 30]
GLOBS = st.one_of(
    st.sampled_from(
        ["*", "a*", "*b", "a/?", "?", "*/*", "x[1]", "x[[]1]", "[!a]*", "*[0-9]", "a.b", "a+*", "^a?", "", "ü/?"]
    ),
    st.text("ab*?[]!x1/.+^$ü-\\", max_size=6),
)


@given(st.lists(GLOBS, max_size=3))
def test_globs_over_columns_select_what_fnmatch_does(globs) -> None:
    assert matching(pl.Series(GLOB_NAMES), globs).tolist() == matches(GLOB_NAMES, globs).tolist()


@given(st.text(st.sampled_from("a./\x00\x1f\x7f\x80 ü"), max_size=6))
def test_names_in_columns_are_judged_as_one_by_one(name) -> None:
    try:
        check_tag(name)
        legal = True
    except ConfigError:
        legal = False
    assert (first_illegal(pl.Series(["fine", name], dtype=pl.String)) is None) == legal


def test_a_million_tags_are_numbered_in_one_go(tmp_path: Path) -> None:
    import pyarrow as pa

    names = pa.array([f"site{i % 7}/dev{i}" for i in range(200_000)])
    tags = TagTable(Store(tmp_path))
    assert np.array_equal(tags.ensure(names), np.arange(200_000))
    again = TagTable(Store(tmp_path))
    assert again.ids_of(["site6/dev6", "site0/dev7"]).tolist() == [6, 7]
    assert again.series(np.array([5, 199_999])).to_list() == ["site5/dev5", f"site{199_999 % 7}/dev199999"]
    assert len(again.ids("site3/*")) == len(range(3, 200_000, 7))
    assert len(list(tmp_path.glob("names-*.parquet"))) == 1


def test_a_lone_surrogate_is_no_tag(tmp_path: Path) -> None:
    tags = TagTable(Store(tmp_path))
    with pytest.raises(ConfigError, match="surrogate"):
        tags.ensure(["a", "\ud800"])
    assert tags.ids("\ud800").tolist() == []
