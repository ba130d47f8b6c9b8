"""`map`: a user's function over a history, tag by tag or stretch by stretch, on a Dask cluster.

Few, big tasks: each reads one bundle of tags (or one stretch of time) of one version of the table and calls the function.
A task that fails is tried again by Dask; what a function raises in the end comes back with the name of the tag. Only
descriptions and results travel, never samples.
"""

from __future__ import annotations

import contextlib
import glob
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import polars as pl

from iiot_dask.core.errors import ConfigError, IiotError
from iiot_dask.history.frames import Part, edges_of, opened
from iiot_dask.history.index import Rows

if TYPE_CHECKING:
    from iiot_dask.history.queries import Queries, Tags

Function = Callable[[pl.DataFrame], Any]
Progress = Callable[[int, int], None]
TASK_ROWS = 8_000_000
"""Samples of a task, about, when functions are called tag by tag."""
TASKS_MAX = 10_000
BY = ("tag", "time")


class MapError(IiotError):
    """A function failed on a tag or a stretch of time, also when tried again; its own error is the cause."""


@dataclass(frozen=True, slots=True)
class Task:
    """One call on the cluster: what to read, and whether the function is called for each of `names` on its own."""

    part: Part
    names: tuple[str, ...] | None
    function: bytes
    """Pickled by us: a worker that can not load it says so, where Dask's own transport would hang."""

    @property
    def title(self) -> str:
        """What it is about, for an error."""
        if self.names is None:
            return f"the stretch {np.datetime64(self.part.start, 'ns')} to {np.datetime64(self.part.last, 'ns')}"
        return f"tags {self.names[0]!r} to {self.names[-1]!r}"


def run(task: Task) -> pl.DataFrame:
    """Carry out one task, on a worker."""
    try:
        function: Function = cloudpickle.loads(task.function)
    except Exception as error:
        msg = f"the function can not be loaded on a worker: {type(error).__name__}: {error}"
        raise MapError(msg) from error
    history = opened(task.part)
    if task.names is None:
        tags = task.part.tags if isinstance(task.part.tags, str) else list(task.part.tags)
        frames = list(history.frames(tags, task.part.start, last=task.part.last))
        whole = pl.concat(frames) if frames else _no_samples()
        return _called(function, whole, task.title, {"start": _moment(task.part.start)})
    found: dict[Any, list[pl.DataFrame]] = {}
    for frame in history.frames([glob.escape(n) for n in task.names], task.part.start, last=task.part.last):
        for (name,), rows in frame.partition_by("tag", as_dict=True, maintain_order=True).items():
            found.setdefault(name, []).append(rows)
    results = [
        _called(function, pl.concat(found[name]), f"tag {name!r}", {"tag": name})
        for name in task.names
        if name in found
    ]
    return pl.concat(results, how="diagonal_relaxed") if results else pl.DataFrame()


def _called(function: Function, frame: pl.DataFrame, about: str, label: Mapping[str, Any]) -> pl.DataFrame:
    try:
        result = function(frame)
        if isinstance(result, pl.LazyFrame):
            result = result.collect()
        if isinstance(result, Mapping):
            result = pl.DataFrame([dict(result)])
        elif not isinstance(result, pl.DataFrame):
            result = pl.DataFrame({"result": [result]})
    except Exception as error:
        msg = f"the function failed on {about} ({frame.height} samples): {type(error).__name__}: {error}"
        raise MapError(msg) from error
    missing = [pl.lit(value).alias(name) for name, value in label.items() if name not in result.columns]
    return result.select(*missing, pl.all())


def _no_samples() -> pl.DataFrame:
    from iiot_dask.history.scan import SCHEMA

    return pl.DataFrame(schema=SCHEMA)


def _moment(ns: int) -> Any:
    return pl.Series([ns]).cast(pl.Datetime("ns", "UTC")).item()


