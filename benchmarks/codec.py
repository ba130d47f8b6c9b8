"""Codecs against peers in the same run: bytes a sample for times and values, ratio, MB/s in and out of one core.

Run: ``iiot-dask bench codec [FILES] [--json] [--page OUT.md] [--short] [--seed N]``. FILES are Parquet in long form (ts, sensor,
value); without any, the sets in ../shared/datasets if they are there and twelve generated kinds that nobody tuned on. Every
column is decoded and compared, bit for bit or with the bound. MB/s are of 16 bytes a sample (int64 time + float64 value) and
of processor time, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from iiot_dask_benchmarks._codec_page import goals, page
from iiot_dask_benchmarks._codec_peers import Chunks, Measured, installed, pco, timed
from iiot_dask_benchmarks._codec_sets import Column, sets, tags

from iiot_dask import codec

BOUND = codec.Precision(span_share=1e-4)
CHUNKS = (4096, 16_384)
SHORT_ROWS = 6000


def ours(
    chunks: Chunks, tier: str, precision: codec.Precision | None, repeats: int, choices: codec.Choices | None = None
) -> Measured:
    """One tier over all tags; the archive tier remembers its choice from chunk to chunk of a tag, as compaction does.

    With `choices` what was remembered stays from repeat to repeat: the speed of every run but a tag's first.
    """

    def encode() -> list[tuple[bytes, bytes]]:
        out = []
        known = codec.Choices() if choices is None else choices
        for at, tag in enumerate(chunks):
            kept = known.of(at)
            out += [
                (
                    codec.encode_times(t, tier=tier, remembered=kept),
                    codec.encode_values(x, precision, tier=tier, remembered=kept),
                )
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


def measure(frame: pl.DataFrame, chunk: int, repeats: int) -> dict[str, Measured]:
    """All methods on one set."""
    chunks = tags(frame, chunk)
    choices = codec.Choices()
    out = {
        "fast": ours(chunks, "fast", None, repeats),
        "archive": ours(chunks, "archive", None, repeats),
        "archive_known": ours(chunks, "archive", None, repeats + 1, choices),
        "archive_bound": ours(chunks, "archive", BOUND, 1),
        "pcodec8": pco(chunks, repeats),
    }
    return out | {name: run(chunks) for name, run in installed().items()}


def by_chunk(frame: pl.DataFrame) -> dict[int, dict[str, float]]:
    """Ratios at chunk lengths history uses: {rows: {method: ratio}}."""
    out = {}
    for chunk in CHUNKS:
        chunks = tags(frame, chunk)
        found = {
            "fast": ours(chunks, "fast", None, 1),
            "archive": ours(chunks, "archive", None, 1),
            "pcodec8": pco(chunks, 1),
        }
        out[chunk] = {name: m.row()["ratio"] for name, m in found.items()}
    return out


def machine() -> dict[str, str]:
    """What the figures are of."""
    found = {"machine": platform.machine(), "python": platform.python_version()}
    for name in ("iiot-dask", "numba", "pcodec", "pyarrow", "duckdb", "chdb", "vortex-data"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def run(
    files: list[Path], chunk: int = 65_536, repeats: int = 3, seed: int = 2611, rows: int | None = None
) -> tuple[dict[str, Any], str]:
    """(JSON document, Markdown page)."""
    codec.warm()
    results: dict[str, dict[str, Measured]] = {}
    lengths: dict[str, dict[int, dict[str, float]]] = {}
    for name, frame in sets(files, seed, rows):
        # Once unmeasured on a few rows, so that no compiler runs inside a measurement.
        measure(frame.group_by("sensor", maintain_order=True).head(1500), chunk, 1)
        results[name] = measure(frame, chunk, repeats)
        lengths[name] = by_chunk(frame)
    groups = {
        "sets from files": [name for name in results if not name.startswith("gen_")],
        "generated sets": [name for name in results if name.startswith("gen_")],
        "all": list(results),
    }
    pooled = {group: pool([results[name] for name in names]) for group, names in groups.items() if names}
    reached = {
        group: goals({name: results[name] for name in names}, pooled[group]) for group, names in groups.items() if names
    }
    document = {
        "chunk": chunk,
        "seed": seed,
        "rows_a_tag_at_most": rows,
        "of": machine(),
        "sets": {s: {m: r.row() for m, r in methods.items()} for s, methods in results.items()},
        "pooled": {g: {m: r.row() for m, r in methods.items()} for g, methods in pooled.items()},
        "ratio_by_chunk": lengths,
        "goals": reached,
    }
    return document, page(results, pooled, lengths, reached, document)


def pool(results: list[dict[str, Measured]]) -> dict[str, Measured]:
    """Sums over sets of the methods."""
    out = {m: Measured() for m in results[0]}
    for methods in results:
        for m, measured in methods.items():
            out[m].add(measured)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="iiot-dask bench codec", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="Parquet files with ts, sensor, value")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout and nothing else there")
    parser.add_argument("--page", type=Path, help="write the Markdown page here (benchmarks/COMPRESSION.md is one)")
    parser.add_argument("--chunk", type=int, default=65_536, help="samples a chunk")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=2611, help="of the generated sets")
    parser.add_argument("--short", action="store_true", help=f"at most {SHORT_ROWS} rows a tag, one repeat")
    args = parser.parse_args(argv)
    rows, repeats = (SHORT_ROWS, 1) if args.short else (None, args.repeats)
    document, text = run(args.files, args.chunk, repeats, args.seed, rows)
    if args.page:
        args.page.write_text(text)
    print(json.dumps(document) if args.json else text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
