"""`iiot-dask plan-precision`: files of both shapes, people's and machines' output, and clear words about wrong input."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from iiot_dask.commands import precision
from iiot_dask.core.config import Class
from iiot_dask.core.errors import ConfigError, SchemaError

N = 3000
RNG = np.random.default_rng(80)
T = 1_764_000_000_000_000_000 + np.arange(N) * 10**9
X = 20 + np.sin(np.arange(N) / 200) + RNG.normal(0, 0.05, N)


def frame() -> pl.DataFrame:
    return pl.DataFrame({"tag": "a/1/temp", "time": pl.Series(T).cast(pl.Datetime("ns", "UTC")), "value": X})


def run(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "iiot_dask", "plan-precision", *args],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_csv_file_for_people_and_a_page(tmp_path: Path) -> None:
    frame().write_csv(tmp_path / "samples.csv")
    done = run("samples.csv", "--out", "plan.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "advised" in done.stdout
    assert 'match = "*/temp"' in done.stdout
    page = (tmp_path / "plan.html").read_text()
    assert "*/temp" in page
    assert not re.findall(r"<(?:script|link)[^>]*(?:src|href)=", page), "the page must stand without a network"


def test_a_parquet_file_for_machines(tmp_path: Path) -> None:
    frame().write_parquet(tmp_path / "samples.parquet")
    done = run("samples.parquet", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    (plan,) = document["classes"]
    assert plan["advised"]["bound"] <= 0.025
    assert len(plan["options"]) > 3
    (section,) = tomllib.loads(document["toml"])["classes"]
    assert Class.model_validate(section).error_bound == plan["advised"]["bound"]


@pytest.mark.parametrize(
    ("args", "said"),
    [(["none.csv"], "no such file"), (["x.xls"], ".csv or .parquet"), (["s.csv", "--out", "p.pdf"], ".html")],
)
def test_wrong_use_is_status_2_and_one_sentence(tmp_path: Path, args: list[str], said: str) -> None:
    done = run(*args, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_wide_frames_and_every_kind_of_time_say_the_same() -> None:
    stamps = pl.Series(T).cast(pl.Datetime("ns"))
    for times in (T, stamps, stamps.dt.replace_time_zone("UTC"), stamps.dt.strftime("%Y-%m-%dT%H:%M:%SZ")):
        rows = precision.long_form(
            pl.DataFrame({"Timestamp": times, "temp": X, "count": np.arange(N), "note": "x"}), "f"
        )
        assert set(rows.columns) == {"tag", "time", "value"}
        assert rows["tag"].unique().sort().to_list() == ["count", "temp"]
        assert rows.filter(pl.col("tag") == "temp")["time"].to_list() == T.tolist()
        assert rows.filter(pl.col("tag") == "temp")["value"].to_list() == X.tolist()


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"when": T, "x": X}, "no time column"),
        ({"time": T, "note": ["x"] * N}, "no column of numbers"),
        ({"time": ["soon"] * N, "x": X}, "no ISO 8601"),
        ({"time": X, "x": X}, "times are Float64"),
        ({"time": T, "tag": ["a"] * N, "value": ["?"] * N}, "numbers are needed"),
    ],
)
def test_wrong_columns_are_named(columns: dict, said: str) -> None:
    with pytest.raises(SchemaError, match=said):
        precision.long_form(pl.DataFrame(columns), "f.csv")


def test_bytes_that_are_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ConfigError, match="not parquet"):
        precision.read_samples(tmp_path / "x.parquet", 1000)
