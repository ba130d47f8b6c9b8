"""The journal's promises while all goes well, and at its limits."""

import queue
import subprocess
import sys
import threading

import numpy as np
import pytest

from iiot_dask.core.batch import Batch
from iiot_dask.core.clock import ManualClock, SystemClock
from iiot_dask.core.config import Journal as JournalConfig
from iiot_dask.core.errors import CapacityError, InUseError, VersionError
from iiot_dask.core.metrics import Metrics
from iiot_dask.ingest import journal as module
from iiot_dask.ingest.journal import Journal


def test_records_come_back_as_they_went_in(open_journal, append, batch_of):
    journal = open_journal()
    sent = [(f"source-{i % 3}", batch_of(i, i * 7), f"p{i}" if i % 2 else None) for i in range(40)]
    assert [append(journal, *item) for item in sent] == list(range(40))
    assert journal.durable == 40
    got = list(journal.read(0))
    assert [(r.source, r.position) for r in got] == [(s, p) for s, _, p in sent]
    assert all(r.batch.to_bytes() == b.to_bytes() for r, (_, b, _) in zip(got, sent, strict=True))
    assert [r.offset for r in journal.read(10, 13)] == [10, 11, 12]
    assert list(journal.read(40)) == []
    assert journal.positions() == {"source-0": "p39", "source-1": "p37", "source-2": "p35"}


def test_reopening_keeps_records_positions_identity_and_goes_on_counting(open_journal, append, batch_of):
    journal = open_journal()
    identity = journal.identity
    for i in range(5):
        append(journal, "a", batch_of(i, 10), str(i))
    journal.close()
    again = open_journal()
    assert again.identity == identity
    assert len(identity) == 32
    assert again.durable == 5
    assert again.positions() == {"a": "4"}
    assert append(again, "b", batch_of(9, 1)) == 5
    assert [r.offset for r in again.read(0)] == [0, 1, 2, 3, 4, 5]


def test_nothing_is_durable_before_its_fsync(open_journal, batch_of, monkeypatch):
    """`durable`, `read` and the callback stand still while fdatasync has not returned."""
    gate, entered = threading.Event(), threading.Event()
    real = module.os.fdatasync

    def slow(descriptor):
        entered.set()
        assert gate.wait(30)
        real(descriptor)

    journal = open_journal()
    monkeypatch.setattr(module.os, "fdatasync", slow)
    called: queue.Queue[int] = queue.Queue()
    journal.append("a", batch_of(1, 10), "p", called.put)
    assert entered.wait(30)
    assert journal.durable == 0
    assert list(journal.read(0)) == []
    assert journal.positions() == {}
    assert called.empty()
    gate.set()
    assert called.get(timeout=30) == 0
    assert journal.durable == 1


def test_appends_that_wait_share_one_fsync(open_journal, batch_of, metrics):
    journal = open_journal(commit="2s")
    done: queue.Queue[int] = queue.Queue()
    for i in range(100):
        journal.append("a", batch_of(i, 5), None, done.put)
    journal.close()
    assert [done.get_nowait() for _ in range(100)] == list(range(100))
    assert metrics.value("journal_groups_total") == 1
    assert metrics.value("journal_rows_total") == 500
    assert metrics.histogram("journal_commit_s").count == 1


def test_a_clock_that_stands_still_does_not_hold_a_group_back(tmp_path, metrics, append, batch_of):
    with Journal(tmp_path / "j", JournalConfig(), clock=ManualClock(), metrics=metrics) as journal:
        assert [append(journal, "a", batch_of(i, 5)) for i in range(3)] == [0, 1, 2]


def test_wait_returns_when_time_is_up_and_when_data_comes(open_journal, append, batch_of):
    journal = open_journal()
    assert journal.wait(0, timeout_s=0.01) == 0
    seen: queue.Queue[int] = queue.Queue()
    waiter = threading.Thread(target=lambda: seen.put(journal.wait(0, timeout_s=60)))
    waiter.start()
    append(journal, "a", batch_of(1, 1))
    waiter.join(30)
    assert seen.get(timeout=30) == 1
    assert journal.wait(0, timeout_s=0) == 1


