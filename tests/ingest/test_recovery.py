"""What a journal finds after torn writes, flipped bits, missing and foreign files."""

import shutil

import numpy as np
import pytest

from iiot_dask.core.clock import SystemClock
from iiot_dask.core.config import Journal as JournalConfig
from iiot_dask.core.metrics import Metrics
from iiot_dask.ingest import recovery
from iiot_dask.ingest.journal import Journal


def opened(directory):
    metrics = Metrics()
    return Journal(directory, JournalConfig(commit=0), clock=SystemClock(), metrics=metrics), metrics


@pytest.fixture
def filled(open_journal, append, batch_of):
    """A closed journal of 6 records, the last one small."""
    journal = open_journal()
    for i in range(5):
        append(journal, "a", batch_of(i, 20), f"p{i}")
    append(journal, "b", batch_of(5, 1), "q5")
    journal.close()
    return journal.directory


def segment_of(directory):
    return max(directory.glob("*.journal"))


def test_cut_at_every_byte_of_the_last_record(filled, tmp_path, batch_of):
    whole = segment_of(filled).read_bytes()
    with segment_of(filled).open("rb") as stream:
        from iiot_dask.ingest.segment import Segment, decode_header

        _, start = decode_header(whole)
        frames = list(Segment(segment_of(filled), start, len(whole)).frames(stream.fileno(), start, len(whole)))
    last = frames[-1]
    for length in range(last.at, len(whole)):
        copy = tmp_path / "copy"
        shutil.copytree(filled, copy)
        segment_of(copy).write_bytes(whole[:length])
        journal, metrics = opened(copy)
        # Padding after the last record may be missing; then the record is cut as well.
        assert [r.offset for r in journal.read(0)] == [0, 1, 2, 3, 4]
        assert journal.positions() == {"a": "p4"}
        torn = length > last.at
        assert metrics.value("journal_torn_tails_total") == torn
        assert min(copy.glob("*.journal")).stat().st_size == last.at
        # Offset 5 may have been acknowledged and committed downstream: it is not dealt again.
        assert journal.durable > 5 if torn else journal.durable == 5
        journal.append("a", batch_of(9, 3), "p9")
        journal.close()
        again, _ = opened(copy)
        assert [len(r.batch) for r in again.read(journal.durable - 1)] == [3]
        assert again.positions() == {"a": "p9"}
        again.close()
        shutil.rmtree(copy)


def test_garbage_after_the_last_record_is_cut_and_kept_aside(filled):
    path = segment_of(filled)
    with path.open("ab") as stream:
        stream.write(b"\0" * 5000)
    journal, metrics = opened(filled)
    assert [r.offset for r in journal.read(0)] == [0, 1, 2, 3, 4, 5]
    assert metrics.value("journal_torn_tails_total") == 1
    assert metrics.value("journal_torn_bytes_total") == 5000
    copies = list((filled / "damaged").iterdir())
    assert [c.read_bytes() for c in copies] == [b"\0" * 5000]
    journal.close()


@pytest.mark.parametrize("seed", range(60))
def test_one_flipped_bit_anywhere_in_a_segment(filled, seed, batch_of):
    """Never wrong rows, never fewer than one record lost, never a reused offset, never a hand step."""
    rng = np.random.default_rng(seed)
    path = segment_of(filled)
    data = bytearray(path.read_bytes())
    bit = int(rng.integers(0, len(data) * 8))
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    journal, metrics = opened(filled)
    got = {r.offset: r for r in journal.read(0)}
    assert len(got) >= 5
    for offset, record in got.items():
        assert record.batch.to_bytes() == batch_of(offset, 20 if offset < 5 else 1).to_bytes()
        assert record.position == (f"p{offset}" if offset < 5 else "q5")
    assert set(journal.positions().items()) <= {("a", "p4"), ("a", "p3"), ("b", "q5")}
    if len(got) < 6:
        assert metrics.value("journal_damaged_total") + metrics.value("journal_torn_tails_total") == 1
        assert list((filled / "damaged").iterdir())
    assert journal.durable >= 6
    journal.append("a", batch_of(7, 2), "p7")
    journal.close()
    again, _ = opened(filled)
    assert [len(r.batch) for r in again.read(journal.durable - 1)] == [2]
    assert again.identity == journal.identity
    again.close()


