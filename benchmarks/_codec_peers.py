"""What the codecs are compared with, each column of each set in the same run; a peer that is not installed is left out.

pcodec level 8 on the raw columns in the same chunks. Parquet, DuckDB, ClickHouse and Vortex get each column of a set whole
and write it their own way, times and values as separate columns or files. DuckDB's files come in 256 KiB blocks, so small sets
look larger than they are. ClickHouse's best of four value codecs is taken set by set (its ALP is beta and asked for by name).
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from iiot_dask_benchmarks._codec_sets import Column
from pcodec import ChunkConfig, standalone

PCO = ChunkConfig(compression_level=8)
Chunks = list[list[Column]]


class Measured:
    """Bytes of both columns and seconds of processor time of one method on one set."""

    def __init__(self) -> None:
        self.times = self.values = self.samples = 0
        self.encode_s = self.decode_s = 0.0

    def add(self, other: Measured) -> None:
        """Take in another set."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def row(self) -> dict[str, float]:
        """The figures people compare."""
        size = 16 * self.samples
        return {
            "ratio": round(size / max(self.times + self.values, 1), 3),
            "time_bytes": round(self.times / self.samples, 4),
            "value_bytes": round(self.values / self.samples, 4),
            "encode_mb_s": round(size / self.encode_s / 1e6, 1) if self.encode_s else 0.0,
            "decode_mb_s": round(size / self.decode_s / 1e6, 1) if self.decode_s else 0.0,
        }


