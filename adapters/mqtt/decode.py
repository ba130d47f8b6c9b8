"""One run of messages to samples, tags and events: the adapter without its socket."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from iiot_dask_adapters.mqtt import frames, payload
from iiot_dask_adapters.mqtt.naming import NOTHING, Naming, Tags
from iiot_dask_adapters.mqtt.report import coalesce
from iiot_dask_adapters.mqtt.topics import Route

from iiot_dask.adapter.contract import Event, EventKind

Ints = npt.NDArray[np.int64]

_KIND: dict[int, EventKind] = {
    payload.MALFORMED: "malformed",
    payload.NO_VALUE: "rejected",
    payload.WRONG_TYPE: "rejected",
    payload.BAD_TIME: "info",
    payload.TOO_LARGE: "malformed",
}


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples as columns of equal length, in order of arrival: local tag, time ns, value, quality, receive time ns."""

    tag: Ints
    time: Ints
    value: npt.NDArray[np.float64]
    quality: npt.NDArray[np.uint8]
    received: Ints
    events: list[Event] = field(default_factory=list)


class Decoder:
    """Routes messages to the decoders of their filters.

    Parameters
    ----------
    routes
        The adapter's topics.
    tags
        Where tags are named.
    topics_max
        Most different topics told apart.
    adapter
        Name of the adapter: the node of events no device can be blamed for.
    """

    def __init__(self, routes: Sequence[Route], tags: Tags, topics_max: int, adapter: str) -> None:
        self.naming = Naming(routes, tags, topics_max)
        self._tags = tags
        self._adapter = adapter
        self._decoders = [
            [payload.decoder(route.topic) for route in group if route.topic.payload in ("json", "raw")]
            for group in self.naming.groups
        ]

    def decode(self, data: npt.NDArray[np.uint8], rows: Ints) -> Samples:
        """Decode the messages of `rows` (`frames.COLUMNS`, offsets into `data`)."""
        numbers = self.naming.numbers(data, rows[:, frames.TOPIC_START].copy(), rows[:, frames.TOPIC_LEN].copy())
        group = self.naming.group_of(numbers)
        large = (rows[:, frames.FLAGS] & frames.OVERSIZE) != 0
        events = self._unrouted(data, rows, numbers, group)
        parts: list[tuple[npt.NDArray[Any], ...]] = []
        for k, decoders in enumerate(self._decoders):
            mine = np.flatnonzero(group == k)
            if not len(mine) or not decoders:
                continue
            node = self.naming.node_of(numbers[mine])
            for j, decoder in enumerate(decoders):
                columns = self._columns(decoder, data, rows[mine], large[mine])
                events += self._failed(data, rows[mine], node, columns.outcome)
                tag = self.naming.tag_of(numbers[mine], j)
                good = np.flatnonzero(columns.samples & (tag != NOTHING))
                parts.append((mine[good], tag[good], columns.time[good], columns.value[good], columns.quality[good]))
        if not parts:
            nothing = np.empty(0, np.int64)
            return Samples(nothing, nothing, np.empty(0), np.empty(0, np.uint8), nothing, events)
        where, tag, time, value, quality = (np.concatenate(column) for column in zip(*parts, strict=True))
        if len(parts) > 1:
            order = np.argsort(where, kind="stable")
            where, tag, time, value, quality = where[order], tag[order], time[order], value[order], quality[order]
        return Samples(tag, time, value, quality, rows[where, frames.RECEIVED], events)

    def _columns(
        self, decoder: payload.Decoder, data: npt.NDArray[np.uint8], rows: Ints, large: npt.NDArray[np.bool_]
    ) -> payload.Columns:
        columns = decoder(
            data,
            rows[:, frames.PAYLOAD_START].copy(),
            rows[:, frames.PAYLOAD_LEN].copy(),
            rows[:, frames.RECEIVED].copy(),
        )
        columns.outcome[large] = payload.TOO_LARGE
        return columns

    def _failed(
        self, data: npt.NDArray[np.uint8], rows: Ints, node: Ints, outcome: npt.NDArray[np.uint8]
    ) -> list[Event]:
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

    def _unrouted(self, data: npt.NDArray[np.uint8], rows: Ints, numbers: Ints, group: Ints) -> list[Event]:
        """Messages of topics nobody wants, or too many to be told apart; their topic stands in `raw`."""
        events: list[Event] = []
        for reason, which in (
            ("topic matches no filter, or makes no legal tag name", (numbers >= 0) & (group == NOTHING)),
            ("more different topics than topics_max; further ones are not read", numbers < 0),
        ):
            hit = rows[which]
            if len(hit):
                nowhere = np.zeros(len(hit), np.int64)
                events += coalesce(
                    "rejected", reason, nowhere, [self._adapter], data, hit[:, frames.TOPIC_START],
                    hit[:, frames.TOPIC_LEN], hit[:, frames.RECEIVED], self._adapter,
                )  # fmt: skip
        return events
