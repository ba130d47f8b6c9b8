"""`Contest`: several models of one load side by side; the one with the best recent score answers, all of them are recorded.

Scores are pinball losses (Koenker and Bassett 1978) of the window maximum at the wanted quantile, relative to the load, at the
very lead a worker needs. So a model that always shouts loses as well as one that always whispers.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from math import isnan, nan
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from iiot_dask.core.errors import ChecksumError, ConfigError, VersionError
from iiot_dask.scaling.forecast import DAY_NS, ERROR_MAX, RING, STEP
from iiot_dask.scaling.predictive import Model

if TYPE_CHECKING:
    import polars as pl

BETTER = 0.8
"""A challenger must score below this share of the champion's to take its place."""
MAGIC, VERSION = b"IICT", 1
_HEADER = struct.Struct("<4sHI")
_CRC = struct.Struct("<I")


class Slots:
    """Means of the load by slot, and the window maximum that came of what was forecast: the common clock of models.

    Parameters
    ----------
    slot_ns
        Length of a slot, ns.
    lead, window
        In slots, as of `Forecast`.
    """

    def __init__(self, slot_ns: int, lead: int, window: int) -> None:
        if slot_ns <= 0 or lead < 0 or window <= 0 or lead + window + 2 > RING:
            msg = (
                f"slots of {slot_ns} ns, lead {lead}, window {window}: allowed: above 0, lead + window up to {RING - 2}"
            )
            raise ConfigError(msg)
        self.slot_ns, self.lead, self.window = slot_ns, lead, window
        self.actual: npt.NDArray[np.float64] = np.full(RING, nan)
        self.slot, self._sum, self._count = -1, 0.0, 0

    def learn(self, now_ns: int, rate: float, *, trusted: bool) -> list[int]:
        """Take in the load; returns the slots that are over."""
        slot = now_ns // self.slot_ns
        closed: list[int] = []
        if self.slot >= 0 and slot > self.slot:
            mean = self._sum / self._count if self._count else nan
            if slot - self.slot > 3:
                self.actual[:] = nan
                closed = [slot - 1]
            else:
                closed = list(range(self.slot, slot))
                for one in closed:
                    self.actual[one % RING] = mean
            self._sum, self._count = 0.0, 0
        self.slot = max(slot, self.slot)
        if trusted:
            self._sum += rate
            self._count += 1
        return closed

    def came(self, slot: int) -> float:
        """Highest mean of the window that ends with `slot`; NaN if a part is unknown."""
        return float(self.actual[np.arange(slot - self.window, slot + 1) % RING].max())

    def asked(self, slot: int) -> int:
        """The slot at whose end the forecast for that window was made."""
        return slot - self.lead - self.window - 1

    def state(self) -> dict[str, Any]:
        """All of it, as plain data."""
        return {"actual": _plain(self.actual), "slot": self.slot, "sum": self._sum, "count": self._count}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.actual[:] = _array(state["actual"])
        self.slot, self._sum, self._count = state["slot"], state["sum"], state["count"]


