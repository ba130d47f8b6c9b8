"""`ReactivePolicy`: follows the load and works off a backlog, fast up and slow down; the floor under every other policy.

Its declared answers to what can go wrong:

=====================  ======================================================================================
no metrics (None)      the last number stands; nobody goes
outage (not trusted)   the load counts for more workers, never for fewer
backlog drains         nobody goes
budget spent           nobody goes; more come, two at a time
cost limit             no more than is affordable, never fewer than the minimum
capacity unlike rated  learnt from served and busy time (`Capacity`)
quota, boots that fail the `Guard` behind the policy asks for what there is, and again after a growing pause
=====================  ======================================================================================
"""

from __future__ import annotations

import json
import struct
import zlib
from collections import deque
from datetime import datetime
from math import exp, nan
from typing import Any, Self

from iiot_dask.core.errors import ChecksumError, VersionError
from iiot_dask.core.times import time_ns
from iiot_dask.scaling.capacity import Capacity
from iiot_dask.scaling.decision import Decision
from iiot_dask.scaling.limits import Limits
from iiot_dask.scaling.load import Observed
from iiot_dask.scaling.sizing import Sizing

MAGIC, VERSION = b"IISP", 1
_HEADER = struct.Struct("<4sHI")
_CRC = struct.Struct("<I")
HOLD_BINS = 32
"""Resolution of the hold: its span is kept as so many maxima."""
SURE_BINS = HOLD_BINS // 4
"""Of these only the last so many count where the forecast agrees that less will do."""
SURE_DROP = 0.15
"""How much smaller the need must be for that: a shift that ended, no wavering."""


