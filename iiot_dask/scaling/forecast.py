"""`Forecast`: how high the load will rise while a worker boots, from what it did on days before. O(1) a step, no library.

The day is cut into slots. Each slot's mean rate is remembered (for every day, and by day of the week once a week has been
seen). The forecast is the *maximum* over the window a new worker is needed for, [now + boot, now + boot + window], times
how far today is above or below the usual, times a quantile of how wrong that product was lately, at that very lead. The
maximum over a few minutes covers that shifts do not start to the second. A gate closes while the recent error is large.

Sources: the window maximum and start-time advance of Scryer (Netflix 2013) and AWS predictive scaling; the running
quantile is adaptive conformal inference (Gibbs and Candes 2021) with a fixed step.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import astuple, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from iiot_dask.core.errors import ChecksumError, ConfigError, VersionError
from iiot_dask.core.jit import njit

DAY_NS = 86_400_000_000_000
SLOTS_MAX = 1440
RING = 512
"""Slots of actual load and of forecasts kept for scoring: lead + window must fit."""

DAMP = 0.8
"""How much of today's deviation from the usual is believed."""
LEVEL_SLOTS = 10.0
"""Memory of that deviation, slots."""
STEP = 0.01
"""Step of the running quantile, as a share of the forecast."""
ERROR_MAX = 0.4
"""Above this recent relative error the gate is closed."""
MAGIC, VERSION = b"IIFC", 1
_HEADER = struct.Struct("<4sHHqqqd")
_CRC = struct.Struct("<I")


@dataclass(slots=True)
class _Recent:
    """What is known of today and of the forecasts lately."""

    slot: int = -1
    """Absolute number of the open slot; -1 at first."""
    sum: float = 0.0
    count: int = 0
    actual: float = 0.0
    usual: float = 0.0
    quantile: float = 1.0
    error: float = 0.0
    scored: int = 0
    covered: int = 0
    error_sum: float = 0.0


_RECENT = struct.Struct("<qdqddddqqd")


