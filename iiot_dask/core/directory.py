"""The data directory of a plant: its format number, and the lock that lets one run at a time write to it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self

from iiot_dask.core.errors import CapacityError, ConfigError, InUseError, VersionError

FORMAT = 1
"""Version of the layout below a data directory; a program reads its own and all older ones."""

PARTS = ("catalogue", "journal", "history", "quarantine", "checkpoints", "incidents", "logs")


class DataDirectory:
    """``plant.data``: made on first use, locked while a run writes to it.

    Parameters
    ----------
    path
        The directory. Below it: ``FORMAT`` (one number), ``LOCK`` and the folders of `PARTS`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     with DataDirectory(Path(name) / "data") as data:
    ...         data.part("journal").name
    'journal'
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def part(self, name: str) -> Path:
        """The folder of one part; it exists after `acquire`."""
        assert name in PARTS, name
        return self.path / name

    @property
    def plant_file(self) -> Path:
        """Where `demo` leaves the plant file it made."""
        return self.path / "plant.toml"

    @property
    def status_file(self) -> Path:
        """Where the running engine publishes its status, as JSON, once a second."""
        return self.path / "status.json"

    def check(self) -> None:
        """Refuse a directory of a newer program.

        Raises
        ------
        VersionError
            If ``FORMAT`` holds a number above `FORMAT`, or no number.
        """
        try:
            text = (self.path / "FORMAT").read_text(encoding="ascii").strip()
        except (FileNotFoundError, NotADirectoryError):
            return
        if not text.isdigit() or int(text) > FORMAT:
            msg = f"data directory {self.path} has format {text[:20]!r}; this program reads 1 to {FORMAT}: use a newer iiot-dask"
            raise VersionError(msg)

    def acquire(self) -> Self:
        """Create what is missing and take the lock.

        Raises
        ------
        InUseError
            If another process holds the lock; names its process id.
        VersionError
            If the directory was written by a newer program.
        ConfigError
            If the directory can not be made or written.
        CapacityError
            If the disk is full.
        """
        self.check()
        try:
            for name in PARTS:
                (self.path / name).mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            msg = f"data directory {self.path} can not be written: {error.strerror}"
            raise (CapacityError if error.errno == 28 else ConfigError)(msg) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(lock)
            msg = f"data directory {self.path} is in use by another run (process {holder}); one run at a time may write to it"
            raise InUseError(msg) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._lock = lock
        if not (self.path / "FORMAT").exists():
            (self.path / "FORMAT").write_text(f"{FORMAT}\n", encoding="ascii")
        return self

    def release(self) -> None:
        """Give the lock back; harmless when it is not held."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(self, *exc: object) -> None:
        self.release()
