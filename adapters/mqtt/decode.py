"""One run of messages to samples, tags and events: the adapter without its socket."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from iiot_dask.adapter.contract import Event, EventKind

from . import frames, payload
from .columns import NOTHING, Samples
from .naming import Naming, Tags
from .options import Options
from .report import coalesce
from .sparkplug import Host
from .topics import Route

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

_KIND: dict[int, EventKind] = {
    payload.MALFORMED: "malformed",
    payload.NO_VALUE: "rejected",
    payload.WRONG_TYPE: "rejected",
    payload.BAD_TIME: "info",
    payload.TOO_LARGE: "malformed",
}
_UNROUTED = "topic matches no filter, or makes no legal tag name"
_CROWDED = "more different topics than topics_max; further ones are not read"


class Decoder:
    """Routes messages to the decoders of their filters.

    Parameters
    ----------
    routes
        The adapter's topics.
    tags
        Where tags are named.
    options
        Limits and habits.
    adapter
        Name of the adapter: the node of events no device can be blamed for.
    """

    def __init__(self, routes: Sequence[Route], tags: Tags, options: Options, adapter: str) -> None:
        self.naming = Naming(routes, tags, options.topics_max)
        self.host = Host(tags, adapter, options.topics_max, rebirth=options.rebirth, stale_rows=options.stale_rows)
        self._tags = tags
        self._adapter = adapter
        self._decoders = [
            [payload.decoder(route.topic) for route in group if route.topic.payload != "sparkplug"]
            for group in self.naming.groups
        ]
        self._sparkplug = np.array([group[0].topic.payload == "sparkplug" for group in self.naming.groups])

    def decode(self, data: Bytes, rows: Ints, now_ns: int) -> Samples:
        """Decode the messages of `rows` (`frames.COLUMNS`, offsets into `data`); `now_ns` is a steady clock."""
        numbers = self.naming.numbers(data, rows[:, frames.TOPIC_START].copy(), rows[:, frames.TOPIC_LEN].copy())
        group = self.naming.group_of(numbers)
        parts = [Samples.concat([])]
        parts[0].events.extend(self._unrouted(data, rows, numbers, group))
        for k, decoders in enumerate(self._decoders):
            mine = np.flatnonzero(group == k)
            if len(mine):
                parts += self._plain(data, rows[mine], numbers[mine], decoders)
        for learnt in self.naming.sparkplug():
            self.host.topic(*learnt)
        mine = np.flatnonzero((group != NOTHING) & self._sparkplug[group])
        if len(mine):
            parts.append(self.host.take(data, rows[mine], numbers[mine], now_ns))
        return Samples.concat(parts).in_order()

    def _plain(self, data: Bytes, rows: Ints, numbers: Ints, decoders: Sequence[payload.Decoder]) -> list[Samples]:
        """Messages of one filter, through the decoder of each of its routes."""
        node = self.naming.node_of(numbers)
        large = (rows[:, frames.FLAGS] & frames.OVERSIZE) != 0
        received = rows[:, frames.RECEIVED].copy()
        out = []
        for j, decoder in enumerate(decoders):
            columns = decoder(data, rows[:, frames.PAYLOAD_START].copy(), rows[:, frames.PAYLOAD_LEN].copy(), received)
            columns.outcome[large] = payload.TOO_LARGE
            tag = self.naming.tag_of(numbers, j)
            good = columns.samples & (tag != NOTHING)
            out.append(
                Samples(
                    tag[good],
                    columns.time[good],
                    columns.value[good],
                    columns.quality[good],
                    received[good],
                    self._failed(data, rows, node, columns.outcome),
                )
            )
        return out

    def _failed(self, data: Bytes, rows: Ints, node: Ints, outcome: npt.NDArray[np.uint8]) -> list[Event]:
        events: list[Event] = []
        for what, kind in _KIND.items():
            hit = np.flatnonzero(outcome == what)
            if len(hit):
                part = rows[hit]
                events += coalesce(
                    kind, payload.REASONS[what], node[hit], self._tags.nodes, data, part[:, frames.PAYLOAD_START],
                    part[:, frames.PAYLOAD_LEN], part[:, frames.RECEIVED], self._adapter,
                )  # fmt: skip
        return events

    def _unrouted(self, data: Bytes, rows: Ints, numbers: Ints, group: Ints) -> list[Event]:
        """Messages of topics nobody wants, or too many to be told apart; their topic stands in `raw`."""
        events: list[Event] = []
        for reason, which in ((_UNROUTED, (numbers >= 0) & (group == NOTHING)), (_CROWDED, numbers < 0)):
            hit = rows[which]
            if len(hit):
                events += coalesce(
                    "rejected", reason, np.zeros(len(hit), np.int64), [self._adapter], data,
                    hit[:, frames.TOPIC_START], hit[:, frames.TOPIC_LEN], hit[:, frames.RECEIVED], self._adapter,
                )  # fmt: skip
        return events
