"""The bytes of a `Forecast`: version 2 is written; version 1 (without holidays, events and outages) is read for ever."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import astuple
from typing import TYPE_CHECKING

import numpy as np

from iiot_dask.core.errors import ChecksumError, VersionError

if TYPE_CHECKING:
    from iiot_dask.scaling.forecast import Forecast

MAGIC, VERSION = b"IIFC", 2
_HEADER = struct.Struct("<4sHHqqqd")
"""Magic, version, rows, day ns, lead and window in slots, quantile."""
_RECENT = {1: struct.Struct("<qdqddddqqd"), 2: struct.Struct("<qdqddddqqdqq")}
_SIZE = struct.Struct("<I")
_CRC = struct.Struct("<I")


def forecast_bytes(forecast: Forecast) -> bytes:
    """Header, recent numbers, profile, rings, templates as JSON with their length before, CRC-32."""
    profile = forecast.profile
    head = _HEADER.pack(
        MAGIC, VERSION, len(profile.mean), forecast.day_ns, forecast.lead, forecast.window, forecast.quantile_wanted
    )
    templates = json.dumps({k: [m.tolist(), s.tolist()] for k, (m, s) in profile.templates.items()}).encode()
    arrays = (profile.mean, profile.seen, forecast.actual, forecast.made)
    body = b"".join(
        (
            head,
            _RECENT[VERSION].pack(*astuple(forecast.recent)),
            *(part.tobytes() for part in arrays),
            _SIZE.pack(len(templates)),
            templates,
        )
    )
    return body + _CRC.pack(zlib.crc32(body))


def load_forecast(forecast: Forecast, payload: bytes) -> None:
    """Fill `forecast` with what was written; see `Forecast.load`."""
    if len(payload) < _HEADER.size + _CRC.size or payload[:4] != MAGIC:
        msg = f"{len(payload)} bytes are no forecast (they begin with {payload[:4]!r}, expected {MAGIC!r})"
        raise ChecksumError(msg)
    body = payload[: -_CRC.size]
    if zlib.crc32(body) != _CRC.unpack(payload[-_CRC.size :])[0]:
        msg = f"forecast of {len(payload)} bytes fails its CRC-32: damaged since it was written"
        raise ChecksumError(msg)
    _, version, rows, day_ns, lead, window, quantile = _HEADER.unpack_from(body)
    profile = forecast.profile
    mine = len(profile.mean)
    # Version 1 knew no holidays: its eight rows are our first eight.
    if version not in _RECENT or day_ns != forecast.day_ns or rows != (8 if version == 1 and mine == 9 else mine):
        msg = (
            f"forecast has version {version}, {rows} profiles, a day of {day_ns} ns; "
            f"here: versions 1 to {VERSION}, {mine} profiles, {forecast.day_ns} ns"
        )
        raise VersionError(msg)
    recent = _RECENT[version]
    forecast.recent = type(forecast.recent)(*recent.unpack_from(body, _HEADER.size))
    at = _HEADER.size + recent.size
    profile.mean[:], profile.seen[:] = 0, 0
    for part in (profile.mean[:rows], profile.seen[:rows], forecast.actual, forecast.made):
        part[...] = np.frombuffer(body, part.dtype, count=part.size, offset=at).reshape(part.shape)
        at += part.nbytes
    profile.templates = {}
    if version > 1:
        (size,) = _SIZE.unpack_from(body, at)
        for kind, (mean, seen) in json.loads(body[at + _SIZE.size : at + _SIZE.size + size]).items():
            profile.templates[kind] = np.array(mean, np.float32), np.array(seen, np.uint8)
    if (lead, window, quantile) != (forecast.lead, forecast.window, forecast.quantile_wanted):
        forecast.made[:] = np.nan
        s = forecast.recent
        forecast.recent = type(s)(
            slot=s.slot, sum=s.sum, count=s.count, actual=s.actual, usual=s.usual, out_since=s.out_since,
            returned=s.returned,
        )  # fmt: skip
