"""A function over a history on real Dask clusters: results, retries, errors that name the tag, cancelling."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import cloudpickle
import polars as pl
import pytest
from distributed import Client, LocalCluster
from polars.testing import assert_frame_equal
from query_shapes import HOUR, T0

from iiot_dask.core.errors import ConfigError
from iiot_dask.history import History
from iiot_dask.history.many import MapError

# Workers do not know the tests; functions of a notebook travel like this by themselves.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def client():
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
            silence_logs=50,
        ) as cluster,
        Client(cluster, set_as_default=False) as made,
    ):
        yield made  # fmt: skip


def mean(frame: pl.DataFrame) -> float:
    return frame.filter(pl.col("value").is_not_nan())["value"].mean()


def test_by_tag_on_processes(shaped: History, client) -> None:
    whole = shaped.scan().collect()
    seen: list[tuple[int, int]] = []
    found = shaped.map(mean, client=client, rows=300, progress=lambda a, b: seen.append((a, b)))
    wanted = whole.group_by("tag", maintain_order=True).agg(
        result=pl.col("value").filter(pl.col("value").is_not_nan()).mean()
    )
    assert_frame_equal(found, wanted)
    assert seen[-1][0] == seen[-1][1] == len(seen) > 1
    windows = shaped.map(
        lambda f: f.sort("time").group_by_dynamic("time", every="1h").agg(pl.len()),
        "line0/*",
        T0,
        T0 + 5 * HOUR,
        client=client,
    )
    inside = whole.filter(
        pl.col("tag").str.starts_with("line0/") & pl.col("time").to_physical().is_between(T0, T0 + 5 * HOUR - 1)
    )
    assert windows["len"].sum() == inside.height
    assert windows.columns == ["tag", "time", "len"]
    rows = shaped.map(lambda f: {"n": f.height, "top": f["quality"].max()}, client=client)
    assert rows["n"].sum() == whole.height


def test_by_time_without_a_cluster_of_ones_own(shaped: History) -> None:
    found = shaped.map(lambda f: {"n": f.height, "tags": f["tag"].n_unique()}, by="time", rows=500)
    assert found["n"].sum() == shaped.scan().select(pl.len()).collect().item()
    assert found.height > 3
    assert found["start"].is_sorted()
    assert shaped.map(mean, "nobody").is_empty()


def bad(frame: pl.DataFrame) -> int:
    if frame["tag"][0] == "line1/tag3":
        msg = "no such thing"
        raise ValueError(msg)
    return 1


def test_an_error_names_the_tag(shaped: History, client) -> None:
    with pytest.raises(
        MapError, match=r"failed on tag 'line1/tag3' \(\d+ samples\): ValueError: no such thing"
    ) as caught:
        shaped.map(bad, client=client, retries=1)
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_function_the_workers_do_not_have_is_said(shaped: History, client) -> None:
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    try:
        with pytest.raises(MapError, match="can not be loaded on a worker: ModuleNotFoundError"):
            shaped.map(mean, client=client, retries=0)
    finally:
        cloudpickle.register_pickle_by_value(sys.modules[__name__])


def test_a_task_that_fails_is_tried_again(shaped: History, client, tmp_path) -> None:
    marker = str(tmp_path / "tried")

    def flaky(frame: pl.DataFrame) -> int:
        if not Path(marker).exists():
            Path(marker).touch()
            msg = "once"
            raise OSError(msg)
        return frame.height

    found = shaped.map(flaky, client=client, retries=2)
    assert found["result"].sum() == shaped.scan().select(pl.len()).collect().item()
    Path(marker).unlink()
    with pytest.raises(MapError, match="OSError: once"):
        shaped.map(flaky, client=client, retries=0, rows=10**9)


def test_a_worker_that_dies_is_replaced(shaped: History, client, tmp_path) -> None:
    marker = str(tmp_path / "died")

    def deadly(frame: pl.DataFrame) -> int:
        if not Path(marker).exists():
            Path(marker).touch()
            os._exit(3)
        return frame.height

    found = shaped.map(deadly, client=client, rows=300)
    assert found["result"].sum() == shaped.scan().select(pl.len()).collect().item()


@pytest.mark.parametrize(
    ("change", "message"), [({"by": "day"}, "by 'day'"), ({"retries": -1}, "retries -1"), ({"rows": 0}, "rows 0")]
)
def test_arguments_that_are_none(shaped: History, change, message) -> None:
    with pytest.raises(ConfigError, match=message):
        shaped.map(mean, **change)


INTERRUPTED = """
import sys, time
from pathlib import Path
from iiot_dask.history import History

def slow(frame):
    Path(sys.argv[2]).touch()
    time.sleep(0.2)
    return 1

try:
    History(sys.argv[1]).map(slow, rows=1)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_ctrl_c_cancels(tmp_path) -> None:
    history = History(tmp_path / "history")
    n = 2000
    history.append(pl.DataFrame({"tag": [f"t{i}" for i in range(n)], "time": [T0] * n, "value": [1.0] * n}))
    marker = tmp_path / "running"
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(INTERRUPTED), history.url, str(marker)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        import time

        deadline = time.monotonic() + 60
        while not marker.exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        # 2,000 tasks of 0.2 s would take minutes.
        out, _ = process.communicate(timeout=60)
    assert out.strip() == "interrupted"
