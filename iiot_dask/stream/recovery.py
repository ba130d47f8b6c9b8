"""What to do after an epoch failed: how long to wait, whether to go record by record, which record to leave out.

Rules, pure. A failure of the surroundings (worker or scheduler lost, disk full, a commit refused) is tried again for
ever, at most once in `DELAY_MAX_NS`: the journal keeps the data, and the stream goes on when the surroundings do. A
failure of the step itself, met twice at the same place, is looked into: epochs of one record each, until the one that
fails alone `ALONE_MAX` times is handed over for quarantine and left out. At most `POISON_MAX` records go that way; more
means that the program is wrong, not the data, and the stream stops with everything still in the journal.
"""

from __future__ import annotations

from concurrent.futures import CancelledError
from dataclasses import dataclass, field

from iiot_dask.core.errors import CapacityError
from iiot_dask.stream.work import ChainError

DELAY_MIN_NS = 100_000_000
DELAY_MAX_NS = 10_000_000_000
FAILURES_MAX = 20
"""Step failures in a row, with nobody to hand a record to, before the stream stops."""
ALONE_MAX = 3
POISON_MAX = 100

SURROUNDINGS = (OSError, CancelledError, CapacityError, MemoryError, ChainError)
"""Errors that say nothing about the data. `OSError` covers time-outs and closed connections of Dask."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Wait `delay_ns`, then begin again; leave out the record at offset `poison`, if any; or `give_up`."""

    delay_ns: int
    poison: int | None = None
    give_up: bool = False


@dataclass(slots=True)
class Recovery:
    """Counts failures and decides.

    Parameters
    ----------
    quarantine
        Is there someone to hand a poisonous record to?

    Examples
    --------
    >>> recovery = Recovery(quarantine=True)
    >>> [recovery.failed(ValueError("bad row"), first=5, cursor=9).delay_ns // 10**6 for _ in range(2)]
    [100, 200]
    >>> recovery.careful(5), recovery.careful(9)
    (True, False)
    >>> [recovery.failed(ValueError("bad row"), first=6, cursor=7, alone=6).poison for _ in range(3)]
    [None, None, 6]
    """

    quarantine: bool
    failures: int = 0
    poisoned: int = 0
    skipped: set[int] = field(default_factory=set)
    _careful_until: int = 0
    _first: int = -1
    _repeats: int = 0
    _alone: tuple[int, int] = (-1, 0)

    def failed(self, error: BaseException, first: int, cursor: int, alone: int | None = None) -> Verdict:
        """Take note of a failure.

        Parameters
        ----------
        error
            What was raised.
        first, cursor
            Offsets of the epoch: its first, and where the reader stands.
        alone
            Offset of the record if the epoch holds just one.
        """
        self.failures += 1
        delay_ns = min(DELAY_MIN_NS << min(self.failures - 1, 30), DELAY_MAX_NS)
        if isinstance(error, SURROUNDINGS):
            return Verdict(delay_ns)
        self._repeats = self._repeats + 1 if first == self._first else 1
        self._first = first
        if not self.quarantine:
            return Verdict(delay_ns, give_up=self._repeats > FAILURES_MAX)
        if alone is None:
            if self._repeats >= 2:
                self._careful_until = max(self._careful_until, cursor)
            return Verdict(delay_ns, give_up=self._repeats > FAILURES_MAX)
        tries = self._alone[1] + 1 if self._alone[0] == alone else 1
        self._alone = (alone, tries)
        if tries < ALONE_MAX:
            return Verdict(delay_ns)
        if self.poisoned >= POISON_MAX:
            return Verdict(delay_ns, give_up=True)
        self.poisoned += 1
        self.skipped.add(alone)
        return Verdict(delay_ns, poison=alone)

    def careful(self, cursor: int) -> bool:
        """True if the epoch that begins at `cursor` shall hold one record only."""
        return cursor < self._careful_until

    def flushed(self, stop: int) -> None:
        """An epoch went through up to offset `stop`."""
        self.failures = 0
        self.skipped = {offset for offset in self.skipped if offset >= stop}
