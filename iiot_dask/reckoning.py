"""Comparing what a simulator really did with what the engine stored and found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

EARLY_NS = 5_000_000_000
"""An incident may begin this much before its fault by its own estimate (the last good sample), ns."""


def reckon(samples: pl.DataFrame, stored: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Sent against stored, for each protocol.

    Parameters
    ----------
    samples
        What the simulator kept (`iiot_dask.sim.ledger.Truth.samples`): tag, protocol, time, value, acknowledged.
    stored
        Everything history holds: tag (str), time (ns, UTC), value, quality.

    Returns
    -------
    dict
        protocol -> ``sent`` (and acknowledged by the broker, where there is one; for Modbus: polled), ``stored``
        (distinct tag and time, quality not bad), ``missing`` (sent, not stored with that value), ``unexpected`` (stored,
        never sent), ``duplicates`` (rows beyond one per tag and time) and ``bad`` (rows that say a value was not to be
        had). A pushed sample is told by (tag, time, value). A polled one has no time of its own: its tag's n-th answer
        must be the n-th row, with the same value.

    Examples
    --------
    >>> sent = pl.DataFrame({"tag": ["a", "a"], "protocol": "json", "time": [1, 2], "value": [1.0, 2.0], "acknowledged": True})
    >>> kept = pl.DataFrame({"tag": ["a", "a"], "time": [1, 1], "value": [1.0, 1.0], "quality": [0, 0]})
    >>> reckon(sent, kept)["json"]
    {'sent': 2, 'stored': 1, 'missing': 1, 'unexpected': 0, 'duplicates': 1, 'bad': 0}
    """
    out = {}
    for (name,), made in samples.group_by("protocol", maintain_order=True):
        rows = stored.join(made.select("tag").unique(), on="tag", how="semi")
        good = rows.filter(pl.col("quality") < 128)
        distinct = good.unique(["tag", "time"])
        kept, sent = made, made.filter("acknowledged")
        keys = ["tag", "time", "value"]
        if name == "modbus":
            sent, distinct, kept = (_numbered(frame) for frame in (sent, distinct, kept))
            keys = ["tag", "n", "value"]
        out[str(name)] = {
            "sent": sent.height,
            "stored": distinct.height,
            "missing": sent.join(distinct, on=keys, how="anti", nulls_equal=True).height,
            "unexpected": distinct.join(kept, on=keys, how="anti", nulls_equal=True).height,
            "duplicates": good.height - distinct.height,
            "bad": rows.height - good.height,
        }
    return out


def _numbered(frame: pl.DataFrame) -> pl.DataFrame:
    """With ``n``: 0, 1, 2 … along each tag's time."""
    return frame.sort("tag", "time").with_columns(n=pl.int_range(pl.len()).over("tag"))


def match_faults(
    faults: Sequence[Mapping[str, Any]], incidents: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Which injected fault has its incident (same kind, same node, while it lasted), and which incidents have no fault.

    Examples
    --------
    >>> fault = {"kind": "flatline", "node": "a", "start_ns": 10, "end_ns": 20}
    >>> incident = {"kind": "flatline", "node": "a", "start_ns": 12, "detected_ns": 15}
    >>> found, rest = match_faults([fault], [incident, {**incident, "node": "b"}])
    >>> found[0]["found"], len(rest)
    (True, 1)
    """
    left = list(incidents)
    rows = []
    for fault in faults:
        until = float("inf") if fault["end_ns"] is None else fault["end_ns"]
        mine = [
            i
            for i in left
            if i["kind"] == fault["kind"]
            and i["node"] == fault["node"]
            and fault["start_ns"] - EARLY_NS <= i["start_ns"] <= until
        ]
        # A second incident of the same fault is one too many and stays unexplained.
        first = mine[0] if mine else None
        if first is not None:
            left.remove(first)
        after = None if first is None else round((first["detected_ns"] - fault["start_ns"]) / 1e9, 2)
        rows.append(
            {"kind": fault["kind"], "node": fault["node"], "found": first is not None, "detected_after_s": after}
        )
    return rows, [dict(i) for i in left]
