"""Blobs written by every format there ever was decode to the same columns for ever."""

from pathlib import Path

import numpy as np
import pytest

from iiot_dask import codec
from iiot_dask.codec import frame, ints

GOLDEN = Path(__file__).parents[1] / "golden" / "codec"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.bin"))


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str) -> None:
    blob = (GOLDEN / f"{name}.bin").read_bytes()
    with np.load(GOLDEN / f"{name}.npz") as columns:
        wanted = dict(columns)
    if name.startswith("chunk"):
        times, values = codec.decode(blob)
        assert same(times, wanted["times"])
        assert same(values, wanted["values"])
        assert same(codec.decode_quality(blob), wanted.get("quality", np.zeros(len(times), np.uint8)))
    elif name.startswith("times"):
        assert same(codec.decode_times(blob), wanted["times"])
    elif name.startswith("values"):
        assert same(codec.decode_values(blob), wanted["values"])
    else:
        assert same(codec.decode_codes(blob, np.int64), wanted["codes"])


def test_every_kind_has_a_golden_file() -> None:
    seen = {frame.unseal((GOLDEN / f"{name}.bin").read_bytes()).kind for name in NAMES}
    assert seen == set(frame.Kind)


def test_every_version_has_a_golden_file() -> None:
    seen = {(GOLDEN / f"{name}.bin").read_bytes()[0] & 0x0F for name in NAMES}
    assert seen == set(range(1, frame.VERSION + 1))


def test_every_integer_codec_has_a_golden_file() -> None:
    streams = [(GOLDEN / f"{n}.bin").read_bytes() for n in NAMES if n.startswith(("times", "codes"))]
    seen = {frame.unseal(blob).payload[0] & ~ints.ZSTD for blob in streams}
    assert seen == set(ints.CODECS)
