"""The figures the project asks of the codecs, and the page that shows them beside the peers'."""

from __future__ import annotations

from typing import Any

import numpy as np
from iiot_dask_benchmarks._codec_peers import Measured

Results = dict[str, dict[str, Measured]]
LOSSLESS_OURS = ("fast", "archive")


def goals(results: Results, pooled: dict[str, Measured]) -> dict[str, dict[str, Any]]:
    """The figures the project asks for, with what was reached."""
    ratio = {s: {m: r.row()["ratio"] for m, r in methods.items()} for s, methods in results.items()}
    own = [r["archive"] for r in ratio.values()]
    total = {m: r.row() for m, r in pooled.items()}
    worst = min(ratio, key=lambda s: ratio[s]["archive"] / ratio[s]["pcodec8"])
    bounded = min(ratio, key=lambda s: ratio[s]["archive_bound"])

    def over(method: str) -> float:
        return round(total[method]["encode_mb_s"] / total["pcodec8"]["encode_mb_s"], 2)

    return {
        "pooled ratio over pcodec's": {
            "reached": round(total["archive"]["ratio"] / total["pcodec8"]["ratio"], 3),
            "goal": 1.15,
        },
        "median ratio": {"reached": round(float(np.median(own)), 2), "goal": 14},
        "sets at 10:1 or more": {"reached": f"{sum(r >= 10 for r in own)} of {len(own)}", "goal": "most"},
        "worst ratio over pcodec's": {
            "reached": round(ratio[worst]["archive"] / ratio[worst]["pcodec8"], 3), "goal": 0.98, "set": worst,
        },
        "archive encode over pcodec's speed, nothing known of any tag": {"reached": over("archive"), "goal": 1.0},
        "archive encode over pcodec's speed, choices remembered": {"reached": over("archive_known"), "goal": 1.0},
        "fast encode, MB/s": {"reached": total["fast"]["encode_mb_s"], "goal": 500},
        "fast decode, MB/s": {"reached": total["fast"]["decode_mb_s"], "goal": 2000},
        "archive decode, MB/s": {"reached": total["archive"]["decode_mb_s"], "goal": 1000},
        "worst ratio at 0.01 % of span": {"reached": ratio[bounded]["archive_bound"], "goal": 12, "set": bounded},
    }  # fmt: skip


def page(
    results: Results,
    pooled: dict[str, dict[str, Measured]],
    lengths: dict[str, dict[int, dict[str, float]]],
    reached: dict[str, dict[str, dict[str, Any]]],
    document: dict[str, Any],
) -> str:
    """The compression tables as Markdown."""
    methods = list(next(iter(results.values())))
    sized = [m for m in methods if m != "archive_known"]
    rows: Results = {**results, **{f"**{group}**": sums for group, sums in pooled.items()}}
    of = ", ".join(f"{name} {what}" for name, what in document["of"].items())
    lines = [
        "# Compression", "",
        "Written by `iiot-dask bench codec --page benchmarks/COMPRESSION.md`; every column was decoded and compared in the run.",
        f"Chunks of {document['chunk']:,} samples, seed {document['seed']}; {of}.", "",
        ("`fast` and `archive` are ours, bit for bit; `archive_bound` keeps every value within 0.01 % of its chunk's span and every "
        "time exactly; `archive_known` is `archive` with choices remembered from an earlier run, as compaction has them. Sets named "
        "`gen_` are generated (`benchmarks/_codec_sets.py`), written after the codecs and not tuned on; the others come from files "
        "that are not part of this repository, and the codecs were developed with them in sight. Generated ratios say how the "
        "codecs do on such signals, not what a plant will give. DuckDB's files come in 256 KiB blocks, which hurts it on small sets."),
        "", "## Goals", "",
    ]  # fmt: skip
    names = list(next(iter(reached.values())))
    lines += _table(
        ["figure", *reached, "goal"],
        [[n, *(f"{g[n]['reached']}" + (f" ({g[n]['set']})" if "set" in g[n] else "") for g in reached.values()),
          str(next(iter(reached.values()))[n]["goal"])] for n in names],
    )  # fmt: skip
    lines += ["", "## Ratio to 16 bytes a sample", ""]
    lines += _table(
        ["set", "samples", *sized],
        [[s, f"{r['fast'].samples:,}", *(f"{r[m].row()['ratio']:.2f}" for m in sized)] for s, r in rows.items()],
    )
    lines += ["", "## Bytes a sample, times / values", ""]
    lines += _table(
        ["set", *sized],
        [
            [s, *(f"{r[m].row()['time_bytes']:.4f} / {r[m].row()['value_bytes']:.4f}" for m in sized)]
            for s, r in rows.items()
        ],
    )
    lines += ["", "## MB/s in / out of one core (processor time)", ""]
    lines += _table(
        ["set", *methods],
        [
            [s, *(f"{r[m].row()['encode_mb_s']:.0f} / {r[m].row()['decode_mb_s']:.0f}" for m in methods)]
            for s, r in rows.items()
        ],
    )
    lines += ["", "## Ratio by chunk length, as history cuts them", ""]
    chunks = list(next(iter(lengths.values())))
    kinds = list(next(iter(lengths.values()))[chunks[0]])
    lines += _table(
        ["set", *(f"{kind}, {chunk:,}" for chunk in chunks for kind in kinds)],
        [[s, *(f"{by[chunk][kind]:.2f}" for chunk in chunks for kind in kinds)] for s, by in lengths.items()],
    )
    return "\n".join(lines) + "\n"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
