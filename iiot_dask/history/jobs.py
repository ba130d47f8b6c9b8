"""Where the work of compaction, retention and verification is done: here, or on the workers of any Dask cluster.

A job is a picklable thing with a function that needs nothing but it. Jobs of one call touch different files, so they may run in
any order; what changes the table (the commit) stays with the caller. A worker that dies costs its jobs: Dask runs them again
elsewhere, up to `RETRIES` times, and as a job's files are named by the job, they overwrite what the first try left behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from iiot_dask.core.errors import CapacityError, IiotError

RETRIES = 3
"""Times a job is run again because its worker died or its storage failed."""
AHEAD = 2
"""Jobs handed to the cluster for each of its threads."""

J = TypeVar("J")
R = TypeVar("R")


def run_jobs(jobs: Sequence[J], work: Callable[[J], R], client: Any | None = None) -> Iterator[tuple[J, R]]:
    """Each job and its result, as they are done; here one after the other, or on the workers of a Dask client.

    Raises
    ------
    IiotError
        What a job raised; the rest is cancelled.
    CapacityError
        If the cluster lost a job again and again.
    """
    if client is None:
        for job in jobs:
            yield job, work(job)
        return
    from distributed import as_completed

    todo = list(reversed(jobs))
    room = max(1, AHEAD * sum(client.nthreads().values()))
    running: dict[Any, J] = {}

    def submit() -> Any:
        job = todo.pop()
        future = client.submit(work, job, retries=RETRIES, pure=False)
        running[future] = job
        return future

    done = as_completed([submit() for _ in range(min(room, len(todo)))])
    try:
        for future in done:
            job = running.pop(future)
            try:
                result = future.result()
            except IiotError:
                raise
            except Exception as error:
                msg = f"a job failed on the cluster {RETRIES + 1} times: {error}"
                raise CapacityError(msg) from error
            if todo:
                done.add(submit())
            yield job, result
    finally:
        client.cancel(list(running))
