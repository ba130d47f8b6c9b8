"""The streamz graph: source -> shard steps on Dask -> buffer -> gather -> results. The only file that touches streamz.

Rules. Nodes get their client and their callbacks as arguments; nothing is ambient. A node never lets an exception out:
streamz' buffer would stop for ever without a word, so every failure becomes one call of `on_failure`. streamz' own
`accumulate` is not used because its chain of futures has no end: ours restarts from a checkpoint at every flush, which
also keeps the scheduler's memory flat.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from distributed import Client, Future
from streamz import Stream
from streamz.core import RefCounter
from streamz.dask import DaskStream

from iiot_dask.stream.microbatch import MicroBatch, split
from iiot_dask.stream.work import Order, ShardResult, Work, pick, run_step

OnResult = Callable[[MicroBatch, list[ShardResult]], None]
OnFailure = Callable[[MicroBatch, BaseException], None]


class ShardSteps(DaskStream):  # type: ignore[misc]  # streamz has no types
    """One Dask task a shard and micro-batch, chained through the shard's state."""

    def __init__(self, upstream: Any, client: Client, work: Work, shards: int, on_failure: OnFailure) -> None:
        self.client = client
        self.work = work
        self.shards = shards
        self.on_failure = on_failure
        self.links: list[Future | bytes | None] = [None] * shards
        DaskStream.__init__(self, upstream)

    async def update(self, x: MicroBatch, who: Any = None, metadata: Any = None) -> None:
        """Submit the steps of one micro-batch."""
        self._retain_refs(metadata)
        try:
            futures = await self._submit(x)
        except Exception as error:  # noqa: BLE001 -- handed to on_failure, which restarts the epoch
            self.on_failure(x, error)
        else:
            for done in self._emit((x, futures), metadata=metadata):
                await done
        finally:
            self._release_refs(metadata)

    async def _submit(self, micro: MicroBatch) -> list[Future]:
        order = Order(micro.index, micro.now_ns, micro.flush, micro.epoch_first, micro.stop)
        parts = await self.client.scatter(split(micro.batch, self.shards), asynchronous=True, hash=False)
        results = []
        for shard, part in enumerate(parts):
            link = self.client.submit(
                run_step, self.work, self.links[shard], shard, self.shards, part, order, pure=False, retries=0
            )
            self.links[shard] = link
            results.append(self.client.submit(pick, link, pure=False))
        return results


class GatherResults(Stream):  # type: ignore[misc]  # streamz has no types
    """Wait for the answers of a micro-batch and hand them on, in order."""

    def __init__(self, upstream: Any, client: Client, on_result: OnResult, on_failure: OnFailure) -> None:
        self.client = client
        self.on_result = on_result
        self.on_failure = on_failure
        Stream.__init__(self, upstream, ensure_io_loop=True)

    async def update(self, x: tuple[MicroBatch, Sequence[Future]], who: Any = None, metadata: Any = None) -> None:
        """Gather one micro-batch's answers."""
        micro, futures = x
        self._retain_refs(metadata)
        try:
            results = await self.client.gather(list(futures), asynchronous=True)
            self.on_result(micro, results)
        except Exception as error:  # noqa: BLE001 -- handed to on_failure, which restarts the epoch
            self.on_failure(micro, error)
        finally:
            self._release_refs(metadata)


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
        Called on the client's loop: must return at once.
    """

    def __init__(
        self, client: Client, work: Work, *, shards: int, in_flight: int, on_result: OnResult, on_failure: OnFailure
    ) -> None:
        self.client = client
        self.source = Stream(loop=client.loop, asynchronous=False, stream_name="journal")
        self.steps = ShardSteps(self.source, client, work, shards, on_failure)
        self.buffer = self.steps.buffer(in_flight)
        self.results = GatherResults(self.buffer, client, on_result, on_failure)

    def emit(self, micro: MicroBatch, through: Callable[[], None]) -> None:
        """Put one micro-batch in; `through` is called on the loop when no node holds it any more."""
        ref = RefCounter(cb=through, loop=self.client.loop)
        self.source.emit(micro, metadata=[{"ref": ref}])

    def restart(self, checkpoints: Sequence[bytes | None]) -> None:
        """Begin every chain anew from its checkpoint; futures of the old chains are let go."""
        self.steps.links = list(checkpoints)

    def close(self) -> None:
        """Cut the nodes apart and let go of all futures."""
        self.steps.links = [None] * self.steps.shards
        for node in (self.results, self.buffer, self.steps):
            node.destroy()
