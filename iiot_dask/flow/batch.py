"""A pipeline over history: on this machine share by share of the tags, or the same shares as tasks of a Dask cluster.

The operators are the live ones. Those at the front that work tag by tag run in shares; what sees several tags runs at the
end over what they gave. History is read slice by slice of time, so a year needs no more memory than a slice.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from iiot_dask.core.times import TimeLike, time_ns
from iiot_dask.flow.builder import Pipeline
from iiot_dask.flow.marks import END
from iiot_dask.flow.runner import Runner
from iiot_dask.history import History

SLICE_ROWS = 8_000_000
"""About this many rows are in memory at a time in each share."""
_LOWEST, _HIGHEST = -(2**63), 2**63 - 1
SHARES_PER_WORKER = 4
"""More shares than workers, so that a slow one does not hold up the end."""


@dataclass(frozen=True, slots=True)
class Extent:
    """What part of a history a run reads: tags, and the times (ns) at which it is cut into slices, first and last included."""

    tags: tuple[str, ...]
    cuts: tuple[int, ...]


def extent(pipeline: Pipeline, history: History, start: TimeLike | None, end: TimeLike | None) -> Extent | None:
    """The part of history a pipeline reads; None where no tag matches.

    Slices are cut so that a share of all tags has about `SLICE_ROWS` rows in one. Before the first and after the last
    committed row the first and the last slice are open: rows may be in the journal only.
    """
    tags = tuple(history.tags.series(history.tags.ids(list(pipeline.tags))).to_list())
    first = _LOWEST if start is None else time_ns(start)
    last = _HIGHEST if end is None else time_ns(end)
    if not tags or first >= last:
        return None
    info = history.info()
    inner: list[int] = []
    if info.start is not None and info.end is not None:
        begin, stop = time_ns(info.start), time_ns(info.end)
        rate = info.rows * len(tags) / max(info.tags, 1) / (stop - begin + 1)
        step = max(int(SLICE_ROWS / max(rate, 1e-30)), 1_000_000_000)
        inner = [at for at in range(begin + step, stop, step) if first < at < last]
    return Extent(tags, (first, *inner, last))


def literal(tag: str) -> str:
    """A glob that selects exactly this tag."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in tag)


def _slices(history: History, part: Extent) -> Iterator[tuple[pl.DataFrame, int]]:
    globs = [literal(tag) for tag in part.tags]
    for at, stop in itertools.pairwise(part.cuts):
        span = {"start": None if at == _LOWEST else at, "end": None if stop == _HIGHEST else stop}
        yield history.scan(globs, **span).collect(), stop - 1


def run_share(pipeline: Pipeline, history: History, part: Extent) -> pl.DataFrame:
    """Run all of a pipeline over one share of the tags, slice by slice."""
    run = Runner(pipeline)
    parts = [run.feed(rows, upto) for rows, upto in _slices(history, part)]
    return pl.concat([*parts, run.finish()])


def _remote(pipeline: Pipeline, place: tuple[str, dict[str, str] | None], part: Extent) -> pl.DataFrame:
    url, options = place
    with History(url, storage_options=options) as history:
        return run_share(pipeline, history, part)


def _shares(tags: Sequence[str], count: int) -> list[tuple[str, ...]]:
    count = max(1, min(count, len(tags)))
    return [tuple(tags[i::count]) for i in range(count)]


def run_over(
    pipeline: Pipeline,
    history: History,
    start: TimeLike | None = None,
    end: TimeLike | None = None,
    *,
    client: Any = None,
) -> pl.DataFrame:
    """What `Pipeline.over` does; rows sorted by tag and time.

    Parameters
    ----------
    client
        A `distributed.Client`: shares of tags run as its tasks (history must be reachable from its workers).
    """
    part = extent(pipeline, history, start, end)
    if part is None:
        return Runner(pipeline).finish()
    front = replace(pipeline, operators=pipeline.operators[: pipeline.keyed])
    back = replace(pipeline, operators=pipeline.operators[pipeline.keyed :])
    if client is None:
        return run_share(pipeline, history, part).sort("tag", "time")
    workers = max(1, sum(client.nthreads().values()))
    place = (history.store.url, history.store.options)
    futures = client.map(
        lambda tags: _remote(front, place, replace(part, tags=tags)),
        _shares(part.tags, workers * SHARES_PER_WORKER),
        pure=False,
    )
    rows = pl.concat(client.gather(futures))
    return (_second(back, rows) if back.operators else rows).sort("tag", "time")


def _second(back: Pipeline, rows: pl.DataFrame) -> pl.DataFrame:
    """The operators across tags over what the shares gave."""
    return Runner(back).feed_made(rows, END)
