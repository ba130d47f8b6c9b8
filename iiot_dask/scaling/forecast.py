"""`Forecast`: how high the load will rise while a worker boots, from what it did on days before. O(1) a step, no library.

The day is cut into slots. Each slot's mean rate is remembered (`Profile`: for every day, by day of the week and for holidays,
in local time). The forecast is the *maximum* over the window a new worker is needed for, [now + boot, now + boot + window],
times how far today is above or below the usual, times a quantile of how wrong that product was lately, at that very lead.
The maximum over a few minutes covers that shifts do not start to the second. Known events (planned start-ups, the return
after an outage) have templates of their own and teach the profile nothing. A gate closes while the recent error is large.

Sources: the window maximum and start-time advance of Scryer (Netflix 2013) and AWS predictive scaling; the running
quantile is adaptive conformal inference (Gibbs and Candes 2021) with a fixed step.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan
from typing import Self

import numpy as np
import numpy.typing as npt

from iiot_dask.core.errors import ConfigError
from iiot_dask.scaling import keeping
from iiot_dask.scaling.calendar import Calendar, Event
from iiot_dask.scaling.profile import Profile, ratio_of

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
ERROR_MAX = 1.0
"""Above this recent relative error the gate is closed."""
PRECISE = 0.1
"""Below this recent relative error the forecast is also believed where it says that less will do."""
RECONNECT = "reconnect"
RECONNECT_SLOTS = 30
"""How long the return after an outage is no usual load, slots."""


@dataclass(slots=True)
class Recent:
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
    out_since: int = -1
    """Slot in which the outage that lasts began; -1 without one."""
    returned: int = -1
    """Slot in which the last outage ended; -1 without one."""


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
        Keep profiles for the days of the week and holidays besides the one of all days.
    offset_ns
        Local time minus UTC where no `calendar` says it, ns.
    calendar
        Local time, holidays, planned shifts and events.

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
        calendar: Calendar | None = None,
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
        self.offset_ns = offset_ns if calendar is None else 0
        self.calendar = Calendar() if calendar is None else calendar
        weekly = day_ns == DAY_NS if weekly is None else weekly
        self.profile = Profile(slots, self.slot_ns, weekly=weekly, calendar=self.calendar)
        self.actual: npt.NDArray[np.float64] = np.full(RING, np.nan)
        self.made: npt.NDArray[np.float64] = np.full(RING, np.nan)
        self.recent = Recent()
        self._answer: tuple[int, float] = (-1, float("nan"))

    # -- learning -----------------------------------------------------------------------------------------------

    def learn(self, now_ns: int, rate: float, *, trusted: bool = True) -> None:
        """Take in the load at an instant (messages/s), not earlier than the last.

        Not `trusted`: time passes, but nothing is learnt; use it while an outage makes the load meaningless. What comes
        back after it is learnt apart, as the template of the next return.
        """
        s = self.recent
        slot = (now_ns + self.offset_ns) // self.slot_ns
        if s.slot >= 0 and slot > s.slot:
            mean = s.sum / s.count if s.count else float("nan")
            # A slot nobody looked at is as the one before; a longer hole is not known.
            for closed in range(s.slot, min(slot, s.slot + 3)):
                self._close(closed, mean)
            if slot > s.slot + 3:
                self.actual[:] = np.nan
                self.made[:] = np.nan
            s.sum, s.count = 0.0, 0
        s.slot = max(slot, s.slot)
        if trusted:
            if s.out_since >= 0:
                s.out_since, s.returned = -1, slot
                self._answer = (-1, float("nan"))
            s.sum += rate
            s.count += 1
        elif s.out_since < 0:
            s.out_since = slot
            self._answer = (-1, float("nan"))

    def _close(self, slot: int, mean: float) -> None:
        s = self.recent
        self.actual[slot % RING] = mean
        self.made[slot % RING] = np.nan
        # While nothing can be believed the past slots hold what they were before; NaN means not to learn.
        if not isnan(mean) and s.out_since < 0:
            usual = self.profile.usual(slot)
            event = self._event(slot)
            if event is not None:
                self.profile.learn_event(event, slot, ratio_of(mean, usual * self.level))
            else:
                if not isnan(usual):
                    s.actual += (mean - s.actual) / LEVEL_SLOTS
                    s.usual += (usual - s.usual) / LEVEL_SLOTS
                self.profile.learn(slot, mean)
            self._score(slot)
        self.made[slot % RING] = self._plain(slot + 1)

    def _event(self, slot: int) -> Event | None:
        s = self.recent
        if 0 <= s.returned <= slot < s.returned + RECONNECT_SLOTS:
            return Event(RECONNECT, s.returned * self.slot_ns, RECONNECT_SLOTS * self.slot_ns)
        return self.calendar.event(slot * self.slot_ns - self.offset_ns) if self.calendar.events else None

    def _score(self, slot: int) -> None:
        """Compare the forecast whose window ends with this slot to what came."""
        s = self.recent
        made = self.made[(slot - self.lead - self.window - 1) % RING]
        if np.isnan(made) or made <= 0:
            return
        window = self.actual[np.arange(slot - self.window, slot + 1) % RING]
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
        """Whether a whole cycle has been seen, or is planned."""
        return self.profile.known

    @property
    def confident(self) -> bool:
        """Whether forecasts have been scored and were close lately; a plan is trusted until it has been scored."""
        s = self.recent
        if s.scored < self.slots // 24 + 1:
            return bool(self.calendar.shifts)
        return s.error < ERROR_MAX

    @property
    def precise(self) -> bool:
        """Whether forecasts were so close lately that workers they see no need for may go at once."""
        return self.confident and self.recent.scored > 0 and self.recent.error < PRECISE

    @property
    def level(self) -> float:
        """Today's load over the usual one, damped; 1.0 while unknown."""
        s = self.recent
        if s.usual <= 0:
            return 1.0
        return float(1.0 + DAMP * (min(max(s.actual / s.usual, 0.25), 4.0) - 1.0))

    @property
    def coverage(self) -> float:
        """Share of scored windows the forecast covered, 0..1; NaN before the first."""
        s = self.recent
        return float(s.covered / s.scored) if s.scored else float("nan")

    @property
    def error(self) -> float:
        """Mean relative error of the window maximum before the quantile, over all scored windows; NaN before the first."""
        s = self.recent
        return float(s.error_sum / s.scored) if s.scored else float("nan")

    def _plain(self, slot: int) -> float:
        """Window maximum at the level of today, for a worker asked for in `slot`; NaN if a slot of it is unknown."""
        if self._answer[0] == slot:
            return self._answer[1]
        out = 0.0
        # An outage may end any moment: its return is what to be ready for.
        back = self.profile.highest(RECONNECT) if self.recent.out_since >= 0 else 1.0
        for ahead in range(slot + self.lead, slot + self.lead + self.window + 1):
            usual = self.profile.usual(ahead)
            event = self._event(ahead)
            factor = back if event is None else max(back, self.profile.factor(event, ahead))
            # No shortcut on NaN: `max` would swallow it.
            out = usual * factor if usual * factor > out or isnan(usual) else out
            if isnan(out):
                break
        level = max(1.0, self.level) if self.recent.out_since >= 0 else self.level
        self._answer = (slot, float(out * level))
        return self._answer[1]

    def expect(self, now_ns: int) -> float:
        """The load to be ready for when a worker asked for now has booted, messages/s; NaN while unknown."""
        return self._plain((now_ns + self.offset_ns) // self.slot_ns) * float(self.recent.quantile)

    # -- bytes --------------------------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """What was learnt, versioned and checksummed (`keeping.py` has the layout)."""
        return keeping.forecast_bytes(self)

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
        keeping.load_forecast(self, payload)
        self._answer = (-1, float("nan"))
        return self
