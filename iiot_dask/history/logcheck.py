"""The log of a table guards itself: each commit says what the table must hold after it. Pure; no I/O.

The Delta protocol has no checksum of its log: a flipped digit in a file's bounds hides its rows, a flipped letter in a key
drops the file, and no reader notices. So every commit carries a *note*: the sum of the hashes of all files' entries it leaves
(order does not matter, so it is kept up by adding and taking away), and the largest write order given so far. Whoever looks at
a version compares the sum with the entries found, from a checkpoint of the log or from its commits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KEY = "iiot"
"""Name of the note among a commit's information."""
MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Note:
    """What a commit says of the table after it: the sum of its entries' hashes (modulo 2**64), the largest write order."""

    state: int
    order: int

    def text(self) -> str:
        """The note as it is written.

        Examples
        --------
        >>> Note(255, 7).text(), parse(Note(255, 7).text())
        ('00000000000000ff 7', Note(state=255, order=7))
        """
        return f"{self.state:016x} {self.order}"


def parse(text: str) -> Note:
    """The note of `Note.text`.

    Raises
    ------
    ValueError
        If it is none.
    """
    state, order = text.split(" ")
    return Note(int(state, 16), int(order))


def entry_hash(
    path: str, size: int, partition: Mapping[str, Any], low: Mapping[str, Any], high: Mapping[str, Any]
) -> int:
    """Hash of a file's entry in the log: BLAKE2b-64 of its path, size, partition values and bounds (None = not given)."""
    facts = [
        path,
        size,
        *(sorted((k, str(v)) for k, v in part.items() if v is not None) for part in (partition, low, high)),
    ]
    return int.from_bytes(hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).digest(), "little")


def note_of(commit: bytes) -> Note | None:
    """The note of a commit file of the log; None if whoever made the commit left none.

    Raises
    ------
    ValueError
        If the file is not what a commit file is.
    """
    for line in commit.splitlines():
        action = json.loads(line)
        if isinstance(action, dict) and isinstance(action.get("commitInfo"), dict):
            text = action["commitInfo"].get(KEY)
            return parse(text) if isinstance(text, str) else None
    return None
