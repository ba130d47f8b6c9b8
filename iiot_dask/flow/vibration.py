"""Features of high-rate signals: blocks of samples become RMS, kurtosis, crest factor and the energy of frequency bands.

A block is `samples` consecutive samples of a tag without a gap; a gap (more than 1.5 periods) starts a new block. The
spectrum is the one-sided FFT under a Hann window, scaled so that the bands' squares add up to the RMS square (Parseval).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from iiot_dask.core.errors import ConfigError
from iiot_dask.flow.marks import Marks
from iiot_dask.flow.names import Names
from iiot_dask.flow.operator import Operator, State, column
from iiot_dask.flow.reorder import times_of


def features(
    block: npt.NDArray[np.float64], rate_hz: float, bands: tuple[tuple[float, float], ...]
) -> dict[str, npt.NDArray[np.float64]]:
    """Features of blocks [n, samples]: ``rms``, ``kurtosis`` (3 for Gaussian noise), ``crest``, ``band_LOW_HIGH`` (RMS in the band, Hz).

    The mean is taken out first.

    Examples
    --------
    >>> t = np.arange(1000) / 1000
    >>> found = features(np.sin(2 * np.pi * 50 * t)[None], 1000.0, ((40.0, 60.0), (100.0, 500.0)))
    >>> [round(float(found[k][0]), 2) for k in ("rms", "kurtosis", "crest", "band_40_60", "band_100_500")]
    [0.71, 1.5, 1.41, 0.71, 0.0]
    """
    x = block - block.mean(axis=1, keepdims=True)
    power = (x * x).mean(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        out = {
            "rms": np.sqrt(power),
            "kurtosis": (x**4).mean(axis=1) / power**2,
            "crest": np.abs(x).max(axis=1) / np.sqrt(power),
        }
    n = block.shape[1]
    window = np.hanning(n + 1)[:-1]
    spectrum = np.abs(np.fft.rfft(x * window, axis=1)) ** 2
    spectrum[:, 1 : (n + 1) // 2] *= 2
    spectrum /= n * (window**2).sum()
    frequency = np.fft.rfftfreq(n, 1 / rate_hz)
    for low, high in bands:
        inside = (frequency >= low) & (frequency < high)
        out[f"band_{low:g}_{high:g}"] = np.sqrt(spectrum[:, inside].sum(axis=1))
    return out


@dataclass(frozen=True)
class Vibration(Operator):
    """Blocks of `samples` samples at `rate_hz` become one row of features, stamped with the block's first sample."""

    samples: int
    rate_hz: float
    bands: tuple[tuple[float, float], ...] = ()
    on: str = "value"

    def __post_init__(self) -> None:
        if self.samples < 16 or not self.rate_hz > 0:
            msg = f"vibration: {self.samples} samples at {self.rate_hz} Hz; 16 samples or more and a rate above 0 are needed"
            raise ConfigError(msg)
        for low, high in self.bands:
            if not 0 <= low < high <= self.rate_hz / 2:
                msg = f"vibration: band {low}-{high} Hz; 0 <= low < high <= {self.rate_hz / 2:g} Hz (half the rate) is allowed"
                raise ConfigError(msg)

    @property
    def label(self) -> str:
        """How it reads in the graph."""
        return f"vibration {self.samples} samples at {self.rate_hz:g} Hz"

    @property
    def span_ns(self) -> int:
        """See `Operator`."""
        return int(self.samples / self.rate_hz * 1e9)

    def step(self, state: State, frame: pl.DataFrame, marks: Marks, names: Names) -> tuple[pl.DataFrame, Marks]:
        """See `Operator`."""
        rows = frame.select("id", "time", pl.col(self.on).cast(pl.Float64).alias("value")).filter(
            pl.col("value").is_not_nan()
        )
        if "open" in state:
            rows = pl.concat([state["open"], rows]).sort("id", maintain_order=True)
        ids, times, values = rows.get_column("id").to_numpy(), times_of(rows), column(rows, "value", self.label)
        size = len(ids)
        gap = int(1.5e9 / self.rate_hz)
        new = np.ones(size, np.bool_)
        if size > 1:
            new[1:] = (ids[1:] != ids[:-1]) | (times[1:] - times[:-1] > gap)
        begins = np.flatnonzero(new)
        length = np.diff(np.append(begins, size))
        place = np.arange(size) - np.repeat(begins, length)
        # A block is there where its last sample is: the position in the run is one short of a multiple of the length.
        ends = np.flatnonzero(place % self.samples == self.samples - 1)
        starts = ends - self.samples + 1
        made = {"id": ids[starts], "time": pl.Series(times[starts]).cast(pl.Datetime("ns", "UTC"))}
        blocks = (
            np.lib.stride_tricks.sliding_window_view(values, self.samples)[starts]
            if len(starts)
            else np.empty((0, self.samples))
        )
        made |= features(blocks, self.rate_hz, self.bands)
        # What stays open: the tail of each tag's last run that fills no block yet.
        last = np.append(ids[begins[1:]] != ids[begins[:-1]], True) if size else np.empty(0, np.bool_)
        tail = np.repeat(last, length) & (place >= np.repeat(length - length % self.samples, length))
        state["open"] = rows.filter(pl.Series(tail))
        left = state["open"]
        upto = marks.of(len(names)).copy()
        np.minimum.at(upto, left.get_column("id").to_numpy(), times_of(left) - 1)
        return pl.DataFrame(made), Marks(upto, min(marks.low, int(upto.min())) if len(upto) else marks.low)