@njit
def _usual(profile: npt.NDArray[np.float32], seen: npt.NDArray[np.uint8], slot: int) -> float:
    """The usual load of an absolute slot; NaN if unknown."""
    slots = profile.shape[1]
    at = slot % slots
    row = 1 + (slot // slots) % (profile.shape[0] - 1) if profile.shape[0] > 1 else 0
    if not seen[row, at]:
        row = 0
    return float(profile[row, at]) if seen[row, at] else np.nan


@njit
def _ahead(profile: npt.NDArray[np.float32], seen: npt.NDArray[np.uint8], first: int, last: int) -> float:
    """Highest usual load of the slots first..last; NaN if any is unknown."""
    out = 0.0
    for slot in range(first, last + 1):
        one = _usual(profile, seen, slot)
        if np.isnan(one):
            return np.nan
        out = max(out, one)
    return out


class Forecast:
    """Load of one series.

    Parameters
    ----------
    day_ns
        Length of the plant's cycle, ns.
    lead_ns
        Time a worker needs to boot, ns.
    window_ns
        Length of the window behind it whose maximum counts, ns.
    quantile
        Share of windows the forecast shall cover, 0..1.
    weekly
        Keep a profile for each of seven days besides the one of all days.
    offset_ns
        Local time minus UTC, ns: shifts follow the clock on the wall.

    Raises
    ------
    ConfigError
        If a span is not positive, the window does not fit, or the quantile is outside 0..1.

    Examples
    --------
    >>> s = 1_000_000_000
    >>> f = Forecast(day_ns=60 * s, lead_ns=2 * s, window_ns=2 * s, quantile=0.9)
    >>> for t in range(200): f.learn(t * s, 1000.0 if t % 60 >= 30 else 100.0)
    >>> f.known, f.expect(205 * s) < 200, f.expect(207 * s) > 900
    (True, True, True)
    """

    def __init__(
        self,
        *,
        day_ns: int = DAY_NS,
        lead_ns: int,
        window_ns: int,
        quantile: float = 0.9,
        weekly: bool | None = None,
        offset_ns: int = 0,
    ) -> None:
        # A slot is at least a second: loads are looked at about once a second.
        slots = int(min(SLOTS_MAX, max(2, day_ns // 1_000_000_000)))
        if day_ns < 2_000_000_000 or lead_ns < 0 or window_ns <= 0 or not 0 < quantile < 1:
            msg = (
                f"forecast with day {day_ns} ns, lead {lead_ns} ns, window {window_ns} ns, quantile {quantile}; allowed: "
                "day from 2 s, lead from 0, window above 0, quantile between 0 and 1"
            )
            raise ConfigError(msg)
        self.day_ns, self.slots, self.slot_ns = day_ns, slots, day_ns // slots
        self.lead = -(-lead_ns // self.slot_ns)
        self.window = -(-window_ns // self.slot_ns)
        if self.lead + self.window + 2 > RING:
            msg = f"lead {lead_ns} ns + window {window_ns} ns are over {RING - 2} slots of {self.slot_ns} ns"
            raise ConfigError(msg)
        self.quantile_wanted = quantile
        self.offset_ns = offset_ns
        rows = 8 if (day_ns == DAY_NS if weekly is None else weekly) else 1
        self._profile: npt.NDArray[np.float32] = np.zeros((rows, slots), np.float32)
        self._seen: npt.NDArray[np.uint8] = np.zeros((rows, slots), np.uint8)
        self._actual: npt.NDArray[np.float64] = np.full(RING, np.nan)
        self._made: npt.NDArray[np.float64] = np.full(RING, np.nan)
        self._s = _Recent()

    # -- learning -----------------------------------------------------------------------------------------------

    def learn(self, now_ns: int, rate: float, *, trusted: bool = True) -> None:
        """Take in the load at an instant (messages/s), not earlier than the last.

        Not `trusted`: time passes, but nothing is learnt; use it while an outage makes the load meaningless.
        """
        s = self._s
        slot = (now_ns + self.offset_ns) // self.slot_ns
        if s.slot >= 0 and slot > s.slot:
            mean = s.sum / s.count if s.count else float("nan")
            # A slot nobody looked at is as the one before; a longer hole is not known.
            for closed in range(s.slot, min(slot, s.slot + 3)):
                self._close(closed, mean)
            if slot > s.slot + 3:
                self._actual[:] = np.nan
                self._made[:] = np.nan
            s.sum, s.count = 0.0, 0
        s.slot = max(slot, s.slot)
        if trusted:
            s.sum += rate
            s.count += 1

    def _close(self, slot: int, mean: float) -> None:
        s = self._s
        self._actual[slot % RING] = mean
        self._made[slot % RING] = np.nan
        if not np.isnan(mean):
            usual = _usual(self._profile, self._seen, slot)
            if not np.isnan(usual):
                s.actual += (mean - s.actual) / LEVEL_SLOTS
                s.usual += (usual - s.usual) / LEVEL_SLOTS
            self._score(slot)
            self._remember(slot, mean)
        self._made[slot % RING] = self._plain(slot + 1)

    def _remember(self, slot: int, mean: float) -> None:
        at = slot % self.slots
        rows = [0] if len(self._profile) == 1 else [0, 1 + (slot // self.slots) % 7]
        for row in rows:
            n = int(self._seen[row, at])
            weight = max(1.0 / (n + 1), 0.2)
            self._profile[row, at] += weight * (mean - self._profile[row, at])
            self._seen[row, at] = min(n + 1, 255)

    def _score(self, slot: int) -> None:
        """Compare the forecast whose window ends with this slot to what came."""
        s = self._s
        made = self._made[(slot - self.lead - self.window - 1) % RING]
        if np.isnan(made) or made <= 0:
            return
        window = self._actual[np.arange(slot - self.window, slot + 1) % RING]
        if np.isnan(window).any():
            return
        ratio = float(window.max() / made)
        s.covered += ratio <= s.quantile
        s.scored += 1
        s.error_sum += abs(ratio - 1.0)
        wanted = self.quantile_wanted
        s.quantile = max(0.5, s.quantile + STEP * (wanted if ratio > s.quantile else wanted - 1.0))
        s.error += (abs(ratio - 1.0) - s.error) / min(float(s.scored), self.slots / 8)

    # -- answering ----------------------------------------------------------------------------------------------

    @property
    def known(self) -> bool:
        """Whether a whole cycle has been seen."""
        return bool((self._seen[0] > 0).all())

    @property
    def confident(self) -> bool:
        """Whether forecasts have been scored and were close lately."""
        s = self._s
        return s.scored >= self.slots // 24 + 1 and s.error < ERROR_MAX

    @property
    def level(self) -> float:
        """Today's load over the usual one, damped; 1.0 while unknown."""
        s = self._s
        if s.usual <= 0:
            return 1.0
        return float(1.0 + DAMP * (min(max(s.actual / s.usual, 0.25), 4.0) - 1.0))

    @property
    def coverage(self) -> float:
        """Share of scored windows the forecast covered, 0..1; NaN before the first."""
        s = self._s
        return float(s.covered / s.scored) if s.scored else float("nan")

    @property
    def error(self) -> float:
        """Mean relative error of the window maximum before the quantile, over all scored windows; NaN before the first."""
        s = self._s
        return float(s.error_sum / s.scored) if s.scored else float("nan")

    def _plain(self, slot: int) -> float:
        """Window maximum at the level of today, for a worker asked for in `slot`."""
        ahead = _ahead(self._profile, self._seen, slot + self.lead, slot + self.lead + self.window)
        return float(ahead * self.level)

    def expect(self, now_ns: int) -> float:
        """The load to be ready for when a worker asked for now has booted, messages/s; NaN while unknown."""
        return self._plain((now_ns + self.offset_ns) // self.slot_ns) * float(self._s.quantile)

    # -- bytes --------------------------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """What was learnt, versioned and checksummed."""
        head = _HEADER.pack(
            MAGIC, VERSION, len(self._profile), self.day_ns, self.lead, self.window, self.quantile_wanted
        )
        body = head + _RECENT.pack(*astuple(self._s)) + b"".join(part.tobytes() for part in self._arrays())
        return body + _CRC.pack(zlib.crc32(body))

    def _arrays(self) -> tuple[npt.NDArray[Any], ...]:
        return self._profile, self._seen, self._actual, self._made

    def load(self, payload: bytes) -> Self:
        """Continue from what `to_bytes` wrote; returns this forecast.

        Profiles of another day length are refused; with another lead or window the profile is kept and scoring begins
        anew.

        Raises
        ------
        ChecksumError
            If bytes are missing or changed.
        VersionError
            If a newer program wrote them, or for another day.
        """
        if len(payload) < _HEADER.size + _CRC.size or payload[:4] != MAGIC:
            msg = f"{len(payload)} bytes are no forecast (they begin with {payload[:4]!r}, expected {MAGIC!r})"
            raise ChecksumError(msg)
        body = payload[: -_CRC.size]
        if zlib.crc32(body) != _CRC.unpack(payload[-_CRC.size :])[0]:
            msg = f"forecast of {len(payload)} bytes fails its CRC-32: damaged since it was written"
            raise ChecksumError(msg)
        _, version, rows, day_ns, lead, window, quantile = _HEADER.unpack_from(body)
        if version != VERSION or rows != len(self._profile) or day_ns != self.day_ns:
            msg = (
                f"forecast has version {version}, {rows} profiles, a day of {day_ns} ns; "
                f"here: version {VERSION}, {len(self._profile)} profiles, {self.day_ns} ns"
            )
            raise VersionError(msg)
        self._s = _Recent(*_RECENT.unpack_from(body, _HEADER.size))
        at = _HEADER.size + _RECENT.size
        for part in self._arrays():
            flat = np.frombuffer(body, part.dtype, count=part.size, offset=at)
            part[...] = flat.reshape(part.shape)
            at += part.nbytes
        if (lead, window, quantile) != (self.lead, self.window, self.quantile_wanted):
            self._made[:] = np.nan
            s = self._s
            self._s = _Recent(slot=s.slot, sum=s.sum, count=s.count, actual=s.actual, usual=s.usual)
        return self
