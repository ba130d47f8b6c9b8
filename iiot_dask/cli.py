"""The command line: thin commands over the Python API. Heavy modules load inside the command that needs them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from iiot_dask.commands import adapters
from iiot_dask.commands.history import history_command
from iiot_dask.commands.precision import plan_precision_command
from iiot_dask.core.errors import ConfigError, IiotError, VersionError

app = typer.Typer(
    name="iiot-dask",
    help="Industrial sensor data from socket to Parquet on Dask.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(adapters.app, name="adapters")

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout and nothing else there.")]
PlantArg = Annotated[Path, typer.Argument(metavar="PLANT.toml", help="The plant file.")]
DataArg = Annotated[Path, typer.Argument(metavar="DATA", help="A data directory, its history, or a plant file.")]


def _emit(document: Any, *, as_json: bool, text: str | None = None) -> None:
    """Print a result: one JSON document, or `text` for people."""
    if as_json:
        import orjson

        print(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY).decode())  # noqa: T201
    elif text is not None:
        print(text)  # noqa: T201


@app.command(
    epilog="Examples: `iiot-dask demo` · `iiot-dask demo --duration 90s --no-dashboard --json` · `iiot-dask demo --tags 20000`"
)
def demo(
    duration: Annotated[str, typer.Option(help="How long devices send; 0s = until Ctrl-C.")] = "60s",
    port: Annotated[int, typer.Option(help="Port of the dashboard on loopback; 0 = any free one.")] = 5006,
    dashboard: Annotated[bool, typer.Option("--dashboard/--no-dashboard", help="Serve the Panel dashboard.")] = True,
    data: Annotated[Path, typer.Option(help="Where to keep everything; must be empty or a former demo's.")] = Path(
        "demo-data"
    ),
    tags: Annotated[int, typer.Option(min=100, max=1_000_000, help="About how many tags the factory has.")] = 2000,
    broker: Annotated[
        Literal["auto", "mosquitto", "amqtt"], typer.Option(help="MQTT broker; auto: mosquitto if installed.")
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of signals, noise and faults.")] = 7,
    processes: Annotated[bool, typer.Option(help="Dask workers as processes instead of threads.")] = False,
    as_json: Json = False,
) -> None:
    """A whole simulated factory on real protocol servers, live: adapters, Dask, history, health, scaling, dashboard."""
    from iiot_dask.demo import DemoOptions, run_demo
    from iiot_dask.show import demo_text, progress_console

    options = DemoOptions(
        duration=duration, port=port, dashboard=dashboard, data=data, tags=tags, broker=broker, seed=seed,
        processes=processes,
    )  # fmt: skip
    summary = run_demo(options, progress_console(quiet=as_json))
    _emit(summary.document(), as_json=as_json, text=demo_text(summary))
    if not summary.ok:
        raise typer.Exit(1)


@app.command(epilog="Example: `iiot-dask run plant.toml --duration 1h`")
def run(
    plant: PlantArg,
    duration: Annotated[str | None, typer.Option(help="Stop after this long; absent = until Ctrl-C.")] = None,
    dashboard: Annotated[bool, typer.Option("--dashboard/--no-dashboard", help="Serve the dashboard too.")] = False,
    as_json: Json = False,
) -> None:
    """Run the engine on your own devices until Ctrl-C; everything acknowledged is in history when it ends."""
    from iiot_dask.runner import run_plant
    from iiot_dask.show import progress_console, snapshot_text

    snapshot = run_plant(plant, duration, dashboard=dashboard, console=progress_console(quiet=as_json))
    _emit(snapshot, as_json=as_json, text=snapshot_text(snapshot))
    if snapshot.state == "failed":
        raise typer.Exit(1)


@app.command(epilog="Example: `iiot-dask check plant.toml`")
def check(plant: PlantArg, as_json: Json = False) -> None:
    """Validate a plant file, reach each endpoint, name what is wrong."""
    from iiot_dask.runner import check_plant

    report = check_plant(plant)
    text = "\n".join(
        f"{'ok   ' if not row['problems'] else 'wrong'} {row['adapter']}: {'; '.join(row['problems']) or row['endpoint']}"
        for row in report
    )
    _emit(
        {"plant": str(plant), "adapters": report}, as_json=as_json, text=text or f"{plant}: valid; it has no adapters"
    )
    if any(row["problems"] for row in report):
        raise typer.Exit(1)


@app.command(
    epilog="Examples: `iiot-dask query demo-data --tags 'site1/*' --every 10s` · `iiot-dask query demo-data --tags '*' --format parquet --out rows.parquet`"
)
def query(
    data: DataArg,
    tags: Annotated[list[str] | None, typer.Option(help="Glob over tag names; may be repeated.")] = None,
    start: Annotated[
        str | None, typer.Option(help="First instant, ISO 8601 or relative such as -1h; inclusive.")
    ] = None,
    end: Annotated[str | None, typer.Option(help="Last instant, ISO 8601 or relative such as -5m; exclusive.")] = None,
    every: Annotated[str | None, typer.Option(help="Aggregate into windows of this length: 10s, 1m, 1h …")] = None,
    limit: Annotated[int | None, typer.Option(min=0, help="At most this many rows.")] = None,
    form: Annotated[str, typer.Option("--format", help="table, csv, json or parquet.")] = "table",
    out: Annotated[Path | None, typer.Option(help="Write here instead of stdout; needed for parquet.")] = None,
) -> None:
    """Samples, or aggregates with --every, of the tags a glob selects."""
    from iiot_dask.runner import run_query

    run_query(data, tags or ["*"], start, end, every, limit, form, out)


app.command(
    "history",
    epilog="Examples: `iiot-dask history demo-data info` · `iiot-dask history demo-data verify --json` · `iiot-dask history demo-data compact --dry-run` · `iiot-dask history demo-data retain --keep 90d --tier 1m=730d --tier 1h`",
)(history_command)


@app.command(epilog="Example: `iiot-dask incidents demo-data --json`")
def incidents(
    data: DataArg,
    open_only: Annotated[bool, typer.Option("--open", help="Only those that still last.")] = False,
    as_json: Json = False,
) -> None:
    """Every incident found: node, kind, when it began, was detected and ended."""
    from iiot_dask.runner import read_incidents
    from iiot_dask.show import incidents_text

    rows = read_incidents(data, open_only=open_only)
    _emit({"incidents": rows}, as_json=as_json, text=incidents_text(rows))


@app.command(epilog="Example: `iiot-dask dashboard plant.toml --port 5007`")
def dashboard(
    plant: PlantArg,
    port: Annotated[int | None, typer.Option(help="Port on loopback; 0 = any free one.")] = None,
) -> None:
    """Serve the dashboard of a plant that runs in another process (or ran before)."""
    from iiot_dask.runner import serve_dashboard
    from iiot_dask.show import progress_console

    serve_dashboard(plant, port, progress_console(quiet=False))


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    epilog="Examples: `iiot-dask bench` · `iiot-dask bench codec --json` · `iiot-dask bench codec --help`",
)
def bench(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Which one; absent = list them.")] = None,
) -> None:
    """Measure on this machine, against peers in the same run; further options are the benchmark's own."""
    import importlib
    import pkgutil

    home = importlib.import_module("iiot_dask_benchmarks")
    names = sorted(module.name for module in pkgutil.iter_modules(home.__path__) if not module.name.startswith("_"))
    if name is None or name in {"-h", "--help"}:
        _emit(None, as_json=False, text=f"{context.get_usage()}\nbenchmarks: {', '.join(names)}")
        return
    if name not in names:
        msg = f"bench {name!r}: allowed: {', '.join(names)}"
        raise ConfigError(msg)
    status = importlib.import_module(f"iiot_dask_benchmarks.{name}").main(context.args)
    if status:
        raise typer.Exit(status)


app.command(
    "plan-precision",
    epilog="Examples: `iiot-dask plan-precision samples.csv` · `iiot-dask plan-precision samples.parquet --out plan.html --json`",
)(plan_precision_command)


def _fail(error: BaseException, status: int) -> NoReturn:
    for line in str(error).splitlines() or [type(error).__name__]:
        print(f"iiot-dask: {line}", file=sys.stderr)  # noqa: T201
    raise SystemExit(status)


def main() -> None:
    """Entry point: exit status 0 fine, 1 the work failed, 2 wrong usage or configuration, 130 stopped by Ctrl-C twice."""
    try:
        app()
    except (ConfigError, VersionError) as error:
        _fail(error, 2)
    except IiotError as error:
        _fail(error, 1)


if __name__ == "__main__":
    main()
