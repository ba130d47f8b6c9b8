"""`Decision` and the interface every policy has."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, Self

from iiot_dask.scaling.load import Observed


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided and why.

    Parameters
    ----------
    time_ns
        When, ns since 1970-01-01 UTC.
    wanted
        Workers wanted.
    reactive
        Workers the present load asks for.
    forecast
        Workers the coming load asks for; None while it is not known or not trusted.
    expected
        The load they are for, messages/s; NaN without a forecast.
    reason
        One sentence.
    """

    time_ns: int
    wanted: int
    reactive: int
    forecast: int | None
    expected: float
    reason: str


class Policy(Protocol):
    """What scales a cluster."""

    def decide(self, now: datetime | int, observed: Observed | None) -> int:
        """The number of workers wanted at `now` (a datetime, or ns since 1970-01-01 UTC), not earlier than before.

        None: there are no metrics now. Then nobody is sent away; a forecast may still ask for more.
        """
        ...

    def explain(self) -> Decision:
        """The last decision."""
        ...

    def to_bytes(self) -> bytes:
        """What was learnt."""
        ...

    def from_bytes(self, payload: bytes) -> Self:
        """Continue from what `to_bytes` wrote."""
        ...
