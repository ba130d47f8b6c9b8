"""Labelled records of the fault lab: many tags in a tree, some with faults, some with changes that are none.

`faulty_record` gives each kind in turn to half of the tags; `healthy_chunk` fills arrays fast with healthy tags for
counting false alarms over very many messages; `outage_record` takes gateways or a site away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from iiot_dask.core.batch import Batch
from iiot_dask.sim.faultlab import END_S, Rows, healthy
from iiot_dask.sim.faultlab_kinds import FAULTS, HARMLESS, VALUE_KINDS, analog

if TYPE_CHECKING:
    import polars as pl

S = 1_000_000_000
NODE_TAGS = 20
"""Tags of one device in a record."""


@dataclass(frozen=True, slots=True)
class Label:
    """What was done to a node: kind, from when to when (receive time, ns since 1970-01-01 UTC), to which tags.

    `harmless` = it must not be named a fault; `period_s` is that of the tag (of the slowest of the members).
    """

    node: str
    kind: str
    start_ns: int
    end_ns: int
    tags: tuple[str, ...]
    period_s: float
    harmless: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """Rows ``tag``, ``time``, ``value``, ``quality``, ``received``, ``seq`` in order of `received` (int64 ns); the tree; the truth."""

    frame: pl.DataFrame
    topology: pl.DataFrame
    labels: tuple[Label, ...]

    @property
    def until_ns(self) -> int:
        """When observation ended, ns."""
        return int(self.frame["received"][-1])


def faulty_record(
    tags: int = 464,
    samples: int = 2400,
    *,
    seed: int,
    strength: float = 1.0,
    faulty: float = 0.5,
    overlap: float = 0.0,
    kinds: tuple[str, ...] = tuple(FAULTS),
) -> Record:
    """Tags of which a share has a fault, each kind in turn; a fourth of the others has a harmless change.

    Parameters
    ----------
    tags, samples
        Tags, and samples of each before faults.
    seed
        Tune below 1000, report from 1000 on.
    strength
        1.0 strong, 0.5 half, 0.25 quarter.
    faulty, overlap
        Share of tags with a fault, and share of those with a second one of another sort in the same time.
    kinds
        Which.

    Examples
    --------
    >>> record = faulty_record(64, 600, seed=1)
    >>> record.frame.columns
    ['tag', 'time', 'value', 'quality', 'received', 'seq']
    >>> sum(not label.harmless for label in record.labels), record.labels[0].kind
    (32, 'silence')
    """
    rng = np.random.default_rng(seed)
    parts: list[Rows] = []
    names: list[str] = []
    labels: list[Label] = []
    for i in range(tags):
        name = f"site/gateway{i // (4 * NODE_TAGS)}/device{i // NODE_TAGS}/tag{i}"
        # Every second tag, so that no device has a majority of faulty ones.
        ill = (i % 2 == 0 and i / 2 < faulty * tags) if faulty <= 0.5 else i < faulty * tags
        if ill:
            kind = kinds[(i // 2 if faulty <= 0.5 else i) % len(kinds)]
            second = None
            if rng.random() < overlap:
                others = [k for k in ("spike", "step") if kind not in VALUE_KINDS and kind not in _MUTE_VALUE]
                others = others or [k for k in ("duplicate", "bad_quality") if kind in VALUE_KINDS]
                second = str(rng.choice(others)) if others else None
            rows = analog(samples, rng) if VALUE_KINDS & {kind, second} else healthy(samples, rng)
            rows, done = _spoil(rows, [k for k in (kind, second) if k], name, strength, rng)
            labels += done
        else:
            rows = healthy(samples, rng)
            if rng.random() < 0.25:
                rows, label = _harmless(rows, name, rng)
                labels.append(label)
        parts.append(rows)
        names.append(name)
    return Record(_frame(names, parts), tree(names), tuple(labels))


_MUTE_VALUE = frozenset(
    {"silence", "flapping", "schema_change", "corrupt", "clock_stuck", "bad_quality", "identity", "epoch"}
)
"""Kinds that leave too little of the value for a second fault in it."""


def _spoil(
    rows: Rows, kinds: list[str], name: str, strength: float, rng: np.random.Generator
) -> tuple[Rows, list[Label]]:
    ends = [int(len(rows.time) * x) for x in (rng.uniform(0.4, 0.5), rng.uniform(0.75, 0.9))]
    start, end = rows.time[ends]
    began, over = float(rows.received[ends[0]]), float(rows.received[ends[1] - 1])
    labels = []
    for kind in kinds:
        on = (rows.time >= start) & (rows.time < end)
        if on.any():
            rows = FAULTS[kind](rows, on, strength, rng)
            labels.append(Label(name, kind, round(began * S), round(over * S), (name,), rows.period))
    return rows, labels


def _harmless(rows: Rows, name: str, rng: np.random.Generator) -> tuple[Rows, Label]:
    what = str(rng.choice(list(HARMLESS)))
    at = int(len(rows.time) * rng.uniform(0.4, 0.8))
    when = round(float(rows.received[at]) * S)
    return HARMLESS[what](rows, at, rng), Label(name, what, when, when, (name,), rows.period, harmless=True)


def shift_record(tags: int = 60, samples: int = 1600, *, seed: int) -> Record:
    """Devices of which one changes its schedule as a whole, with all its tags at once: that is information, no fault."""
    rng = np.random.default_rng(seed)
    parts, names, members, when = [], [], [], 0.0
    factor = int(rng.choice([2, 3]))
    for i in range(tags):
        name = f"site/gateway0/device{i // NODE_TAGS}/tag{i}"
        rows = healthy(samples, rng)
        if i < NODE_TAGS:
            when = when or END_S - rng.uniform(0.3, 0.5) * samples * rows.period
            rows = _at_period(rows, 10.0)
            on = rows.time >= when
            if on.any():
                rows = FAULTS["slow" if factor == 3 else "burst"](rows, on, 1.0 if factor == 3 else 0.5, rng)
            members.append(name)
        parts.append(rows)
        names.append(name)
    label = Label(
        "site/gateway0/device0",
        "schedule_change",
        round(when * S),
        round(END_S * S),
        tuple(members),
        30.0,
        harmless=True,
    )
    return Record(_frame(names, parts), tree(names), (label,))


def _at_period(rows: Rows, period: float) -> Rows:
    """The same tag at another period."""
    k = period / rows.period
    rows.received = END_S + (rows.time - END_S) * k + (rows.received - rows.time)
    rows.time = END_S + (rows.time - END_S) * k
    rows.jitter_s *= k
    rows.period = period
    return rows


def outage_record(
    gateways: int = 20, tags: int = 250, *, seed: int, gone: int = 1, period_s: float = 10.0, samples: int = 100
) -> Record:
    """A site of gateways; `gone` of them lose everything below for a while. All of them gone is the site's outage."""
    rng = np.random.default_rng(seed)
    names = [f"site/gateway{g}/device{d // 50}/tag{d}" for g in range(gateways) for d in range(tags)]
    n = len(names)
    k = np.arange(samples)
    period = period_s * rng.choice([0.5, 1.0, 2.0], n)
    count = (samples * period_s / period).astype(int)
    tag = np.repeat(np.arange(n), count)
    k = np.arange(len(tag)) - np.repeat(np.cumsum(count) - count, count)
    span = samples * period_s
    time = END_S - span + (k + rng.random(n)[tag]) * period[tag] + rng.normal(0, 0.01, len(tag)) * period[tag]
    received = time + rng.exponential(0.02, len(tag))
    start, end = END_S - 0.5 * span, END_S - 0.2 * span
    down = (received >= start) & (received < end) & (tag < gone * tags)
    keep = np.flatnonzero(~down & (rng.random(len(tag)) > 0.002))
    keep = keep[np.argsort(received[keep], kind="stable")]
    value = rng.normal(size=len(keep)).round(3)
    frame = _polars(names, tag[keep], time[keep], value, np.zeros(len(keep), np.uint8), received[keep], None)
    node = "site" if gone == gateways else "site/gateway0"
    label = Label(node, "outage", round(start * S), round(end * S), tuple(names[: gone * tags]), 2 * period_s)
    return Record(frame, tree(names), (label,))


