"""The data sets in git are what the script makes, and their README says what they are."""

import hashlib
import importlib.util
from pathlib import Path

import polars as pl
import pytest

HERE = Path(__file__).parents[2] / "datasets"


@pytest.fixture(scope="module")
def made():
    spec = importlib.util.spec_from_file_location("datasets_make", HERE / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.frames()


def test_files_hold_what_the_script_makes(made):
    assert {p.name for p in HERE.glob("*.parquet")} == set(made)
    for name, (frame, _) in made.items():
        assert pl.read_parquet(HERE / name).equals(frame, null_equal=True), name


def test_the_readme_has_every_file_with_its_hash(made):
    text = (HERE / "README.md").read_text()
    for name in made:
        assert f"| `{name}` |" in text
        assert hashlib.sha256((HERE / name).read_bytes()).hexdigest() in text


def test_they_are_small():
    assert sum(p.stat().st_size for p in HERE.glob("*.parquet")) < 300_000
