"""The disk fails: fsync errors, full disks, short writes. Nothing acknowledged is lost, nothing unsafe is acknowledged."""

import errno
import os
import queue
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from iiot_dask.core.batch import Batch
from iiot_dask.core.errors import CapacityError
from iiot_dask.ingest import journal as module
from iiot_dask.ingest import segment as segment_module


@pytest.fixture(autouse=True)
def fast_backoff(monkeypatch):
    monkeypatch.setattr(module, "BACKOFF_MIN_S", 0.01)
    monkeypatch.setattr(module, "BACKOFF_MAX_S", 0.02)


def failing(monkeypatch, target, name, code, calls, *, after=None):
    """Make `target.name` fail at the given call numbers (1 on); the real one runs first where `after` is set."""
    real, seen = getattr(target, name), []

    def wrapped(*args):
        seen.append(args)
        if len(seen) in calls:
            if after:
                real(*args)
            raise OSError(code, os.strerror(code))
        return real(*args)

    monkeypatch.setattr(target, name, wrapped)
    return seen


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_after_a_failed_fsync_the_same_file_is_never_synced_again(
    open_journal, append, batch_of, monkeypatch, metrics, nth, after
):
    journal = open_journal()
    synced: list[int] = []
    held: list[int] = []
    real = os.fdatasync

    def fdatasync(descriptor):
        synced.append(os.fstat(descriptor).st_ino)
        if len(synced) == nth:
            if after:
                real(descriptor)
            # Held open, so that a new file can not get the same number.
            held.append(os.dup(descriptor))
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(module.os, "fdatasync", fdatasync)
    for i in range(5):
        assert append(journal, "a", batch_of(i, 10), f"p{i}") == i
    os.close(held.pop())
    failed = synced[nth - 1]
    assert failed not in synced[nth:]
    assert metrics.value("journal_write_errors_total", errno="EIO") == 1
    assert metrics.value("journal_full") == 0
    assert journal.problem is None
    assert [r.offset for r in journal.read(0)] == list(range(5))
    journal.close()
    monkeypatch.undo()
    again = open_journal()
    assert [r.batch.to_bytes() for r in again.read(0)] == [batch_of(i, 10).to_bytes() for i in range(5)]
    assert again.positions() == {"a": "p4"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_failed_writes_wait_and_go_on(open_journal, append, batch_of, monkeypatch, metrics, code):
    journal = open_journal()
    append(journal, "a", batch_of(0, 10), "p0")
    failing(monkeypatch, segment_module.os, "pwrite", code, {1, 2, 4})
    for i in range(1, 4):
        append(journal, "a", batch_of(i, 10), f"p{i}")
    assert metrics.value("journal_write_errors_total", errno=errno.errorcode[code]) == 3
    assert [r.offset for r in journal.read(0)] == [0, 1, 2, 3]


def test_short_writes_are_continued(open_journal, append, batch_of, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(segment_module.os, "pwrite", lambda fd, data, at: real(fd, data[:100], at))
    journal = open_journal()
    append(journal, "a", batch_of(1, 500))
    assert next(journal.read(0)).batch.to_bytes() == batch_of(1, 500).to_bytes()


def test_a_directory_that_can_not_be_synced_withholds_the_acknowledgement(open_journal, batch_of, monkeypatch, append):
    journal = open_journal()
    seen = failing(monkeypatch, module, "sync_directory", errno.EIO, {1})
    assert append(journal, "a", batch_of(1, 10)) == 0
    assert len(seen) == 2
    assert [r.offset for r in journal.read(0)] == [0]


def test_while_the_disk_is_full_the_state_says_so_and_reads_work(open_journal, append, batch_of, monkeypatch, metrics):
    journal = open_journal(queue_rows=1000)
    append(journal, "a", batch_of(0, 10), "p0")
    full = threading.Event()
    full.set()
    tried = threading.Event()
    real = os.pwrite

    def pwrite(descriptor, data, at):
        if full.is_set():
            tried.set()
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data, at)

    monkeypatch.setattr(segment_module.os, "pwrite", pwrite)
    done: queue.Queue[int] = queue.Queue()
    sent: list[int] = []

    def send():
        for i in range(1, 9):
            journal.append("a", batch_of(i, 400), f"p{i}", done.put)
            sent.append(i)

    sender = threading.Thread(target=send)
    sender.start()
    assert tried.wait(30)
    sender.join(0.2)
    assert sender.is_alive()
    assert isinstance(journal.problem, CapacityError)
    assert "No space left" in str(journal.problem)
    assert metrics.value("journal_full") == 1
    assert done.empty()
    assert [r.offset for r in journal.read(0)] == [0]
    assert journal.trim(0) == 0
    full.clear()
    sender.join(60)
    assert [done.get(timeout=30) for _ in range(8)] == list(range(1, 9))
    assert journal.problem is None
    assert journal.positions() == {"a": "p8"}


def test_close_on_a_dead_disk_ends_and_says_what_was_not_taken(tmp_path, batch_of, monkeypatch, metrics):
    from iiot_dask.core.clock import SystemClock
    from iiot_dask.core.config import Journal as JournalConfig

    journal = module.Journal(tmp_path / "j", JournalConfig(commit=0), clock=SystemClock(), metrics=metrics)
    monkeypatch.setattr(segment_module.os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "dead")))
    called: list[int] = []
    journal.append("a", batch_of(1, 10), "p", called.append)
    with pytest.raises(CapacityError, match="lost 1 records that were never acknowledged"):
        journal.close()
    assert called == []
    assert metrics.value("journal_writer_failures_total") == 1
    with pytest.raises(CapacityError, match="stopped"):
        journal.wait(0, 1)


