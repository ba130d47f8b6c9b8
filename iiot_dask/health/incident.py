"""`Incident`: one cause, from its first sign to its end."""

from __future__ import annotations

from dataclasses import dataclass

from iiot_dask.core.times import time_text


@dataclass(frozen=True, slots=True)
class Incident:
    """What happened to a tag or a topology node; a newer record with the same number replaces an older one.

    Parameters
    ----------
    incident
        Unique within one plant, ascending in the order of detection.
    node
        A tag, or the topology node (or adapter) that explains the members.
    kind
        One of the contract's kinds, such as ``"outage"``.
    start_ns, detected_ns, end_ns
        First sign, alarm and end, ns since 1970-01-01 UTC; no end while it lasts.
    score
        Grows with the evidence; compare only within a kind.
    tags
        Names of the members.
    detail
        The evidence in one sentence.
    parent
        Number of the incident this one turned out to be a part of; such rows are kept but not shown.

    Examples
    --------
    >>> print(Incident(3, "s1/press/1", "outage", 0, 9_000_000_000, None, 12.0, ("s1/press/1/t",), "4 of 4 tags silent"))
    #3 outage of s1/press/1 since 1970-01-01T00:00:00.000Z: 4 of 4 tags silent
    """

    incident: int
    node: str
    kind: str
    start_ns: int
    detected_ns: int
    end_ns: int | None
    score: float
    tags: tuple[str, ...]
    detail: str = ""
    parent: int | None = None

    def __str__(self) -> str:
        until = f" until {time_text(self.end_ns)}" if self.end_ns is not None else ""
        text = f"#{self.incident} {self.kind} of {self.node} since {time_text(self.start_ns)}{until}"
        return f"{text}: {self.detail}" if self.detail else text
