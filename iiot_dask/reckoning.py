"""Comparing what a simulator really did with what the engine stored and found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from iiot_dask.sim.process import Truth

EARLY_NS = 5_000_000_000
"""An incident may begin this much before its fault by its own estimate (the last good sample), ns."""


def reckon(truth: Truth, stored: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Sent against stored, for each protocol.

    Parameters
    ----------
    truth
        What the simulator kept. `sent` (protocol, tag, time, value): every sample of the protocols that push;
        `polled` (tag, polls): how often a tag's registers were read and answered.
    stored
        Everything history holds: tag (str), time (ns, UTC), value.

    Returns
    -------
    dict
        protocol -> ``sent``, ``stored`` (distinct tag and time), ``missing`` (sent, not stored with that value),
        ``unexpected`` (stored, never sent) and ``duplicates`` (rows beyond one per tag and time).
    """
    out = {}
    for (protocol,), sent in truth.sent.group_by("protocol", maintain_order=True):
        mine = stored.join(sent.select("tag").unique(), on="tag", how="semi")
        distinct = mine.unique(["tag", "time"])
        keys = ["tag", "time", "value"]
        out[str(protocol)] = {
            "sent": sent.height,
            "stored": distinct.height,
            "missing": sent.join(distinct, on=keys, how="anti", nulls_equal=True).height,
            "unexpected": distinct.join(sent, on=keys, how="anti", nulls_equal=True).height,
            "duplicates": mine.height - distinct.height,
        }
    polled = truth.polled
    mine = stored.join(polled.select("tag"), on="tag", how="semi")
    distinct = mine.unique(["tag", "time"])
    counts = polled.join(distinct.group_by("tag").len("rows"), on="tag", how="left").fill_null(0)
    difference = counts["polls"].cast(pl.Int64) - counts["rows"].cast(pl.Int64)
    out["modbus"] = {
        "sent": int(counts["polls"].sum()),
        "stored": distinct.height,
        "missing": int(difference.clip(lower_bound=0).sum()),
        "unexpected": int((-difference).clip(lower_bound=0).sum()),
        "duplicates": mine.height - distinct.height,
    }
    return out


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
        mine = [
            i
            for i in left
            if i["kind"] == fault["kind"]
            and i["node"] == fault["node"]
            and fault["start_ns"] - EARLY_NS <= i["start_ns"] <= fault["end_ns"]
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
