"""`import_`: Parquet and CSV files into the history, with progress, resume and a report of what was refused and why.

Files are read in batches and checked as whole columns. A batch that is stored is noted beside the table; an import that was
interrupted goes on after it. One written twice does no harm, as the last write wins and both are the same.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from iiot_dask.core.errors import ConfigError, DataError, map_errors
from iiot_dask.core.times import time_text
from iiot_dask.history.export import Progress
from iiot_dask.history.globs import first_illegal
from iiot_dask.history.windows import zone_of

if TYPE_CHECKING:
    from iiot_dask.history.history import History

BATCH_ROWS = 2_000_000
EXAMPLES = 5
NOTE_VERSION = 1
SUFFIXES = (".parquet", ".csv")
UNITS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_NS = pl.Datetime("ns", "UTC")


@dataclass(slots=True)
class Rejected:
    """Rows refused for one reason: how many, and the first few as text."""

    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Imported:
    """What an import took: `read` = `taken` + all that was `rejected` (by reason); in a wide file cells count, empty ones not.

    `resumed`: rows of the files that an earlier try had done; they count in the figures.
    """

    files: list[str]
    dry_run: bool
    read: int = 0
    taken: int = 0
    resumed: int = 0
    new_tags: int = 0
    start: str | None = None
    end: str | None = None
    rejected: dict[str, Rejected] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Columns:
    """What the columns of the files are called, and what their times mean."""

    tag: str = "tag"
    time: str = "time"
    value: str = "value"
    quality: str = "quality"
    zone: str | None = None
    unit: str | None = None


def files_of(source: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files meant: a file, a folder, a glob, or several of these; sorted, only Parquet and CSV.

    Raises
    ------
    ConfigError
        If there are none.
    """
    given = [source] if isinstance(source, (str, Path)) else list(source)
    out: list[Path] = []
    for item in given:
        path = Path(item)
        if path.is_dir():
            out += sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES)
        elif path.exists():
            out.append(path)
        else:
            out += sorted(Path(p) for p in glob.glob(str(item), recursive=True))  # noqa: PTH207 -- a pattern, maybe absolute
    wrong = [p for p in out if p.suffix not in SUFFIXES]
    if wrong or not out:
        what = f"{str(wrong[0])!r} is neither" if wrong else f"{', '.join(map(repr, map(str, given)))}: no file"
        msg = f"{what} {' nor '.join(SUFFIXES) if wrong else 'there; ' + ' or '.join(SUFFIXES) + ' files are wanted'}"
        raise ConfigError(msg)
    return out


def take(
    history: History,
    source: str | Path | Sequence[str | Path],
    columns: Columns,
    *,
    dry_run: bool,
    resume: bool,
    progress: Progress | None,
) -> Imported:
    """See `History.import_`."""
    if columns.zone is not None:
        zone_of(columns.zone)
    if columns.unit is not None and columns.unit not in UNITS:
        msg = f"time unit {columns.unit!r}; {', '.join(UNITS)} are allowed"
        raise ConfigError(msg)
    files = files_of(source)
    report = Imported([str(f) for f in files], dry_run)
    note = _Note(history, files, columns)
    done = note.load(report) if resume and not dry_run else {}
    total = sum(_rows(f) for f in files)
    before = 0
    seen: list[int] = []
    fresh: set[str] = set()
    for file in files:
        skip = int(done.get(str(file), 0))
        at = 0
        for batch in _batches(file):
            at += batch.height
            before += batch.height
            if at <= skip:
                continue
            rows = _checked(batch, columns, report, file, at - batch.height)
            if rows.height:
                seen += [int(rows["time"].min()), int(rows["time"].max())]  # type: ignore[arg-type]
                seen = [min(seen), max(seen)]
                names = rows["tag"].unique(maintain_order=True)
                history.tags.refresh()
                known = history.tags.series(np.arange(len(history.tags)))
                fresh |= set(names.filter(~names.is_in(known)).to_list())
                if not dry_run:
                    _store(history, rows, names)
            report.taken += rows.height
            report.new_tags = len(fresh)
            if seen:
                report.start, report.end = time_text(seen[0]), time_text(seen[1])
            if not dry_run:
                done[str(file)] = at
                note.save(done, report)
            if progress is not None:
                progress(before, max(total, before))
    if not dry_run:
        note.remove()
    return report


def _store(history: History, rows: pl.DataFrame, names: pl.Series) -> None:
    ids = history.tags.ensure(names.to_list()).astype(np.int64)
    at = rows.select("tag").join(
        pl.DataFrame({"tag": names, "id": ids}), on="tag", how="left", maintain_order="left"
    )["id"]  # fmt: skip
    history.load(*(column.to_numpy() for column in (at, rows["time"], rows["value"], rows["quality"])))


