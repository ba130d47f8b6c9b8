"""`Pco`: pcodec (Apache-2.0, https://github.com/pcodec/pcodec) for what our own models do not catch.

Its decoder is given an array of the right size to fill: a damaged header can not make it allocate.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pcodec import ChunkConfig, standalone  # type: ignore[import-untyped]

from iiot_dask.codec.bits import Floats, Ints
from iiot_dask.codec.frame import Buffer
from iiot_dask.core.errors import CodecError, map_errors

LEVEL = 8
_CONFIG = ChunkConfig(compression_level=LEVEL)


def pco_encode(column: npt.NDArray[Any]) -> bytes:
    """A pcodec file of one int64 or float64 column."""
    out: bytes = standalone.simple_compress(column, _CONFIG)
    return out


def pco_decode(payload: Buffer, out: npt.NDArray[Any]) -> None:
    """Fill `out` with the numbers of a pcodec file.

    Raises
    ------
    CodecError
        If the file is damaged or holds fewer or more numbers.
    """
    doing = f"reading {len(payload)} bytes of pcodec for {len(out)} numbers"
    with map_errors({RuntimeError: CodecError, TypeError: CodecError, ValueError: CodecError}, doing):
        progress = standalone.simple_decompress_into(bytes(payload), out)
    if progress.n_processed != len(out) or not progress.finished:
        msg = f"pcodec part of {len(payload)} bytes holds another number of values than {len(out)}"
        raise CodecError(msg)


def pco_floats(payload: Buffer, n: int) -> Floats:
    """`pco_decode` into a new float64 column."""
    out = np.empty(n)
    pco_decode(payload, out)
    return out


class Pco:
    """pcodec, level 8, on int64.

    Examples
    --------
    >>> k = np.arange(1000) ** 2
    >>> bool((Pco.decode(Pco.encode(k, np.zeros(1, np.int64)), 1000) == k).all())
    True
    """

    id: ClassVar[int] = 6
    name: ClassVar[str] = "pco"

    @staticmethod
    def encode(k: Ints, starts: Ints) -> bytes:  # noqa: ARG004 -- the signature of every integer codec
        """Encode int64 `k` (n,), n > 0."""
        return pco_encode(k)

    @staticmethod
    def decode(payload: Buffer, n: int) -> Ints:
        """The n numbers of `payload`, int64.

        Raises
        ------
        CodecError
            If the payload is not what `encode` writes for n numbers.
        """
        out = np.empty(n, np.int64)
        pco_decode(payload, out)
        return out
