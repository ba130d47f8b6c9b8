"""Codecs against peers in the same run: bytes a sample for times and values, ratio, MB/s in and out on one core.

Run: ``iiot-dask bench codec [FILES] [--json] [--page OUT.md] [--chunk 65536]``. FILES are Parquet in long form (ts, sensor,
value); without any, the sets in ../shared/datasets if they are there, else generated ones. Every column is decoded and compared
bit for bit. Peers: pcodec level 8 on the raw columns; Parquet of the whole set (delta times, dictionary or byte-stream-split
values, zstd 3); DuckDB's file with its own choice of encodings (256 KiB blocks, so small sets come out worse than they are).
MB/s are of 16 bytes a sample (int64 time + float64 value). The bound column is 0.01 % of each chunk's span.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pcodec import ChunkConfig, standalone

from iiot_dask import codec

SHARED = Path(__file__).parents[2] / "shared" / "datasets"
NOT_SERIES = {"nasa_http_rate", "wsn_library_transmissions"}
Column = tuple[np.ndarray, np.ndarray]
PCO = ChunkConfig(compression_level=8)
BOUND = codec.Precision(span_share=1e-4)


def generated() -> Iterator[tuple[str, pl.DataFrame]]:
    """Sets of the kinds a plant sends, seeded: what is left when no files are there."""
    rng = np.random.default_rng(7)
    n = 60_000
    t = 1_764_000_000_000_000 + np.arange(n) * 1_000_000
    walk = 20 + np.cumsum(rng.normal(0, 0.02, n))
    kinds = {
        "decimals": np.round(walk, 2),
        "converter": np.round(walk * 40) / 256,
        "counter": np.cumsum(rng.integers(0, 4, n)).astype(float),
        "states": np.repeat(rng.integers(0, 4, n // 500), 500).astype(float),
        "vibration": np.round(2000 * np.sin(np.arange(n) / 7) + rng.normal(0, 100, n)) * 0.00031,
        "float32": walk.astype(np.float32).astype(float),
    }
    for name, values in kinds.items():
        yield name, pl.DataFrame({"ts": pl.Series(t).cast(pl.Datetime("us", "UTC")), "sensor": name, "value": values})
    jitter = t + rng.integers(-1, 2, n) * 1000
    yield (
        "jitter_1ms",
        pl.DataFrame(
            {"ts": pl.Series(jitter).cast(pl.Datetime("us", "UTC")), "sensor": "s", "value": np.round(walk, 1)}
        ),
    )


def sets(files: list[Path]) -> Iterator[tuple[str, pl.DataFrame]]:
    """(name, rows) of every set."""
    if not files and SHARED.is_dir():
        files = sorted(p for p in SHARED.glob("*.parquet") if p.stem not in NOT_SERIES)
    if not files:
        yield from generated()
    for path in files:
        yield path.stem, pl.read_parquet(path)


def tags(frame: pl.DataFrame, chunk: int) -> list[list[Column]]:
    """Chunks of (times ns, values) of each tag."""
    out = []
    for part in frame.partition_by("sensor", maintain_order=True):
        t = part["ts"].dt.epoch("ns").to_numpy().copy()
        x = part["value"].to_numpy().astype(np.float64)
        out.append([(t[a : a + chunk].copy(), x[a : a + chunk].copy()) for a in range(0, len(t), chunk)])
    return out


class Measured:
    """Bytes and seconds of one method on one set."""

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
            "ratio": round(size / (self.times + self.values), 3),
            "time_bytes": round(self.times / self.samples, 4),
            "value_bytes": round(self.values / self.samples, 4),
            "encode_mb_s": round(size / self.encode_s / 1e6, 1) if self.encode_s else 0.0,
            "decode_mb_s": round(size / self.decode_s / 1e6, 1) if self.decode_s else 0.0,
        }


def timed(run: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """(shortest seconds, result of the last call)."""
    best, out = np.inf, None
    for _ in range(repeats):
        start = time.perf_counter()
        out = run()
        best = min(best, time.perf_counter() - start)
    return float(best), out


def ours(chunks: list[list[Column]], tier: str, precision: codec.Precision | None, repeats: int) -> Measured:
    """One tier over all tags; the archive tier remembers its choice from chunk to chunk of a tag, as compaction does."""

    def encode() -> list[tuple[bytes, bytes]]:
        out = []
        for tag in chunks:
            remembered = codec.Remembered()
            out += [
                (codec.encode_times(t, tier=tier), codec.encode_values(x, precision, tier=tier, remembered=remembered))
                for t, x in tag
            ]
        return out

    def decode(blobs: list[tuple[bytes, bytes]]) -> list[Column]:
        return [(codec.decode_times(t), codec.decode_values(x)) for t, x in blobs]

    m = Measured()
    m.encode_s, blobs = timed(encode, repeats)
    m.decode_s, back = timed(lambda: decode(blobs), repeats)
    for (t, x), (t2, x2), (tb, xb) in zip((c for tag in chunks for c in tag), back, blobs, strict=True):
        assert t.tobytes() == t2.tobytes()
        if precision is None:
            assert x.tobytes() == x2.tobytes()
        else:
            bound = precision.absolute(x) or 0.0
            assert np.all((np.abs(x - x2) <= bound) | (x.view(np.int64) == x2.view(np.int64)))
        m.samples += len(t)
        m.times += len(tb)
        m.values += len(xb)
    return m


def pco(chunks: list[list[Column]], repeats: int) -> Measured:
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


def parquet(chunks: list[list[Column]], dictionary: bool) -> Measured:
    t = np.concatenate([c[0] for tag in chunks for c in tag])
    x = np.concatenate([c[1] for tag in chunks for c in tag])
    table = pa.table({"t": t, "x": x})
    encodings = {"t": "DELTA_BINARY_PACKED"} | ({} if dictionary else {"x": "BYTE_STREAM_SPLIT"})
    sink = pa.BufferOutputStream()
    m = Measured()
    start = time.perf_counter()
    pq.write_table(
        table, sink, compression="zstd", compression_level=3, use_dictionary=["x"] if dictionary else False,
        column_encoding=encodings, dictionary_pagesize_limit=1 << 20,
    )  # fmt: skip
    m.encode_s = time.perf_counter() - start
    data = sink.getvalue()
    m.decode_s, _ = timed(lambda: pq.read_table(pa.BufferReader(data), use_threads=False), 2)
    meta = pq.ParquetFile(pa.BufferReader(data)).metadata
    groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
    m.samples, m.times = len(t), sum(g.column(0).total_compressed_size for g in groups)
    m.values = sum(g.column(1).total_compressed_size for g in groups)
    return m


def duckdb_file(chunks: list[list[Column]]) -> Measured | None:
    """None when DuckDB is not installed. All bytes are counted under values: a file does not say which is which."""
    try:
        import duckdb
    except ImportError:
        return None
    table = pa.table({n: np.concatenate([c[i] for tag in chunks for c in tag]) for i, n in enumerate("tx")})
    m = Measured()
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "peer.duckdb"
        start = time.perf_counter()
        with duckdb.connect(str(path), config={"threads": 1}) as db:
            db.register("source", table)
            db.execute("create table s as select * from source")
            db.execute("checkpoint")
        m.encode_s = time.perf_counter() - start
        m.samples, m.values = len(table), path.stat().st_size
    return m


def measure(frame: pl.DataFrame, chunk: int, repeats: int) -> dict[str, Measured]:
    """All methods on one set."""
    chunks = tags(frame, chunk)
    out = {
        "fast": ours(chunks, "fast", None, repeats),
        "archive": ours(chunks, "archive", None, repeats),
        "archive_bound": ours(chunks, "archive", BOUND, 1),
        "pcodec8": pco(chunks, repeats),
    }
    either = [parquet(chunks, dictionary) for dictionary in (True, False)]
    out["parquet"] = min(either, key=lambda m: m.times + m.values)
    peer = duckdb_file(chunks)
    return out | ({"duckdb": peer} if peer else {})


def goals(results: dict[str, dict[str, Measured]], pooled: dict[str, Measured]) -> dict[str, Any]:
    """The figures the project asks for, with what was reached."""
    ratio = {s: {m: r.row()["ratio"] for m, r in methods.items()} for s, methods in results.items()}
    own = [r["archive"] for r in ratio.values()]
    total = {m: r.row() for m, r in pooled.items()}
    return {
        "pooled_over_pcodec": {
            "reached": round(total["archive"]["ratio"] / total["pcodec8"]["ratio"], 3),
            "goal": 1.15,
        },
        "median_ratio": {"reached": round(float(np.median(own)), 2), "goal": 14},
        "sets_at_10": {"reached": f"{sum(r >= 10 for r in own)} of {len(own)}", "goal": "most"},
        "worst_over_pcodec": {
            "reached": round(min(r["archive"] / r["pcodec8"] for r in ratio.values()), 3),
            "goal": 0.98,
        },
        "archive_encode_over_pcodec": {
            "reached": round(total["archive"]["encode_mb_s"] / total["pcodec8"]["encode_mb_s"], 2),
            "goal": 1.0,
        },
        "fast_encode_mb_s": {"reached": total["fast"]["encode_mb_s"], "goal": 500},
        "fast_decode_mb_s": {"reached": total["fast"]["decode_mb_s"], "goal": 2000},
        "archive_decode_mb_s": {"reached": total["archive"]["decode_mb_s"], "goal": 1000},
        "worst_ratio_at_0.01%_of_span": {"reached": min(r["archive_bound"] for r in ratio.values()), "goal": 12},
    }


def page(results: dict[str, dict[str, Measured]], pooled: dict[str, Measured], reached: dict[str, Any]) -> str:
    """The compression table as Markdown."""
    methods = list(pooled)
    lines = ["# Compression", "", "Ratio to 16 bytes a sample, lossless but for `archive_bound` (0.01 % of span).", ""]
    lines += ["| set | samples | " + " | ".join(methods) + " |", "|---" * (len(methods) + 2) + "|"]
    for name, row in {**results, "pooled": pooled}.items():
        ratios = " | ".join(f"{row[m].row()['ratio']:.2f}" for m in methods)
        lines.append(f"| {name} | {row['fast'].samples:,} | {ratios} |")
    lines += [
        "",
        "Bytes a sample, times / values:",
        "",
        "| set | " + " | ".join(methods) + " |",
        "|---" * (len(methods) + 1) + "|",
    ]
    for name, row in {**results, "pooled": pooled}.items():
        parts = [row[m].row() for m in methods]
        lines.append(
            f"| {name} | " + " | ".join(f"{p['time_bytes']:.4f} / {p['value_bytes']:.4f}" for p in parts) + " |"
        )
    lines += [
        "",
        "MB/s in / out, one core:",
        "",
        "| set | " + " | ".join(methods) + " |",
        "|---" * (len(methods) + 1) + "|",
    ]
    for name, row in {**results, "pooled": pooled}.items():
        parts = [row[m].row() for m in methods]
        lines.append(
            f"| {name} | " + " | ".join(f"{p['encode_mb_s']:.0f} / {p['decode_mb_s']:.0f}" for p in parts) + " |"
        )
    lines += ["", "| figure | reached | goal |", "|---|---|---|"]
    lines += [f"| {name} | {g['reached']} | {g['goal']} |" for name, g in reached.items()]
    return "\n".join(lines) + "\n"


def run(files: list[Path], chunk: int = 65_536, repeats: int = 3) -> tuple[dict[str, Any], str]:
    """(JSON document, Markdown page)."""
    codec.warm()
    results: dict[str, dict[str, Measured]] = {}
    for name, frame in sets(files):
        # Once unmeasured on a few rows, so that no compiler runs inside a measurement.
        measure(frame.group_by("sensor", maintain_order=True).head(3000), chunk, 1)
        results[name] = measure(frame, chunk, repeats)
    pooled = {m: Measured() for m in next(iter(results.values()))}
    for methods in results.values():
        for m, measured in methods.items():
            pooled[m].add(measured)
    reached = goals(results, pooled)
    document = {
        "chunk": chunk,
        "sets": {s: {m: r.row() for m, r in methods.items()} for s, methods in results.items()},
        "pooled": {m: r.row() for m, r in pooled.items()},
        "goals": reached,
    }
    return document, page(results, pooled, reached)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="iiot-dask bench codec", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--chunk", type=int, default=65_536)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(argv)
    document, text = run(args.files, args.chunk, args.repeats)
    if args.page:
        args.page.write_text(text)
    print(json.dumps(document) if args.json else text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