class Persistence:
    """The load stays as it is, times a running quantile of how far it rose lately: for loads without a daily pattern.

    Parameters
    ----------
    slot_ns, lead, window, quantile
        As of `Forecast`.

    Examples
    --------
    >>> p = Persistence(1_000_000_000, lead=2, window=2, quantile=0.9)
    >>> for t in range(100): p.learn(t * 10**9, 50.0)
    >>> p.known, round(p.expect(100 * 10**9))
    (True, 50)
    """

    def __init__(self, slot_ns: int, lead: int, window: int, quantile: float) -> None:
        self.slots = Slots(slot_ns, lead, window)
        self.quantile_wanted = quantile
        self.quantile, self.error, self.scored = 1.0, 0.0, 0
        self._made: npt.NDArray[np.float64] = np.full(RING, nan)
        self._base = nan

    @property
    def known(self) -> bool:
        """Whether there has been a slot."""
        return not isnan(self._base)

    @property
    def confident(self) -> bool:
        """Whether forecasts have been scored and were close lately."""
        return self.scored >= 61 and self.error < ERROR_MAX

    @property
    def precise(self) -> bool:
        """Never: it knows no clock, so it can not see what comes."""
        return False

    def learn(self, now_ns: int, rate: float, *, trusted: bool = True) -> None:
        """Take in the load at an instant, messages/s."""
        for slot in self.slots.learn(now_ns, rate, trusted=trusted):
            last = float(self.slots.actual[slot % RING])
            if not isnan(last):
                self._base = last if isnan(self._base) else self._base + 0.5 * (last - self._base)
            made, came = float(self._made[self.slots.asked(slot) % RING]), self.slots.came(slot)
            if made > 0 and not isnan(came):
                ratio = came / made
                self.scored += 1
                share = self.quantile_wanted if ratio > self.quantile else self.quantile_wanted - 1.0
                self.quantile = max(0.5, self.quantile + STEP * share)
                self.error += (abs(ratio - 1.0) - self.error) / min(self.scored, 180)
            self._made[slot % RING] = self._base

    def expect(self, now_ns: int) -> float:  # noqa: ARG002 -- the interface
        """The load to be ready for, messages/s; NaN while unknown."""
        return self._base * self.quantile

    def to_bytes(self) -> bytes:
        """What was learnt."""
        return _pack({
            "slots": self.slots.state(), "made": _plain(self._made), "base": None if isnan(self._base) else self._base,
            "numbers": [self.quantile, self.error, self.scored],
        })  # fmt: skip

    def load(self, payload: bytes) -> Self:
        """Continue from what `to_bytes` wrote; raises ChecksumError or VersionError as `Forecast.load` does."""
        state = _unpack(payload)
        self.slots.restore(state["slots"])
        self._made[:] = _array(state["made"])
        self._base = nan if state["base"] is None else state["base"]
        self.quantile, self.error, self.scored = state["numbers"]
        return self