def test_damage_is_counted_once_however_often_it_is_read(filled):
    path = segment_of(filled)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    journal, metrics = opened(filled)
    for _ in range(3):
        assert len(list(journal.read(0))) == 5
    assert metrics.value("journal_damaged_total") == 1
    assert len(list((filled / "damaged").iterdir())) == 1
    journal.close()


def test_copies_of_damage_are_bounded(filled, tmp_path, monkeypatch):
    monkeypatch.setattr(recovery, "COPIES_MAX", 2)
    monkeypatch.setattr(recovery, "COPY_BYTES_MAX", 100)
    metrics = Metrics()
    damaged = recovery.Damaged(tmp_path / "damaged", metrics)
    for at in range(5):
        damaged.keep(segment_of(filled), at, at + 1000)
    assert [p.stat().st_size for p in sorted((tmp_path / "damaged").iterdir())] == [100, 100]
    assert metrics.value("journal_damaged_not_kept_total") == 3


def test_where_damage_can_not_be_copied_it_is_still_skipped(filled):
    (filled / "damaged").write_text("a file where the folder should be")
    path = segment_of(filled)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    journal, metrics = opened(filled)
    assert len(list(journal.read(0))) == 5
    assert metrics.value("journal_damaged_not_kept_total") == 1
    journal.close()


def test_a_segment_whose_creation_was_cut_short_is_put_aside(filled):
    stub = filled / f"{6:020d}.journal"
    stub.write_bytes(segment_of(filled).read_bytes()[:10])
    journal, _ = opened(filled)
    assert journal.durable > 6
    assert not stub.exists()
    assert [r.offset for r in journal.read(0)] == [0, 1, 2, 3, 4, 5]
    journal.close()


def test_offsets_do_not_come_back_when_everything_was_lost(filled):
    """All records trimmed, then the newest segment destroyed: its name still says where counting stood."""
    path = segment_of(filled)
    path.rename(path.with_name(f"{1000:020d}.journal")).write_bytes(b"")
    journal, _ = opened(filled)
    assert journal.durable > 1000
    assert list(journal.read(0)) == []
    journal.close()


def test_records_written_again_after_a_failed_fsync_are_read_once(open_journal, append, batch_of):
    """Two segments that overlap: the records beyond the next segment's first offset are left out."""
    journal = open_journal(segment_bytes=1 << 16, bytes_max=1 << 22)
    for i in range(6):
        append(journal, "a", batch_of(i, 1000), f"p{i}")
    journal.close()
    paths = sorted(journal.directory.glob("*.journal"))
    assert len(paths) > 1
    extra = paths[1].read_bytes()
    from iiot_dask.ingest.segment import decode_header

    _, start = decode_header(extra)
    with paths[0].open("ab") as stream:
        stream.write(extra[start:])
    again, metrics = opened(journal.directory)
    assert [r.offset for r in again.read(0)] == list(range(6))
    assert metrics.value("journal_damaged_total") == 0
    again.close()


def test_a_missing_middle_segment_leaves_a_gap_not_an_error(open_journal, append, batch_of):
    journal = open_journal(segment_bytes=1 << 16, bytes_max=1 << 22)
    for i in range(9):
        append(journal, "a", batch_of(i, 1000), f"p{i}")
    journal.close()
    paths = sorted(journal.directory.glob("*.journal"))
    assert len(paths) > 2
    gap = range(int(paths[1].stem), int(paths[2].stem))
    paths[1].unlink()
    again, _ = opened(journal.directory)
    assert [r.offset for r in again.read(0)] == [i for i in range(9) if i not in gap]
    assert again.positions() == {"a": "p8"}
    again.close()


def test_positions_are_found_when_the_newest_header_is_damaged(open_journal, append, batch_of):
    journal = open_journal(segment_bytes=1 << 16, bytes_max=1 << 22)
    append(journal, "once", batch_of(0, 1), "first")
    for i in range(6):
        append(journal, "a", batch_of(i, 1000), f"p{i}")
    journal.close()
    path = segment_of(journal.directory)
    data = bytearray(path.read_bytes())
    data[2] ^= 1
    path.write_bytes(data)
    again, _ = opened(journal.directory)
    assert again.positions() == {"once": "first", "a": "p5"}
    assert again.identity == journal.identity
    assert [r.offset for r in again.read(0)] == list(range(7))
    again.close()
