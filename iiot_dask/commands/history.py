"""`history`: look after what is stored. One command, one action each call; heavy modules load when an action runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iiot_dask.commands.adapters import emit
from iiot_dask.commands.history_io import export_action, import_action, rejected_text
from iiot_dask.core.errors import ConfigError

if TYPE_CHECKING:
    from iiot_dask.history import Retention

ACTIONS = ("info", "verify", "compact", "export", "import", "retain", "vacuum")

Progress = Callable[[int, int], None]


def history_command(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A data directory, its history, or a plant file.")],
    action: Annotated[str, typer.Argument(help=", ".join(ACTIONS[:-1]) + f" or {ACTIONS[-1]}.")],
    out: Annotated[Path | None, typer.Option(help="export: the folder to write to.")] = None,
    tags: Annotated[str, typer.Option(help="export: which tags.")] = "*",
    start: Annotated[
        str | None, typer.Option(help="export: from this time on, ISO 8601 or relative such as -1d.")
    ] = None,
    end: Annotated[str | None, typer.Option(help="export: up to this time, exclusive.")] = None,
    partition: Annotated[str | None, typer.Option(help="export: a folder for each UTC day or month.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="export: go on where an interrupted one stopped.")] = False,
    source: Annotated[
        list[Path] | None, typer.Option("--from", help="import: Parquet or CSV file, folder or glob; may be repeated.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="import: what a column is called in the files, such as time=ts.")
    ] = None,
    zone: Annotated[str | None, typer.Option(help="import: time zone of times that have none.")] = None,
    unit: Annotated[
        str | None, typer.Option(help="import: unit of times that are whole numbers: s, ms, us, ns.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="compact, import: say what would be done, do nothing.")
    ] = False,
    chunk_rows_min: Annotated[
        int | None, typer.Option(min=1, help="compact: seal tags with at least this many samples a day (default 1000).")
    ] = None,
    keep: Annotated[
        str | None, typer.Option(help="retain: how long samples are kept, such as 90d; absent = the plant file's.")
    ] = None,
    tier: Annotated[
        list[str] | None,
        typer.Option(help="retain: windows samples become after, and how long those are kept: 1m=730d, 1h (for ever)."),
    ] = None,
    older: Annotated[str, typer.Option(help="vacuum: only files dead for longer than this.")] = "1d",
    apply: Annotated[
        bool, typer.Option("--apply", help="retain, vacuum: do it; without this they only say what would be done.")
    ] = False,
    scheduler: Annotated[
        str | None, typer.Option(help="verify, compact, retain: do it on the Dask cluster at this address.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document on stdout and nothing else there.")
    ] = False,
) -> None:
    """Look after stored history: what is there, is it intact, seal hot blocks, roll up and drop what is old, copy it out."""
    from iiot_dask.show import bar, history_text, progress_console

    if action not in ACTIONS:
        msg = f"history action {action!r}: {', '.join(ACTIONS)} are allowed"
        raise ConfigError(msg)
    from iiot_dask.engine import data_directory
    from iiot_dask.history import History

    console = progress_console(quiet=as_json)
    with (
        _client(scheduler) as client,
        History(str(data_directory(data) / "history")) as history,
        bar(console, f"history {action}") as progress,
    ):
        if action == "info":
            report: Any = history.info()
        elif action == "verify":
            report = history.verify(progress, client=client)
        elif action == "compact":
            more = {} if chunk_rows_min is None else {"chunk_rows_min": chunk_rows_min}
            report = history.compact(progress, dry_run=dry_run, client=client, **more)
        elif action == "retain":
            report = history.retain(_policy(data, keep, tier), progress, dry_run=not apply, client=client)
        elif action == "vacuum":
            report = history.vacuum(older, dry_run=not apply)
        elif action == "import":
            report = import_action(history, source, progress, names=column or (), zone=zone, unit=unit, dry_run=dry_run)
        else:
            report = export_action(
                history, out, tags, progress, start=start, end=end, partition=partition, resume=resume
            )
    document: dict[str, Any] = report.document()
    text = "\n".join(filter(None, (history_text(action, document), rejected_text(document))))
    emit(document, as_json=as_json, text=text)
    if action == "verify" and document["damaged"]:
        raise typer.Exit(1)


def _client(address: str | None) -> AbstractContextManager[Any]:
    if address is None:
        return nullcontext()
    from distributed import Client

    try:
        return Client(address, timeout="10s")  # type: ignore[no-any-return]
    except OSError as error:
        msg = f"--scheduler {address!r}: no Dask scheduler answers there: {error}"
        raise ConfigError(msg) from error


def _policy(data: Path, keep: str | None, tiers: list[str] | None) -> Retention:
    """What the options say, else what the plant file does, else to keep everything."""
    from iiot_dask.history import Retention

    if keep is not None or tiers:
        return Retention.of(keep, tiers or ())
    if data.suffix == ".toml":
        from iiot_dask.core.plantfile import load

        return Retention.configured(load(data).config.history)
    return Retention()
