"""Tags: numbering, ownership, durability, damage, and other processes reading while one writes."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from iiot_dask.adapter.contract import TagInfo
from iiot_dask.core.errors import (
    CapacityError,
    ChecksumError,
    ConfigError,
    DataError,
    InUseError,
    UnknownTagError,
    VersionError,
)
from iiot_dask.ingest import tagstore
from iiot_dask.ingest.catalogue import NO_TAG, Catalogue, read_catalogue

GOLDEN = Path(__file__).parents[1] / "golden" / "catalogue"
GOLDEN_TAGS = [
    TagInfo("site1/press/1/temperature", "site1/press/1", "holding:100", "°C", 10**9, "analog"),
    TagInfo("zürich/ofen", "zürich", "nsu=urn:x;s=Ofen"),
    TagInfo("cells/count", "cells", "", "", 0, "counter"),
]


class Dictionary:
    """Stands for history's: the same number for the same name for ever, with gaps."""

    def __init__(self, first=100, step=3):
        self.numbers: dict[str, int] = {}
        self.first, self.step, self.calls = first, step, 0

    def ensure(self, names):
        self.calls += 1
        for name in names:
            self.numbers.setdefault(name, self.first + self.step * len(self.numbers))
        return np.array([self.numbers[name] for name in names], np.uint32)


def infos(*names, **more):
    return [TagInfo(name, name.rpartition("/")[0] or "plant", f"holding:{i}", **more) for i, name in enumerate(names)]


def test_golden_catalogue_is_still_read(tmp_path):
    """Set ``IIOT_WRITE_GOLDEN=1`` to write the file for a new format version; a missing one fails."""
    if os.environ.get("IIOT_WRITE_GOLDEN") == "1":
        shutil.rmtree(GOLDEN, ignore_errors=True)
        with Catalogue(GOLDEN) as catalogue:
            catalogue.register("press-line", GOLDEN_TAGS)
    shutil.copy(GOLDEN / "catalogue.sqlite", tmp_path)
    with Catalogue(tmp_path) as catalogue:
        assert catalogue.version == 1
        told = [
            (i, t.tag, t.device, "press-line", t.address, t.unit, t.kind, t.period_ns)
            for i, t in enumerate(GOLDEN_TAGS)
        ]
        assert catalogue.frame().rows() == told
        catalogue.register("press-line", GOLDEN_TAGS)
        assert catalogue.version == 1


def test_a_name_that_occurs_twice_is_damage(tmp_path):
    with Catalogue(tmp_path) as catalogue:
        catalogue.register("a", infos("x"))
        row = (1, *catalogue._store._db.execute("SELECT * FROM tags").fetchone()[1:])
        catalogue._store.put([row], version=2, count=2, total=0)
    with pytest.raises(ChecksumError):
        Catalogue(tmp_path)


def test_numbers_are_dense_and_stay(tmp_path):
    with Catalogue(tmp_path) as catalogue:
        assert catalogue.register("a", infos("x/1", "x/2")).tolist() == [0, 1]
        assert catalogue.register("a", infos("x/2", "x/3", "x/1")).tolist() == [1, 2, 0]
        assert catalogue.names() == ["x/1", "x/2", "x/3"]
    with Catalogue(tmp_path) as catalogue:
        assert len(catalogue) == 3
        assert catalogue.register("b", infos("y", "x/3")).tolist() == [3, 2]
        assert catalogue.ids(["y", "x/1"]).tolist() == [3, 0]
        assert catalogue.ids(pa.array(["x/2"])).tolist() == [1]
        assert catalogue.ids([]).tolist() == []


def test_numbers_of_history_may_have_gaps(tmp_path):
    numbers = Dictionary()
    with Catalogue(tmp_path, numbers.ensure) as catalogue:
        assert catalogue.register("a", infos("p", "q", "r")).tolist() == [100, 103, 106]
        assert catalogue.name(103) == "q"
        assert catalogue.names() == ["p", "q", "r"]
        for wrong in (0, 101, 107):
            with pytest.raises(UnknownTagError, match=f"tag number {wrong} is not in the catalogue of 3 tags"):
                catalogue.name(wrong)
    numbers.numbers["elsewhere"] = 50
    with Catalogue(tmp_path, numbers.ensure) as catalogue:
        assert catalogue.register("a", infos("elsewhere")).tolist() == [50]
        assert catalogue.names() == ["elsewhere", "p", "q", "r"]
        assert catalogue.frame()["id"].to_list() == [50, 100, 103, 106]


