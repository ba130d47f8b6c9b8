"""Bytes that are not ours, are damaged, or lie: a clear error, no crash, no large allocation."""

import tracemalloc
import zlib

import numpy as np
import pytest
import zstandard

from iiot_dask import codec
from iiot_dask.codec import frame, ints
from iiot_dask.core.errors import ChecksumError, CodecError, DataError, VersionError

RNG = np.random.default_rng(30)
T = 1_700_000_000_000_000_000 + np.arange(3000) * 10**9 + RNG.integers(-500, 500, 3000) * 1000
X = np.round(np.cumsum(RNG.normal(size=3000)), 2)
X[::500] = np.nan
STARTS = np.arange(0, 3000, 30)
DECODERS = {
    "times": (codec.encode_times(T), codec.decode_times),
    "times_runs": (codec.encode_times(T, STARTS), codec.decode_times),
    "values": (codec.encode_values(X), codec.decode_values),
    "values_runs": (codec.encode_values(X, starts=STARTS), codec.decode_values),
    "values_lossy": (codec.encode_values(X, codec.Precision(error_bound=0.3)), codec.decode_values),
    "values_shuffled": (codec.encode_values(RNG.normal(size=3000)), codec.decode_values),
    "codes": (codec.encode_codes(RNG.integers(0, 5, 3000)), lambda b: codec.decode_codes(b, np.uint8)),
    "codes_runs": (
        codec.encode_codes(np.repeat(RNG.integers(0, 5, 30), 100)),
        lambda b: codec.decode_codes(b, np.uint8),
    ),
    "chunk": (codec.encode(T, X), codec.decode),
}


def reseal(blob: bytes) -> bytes:
    """The same bytes under a checksum that matches: what an attacker, not a bad disk, would send."""
    at = 2
    while at < len(blob) and blob[at] >= 0x80:
        at += 1
    at += 1
    if at + 4 > len(blob):
        return blob
    crc = zlib.crc32(blob[at + 4 :], zlib.crc32(blob[:at]))
    return blob[:at] + crc.to_bytes(4, "little") + blob[at + 4 :]


@pytest.mark.parametrize("name", DECODERS)
def test_every_bit_flip_is_seen(name: str) -> None:
    blob, decode = DECODERS[name]
    for bit in RNG.choice(8 * len(blob), min(8 * len(blob), 400), replace=False):
        damaged = bytearray(blob)
        damaged[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(DataError):
            decode(bytes(damaged))


@pytest.mark.parametrize("name", DECODERS)
def test_truncated(name: str) -> None:
    blob, decode = DECODERS[name]
    for size in [*range(12), *RNG.integers(12, len(blob), 100)]:
        with pytest.raises(DataError):
            decode(blob[:size])


@pytest.mark.parametrize("name", DECODERS)
def test_damage_under_a_valid_checksum(name: str) -> None:
    """Must raise ours or return an array of the declared length; anything else is a defect."""
    blob, decode = DECODERS[name]
    limit = 200 * 3000 * 8
    hostile = []
    for _ in range(1500):
        damaged = bytearray(blob)
        for _ in range(RNG.integers(1, 4)):
            damaged[RNG.integers(7, len(damaged))] = RNG.integers(0, 256)
        if RNG.random() < 0.3:
            del damaged[RNG.integers(7, len(damaged)) :]
        hostile.append(reseal(bytes(damaged)))

    def decode_all() -> None:
        for one in hostile:
            try:
                out = decode(one)
            except DataError:
                continue
            assert len(out[0] if isinstance(out, tuple) else out) <= 3000

    # Damage may name another decoder, which is compiled where it never ran; that memory is not the decoder's.
    decode_all()
    tracemalloc.start()
    try:
        decode_all()
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def test_random_bytes() -> None:
    for _ in range(500):
        data = RNG.bytes(int(RNG.integers(0, 200)))
        for _, decode in DECODERS.values():
            with pytest.raises(DataError):
                decode(data)


@pytest.mark.parametrize("kind", list(frame.Kind))
def test_random_payload_under_a_valid_frame(kind: frame.Kind) -> None:
    for _ in range(300):
        blob = frame.seal(kind, int(RNG.integers(1, 5000)), RNG.bytes(int(RNG.integers(0, 300))))
        for _, decode in DECODERS.values():
            try:
                decode(blob)
            except DataError:
                continue


def test_newer_version_is_refused() -> None:
    blob = bytearray(codec.encode_times(T))
    blob[0] += 1
    with pytest.raises(VersionError, match="version 2; this program reads up to 1"):
        codec.decode_times(bytes(blob))


def test_unknown_id_is_named() -> None:
    blob = bytearray(codec.encode_times(T))
    blob[1] = 0xEE
    with pytest.raises(CodecError, match="0xee is unknown"):
        codec.decode_times(reseal(bytes(blob)))


def test_other_kind_is_named() -> None:
    with pytest.raises(CodecError, match="holds TIMES"):
        codec.decode_values(codec.encode_times(T))


def test_checksum() -> None:
    blob = bytearray(codec.encode_times(T))
    blob[-1] ^= 1
    with pytest.raises(ChecksumError):
        codec.decode_times(bytes(blob))


def test_count_is_checked_before_allocating() -> None:
    head = bytearray((0xD1, frame.Kind.TIMES))
    frame.put_varint(head, 2**60)
    blob = reseal(bytes(head) + b"\0\0\0\0" + b"\x01")
    tracemalloc.start()
    with pytest.raises(CodecError, match="limit"):
        codec.decode_times(blob)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    with pytest.raises(CodecError, match="the limit is 100"):
        codec.decode_times(codec.encode_times(T), limit=100)


def test_zstd_bomb_is_not_unfolded() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(300 << 20))
    head = bytearray((0x81,))
    frame.put_varint(head, 1000)
    blob = frame.seal(frame.Kind.TIMES, 100, bytes(head) + bomb)
    tracemalloc.start()
    with pytest.raises(CodecError, match="declares"):
        codec.decode_times(blob)
    head = bytearray((0x81,))
    frame.put_varint(head, 300 << 20)
    with pytest.raises(CodecError, match="at most"):
        codec.decode_times(frame.seal(frame.Kind.TIMES, 100, bytes(head) + bomb))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_stream_of_nothing() -> None:
    with pytest.raises(CodecError, match="0 bytes"):
        ints.load(b"", 3)
