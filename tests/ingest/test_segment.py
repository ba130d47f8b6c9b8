"""Bytes of a segment: headers, heads, payloads, resynchronising, and the golden file that may never change."""

import os
import zlib
from pathlib import Path

import numpy as np
import pytest

from iiot_dask.core.batch import Batch
from iiot_dask.core.errors import CapacityError, ChecksumError, VersionError
from iiot_dask.ingest import segment as seg

GOLDEN = Path(__file__).parents[1] / "golden" / "journal" / "v1.journal"
HEADER = seg.Header("0123456789abcdef0123456789abcdef", 5, 1_700_000_000_000_000_000, {"press": "p1", "zürich": "ü"})


def golden_batches() -> list[tuple[str, Batch, str | None]]:
    times = [1_700_000_000_000_000_000 + i * 1_000_000_000 for i in range(3)]
    full = Batch.of(
        tag=[0, 7, 2**32 - 2], time=times, value=[20.5, float("nan"), -1e300], received=times, quality=[0, 128, 64]
    )
    seq = Batch.of(tag=[1], time=times[:1], value=[0.1], received=times[:1], seq=[2**63])
    return [("press", full, "page-1"), ("zürich", Batch.empty(), "ü"), ("press", seq, None)]


def encoded(batches=None, header=HEADER) -> bytes:
    entries = []
    for i, (source, batch, position) in enumerate(golden_batches() if batches is None else batches):
        entries.append((header.first + i, *seg.encode_payload(source, batch, position)))
    return seg.encode_header(header) + seg.join(entries)[0]


def write(directory: Path, data: bytes, first: int = 5) -> seg.Segment:
    path = seg.Segment.path_of(directory, first)
    path.write_bytes(data)
    _, start = seg.decode_header(data)
    return seg.Segment(path, start, len(data))


def read(segment, start=0, stop=2**62):
    damage = []
    return list(segment.read(start, stop, lambda _, d: damage.append(d))), damage


def test_golden_segment_is_still_read_bit_for_bit(tmp_path):
    """Set ``IIOT_WRITE_GOLDEN=1`` to write the file for a new format version; a missing one fails."""
    if os.environ.get("IIOT_WRITE_GOLDEN") == "1":
        GOLDEN.parent.mkdir(parents=True, exist_ok=True)
        GOLDEN.write_bytes(encoded())
    data = GOLDEN.read_bytes()
    header, start = seg.decode_header(data)
    assert header == HEADER
    assert data[:start] == seg.encode_header(HEADER)
    records, damage = read(write(tmp_path, data))
    assert not damage
    assert [(r.offset, r.source, r.position) for r in records] == [
        (5, "press", "page-1"),
        (6, "zürich", "ü"),
        (7, "press", None),
    ]
    for record, (_, batch, _) in zip(records, golden_batches(), strict=True):
        assert record.batch.to_bytes() == batch.to_bytes()


def test_record_sizes_are_multiples_of_8_and_told_right(batch_of):
    for rows in (0, 1, 2, 3, 7, 8, 9, 100):
        meta, body, crc = seg.encode_payload("s" * rows, batch_of(rows, rows), None)
        data, sizes = seg.join([(1, meta, body, crc)])
        assert len(data) % 8 == 0
        assert sizes == [(1, len(data))]
        assert seg.decode_head(data, 0).size == len(data)


def test_a_sliced_batch_keeps_only_its_rows(batch_of, tmp_path):
    whole = batch_of(1, 1000)
    part = Batch(whole.data.slice(10, 5))
    segment = write(tmp_path, encoded([("a", part, None)]))
    records, _ = read(segment)
    assert len(segment.path.read_bytes()) < 2000
    assert records[0].batch.value.tolist() == whole.value[10:15].tolist()
    assert records[0].batch.seq.tolist() == whole.seq[10:15].tolist()


@pytest.mark.parametrize("length", range(24))
def test_short_header_is_damage(length):
    with pytest.raises(ChecksumError, match=f"segment of {length} bytes has no header"):
        seg.decode_header(encoded()[:length])