def test_frame_holds_what_adapters_said(tmp_path):
    told = [
        TagInfo("a/t", "a", "ns=2;s=T", unit="°C", period_ns=10**9, kind="analog"),
        TagInfo("a/n", "a", "", unit=None, period_ns=None, kind=None),
    ]
    with Catalogue(tmp_path) as catalogue:
        catalogue.register("plc", told)
        frame = catalogue.frame()
    assert frame.schema == {
        "id": pl.UInt32, "tag": pl.String, "device": pl.String, "adapter": pl.String, "address": pl.String,
        "unit": pl.String, "kind": pl.String, "period_ns": pl.Int64,
    }  # fmt: skip
    assert frame.rows() == [
        (0, "a/t", "a", "plc", "ns=2;s=T", "°C", "analog", 10**9),
        (1, "a/n", "a", "plc", "", None, None, None),
    ]
    assert read_catalogue(tmp_path).equals(frame)
    assert read_catalogue(tmp_path / "nowhere").schema == frame.schema


def test_only_changes_touch_the_disk_and_the_version(tmp_path, monkeypatch):
    with Catalogue(tmp_path) as catalogue:
        catalogue.register("a", infos("x", "y"))
        puts = []
        real = catalogue._store.put
        monkeypatch.setattr(catalogue._store, "put", lambda rows, **more: (puts.append(rows), real(rows, **more)))
        assert catalogue.version == 1
        catalogue.register("a", infos("x", "y"))
        assert (catalogue.version, puts) == (1, [])
        catalogue.register("a", infos("x", "y", unit="bar"))
        catalogue.register("a", [TagInfo("x", "moved", "holding:0", unit="bar")])
        assert catalogue.version == 3
        assert [len(rows) for rows in puts] == [2, 1]
    with Catalogue(tmp_path) as catalogue:
        assert catalogue.version == 3
        assert catalogue.frame()["device"].to_list() == ["moved", "plant"]


@pytest.mark.parametrize("field", ["device", "address", "unit", "kind", "period_ns"])
def test_every_field_takes_part_in_the_fingerprint(tmp_path, field):
    base = {"device": "d", "address": "1", "unit": None, "kind": "analog", "period_ns": None}
    other = {"device": "e", "address": "", "unit": "", "kind": None, "period_ns": 0}
    with Catalogue(tmp_path) as catalogue:
        catalogue.register("a", [TagInfo("x", **base)])
        catalogue.register("a", [TagInfo("x", **{**base, field: other[field]})])
        assert catalogue.version == 2
        assert catalogue.frame()[field][0] == other[field]


def test_a_tag_announced_twice_at_once_is_one_tag(tmp_path):
    with Catalogue(tmp_path) as catalogue:
        ids = catalogue.register("a", [TagInfo("x", "d", "1"), TagInfo("y", "d", "2"), TagInfo("x", "d", "3")])
        assert ids.tolist() == [0, 1, 0]
        assert catalogue.frame()["address"].to_list() == ["3", "2"]


def test_another_adapters_tag_is_refused_while_its_owner_runs(tmp_path):
    with Catalogue(tmp_path) as catalogue:
        catalogue.register("first", infos("x", "y"))
        answer = catalogue.enrol("second", infos("z", "y"))
        assert answer.ids.tolist() == [2, NO_TAG]
        assert answer.refused == ((1, "identity: tag 'y' of adapter 'second' is already owned by adapter 'first'"),)
        assert catalogue.frame()["adapter"].to_list() == ["first", "first", "second"]
        with pytest.raises(ConfigError, match="already owned by adapter 'first'"):
            catalogue.register("second", infos("x"))
    # A renamed adapter takes its tags over at the next start.
    with Catalogue(tmp_path) as catalogue:
        assert catalogue.register("renamed", infos("x")).tolist() == [0]
        assert catalogue.enrol("first", infos("x", "y")).ids.tolist() == [NO_TAG, 1]


