"""A little plant for health tests: seeded, pure."""

import numpy as np
import polars as pl
import pytest

S = 1_000_000_000
T0 = 1_700_000_000 * S


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture
def plant(rng):
    """Builds frames: `plant(names, seconds, period)`, noisy analog values, 20 ms of receive jitter."""

    def build(names, seconds, period=1.0, jitter_s=0.02, start=0.0, loss=0.0):
        parts = []
        for name in names:
            t = np.arange(start, start + seconds, period)
            t = t[rng.random(len(t)) >= loss]
            time = T0 + (t * S).astype(np.int64)
            parts.append(
                pl.DataFrame(
                    {
                        "tag": [name] * len(t),
                        "time": time,
                        "value": 50 + rng.normal(size=len(t)).round(3),
                        "received": time + (rng.exponential(jitter_s, len(t)) * S).astype(np.int64),
                    }
                )
            )
        return pl.concat(parts).sort("received", maintain_order=True)

    return build
