"""The streamz graph: source -> shard steps on Dask -> buffer -> gather -> results. The only file that touches streamz.

Rules. Nodes get their client and their callbacks as arguments; nothing is ambient. A node never lets an exception out:
streamz' buffer would stop for ever without a word, so every failure becomes one call of `on_failure`. streamz' own
`accumulate` is not used because its chain of futures has no end: ours restarts from a checkpoint at every flush, which
also keeps the scheduler's memory flat.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from distributed import Client, Future
from streamz import Stream
from streamz.core import RefCounter
from streamz.dask import DaskStream

from iiot_dask.core.errors import CapacityError
from iiot_dask.stream.microbatch import MicroBatch, split
from iiot_dask.stream.work import Order, ShardResult, Work, pick, run_step

TRACEBACK_CHARS = 4000
"""Most characters of a step's traceback that are logged; its end is kept."""

log = structlog.get_logger("iiot_dask.stream")

OnResult = Callable[[MicroBatch, list[ShardResult]], None]
OnFailure = Callable[[MicroBatch, BaseException], None]


class DispatchError(CapacityError):
    """A micro-batch did not get to the workers, or its answer not back; says nothing about its rows."""


class ShardSteps(DaskStream):  # type: ignore[misc]  # streamz has no types
    """One Dask task a shard and micro-batch, chained through the shard's state."""

    def __init__(
        self, upstream: Any, client: Client, work: Work, shards: int, under_way: set[Future], on_failure: OnFailure
    ) -> None:
        self.client = client
        self.work = work
        self.shards = shards
        self.under_way = under_way
        self.on_failure = on_failure
        self.links: list[Future | bytes | None] = [None] * shards
        DaskStream.__init__(self, upstream)

    async def update(
        self,
        x: MicroBatch,
        who: Any = None,  # noqa: ARG002
        metadata: Any = None,
    ) -> None:
        """Submit the steps of one micro-batch."""
        self._retain_refs(metadata)
        try:
            futures = await self._submit(x)
        except Exception as error:  # noqa: BLE001 -- handed to on_failure, which restarts the epoch
            self.on_failure(x, _dispatch(error))
            self._release_refs(metadata)
        else:
            self.under_way.update(futures)
            for done in self._emit((x, futures), metadata=metadata):
                await done
        finally:
            self._release_refs(metadata)

    async def _submit(self, micro: MicroBatch) -> list[Future]:
        order = Order(micro.index, micro.now_ns, micro.flush, micro.epoch_first, micro.stop)
        parts = await self.client.scatter(split(micro.batch, self.shards), asynchronous=True, hash=False)
        results = []
        for shard, part in enumerate(parts):
            before = self.links[shard]
            if isinstance(before, bytes):
                # Straight to a worker: as an argument it would go through the scheduler.
                before = await self.client.scatter(before, asynchronous=True, hash=False)
            link = self.client.submit(
                run_step, self.work, before, shard, self.shards, part, order, pure=False, retries=0
            )
            self.links[shard] = link
            results.append(self.client.submit(pick, link, pure=False))
        return results


class GatherResults(Stream):  # type: ignore[misc]  # streamz has no types
    """Wait for the answers of a micro-batch and hand them on, in order."""

    def __init__(
        self, upstream: Any, client: Client, under_way: set[Future], on_result: OnResult, on_failure: OnFailure
    ) -> None:
        self.client = client
        self.under_way = under_way
        self.on_result = on_result
        self.on_failure = on_failure
        Stream.__init__(self, upstream, ensure_io_loop=True)

    async def update(
        self,
        x: tuple[MicroBatch, list[Future]],
        who: Any = None,  # noqa: ARG002
        metadata: Any = None,
    ) -> None:
        """Gather one micro-batch's answers."""
        micro, futures = x
        try:
            results = await self.client.gather(futures, asynchronous=True)
            self.on_result(micro, results)
        except Exception as error:  # noqa: BLE001 -- handed to on_failure, which restarts the epoch
            stepped = any(future.status == "error" for future in futures)
            if stepped:
                text = "".join(traceback.format_exception(error))[-TRACEBACK_CHARS:]
                log.warning("step failed", first=micro.first, stop=micro.stop, traceback=text)
            # The client keeps the error for as long as its future lives, and the traceback keeps the future.
            error = error.with_traceback(None)
            self.on_failure(micro, error if stepped else _dispatch(error))
        finally:
            self.under_way.difference_update(futures)
            # The buffer's loop still holds the list.
            futures.clear()
            # The reference `emit` began with.
            self._release_refs(metadata)


def _dispatch(error: Exception) -> DispatchError:
    out = DispatchError(f"{type(error).__name__}: {error}")
    out.__cause__ = error
    return out


class StreamGraph:
    """The graph of one pipeline.

    Parameters
    ----------
    client
        A synchronous Dask client; the graph lives on its event loop.
    work
        The per-shard program.
    shards, in_flight
        Number of chains; micro-batches that may wait between submit and gather.
    on_result, on_failure
        Called on the client's loop: must return at once. Each micro-batch emitted ends in exactly one call of one of them.
    """

    def __init__(
        self, client: Client, work: Work, *, shards: int, in_flight: int, on_result: OnResult, on_failure: OnFailure
    ) -> None:
        self.client = client
        self.under_way: set[Future] = set()
        self.source = Stream(loop=client.loop, asynchronous=False, stream_name="journal")
        self.steps = ShardSteps(self.source, client, work, shards, self.under_way, on_failure)
        self.buffer = self.steps.buffer(in_flight)
        self.results = GatherResults(self.buffer, client, self.under_way, on_result, on_failure)

    def emit(self, micro: MicroBatch, through: Callable[[], None]) -> None:
        """Put one micro-batch in; `through` is called on the loop when no node holds it any more."""
        # It begins at 1, and the last node lets go of that: streamz counts a coroutine that has not started as done, and
        # calls back each time it finds 0.
        ref = RefCounter(initial=1, cb=through, loop=self.client.loop)
        self.source.emit(micro, metadata=[{"ref": ref}])

    def restart(self, checkpoints: Sequence[bytes | None]) -> None:
        """Begin every chain anew from its checkpoint; what is still under way is cancelled and ends in `on_failure`.

        After a flush nothing is under way. After a failure the old chains would otherwise be computed to their end, and
        their answers waited for, before the first new one.

        Raises
        ------
        OSError
            If the scheduler can not be reached.
        """
        self.client.sync(self._restart, list(checkpoints))

    async def _restart(self, checkpoints: list[bytes | None]) -> None:
        # On the loop, like everything that touches the links and the set.
        old = [*self.under_way, *(link for link in self.steps.links if isinstance(link, Future))]
        self.steps.links = list(checkpoints)
        if self.under_way:
            await self.client.cancel(old, asynchronous=True)

    def close(self) -> None:
        """Cut the nodes apart and let go of all futures."""
        self.steps.links = [None] * self.steps.shards
        self.under_way.clear()
        for node in (self.results, self.buffer, self.steps):
            node.destroy()
