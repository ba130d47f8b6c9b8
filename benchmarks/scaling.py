"""Scaling: what our policies and others' cost and how late they are, on held-out seeds and on recorded traces.

``iiot-dask bench scaling [--short] [--json] [--traces DIR] [--plot FILE.html]``

Back-tests are simulations of one queue before booting workers (`iiot_dask.scaling.backtest`): their ratios compare policies.
DIR holds Parquet files with ``time`` and ``rate``.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from iiot_dask.scaling import Faults, Report, backtest, factory_demand, policy
from iiot_dask.scaling.demand import irregular_demand
from iiot_dask.scaling.peers import PEERS, Oracle
from iiot_dask.scaling.report import pareto

CAPACITY, BOOT_S = 1000.0, 90.0
QUANTILES = (0.5, 0.7, 0.8, 0.95, 0.97, 0.99)
NOTE = "simulated: a fluid queue; peers are their formulas (Dask: its own code), without their restarts"


def ours(name: str, capacity: float = CAPACITY, boot_s: float = BOOT_S, **more: Any) -> Any:
    return policy(name, capacity=capacity, boot_s=boot_s, **more)


def numbers(report: Report) -> dict[str, float]:
    return {k: float(f"{v:.6g}") for k, v in report.document().items()}


def shifts(days: int, seed: int, step_s: float) -> pl.DataFrame:
    """The factory, with as many surges a week as in the 42 days of its model."""
    return factory_demand(days, seed=seed, step_s=step_s, surges=max(1, round(12 * (days - 14) / 28)))


def factory(seeds: Sequence[int], days: int, step_s: float) -> dict[str, list[Report]]:
    out: dict[str, list[Report]] = {"forecast": [], "reactive": []}
    for seed in seeds:
        demand = shifts(days, seed, step_s)
        for name, reports in out.items():
            reports.append(backtest(demand, ours(name), BOOT_S, unscored="14d"))
    return out


def peers(seed: int, days: int, step_s: float, dask_days: int) -> dict[str, Report]:
    demand = shifts(days, seed, step_s)
    sizing = ours("reactive").sizing
    out: dict[str, Report] = {}
    for name, make in PEERS.items():
        one = make(sizing)
        if name.startswith("dask"):
            # It learns nothing from the past, and is asked every second: some scored days are enough.
            part = demand.slice(round(14 * 86_400 / step_s), round(dask_days * 86_400 / step_s))
            out[name] = backtest(part, one, BOOT_S, every=one.every)
        else:
            out[name] = backtest(demand, one, BOOT_S, unscored="14d", every=one.every)
    oracle = Oracle(sizing, demand["time"].cast(pl.Int64).to_numpy(), demand["rate"].to_numpy())
    out["oracle-with-boots"] = backtest(demand, oracle, BOOT_S, unscored="14d")
    return out


def curve(seed: int, days: int, step_s: float) -> dict[str, Report]:
    """Cost against lateness over the quantile."""
    demand = shifts(days, seed, step_s)
    return {
        f"q{q * 100:.0f}": backtest(demand, ours("forecast", quantile=q), BOOT_S, unscored="14d") for q in QUANTILES
    }


def recorded(directory: Path | None, days_max: int) -> dict[str, pl.DataFrame]:
    traces = {
        "weekends": factory_demand(28, seed=1010, step_s=10.0, weekend=0.3, surges=4, growth=0.001),
        "irregular": irregular_demand(28, seed=1011),
    }
    for path in sorted(directory.glob("*.parquet")) if directory else []:
        frame = pl.read_parquet(path, columns=["time", "rate"]).with_columns(pl.col("rate").cast(pl.Float64))
        traces[path.stem] = frame.head(round(days_max * 86_400 / (frame["time"][1] - frame["time"][0]).total_seconds()))
    return traces


def on_traces(traces: dict[str, pl.DataFrame], scale: float = 40.0) -> dict[str, dict[str, Report]]:
    """Each trace at a capacity that makes its peak (99.9 %) need `scale` workers."""
    out = {}
    for name, demand in traces.items():
        capacity = float(demand["rate"].quantile(0.999) or 1.0) / 0.7 / scale
        span = (demand["time"][-1] - demand["time"][0]).total_seconds() / 86_400
        unscored = f"{max(1, int(min(14, span / 2)))}d"
        out[name] = {
            n: backtest(demand, ours(n, capacity), BOOT_S, unscored=unscored, every="20s")
            for n in ("forecast", "reactive")
        }
    return out


def mishaps(seed: int, days: int) -> dict[str, dict[str, Report]]:
    """Both policies while things go wrong."""
    demand = shifts(days, seed, 10.0)
    day = 86_400.0
    grown = demand.with_columns(
        rate=pl.when(pl.int_range(pl.len()) > 15.3 * 8640).then(pl.col("rate") * 1.3).otherwise(pl.col("rate"))
    )
    cases: dict[str, tuple[pl.DataFrame, float, Faults]] = {
        "boot 60 s": (demand, 60.0, Faults(seed=1)),
        "boot 300 s": (demand, 300.0, Faults(seed=1)),
        "boots spread, 2 % fail": (demand, BOOT_S, Faults(boot_sigma=0.5, boot_failure=0.02, seed=1)),
        "1 %/h of workers lost": (demand, BOOT_S, Faults(loss_per_h=0.01, seed=1)),
        "60 s billed at least": (demand, BOOT_S, Faults(billing_s=60.0, seed=1)),
        "an hour without metrics each shift": (
            demand, BOOT_S, Faults(gaps=tuple((d * day + 5.5 * 3600, d * day + 6.5 * 3600) for d in range(14, days))),
        ),
        "a new line: +30 % at once": (grown, BOOT_S, Faults(seed=1)),
    }  # fmt: skip
    return {
        name: {
            n: backtest(load, ours(n, boot_s=boot), boot, unscored="14d", faults=faults)
            for n in ("forecast", "reactive")
        }
        for name, (load, boot, faults) in cases.items()
    }


def proportional(seed: int, days: int) -> dict[str, float]:
    """Worker-seconds per million messages from 20 % to 100 % of the load."""
    out = {}
    for share in (0.2, 0.4, 0.6, 0.8, 1.0):
        demand = factory_demand(days, seed=seed, step_s=10.0, peak=100_000.0 * share)
        out[f"{share:.0%}"] = backtest(demand, ours("forecast"), BOOT_S, unscored="14d").worker_s_per_million
    return out


def decision_us(times: int = 5000) -> dict[str, float]:
    """Cost of one decision (minimum of five rounds) and size of what is kept, after three days of learning."""
    from iiot_dask.scaling import Observed

    one, now = ours("forecast"), 0
    for now in range(0, 3 * 86_400, 60):
        one.decide(now * 10**9, Observed(5000.0, ready=10))
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(times // 5):
            now += 10
            one.decide(now * 10**9, Observed(5000.0, ready=10))
        best = min(best, (time.perf_counter() - start) / (times // 5))
    return {"decision_us": best * 1e6, "state_bytes": len(one.to_bytes())}


def goals(
    runs: dict[str, list[Report]],
    others: dict[str, Report],
    traces: dict[str, dict[str, Report]],
    flat: dict[str, float],
) -> list[dict[str, Any]]:
    mine = runs["forecast"]
    pairs = [(t["forecast"], t["reactive"]) for t in traces.values()]
    pairs += list(zip(mine, runs["reactive"], strict=True))
    # A violation: a message later than 1 s. Where following the load had none, there was nothing to save.
    saved = [1 - a.violation_share / b.violation_share for a, b in pairs if b.violation_share > 1e-6]
    over = [1 - a.over_70_share / b.over_70_share for a, b in pairs if b.over_70_share > 1e-4]
    middle = float(np.median(list(flat.values())))
    rows = [
        ("factory: cost over the oracle's", max(r.cost_ratio for r in mine), "<=", 1.10),
        ("factory: late outside surges", max(r.late_share for r in mine), "<=", 0.00005),
        ("factory: time over 70 %", max(r.over_70_share for r in mine), "<=", 0.02),
        ("factory: actions a day", max(r.actions_per_day for r in mine), "<=", 60.0),
        ("factory: saved of a static peak", min(1 - r.cost_ratio / r.static_ratio for r in mine), ">=", 0.55),
        ("factory: r of workers and activity, hourly", min(r.correlation for r in mine), ">=", 0.98),
        ("traces: later than reactive, worst", max(a.violation_share - b.violation_share for a, b in pairs), "<=", 0.0),
        ("traces: fewer violations than reactive, mean", float(np.mean(saved)), ">=", 0.36),
        ("traces: less time over 70 %, mean", float(np.mean(over)), ">=", 0.36),
        ("traces: cost over reactive, worst", max(a.cost_ratio / b.cost_ratio for a, b in pairs), "<=", 1.25),
        ("worker-seconds a message, 20-100 % load", max(abs(v / middle - 1) for v in flat.values()), "<=", 0.05),
        (
            "surges: late against HPA on busy share",
            float(np.mean([r.surge_late_share for r in mine])) / others["hpa-cpu"].surge_late_share,
            "<=",
            0.5,
        ),
    ]
    return [
        {
            "goal": name,
            "value": float(f"{value:.6g}"),
            "limit": f"{sign} {limit:g}",
            "met": bool(value <= limit if sign == "<=" else value >= limit),
        }
        for name, value, sign, limit in rows
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="iiot-dask bench scaling", description=__doc__)
    parser.add_argument("--json", action="store_true", help="on one line")
    parser.add_argument("--short", action="store_true", help="one seed, three scored days, coarser steps")
    parser.add_argument("--seeds", type=int, default=3, help="held-out seeds, from 1001")
    parser.add_argument("--traces", type=Path, default=None, metavar="DIR", help="Parquet files with time and rate")
    parser.add_argument("--trace-days", type=int, default=28)
    parser.add_argument("--plot", type=Path, default=None, metavar="FILE", help="the Pareto plot as HTML")
    arguments = parser.parse_args(argv)
    if arguments.traces is not None and not arguments.traces.is_dir():
        sys.stderr.write(f"--traces {arguments.traces} is no directory\n")
        return 2
    document = policies(arguments)
    print(json.dumps(document, indent=None if arguments.json else 2))
    return 0


def policies(arguments: argparse.Namespace) -> dict[str, Any]:
    short = arguments.short
    seeds = [1001 + k for k in range(1 if short else arguments.seeds)]
    days, step_s = (17, 5.0) if short else (28, 2.0)
    runs = factory(seeds, days, step_s)
    others = peers(seeds[0], days, 5.0, 1 if short else 2)
    points = curve(seeds[0], days, 5.0)
    traces = on_traces(recorded(arguments.traces, arguments.trace_days))
    flat = proportional(seeds[0], 17 if short else 21)
    rows = {"q90": runs["forecast"][0], "reactive": runs["reactive"][0], **others, **points}
    if arguments.plot is not None:
        from bokeh.plotting import output_file, save
        from bokeh.resources import INLINE

        output_file(str(arguments.plot), title="scaling policies", mode="inline")
        figure = pareto({n: (r.cost_ratio, r.violation_share) for n, r in rows.items()})
        save(figure, resources=INLINE)
    return {
        "note": NOTE,
        "boot_s": BOOT_S,
        "seeds": seeds,
        "goals": goals(runs, others, traces, flat),
        "factory": {name: [numbers(r) for r in reports] for name, reports in runs.items()},
        "peers": {name: numbers(r) for name, r in others.items()},
        "pareto": {name: numbers(r) for name, r in points.items()},
        "traces": {t: {n: numbers(r) for n, r in both.items()} for t, both in traces.items()},
        "mishaps": {
            m: {n: numbers(r) for n, r in both.items()} for m, both in mishaps(seeds[0], 17 if short else 21).items()
        },
        "worker_s_per_million": flat,
        "policy": decision_us(),
    }


if __name__ == "__main__":
    raise SystemExit(main())
