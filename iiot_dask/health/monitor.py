"""`Monitor`: the health of one shard's tags, learnt from their own samples, without metadata.

A thin class over the kernels in `kernel`: it grows the state, forgives our own stalls, and turns the state into bytes
and back.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

from iiot_dask.core.batch import Batch
from iiot_dask.core.errors import ChecksumError, DataError, VersionError
from iiot_dask.core.quality import Quality
from iiot_dask.health import kernel
from iiot_dask.health.kinds import CHANGE_DTYPE, Kind
from iiot_dask.health.migrate import from_version_2
from iiot_dask.health.record import NO_SEQ, STATE_DTYPE, UNSEEN, fresh

MAGIC = b"IIHM"
VERSION = 3
_HEADER = struct.Struct("<4sHHIIQqqq")
_CRC = struct.Struct("<I")
_ITEM = STATE_DTYPE.itemsize

ROWS_MAX = 1 << 28
"""Most tags of one shard."""

_MUTE = np.zeros(256, np.bool_)
_MUTE[
    [
        Quality.UNCERTAIN_NO_COMMUNICATION,
        Quality.UNCERTAIN_LAST_USABLE,
        Quality.BAD_NOT_CONNECTED,
        Quality.BAD_LAST_KNOWN,
        Quality.BAD_COMMUNICATION,
        Quality.BAD_WAITING,
        Quality.BAD_NO_VALUE,
        Quality.BAD_GATEWAY_PATH,
        Quality.BAD_GATEWAY_TARGET,
        Quality.BAD_STALE,
    ]
] = True

LIVE_KINDS = frozenset(
    {
        Kind.SILENCE, Kind.FLATLINE, Kind.STORM, Kind.DUPLICATE, Kind.OUT_OF_ORDER, Kind.BACKDATED, Kind.FUTURE,
        Kind.LOSS, Kind.RESET, Kind.CLOCK_JUMP, Kind.CLOCK_DRIFT, Kind.CLOCK_STUCK, Kind.EPOCH, Kind.BAD_QUALITY,
        # What a value stuck at a rail and a bad row without a value are called.
        Kind.RANGE, Kind.CORRUPT, Kind.SCHEMA_CHANGE,
    }
)  # fmt: skip
"""Conditions told live. A changed rate is left out: plants change it with the shift."""


@dataclass(frozen=True, slots=True)
class Knobs:
    """What may be tuned; the defaults are for live use.

    Parameters
    ----------
    log_odds
        -ln of the accepted chance of a false alarm per decision; 27.6 is 1e-12.
    floor_ns
        No tag is silent before this long, ns, however fast it is: covers network and scheduling hiccups.
    burst_ns
        Arrivals closer than this are one, ns.
    flat_ns, flat_run
        A flat run lasts at least this long, ns, and has at least so many repeats.
    warm_gaps
        Gaps seen before silence is judged.
    stall_ns
        When the caller's own clock steps by more than this, ns, we were not looking for so long: every tag gets the
        step on top. 0 switches it off (recorded data).
    grace_ns
        While a whole shard has been quiet for longer than `stall_ns` but not for `grace_ns`, it may be our receiving side
        that hangs: silence waits. From then on it is believed. After a step of the caller's clock by more than
        `grace_ns` we were restarted.
    clock_ns
        A device clock is off only beyond this, ns (and beyond eight times its usual scatter).
    kinds
        Conditions that are told; everything is tracked anyway.
    restart_ns
        Extra time for everyone after our own restart, ns: adapters must connect first.
    """

    log_odds: float = 27.6
    floor_ns: int = 5_000_000_000
    burst_ns: int = 5_000_000
    flat_ns: int = 3_000_000_000
    flat_run: int = 10
    warm_gaps: int = 12
    stall_ns: int = 2_000_000_000
    grace_ns: int = 10_000_000_000
    restart_ns: int = 20_000_000_000
    clock_ns: int = 10_000_000_000
    kinds: frozenset[Kind] = LIVE_KINDS

    @classmethod
    def offline(cls) -> Self:
        """Knobs for recorded data, where time stamps are the truth: no stalls of ours, floors of 1 s, all kinds."""
        return cls(
            floor_ns=1_000_000_000, stall_ns=0, grace_ns=0, restart_ns=0, clock_ns=1_000_000_000, kinds=frozenset(Kind)
        )


def _record(knobs: Knobs) -> npt.NDArray[np.void]:
    out = np.zeros(1, kernel.KNOBS_DTYPE)
    for name in kernel.KNOBS_DTYPE.names or ():
        if name != "kinds":
            out[name] = getattr(knobs, name)
    out["kinds"] = _mask(knobs)
    return out


def _mask(knobs: Knobs) -> int:
    return sum(1 << kind for kind in knobs.kinds)


@dataclass(slots=True)
class Monitor:
    """Health of the tags with ``tag % shards == shard``; 128 bytes a tag, grown as tags appear.

    Parameters
    ----------
    shard, shards
        Which tags; the state's index is ``tag // shards``.
    knobs
        What may be tuned.

    Notes
    -----
    Not thread-safe. The same samples give the same changes, whatever the batches they come in (as long as `now_ns` does
    not run ahead of samples that are still to come by more than a tag's threshold).

    Examples
    --------
    A tag at 1 s is armed after 12 gaps; it stops at 40 s, and is silent some seconds later.

    >>> s = 1_000_000_000
    >>> monitor = Monitor(0, 1, Knobs.offline())
    >>> batch = Batch.of(tag=[0] * 41, time=np.arange(41) * s, value=np.arange(41) % 7, received=np.arange(41) * s)
    >>> [(int(c["kind"]), bool(c["active"])) for c in monitor.update(batch, 40 * s)]
    [(0, True)]
    >>> [(int(c["kind"]), int(c["start_ns"]) // s, int(c["detected_ns"]) // s) for c in monitor.sweep(60 * s)]
    [(1, 41, 48)]
    """

    shard: int
    shards: int
    knobs: Knobs = field(default_factory=Knobs)
    state: npt.NDArray[np.void] = field(default_factory=lambda: fresh(0))
    rows: int = 0
    """Tags in use: highest local index + 1."""
    heard_ns: int = UNSEEN
    """Newest receive time of any tag, ns; `UNSEEN` at first."""
    swept_ns: int = UNSEEN
    """Newest `now_ns` given, ns: how far this program has been looking."""
    excused_ns: int = 0
    """Stall time forgiven so far, ns."""

    def update(self, batch: Batch, now_ns: int) -> npt.NDArray[np.void]:
        """Fold a batch in (rows of one tag in order of arrival) and sweep; the changes, CHANGE_DTYPE.

        `now_ns` is how far the *stream* is: the newest receive time while there is a backlog, the wall clock when
        caught up; so a backlog of our own never looks like silence.
        """
        parts = [self._look(now_ns)]
        if len(batch):
            received = batch.received
            local = (batch.tag // np.uint32(self.shards)).astype(np.int64)
            self._room(int(local.max()) + 1)
            seq = _seq(batch)
            out = np.empty(kernel.ROW_CHANGES * len(batch), CHANGE_DTYPE)
            n = kernel.update_kernel(
                self.state, self.state.view(np.uint16).reshape(-1, 64), self.state.view(np.uint8).reshape(-1, 128), local, batch.tag, batch.time, batch.value, batch.quality, seq, received,
                _MUTE, _record(self.knobs), out,
            )  # fmt: skip
            parts.append(out[:n].copy())
            self.heard_ns = max(self.heard_ns, int(received.max()))
        parts.append(self._overdue(now_ns))
        return np.concatenate(parts)

    def sweep(self, now_ns: int) -> npt.NDArray[np.void]:
        """The tags that fell silent by `now_ns`, CHANGE_DTYPE; none while the whole shard may only be stalled.

        After a step of the caller's clock (a restart, a stall of ours) the conditions that hold come first.
        """
        return np.concatenate([self._look(now_ns), self._overdue(now_ns)])

    def _overdue(self, now_ns: int) -> npt.NDArray[np.void]:
        out = np.empty(4096, CHANGE_DTYPE)
        if not self.rows or self.knobs.stall_ns < now_ns - self.heard_ns < self.knobs.grace_ns:
            return out[:0]
        parts = [out[:0]]
        while True:
            n = kernel.sweep_kernel(self.state[: self.rows], self.shard, self.shards, now_ns, out)
            parts.append(out[:n].copy())
            if n < len(out):
                return np.concatenate(parts)

    def _look(self, now_ns: int) -> npt.NDArray[np.void]:
        """Note how far the caller is; forgive everybody the time in which it was not looking."""
        before, self.swept_ns = self.swept_ns, max(self.swept_ns, now_ns)
        step = now_ns - before
        if before == UNSEEN or not 0 < self.knobs.stall_ns < step:
            return np.empty(0, CHANGE_DTYPE)
        span = step + (self.knobs.restart_ns if step > self.knobs.grace_ns else 0)
        kernel.excuse_kernel(self.state[: self.rows], span)
        self.excused_ns += span
        return self.conditions()

    def conditions(self) -> npt.NDArray[np.void]:
        """What holds now as changes (armed, silent, …): tells a new incident engine where things stand."""
        out = np.empty(kernel.ROW_CHANGES * self.rows, CHANGE_DTYPE)
        n = kernel.conditions_kernel(self.state[: self.rows], self.shard, self.shards, _mask(self.knobs), out)
        return out[:n].copy()

    def _room(self, rows: int) -> None:
        if rows > ROWS_MAX:
            msg = f"tag index {rows - 1} in shard {self.shard} of {self.shards}; at most {ROWS_MAX} tags a shard"
            raise DataError(msg)
        if rows > len(self.state):
            size = max(rows, 2 * len(self.state), 64)
            state = fresh(size)
            state[: self.rows] = self.state[: self.rows]
            self.state = state
        self.rows = max(self.rows, rows)

    def to_bytes(self) -> bytes:
        """The state, versioned and checksummed; no pickle. Knobs are not part of it."""
        head = _HEADER.pack(
            MAGIC, VERSION, _ITEM, self.shard, self.shards, self.rows, self.heard_ns, self.swept_ns,
            self.excused_ns,
        )  # fmt: skip
        body = head + self.state[: self.rows].tobytes()
        return body + _CRC.pack(zlib.crc32(body))

    @classmethod
    def from_bytes(cls, payload: bytes, knobs: Knobs | None = None) -> Self:
        """The monitor that `to_bytes` wrote.

        Raises
        ------
        ChecksumError
            If bytes are missing or changed.
        VersionError
            If a newer program wrote them.
        """
        if len(payload) < _HEADER.size + _CRC.size or payload[:4] != MAGIC:
            msg = f"{len(payload)} bytes are no health state (they begin with {payload[:4]!r}, expected {MAGIC!r})"
            raise ChecksumError(msg)
        body = memoryview(payload)[: -_CRC.size]
        _, version, item, shard, shards, rows, heard, swept, excused = _HEADER.unpack_from(body)
        if zlib.crc32(body) != _CRC.unpack_from(payload, len(body))[0]:
            msg = f"health state of {len(payload)} bytes fails its CRC-32: damaged since it was written"
            raise ChecksumError(msg)
        if version == 2:
            state = from_version_2(body[_HEADER.size :], rows)
        elif version == VERSION and item == _ITEM:
            state = fresh(rows)
            state[:] = np.frombuffer(body, STATE_DTYPE, count=rows, offset=_HEADER.size)
        else:
            msg = f"health state has version {version} with {item} bytes a tag; this program reads versions 2 and {VERSION}"
            raise VersionError(msg)
        return cls(shard, shards, knobs or Knobs(), state, rows, heard, swept, excused)


def _seq(batch: Batch) -> npt.NDArray[np.uint64]:
    """Sequence numbers, `record.NO_SEQ` where there is none."""
    column = batch.data.column("seq")
    if column.null_count == len(column):
        return np.full(len(column), NO_SEQ)
    filled: npt.NDArray[np.uint64] = column.fill_null(int(NO_SEQ)).to_numpy(zero_copy_only=False)
    return filled