def mapped(
    history: Queries,
    function: Function,
    tags: Tags,
    start: int,
    last: int,
    *,
    by: str,
    client: Any,
    retries: int,
    rows: int,
    progress: Progress | None,
) -> pl.DataFrame:
    """See `Queries.map`."""
    if by not in BY:
        msg = f"by {by!r} is not known; {' or '.join(map(repr, BY))} is wanted"
        raise ConfigError(msg)
    if rows < 1:
        msg = f"rows {rows!r} a task; 1 or more is wanted"
        raise ConfigError(msg)
    if retries < 0:
        msg = f"retries {retries!r}; 0 or more is wanted"
        raise ConfigError(msg)
    found, ids = history.select(tags, start, last)
    packed = cloudpickle.dumps(function)
    tasks = (
        _by_tag(history, packed, found, ids, start, last, rows)
        if by == "tag"
        else _by_time(history, packed, tags, found, start, last, rows)
    )
    if len(tasks) > TASKS_MAX:
        msg = f"{len(tasks):,} tasks of about {rows:,} samples; at most {TASKS_MAX:,}: give more rows a task"
        raise ConfigError(msg)
    with _client(client) as there:
        results = _gathered(there, tasks, retries, progress)
    results = [r for r in results if r.width]
    return pl.concat(results, how="diagonal_relaxed") if results else pl.DataFrame()


def _by_tag(history: Queries, function: bytes, found: Rows, ids: Any, start: int, last: int, rows: int) -> list[Task]:
    """Bundles of neighbouring tags of about `rows` samples."""
    weight = np.zeros(len(ids) + 1)
    low = np.searchsorted(ids, found.head["tag_min"])
    high = np.searchsorted(ids, found.head["tag_max"], side="right")
    share = found.head["count"] / np.maximum(high - low, 1)
    np.add.at(weight, low, share)
    np.add.at(weight, high, -share)
    total = np.cumsum(np.cumsum(weight)[:-1])
    cuts = np.searchsorted(total, np.arange(rows, (total[-1] if len(total) else 0) + rows, rows)) + 1
    edges = sorted({0, *np.minimum(cuts, len(ids)).tolist()})
    names = history.tags.series(ids).to_list()
    out = []
    for a, b in pairwise(edges):
        mine = tuple(names[a:b])
        part = Part.of(history, tuple(glob.escape(n) for n in mine), start, last, None, found, ids[a:b])
        out.append(Task(part, mine, function))
    return out


def _by_time(
    history: Queries, function: bytes, tags: Tags, found: Rows, start: int, last: int, rows: int
) -> list[Task]:
    pattern = tags if isinstance(tags, str) else tuple(tags)
    return [
        Task(Part.of(history, pattern, a, b, None, found, None), None, function)
        for a, b in edges_of(found, start, last, rows)
    ]


@contextlib.contextmanager
def _client(given: Any) -> Iterator[Any]:
    """The client given, or one of a cluster of threads that ends with the question."""
    if given is not None:
        yield given
        return
    from distributed import Client, LocalCluster

    # Threads: decoding releases the GIL, and nothing has to be sent anywhere.
    with (
        LocalCluster(
            processes=False,
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
            silence_logs=50,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def _gathered(client: Any, tasks: Sequence[Task], retries: int, progress: Progress | None) -> list[pl.DataFrame]:
    """Results in the order of the tasks; whatever ends the wait early (Ctrl-C too) cancels what is left."""
    from distributed import as_completed

    key = f"iiot-map-{time.time_ns():x}"
    futures = [client.submit(run, task, key=f"{key}-{i}", retries=retries, pure=False) for i, task in enumerate(tasks)]
    place = {future.key: i for i, future in enumerate(futures)}
    out: list[pl.DataFrame | None] = [None] * len(tasks)
    try:
        for done, future in enumerate(as_completed(futures, loop=client.loop), start=1):
            i = place[future.key]
            if future.status != "finished":
                error = future.exception()
                if isinstance(error, MapError):
                    raise error
                msg = f"{tasks[i].title} could not be worked on: {type(error).__name__}: {error}"
                raise MapError(msg) from error
            out[i] = future.result()
            if progress is not None:
                progress(done, len(tasks))
    finally:
        client.cancel(futures, force=True)
    return [frame for frame in out if frame is not None]
