"""`Limits`: budgets, cost limits and schedules that bound what a policy may want, each with its reason.

A budget of actions or of money may only ever delay that workers go or stop more from coming; it never sends away workers the
present load needs, except where a cost limit says so in as many words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from iiot_dask.core.errors import ConfigError
from iiot_dask.scaling.calendar import DAYS, Calendar, Shift

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Window:
    """Limits that hold at certain times.

    Parameters
    ----------
    start, stop
        Local times ``"HH:MM"``; `stop` may lie after midnight.
    minimum, maximum
        Fewest and most workers within; None: as always.
    days
        Days it begins on, of ``mon tue wed thu fri sat sun holiday``.

    Examples
    --------
    >>> Window("22:00", "06:00", maximum=4).holds(23 * 60, "mon", "sun"), Window("22:00", "06:00").holds(720, "mon", "sun")
    (True, False)
    """

    start: str
    stop: str
    minimum: int | None = None
    maximum: int | None = None
    days: tuple[str, ...] = DAYS

    def holds(self, minute: int, today: str, yesterday: str) -> bool:
        """Whether it holds at a minute of a day of a kind."""
        begin, end = Shift(self.start, 0.0, self.days).minute, Shift(self.stop, 0.0).minute
        if begin <= end:
            return today in self.days and begin <= minute < end
        return (today in self.days and minute >= begin) or (yesterday in self.days and minute < end)


@dataclass(slots=True)
class Limits:
    """What a policy may want.

    Parameters
    ----------
    actions_per_day
        Budget of changes per day of the plant; a fifth of it may be saved up. Spent: nobody goes until there is budget
        again, and more come two at a time; never is a needed worker refused. None: no budget.
    worker_hours_per_day
        Cost limit per day of the plant, hours of 3,600 s: what is left of it is spread over what is left of the day, and
        no more workers than that are wanted, though never fewer than the minimum. None: no limit.
    windows
        Limits by local time.
    calendar
        Local time and holidays.
    day_s
        Length of the plant's day, seconds.

    Raises
    ------
    ConfigError
        If a number is out of range.

    Examples
    --------
    >>> limits = Limits(worker_hours_per_day=48.0)
    >>> limits.cap(0, have=2, minimum=1, maximum=9)
    (1, 3, 'cost limit')
    """

    actions_per_day: float | None = None
    worker_hours_per_day: float | None = None
    windows: Sequence[Window] = ()
    calendar: Calendar = field(default_factory=Calendar)
    day_s: float = DAY_S
    _tokens: float = 0.0
    _at_ns: int | None = None
    _day: int = -1
    _spent_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("actions_per_day", "worker_hours_per_day"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                msg = f"limit {name} {value!r} (allowed: above 0, or None)"
                raise ConfigError(msg)
        self._tokens = self._most

    @property
    def _most(self) -> float:
        return max(2.0, (self.actions_per_day or 0.0) / 5)

    def pass_time(self, now_ns: int, have: int) -> None:
        """Let time pass with `have` workers paid."""
        passed_s = 0.0 if self._at_ns is None else max(0.0, (now_ns - self._at_ns) / 1e9)
        self._at_ns = now_ns
        if self.actions_per_day is not None:
            self._tokens = min(self._most, self._tokens + passed_s * self.actions_per_day / self.day_s)
        day = int((now_ns + self.calendar.offset_ns(now_ns)) / 1e9 // self.day_s)
        if day != self._day:
            self._day, self._spent_s = day, 0.0
        self._spent_s += passed_s * have

    def cap(self, now_ns: int, *, have: int, minimum: int, maximum: int) -> tuple[int, int, str]:
        """Fewest and most workers now, and which limit narrowed them ('' if none)."""
        self.pass_time(now_ns, have)
        why = ""
        if self.windows:
            local = now_ns + self.calendar.offset_ns(now_ns)
            kinds = (*DAYS, "holiday")
            today, before = (kinds[self.calendar.kind(now_ns - back * 86_400_000_000_000)] for back in (0, 1))
            for window in self.windows:
                if window.holds(local // 60_000_000_000 % 1440, today, before):
                    minimum = minimum if window.minimum is None else window.minimum
                    maximum = maximum if window.maximum is None else window.maximum
                    why = f"schedule from {window.start}"
        if self.worker_hours_per_day is not None:
            end_s = (self._day + 1) * self.day_s
            left_s = max(1.0, end_s - (now_ns + self.calendar.offset_ns(now_ns)) / 1e9)
            # What one day lets over may not all be burnt in its last minutes.
            affordable = (self.worker_hours_per_day * 3600.0 - self._spent_s) / max(left_s, self.day_s / 24)
            # Early in the day a peak may borrow from the calm that follows.
            most = max(minimum, int(1.5 * affordable) if left_s > self.day_s / 4 else int(affordable))
            if most < maximum:
                maximum, why = most, "cost limit"
        return minimum, max(minimum, maximum), why

    def may_act(self) -> bool:
        """Whether the budget has an action left."""
        return self.actions_per_day is None or self._tokens >= 1.0

    def acted(self) -> None:
        """Count a change."""
        if self.actions_per_day is not None:
            self._tokens = max(0.0, self._tokens - 1.0)

    # -- bytes --------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, float | int | None]:
        """What was spent, as plain data."""
        return {"tokens": self._tokens, "at": self._at_ns, "day": self._day, "spent": self._spent_s}

    def restore(self, state: dict[str, float | int | None]) -> None:
        """Continue from `state`."""
        at = state["at"]
        self._tokens, self._at_ns = float(state["tokens"] or 0.0), None if at is None else int(at)
        self._day, self._spent_s = int(state["day"] or 0), float(state["spent"] or 0.0)
