"""`plan-precision`: what a bound would save and cost, from a file of samples, ready to paste into the plant file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iiot_dask.core.errors import ConfigError, SchemaError

if TYPE_CHECKING:
    import polars as pl

    from iiot_dask.codec.planner import Plan

TIMES = ("time", "ts", "timestamp", "datetime", "date")
TAGS = ("tag", "sensor", "name")


def plan_precision_command(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Samples as .csv or .parquet, one row a sample or one column a tag.")
    ],
    rows: Annotated[int, typer.Option(min=100, help="Read at most this many rows.")] = 2_000_000,
    out: Annotated[Path | None, typer.Option(help="Write table, plot and sections here, one .html file.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document on stdout and nothing else there.")
    ] = False,
) -> None:
    """What each error bound would save and cost on your samples, and a ready [[classes]] section for the plant file."""
    from iiot_dask.codec.planner import plan_precision

    if out is not None and out.suffix.lower() not in {".html", ".htm"}:
        msg = f"--out {str(out)!r}: a page is written; a name ending in .html is allowed"
        raise ConfigError(msg)
    plan = plan_precision(read_samples(file, rows))
    if out is not None:
        write_page(plan, file.name, out)
    if as_json:
        import orjson

        print(orjson.dumps(document(plan, file), option=orjson.OPT_INDENT_2).decode())  # noqa: T201
        return
    show(plan)
    if out is not None:
        print(f"\n{out} has the table and the plot.")  # noqa: T201


def read_samples(file: Path, rows: int) -> pl.DataFrame:
    """The samples of a file as `tag`, `time`, `value` rows, at most `rows` of the file's.

    Long files have a tag, a time and a value column; wide ones a time column and a column of numbers a tag. Times may be text
    (ISO 8601), datetimes, or whole numbers of ns.

    Raises
    ------
    ConfigError
        If the file is missing, of another kind, or can not be parsed.
    SchemaError
        If no column says the time, or none holds numbers.
    """
    import polars as pl

    kind = file.suffix.lower()
    if kind not in {".csv", ".parquet", ".pq"}:
        msg = f"{file}: files ending in .csv or .parquet are allowed"
        raise ConfigError(msg)
    if not file.is_file():
        msg = f"{file}: no such file"
        raise ConfigError(msg)
    try:
        frame = (pl.scan_csv(file) if kind == ".csv" else pl.scan_parquet(file)).head(rows).collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        msg = f"{file}: not {file.suffix[1:]}: {str(error).splitlines()[0]}"
        raise ConfigError(msg) from error
    return long_form(frame, str(file))


def long_form(frame: pl.DataFrame, source: str) -> pl.DataFrame:
    """`tag`, `time` (int64 ns), `value` (float64) rows of a long or a wide frame.

    Raises
    ------
    SchemaError
        If no column says the time, or none holds numbers.
    """
    import polars as pl

    lower = {name.lower(): name for name in reversed(frame.columns)}
    time = next((lower[name] for name in TIMES if name in lower), None)
    if time is None:
        msg = f"{source}: no time column among {frame.columns}; allowed names: {', '.join(TIMES)}"
        raise SchemaError(msg)
    tag = next((lower[name] for name in TAGS if name in lower), None)
    if tag is not None and "value" in lower:
        rows = frame.select(
            pl.col(tag).cast(pl.Utf8).alias("tag"), pl.col(time).alias("time"), pl.col(lower["value"]).alias("value")
        )
    else:
        numbers = [name for name, dtype in frame.schema.items() if name != time and dtype.is_numeric()]
        if not numbers:
            msg = f"{source}: no column of numbers beside {time!r} among {frame.columns}"
            raise SchemaError(msg)
        wide = frame.select(pl.col(time).alias("\0time"), *(pl.col(n).cast(pl.Float64) for n in numbers))
        rows = wide.unpivot(index="\0time", on=numbers, variable_name="tag", value_name="value").rename(
            {"\0time": "time"}
        )
    if not rows.schema["value"].is_numeric():
        msg = f"{source}: column 'value' is {rows.schema['value']}; numbers are needed"
        raise SchemaError(msg)
    return rows.with_columns(_nanoseconds(rows, source), pl.col("value").cast(pl.Float64))


def _nanoseconds(rows: pl.DataFrame, source: str) -> Any:
    import polars as pl

    kind = rows.schema["time"]
    column = pl.col("time")
    if kind == pl.Utf8:
        try:
            return rows["time"].str.to_datetime(time_unit="ns", time_zone="UTC").dt.epoch("ns").alias("time")
        except pl.exceptions.PolarsError as error:
            msg = f"{source}: times such as {rows['time'].drop_nulls().head(1).to_list()} are no ISO 8601: {str(error).splitlines()[0]}"
            raise SchemaError(msg) from error
    if kind.is_temporal():
        return column.cast(pl.Datetime("ns")).dt.epoch("ns")
    if kind.is_integer():
        return column.cast(pl.Int64)
    msg = f"{source}: times are {kind}; text, datetimes or whole numbers of ns are allowed"
    raise SchemaError(msg)


def document(plan: Plan, file: Path) -> dict[str, Any]:
    """The plan as plain data: classes with what was seen and tried, and the sections as text."""
    from dataclasses import asdict

    return {"file": str(file), "classes": [asdict(c) for c in plan.classes], "toml": plan.toml()}


def show(plan: Plan) -> None:
    """Print the plan for people: one table a class, then the sections."""
    from rich.console import Console
    from rich.table import Table

    from iiot_dask.core.times import span_text

    # A file or a pipe has no width; a narrow guess would cut the columns.
    console = Console() if Console().is_terminal else Console(width=140)
    for c in plan.classes:
        title = (
            f"{c.match}: {c.tags} tags, {c.samples:,} samples, one a {span_text(c.period_ns)}; span {c.span:.6g}, "
            f"noise {c.noise:.3g}, resolution {c.resolution:.3g}"
            + (f", times snap to {span_text(c.snap_ns)}" if c.snap_ns > 1 else "")
        )
        table = Table(title=title, title_justify="left")
        for name in (
            "bound",
            "ratio",
            "largest error",
            "RMS error",
            "peaks kept",
            "crossings kept",
            "energy off",
            "MB a tag and year",
            "",
        ):
            table.add_column(name, justify="right")
        for o in c.options:
            table.add_row(
                f"{o.bound:g}" if o.bound else "lossless", f"{o.ratio:.1f}", f"{o.max_error:.3g}", f"{o.rms_error:.3g}",
                f"{o.peaks:.1%}", f"{o.crossings:.1%}", f"{o.energy:.2%}", f"{o.year_mb:.2f}",
                "advised" if o is c.advised else "", style="bold" if o is c.advised else None,
            )  # fmt: skip
        console.print(table)
    console.print("\nFor the plant file:\n" if plan.classes else "No samples, no plan.")
    console.print(plan.toml(), markup=False, highlight=False)


def write_page(plan: Plan, name: str, out: Path) -> None:
    """One HTML page that needs nothing from the network: table, plot, sections.

    Raises
    ------
    ConfigError
        If it can not be written.
    """
    from html import escape

    from bokeh.embed import file_html
    from bokeh.layouts import column
    from bokeh.models import Div
    from bokeh.resources import INLINE

    page = column(
        Div(text=f"<h1>Precision plan for {escape(name)}</h1>"), plan.plot(), Div(text=plan.table()._repr_html_()),
        Div(text=f"<pre>{escape(plan.toml())}</pre>"),
    )  # fmt: skip
    try:
        out.write_text(file_html(page, INLINE, f"Precision plan for {name}"), encoding="utf-8")
    except OSError as error:
        msg = f"--out {str(out)!r}: {error.strerror}"
        raise ConfigError(msg) from error