def test_illegal_names_are_refused_one_by_one(tmp_path):
    bad = ["", "a//b", "x\n", "\ud800", "n" * 513]
    with Catalogue(tmp_path) as catalogue:
        answer = catalogue.enrol("a", [TagInfo(name, "d", "1") for name in [*bad, "good"]])
        assert answer.ids.tolist() == [NO_TAG] * 5 + [0]
        assert [i for i, _ in answer.refused] == [0, 1, 2, 3, 4]
        assert "has an empty level" in answer.refused[1][1]
        long = catalogue.enrol("a", [TagInfo("t", "d" * 2000, "1"), TagInfo("u", "d", "\ud800")])
        assert long.ids.tolist() == [NO_TAG, NO_TAG]
        assert "device has 2000 UTF-8 bytes; at most 1024 are allowed" in long.refused[0][1]


def test_unknown_names_are_named(tmp_path):
    with Catalogue(tmp_path) as catalogue:
        catalogue.register("a", infos("x"))
        with pytest.raises(UnknownTagError, match="tag 'nope' is not in the catalogue of 1 tags"):
            catalogue.ids(["x", "nope", "never"])
        with pytest.raises(UnknownTagError, match="'nope'"):
            catalogue.ids(pa.array(["nope"]))


@pytest.mark.parametrize("answer", [[7, 7], [0, 8], [1], [2**32 - 1, 3]])
def test_a_dictionary_that_errs_is_refused_and_nothing_changes(tmp_path, answer):
    replies = iter([np.array([0], np.uint32), np.array(answer, np.uint32)])
    with Catalogue(tmp_path, lambda _: next(replies)) as catalogue:
        catalogue.register("a", infos("x"))
        with pytest.raises(DataError, match="numbered 2 new tags with"):
            catalogue.register("a", infos("y", "z"))
        assert len(catalogue) == 1


def test_history_of_another_plant_is_refused(tmp_path):
    with Catalogue(tmp_path, Dictionary().ensure) as catalogue:
        catalogue.register("a", infos("x", "y"))
    with pytest.raises(DataError, match=r"tag 'x' is number 100 in .* and 5 in history; they do not belong together"):
        Catalogue(tmp_path, Dictionary(first=5).ensure)
    Catalogue(tmp_path, Dictionary().ensure).close()


def test_a_full_disk_changes_nothing(tmp_path):
    with Catalogue(tmp_path) as catalogue:
        catalogue.register("a", infos("x"))
        pages = catalogue._store._db.execute("PRAGMA page_count").fetchone()[0]
        catalogue._store._db.execute(f"PRAGMA max_page_count={pages}")
        with pytest.raises(CapacityError, match="database or disk is full"):
            catalogue.register("a", infos(*[f"tag/{i}" for i in range(2000)]))
        assert (len(catalogue), catalogue.version, catalogue.names()) == (1, 1, ["x"])
        catalogue._store._db.execute("PRAGMA max_page_count=100000")
        assert catalogue.register("a", infos("y")).tolist() == [1]
    with Catalogue(tmp_path) as catalogue:
        assert catalogue.names() == ["x", "y"]


def test_a_reader_that_will_not_let_go_is_in_use(tmp_path, monkeypatch):
    monkeypatch.setattr(tagstore, "BUSY_S", 0.05)
    with Catalogue(tmp_path) as catalogue:
        catalogue.register("a", infos("x"))
        other = sqlite3.connect(catalogue.path, isolation_level=None)
        other.execute("BEGIN")
        other.execute("SELECT * FROM tags").fetchall()
        with pytest.raises(InUseError, match="database is locked"):
            catalogue.register("a", infos("y"))
        other.close()
        assert catalogue.register("a", infos("y")).tolist() == [1]