def healthy_chunk(tags: int, samples: int, rng: np.random.Generator) -> tuple[Batch, float]:
    """Rows of `tags` healthy tags (ids from 0), tag by tag: the order a kernel needs, without sorting; and tag-days."""
    parts = []
    days = 0.0
    for _ in range(tags):
        rows = healthy(samples, rng)
        if rng.random() < 0.2:
            rows = HARMLESS[str(rng.choice(list(HARMLESS)))](rows, int(len(rows.time) * 0.6), rng)
        parts.append(rows.ordered())
        days += samples * parts[-1].period / 86_400
    return Batch.of(
        tag=np.repeat(np.arange(tags), [len(p.time) for p in parts]),
        time=np.concatenate([_ns(p.time) for p in parts]),
        value=np.concatenate([p.value for p in parts]),
        quality=np.concatenate([p.quality for p in parts]),
        received=np.concatenate([_ns(p.received) for p in parts]),
        seq=np.concatenate([p.seq for p in parts]).astype(np.uint64),
    ), days  # fmt: skip


def tree(names: list[str]) -> pl.DataFrame:
    """Rows (node, parent) of slash-separated names, tags as leaves, the root without a row."""
    import polars as pl

    parent: dict[str, str] = {}
    for name in names:
        node = name
        while "/" in node and node not in parent:
            parent[node] = node.rsplit("/", 1)[0]
            node = parent[node]
    return pl.DataFrame({"node": list(parent), "parent": list(parent.values())})


def _ns(seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    return (seconds * S).round().astype(np.int64)


def _frame(names: list[str], parts: list[Rows]) -> pl.DataFrame:
    tag = np.repeat(np.arange(len(parts)), [len(p.time) for p in parts])
    received = np.concatenate([p.received for p in parts])
    order = np.argsort(received, kind="stable")
    columns = [np.concatenate([getattr(p, c) for p in parts])[order] for c in ("time", "value", "quality", "seq")]
    time, value, quality, seq = columns
    return _polars(names, tag[order], time, value, quality, received[order], seq)


def _polars(
    names: list[str], tag: npt.NDArray[np.int64], time: npt.NDArray[np.float64], value: npt.NDArray[np.float64],
    quality: npt.NDArray[np.uint8], received: npt.NDArray[np.float64], seq: npt.NDArray[np.int64] | None,
) -> pl.DataFrame:  # fmt: skip
    import polars as pl

    columns = {
        "tag": pl.Series(names, dtype=pl.String)[tag],
        "time": _ns(time),
        "value": value,
        "quality": quality,
        "received": _ns(received),
    }
    return pl.DataFrame(columns if seq is None else {**columns, "seq": np.maximum(seq, 0).astype(np.uint64)})
