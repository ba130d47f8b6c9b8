"""Stage 4, stream: the durable flow of the journal becomes micro-batches, and micro-batches become Dask futures.

In: durable journal records, in offset order. Out: one result per micro-batch and shard, and at every flush the files and
the checkpoint that cover the journal exactly up to one offset. At most `in_flight` micro-batches are under way; beyond
that the reader waits and the backlog stays on disk. streamz is touched in `topology.py` only.
"""
