"""`ReplayAdapter`: plays a recording, a Parquet or CSV file with columns tag, time, value. The example to copy."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field, ValidationError

from iiot_dask.adapter.contract import Context, Event, Poll, TagInfo
from iiot_dask.core.batch import Batch
from iiot_dask.core.config import Model
from iiot_dask.core.errors import ConfigError

from .recording import Recording

WAIT_S = 0.1


class Options(Model):
    """`[adapters.options]` of a replay adapter."""

    speed: float = Field(0.0, ge=0, description="times as fast as recorded; 0 = as fast as it can be read")
    batch_rows: int = Field(10_000, ge=1, le=100_000, description="most rows handed over at once")


class ReplayAdapter:
    """Plays a recording once, in the order of its rows, then stays connected and silent."""

    kind: ClassVar[str] = "replay"
    summary: ClassVar[str] = "Recordings: a Parquet or CSV file of tag, time, value, at any speed"
    options_model: ClassVar[type[Model]] = Options
    bench: ClassVar[str] = "iiot_dask_adapters.replay.bench:ReplayBench"

    def __init__(self, context: Context) -> None:
        self._name = context.config.name
        self._clock = context.clock
        try:
            self._options = Options.model_validate(context.config.options)
        except ValidationError as error:
            problems = [f"options.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)]
            msg = f"adapter {self._name!r}: {'; '.join(problems)}"
            raise ConfigError(msg) from error
        if not context.config.endpoint:
            msg = f"adapter {self._name!r} has no endpoint; the path of a .parquet or .csv file is needed"
            raise ConfigError(msg)
        self._path = Path(context.config.endpoint)
        self._recording: Recording | None = None
        self._numbers: dict[str, int] = {}
        self._events: list[Event] = []
        self._origin: tuple[int, int] | None = None  # (steady ns, recorded ns) that belong together

    async def open(self, position: str | None) -> None:
        """Open the file and skip what was played before; a file of another size is played from its start.

        Raises
        ------
        ConfigError
            If the file is absent or is no recording.
        """
        self._recording = Recording(self._path, self._options.batch_rows)
        rows, _, size = (position or "").partition("@")
        if size == str(self._recording.size):
            self._recording.skip(int(rows))
        elif position is not None:
            self._report("info", f"{self._path} has changed; it is played from its start")
        self._report("connected", f"plays {self._path}")

    async def read(self) -> Poll:
        """The rows that are due."""
        assert self._recording is not None, "open() comes before read()"
        rows = self._recording.head()
        count = 0 if rows is None else self._due(rows.time)
        events, self._events = tuple(self._events), []
        if rows is None or not count:
            if not events:
                await asyncio.sleep(WAIT_S)
            return Poll(events=events)
        names, codes = rows.names, rows.codes[:count]
        fresh = [names[code] for code in np.unique(codes) if names[code] not in self._numbers]
        self._numbers |= {name: len(self._numbers) + i for i, name in enumerate(fresh)}
        local = np.array([self._numbers.get(name, 0) for name in names], np.uint32)
        batch = Batch.of(
            tag=local[codes], time=rows.time[:count], value=rows.value[:count], quality=rows.quality[:count],
            received=np.full(count, self._clock.now_ns()),
        )  # fmt: skip
        self._recording.skip(count)
        if self._recording.head() is None:
            self._report("info", f"{self._path} ends after {self._recording.played} rows")
        tags = tuple(TagInfo(name, name.rpartition("/")[0] or self._name, name) for name in fresh)
        return Poll(tags, batch, events, f"{self._recording.played}@{self._recording.size}")

    def _due(self, time: np.ndarray[tuple[int], np.dtype[np.int64]]) -> int:
        """How many of the rows are due; the first row ever asked about is due at once."""
        if self._options.speed == 0:
            return len(time)
        now_ns = self._clock.monotonic_ns()
        if self._origin is None:
            self._origin = now_ns, int(time[0])
        steady, recorded = self._origin
        # Up to the first row of the future: rows stay in the file's order even where its times do not.
        future = time > recorded + (now_ns - steady) * self._options.speed
        return int(np.argmax(future)) if future.any() else len(time)

    def _report(self, kind: str, reason: str) -> None:
        self._events.append(Event(kind, self._name, self._clock.now_ns(), reason))  # type: ignore[arg-type]

    async def acknowledge(self, position: str) -> None:
        """Nothing to do: a file keeps what was not acknowledged."""

    async def close(self) -> None:
        """Close the file."""
        if self._recording is not None:
            self._recording.close()

    @classmethod
    async def check(cls, context: Context) -> list[str]:
        """Whether the file is there, is a recording and has rows."""
        adapter = cls(context)
        try:
            await adapter.open(None)
        except ConfigError as error:
            return [str(error)]
        try:
            assert adapter._recording is not None
            return [] if adapter._recording.head() is not None else [f"{adapter._path} has no rows"]
        finally:
            await adapter.close()