class Contest:
    """Models side by side; the champion answers.

    Parameters
    ----------
    models
        Name -> model; the first is the champion at first.
    slot_ns, lead, window, quantile
        As of `Forecast`: at what lead and quantile they are scored.
    day_ns
        Length of the plant's cycle, ns; scores are remembered for seven.
    shadow
        True: the first always answers, the others are only scored.

    Examples
    --------
    >>> one = Persistence(10**9, 2, 2, 0.9)
    >>> contest = Contest({"persistence": one}, slot_ns=10**9, lead=2, window=2, quantile=0.9, day_ns=60 * 10**9)
    >>> for t in range(100): contest.learn(t * 10**9, 50.0)
    >>> contest.champion, contest.record().columns
    ('persistence', ['time', 'model', 'forecast', 'actual', 'error'])
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        *,
        slot_ns: int,
        lead: int,
        window: int,
        quantile: float,
        day_ns: int = DAY_NS,
        shadow: bool = False,
    ) -> None:
        if not models:
            msg = "a contest without models: at least one is needed"
            raise ConfigError(msg)
        self.models = dict(models)
        self.slots = Slots(slot_ns, lead, window)
        self.quantile_wanted = quantile
        self.memory = max(10.0, 7 * day_ns / slot_ns)
        self.shadow = shadow
        self.champion = next(iter(self.models))
        self.loss = dict.fromkeys(self.models, nan)
        self.scored = dict.fromkeys(self.models, 0)
        self._made = {name: np.full(RING, nan) for name in self.models}

    @property
    def known(self) -> bool:
        """Whether the champion can answer."""
        return self.models[self.champion].known

    @property
    def confident(self) -> bool:
        """Whether the champion has lately been right."""
        return self.models[self.champion].confident

    @property
    def precise(self) -> bool:
        """Whether the champion has lately been very close."""
        return self.models[self.champion].precise

    def learn(self, now_ns: int, rate: float, *, trusted: bool = True) -> None:
        """Take in the load at an instant, messages/s."""
        for model in self.models.values():
            model.learn(now_ns, rate, trusted=trusted)
        for slot in self.slots.learn(now_ns, rate, trusted=trusted):
            came = self.slots.came(slot)
            for name, model in self.models.items():
                self._score(name, float(self._made[name][self.slots.asked(slot) % RING]), came)
                self._made[name][slot % RING] = model.expect(now_ns) if model.known and model.confident else nan
            if not self.shadow:
                self._choose()

    def _score(self, name: str, made: float, came: float) -> None:
        if isnan(made) or isnan(came):
            return
        short = (came - made) / max(came, made, 1e-9)
        loss = self.quantile_wanted * short if short > 0 else (self.quantile_wanted - 1.0) * short
        self.scored[name] += 1
        before = 0.0 if isnan(self.loss[name]) else self.loss[name]
        self.loss[name] = before + (loss - before) / min(float(self.scored[name]), self.memory)

    def _choose(self) -> None:
        """The model with the least recent loss of those that know and are trusted, and lead by enough."""
        able = {n: self.loss[n] for n, m in self.models.items() if m.known and m.confident and self.scored[n] > 60}
        if not able:
            return
        best = min(able, key=able.__getitem__)
        if self.champion not in able or able[best] < BETTER * able[self.champion]:
            self.champion = best

    def expect(self, now_ns: int) -> float:
        """The champion's answer."""
        return self.models[self.champion].expect(now_ns)

    def record(self) -> pl.DataFrame:
        """The last forecasts whose windows are over, by model: what was expected, what came, relative error.

        ``time`` is the end of the window.
        """
        import polars as pl

        rows: list[tuple[int, str, float, float, float]] = []
        for slot in range(max(0, self.slots.slot - RING + self.slots.lead + self.slots.window + 2), self.slots.slot):
            came = self.slots.came(slot)
            for name, ring in self._made.items():
                made = float(ring[self.slots.asked(slot) % RING])
                if not isnan(made) and not isnan(came):
                    rows.append(((slot + 1) * self.slots.slot_ns, name, made, came, made / came - 1 if came else nan))
        schema = {
            "time": pl.Int64,
            "model": pl.String,
            "forecast": pl.Float64,
            "actual": pl.Float64,
            "error": pl.Float64,
        }
        return pl.DataFrame(rows, schema=schema, orient="row").with_columns(
            pl.col("time").cast(pl.Datetime("ns", "UTC"))
        )

    def to_bytes(self) -> bytes:
        """What all of them learnt."""
        return _pack({
            "champion": self.champion, "loss": {k: None if isnan(v) else v for k, v in self.loss.items()},
            "scored": self.scored, "slots": self.slots.state(), "made": {k: _plain(v) for k, v in self._made.items()},
            "models": {name: model.to_bytes().hex() for name, model in self.models.items()},
        })  # fmt: skip

    def load(self, payload: bytes) -> Self:
        """Continue from what `to_bytes` wrote, or the champion alone from its own bytes.

        A model that is new here starts anew; what was kept of one that is gone is dropped. Raises ChecksumError or
        VersionError as `Forecast.load` does.
        """
        if payload[:4] != MAGIC:
            self.models[self.champion].load(payload)
            return self
        state = _unpack(payload)
        self.slots.restore(state["slots"])
        for name in self.models.keys() & state["models"].keys():
            self.models[name].load(bytes.fromhex(state["models"][name]))
            self.loss[name] = nan if state["loss"][name] is None else state["loss"][name]
            self.scored[name] = state["scored"][name]
            self._made[name][:] = _array(state["made"][name])
        if state["champion"] in self.models:
            self.champion = state["champion"]
        return self


def _plain(values: npt.NDArray[np.float64]) -> list[float | None]:
    return [None if isnan(v) else v for v in values.tolist()]


def _array(values: list[float | None]) -> npt.NDArray[np.float64]:
    return np.array([nan if v is None else v for v in values], np.float64)


def _pack(state: dict[str, Any]) -> bytes:
    body = json.dumps(state).encode()
    body = _HEADER.pack(MAGIC, VERSION, len(body)) + body
    return body + _CRC.pack(zlib.crc32(body))


def _unpack(payload: bytes) -> dict[str, Any]:
    if len(payload) < _HEADER.size + _CRC.size or payload[:4] != MAGIC:
        msg = f"{len(payload)} bytes are no contest (they begin with {payload[:4]!r}, expected {MAGIC!r})"
        raise ChecksumError(msg)
    body = payload[: -_CRC.size]
    if zlib.crc32(body) != _CRC.unpack(payload[-_CRC.size :])[0]:
        msg = f"contest of {len(payload)} bytes fails its CRC-32: damaged since it was written"
        raise ChecksumError(msg)
    _, version, size = _HEADER.unpack_from(body)
    if version != VERSION:
        msg = f"contest has version {version}; this program reads version {VERSION}"
        raise VersionError(msg)
    state: dict[str, Any] = json.loads(body[_HEADER.size : _HEADER.size + size])
    return state
