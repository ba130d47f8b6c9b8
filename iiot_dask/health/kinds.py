"""The kinds of condition a tag or a node can be in, their codes in a change record, and that record.

The names are the incident kinds of the contract in lower case; codes are stored in checkpoints, so a code is never
given another meaning.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

CHANGE_DTYPE = np.dtype(
    [
        ("tag", "<u4"),
        ("kind", "u1"),
        ("active", "?"),
        ("start_ns", "<i8"),
        ("detected_ns", "<i8"),
        ("score", "<f4"),
    ]
)
"""One change of one condition of one tag.

`start_ns` is when the condition began, as well as the record of a tag tells (within a few of its periods); in the record
that ends one it is the end, but for a silence. `detected_ns` is when this change
became known, in receive time, whatever the size of the batches: for an ending it is the end. Times are ns since
1970-01-01 UTC. `score` grows with the evidence; for `Kind.ARMED` it is the silence threshold in seconds.
"""


class Kind(IntEnum):
    """What a change is about.

    Examples
    --------
    >>> Kind.CLOCK_JUMP.label, Kind.of("silence")
    ('clock_jump', <Kind.SILENCE: 1>)
    """

    ARMED = 0
    """Not a fault: the tag's rhythm is known and its silence is now judged. Groups need to know who could complain."""
    SILENCE = 1
    OUTAGE = 2
    FLATLINE = 3
    CORRUPT = 4
    FLAPPING = 5
    SLOW = 6
    BURST = 7
    STORM = 8
    JITTER = 9
    HOLD = 10
    DUPLICATE = 11
    OUT_OF_ORDER = 12
    BACKDATED = 13
    FUTURE = 14
    LOSS = 15
    RESET = 16
    CLOCK_JUMP = 17
    CLOCK_DRIFT = 18
    CLOCK_STUCK = 19
    EPOCH = 20
    SPIKE = 21
    NOISE_UP = 22
    NOISE_DOWN = 23
    STEP = 24
    DRIFT = 25
    RANGE = 26
    UNIT_CHANGE = 27
    BAD_QUALITY = 28
    SCHEMA_CHANGE = 29
    IDENTITY = 30
    SCHEDULE_CHANGE = 31

    @property
    def label(self) -> str:
        """The contract's name."""
        return self.name.lower()

    @classmethod
    def of(cls, label: str) -> Kind:
        """The kind with that label.

        Raises
        ------
        KeyError
            If there is none.
        """
        return cls[label.upper()]
