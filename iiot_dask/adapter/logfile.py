"""`BoundedLog`: what an adapter's process writes on stderr, in a file that can not fill the disk."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import BinaryIO

BYTES_MAX = 4 << 20
LINE_MAX = 300
LINE_BYTES = 64 << 10


class BoundedLog:
    r"""Append-only file of at most `bytes_max`; when full it becomes ``NAME.1`` (the one before is dropped) and begins anew.

    A disk that refuses costs the lines, not the adapter: they are counted in `lost_bytes`.

    Parameters
    ----------
    path
        The file; None keeps the last line only.
    bytes_max
        Size at which it is turned over, bytes.

    Examples
    --------
    >>> log = BoundedLog(None)
    >>> log.write(b'first\nTraceback:\nZeroDivision'); log.write(b'Error\n')
    >>> log.last_line
    'ZeroDivisionError'
    """

    def __init__(self, path: Path | None, bytes_max: int = BYTES_MAX) -> None:
        self.path = path
        self.bytes_max = bytes_max
        self.lost_bytes = 0
        self._file: BinaryIO | None = None
        self._size = 0
        self._line = b""
        self._done = b""

    def write(self, data: bytes) -> None:
        """Append bytes as they come; a piece longer than the file may be keeps its end."""
        self._remember(data)
        if self.path is None:
            return
        data = data[-self.bytes_max :]
        try:
            self._room(self.path, len(data))
            assert self._file is not None
            self._file.write(data)
            self._file.flush()
            self._size += len(data)
        except OSError:
            # A full disk: the journal says so loudly; a log line is not worth more.
            self.lost_bytes += len(data)

    def _room(self, path: Path, size: int) -> None:
        if self._file is None:
            self._file = path.open("ab")
            self._size = path.stat().st_size
        if self._size and self._size + size > self.bytes_max:
            self._file.close()
            self._file = None
            path.replace(path.with_name(path.name + ".1"))
            self._file = path.open("wb")
            self._size = 0

    def _remember(self, data: bytes) -> None:
        *done, rest = (self._line + data).split(b"\n")
        self._done = next((line[-LINE_BYTES:] for line in reversed(done) if line.strip()), self._done)
        self._line = rest[-LINE_BYTES:]

    @property
    def last_line(self) -> str:
        """What the last line that was not empty says, cut to `LINE_MAX` characters; "" when there was none."""
        line = (self._line if self._line.strip() else self._done).decode("utf-8", "replace").strip()
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict) and "event" in record:
                line = str(record["event"])
        return line[-LINE_MAX:]

    def close(self) -> None:
        """Close the file; a later `write` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None