class ReactivePolicy:
    """Follows the load it sees; a worker is late by its boot time.

    Examples
    --------
    >>> from iiot_dask.scaling.policy import policy
    >>> p = policy("reactive", capacity=1000.0, boot_s=10.0, maximum=10)
    >>> p.decide(0, Observed(rate=1400.0, ready=1))
    2
    >>> p.decide(10**9, Observed(rate=100.0, ready=2)), p.explain().reason
    (2, 'load 813/s needs 1.16')
    """

    def __init__(self, sizing: Sizing, limits: Limits | None = None, *, learn_capacity: bool = True) -> None:
        self.sizing = sizing
        self.limits = limits
        self.capacity = Capacity(sizing.capacity, learn_capacity)
        self._now: int | None = None
        self._smooth = 0.0
        self._wanted = sizing.minimum
        self._bin = 0
        self._wants: deque[float] = deque([0.0], maxlen=HOLD_BINS + 1)
        self._last = Decision(0, sizing.minimum, sizing.minimum, None, nan, "nothing observed yet")

    def decide(self, now: datetime | int, observed: Observed | None) -> int:
        """Workers wanted now."""
        at = time_ns(now)
        need, why = self._need(at, observed)
        return self._settle(at, need, observed, need, None, nan, why)

    def explain(self) -> Decision:
        """The last decision."""
        return self._last

    # -- parts --------------------------------------------------------------------------------------------------

    def workers(self, rate: float) -> float:
        """Workers for a load at the wanted utilisation, as learnt, not rounded."""
        return min(self.capacity.workers(rate, self.sizing.utilisation), float(self.sizing.maximum))

    def _need(self, at: int, observed: Observed | None) -> tuple[float, str]:
        """Workers the present asks for, not rounded, and why."""
        z = self.sizing
        if observed is None:
            return float(self._wanted), "no metrics: the last number stands"
        self.capacity.learn(observed)
        if self._now is None:
            self._smooth = observed.rate
        else:
            passed_s = max(0.0, (at - self._now) / 1e9)
            keep = exp(-passed_s / z.smooth_s) if z.smooth_s > 0 else 0.0
            self._smooth = keep * self._smooth + (1 - keep) * observed.rate
        self._now = at
        need = self.workers(self._smooth)
        # Half a second of load is in flight at any time and no backlog.
        excess = observed.backlog - 0.5 * observed.rate
        if excess > 0:
            behind = self.capacity.workers(observed.rate + excess / z.catch_up_s)
            if behind > need:
                return behind, f"backlog {observed.backlog:.0f} needs {behind:.2f}"
        return need, f"load {self._smooth:.0f}/s needs {need:.2f}"

    def _settle(
        self,
        at: int,
        need: float,
        observed: Observed | None,
        reactive: float,
        forecast: float | None,
        expected: float,
        why: str,
        *,
        sure: bool = False,
    ) -> int:
        """From a need to a number: up at once, down after the hold and beyond the dead band, all within the limits."""
        z, limits = self.sizing, self.limits
        least, most = z.minimum, z.maximum
        if limits is not None:
            least, most, narrowed = limits.cap(at, have=self._wanted, minimum=least, maximum=most)
            why += f" ({narrowed})" if narrowed and not least <= need <= most else ""
        held, recent = self._hold(at, need)
        if sure and recent <= self._wanted * (1 - SURE_DROP):
            held = recent
        wanted, target = self._wanted, z.clip(need)
        if target > wanted:
            if need > wanted + z.dead_band or wanted < least:
                # With a spent budget two come at once, so that half the actions will do.
                self._wanted = target if limits is None or limits.may_act() else target + 1
                why += ": up"
            else:
                why += ": within the dead band"
        elif z.clip(held) < wanted and held <= wanted * (1 - z.dead_band):
            keep = self._keeps(observed)
            self._wanted = wanted if keep else min(wanted, z.clip(held + z.dead_band))
            why += keep or (": down" if self._wanted < wanted else ": within the dead band")
        else:
            why += ": held" if target < wanted else ""
        self._wanted = int(min(max(self._wanted, least), most))
        if limits is not None and self._wanted != wanted:
            limits.acted()
        ahead = None if forecast is None else z.clip(forecast)
        self._last = Decision(at, self._wanted, z.clip(reactive), ahead, expected, why)
        return self._wanted

    def _keeps(self, observed: Observed | None) -> str:
        """Why nobody may go now; '' if they may."""
        if observed is None:
            return ": held without metrics"
        if not observed.trusted:
            return ": held during the outage"
        if observed.backlog > max(observed.rate, 1.0):
            return ": held while the backlog drains"
        if self.limits is not None and not self.limits.may_act():
            return ": held, the budget of actions is spent"
        return ""

    def _hold(self, at: int, need: float) -> tuple[float, float]:
        """The largest need of the hold span, and of its last quarter."""
        span = self.sizing.hold_s / HOLD_BINS
        if span <= 0:
            return need, need
        number = int(at / 1e9 / span)
        for _ in range(min(max(0, number - self._bin), HOLD_BINS + 1)):
            self._wants.append(0.0)
        self._bin = max(self._bin, number)
        wants = self._wants
        wants[-1] = max(wants[-1], need)
        return max(wants), max(wants[-1 - at] for at in range(min(len(wants), SURE_BINS + 1)))

    # -- bytes --------------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "now": self._now,
            "smooth": self._smooth,
            "wanted": self._wanted,
            "bin": self._bin,
            "wants": list(self._wants),
            "capacity": self.capacity.state(),
        }
        if self.limits is not None:
            state["limits"] = self.limits.state()
        return state

    def _restore(self, state: dict[str, Any]) -> None:
        self._now, self._smooth, self._bin = state["now"], state["smooth"], state["bin"]
        self._wanted = int(min(max(state["wanted"], self.sizing.minimum), self.sizing.maximum))
        self._wants = deque(state["wants"], maxlen=HOLD_BINS + 1)
        # States of before capacities were learnt, or limits kept, have neither.
        if "capacity" in state:
            self.capacity.restore(state["capacity"])
        if "limits" in state and self.limits is not None:
            self.limits.restore(state["limits"])

    def _learnt(self) -> bytes:
        return b""

    def _relearn(self, payload: bytes) -> None:
        assert not payload, "only the forecast learns"

    def to_bytes(self) -> bytes:
        """What was learnt and decided, versioned and checksummed."""
        head = json.dumps(self._state()).encode()
        body = _HEADER.pack(MAGIC, VERSION, len(head)) + head + self._learnt()
        return body + _CRC.pack(zlib.crc32(body))

    def from_bytes(self, payload: bytes) -> Self:
        """Continue from what `to_bytes` wrote; returns this policy.

        Raises
        ------
        ChecksumError
            If bytes are missing or changed.
        VersionError
            If a newer program wrote them.
        """
        if len(payload) < _HEADER.size + _CRC.size or payload[:4] != MAGIC:
            msg = f"{len(payload)} bytes are no policy state (they begin with {payload[:4]!r}, expected {MAGIC!r})"
            raise ChecksumError(msg)
        body = payload[: -_CRC.size]
        if zlib.crc32(body) != _CRC.unpack(payload[-_CRC.size :])[0]:
            msg = f"policy state of {len(payload)} bytes fails its CRC-32: damaged since it was written"
            raise ChecksumError(msg)
        _, version, size = _HEADER.unpack_from(body)
        if version != VERSION:
            msg = f"policy state has version {version}; this program reads version {VERSION}"
            raise VersionError(msg)
        state = json.loads(body[_HEADER.size : _HEADER.size + size])
        self._relearn(body[_HEADER.size + size :])
        self._restore(state)
        return self
