"""Plug-ins by entry point: built-ins come through the same door as a stranger's package."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from iiot_dask.core.errors import ConfigError, LocalAdapterError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plugin:
    """One row of what is installed; a plug-in that does not import is a row with `error`, never an exception."""

    name: str
    target: str
    distribution: str
    version: str
    error: str | None = None


class Registry(Generic[T]):
    """Names -> classes of one entry-point group, loaded only when asked for.

    Parameters
    ----------
    group
        Entry-point group, such as ``"iiot_dask.adapters"``.
    kind
        What the names are, for messages: ``"adapter"``.

    Examples
    --------
    >>> adapters = Registry("iiot_dask.adapters", "adapter")
    >>> "modbus" in adapters.names()
    True
    >>> adapters.load("modbuss")
    Traceback (most recent call last):
    iiot_dask.core.errors.ConfigError: adapter 'modbuss' is not installed; installed: ...
    """

    def __init__(self, group: str, kind: str) -> None:
        self.group = group
        self.kind = kind

    def points(self) -> dict[str, EntryPoint]:
        """The entry points by name; nothing is imported."""
        return {point.name: point for point in entry_points(group=self.group)}

    def names(self) -> list[str]:
        """Installed names, sorted; nothing is imported."""
        return sorted(self.points())

    def load(self, name: str) -> type[T]:
        """Import and return the class registered under `name`.

        Raises
        ------
        ConfigError
            If no such name is installed.
        LocalAdapterError
            If the plug-in is installed but does not import.
        """
        points = self.points()
        if name not in points:
            msg = f"{self.kind} {name!r} is not installed; installed: {', '.join(sorted(points)) or 'none'}"
            raise ConfigError(msg)
        try:
            loaded: type[T] = points[name].load()
        except Exception as error:
            # A plug-in may raise anything at import; what it raised stays attached.
            msg = f"{self.kind} {name!r} ({points[name].value}) does not import: {type(error).__name__}: {error}"
            raise LocalAdapterError(msg) from error
        return loaded

    def plugins(self) -> list[Plugin]:
        """All installed plug-ins, each tried once; a broken one carries its error."""
        rows = []
        for name, point in sorted(self.points().items()):
            dist = point.dist
            error = None
            try:
                self.load(name)
            except LocalAdapterError as broken:
                error = str(broken)
            rows.append(Plugin(name, point.value, dist.name if dist else "?", dist.version if dist else "?", error))
        return rows
