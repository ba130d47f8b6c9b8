"""`history … export` and `history … import`: plain Parquet out, Parquet and CSV in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iiot_dask.core.errors import ConfigError

if TYPE_CHECKING:
    from iiot_dask.history import History

Progress = Callable[[int, int], None]


def export_action(
    history: History,
    out: Path | None,
    tags: str,
    progress: Progress,
    *,
    start: str | None = None,
    end: str | None = None,
    partition: str | None = None,
    resume: bool = False,
) -> Any:
    """Write samples to a folder; the report.

    Raises
    ------
    ConfigError
        If no folder is given, or it holds something else.
    """
    if out is None:
        msg = "history export needs --out FOLDER"
        raise ConfigError(msg)
    from iiot_dask.query.request import moment

    first, last = (None if text is None else moment(text) for text in (start, end))
    return history.export(str(out), tags, first, last, progress, partition=partition, resume=resume)


def import_action(
    history: History,
    source: Sequence[Path] | None,
    progress: Progress,
    *,
    names: Sequence[str] = (),
    zone: str | None = None,
    unit: str | None = None,
    dry_run: bool = False,
) -> Any:
    """Take files in; the report.

    Parameters
    ----------
    names
        ``time=ts`` and the like: what columns are called in the files.

    Raises
    ------
    ConfigError
        If no file is given, or a name is of no column.
    """
    if not source:
        msg = "history import needs --from FILE, folder or glob"
        raise ConfigError(msg)
    from iiot_dask.history.intake import Columns

    renamed: dict[str, str] = {}
    for item in names:
        ours, _, theirs = item.partition("=")
        if ours not in {"tag", "time", "value", "quality"} or not theirs:
            msg = f"--column {item!r}: tag=, time=, value= or quality= and the name in the file are wanted"
            raise ConfigError(msg)
        renamed[ours] = theirs
    return history.import_(
        [str(path) for path in source],
        columns=Columns(**renamed, zone=zone, unit=unit),
        dry_run=dry_run,
        progress=progress,
    )


def rejected_text(document: Mapping[str, Any]) -> str:
    """What an import refused, for people; empty when nothing."""
    lines = []
    for reason, found in (document.get("rejected") or {}).items():
        lines.append(f"rejected {found['count']:,}: {reason}")
        lines += [f"    {example}" for example in found["examples"]]
    return "\n".join(lines)
