"""The precision planner: what each bound would save and cost, for a person to choose from.

For every tag class (the last part of the tag's path) it looks at the noise floor and the natural resolution, tries
bounds on the samples themselves, and writes the `[[classes]]` section of its advice. Nothing is decided for the user.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from iiot_dask.codec.bits import Floats, Ints
from iiot_dask.codec.features import kept
from iiot_dask.codec.grid import DECIMAL, DECIMALS_MAX, MULTIPLE
from iiot_dask.codec.lattice import DIVIDE
from iiot_dask.codec.precision import Precision
from iiot_dask.codec.search import best_proposal
from iiot_dask.codec.times import encode_times, snap_times
from iiot_dask.codec.values import decode_values, encode_values
from iiot_dask.core.errors import SchemaError
from iiot_dask.core.times import span_text

if TYPE_CHECKING:
    import polars as pl

SHARES = (0.0, 1e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2)
SNAPS_NS = (1, 1_000, 1_000_000, 10_000_000)
SAMPLES_MAX = 65_536
TAGS_MAX = 8
_YEAR_NS = 365.25 * 86400e9


@dataclass(frozen=True, slots=True)
class Option:
    """One bound tried on one class.

    Bounds and errors are in the unit of the values; `ratio` is 16 bytes a sample over the bytes of times and values;
    `year_mb` is what one tag stores in a year at the period seen, MB (10**6 bytes).
    """

    share: float
    bound: float
    ratio: float
    max_error: float
    rms_error: float
    peaks: float
    crossings: float
    energy: float
    year_mb: float


@dataclass(frozen=True, slots=True)
class ClassPlan:
    """One class: what was seen, what was tried, what is advised."""

    match: str
    tags: int
    samples: int
    span: float
    noise: float
    resolution: float
    period_ns: int
    snap_ns: int
    options: tuple[Option, ...]
    advised: Option


@dataclass(frozen=True, slots=True)
class Plan:
    """Plans of all classes; shows itself in a notebook.

    Examples
    --------
    >>> import polars as pl
    >>> rng = np.random.default_rng(1)
    >>> x = 20 + np.sin(np.arange(3000) / 200) + rng.normal(0, 0.05, 3000)
    >>> plan = plan_precision(pl.DataFrame({"tag": "a/temp", "time": np.arange(3000) * 10**9, "value": x}))
    >>> print(plan.toml())
    [[classes]]
    match = "*/temp"
    error_bound = 0.02
    period = "1s"
    """

    classes: tuple[ClassPlan, ...] = field(default_factory=tuple)

    def table(self) -> pl.DataFrame:
        """One row a class and bound; `advised` marks the choice `toml` writes."""
        import polars as pl

        rows = [
            {
                "match": c.match,
                **{name: getattr(o, name) for name in Option.__dataclass_fields__},
                "advised": o is c.advised,
            }
            for c in self.classes
            for o in c.options
        ]
        return pl.DataFrame(rows)

    def toml(self) -> str:
        """`[[classes]]` sections for the plant file."""
        import tomli_w

        sections = []
        for c in self.classes:
            section: dict[str, Any] = {"match": c.match}
            if c.advised.bound > 0:
                section["error_bound"] = c.advised.bound
            if c.snap_ns > 1:
                section["time_snap"] = span_text(c.snap_ns)
            if c.period_ns > 0:
                section["period"] = span_text(c.period_ns)
            # One array table a class, as people write it; tomli_w would make one inline array of them all.
            sections.append(f"[[classes]]\n{tomli_w.dumps(section)}")
        return "\n".join(sections).strip()

    def plot(self) -> Any:
        """Ratio against largest error, one line a class (a Bokeh figure)."""
        from bokeh.palettes import Category10_10
        from bokeh.plotting import figure

        plot = figure(
            width=720,
            height=360,
            x_axis_type="log",
            y_axis_type="log",
            x_axis_label="largest error, share of span",
            y_axis_label="ratio to 16 bytes a sample",
            title="What precision costs",
        )
        for at, c in enumerate(self.classes):
            lossy = [o for o in c.options if o.share > 0]
            x, y = [o.max_error / c.span if c.span else 0.0 for o in lossy], [o.ratio for o in lossy]
            color = Category10_10[at % 10]
            plot.line(x, y, legend_label=c.match, color=color)
            plot.scatter(x, y, legend_label=c.match, color=color, size=7)
        if self.classes:
            plot.legend.location = "top_left"
        return plot

    def _repr_html_(self) -> str:
        """The table and the advised sections."""
        from html import escape

        return f"{self.table()._repr_html_()}<pre>{escape(self.toml())}</pre>"


def plan_precision(frame: pl.DataFrame) -> Plan:
    """Try bounds on samples and say what they save and cost.

    Parameters
    ----------
    frame
        Polars rows with ``tag`` (or ``sensor``: text), ``time`` (or ``ts``: a datetime or int64 ns), ``value``. Up to
        8 tags a class and 65,536 samples a tag are looked at.

    Raises
    ------
    SchemaError
        If a column is missing.
    """
    import polars as pl

    names = {}
    for wanted, other in (("tag", "sensor"), ("time", "ts"), ("value", "value")):
        found = next((n for n in (wanted, other) if n in frame.columns), None)
        if found is None:
            msg = f"frame has columns {frame.columns}; needed are tag, time and value"
            raise SchemaError(msg)
        names[found] = wanted
    rows = frame.select(pl.col(old).alias(new) for old, new in names.items())
    if isinstance(rows.schema["time"], pl.Datetime):
        rows = rows.with_columns(pl.col("time").dt.epoch("ns"))
    rows = rows.drop_nulls().with_columns(pl.col("tag").cast(pl.Utf8).str.split("/").list.last().alias("class"))
    plans = []
    for (name,), group in rows.group_by("class", maintain_order=True):
        tags = group.partition_by("tag", maintain_order=True)
        series = [_series(tag) for tag in tags[:TAGS_MAX]]
        nested = group["tag"].str.contains("/", literal=True).all()
        plans.append(_plan_class(f"*/{name}" if nested else str(name), len(tags), [s for s in series if len(s[0]) > 1]))
    return Plan(tuple(plan for plan in plans if plan is not None))


def _series(tag: pl.DataFrame) -> tuple[Ints, Floats]:
    part = tag.sort("time").head(SAMPLES_MAX)
    return part["time"].cast(int).to_numpy().astype(np.int64), part["value"].cast(float).to_numpy().astype(np.float64)


def noise_floor(x: Floats) -> float:
    """Standard deviation of what changes from sample to sample and has no trend, in the unit of x.

    The median of |second differences| over 0.6745 sqrt(6): half of a smooth signal cancels, outliers do not count.
    Source: von Neumann-type difference estimators, Gasser, Sroka and Jennen-Steinmetz, Biometrika 73 (1986).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> round(noise_floor(np.arange(9999) / 100 + rng.normal(0, 0.5, 9999)), 1)
    0.5
    """
    second = np.diff(x[np.isfinite(x)], n=2)
    return float(np.median(np.abs(second)) / (0.6745 * np.sqrt(6.0))) if len(second) else 0.0


def resolution(x: Floats) -> float:
    """The step of the grid the values lie on, in their unit; 0.0 = none was found.

    Examples
    --------
    >>> resolution(np.round(np.random.default_rng(0).normal(20, 1, 500), 1))
    0.1
    """
    (grid, param), _ = best_proposal(x)
    if DECIMAL <= grid <= DECIMAL + DECIMALS_MAX:
        return float(10.0 ** -(grid - DECIMAL))
    if grid == MULTIPLE:
        return param
    return 1.0 / param if grid == DIVIDE else 0.0


def _plan_class(match: str, tags: int, series: list[tuple[Ints, Floats]]) -> ClassPlan | None:
    if not series:
        return None
    spans = [float(np.ptp(x[np.isfinite(x)])) if np.isfinite(x).any() else 0.0 for _, x in series]
    noise = float(np.median([noise_floor(x) for _, x in series]))
    period = int(np.median(np.concatenate([np.diff(t) for t, _ in series])))
    snap = _snap(series, period)
    span = float(np.median(spans))
    options = tuple(_try(series, share, span, snap, period) for share in SHARES if share == 0.0 or span > 0)
    return ClassPlan(
        match, tags, sum(len(t) for t, _ in series), span, noise, float(np.median([resolution(x) for _, x in series])),
        period, snap, options, _advise(options, noise),
    )  # fmt: skip


def _snap(series: list[tuple[Ints, Floats]], period: int) -> int:
    """The coarsest snap of at most a hundredth of the period that pays; 1 = none."""
    sizes = {
        s: sum(len(encode_times(snap_times(t, s), tier="archive")) for t, _ in series)
        for s in SNAPS_NS
        if s * 100 <= period
    }
    best = min(sizes, key=lambda s: (sizes[s], s), default=1)
    return best if best > 1 and sizes[best] < 0.9 * sizes[1] else 1


def _advise(options: tuple[Option, ...], noise: float) -> Option:
    """The largest bound within half the noise that keeps 99 % of peaks and crossings; else lossless."""
    fine = [o for o in options if o.bound <= 0.5 * noise and o.peaks >= 0.99 and o.crossings >= 0.99]
    return max(fine, key=lambda o: (o.ratio, -o.bound), default=options[0])


def _nice(bound: float) -> float:
    """`bound` rounded down to 1, 2 or 5 times a power of ten."""
    if bound <= 0:
        return 0.0
    power = int(np.floor(np.log10(bound)))
    lead = bound / 10.0**power
    return float(f"{5 if lead >= 5 else 2 if lead >= 2 else 1}e{power}")


def _try(series: list[tuple[Ints, Floats]], share: float, span: float, snap: int, period: int) -> Option:
    """Encode all series under one bound and look at what came back."""
    bound = _nice(share * span)
    precision = Precision(error_bound=bound) if bound > 0 else None
    size = count = 0
    worst = squares = 0.0
    marks = []
    for t, x in series:
        blob = encode_values(x, precision, tier="archive")
        back = decode_values(blob)
        size += len(blob) + len(encode_times(snap_times(t, snap), tier="archive"))
        count += len(x)
        off = (back - x)[np.isfinite(x)]
        worst = max(worst, float(np.abs(off).max(initial=0.0)))
        squares += float(np.sum(off**2))
        marks.append(kept(x, back, bound))
    return Option(
        share, bound, 16.0 * count / size, worst, float(np.sqrt(squares / count)),
        float(np.mean([m.peaks for m in marks])), float(np.mean([m.crossings for m in marks])),
        float(np.max([m.energy for m in marks])), size / count * _YEAR_NS / max(period, 1) / 1e6,
    )  # fmt: skip
