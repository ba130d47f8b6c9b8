"""`detect`: health over recorded data, by the kernels and the engine that run live."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from iiot_dask.core.batch import Batch
from iiot_dask.core.errors import SchemaError
from iiot_dask.core.times import TimeLike, time_ns
from iiot_dask.health.incident import Incident
from iiot_dask.health.incidents import Incidents, Rules
from iiot_dask.health.monitor import Knobs, Monitor
from iiot_dask.health.store import incident_frame
from iiot_dask.health.topology import Topology

if TYPE_CHECKING:
    import numpy.typing as npt
    import polars as pl

CHUNK_ROWS = 1 << 18
"""Rows given to the kernel at once; the result does not depend on it."""


def detect(
    frame: pl.DataFrame | pl.LazyFrame,
    topology: pl.DataFrame | None = None,
    until: TimeLike | None = None,
    *,
    knobs: Knobs | None = None,
    rules: Rules | None = None,
) -> pl.DataFrame:
    """Incidents in recorded samples: what the live system would have raised, and when.

    Parameters
    ----------
    frame
        Rows ``tag`` (str), ``time``, ``value``, ``quality``, ``received`` and optionally ``seq``, in order of
        ``received``. Times are datetimes or int64 ns UTC; without ``received`` the device time stands in.
    topology
        Rows (node, parent), tags as leaves, no row for the root. Without it every tag stands alone.
    until
        When observation ended, so that silence at the end counts; default: the last ``received``.
    knobs, rules
        What may be tuned; by default `Knobs.offline` and `Rules`.

    Returns
    -------
    polars.DataFrame
        One row an incident: incident, node, kind, start, detected, end (null while it lasts), score, tags, detail.

    Raises
    ------
    SchemaError
        If a column is missing or `received` is not in order.

    Examples
    --------
    >>> import polars as pl
    >>> t = pl.Series(range(0, 60)) * 1_000_000_000
    >>> rows = pl.DataFrame({"tag": ["a"] * 60, "time": t, "value": [float(i % 7) for i in range(60)], "received": t})
    >>> detect(rows, until="1970-01-01T00:02:00Z").select("node", "kind", "start", "end").rows()
    [('a', 'silence', datetime.datetime(1970, 1, 1, 0, 1, tzinfo=zoneinfo.ZoneInfo(key='UTC')), None)]
    """
    names, batch = _batch(frame)
    tree = Topology.from_frame(topology, names)
    engine = Incidents(rules, topology=tree)
    monitor = Monitor(0, 1, knobs or Knobs.offline())
    received = batch.received
    end_ns = time_ns(until) if until is not None else int(received[-1]) if len(batch) else 0
    # `now` is never ahead of the data, so silence is found by the next arrival or by the last sweep.
    parts = [
        monitor.update(Batch(batch.data.slice(at, CHUNK_ROWS)), now_ns=int(received[at]))
        for at in range(0, len(batch), CHUNK_ROWS)
    ]
    parts.append(monitor.sweep(end_ns))
    return incident_frame(replay(engine, np.concatenate(parts), end_ns))


def replay(engine: Incidents, changes: npt.NDArray[np.void], end_ns: int) -> list[Incident]:
    """Run the engine over changes in order of detection, ticking whenever something is due; the final incidents."""
    order = np.argsort(changes["detected_ns"], kind="stable")
    changes = changes[order]
    moments, first = np.unique(changes["detected_ns"], return_index=True)
    bounds = [*first.tolist(), len(changes)]
    latest: dict[int, Incident] = {}
    for i, moment in enumerate([*moments.tolist(), end_ns]):
        if moment > end_ns:
            break
        _run_to(engine, moment, latest)
        if i < len(moments):
            engine.take(changes[bounds[i] : bounds[i + 1]], moment)
            latest |= {one.incident: one for one in engine.tick(moment)}
    return [latest[k] for k in sorted(latest)]


def _run_to(engine: Incidents, moment: int, latest: dict[int, Incident]) -> None:
    """Tick at every deadline up to `moment`."""
    done = -1
    while done < (due := engine.deadline()) <= moment:
        latest |= {one.incident: one for one in engine.tick(due)}
        done = due


def _batch(frame: pl.DataFrame | pl.LazyFrame) -> tuple[list[str], Batch]:
    import polars as pl

    rows = frame.lazy().collect()
    missing = {"tag", "time", "value"} - set(rows.columns)
    if missing:
        msg = f"samples have columns {rows.columns}; {sorted(missing)} are missing"
        raise SchemaError(msg)
    times = {c: _ns(rows[c]) for c in ("time", "received") if c in rows.columns}
    received = times.get("received", times["time"])
    if len(received) and (np.diff(received) < 0).any():
        at = int(np.argmax(np.diff(received) < 0)) + 1
        msg = f"'received' goes back at row {at}; rows must be in order of 'received'"
        raise SchemaError(msg)
    tags = rows["tag"].cast(pl.String)
    names = tags.unique(maintain_order=True).to_list()
    ids = tags.replace_strict(names, list(range(len(names))), return_dtype=pl.UInt32) if names else tags.cast(pl.UInt32)
    seq = rows["seq"].to_numpy() if "seq" in rows.columns and not rows["seq"].null_count() else None
    batch = Batch.of(
        tag=ids.to_numpy(),
        time=times["time"],
        value=rows["value"].cast(pl.Float64).fill_null(float("nan")).to_numpy(),
        received=received,
        quality=rows["quality"].to_numpy() if "quality" in rows.columns else None,
        seq=seq,
    )
    return names, batch


def _ns(column: pl.Series) -> npt.NDArray[np.int64]:
    import polars as pl

    if isinstance(column.dtype, pl.Datetime):
        column = column.dt.cast_time_unit("ns")
    elif not column.dtype.is_integer():
        msg = f"column {column.name!r} has type {column.dtype}; datetime or int ns is needed"
        raise SchemaError(msg)
    return column.cast(pl.Int64).to_numpy()