@pytest.fixture
def tiny_disk():
    """A file system of 1 MB; needs root."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    place = Path(tempfile.mkdtemp(prefix="journal-disk-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        # Lazily: a journal of a failed test may still have it open.
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        place.rmdir()


def test_a_really_full_disk(open_journal, append, batch_of, tiny_disk, metrics):
    ballast = tiny_disk / "ballast"
    ballast.write_bytes(b"x" * 700_000)
    journal = open_journal(tiny_disk / "journal", segment_bytes=1 << 16)
    acked = [append(journal, "a", batch_of(i, 1000), f"p{i}") for i in range(3)]
    done: queue.Queue[int] = queue.Queue()
    sender = threading.Thread(
        target=lambda: [journal.append("a", batch_of(i, 1000), f"p{i}", done.put) for i in range(3, 20)]
    )
    sender.start()
    while metrics.value("journal_write_errors_total", errno="ENOSPC") < 3:
        try:
            acked.append(done.get(timeout=0.05))
        except queue.Empty:
            continue
    acked += [done.get_nowait() for _ in range(done.qsize())]
    assert len(acked) < 20
    assert [r.offset for r in journal.read(0)][: len(acked)] == acked
    ballast.unlink()
    sender.join(60)
    while len(acked) < 20:
        acked.append(done.get(timeout=30))
    assert acked == list(range(20))
    got = list(journal.read(0))
    assert [r.batch.to_bytes() for r in got] == [batch_of(i, 1000).to_bytes() for i in range(20)]
    journal.close()


WRITER = """
import sys
from pathlib import Path
from iiot_dask.core.batch import Batch
from iiot_dask.core.clock import SystemClock
from iiot_dask.core.config import Journal as JournalConfig
from iiot_dask.core.metrics import Metrics
from iiot_dask.ingest.journal import Journal

metrics = Metrics()
journal = Journal(Path(sys.argv[1]), JournalConfig(commit=0), clock=SystemClock(), metrics=metrics)
for i in range(8):
    batch = Batch.of(tag=[i] * 50, time=[i] * 50, value=[float(i)] * 50, received=[i] * 50)
    journal.append("a", batch, str(i), lambda offset: print("ACK", offset, flush=True))
    journal.wait(i, 30)
journal.close()
print("DONE", int(metrics.total("journal_write_errors_total")), flush=True)
"""


def straced(directory, inject):
    """Run `WRITER` under strace with one injected fault; (acknowledged offsets, its last word, exit status)."""
    command = [
        "strace",
        "-f",
        "-qq",
        "-e",
        f"trace={inject.split(':')[0]}",
        "-e",
        f"inject={inject}",
        "-o",
        "/dev/null",
    ]
    run = subprocess.run(
        [*command, sys.executable, "-c", WRITER, str(directory)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    lines = run.stdout.splitlines()
    acked = [int(line.split()[1]) for line in lines if line.startswith("ACK")]
    return acked, lines[-1] if lines else "", run


@pytest.mark.service("strace")
@pytest.mark.parametrize(
    "inject",
    [
        "fdatasync:error=EIO:when=1",
        "fdatasync:error=EIO:when=3",
        "fdatasync:error=EIO:when=2+3",
        "pwrite64:error=ENOSPC:when=4",
    ],
)
def test_errors_from_the_kernel_are_survived(open_journal, tmp_path, inject):
    acked, word, run = straced(tmp_path / "journal", inject)
    assert word.startswith("DONE"), run.stderr
    assert int(word.split()[1]) > 0
    assert acked == list(range(8))
    journal = open_journal()
    assert [(r.offset, r.batch.value[0]) for r in journal.read(0)] == [(i, float(i)) for i in range(8)]
    assert journal.positions() == {"a": "7"}


@pytest.mark.service("strace")
@pytest.mark.parametrize(
    ("call", "nth"),
    [
        ("fdatasync", 1),
        ("fdatasync", 2),
        ("fdatasync", 5),
        ("pwrite64", 1),
        ("pwrite64", 2),
        ("pwrite64", 5),
        ("rename", 1),
    ],
)
def test_killed_at_the_nth_call(open_journal, tmp_path, call, nth):
    acked, word, _ = straced(tmp_path / "journal", f"{call}:signal=SIGKILL:when={nth}")
    assert not word.startswith("DONE")
    assert acked == list(range(len(acked)))
    journal = open_journal()
    got = {r.offset: r for r in journal.read(0)}
    assert set(acked) <= set(got)
    assert all(set(r.batch.value) == {float(offset)} for offset, r in got.items())
    assert journal.durable >= len(acked)
    if acked:
        assert int(journal.positions()["a"]) >= acked[-1]


def test_the_oracle_bites(open_journal, tmp_path, batch_of, monkeypatch):
    """A journal that acknowledges before its fsync is caught by the test above's kind of check."""
    journal = open_journal()
    monkeypatch.setattr(module.Journal, "_put", lambda self, *_: self._segments[-1])
    journal._segments.append(segment_module.Segment(journal.directory / f"{0:020d}.journal", 0, 0))
    acked: queue.Queue[int] = queue.Queue()
    journal.append("a", Batch.empty(), "p", acked.put)
    assert acked.get(timeout=30) == 0
    monkeypatch.undo()
    journal.close()
    again = open_journal(tmp_path / "journal")
    assert [r.offset for r in again.read(0)] != [0]