class _Note:
    """How far an import got, beside the table; of these files as they are now and these columns."""

    def __init__(self, history: History, files: list[Path], columns: Columns) -> None:
        state = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        key = hashlib.sha256(json.dumps([state, asdict(columns)]).encode()).hexdigest()[:24]
        self._store = history.store.child("_imports")
        self._path = f"{key}.json"

    def load(self, report: Imported) -> dict[str, int]:
        try:
            text = self._store.get(self._path).to_pybytes()
        except DataError:
            return {}  # nothing was begun
        note = json.loads(text)
        if note["format"] > NOTE_VERSION:
            return {}
        was = note["report"]
        report.read, report.taken, report.new_tags = was["read"], was["taken"], was["new_tags"]
        report.start, report.end = was["start"], was["end"]
        report.rejected = {reason: Rejected(**r) for reason, r in was["rejected"].items()}
        report.resumed = sum(note["done"].values())
        return dict(note["done"])

    def save(self, done: dict[str, int], report: Imported) -> None:
        note = {"format": NOTE_VERSION, "done": done, "report": report.document()}
        self._store.put(self._path, json.dumps(note).encode())

    def remove(self) -> None:
        self._store.delete(self._path)


def _rows(file: Path) -> int:
    if file.suffix == ".parquet":
        with map_errors({pl.exceptions.PolarsError: DataError, OSError: DataError}, f"reading {str(file)!r}"):
            return int(pl.scan_parquet(file).select(pl.len()).collect().item())
    with file.open("rb") as handle:
        return max(0, sum(chunk.count(b"\n") for chunk in iter(lambda: handle.read(1 << 20), b"")) - 1)


def _batches(file: Path) -> Iterator[pl.DataFrame]:
    """The rows of a file in order, in batches of bounded size; of a CSV all columns as text."""
    with map_errors({pl.exceptions.PolarsError: DataError, OSError: DataError}, f"reading {str(file)!r}"):
        if file.suffix == ".csv":
            lazy = pl.scan_csv(file, infer_schema=False)
        else:
            lazy = pl.scan_parquet(file, hive_partitioning=False)
        at = 0
        while True:
            # Slices are pushed into both readers; reading goes on where it stopped after an interruption too.
            batch = lazy.slice(at, BATCH_ROWS).collect(engine="streaming")
            if not batch.height:
                return
            yield batch
            at += batch.height


def _checked(batch: pl.DataFrame, columns: Columns, report: Imported, file: Path, first: int) -> pl.DataFrame:
    """The sound rows: tag, time (Int64 ns), value, quality (UInt8); what is refused goes into the report."""
    if columns.time not in batch.columns:
        msg = f"{str(file)!r} has no column {columns.time!r}; it has {batch.columns}: say which is the time"
        raise ConfigError(msg)
    batch = batch.with_row_index("row", first + 1)
    long = columns.tag in batch.columns and columns.value in batch.columns
    if not long:
        names = [c for c in batch.columns if c not in ("row", columns.time)]
        texts = {pl.String, pl.Categorical}
        cells = pl.Float64 if all(batch[c].dtype not in texts for c in names) else pl.String
        batch = (
            batch.with_columns(pl.col(names).cast(cells))
            .unpivot(names, index=["row", columns.time], variable_name="tag", value_name="value")
            .filter(pl.col("value").is_not_null() & (pl.col("value").cast(pl.String) != ""))
        )
        batch = batch.rename({columns.time: "time"} if columns.time != "time" else {})
        quality = None
    else:
        quality = columns.quality if columns.quality in batch.columns else None
        batch = batch.select(
            "row", tag=pl.col(columns.tag), time=pl.col(columns.time), value=pl.col(columns.value),
            **({"quality": pl.col(quality)} if quality else {}),
        )  # fmt: skip
    report.read += batch.height
    whole = batch.select(
        "row",
        pl.col("tag").cast(pl.String),
        time=_time(batch["time"], columns, file),
        value=_value(batch["value"]),
        quality=_code(batch["quality"]) if quality else pl.lit(0, pl.Int64),
        was=pl.concat_str(
            [pl.col(c).cast(pl.String).fill_null("") for c in batch.columns if c != "row"], separator=", "
        ),
        empty=batch["value"].is_null() | (batch["value"].cast(pl.String).str.strip_chars() == ""),
    )
    unique = whole["tag"].unique()
    legal = [n for n in unique.to_list() if n is not None and first_illegal(pl.Series([n])) is None]
    reasons = (
        pl.when(pl.col("tag").is_null() | (pl.col("tag") == "")).then(pl.lit("no tag"))
        .when(~pl.col("tag").is_in(legal)).then(pl.lit("tag name is not legal"))
        .when(pl.col("time").is_null()).then(pl.lit("time is missing, not a time, or outside 1677 to 2262"))
        .when(pl.col("value").is_null() & ~pl.col("empty")).then(pl.lit("value is not a number"))
        .when(~pl.col("quality").is_between(0, 255).fill_null(value=False)).then(pl.lit("quality is not 0 to 255"))
    )  # fmt: skip
    whole = whole.with_columns(reason=reasons)
    for (reason,), rows in whole.filter(pl.col("reason").is_not_null()).partition_by("reason", as_dict=True).items():
        entry = report.rejected.setdefault(str(reason), Rejected())
        entry.count += rows.height
        for row, was in rows.select("row", "was").head(max(0, EXAMPLES - len(entry.examples))).rows():
            entry.examples.append(f"{file.name}, row {row}: {was[:200]}")
    sound = whole.filter(pl.col("reason").is_null())
    # A value that is missing is a bad sample, as in `append`; it is no mistake of the file.
    bad = pl.when(pl.col("value").is_null() & (pl.col("quality") < 128)).then(128).otherwise(pl.col("quality"))
    return sound.select("tag", "time", value=pl.col("value").fill_null(float("nan")), quality=bad.cast(pl.UInt8))


