import numpy as np
import pytest

from iiot_dask.adapter.contract import TagInfo
from iiot_dask.core.batch import Batch
from iiot_dask.core.errors import CapacityError, ConfigError
from iiot_dask.ingest.catalogue import Catalogue
from iiot_dask.stream.window import OUT_DTYPE
from iiot_dask.taps import TAPS_MAX, Taps
from iiot_dask.work import ShardOutput

NOTHING = ShardOutput(np.empty(0), np.empty(0, OUT_DTYPE), np.empty(0, OUT_DTYPE))


def infos(*names):
    return [TagInfo(name, "a", name) for name in names]


@pytest.fixture
def catalogue(tmp_path):
    with Catalogue(tmp_path) as catalogue:
        catalogue.register("x", infos("a/one", "b/two"))
        yield catalogue


def rows(*tags):
    return Batch.of(tag=tags, time=range(len(tags)), value=[float(t) for t in tags], received=[9] * len(tags))


def test_rows_are_filtered_by_glob_and_named(catalogue):
    taps, seen = Taps(), []
    taps.stream("a/*", None, catalogue).sink(seen.append)
    taps.emit(rows(1, 0, 0), [NOTHING])
    taps.emit(rows(1), [NOTHING])
    assert len(seen) == 1
    assert seen[0].to_pydict()["tag"] == ["a/one", "a/one"]
    assert seen[0].to_pydict()["value"] == [0.0, 0.0]


def test_a_tag_that_appears_later_is_picked_up(catalogue):
    taps, seen = Taps(), []
    taps.stream("*", None, catalogue).sink(seen.append)
    ids = catalogue.register("x", infos("c/three"))
    taps.emit(rows(*ids.tolist()), [NOTHING])
    assert seen[0].to_pydict()["tag"] == ["c/three"]


def test_windows_come_with_their_mean(catalogue):
    taps, seen = Taps(), []
    taps.stream("*", "10s", catalogue).sink(seen.append)
    closed = np.zeros(1, OUT_DTYPE)
    closed["tag"], closed["count"], closed["sum"] = 1, 4, 10.0
    taps.emit(rows(0), [NOTHING, ShardOutput(np.empty(0), np.empty(0, OUT_DTYPE), closed)])
    assert seen[0].to_pydict()["tag"] == ["b/two"]
    assert seen[0].to_pydict()["mean"] == [2.5]


def test_limits_are_said(catalogue):
    taps = Taps()
    with pytest.raises(ConfigError, match="'5s' is no live window"):
        taps.stream("*", "5s", catalogue)
    for _ in range(TAPS_MAX):
        taps.stream("*", None, catalogue)
    with pytest.raises(CapacityError, match=f"at most {TAPS_MAX}"):
        taps.stream("*", None, catalogue)
