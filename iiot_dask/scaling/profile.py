"""`Profile`: the usual load of every slot of the week, of holidays, and the templates of known events.

Row 0 is the mean of all days, rows 1 to 7 the days of the week (row 1 is a Thursday, the weekday of 1970-01-01), row 8 the
holidays. An unknown slot of a row is answered by the row before it in the list (holiday, Sunday, all days) and at last by
the calendar's plan.
"""

from __future__ import annotations

from math import isnan, nan

import numpy as np
import numpy.typing as npt

from iiot_dask.scaling.calendar import HOLIDAY, Calendar, Event

WEIGHT_MIN = 0.2
"""Weight of the newest day; the first days are averaged."""
TEMPLATE_SLOTS = 120
TEMPLATES_MAX = 32
"""Kinds of events a template is kept for."""
HOLIDAY_ROW, SUNDAY_ROW = 8, 4


class Profile:
    """The usual load by slot of the day and kind of day.

    Parameters
    ----------
    slots
        Slots of a day.
    slot_ns
        Length of one, ns.
    weekly
        Keep rows for the days of the week and holidays besides the one of all days.
    calendar
        Local time, holidays, plan, events.

    Examples
    --------
    >>> p = Profile(24, 3_600_000_000_000, weekly=False, calendar=Calendar())
    >>> for day in range(3): p.learn(day * 24 + 6, 100.0)
    >>> p.usual(3 * 24 + 6), p.usual(7)
    (100.0, nan)
    """

    def __init__(self, slots: int, slot_ns: int, *, weekly: bool, calendar: Calendar) -> None:
        self.slots, self.slot_ns, self.calendar = slots, slot_ns, calendar
        rows = 9 if weekly else 1
        self.mean: npt.NDArray[np.float32] = np.zeros((rows, slots), np.float32)
        self.seen: npt.NDArray[np.uint8] = np.zeros((rows, slots), np.uint8)
        self.templates: dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]] = {}

    def place(self, slot: int) -> tuple[int, int]:
        """Row and column of an absolute slot (of UTC)."""
        now_ns = slot * self.slot_ns
        local = slot + self.calendar.offset_ns(now_ns) // self.slot_ns
        if len(self.mean) == 1:
            return 0, local % self.slots
        row = HOLIDAY_ROW if self.calendar.kind(now_ns) == HOLIDAY else 1 + (local // self.slots) % 7
        return row, local % self.slots

    def usual(self, slot: int) -> float:
        """The usual load of an absolute slot, messages/s; NaN if neither learnt nor planned."""
        row, at = self.place(slot)
        for one in (row, SUNDAY_ROW, 0) if row == HOLIDAY_ROW else (row, 0):
            if self.seen[one, at]:
                return float(self.mean[one, at])
        return self.calendar.planned(slot * self.slot_ns)

    @property
    def known(self) -> bool:
        """Whether every slot of a day has been seen or is planned."""
        return bool(self.calendar.shifts) or bool((self.seen[0] > 0).all())

    def learn(self, slot: int, mean: float) -> None:
        """Take in the mean load of a slot."""
        row, at = self.place(slot)
        # A holiday says nothing of the days of work.
        for one in {0, row} if row != HOLIDAY_ROW else {row}:
            n = int(self.seen[one, at])
            weight = max(1.0 / (n + 1), WEIGHT_MIN)
            self.mean[one, at] += weight * (mean - self.mean[one, at])
            self.seen[one, at] = min(n + 1, 255)

    # -- events -------------------------------------------------------------------------------------------------

    def factor(self, event: Event, slot: int) -> float:
        """Load against the usual within an event."""
        template = self.templates.get(event.kind)
        at = min(max(0, slot - event.start_ns // self.slot_ns), TEMPLATE_SLOTS - 1)
        if template is None or not template[1][at]:
            return event.factor
        return float(template[0][at])

    def highest(self, kind: str) -> float:
        """The highest factor a kind of event has been seen at; 1.0 if never."""
        template = self.templates.get(kind)
        return max(1.0, float(template[0].max())) if template is not None else 1.0

    def learn_event(self, event: Event, slot: int, ratio: float) -> None:
        """Take in how the load was against the usual in a slot of an event."""
        if event.kind not in self.templates:
            if len(self.templates) >= TEMPLATES_MAX:
                return
            self.templates[event.kind] = np.ones(TEMPLATE_SLOTS, np.float32), np.zeros(TEMPLATE_SLOTS, np.uint8)
        mean, seen = self.templates[event.kind]
        at = slot - event.start_ns // self.slot_ns
        if not isnan(ratio) and 0 <= at < TEMPLATE_SLOTS:
            weight = max(1.0 / (int(seen[at]) + 1), 2 * WEIGHT_MIN)
            mean[at] += weight * (ratio - mean[at])
            seen[at] = min(int(seen[at]) + 1, 255)


def ratio_of(mean: float, usual: float) -> float:
    """`mean` over `usual`; NaN where the usual says nothing."""
    return mean / usual if usual > 0 else nan