def _time(column: pl.Series, columns: Columns, file: Path) -> pl.Series:
    """Int64 ns; null where it is no time."""
    kind = column.dtype
    numbers = column.cast(pl.Int64, strict=False) if kind == pl.String else column
    if kind.is_integer() or (kind == pl.String and columns.unit is not None):
        if columns.unit is None:
            msg = f"{str(file)!r}: column {columns.time!r} holds whole numbers; say their unit ({', '.join(UNITS)})"
            raise ConfigError(msg)
        scale = UNITS[columns.unit]
        limit = (2**63 - 1) // scale
        return numbers.cast(pl.Int64, strict=False).to_frame("t").select(
            pl.when(pl.col("t").is_between(-limit, limit)).then(pl.col("t") * scale)
        )["t"]  # fmt: skip
    if kind == pl.String:
        return _texts(column, columns, file)
    if not isinstance(kind, pl.Datetime):
        msg = (
            f"{str(file)!r}: column {columns.time!r} is {kind}; times, ISO text or whole numbers with a unit are wanted"
        )
        raise ConfigError(msg)
    if kind.time_zone is None:
        column = column.dt.replace_time_zone(_zone(columns, file), ambiguous="earliest", non_existent="null")
    scale = UNITS[kind.time_unit]
    limit = (2**63 - 1) // scale
    physical = column.dt.convert_time_zone("UTC").to_physical().to_frame("t")
    return physical.select(pl.when(pl.col("t").is_between(-limit, limit)).then(pl.col("t") * scale))["t"]


def _texts(column: pl.Series, columns: Columns, file: Path) -> pl.Series:
    text = column.str.strip_chars()
    zoned = text.str.contains(r"(?:[zZ]|[+-]\d\d:?\d\d)$") & text.str.contains(r"\d[T ]\d")
    with_zone = text.filter(zoned).str.replace(r"[zZ]$", "+00:00").str.replace(" ", "T")
    out = pl.Series("t", [None], dtype=pl.Int64).new_from_index(0, len(text))
    at = zoned.fill_null(value=False).arg_true()
    found = with_zone.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%:z", time_unit="us", time_zone="UTC", strict=False)
    exact = with_zone.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%:z", time_unit="ns", time_zone="UTC", strict=False)
    inside = found.dt.year().is_between(1678, 2261)
    times = exact.to_physical().to_frame("t").select(pl.when(inside).then(pl.col("t")))["t"]
    out = out.scatter(at, times)
    naive = (~zoned).fill_null(value=False)
    plain = text.filter(naive).str.replace(" ", "T").str.to_datetime(
        "%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False
    )  # fmt: skip
    if plain.null_count() < len(plain):
        local = (
            text.filter(naive)
            .str.replace(" ", "T")
            .str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="ns", strict=False)
        )
        moved = local.dt.replace_time_zone(_zone(columns, file), ambiguous="earliest", non_existent="null")
        ok = plain.dt.year().is_between(1678, 2261)
        ns = moved.dt.convert_time_zone("UTC").to_physical().to_frame("t").select(pl.when(ok).then(pl.col("t")))["t"]
        out = out.scatter(naive.arg_true(), ns)
    return out


def _zone(columns: Columns, file: Path) -> str:
    if columns.zone is None:
        msg = f"{str(file)!r}: column {columns.time!r} has times without a zone; say which with zone, such as 'UTC'"
        raise ConfigError(msg)
    return columns.zone


def _value(column: pl.Series) -> pl.Series:
    if column.dtype == pl.String:
        text = column.str.strip_chars().str.to_lowercase()
        words = text.replace_strict({"true": "1", "false": "0", "nan": "NaN"}, default=text, return_dtype=pl.String)
        return words.cast(pl.Float64, strict=False)
    return column.cast(pl.Float64, strict=False)


def _code(column: pl.Series) -> pl.Series:
    found = column.cast(pl.Int64, strict=False)
    # An absent code is good, as in `append`; text that is no number is refused.
    absent = column.is_null() | (column.cast(pl.String).str.strip_chars() == "")
    return found.to_frame("q").select(q=pl.when(absent).then(0).otherwise(pl.col("q")))["q"]