def test_a_newer_file_is_refused(tmp_path):
    Catalogue(tmp_path).close()
    with sqlite3.connect(tmp_path / "catalogue.sqlite") as other:
        other.execute("PRAGMA user_version=2")
    other.close()
    with pytest.raises(VersionError, match="format version 2; this program reads up to 1"):
        Catalogue(tmp_path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    directory = tmp_path_factory.mktemp("catalogue")
    with Catalogue(directory) as catalogue:
        catalogue.register("a", infos(*[f"site{i % 3}/line/{i}" for i in range(300)], unit="C"))
        frame = catalogue.frame()
    return directory / "catalogue.sqlite", frame


@pytest.mark.parametrize("seed", range(150))
def test_one_flipped_bit_is_found_or_harmless(sound, tmp_path, seed):
    """SQLite has no checksums: 0 silent wrong answers in any seed."""
    path, frame = sound
    data = bytearray(path.read_bytes())
    bit = int(np.random.default_rng(seed).integers(0, len(data) * 8))
    data[bit // 8] ^= 1 << bit % 8
    (tmp_path / path.name).write_bytes(data)
    try:
        found = read_catalogue(tmp_path)
    except (ChecksumError, VersionError, CapacityError):
        return
    assert found.equals(frame)


def test_changed_text_and_lost_rows_are_found(sound, tmp_path):
    path, _ = sound
    for statement in (
        "UPDATE tags SET tag = 'site0/line/other' WHERE id = 5",
        "UPDATE tags SET period_ns = 5 WHERE id = 5",
        "DELETE FROM tags WHERE id = 299",
        "UPDATE meta SET value = value - 1 WHERE key = 'rows'",
        "DELETE FROM meta WHERE key = 'sum'",
    ):
        shutil.copy(path, tmp_path / path.name)
        with sqlite3.connect(tmp_path / path.name) as other:
            other.execute(statement)
        other.close()
        with pytest.raises(ChecksumError):
            Catalogue(tmp_path)


def test_with_a_dictionary_a_damaged_file_is_put_aside(tmp_path):
    numbers = Dictionary()
    with Catalogue(tmp_path, numbers.ensure) as catalogue:
        catalogue.register("a", infos("x", "y"))
    path = tmp_path / "catalogue.sqlite"
    path.write_bytes(b"not a database, " * 100)
    with Catalogue(tmp_path, numbers.ensure) as catalogue:
        assert catalogue.damaged.read_bytes().startswith(b"not a database")
        assert len(catalogue) == 0
        assert catalogue.register("a", infos("y", "x")).tolist() == [103, 100]
    path.write_bytes(b"not a database, " * 100)
    with pytest.raises(ChecksumError, match="file is not a database"):
        Catalogue(tmp_path)


def test_threads_register_and_look_up_at_once(tmp_path):
    with Catalogue(tmp_path) as catalogue:
        failed = []

        def work(k):
            try:
                for i in range(20):
                    names = [f"t{k}/{i}/{j}" for j in range(20)]
                    ids = catalogue.register(f"a{k}", infos(*names))
                    assert (catalogue.ids(names) == ids).all()
                    assert catalogue.name(int(ids[3])) == names[3]
            except Exception as error:  # noqa: BLE001 -- judged below, on the test's own thread
                failed.append(error)

        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failed == []
        frame = catalogue.frame()
        assert frame["id"].to_list() == list(range(1600))
        assert frame["tag"].n_unique() == 1600
        assert catalogue.version == 80
    with Catalogue(tmp_path) as again:
        assert again.frame().equals(frame)


REGISTER = """
import sys
from pathlib import Path
from iiot_dask.adapter.contract import TagInfo
from iiot_dask.ingest.catalogue import Catalogue

catalogue = Catalogue(Path(sys.argv[1]))
for i in range(10_000):
    first = len(catalogue)
    names = [f"t/{first + j}" for j in range(50)]
    ids = catalogue.register("a", [TagInfo(name, "t", "") for name in names])
    assert ids.tolist() == list(range(first, first + 50))
    print(first + 50, flush=True)
"""


def test_killed_while_registering(tmp_path):
    """kill -9 at random points, and other processes that read meanwhile: what `register` returned is there."""
    rng = np.random.default_rng(5)
    done = 0
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", REGISTER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(int(rng.integers(2, 12))):
            done = int(child.stdout.readline())
        assert len(read_catalogue(tmp_path)) >= done
        os.kill(child.pid, signal.SIGKILL)
        rest = [line for line in child.stdout if line.endswith("\n")]
        child.stdout.close()
        child.wait(30)
        done = int(rest[-1]) if rest else done
        frame = read_catalogue(tmp_path)
        assert len(frame) >= done
        assert frame["tag"].to_list() == [f"t/{i}" for i in range(len(frame))]
