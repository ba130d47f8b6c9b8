"""Where input goes that could not be used: JSON lines with the reason and the first raw bytes, bounded, newest kept.

It is evidence for people, not data: nothing waits for it, it is not fsynced, and a full disk only counts.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Self

import orjson
import structlog

from iiot_dask.core.metrics import Metrics
from iiot_dask.core.times import time_text

RAW_BYTES_MAX = 1024
REASON_CHARS_MAX = 500
COUNTERS_MAX = 1000
"""Most (adapter, kind) pairs counted apart; further ones share ``("other", "other")``."""
PREFIX = "quarantine-"

log = structlog.get_logger("iiot_dask.ingest")


class Quarantine:
    """Files of JSON lines in `directory`, made when missing.

    Parameters
    ----------
    directory
        Where they lie: ``quarantine-00000001.jsonl`` and on.
    bytes_max
        Most bytes of all files together.
    files_max
        Most files; each holds ``bytes_max / files_max`` bytes, the oldest is deleted for a new one.
    metrics
        Where ``quarantine_lost_total`` (could not be written) goes, if anywhere.

    Examples
    --------
    >>> import tempfile
    >>> with Quarantine(Path(tempfile.mkdtemp()), bytes_max=10_000, files_max=2) as quarantine:
    ...     quarantine.put("cells", "malformed", "no JSON", time_ns=0, raw=b"{{", count=3)
    ...     quarantine.counts(), quarantine.lines()[0]["raw"]
    ({('cells', 'malformed'): 3}, '7b7b')
    """

    def __init__(self, directory: Path, bytes_max: int, files_max: int, metrics: Metrics | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.files_max = files_max
        self.file_bytes_max = max(1, bytes_max // files_max)
        self.metrics = metrics
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], int] = {}
        paths = self._paths()
        self._number = int(paths[-1].stem.removeprefix(PREFIX)) if paths else 1
        self._size = paths[-1].stat().st_size if paths else 0
        self._prune()

    def _paths(self) -> list[Path]:
        return sorted(self.directory.glob(f"{PREFIX}*.jsonl"))

    def _path(self) -> Path:
        return self.directory / f"{PREFIX}{self._number:08d}.jsonl"

    def put(self, adapter: str, kind: str, reason: str, *, time_ns: int, raw: bytes = b"", count: int = 1) -> None:
        """Note `count` alike things that could not be used.

        Parameters
        ----------
        adapter, kind
            Whose, and what sort: ``malformed``, ``rejected``, ``unknown_tag``; both are counted apart.
        reason
            A sentence; cut at 500 characters.
        time_ns
            When, ns since 1970-01-01 UTC.
        raw
            The first offending bytes; cut at 1024, written as hex.
        """
        line = orjson.dumps(
            {
                "time": time_text(time_ns),
                "adapter": adapter,
                "kind": kind,
                "reason": reason[:REASON_CHARS_MAX].encode(errors="replace").decode(),
                "count": count,
                "raw": raw[:RAW_BYTES_MAX].hex(),
                "raw_bytes": len(raw),
            },
            option=orjson.OPT_APPEND_NEWLINE,
        )
        with self._lock:
            key = (
                (adapter, kind)
                if (adapter, kind) in self._counts or len(self._counts) < COUNTERS_MAX
                else ("other", "other")
            )
            self._counts[key] = self._counts.get(key, 0) + count
            try:
                self._append(line)
            except OSError as error:
                self._lost(count, error)

    def keep(self, name: str, data: bytes) -> None:
        """Keep a whole thing beside the lines, as ``kept-NAME.bin``: a journal record that the stream can not digest.

        At most `files_max` of them and `bytes_max` bytes stay, the newest; a full disk only counts.
        """
        with self._lock:
            try:
                path = self.directory / f"kept-{name}.bin"
                path.write_bytes(data)
                kept = sorted(self.directory.glob("kept-*.bin"), key=lambda p: p.stat().st_mtime_ns, reverse=True)
                total = 0
                for at, old in enumerate(kept):
                    total += old.stat().st_size
                    if at >= self.files_max or (at and total > self.file_bytes_max * self.files_max):
                        old.unlink()
            except OSError as error:
                self._lost(1, error)

    def _lost(self, count: int, error: OSError) -> None:
        if self.metrics is not None:
            self.metrics.count("quarantine_lost_total", count)
        log.warning("quarantine can not be written", directory=str(self.directory), error=str(error))

    def _append(self, line: bytes) -> None:
        if self._size and self._size + len(line) > self.file_bytes_max:
            self._number += 1
            self._size = 0
            self._prune()
        # Opened each time: rare, and nothing to close after a failure.
        with self._path().open("ab") as stream:
            stream.write(line)
        self._size += len(line)

    def _prune(self) -> None:
        for path in self._paths():
            if int(path.stem.removeprefix(PREFIX)) <= self._number - self.files_max:
                path.unlink(missing_ok=True)

    def counts(self) -> dict[tuple[str, str], int]:
        """How many of each (adapter, kind) since this object was made."""
        with self._lock:
            return dict(self._counts)

    def lines(self) -> list[dict[str, object]]:
        """Everything kept, oldest first; a line cut by a crash is left out."""
        out: list[dict[str, object]] = []
        for path in self._paths():
            for line in path.read_bytes().splitlines():
                try:
                    out.append(orjson.loads(line))
                except orjson.JSONDecodeError:
                    log.warning("quarantine line is cut", path=str(path), bytes=len(line))
        return out

    def close(self) -> None:
        """Nothing is held open; here so that the owner need not know."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
