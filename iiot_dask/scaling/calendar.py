"""`Calendar`: what a plant knows of its own time: local clock, shifts, holidays, and planned events.

Shifts follow the clock on the wall, which jumps twice a year; a holiday is no weekday; a start-up is planned before it is
ever seen. The calendar also stands in for a history that does not exist yet (cold start). Pure: it is asked for an instant.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from math import nan
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from iiot_dask.core.errors import ConfigError

DAY_NS = 86_400_000_000_000
HOUR_NS = 3_600_000_000_000
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
HOLIDAY = 7
"""Kind of day after the seven of the week."""
NEVER_NS = 1 << 62


@dataclass(frozen=True, slots=True)
class Shift:
    """A load that is planned to begin at a time of day and to last until the next shift of that day or the day after.

    Parameters
    ----------
    start
        Local time ``"HH:MM"``.
    rate
        Planned load, messages/s.
    days
        Days it begins on, of ``mon tue wed thu fri sat sun holiday``; by default Monday to Sunday.

    Raises
    ------
    ConfigError
        If a time, a rate or a day is none.

    Examples
    --------
    >>> Shift("06:00", 20_000.0, days=("mon", "tue")).minute
    360
    """

    start: str
    rate: float
    days: tuple[str, ...] = DAYS

    def __post_init__(self) -> None:
        known = (*DAYS, "holiday")
        if not set(self.days) <= set(known) or not self.days or not 0 <= self.rate < float("inf"):
            msg = f"shift {self!r}: allowed: days of {' '.join(known)}, a rate from 0"
            raise ConfigError(msg)
        assert self.minute >= 0

    @property
    def minute(self) -> int:
        """Minute of the day it begins at."""
        hours, _, minutes = self.start.partition(":")
        if not (hours.isdigit() and minutes.isdigit() and int(hours) < 24 and int(minutes) < 60):
            msg = f"shift start {self.start!r} is not a time between 00:00 and 23:59"
            raise ConfigError(msg)
        return int(hours) * 60 + int(minutes)


@dataclass(frozen=True, slots=True)
class Event:
    """Something planned that the usual profile does not know, such as the start-up of a line.

    Parameters
    ----------
    kind
        Events of one kind share one learnt template: how the load behaved against the usual, minute by minute.
    start_ns, duration_ns
        When, ns since 1970-01-01 UTC, and how long.
    factor
        Load against the usual until the kind has been seen once.

    Raises
    ------
    ConfigError
        If it has no length or a factor below 0.
    """

    kind: str
    start_ns: int
    duration_ns: int
    factor: float = 1.0

    def __post_init__(self) -> None:
        if self.duration_ns <= 0 or not 0 <= self.factor < float("inf"):
            msg = f"event {self.kind!r} of {self.duration_ns} ns with factor {self.factor}: allowed: above 0, from 0"
            raise ConfigError(msg)


@dataclass(slots=True)
class Calendar:
    """Local time, shifts, holidays and events of one site.

    Parameters
    ----------
    zone
        IANA name of the plant's time zone.
    shifts
        Planned load; empty: nothing is planned, all is learnt.
    holidays
        Local dates that are no weekdays.
    events
        Planned ones; more may be added with `plan`.

    Raises
    ------
    ConfigError
        If the zone is unknown.

    Examples
    --------
    >>> c = Calendar("Europe/Berlin", [Shift("06:00", 900.0), Shift("22:00", 100.0)], holidays=[date(2026, 12, 25)])
    >>> noon = round(datetime(2026, 12, 25, 11, tzinfo=UTC).timestamp()) * 10**9
    >>> c.planned(noon), c.kind(noon) == HOLIDAY, c.offset_ns(noon) // HOUR_NS
    (100.0, True, 1)
    """

    zone: str = "UTC"
    shifts: Sequence[Shift] = ()
    holidays: Sequence[date] = ()
    events: Sequence[Event] = ()
    _zone: ZoneInfo = field(init=False, repr=False)
    _free: frozenset[date] = field(init=False, repr=False)
    _turns: list[tuple[int, int]] = field(init=False, repr=False, default_factory=list)
    """Moments at which the offset changes and the offset from then on, ns; covers `_turns_until`."""
    _covered: tuple[int, int] = field(init=False, repr=False, default=(0, 0))

    def __post_init__(self) -> None:
        try:
            self._zone = ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            msg = f"time zone {self.zone!r} is unknown; allowed: IANA names such as 'Europe/Berlin'"
            raise ConfigError(msg) from error
        self._free = frozenset(self.holidays)
        self.events = sorted(self.events, key=lambda e: e.start_ns)

    # -- the clock on the wall ----------------------------------------------------------------------------------

    def offset_ns(self, now_ns: int) -> int:
        """Local time minus UTC at an instant, ns."""
        if not self._covered[0] <= now_ns < self._covered[1]:
            self._cover(now_ns)
        return self._turns[bisect_right(self._turns, (now_ns, NEVER_NS)) - 1][1]

    def turn(self, now_ns: int) -> tuple[int, int]:
        """The next change of the offset within some days: (when, offset from then on); (`NEVER_NS`, now's) if none."""
        offset = self.offset_ns(now_ns)
        at = bisect_right(self._turns, (now_ns, NEVER_NS))
        return self._turns[at] if at < len(self._turns) else (NEVER_NS, offset)

    def _cover(self, now_ns: int) -> None:
        first = (now_ns // DAY_NS - 2) * DAY_NS
        self._turns = [(first, self._ask(first))]
        for hour in range(1, 24 * 30):
            moment = first + hour * HOUR_NS
            if (offset := self._ask(moment)) != self._turns[-1][1]:
                self._turns.append((moment, offset))
        # Ten days are kept ahead, so that `turn` sees what comes.
        self._covered = (first, first + 20 * DAY_NS)

    def _ask(self, now_ns: int) -> int:
        moment = datetime.fromtimestamp(now_ns // 10**9, UTC).astimezone(self._zone)
        return int((moment.utcoffset() or timedelta()).total_seconds()) * 10**9

    def kind(self, now_ns: int) -> int:
        """0 to 6 for Monday to Sunday by local date, 7 for a holiday."""
        day = (now_ns + self.offset_ns(now_ns)) // DAY_NS
        # Day 0 of the epoch was a Thursday.
        return HOLIDAY if self._free and date(1970, 1, 1) + timedelta(days=day) in self._free else (day + 3) % 7

    # -- plans --------------------------------------------------------------------------------------------------

    def planned(self, now_ns: int) -> float:
        """Planned load at an instant, messages/s; NaN if no shift covers it."""
        if not self.shifts:
            return nan
        local = now_ns + self.offset_ns(now_ns)
        minute = local % DAY_NS // 60_000_000_000
        for back in range(8):
            kind = (*DAYS, "holiday")[self.kind(now_ns - back * DAY_NS)]
            begun = [s for s in self.shifts if kind in s.days and (back or s.minute <= minute)]
            if begun:
                return max(begun, key=lambda s: s.minute).rate
        return nan

    def plan(self, event: Event) -> None:
        """Add an event."""
        self.events = sorted((*self.events, event), key=lambda e: e.start_ns)

    def event(self, now_ns: int) -> Event | None:
        """The event an instant lies in; the latest begun if several."""
        for event in reversed(self.events):
            if event.start_ns <= now_ns < event.start_ns + event.duration_ns:
                return event
        return None
