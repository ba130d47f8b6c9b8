"""The log of an adapter's process: bounded, and its last line remembered."""

import pytest

from iiot_dask.adapter.logfile import BoundedLog


def test_the_two_files_never_hold_more_than_twice_the_bound(tmp_path):
    log = BoundedLog(tmp_path / "a.jsonl", bytes_max=1000)
    for i in range(500):
        log.write(f"line {i:04d}\n".encode())
        sizes = [p.stat().st_size for p in tmp_path.iterdir()]
        assert len(sizes) <= 2
        assert max(sizes) <= 1000
    log.close()
    kept = (tmp_path / "a.jsonl.1").read_text() + (tmp_path / "a.jsonl").read_text()
    assert kept.endswith("line 0499\n")
    assert len(kept) > 1000
    assert log.lost_bytes == 0


def test_a_later_run_appends(tmp_path):
    for word in (b"one\n", b"two\n"):
        log = BoundedLog(tmp_path / "a.jsonl", bytes_max=6)
        log.write(word)
        log.close()
    assert (tmp_path / "a.jsonl").read_bytes() == b"two\n"
    assert (tmp_path / "a.jsonl.1").read_bytes() == b"one\n"


def test_a_piece_longer_than_the_file_keeps_its_end(tmp_path):
    log = BoundedLog(tmp_path / "a.jsonl", bytes_max=10)
    log.write(b"x" * 100 + b"end")
    log.close()
    assert (tmp_path / "a.jsonl").read_bytes() == b"xxxxxxxend"


def test_a_disk_that_refuses_costs_the_lines_only(tmp_path):
    log = BoundedLog(tmp_path / "absent" / "a.jsonl")
    log.write(b"word\n")
    assert (log.lost_bytes, log.last_line) == (5, "word")


@pytest.mark.parametrize(
    ("pieces", "last"),
    [
        ([], ""),
        ([b"one\n", b"two\n\n"], "two"),
        ([b"one\ntw", b"o"], "two"),
        ([b"one\n  \n", b"\n"], "one"),
        ([b'{"event":"adapter ends","level":"error"}\n'], "adapter ends"),
        ([b"[1]\n"], "[1]"),
        ([b"x" * 400], "x" * 300),
        ([b"\xff\n"], "\ufffd"),
    ],
)
def test_the_last_line(pieces, last):
    log = BoundedLog(None)
    for piece in pieces:
        log.write(piece)
    assert log.last_line == last