def test_segments_rotate_and_trim_frees_whole_ones(open_journal, append, batch_of, metrics):
    journal = open_journal(segment_bytes=1 << 16, bytes_max=1 << 22)
    for i in range(30):
        append(journal, f"s{i % 4}", batch_of(i, 500), f"p{i}")
    files = sorted(journal.directory.glob("*.journal"))
    assert len(files) > 5
    assert journal.bytes() == sum(f.stat().st_size for f in files) == metrics.value("journal_bytes")
    before = journal.bytes()
    freed = journal.trim(10)
    assert 0 < journal.first <= 10
    assert journal.bytes() == before - freed == sum(f.stat().st_size for f in journal.directory.glob("*.journal"))
    assert [r.offset for r in journal.read(0)] == list(range(journal.first, 30))
    journal.trim(30)
    assert len(list(journal.directory.glob("*.journal"))) == 1
    assert journal.positions() == {"s0": "p28", "s1": "p29", "s2": "p26", "s3": "p27"}
    journal.close()
    again = open_journal(segment_bytes=1 << 16, bytes_max=1 << 22)
    # Sources whose records were all trimmed live on in the header of the newest segment.
    assert again.positions() == {"s0": "p28", "s1": "p29", "s2": "p26", "s3": "p27"}
    assert again.durable == 30


def test_readers_keep_what_they_read_while_it_is_trimmed(open_journal, append, batch_of):
    journal = open_journal(segment_bytes=1 << 16, bytes_max=1 << 22)
    for i in range(30):
        append(journal, "a", batch_of(i, 500))
    reader = journal.read(0)
    first = next(reader)
    journal.trim(30)
    rest = list(reader)
    assert first.batch.to_bytes() == batch_of(0, 500).to_bytes()
    # The open segment is read to its end; deleted ones are left out and counted.
    assert [r.offset for r in rest] == sorted({r.offset for r in rest})
    assert rest[-1].offset == 29


