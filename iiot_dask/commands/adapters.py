"""``iiot-dask adapters``: what is installed, what it can do, a new one, a test of one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from iiot_dask.adapter.conformance import Result
    from iiot_dask.core.config import Adapter as AdapterConfig
    from iiot_dask.core.plantfile import LoadedPlant

app = typer.Typer(
    help="What adapters are installed; make one; try one out.",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Examples: `iiot-dask adapters` · `iiot-dask adapters new press --out .` · `iiot-dask adapters test modbus`",
)
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout and nothing else there.")]
Name = Annotated[str, typer.Argument(help="An installed adapter.")]


def emit(document: Any, *, as_json: bool, text: str) -> None:
    """Print a result."""
    if as_json:
        import orjson

        typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())
    else:
        typer.echo(text)


def quiet() -> None:
    """The host's log is for people who run a plant; here only warnings are, and on stderr."""
    import logging

    import structlog

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )


@app.callback(invoke_without_command=True)
def without(context: typer.Context, as_json: Json = False) -> None:
    """What adapters are installed; make one; try one out."""
    if context.invoked_subcommand is None:
        listed(as_json=as_json)


@app.command("list")
def listed(as_json: Json = False) -> None:
    """What is installed; a plug-in that can not be used is a red row with its error. Exit status 1 if there is one."""
    from iiot_dask.adapter.roll import call

    entries = call()
    rows = [
        {
            "name": e.name, "target": e.target, "distribution": e.distribution, "version": e.version,
            "summary": e.summary, "verbs": list(e.verbs), "error": e.error,
        }
        for e in entries
    ]  # fmt: skip
    if as_json:
        emit({"adapters": rows}, as_json=True, text="")
    else:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("adapter", "from", "what"):
            table.add_column(column, overflow="fold")
        for e in entries:
            style = "red" if e.error else ""
            cells = (e.name, f"{e.distribution} {e.version}", e.error or e.summary or "")
            table.add_row(*(Text(cell, style) for cell in cells))
        Console(width=None if sys.stdout.isatty() else 118, highlight=False).print(table)
    if any(e.error for e in entries):
        raise typer.Exit(1)


@app.command()
def spec(name: Name) -> None:
    """The JSON schema of an adapter's section in a plant file, its own options included."""
    from iiot_dask.adapter.roll import call
    from iiot_dask.core.errors import ConfigError

    (entry,) = call([name]) or (None,)
    if entry is None or entry.spec is None:
        msg = f"adapter {name!r} is not installed" if entry is None else str(entry.error)
        raise ConfigError(msg)
    emit(entry.spec, as_json=True, text="")


@app.command()
def discover(
    plant: Annotated[Path, typer.Argument(metavar="PLANT.toml", help="The plant file.")],
    name: Annotated[str, typer.Argument(help="One of its adapters.")],
    as_json: Json = False,
) -> None:
    """What could be read from an adapter's endpoint, whether the plant file lists it or not."""
    from iiot_dask.adapter.ask import discover_adapter

    loaded, config = _adapter_of(plant, name)
    found = discover_adapter(loaded, config)
    rows = [
        {
            "tag": t.tag,
            "device": t.device,
            "address": t.address,
            "unit": t.unit,
            "period_ns": t.period_ns,
            "kind": t.kind,
        }
        for t in found
    ]
    emit({"adapter": name, "tags": rows}, as_json=as_json, text="\n".join(f"{t.tag}\t{t.address}" for t in found))


def _adapter_of(plant: Path, name: str) -> tuple[LoadedPlant, AdapterConfig]:
    from iiot_dask.core.errors import ConfigError
    from iiot_dask.core.plantfile import load

    loaded = load(plant)
    config = next((c for c in loaded.config.adapters if c.name == name), None)
    if config is None:
        msg = f"{plant} has no adapter {name!r}; it has {', '.join(c.name for c in loaded.config.adapters) or 'none'}"
        raise ConfigError(msg)
    return loaded, config


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Kind of the new adapter: small letters, digits, '-'.")],
    out: Annotated[Path, typer.Option(help="Folder to make the package in.")] = Path(),
    as_json: Json = False,
) -> None:
    """Make an installable package with an adapter that works, a source to try it on, a test and a README."""
    from iiot_dask.adapter.scaffold import new as make

    folder = make(name, out)
    text = f"{folder}: install it (pip install -e {folder}), then: iiot-dask adapters test {name}"
    emit({"name": name, "folder": str(folder)}, as_json=as_json, text=text)


@app.command("test")
def try_out(
    name: Name,
    only: Annotated[list[str] | None, typer.Option(help="One trial; may be repeated.")] = None,
    patience: Annotated[float, typer.Option(min=1, help="Seconds one thing may take.")] = 30.0,
    as_json: Json = False,
) -> None:
    """Run the conformance kit over an adapter, against the source its author provides. Exit status 1 if a trial fails."""
    from iiot_dask.adapter.conformance import run
    from iiot_dask.core.registry import Registry

    quiet()
    registry: Registry[Any] = Registry("iiot_dask.adapters", "adapter")
    results = run(
        registry.load(name), only=only or (), patience_s=patience,
        told=None if as_json else lambda result: typer.echo(_line(result)),
    )  # fmt: skip
    failed = [r.trial for r in results if r.verdict == "failed"]
    document = {
        "adapter": name,
        "passed": not failed,
        "trials": [
            {"trial": r.trial, "verdict": r.verdict, "sentences": list(r.sentences), "seconds": round(r.seconds, 3)}
            for r in results
        ],
    }
    said = f"fails {', '.join(failed)}" if failed else "passes"
    emit(document, as_json=as_json, text=f"{name}: {said}")
    if failed:
        raise typer.Exit(1)


def _line(result: Result) -> str:
    colour = {"passed": typer.colors.GREEN, "failed": typer.colors.RED, "n/a": typer.colors.YELLOW}[result.verdict]
    said = f"  {'; '.join(result.sentences)}" if result.sentences else ""
    return f"{typer.style(result.verdict.ljust(6), fg=colour)} {result.trial}{said}"
