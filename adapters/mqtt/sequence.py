"""Sequence numbers of edge nodes, compiled: which messages are missing, late or told twice.

A node numbers its messages 0 to 255 and round again (Sparkplug 3.0, 6.4.5). Brokers may reorder across topics, and real
nodes repeat numbers, so a gap is at first only remembered: a late message fills it, and only what stays missing is loss.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..common.jit import compiled

Ints = npt.NDArray[np.int64]

UNKNOWN = -1
"""A node whose present sequence is not known: its birth was not seen."""

# What a message's number says.
NEXT, TWICE, GAP, LATE = range(4)


@compiled
def check(node: Ints, seq: Ints, last: Ints, missing: npt.NDArray[np.uint8], out: npt.NDArray[np.uint8]) -> None:
    """Follow the sequences of many nodes through a run of messages.

    Parameters
    ----------
    node, seq
        int64, per message its node and number; numbers outside 0-255 are not looked at.
    last
        int64, per node the newest number or `UNKNOWN`; changed in place.
    missing
        uint8, nodes x 256: 1 = this number was jumped over; changed in place.
    out
        uint8, filled: `NEXT`, `TWICE`, `GAP` (some before it are missing) or `LATE` (it fills a gap).

    Examples
    --------
    >>> last, missing, out = np.array([254]), np.zeros((1, 256), np.uint8), np.zeros(6, np.uint8)
    >>> check(np.zeros(6, int), np.array([255, 1, 1, 0, 2, 7]), last, missing, out)
    >>> out.tolist(), last.tolist(), np.flatnonzero(missing[0]).tolist()
    ([0, 2, 1, 3, 0, 2], [7], [3, 4, 5, 6])
    """
    for k in range(len(node)):
        n, number = node[k], seq[k]
        out[k] = NEXT
        if number < 0 or number > 255 or last[n] == UNKNOWN:
            continue
        ahead = (number - last[n] - 1) & 255
        if ahead == 0:
            last[n] = number
            missing[n, number] = 0
        elif missing[n, number]:
            missing[n, number] = 0
            out[k] = LATE
        elif ahead < 128:
            for j in range(ahead):
                missing[n, (last[n] + 1 + j) & 255] = 1
            last[n] = number
            out[k] = GAP
        else:
            out[k] = TWICE
