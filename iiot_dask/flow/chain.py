"""A run of a pipeline as a chain of Dask futures: state stays on the worker, results come back, a lost worker is replayed.

Each push is one task over the future of the one before it. A chain keeps what it sent since its last checkpoint (bounded);
when a task is lost, a new chain starts from the checkpoint, is sent the same rows again, and results that were already given
out are not given out twice: a run is deterministic, so the n-th result is the n-th result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from iiot_dask.core.errors import CapacityError
from iiot_dask.flow.builder import Pipeline
from iiot_dask.flow.runner import Counts, Runner

KEPT_MAX = 64
"""Pushes between two checkpoints; so many frames are kept to be sent again, twice as many while workers go away."""
LOSSES_MAX = 20
"""Chains lost one after the other without a result in between, before the run gives up."""


@dataclass(slots=True)
class Step:
    """What a task leaves on the worker (`run`) and what of it travels."""

    index: int
    run: Runner
    out: pl.DataFrame
    counts: Counts
    dirty: dict[str, list[tuple[int, int]]]


def first(pipeline: Pipeline, checkpoint: bytes | None) -> Step:
    """The begin of a chain: fresh, or from a checkpoint."""
    run = Runner(pipeline) if checkpoint is None else Runner.resume(pipeline, checkpoint)
    return Step(0, run, pl.DataFrame(), run.counts, {})


def push(before: Step, frame: pl.DataFrame | None, now_ns: int, index: int) -> Step:
    """One link: rows in (None: the end). Refuses a state that has moved on, which Dask may hand it when it recomputes."""
    if before.index != index:
        msg = f"the state has seen {before.index} pushes, this is number {index}: the chain must start from its checkpoint"
        raise CapacityError(msg)
    run = before.run
    before.index = -1
    out = run.finish() if frame is None else run.push(frame, now_ns)
    return Step(index + 1, run, out, run.counts, run.take_dirty())


def visible(step: Step) -> tuple[pl.DataFrame, Counts, dict[str, list[tuple[int, int]]]]:
    """What of a link travels back."""
    return step.out, step.counts, step.dirty


def saved(step: Step) -> bytes:
    """The checkpoint of a link."""
    return step.run.checkpoint()


class Chain:
    """A pipeline run on a Dask cluster, one push after the other.

    Parameters
    ----------
    client
        A `distributed.Client` (not asynchronous).
    pipeline
        What to run.
    checkpoint
        Go on from here.
    """

    def __init__(self, client: Any, pipeline: Pipeline, checkpoint: bytes | None = None) -> None:
        self.client = client
        self.pipeline = pipeline
        self.base = checkpoint
        self.kept: list[tuple[pl.DataFrame | None, int]] = []
        self.counts = Counts()
        self.losses = 0
        self._head: Any = None
        self._sent = 0

    def push(self, frame: pl.DataFrame | None, now_ns: int) -> tuple[pl.DataFrame, dict[str, list[tuple[int, int]]]]:
        """Send rows (None: the end) and wait; (rows that are now certain, spans of time late rows touched by tag).

        Raises
        ------
        CapacityError
            If the chain is lost `LOSSES_MAX` times in a row.
        """
        self.kept.append((frame, now_ns))
        for _ in range(LOSSES_MAX):
            try:
                out, self.counts, dirty = self._answer()
            except Exception as error:
                if not _lost(error):
                    self.kept.pop()
                    raise
                self.losses += 1
                self._head = None
                continue
            if len(self.kept) >= KEPT_MAX:
                self._save()
            return out, dirty
        msg = f"the run was lost {LOSSES_MAX} times in a row; the cluster has no worker that stays"
        raise CapacityError(msg)

    def _answer(self) -> Any:
        if self._head is None:
            self._head = self.client.submit(first, self.pipeline, self.base, pure=False)
            self._sent = 0
        answer: Any = None
        while self._sent < len(self.kept):
            frame, now_ns = self.kept[self._sent]
            self._head = self.client.submit(push, self._head, frame, now_ns, self._sent, pure=False)
            self._sent += 1
            # Results of pushes that were answered before are made again for their state only.
            answer = self.client.submit(visible, self._head, pure=False)
        return answer.result()

    def _save(self) -> None:
        try:
            self.base = self.client.submit(saved, self._head, pure=False).result()
        except Exception as error:
            if not _lost(error) or len(self.kept) >= 2 * KEPT_MAX:
                raise
            # The worker went at this moment: the frames are still kept, the next push sends them again and saves.
            self.losses += 1
        else:
            self.kept.clear()
        self._head = None

    def close(self) -> None:
        """Let go of the state on the workers."""
        self._head = None
        self.kept.clear()


def _lost(error: BaseException) -> bool:
    """Whether an error means that the chain's state is gone, not that the pipeline is wrong."""
    return isinstance(error, (CapacityError, OSError)) or type(error).__name__ in {
        "KilledWorker", "CancelledError", "FutureCancelledError", "FuturesCancelledError", "TimeoutError", "NoValidWorkerError",
    }  # fmt: skip
