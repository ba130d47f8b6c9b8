"""Events about messages that made no sample, coalesced: one per device and reason, with the first offender's bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from iiot_dask.adapter.contract import RAW_BYTES_MAX, Event, EventKind

Ints = npt.NDArray[np.int64]

EVENTS_MAX = 1_000
"""Most events one call makes; what is beyond comes as one event on the adapter itself."""


def coalesce(
    kind: EventKind,
    reason: str,
    node_of: Ints,
    nodes: Sequence[str],
    data: npt.NDArray[np.uint8],
    starts: Ints,
    sizes: Ints,
    received: Ints,
    adapter: str,
) -> list[Event]:
    """Events of one kind and reason for messages given as columns.

    Parameters
    ----------
    node_of
        int64, per message the position of its device in `nodes`.
    nodes
        Device paths.
    data, starts, sizes
        The payloads, as offsets into one uint8 buffer.
    received
        int64 ns.
    adapter
        Name of the adapter, for the overflow of events.

    Examples
    --------
    >>> data = np.frombuffer(b"xyz", np.uint8)
    >>> k = np.arange(3)
    >>> events = coalesce("malformed", "bad", np.array([1, 0, 1]), ["a", "b"], data, k, np.ones(3, int), k, "cells")
    >>> [(e.node, e.count, e.raw) for e in events]
    [('a', 1, b'y'), ('b', 2, b'x')]
    """
    numbers, first, counts = np.unique(node_of, return_index=True, return_counts=True)
    out = []
    for number, k, count in zip(numbers[:EVENTS_MAX].tolist(), first.tolist(), counts.tolist(), strict=False):
        raw = data[starts[k] : starts[k] + min(int(sizes[k]), RAW_BYTES_MAX)].tobytes()
        out.append(Event(kind, nodes[number], int(received[k]), reason, count, raw))
    rest = int(counts[EVENTS_MAX:].sum())
    if rest:
        out.append(
            Event(kind, adapter, int(received[-1]), f"{reason} (and {len(numbers) - EVENTS_MAX} more devices)", rest)
        )
    return out
