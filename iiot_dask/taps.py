"""Live taps: streams of durable rows, or of closed windows, for notebooks and the API; fed from the results thread."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iiot_dask.core.batch import TIME, Batch
from iiot_dask.core.errors import CapacityError, ConfigError
from iiot_dask.core.tags import matches
from iiot_dask.ingest.catalogue import Catalogue

if TYPE_CHECKING:
    # Importing it would load numba and Dask for everyone who only wants a name.
    from iiot_dask.work import ShardOutput

TAPS_MAX = 64
"""Most live streams of one engine; each costs a filter a micro-batch."""

Every = Literal["1s", "10s"]


class Tap:
    """One live stream: the tags a glob selects, looked up anew whenever the catalogue grows."""

    def __init__(self, glob: str | Sequence[str], every: Every | None, catalogue: Catalogue) -> None:
        from streamz import Stream

        self.glob = glob
        self.every = every
        self.catalogue = catalogue
        self.stream = Stream(stream_name=f"live {glob}")
        self._version = -1
        self._names: npt.NDArray[np.object_] = np.empty(0, object)
        self._wanted: npt.NDArray[np.bool_] = np.empty(0, np.bool_)

    def _refresh(self) -> None:
        if self._version == self.catalogue.version:
            return
        self._version = self.catalogue.version
        frame = self.catalogue.frame()
        ids, names = frame["id"].to_numpy(), frame["tag"].to_list()
        size = int(ids.max()) + 1 if len(ids) else 0
        self._names = np.full(size, None, object)
        self._names[ids] = names
        self._wanted = np.zeros(size, np.bool_)
        self._wanted[ids[matches(names, self.glob)]] = True

    def emit(self, batch: Batch, outputs: Sequence[ShardOutput]) -> None:
        """Hand on what this tap wants as an Arrow table, if there is any."""
        self._refresh()
        if self.every is None:
            self._emit_rows(batch)
        else:
            self._emit_windows(np.concatenate([o.fast if self.every == "1s" else o.slow for o in outputs]))

    def _emit_rows(self, batch: Batch) -> None:
        rows = np.flatnonzero(self._wanted[batch.tag])
        if len(rows):
            part = batch.data.take(pa.array(rows))
            names = pa.array(self._names[batch.tag[rows]], pa.string())
            columns = [names, *(part.column(name) for name in ("time", "value", "quality", "received"))]
            self.stream.emit(pa.table(columns, names=["tag", "time", "value", "quality", "received"]))

    def _emit_windows(self, closed: npt.NDArray[np.void]) -> None:
        closed = closed[self._wanted[closed["tag"]]]
        if len(closed):
            columns = {
                "tag": pa.array(self._names[closed["tag"]], pa.string()),
                "time": pa.array(closed["window_ns"]).cast(TIME),
                **{name: pa.array(closed[name]) for name in ("count", "min", "max")},
                "mean": pa.array(closed["sum"] / closed["count"]),
                **{name: pa.array(closed[name]) for name in ("sum", "first", "last", "late")},
            }
            self.stream.emit(pa.table(columns))


class Taps:
    """All live streams of one engine; thread-safe."""

    def __init__(self) -> None:
        self._taps: list[Tap] = []
        self._lock = threading.Lock()

    def stream(self, glob: str | Sequence[str], every: str | None, catalogue: Catalogue) -> Any:
        """A new `streamz.Stream` of the tags a glob (or several) selects: rows, or closed windows of ``"1s"`` or ``"10s"``.

        Raises
        ------
        ConfigError
            If `every` is neither None nor one of the two.
        CapacityError
            If `TAPS_MAX` streams are open.
        """
        if every is not None and every not in ("1s", "10s"):
            msg = f"every {every!r} is no live window; None (rows), '1s' and '10s' are allowed"
            raise ConfigError(msg)
        tap = Tap(glob, every, catalogue)  # type: ignore[arg-type]  # checked above
        with self._lock:
            if len(self._taps) >= TAPS_MAX:
                msg = f"{len(self._taps)} live streams are open; at most {TAPS_MAX} are allowed"
                raise CapacityError(msg)
            self._taps.append(tap)
        return tap.stream

    def release(self, stream: Any) -> None:
        """Feed this stream no more; its place is free for another."""
        with self._lock:
            self._taps = [tap for tap in self._taps if tap.stream is not stream]

    def emit(self, batch: Batch, outputs: Sequence[ShardOutput]) -> None:
        """Feed every tap."""
        with self._lock:
            taps = list(self._taps)
        for tap in taps:
            tap.emit(batch, outputs)
