"""Scoring by event, as the open benchmark does: was each fault found, named, how fast; and what was said for nothing.

A fault is *found* when an incident of its node, or with one of its tags, is detected between its start and two periods after
its end; *named* when the first such incident has its kind. An incident that fits no fault is *false*. Point-adjusted scores
are not used: random alarms look good under them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from iiot_dask.sim.faultlab_record import Label

if TYPE_CHECKING:
    import polars as pl

INFORMATION = frozenset({"schedule_change"})
"""Kinds that are no alarm."""


@dataclass(slots=True)
class Score:
    """Counts over one or more records; add more with `add`.

    Examples
    --------
    >>> label = Label("a", "silence", 10, 20, ("a",), 1e-9)
    >>> score = Score()
    >>> score.add([label], [{"node": "a", "kind": "silence", "detected": 12, "tags": ["a"]}])
    >>> score.recall(), score.named_share(), score.precision()
    (1.0, 1.0, 1.0)
    """

    events: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    named: Counter[str] = field(default_factory=Counter)
    among: Counter[str] = field(default_factory=Counter)
    """The right kind was among the incidents of the fault."""
    confusion: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(done, first said)."""
    delays: dict[str, list[float]] = field(default_factory=dict)
    """Kind -> delays of the found ones, in periods."""
    incidents: int = 0
    false: list[dict[str, Any]] = field(default_factory=list)
    missed: list[Label] = field(default_factory=list)

    def add(self, labels: Sequence[Label], incidents: Sequence[Mapping[str, Any]]) -> None:
        """Score a record. `incidents`: rows with node, kind, detected (ns since 1970-01-01 UTC), tags."""
        rows = [dict(row) for row in incidents if row["kind"] not in INFORMATION]
        of: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            for name in {row["node"], *row["tags"]}:
                of.setdefault(name, []).append(row)
        explained: set[int] = set()
        for label in labels:
            if label.harmless:
                continue
            slack = round(label.period_s * 1e9)
            near = {id(r): r for name in (label.node, *label.tags) for r in of.get(name, ())}
            fits = [
                r
                for r in near.values()
                if label.start_ns - slack <= r["detected"] <= label.end_ns + 2 * slack + 1_000_000_000
            ]
            explained |= {id(r) for r in fits}
            self._event(label, sorted(fits, key=lambda r: r["detected"]))
        self.incidents += len(rows)
        self.false += [r for r in rows if id(r) not in explained]

    def _event(self, label: Label, fits: Sequence[Mapping[str, Any]]) -> None:
        kind = label.kind
        self.events[kind] += 1
        if not fits:
            self.missed.append(label)
            return
        self.found[kind] += 1
        same = [r for r in fits if r["kind"] == kind]
        self.among[kind] += bool(same)
        first = fits[0]
        self.named[kind] += first["kind"] == kind
        self.confusion[kind, first["kind"]] += 1
        late_ns = max(0, (same or fits)[0]["detected"] - label.start_ns)
        self.delays.setdefault(kind, []).append(late_ns / 1e9 / label.period_s)

    def recall(self) -> float:
        """Found share, mean over kinds."""
        return float(np.mean([self.found[k] / n for k, n in self.events.items()])) if self.events else 1.0

    def named_share(self) -> float:
        """Rightly named share of the found, mean over kinds found."""
        shares = [self.named[k] / self.found[k] for k in self.events if self.found[k]]
        return float(np.mean(shares)) if shares else 1.0

    def precision(self) -> float:
        """Share of incidents that fit a fault."""
        return 1.0 - len(self.false) / self.incidents if self.incidents else 1.0

    def document(self) -> dict[str, Any]:
        """Everything as plain data."""
        kinds = {
            kind: {
                "events": n,
                "recall": round(self.found[kind] / n, 4),
                "named": round(self.named[kind] / max(1, self.found[kind]), 4),
                "among": round(self.among[kind] / max(1, self.found[kind]), 4),
                "delay_periods_p50": _quantile(self.delays.get(kind), 0.5),
                "delay_periods_p95": _quantile(self.delays.get(kind), 0.95),
            }
            for kind, n in sorted(self.events.items())
        }
        wrong = sorted(((n, a, b) for (a, b), n in self.confusion.items() if a != b), reverse=True)
        return {
            "events": sum(self.events.values()),
            "recall": round(self.recall(), 4),
            "worst_recall": min((round(self.found[k] / n, 4) for k, n in self.events.items()), default=1.0),
            "named": round(self.named_share(), 4),
            "precision": round(self.precision(), 4),
            "incidents": self.incidents,
            "false": len(self.false),
            "kinds": kinds,
            "confusion": [{"done": a, "said": b, "events": n} for n, a, b in wrong],
        }


def rows_of(found: pl.DataFrame) -> list[dict[str, Any]]:
    """The incidents of `detect` as rows for `Score.add`."""
    import polars as pl

    return found.with_columns(pl.col("detected").cast(pl.Int64)).to_dicts()


def poisson_bound(seen: int, per: float) -> float:
    """Upper 95 % bound of a rate of which `seen` events came in an exposure `per` (exact for 0, Wilson-Hilferty else).

    Examples
    --------
    >>> round(poisson_bound(0, 1.0), 2), round(poisson_bound(10, 1.0), 1)
    (3.0, 17.0)
    """
    if per <= 0:
        return float("inf")
    if seen == 0:
        return float(-np.log(0.05)) / per
    k = seen + 1
    return float(k * (1.0 - 1.0 / (9 * k) + 1.645 / (3 * np.sqrt(k))) ** 3) / per


def _quantile(values: list[float] | None, q: float) -> float | None:
    return round(float(np.quantile(values, q)), 1) if values else None
