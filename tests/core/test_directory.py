import os
import subprocess
import sys

import pytest

from iiot_dask.core.directory import FORMAT, PARTS, DataDirectory
from iiot_dask.core.errors import ConfigError, InUseError, VersionError


def test_first_use_makes_every_part_and_says_its_format(tmp_path):
    with DataDirectory(tmp_path / "data") as data:
        assert {p.name for p in data.path.iterdir() if p.is_dir()} == set(PARTS)
    assert (tmp_path / "data" / "FORMAT").read_text() == f"{FORMAT}\n"
    with DataDirectory(tmp_path / "data"):
        assert (tmp_path / "data" / "FORMAT").read_text() == f"{FORMAT}\n"


def test_a_second_run_is_refused_and_told_who_holds_it(tmp_path):
    with DataDirectory(tmp_path), pytest.raises(InUseError, match=rf"process {os.getpid()}"):
        DataDirectory(tmp_path).acquire()
    DataDirectory(tmp_path).acquire().release()


def test_a_killed_run_leaves_no_lock(tmp_path):
    code = f"import os\nfrom pathlib import Path\nfrom iiot_dask.core.directory import DataDirectory\nDataDirectory(Path({str(tmp_path)!r})).acquire()\nos.kill(os.getpid(), 9)\n"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with DataDirectory(tmp_path):
        assert (tmp_path / "LOCK").read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("text", [f"{FORMAT + 1}\n", "tomorrow", ""])
def test_a_newer_or_unreadable_format_is_refused(tmp_path, text):
    (tmp_path / "FORMAT").write_text(text)
    with pytest.raises(VersionError, match=f"reads 1 to {FORMAT}"):
        DataDirectory(tmp_path).acquire()


def test_a_file_in_its_place_is_a_sentence(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(ConfigError, match="can not be written"):
        DataDirectory(tmp_path / "data").acquire()
