"""Write the golden blobs that do not exist yet. An existing one is never touched: it is what a plant has on its disks.

    python tests/golden/codec/make.py

Every case is a folder-less pair: NAME.bin (the blob) and NAME.npz (the columns it must decode to, for ever).
"""

from pathlib import Path

import numpy as np

from iiot_dask import codec
from iiot_dask.codec import frame, ints
from iiot_dask.codec.coded import Coded
from iiot_dask.codec.held import Held
from iiot_dask.codec.pco import Pco, pco_encode
from iiot_dask.codec.ranks import Ranked

HERE = Path(__file__).parent


def cases() -> dict[str, tuple[bytes, dict[str, np.ndarray]]]:
    """Name -> (blob, columns)."""
    rng = np.random.default_rng(2026)
    n = 700
    t = 1_764_000_000_000_000_000 + np.arange(n) * 10**9
    jitter = t + rng.integers(-900, 900, n) * 1000
    x = np.round(20 + np.cumsum(rng.normal(0, 0.1, n)), 2)
    spiky = x.copy()
    spiky[::90] = [np.nan, np.inf, -np.inf, -0.0, np.pi, 1e300, 5e-324, 0.1 + 0.2]
    single = x.astype(np.float32).astype(float)
    noise = rng.normal(size=n)
    starts = np.arange(0, n, 70)
    states = np.repeat(rng.integers(0, 4, 14), 50)
    noise32 = noise.astype(np.float32).astype(float)
    digits = rng.integers(0, 9, n)
    mixed = np.where(np.arange(n) % 140 < 70, x, noise)
    lossy = codec.encode_values(noise, codec.Precision(error_bound=0.015))
    sine = np.round(1000 * np.sin(np.arange(n) / 9) + rng.normal(0, 9, n)).astype(np.int64)
    held = np.repeat(rng.integers(0, 99, n // 5), 5)
    levels = rng.choice(np.array([3, 70_000, 5_000_000]), n)
    counts = np.round(x * 50)
    rounded = codec.encode_values(noise, codec.Precision(error_bound=0.015), tier="archive")
    relative = codec.encode_values(np.exp(noise), codec.Precision(significant_digits=4), tier="archive")
    coarse = codec.Precision(error_bound=0.02, time_snap_ns=1_000_000)
    quality = np.where(np.arange(n) % 200 < 9, 128, 0).astype(np.uint8)
    walk = 50 + np.cumsum(rng.normal(0, 0.3, 4200))
    text = np.array([float(f"{v:.9g}") for v in walk.astype(np.float32).astype(float)])
    long = np.where(np.arange(4200) < 2300, text, np.round(walk, 1))
    archived = {
        "divide": counts / 3,
        "rounded": np.round(counts / 3, 4),
        "step-levels": counts * 0.00226 / 11,
        "step-single": (counts * 0.0123).astype(np.float32).astype(float),
        "significant": np.array([float(f"{v:.6g}") for v in np.exp(x / 9)]),
        "single-text": np.array([float(f"{v:.10g}") for v in (x / 7).astype(np.float32).astype(float)]),
        "exceptions": spiky,
    }
    return {
        **{
            f"values-archive-{name}": (codec.encode_values(column, tier="archive"), {"values": column})
            for name, column in archived.items()
        },
        "values-archive-lossy": (rounded, {"values": codec.decode_values(rounded)}),
        "values-archive-relative": (relative, {"values": codec.decode_values(relative)}),
        "values-pco": (frame.seal(frame.Kind.VALUES_PCO, n, pco_encode(noise)), {"values": noise}),
        "values-parts": (codec.encode_values(long, tier="archive"), {"values": long}),
        **{
            f"codes-{c.name}": (frame.seal(frame.Kind.CODES, n, ints.dump(c, column, level=0)), {"codes": column})
            for c, column in ((Coded, sine), (Held, held), (Ranked, levels), (Pco, sine))
        },
        "times-packed-line": (codec.encode_times(t), {"times": t}),
        "times-packed-jitter": (codec.encode_times(jitter), {"times": jitter}),
        "times-packed-runs": (codec.encode_times(jitter, starts), {"times": jitter}),
        "values-grid-decimal": (codec.encode_values(x), {"values": x}),
        "values-grid-exceptions": (codec.encode_values(spiky), {"values": spiky}),
        "values-grid-single": (codec.encode_values(single), {"values": single}),
        "values-grid-single-bits": (codec.encode_values(noise32), {"values": noise32}),
        "values-grid-runs": (codec.encode_values(mixed, starts=starts), {"values": mixed}),
        "values-grid-multiple": (lossy, {"values": codec.decode_values(lossy)}),
        "values-shuffled": (codec.encode_values(noise), {"values": noise}),
        "codes-runs": (codec.encode_codes(states), {"codes": states}),
        "codes-packed": (codec.encode_codes(digits), {"codes": digits}),
        "values-noted-fallback": (
            codec.encode_values(x, codec.Precision(error_bound=0.001), tier="archive"),
            {"values": x},
        ),
        "values-noted-dropped": (
            (noted := codec.compress(jitter, noise, precision=coarse, dropped=12)).value,
            {"values": codec.decode_values(noted.value)},
        ),
        "times-coded": (codec.encode_times(jitter, tier="archive"), {"times": jitter}),
        "chunk-quality": (
            codec.encode(jitter, spiky, qualities=quality, tier="archive"),
            {"times": jitter, "values": spiky, "quality": quality},
        ),
        "chunk": (codec.encode(jitter, spiky), {"times": jitter, "values": spiky}),
    }


def main() -> None:
    for name, (blob, columns) in cases().items():
        path = HERE / f"{name}.bin"
        if path.exists():
            continue
        path.write_bytes(blob)
        np.savez_compressed(HERE / f"{name}.npz", **columns)
        print(path.name, len(blob))


if __name__ == "__main__":
    main()
