"""Where files lie: a local directory or an object store, behind put, get, list and delete. Whole files, atomic puts.

A local put is write to a temporary name, fsync, rename, fsync of the directory: a file is there completely or not at all.
Object stores give that by themselves. Names that start with ``.`` or ``_`` are never data.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from iiot_dask.core.errors import CapacityError, ConfigError, DataError, map_errors

TEMPORARY = ".tmp-"


@dataclass(frozen=True, slots=True)
class Found:
    """A file in the store: `path` relative to its root, `size` in bytes, `modified_ns` since 1970."""

    path: str
    size: int
    modified_ns: int


class Store:
    """Files under one root.

    Parameters
    ----------
    url
        A path, or a URL of a scheme Delta Lake knows (``s3://``, ``az://``, ``gs://``, ``file://``).
    storage_options
        Keys of the object store, as for `deltalake.DeltaTable`.

    Raises
    ------
    ConfigError
        If the URL is empty or its scheme is not known.

    Examples
    --------
    >>> import tempfile
    >>> store = Store(tempfile.mkdtemp())
    >>> store.put("a/b.bin", b"xyz")
    >>> store.get("a/b.bin").to_pybytes(), [f.path for f in store.list()]
    (b'xyz', ['a/b.bin'])
    """

    def __init__(self, url: str | os.PathLike[str], storage_options: Mapping[str, str] | None = None) -> None:
        text = os.fspath(url)
        if not text or "\0" in text:
            msg = f"history URL {text!r} is empty or holds a NUL; a directory or an object store URL is wanted"
            raise ConfigError(msg)
        self.options = dict(storage_options) if storage_options else None
        self.local = _local(text)
        self.url = str(self.local) if self.local else text.rstrip("/")
        self._fs: pafs.FileSystem | None = None

    def child(self, name: str) -> Store:
        """The store of a folder below this one."""
        return Store(f"{self.url}/{name}", self.options)

    def _remote(self) -> pafs.FileSystem:
        if self._fs is None:
            from deltalake.fs import DeltaStorageHandler

            with map_errors({Exception: ConfigError}, f"opening {self.url!r}"):
                self._fs = pafs.PyFileSystem(DeltaStorageHandler(self.url, self.options))
        return self._fs

    def put(self, path: str, content: bytes | memoryview | pa.Buffer) -> None:
        """Write a whole file; it appears at once, replacing one of that name.

        Raises
        ------
        CapacityError
            If the disk refuses (full, quota, permission).
        """
        with map_errors(
            {OSError: CapacityError}, f"writing {path!r} ({memoryview(content).nbytes} bytes) under {self.url!r}"
        ):
            if self.local is None:
                with self._remote().open_output_stream(path) as stream:
                    stream.write(content)
                return
            _put_local(self.local / path, content)

    def get(self, path: str, start: int = 0, length: int | None = None) -> pa.Buffer:
        """Bytes of a file: all, or `length` from `start` (negative: from the end).

        Raises
        ------
        DataError
            If the file is missing or shorter than that.
        """
        with map_errors({OSError: DataError}, f"reading {path!r} under {self.url!r}"), self.open(path) as file:
            size = file.size()
            begin = size + start if start < 0 else start
            want = size - begin if length is None else length
            file.seek(max(begin, 0))
            found = file.read_buffer(want)
        if begin < 0 or found.size != want:
            msg = f"file {path!r} under {self.url!r} is cut short: {found.size} bytes where {want} are wanted"
            raise DataError(msg)
        return found

    def open(self, path: str) -> Any:
        """A random-access Arrow file.

        Raises
        ------
        DataError
            If the file is missing or can not be opened.
        """
        with map_errors({OSError: DataError}, f"opening {path!r} under {self.url!r}"):
            if self.local is not None:
                return pa.OSFile(str(self.local / path), "rb")
            return self._remote().open_input_file(path)

    def check_size(self, path: str, size: int) -> None:
        """Assert that a file is there with `size` bytes, without reading it.

        Raises
        ------
        DataError
            If it is not.
        """
        with map_errors({OSError: DataError}, f"looking for {path!r} under {self.url!r}"):
            if self.local is not None:
                found = (self.local / path).stat().st_size
            else:
                found = self._remote().get_file_info(path).size or -1
        if found != size:
            msg = f"file {path!r} under {self.url!r} has {found} bytes; {size} were written"
            raise DataError(msg)

    def list(self) -> Iterator[Found]:
        """Every file below the root, temporary ones too; folders that start with ``_`` are not entered."""
        if self.local is None:
            for info in self._remote().get_file_info(pafs.FileSelector("", recursive=True, allow_not_found=True)):
                if info.type == pafs.FileType.File and not _private(info.path):
                    yield Found(info.path.lstrip("/"), info.size, info.mtime_ns or 0)
            return
        for folder, folders, files in os.walk(self.local):
            folders[:] = sorted(name for name in folders if not name.startswith("_"))
            for name in sorted(files):
                file = Path(folder) / name
                try:
                    state = file.stat()
                except FileNotFoundError:
                    continue  # another process renamed or removed it since the listing
                yield Found(file.relative_to(self.local).as_posix(), state.st_size, state.st_mtime_ns)

    def delete(self, path: str) -> None:
        """Remove a file; one that is gone already is fine."""
        if self.local is not None:
            (self.local / path).unlink(missing_ok=True)
            return
        self._remote().delete_file(path)


def _private(path: str) -> bool:
    return any(part.startswith("_") for part in path.strip("/").split("/")[:-1])


def _local(text: str) -> Path | None:
    parts = urlsplit(text)
    if len(parts.scheme) <= 1 and "://" not in text:
        return Path(text).absolute()
    return Path(unquote(parts.path)).absolute() if parts.scheme == "file" else None


def _put_local(target: Path, content: bytes | memoryview | pa.Buffer) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f"{TEMPORARY}{process_name()}-{secrets.token_hex(6)}"
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


@cache
def _process_name(pid: int) -> str:
    return f"{re.sub(r'[^A-Za-z0-9.]', '_', socket.gethostname())}-{pid}-{started(pid) or 0}"


def process_name() -> str:
    """A name of this process, told apart from others that had its number before or will have it: host, number, start time."""
    return _process_name(os.getpid())


def started(pid: int) -> int | None:
    """When a process of this host started, in clock ticks since boot; None if there is none (or the system does not say)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    # The command in parentheses may hold anything; the 20th field after it is the start time.
    return int(text.rpartition(")")[2].split()[19])


def sync_folder(folder: Path) -> None:
    """Fsync a directory, so that names in it survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
