"""`Flaps`: a cause that comes and goes becomes one `flapping` incident instead of one a time. Pure.

The third beginning within the window turns the first of them into `flapping` under its old number; the others become its
parts. It ends, at its last return, once it was quiet for as long as three of its own cycles.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from iiot_dask.health.ledger import Ledger, Live

KEYS_MAX = 20_000
"""Most nodes whose comings and goings are remembered; the ones longest without any go first."""


@dataclass(slots=True)
class _Toggles:
    starts: list[int] = field(default_factory=list)
    lives: list[Live] = field(default_factory=list)


class Flaps:
    """Counts beginnings per (kind, node).

    Parameters
    ----------
    ledger
        Shared with the engine.
    count, window_ns, quiet_ns
        So many beginnings within the window are flapping; it lasts until quiet for at least this long.

    Examples
    --------
    >>> from iiot_dask.health.topology import Topology
    >>> ledger = Ledger(Topology(), first_id=1, reopen_ns=0, open_max=5)
    >>> flaps = Flaps(ledger, count=3, window_ns=100, quiet_ns=50)
    >>> for t in (10, 30, 50):
    ...     live = flaps.began(ledger.begin("silence", "a", t, t + 1, 1.0), 0)
    ...     if live.kind == "silence": ledger.close(live, t + 5)
    >>> live.kind, live.id, [i.parent for i in ledger.changes()]
    ('flapping', 1, [None, 1, 1])
    """

    def __init__(self, ledger: Ledger, *, count: int, window_ns: int, quiet_ns: int) -> None:
        self.ledger = ledger
        self.count = count
        self.window_ns = window_ns
        self.quiet_ns = quiet_ns
        self._of: OrderedDict[tuple[str, str], _Toggles] = OrderedDict()

    def began(self, live: Live, own_window_ns: int) -> Live:
        """An incident began (or began again); it, or the flapping one it is a part of now.

        `own_window_ns` widens the window for what is slow by nature.
        """
        key = (live.kind, live.node)
        known = self._of.pop(key, None) or _Toggles()
        self._of[key] = known
        while len(self._of) > KEYS_MAX:
            self._of.popitem(last=False)
        begun_ns = live.last_ns
        window_ns = max(self.window_ns, own_window_ns)
        while known.starts and begun_ns - known.starts[0] > window_ns:
            del known.starts[0], known.lives[0]
        known.starts.append(begun_ns)
        known.lives.append(live)
        if len(known.starts) < self.count:
            return live
        del self._of[key]
        return self._convert(known, live)

    def _convert(self, known: _Toggles, live: Live) -> Live:
        first = known.lives[0]
        cycle_ns = max(b - a for a, b in zip(known.starts, known.starts[1:], strict=False))
        if first.parent is not None or (first.end_ns is None and first is not live):
            # It was taken over by a wider cause meanwhile; the newest carries on.
            first = live
        else:
            self.ledger.again(first)
        self.ledger.rename(first, "flapping", first.node)
        first.detail = f"began {len(known.starts)} times within {(known.starts[-1] - known.starts[0]) / 1e9:.0f} s"
        first.quiet_ns = max(self.quiet_ns, 3 * cycle_ns)
        first.last_ns = live.last_ns
        for part in {x.id: x for x in known.lives}.values():
            if part is not first and part.parent is None:
                self.ledger.absorb(part, first, part.end_ns if part.end_ns is not None else live.last_ns)
        first.peak = len(first.ill)
        return first

    def parts(self, kind: str, node: str) -> list[Live]:
        """The incidents of that kind and node within the window."""
        known = self._of.get((kind, node))
        return list(known.lives) if known else []
