"""The record of one tag: 128 bytes, two cache lines, and the small number formats it is packed with.

Layout rules: 8-byte fields first, then 4, 2, 1, so that nothing straddles; `WORDS` and `OCTETS` are the positions of the
charts in the same bytes seen as uint16 and uint8. A *half* is the upper half of a float32 (8 bits of precision, its full
range): for spans and spreads, where 0.4 % is plenty. A *tick* is a receive time in 2**24 ns (16.8 ms) in 32 bits, told
apart from others within two years.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from iiot_dask.core.jit import inline

NEVER = np.float32(np.inf)
UNSEEN = np.iinfo(np.int64).min
NO_SEQ = np.uint64(0xFFFFFFFFFFFFFFFF)

# Bits of `flags`.
F_ARMED, F_SILENT, F_FLAT, F_KNOWN, F_SEQ, F_SEQ2, F_RESET, F_STUCK = 1, 2, 4, 8, 16, 32, 64, 128
F_CREEPS, F_HELD, F_SPIKE, F_STORM, F_AHEAD, F_RELOCK = 256, 512, 1024, 2048, 4096, 8192
F_JUMPED = 1 << 23
RATE_AT, CLOCK_AT, VALUE_AT, FORM_AT = 14, 16, 18, 21
"""Where small numbers begin in `flags`: rate (2 bits), clock (2), value (3), form (2): indices into the kinds below."""

# Charts: Bernoulli charts have a score (word) and signs (octet); counters have one octet.
C_COPY, C_LATE, C_LOST, C_BAD, C_JITTER = 0, 1, 2, 3, 4
CHARTS = 5
N_FAR, N_IDENTITY, N_SPIKE, N_HOLD, N_RAIL = 5, 6, 7, 8, 9
SIGNS = 10
"""Charts and counters together: bits of `up` and `active`."""

STATE_DTYPE = np.dtype(
    [
        ("rx", "<i8"),  # start of the last arrival, ns
        ("time", "<i8"),  # newest device time, ns
        ("value", "<f8"),  # last good value
        ("wait", "<f4"),  # silent when nothing came for so long after rx, ns; NEVER while not judged
        ("period", "<f4"),  # ns
        ("offset", "<f4"),  # received - time in health, ns
        ("level", "<f4"),  # mean value in health
        ("seq", "<u4"),
        ("seq2", "<u4"),  # where the other counter is, when two alternate
        ("since", "<u4"),  # tick of the first sign since all charts were at zero
        ("flags", "<u4"),
        ("spread", "<u2"),  # half: mean |gap - period|, ns
        ("longest", "<u2"),  # half: slowly forgotten longest gap, ns
        ("gap", "<u2"),  # half: the last one, ns
        ("base", "<u2"),  # half: established period, ns; 0 = not yet
        ("scatter", "<u2"),  # half: mean |offset - received + time|, ns
        ("jump", "<u2"),  # half: deviation of the last row that was off, ns
        ("jitter", "<u2"),  # half: mean |gap - slots * period| in health, ns
        ("msd", "<u2"),  # half: mean square of the difference of two values in health
        ("wander", "<u2"),  # half: mean square of block means, in msd
        ("step", "<u2"),  # half: last difference of two values
        ("samples", "<u2"),  # seen by the charts, halved now and then
        ("up", "<u2"),  # bit j: chart j is above zero or active
        ("active", "<u2"),  # bit j: chart j has raised
        ("odd", "<u2"),  # share of gaps that are no multiple of the period, 1/65536
        ("repeats", "<u2"),  # share of samples equal to the one before, in completed runs, 1/65536
        ("run", "<u2"),  # repeats in the current run
        ("mean", "<i2"),  # of this block so far: sum of (value - level) / sd, 1/32
        ("square", "<u2"),  # of this block so far: sum of difference**2 / msd, 1/64
        ("swing", "<i2"),  # CUSUM of block means, 1/256
        ("stir", "<i2"),  # CUSUM of log block variances, 1/256
        ("score", "<u2", (CHARTS,)),  # 1/1024; while active: 6 bits log spacing, 10 bits samples since the last sign
        ("signs", "u1", (CHARTS,)),  # seen in health
        ("count", "u1", (SIGNS - CHARTS,)),  # evidence; while active: samples left until it is over
        ("gaps", "u1"),
        ("longest_run", "u1"),  # 255: as long as you like
        (
            "tries",
            "u1",
        ),  # bits 0-1: silences in a row; 2-4: gaps alike, but not like the period; 5-7: holes in the order
        (
            "pace",
            "u1",
        ),  # low 4 bits: gaps at another period than the established one; high 4: differences in this block
        (
            "odd_rows",
            "u1",
        ),  # low 4 bits: good rows in a row while a clock condition is active; high 4: no progress of time
        ("copies", "u1"),  # low 4 bits: copies in a row; high 4: most lately
        ("off", "u1"),  # rows in a row whose device time is off
        ("blocks", "u1"),  # learnt
        ("age", "u1"),  # low 4 bits: blocks since swing left zero, or good blocks while active; high 4: since stir did
        ("peaks", "u1"),  # low 4 bits: highest swing in health, 2; high 4: stir
        ("moves", "u1"),
        ("downs", "u1"),  # share of moves that go down, 1/256
    ]
)
"""State of one tag."""

WORDS = STATE_DTYPE.fields["score"][1] // 2  # type: ignore[index]
OCTETS = STATE_DTYPE.fields["signs"][1]  # type: ignore[index]


def fresh(rows: int) -> npt.NDArray[np.void]:
    """`rows` records that have seen nothing, at the start of a cache line."""
    size = STATE_DTYPE.itemsize
    raw = np.zeros(rows * size + 64, np.uint8)
    at = -raw.ctypes.data % 64
    out = raw[at : at + rows * size].view(STATE_DTYPE)
    out["rx"] = out["time"] = UNSEEN
    out["wait"] = NEVER
    out["value"] = np.nan
    return out


@inline
def i64(x: Any) -> Any:
    """A small unsigned number as a signed one: mixed arithmetic of both kinds would be done in floats."""
    return np.int64(x)


@inline
def half(x: Any) -> Any:
    """A float as a half."""
    return np.uint16((np.float32(x).view(np.uint32) + np.uint32(0x8000)) >> np.uint32(16))


@inline
def wide(u: Any) -> Any:
    """A half as a float32."""
    return np.uint32(np.uint32(u) << np.uint32(16)).view(np.float32)


@inline
def tick(ns: Any) -> Any:
    """The tick of a time, ns."""
    return np.uint32((ns >> 24) & 0xFFFFFFFF)


@inline
def from_tick(at: Any, now: Any) -> Any:
    """The time of a tick that lies at most two years before `now`, ns."""
    return now - (np.int64((np.uint32(now >> 24) - np.uint32(at)) & np.uint32(0xFFFFFFFF)) << 24) - (now & 0xFFFFFF)