def timed(run: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """(least seconds of processor time of this process, result of the last call)."""
    best, out = np.inf, None
    for _ in range(repeats):
        start = time.process_time()
        out = run()
        best = min(best, time.process_time() - start)
    return float(best), out


def pco(chunks: Chunks, repeats: int) -> Measured:
    """pcodec, level 8, each chunk a file."""
    columns = [c for tag in chunks for c in tag]
    m = Measured()
    m.encode_s, blobs = timed(
        lambda: [(standalone.simple_compress(t, PCO), standalone.simple_compress(x, PCO)) for t, x in columns], repeats
    )
    m.decode_s, _ = timed(
        lambda: [(standalone.simple_decompress(t), standalone.simple_decompress(x)) for t, x in blobs], repeats
    )
    m.samples = sum(len(t) for t, _ in columns)
    m.times = sum(len(t) for t, _ in blobs)
    m.values = sum(len(x) for _, x in blobs)
    return m


def _whole(chunks: Chunks) -> pa.Table:
    return pa.table({n: np.concatenate([c[i] for tag in chunks for c in tag]) for i, n in enumerate("tx")})


def parquet(chunks: Chunks) -> Measured:
    """Delta-packed times, values by dictionary or byte-stream-split, whichever is smaller, zstd 3."""
    return min((_parquet(_whole(chunks), dictionary) for dictionary in (True, False)), key=lambda m: m.times + m.values)


def _parquet(table: pa.Table, dictionary: bool) -> Measured:
    encodings = {"t": "DELTA_BINARY_PACKED"} | ({} if dictionary else {"x": "BYTE_STREAM_SPLIT"})

    def write() -> Any:
        sink = pa.BufferOutputStream()
        pq.write_table(
            table, sink, compression="zstd", compression_level=3, use_dictionary=["x"] if dictionary else False,
            column_encoding=encodings, dictionary_pagesize_limit=1 << 20,
        )  # fmt: skip
        return sink.getvalue()

    m = Measured()
    m.encode_s, data = timed(write, 1)
    m.decode_s, _ = timed(lambda: pq.read_table(pa.BufferReader(data), use_threads=False), 2)
    meta = pq.ParquetFile(pa.BufferReader(data)).metadata
    groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
    m.samples, m.times = table.num_rows, sum(g.column(0).total_compressed_size for g in groups)
    m.values = sum(g.column(1).total_compressed_size for g in groups)
    return m


def duckdb(chunks: Chunks) -> Measured:
    """A database file a column, DuckDB's own choice of encodings."""
    import duckdb as db

    table = _whole(chunks)
    m = Measured()
    m.samples = table.num_rows
    with tempfile.TemporaryDirectory() as home:
        for name in ("t", "x"):
            path = Path(home) / f"{name}.duckdb"
            source = table.select([name])
            start = time.process_time()
            with db.connect(str(path), config={"threads": 1}) as connection:
                connection.register("source", source)
                connection.execute("create table s as select * from source")
                connection.execute("checkpoint")
            m.encode_s += time.process_time() - start
            with db.connect(str(path), config={"threads": 1}, read_only=True) as connection:
                spent, _ = timed(lambda run=connection: run.sql("select * from s").to_arrow_table(), 2)
            m.decode_s += spent
            setattr(m, "times" if name == "t" else "values", path.stat().st_size)
    return m


CLICKHOUSE = ("ZSTD(3)", "Gorilla, ZSTD(3)", "FPC, ZSTD(3)", "ALP, ZSTD(3)")


def clickhouse(chunks: Chunks) -> Measured:
    """MergeTree by way of chdb: DoubleDelta times, values by the best of four codecs; sizes from system.parts_columns."""
    from chdb.session import Session

    table = _whole(chunks)
    best: Measured | None = None
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "whole.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        session = Session(str(Path(home) / "db"))
        try:
            session.query("set max_threads = 1; set max_insert_threads = 1; set enable_alp_codec = 1")
            for at, codec in enumerate(CLICKHOUSE):
                found = _clickhouse_table(session, f"s{at}", codec, path, table.num_rows)
                if best is None or found.times + found.values < best.times + best.values:
                    best = found
        finally:
            session.close()
    if best is None:
        msg = "ClickHouse wrote no table"
        raise RuntimeError(msg)
    return best


def _clickhouse_table(session: Any, name: str, codec: str, path: Path, rows: int) -> Measured:
    m = Measured()
    m.samples = rows
    session.query(
        f"create table {name} (t Int64 codec(DoubleDelta, ZSTD(3)), x Float64 codec({codec})) engine = MergeTree order by tuple() "
        "settings min_bytes_for_wide_part = 0, min_rows_for_wide_part = 0"
    )
    start = time.process_time()
    session.query(f"insert into {name} select t, x from file('{path}', Arrow)")
    session.query(f"optimize table {name} final")
    m.encode_s = time.process_time() - start
    sizes = session.query(
        "select column, sum(column_data_compressed_bytes) from system.parts_columns "
        f"where table = '{name}' and active group by column order by column", "CSV",
    )  # fmt: skip
    m.times, m.values = (int(line.split(",")[1]) for line in str(sizes).split())
    m.decode_s, _ = timed(lambda: session.query(f"select sum(t), sum(x) from {name}"), 2)
    return m


def vortex(chunks: Chunks) -> Measured:
    """A Vortex file a column, compact encodings; may use both cores, which processor time counts."""
    import vortex as vx

    table = _whole(chunks)
    m = Measured()
    m.samples = table.num_rows
    with tempfile.TemporaryDirectory() as home:
        for name in ("t", "x"):
            path = Path(home) / f"{name}.vortex"
            array = vx.array(table.select([name]))
            spent, _ = timed(lambda a=array, p=path: vx.io.VortexWriteOptions.compact().write(a, str(p)), 1)
            m.encode_s += spent
            spent, _ = timed(lambda p=path: vx.open(str(p)).to_arrow().read_all(), 2)
            m.decode_s += spent
            setattr(m, "times" if name == "t" else "values", path.stat().st_size)
    return m


PEERS: dict[str, tuple[str, Callable[[Chunks], Measured]]] = {
    "parquet": ("pyarrow", parquet),
    "duckdb": ("duckdb", duckdb),
    "clickhouse": ("chdb", clickhouse),
    "vortex": ("vortex", vortex),
}


def installed() -> dict[str, Callable[[Chunks], Measured]]:
    """The peers that can be asked here, pcodec apart."""
    return {name: run for name, (module, run) in PEERS.items() if importlib.util.find_spec(module) is not None}