def test_every_bit_of_a_header_is_guarded():
    data = seg.encode_header(HEADER)
    for bit in range(len(data) * 8):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ChecksumError):
            seg.decode_header(bytes(bad))


def test_a_newer_version_is_named_not_taken_for_damage():
    prefix = seg.PREFIX.pack(seg.MAGIC, 2, 0, 10, 0, 0)[:-4]
    data = prefix + zlib.crc32(prefix).to_bytes(4, "little") + b"whatever it"
    with pytest.raises(VersionError, match="format version 2; this program reads up to 1"):
        seg.decode_header(data)


def test_an_unknown_kind_of_record_is_a_newer_version():
    head = seg.HEAD.pack(seg.RECORD_MAGIC, 9, 3, 8, 8, 0, 0)[:-4]
    head += zlib.crc32(head).to_bytes(4, "little")
    with pytest.raises(VersionError, match="record 3 is of kind 9"):
        seg.decode_head(head, 0)


def test_lengths_beyond_the_limits_are_no_head():
    head = seg.HEAD.pack(seg.RECORD_MAGIC, 1, 3, 8, seg.BODY_BYTES_MAX + 1, 0, 0)[:-4]
    head += zlib.crc32(head).to_bytes(4, "little")
    assert seg.decode_head(head, 0) is None
    assert seg.decode_head(head[:31], 0) is None


def test_a_record_too_large_is_refused():
    with pytest.raises(CapacityError, match=r"source 'a' has 10485[0-9]+ bytes of meta and [0-9]+ of rows; at most"):
        seg.encode_payload("a", Batch.empty(), "x" * seg.META_BYTES_MAX)


@pytest.mark.parametrize("seed", range(300))
def test_one_flipped_bit_is_never_read_as_other_data(tmp_path, seed):
    rng = np.random.default_rng(seed)
    originals = golden_batches()
    data = bytearray(encoded())
    _, start = seg.decode_header(bytes(data))
    bit = int(rng.integers(start * 8, len(data) * 8))
    data[bit // 8] ^= 1 << bit % 8
    segment = seg.Segment(seg.Segment.path_of(tmp_path, 5), start, len(data))
    segment.path.write_bytes(data)
    records, damage = read(segment)
    for record in records:
        source, batch, position = originals[record.offset - 5]
        assert (record.source, record.position) == (source, position)
        assert record.batch.to_bytes() == batch.to_bytes()
    # A flip in the padding harms nothing; any other costs exactly the record it hit.
    assert len(records) == 3 - len(damage)
    assert len(damage) <= 1


def test_damaged_heads_are_skipped_to_the_next_record_across_chunks(tmp_path, batch_of):
    batches = [("a", batch_of(i, 30_000), None) for i in range(4)]
    data = bytearray(encoded(batches))
    segment = write(tmp_path, bytes(data))
    with segment.path.open("rb") as stream:
        frames = list(segment.frames(stream.fileno(), segment.start, segment.size))
    for victim in (0, 1):
        data[frames[victim].at] ^= 0xFF
    segment.path.write_bytes(data)
    records, damage = read(segment)
    assert [r.offset for r in records] == [7, 8]
    assert damage == [seg.Damage(frames[0].at, frames[2].at, "no record head")]


def test_index_finds_the_place_of_an_offset(tmp_path, batch_of):
    batches = [("a", batch_of(i, 3000), None) for i in range(40)]
    segment = write(tmp_path, encoded(batches))
    with segment.path.open("rb") as stream:
        frames = list(segment.frames(stream.fileno(), segment.start, segment.size))
    grown = seg.Segment(segment.path, segment.start, segment.start)
    for frame in frames:
        grown.grew(frame.offset, frame.at, frame.size)
    assert grown.size == segment.size
    places = {frame.offset: frame.at for frame in frames}
    for frame in frames:
        assert grown.place(frame.offset) in places.values()
        assert frame.at - seg.INDEX_EVERY - frame.size < grown.place(frame.offset) <= frame.at
    records, _ = read(grown, 30, 33)
    assert [r.offset for r in records] == [30, 31, 32]
