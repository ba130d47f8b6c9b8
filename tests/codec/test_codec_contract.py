"""Every integer codec keeps the contract, and the contract notices those that do not."""

from typing import ClassVar

import numpy as np
import pytest

from iiot_dask.codec import ints
from iiot_dask.codec.packed import Packed
from iiot_dask.codec.testing import check_codec
from iiot_dask.core.errors import CodecError


@pytest.mark.parametrize("codec", ints.CODECS.values(), ids=lambda c: c.name)
@pytest.mark.parametrize("seed", [0, 1])
def test_contract(codec: type[ints.IntCodec], seed: int) -> None:
    check_codec(codec, seed)


def test_ids_and_names_are_unique() -> None:
    assert len({codec.id for codec in ints._ALL}) == len(ints._ALL)
    assert len({codec.name for codec in ints._ALL}) == len(ints._ALL)


class Broken:
    """A working codec for its subclasses to break one thing of."""

    id: ClassVar[int] = 99
    name: ClassVar[str] = "broken"

    @staticmethod
    def encode(k, starts):
        return Packed.encode(k, starts)

    @staticmethod
    def decode(payload, n):
        return Packed.decode(payload, n)


class Forgets(Broken):
    @staticmethod
    def decode(payload, n):
        out = Packed.decode(payload, n)
        out[-1] = min(int(out[-1]), 2**62)
        return out


class Narrow(Broken):
    @staticmethod
    def encode(k, starts):
        return Packed.encode(k.astype(np.int32).astype(np.int64), starts)


class Scribbles(Broken):
    @staticmethod
    def encode(k, starts):
        out = Packed.encode(k, starts)
        k[0] += 1
        return out


class Moody(Broken):
    calls = 0

    @staticmethod
    def encode(k, starts):
        Moody.calls += 1
        return Packed.encode(k, starts) + bytes(Moody.calls % 2)


class Bloated(Broken):
    @staticmethod
    def encode(k, starts):
        return Packed.encode(k, starts) + bytes(30 * len(k) + 300)


class Wrong(Broken):
    @staticmethod
    def decode(payload, n):
        return Packed.decode(payload, n).astype(np.float64)


class Crashes(Broken):
    @staticmethod
    def decode(payload, n):
        try:
            return Packed.decode(payload, n)
        except CodecError as error:
            raise IndexError from error


class Shortens(Broken):
    @staticmethod
    def decode(payload, n):
        try:
            return Packed.decode(payload, n)
        except CodecError:
            return np.zeros(n // 2, np.int64)


class BadId(Broken):
    id: ClassVar[int] = 0x80


@pytest.mark.parametrize(
    ("codec", "fault"),
    [
        (Forgets, "numbers changed"),
        (Narrow, "numbers changed"),
        (Scribbles, "changed its input"),
        (Moody, "different bytes"),
        (Bloated, "bytes for"),
        (Wrong, "float64"),
        (Crashes, "IndexError"),
        (Shortens, "instead of"),
        (BadId, "within 1 to 127"),
    ],
)
def test_the_contract_bites(codec: type, fault: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        check_codec(codec)
