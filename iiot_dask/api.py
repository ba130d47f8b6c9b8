"""The Python API's two doors: `open` a plant to look at it, `run` a plant to make it live."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Self

from iiot_dask.core.config import PlantFile
from iiot_dask.core.plantfile import LoadedPlant, load

if TYPE_CHECKING:
    # Both pull in Polars, Delta and Dask, which `open` alone must not cost.
    import polars as pl

    from iiot_dask.engine import Engine
    from iiot_dask.history import History


@dataclass(slots=True)
class Plant:
    r"""A plant at rest: its configuration, its catalogue of tags, its history. Nothing is started.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> folder = tempfile.TemporaryDirectory()
    >>> file = pathlib.Path(folder.name) / "plant.toml"
    >>> _ = file.write_text('[plant]\nname = "mill"\n')
    >>> with open(file) as plant:
    ...     plant.config.plant.name, plant.tags.height
    ('mill', 0)
    >>> folder.cleanup()
    """

    loaded: LoadedPlant
    _history: History | None = field(default=None, repr=False)

    @property
    def config(self) -> PlantFile:
        """The validated plant file."""
        return self.loaded.config

    @property
    def tags(self) -> pl.DataFrame:
        """The catalogue: id, tag, device, adapter, address, unit, kind, period_ns; no rows before the first run."""
        from iiot_dask.ingest.catalogue import read_catalogue

        return read_catalogue(self.loaded.data / "catalogue")

    @property
    def history(self) -> History:
        """The plant's history with its live tail; made if there is none yet.

        While the plant runs, in this process or another, rows show within a second of being durable in the journal.

        Raises
        ------
        VersionError
            If a newer program wrote it.
        """
        from iiot_dask.query import open_history

        if self._history is None:
            self._history = open_history(self.loaded.data)
        return self._history

    def close(self) -> None:
        """Let go of the history."""
        if self._history is not None:
            self._history.close()
            self._history = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _repr_html_(self) -> str:
        """A small table: name, data directory, adapters."""
        rows = "".join(
            f"<tr><td>{escape(a.name)}</td><td>{escape(a.kind)}</td><td>{escape(a.endpoint or a.listen or '')}</td>"
            f"<td>{len(a.tags) or len(a.topics) or len(a.browse)}</td></tr>"
            for a in self.config.adapters
        )
        head = "<tr><th>adapter</th><th>kind</th><th>endpoint</th><th>tags or rules</th></tr>"
        return f"<b>Plant {escape(self.config.plant.name)}</b> in {escape(str(self.loaded.data))}<table>{head}{rows}</table>"


def open(path: str | os.PathLike[str]) -> Plant:  # noqa: A001 -- `iiot.open` is the contract
    """Read a plant file and give access to its tags and history; starts nothing.

    Raises
    ------
    ConfigError
        If the file is missing or wrong: file, key, value and what is allowed.
    """
    return Plant(load(path))


def run(path: str | os.PathLike[str] | Path) -> Engine:
    """Start the engine on a plant file; use it as a context manager, or call `stop`.

    Raises
    ------
    ConfigError
        If the plant file is wrong.
    InUseError
        If another run writes to the same data directory.
    """
    import structlog

    from iiot_dask.engine import Engine
    from iiot_dask.runner import quiet_logs

    plant = load(path)
    if not structlog.is_configured():
        # Its default prints everything to stdout; an application that wants that configures it.
        quiet_logs(None)
    return Engine(plant).start()
