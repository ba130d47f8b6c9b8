"""Reading the health state of former versions: what was learnt stays learnt."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from iiot_dask.core.errors import ChecksumError
from iiot_dask.health import record

_STATE_2 = np.dtype(
    [
        ("rx", "<i8"), ("due", "<i8"), ("silent_ns", "<i8"), ("time", "<i8"), ("moved", "<i8"), ("value", "<f8"),
        ("period", "<f4"), ("spread", "<f4"), ("longest", "<f4"), ("lost", "<f4"), ("odd", "<f4"), ("gaps", "<u4"),
        ("samples", "<f4"), ("repeats", "<f4"), ("moves", "<u4"), ("downs", "<f4"), ("run", "<u4"), ("longest_run", "<f4"),
        ("longs", "<u4"), ("flags", "<u4"), ("gap", "<f4"), ("alike", "<u4"),
    ]
)  # fmt: skip
_CLOCK_2 = np.dtype(
    [
        ("offset", "<f8"), ("first", "<i8"), ("since", "<i8"), ("seq", "<u8"), ("time", "<i8"), ("value", "<f8"),
        ("base", "<f4"), ("spread", "<f4"), ("last", "<f4"), ("jump", "<f4"), ("run", "<u4"), ("calm", "<u4"),
        ("rows", "<u4"), ("steady", "<u4"), ("still", "<u4"), ("copies", "<u4"), ("lately", "<u4"), ("still_ns", "<i8"),
        ("rate_ns", "<i8"), ("samples", "<f4"), ("up", "u1"), ("creeps", "u1"), ("kind", "u1"), ("rate", "u1"),
        ("stuck", "u1"),
    ]
)  # fmt: skip
_CELL_2 = np.dtype(
    [("start", "<i8"), ("score", "<f4"), ("signs", "<f4"), ("spacing", "<f4"), ("since", "<u4"), ("kind", "<u4")]
)
_CELLS_2 = 6
_CHARTS_2 = ((0, record.C_COPY), (1, record.C_LATE), (2, record.C_LOST), (3, record.C_BAD))
ITEM_2 = _STATE_2.itemsize + _CLOCK_2.itemsize + _CELLS_2 * _CELL_2.itemsize
"""Bytes a tag of version 2."""
_FOREVER_2 = np.iinfo(np.int64).max


def from_version_2(body: memoryview | bytes, rows: int) -> npt.NDArray[np.void]:
    """Records from the three arrays of version 2; conditions that held then are found anew, but for silence and flatline.

    Raises
    ------
    ChecksumError
        If there are fewer bytes than `rows` tags need.
    """
    if len(body) != rows * ITEM_2:
        msg = f"health state of version 2 with {len(body)} bytes; {rows} tags need {rows * ITEM_2}"
        raise ChecksumError(msg)
    old = np.frombuffer(body, _STATE_2, count=rows)
    clock = np.frombuffer(body, _CLOCK_2, count=rows, offset=old.nbytes)
    cells = np.frombuffer(body, _CELL_2, count=rows * _CELLS_2, offset=old.nbytes + clock.nbytes).reshape(
        rows, _CELLS_2
    )
    out = record.fresh(rows)
    known = old["time"] != record.UNSEEN
    for name in ("rx", "time", "period"):
        out[name] = old[name]
    out["value"] = np.where(known, old["value"], np.nan)
    out["level"] = old["value"]
    judged = (old["due"] != _FOREVER_2) & (old["rx"] != record.UNSEEN)
    out["wait"] = np.where(judged, np.where(judged, old["due"], 0) - np.where(judged, old["rx"], 0), np.inf)
    for name in ("spread", "longest", "gap"):
        out[name] = _halves(old[name])
    out["base"], out["scatter"], out["offset"] = _halves(clock["base"]), _halves(clock["spread"]), clock["offset"]
    numbered = clock["seq"] != record.NO_SEQ
    out["seq"] = np.where(numbered, clock["seq"] & np.uint64(0xFFFFFFFF), 0)
    out["flags"] = (old["flags"] & 7) | np.where(known, record.F_KNOWN, 0) | np.where(numbered, record.F_SEQ, 0)
    out["odd"] = np.clip(old["odd"], 0, 1) * 65535
    share = np.where(old["samples"] > 0, old["repeats"] / np.maximum(old["samples"], 1), 0)
    out["repeats"] = np.clip(share, 0, 0.999) * 65535
    out["run"], out["longest_run"] = np.minimum(old["run"], 65535), np.minimum(old["longest_run"], 255)
    out["gaps"], out["moves"] = np.minimum(old["gaps"], 255), np.minimum(old["moves"], 255)
    out["downs"] = np.clip(old["downs"], 0, 1) * 255
    _signs(out, np.minimum(clock["samples"], 16383.0), cells)
    return out


def _signs(out: npt.NDArray[np.void], samples: npt.NDArray[Any], cells: npt.NDArray[np.void]) -> None:
    """Signs seen in health, scaled down together where an octet does not hold them."""
    most = np.max([cells["signs"][:, a] for a, _ in _CHARTS_2], axis=0, initial=0.0)
    scale = np.minimum(1.0, 250.0 / np.maximum(most, 1.0))
    out["samples"] = samples * scale
    for before, now in _CHARTS_2:
        out["signs"][:, now] = cells["signs"][:, before] * scale


def _halves(values: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    bits: npt.NDArray[np.uint32] = values.astype(np.float32).view(np.uint32)
    return ((bits.astype(np.uint64) + 0x8000) >> 16).astype(np.uint16)
