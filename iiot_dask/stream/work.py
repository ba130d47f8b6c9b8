"""What runs on a worker for each micro-batch and shard: one fused, pure task over a chained state.

`Work` is supplied by whoever composes the pipeline (it knows health and history, which are later stages); this module
only fixes the shape of the chain and refuses to apply a micro-batch twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from iiot_dask.core.batch import Batch
from iiot_dask.core.errors import DataError


class ChainError(DataError):
    """A state met a micro-batch that is not its next one: the chain must restart from its checkpoint."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to do with one micro-batch: its `index` in the epoch, the time, and at a flush the epoch's offsets."""

    index: int
    now_ns: int
    flush: bool
    epoch_first: int
    stop: int


@dataclass(frozen=True, slots=True)
class Flushed:
    """What a flush produced: files (not yet committed) and the state that follows from them."""

    entries: tuple[Any, ...]
    checkpoint: bytes


@dataclass(frozen=True, slots=True)
class ShardResult:
    """A step's small answer: `rows` taken in, `output` for the pipeline's own use, `flushed` at the end of an epoch."""

    shard: int
    rows: int
    output: Any
    flushed: Flushed | None = None


class Work(Protocol):
    """The per-shard program; picklable and stateless itself."""

    def start(self, shard: int, shards: int, checkpoint: bytes | None) -> Any:
        """The state to begin an epoch with: restored, or fresh when there is no checkpoint."""
        ...

    def step(self, state: Any, batch: Batch, order: Order) -> ShardResult:
        """Fold one micro-batch into `state` (in place) and answer; with `order.flush` also write the epoch's files."""
        ...


@dataclass(slots=True)
class Link:
    """One link of the chain: the shard's state after `index` micro-batches of the epoch, and the last answer."""

    index: int
    state: Any
    result: ShardResult | None


def run_step(work: Work, before: Link | bytes | None, shard: int, shards: int, batch: Batch, order: Order) -> Link:
    """The Dask task: the link after `before`.

    `before` is the previous link, or at the start of an epoch the checkpoint (None: start afresh). The state is changed
    in place, so a link can be used once; when Dask recomputes a task after losing a worker it may meet a state that has
    moved on, and that is refused here.

    Raises
    ------
    ChainError
        If the state has already seen this micro-batch, or misses one before it.
    """
    if isinstance(before, Link):
        if before.index != order.index:
            msg = f"shard {shard}: state has seen {before.index} micro-batches of the epoch, order is number {order.index}"
            raise ChainError(msg)
        state = before.state
        before.index = -1
    else:
        if order.index != 0:
            msg = f"shard {shard}: order number {order.index} came with a checkpoint; only number 0 may"
            raise ChainError(msg)
        state = work.start(shard, shards, before)
    return Link(order.index + 1, state, work.step(state, batch, order))


def pick(link: Link) -> ShardResult:
    """The answer of a link, without its state: this is what travels back."""
    assert link.result is not None
    return link.result