def test_a_full_journal_makes_appends_wait_until_trim(open_journal, append, batch_of):
    journal = open_journal(segment_bytes=1 << 16, bytes_max=1 << 20)
    size = 6000 * 37
    for i in range((1 << 20) // (size + 1000)):
        append(journal, "a", batch_of(2 * i, 6000))
    done: queue.Queue[int] = queue.Queue()
    blocked = threading.Thread(target=journal.append, args=("a", batch_of(98, 6000), "late", done.put))
    blocked.start()
    blocked.join(0.3)
    assert blocked.is_alive()
    assert journal.bytes() <= 1 << 20
    journal.trim(journal.durable)
    blocked.join(30)
    assert not blocked.is_alive()
    assert done.get(timeout=30) == journal.durable - 1
    assert journal.positions() == {"a": "late"}


def test_the_queue_is_bounded_in_rows(open_journal, batch_of, monkeypatch):
    gate = threading.Event()
    real = module.os.fdatasync
    monkeypatch.setattr(module.os, "fdatasync", lambda descriptor: (gate.wait(30), real(descriptor)))
    journal = open_journal(queue_rows=1000)
    sent: list[int] = []

    def send():
        for i in range(20):
            journal.append("a", batch_of(i, 400), None)
            sent.append(i)

    sender = threading.Thread(target=send)
    sender.start()
    sender.join(0.3)
    # One group is at the disk (its rows count until they are safe); the queue takes 1,000 rows at most beside one record.
    assert sender.is_alive()
    assert len(sent) <= 4
    gate.set()
    sender.join(60)
    journal.close()
    assert len(sent) == 20
    assert [r.offset for r in open_journal().read(0)] == list(range(20))


def test_a_record_that_can_never_fit_is_refused_by_name(open_journal, batch_of):
    journal = open_journal(bytes_max=1 << 20)
    with pytest.raises(CapacityError, match=r"record of source 'press' has \d+ bytes; at most 262144 fit"):
        journal.append("press", batch_of(1, 10_000), None)


def test_after_close_appends_are_refused_also_waiting_ones(open_journal, append, batch_of):
    journal = open_journal(segment_bytes=1 << 16, bytes_max=1 << 20)
    for i in range(4):
        append(journal, "a", batch_of(2 * i, 6000))
    errors: queue.Queue[Exception] = queue.Queue()

    def send():
        try:
            journal.append("a", batch_of(98, 6000), None)
        except CapacityError as error:
            errors.put(error)

    waiting = threading.Thread(target=send)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    journal.close()
    assert "is closed; the record of source 'a' was not taken" in str(errors.get(timeout=30))
    with pytest.raises(CapacityError, match="is closed"):
        journal.append("a", batch_of(1, 1), None)
    journal.close()


def test_a_callback_that_fails_is_counted_and_harms_nobody(open_journal, append, batch_of, metrics):
    journal = open_journal()

    def broken(_):
        msg = "listener"
        raise RuntimeError(msg)

    journal.append("a", batch_of(1, 1), "1", broken)
    assert append(journal, "a", batch_of(2, 1), "2") == 1
    assert metrics.value("journal_callback_errors_total") == 1


def test_one_journal_a_directory_within_a_process_and_between(open_journal, tmp_path):
    journal = open_journal()
    with pytest.raises(InUseError, match="is in use by another process"):
        open_journal()
    code = (
        "import sys; from pathlib import Path; from iiot_dask.ingest.journal import Journal;"
        "from iiot_dask.core.clock import SystemClock; from iiot_dask.core.config import Journal as C;"
        "from iiot_dask.core.metrics import Metrics;"
        "Journal(Path(sys.argv[1]), C(), clock=SystemClock(), metrics=Metrics())"
    )
    other = subprocess.run(
        [sys.executable, "-c", code, str(journal.directory)], capture_output=True, text=True, check=False
    )
    assert other.returncode == 1
    assert "InUseError" in other.stderr
    journal.close()
    open_journal()


def test_a_newer_segment_is_refused_and_the_directory_let_go(open_journal, append, batch_of, monkeypatch):
    journal = open_journal()
    append(journal, "a", batch_of(1, 10))
    journal.close()
    path = next(journal.directory.glob("*.journal"))
    old = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("iiot_dask.ingest.segment.VERSION", 2)
        from iiot_dask.ingest import segment

        header, start = segment.decode_header(old)
        path.write_bytes(segment.encode_header(header) + old[start:])
    with pytest.raises(VersionError, match=r"\.journal: segment has format version 2; this program reads up to 1"):
        open_journal()
    path.write_bytes(old)
    assert open_journal().durable == 1


@pytest.mark.parametrize("damage", ["flip", "empty", "gone"])
def test_identity_outlives_its_file(open_journal, append, batch_of, damage):
    journal = open_journal()
    append(journal, "a", batch_of(1, 10))
    journal.close()
    path = journal.directory / "identity"
    text = bytearray(path.read_bytes())
    text[3] ^= 1
    path.write_bytes(text if damage == "flip" else b"")
    if damage == "gone":
        path.unlink()
    again = open_journal()
    assert again.identity == journal.identity
    assert path.read_text().split()[0] == journal.identity


def test_a_damaged_identity_without_segments_is_replaced(open_journal):
    first = open_journal()
    first.close()
    path = first.directory / "identity"
    path.write_bytes(b"x" + path.read_bytes()[1:])
    assert open_journal().identity != first.identity


def test_many_writers_and_a_reader_at_once(open_journal, batch_of, metrics):
    """Every source's rows are read once, in its own order, while they are written, rotated and trimmed."""
    journal = open_journal(segment_bytes=1 << 16, bytes_max=1 << 21, queue_rows=5000)
    sources, each = 4, 60
    acked: dict[str, list[int]] = {f"s{k}": [] for k in range(sources)}

    def send(source: str) -> None:
        for i in range(each):
            batch = Batch.of(tag=[i] * 200, time=[i] * 200, value=[float(i)] * 200, received=[0] * 200)
            journal.append(source, batch, str(i), acked[source].append)

    threads = [threading.Thread(target=send, args=(name,)) for name in acked]
    for thread in threads:
        thread.start()
    seen: dict[str, list[int]] = {name: [] for name in acked}
    cursor = 0
    while cursor < sources * each:
        durable = journal.wait(cursor, timeout_s=60)
        assert durable > cursor
        for record in journal.read(cursor, durable):
            assert record.offset == cursor
            seen[record.source].append(int(record.batch.tag[0]))
            cursor += 1
        journal.trim(cursor)
    for thread in threads:
        thread.join(30)
    assert all(order == list(range(each)) for order in seen.values())
    assert all(offsets == sorted(offsets) and len(offsets) == each for offsets in acked.values())
    assert sorted(o for offsets in acked.values() for o in offsets) == list(range(sources * each))
    assert metrics.value("journal_queue_rows") == 0


def test_index_does_not_change_what_is_read(open_journal, append, batch_of):
    journal = open_journal()
    for i in range(50):
        append(journal, "a", batch_of(i, 2000))
    rng = np.random.default_rng(3)
    for _ in range(40):
        start, stop = sorted(rng.integers(0, 52, 2))
        assert [r.offset for r in journal.read(int(start), int(stop))] == list(range(start, min(stop, 50)))
    journal.close()
    again = Journal(journal.directory, JournalConfig(), clock=SystemClock(), metrics=Metrics())
    assert [r.offset for r in again.read(31, 33)] == [31, 32]
    again.close()
