"""`Incidents`: from changes of single tags and events of adapters to one incident a cause. Pure: no clock, no I/O.

Rules:

* A silent tag is *held* for a short group wait (longer while slower siblings can not have complained yet); then the
  highest topology node that explains it is looked for (`Tally.explain`). Found: one `outage` of that node; not found:
  `silence` of the tag.
* When a wider explanation appears later, the oldest incident below is *promoted* (same id, new node) and the others
  become its parts (`parent`), so a cause keeps one number.
* An outage ends when most of what kept it open is well again; what stays silent is judged again on its own.
* `device_down` opens an outage after a short grace. A lost adapter session is only an incident when it lasts
  (`adapter_grace_ns`); until then the silence of its tags is held: an adapter's restart is not the plant's fault.
* The same cause coming back within `reopen_ns` continues the old incident. Replayed changes (same tag, kind and start)
  change nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from iiot_dask.adapter.contract import Event
from iiot_dask.health.flaps import Flaps
from iiot_dask.health.groups import Groups, common_node, together
from iiot_dask.health.incident import Incident
from iiot_dask.health.kinds import Kind
from iiot_dask.health.ledger import NEVER, Ledger, Live
from iiot_dask.health.tally import Tally
from iiot_dask.health.topology import NO_NODE, Topology


@dataclass(frozen=True, slots=True)
class Rules:
    """Spans in ns, shares 0..1.

    Parameters
    ----------
    share
        Share of judged tags (or of branches) that must be silent for an outage.
    back_share
        An outage ends when at most this share of what kept it open at its peak still lasts.
    group_wait_ns, sibling_wait_ns_max
        How long a silent tag is held, and how much longer at most while slower siblings may follow.
    device_grace_ns, adapter_grace_ns
        How long a device or an adapter session may be down before it counts.
    reopen_ns
        The same cause within this time after its end is the same incident.
    flap_count, flap_window_ns, flap_quiet_ns
        So many beginnings of the same silence or outage within the window (or forty times the tag's own threshold) are one
        `flapping`, which ends after at least so long without one.
    together_min, together_share
        Without a topology, at least so many tags, and this share of all or a hundred, with the same kind at the same time
        are one incident.
    kind_wait_ns
        How long other conditions of a tag are held, so that what happens to many at once is one incident.
    corrupt_quiet_ns
        A `corrupt` incident ends after so long without a malformed message.
    confirm_ns
        A restored incident that nothing confirms ends after this.
    open_max, replay_max
        Most incidents open at once (further ones are counted in `Incidents.dropped`), most (tag, kind) pairs remembered
        against replays (the oldest are forgotten).
    """

    share: float = 0.6
    back_share: float = 0.4
    group_wait_ns: int = 5_000_000_000
    sibling_wait_ns_max: int = 30_000_000_000
    device_grace_ns: int = 3_000_000_000
    adapter_grace_ns: int = 15_000_000_000
    reopen_ns: int = 10_000_000_000
    flap_count: int = 3
    flap_window_ns: int = 600_000_000_000
    flap_quiet_ns: int = 60_000_000_000
    together_min: int = 8
    together_share: float = 0.6
    kind_wait_ns: int = 2_000_000_000
    corrupt_quiet_ns: int = 30_000_000_000
    confirm_ns: int = 60_000_000_000
    open_max: int = 100_000
    replay_max: int = 200_000


@dataclass(slots=True)
class _Silence:
    start_ns: int
    detected_ns: int
    score: float
    hold_ns: int
    incident: Live | None = None
    waited: bool = False
    """Its hold was lengthened once, or it is what is left of a wider incident."""


@dataclass(frozen=True, slots=True)
class _Down:
    since_ns: int
    due_ns: int
    reason: str


class Incidents:
    """The engine. Feed it with `tags`, `take` and `event`; `tick` answers with the incidents that changed.

    Parameters
    ----------
    rules
        Spans and shares.
    topology
        A tree made elsewhere; by default it grows from device paths given to `tags`.
    restored
        Incidents that were open when the program ended; they go on when the monitors confirm them (a monitor says what
        holds after a restart), and end after `Rules.confirm_ns` when nothing does.
    first
        Number of the first incident: one more than the store's highest.

    Notes
    -----
    Not thread-safe. Bounded by the number of tags plus `Rules.open_max` and `Rules.replay_max`.

    Examples
    --------
    >>> from iiot_dask.health.kinds import CHANGE_DTYPE
    >>> engine = Incidents()
    >>> engine.tags([0], ["line/a/t"], ["line/a"])
    >>> engine.take(np.array([(0, Kind.FLATLINE, True, 5, 9, 30.0)], CHANGE_DTYPE), now_ns=9)
    >>> [(i.incident, i.kind, i.node, i.end_ns) for i in engine.tick(3_000_000_000)]
    [(1, 'flatline', 'line/a/t', None)]
    """

    def __init__(
        self,
        rules: Rules | None = None,
        *,
        topology: Topology | None = None,
        restored: Iterable[Incident] = (),
        first: int = 1,
    ) -> None:
        self.rules = rules or Rules()
        self.topology = topology or Topology()
        self._tally = Tally(self.topology, self.rules.share)
        self._ledger = Ledger(
            self.topology, first_id=first, reopen_ns=self.rules.reopen_ns, open_max=self.rules.open_max
        )
        rule = self.rules
        self._flaps = Flaps(
            self._ledger, count=rule.flap_count, window_ns=rule.flap_window_ns, quiet_ns=rule.flap_quiet_ns
        )
        self._restored = [self._ledger.restore(one) for one in restored]
        self._groups: dict[int, Groups] = {}
        self._silent: dict[int, _Silence] = {}
        self._pending: dict[int, None] = {}
        self._threshold_s: dict[int, float] = {}
        self._devices: dict[str, _Down] = {}
        self._adapters: dict[str, _Down] = {}
        self._up_ns: dict[str, int] = {}
        """When devices and adapters that were down last came up."""
        self._last: OrderedDict[tuple[int, int], int] = OrderedDict()

    @property
    def dropped(self) -> int:
        """Incidents not opened because `Rules.open_max` were."""
        return self._ledger.dropped

    # -- what comes in ------------------------------------------------------------------------------------------

    def tags(
        self, ids: Sequence[int], names: Sequence[str], devices: Sequence[str], adapters: Sequence[str] | None = None
    ) -> None:
        """Learn where tags hang; repeats and moves are fine. `adapters`: who reads each tag."""
        counted = [int(t) for t in ids if int(t) in self._threshold_s or int(t) in self._silent]
        groups = list(self._groups.values())
        self._moved(counted, groups, ids, -1)
        self.topology.add(ids, names, devices, adapters)
        self._moved(counted, groups, ids, 1)

    def _moved(self, counted: Sequence[int], groups: Sequence[Groups], ids: Sequence[int], by: int) -> None:
        for tag in counted:
            self._tally.count(tag, judged=by, silent=by * (tag in self._silent))
        for group in groups:
            for tag in ids:
                group.moved(int(tag), by)

    def take(self, changes: npt.NDArray[np.void], now_ns: int) -> None:  # noqa: ARG002 -- changes carry their own times
        """Fold in changes (CHANGE_DTYPE), oldest first per tag."""
        for tag, kind, active, start, detected, score in changes.tolist():
            if kind == Kind.ARMED:
                self._arm(tag, active, score)
            elif kind == Kind.SILENCE:
                if active:
                    self._fell_silent(tag, start, detected, score)
                else:
                    self._came_back(tag, detected)
            elif active:
                if not self._replayed(tag, kind, start):
                    self._group(kind).begin(tag, start, detected, score)
            else:
                self._group(kind).end(tag, detected)

    def event(self, adapter: str, event: Event, now_ns: int) -> None:
        """Fold in what an adapter, or its host, reported."""
        session = event.node == adapter
        if event.kind == "malformed":
            self._malformed(event)
        elif event.kind in {"device_down", "disconnected"}:
            grace = self.rules.adapter_grace_ns if session else self.rules.device_grace_ns
            known = self._adapters if session else self._devices
            known.setdefault(event.node, _Down(event.time_ns, now_ns + grace, event.reason))
        elif event.kind in {"device_up", "connected"}:
            known = self._adapters if session else self._devices
            if known.pop(event.node, None) is not None:
                self._up_ns[event.node] = event.time_ns
                self._up(event.node, max(event.time_ns, 0))

    def tick(self, now_ns: int) -> list[Incident]:
        """Judge what is due; the incidents that changed since the last call, oldest first."""
        for live in self._restored:
            live.confirm_ns = now_ns + self.rules.confirm_ns if not live.ill else NEVER
        self._restored.clear()
        for name, down in list(self._devices.items()):
            if now_ns >= down.due_ns:
                self._device_lost(name, down, now_ns)
        for name, down in list(self._adapters.items()):
            if now_ns >= down.due_ns:
                self._adapter_lost(name, down, now_ns)
        for tag in [t for t in self._pending if self._silent[t].hold_ns <= now_ns]:
            # An outage found for one of them may have taken in the others.
            if tag in self._pending:
                self._judge(tag, now_ns)
        for group in self._groups.values():
            group.tick(now_ns)
        for live in list(self._ledger.open.values()):
            self._expire(live, now_ns)
        self._ledger.forget(now_ns)
        return self._ledger.changes()

    def deadline(self) -> int:
        """The next instant at which `tick` has something to do by itself, ns; `ledger.NEVER` if none."""
        times = [self._silent[t].hold_ns for t in self._pending]
        times += [d.due_ns for n, d in self._adapters.items() if not self._covered(f"down:{n}")]
        times += [d.due_ns for n, d in self._devices.items() if not self._covered(f"down:{n}")]
        times += [group.deadline() for group in self._groups.values()]
        for live in self._ledger.open.values():
            if live.kind == "corrupt":
                times.append(live.last_ns + self.rules.corrupt_quiet_ns)
            elif live.quiet_ns and not live.ill:
                times.append(live.last_ns + live.quiet_ns)
            else:
                times.append(live.confirm_ns)
        return min(times, default=NEVER)

    def open(self) -> list[Incident]:
        """The incidents that last, oldest first."""
        return [self._ledger.record(x) for x in sorted(self._ledger.open.values(), key=lambda x: x.id)]

    def all(self) -> list[Incident]:
        """The incidents that last and the newest that ended (`ledger.ENDED_MAX`), oldest first."""
        return self._ledger.all()

    # -- silence ------------------------------------------------------------------------------------------------

    def _arm(self, tag: int, active: bool, threshold_s: float) -> None:
        known = tag in self._threshold_s
        if active:
            self._threshold_s[tag] = threshold_s
        else:
            self._threshold_s.pop(tag, None)
        if known != active and tag not in self._silent:
            self._tally.count(tag, judged=1 if active else -1)

    def _replayed(self, tag: int, kind: int, start_ns: int) -> bool:
        key = (tag, kind)
        before = self._last.pop(key, None)
        self._last[key] = start_ns if before is None else max(before, start_ns)
        if len(self._last) > self.rules.replay_max:
            self._last.popitem(last=False)
        return before is not None and start_ns <= before

    def _fell_silent(self, tag: int, start: int, detected: int, score: float) -> None:
        if tag in self._silent or self._replayed(tag, Kind.SILENCE, start):
            return
        node = self.topology.node_of(tag)
        wait_ns = self._wait_ns(tag, node) if node != NO_NODE else self._alone_ns()
        hold = detected + wait_ns
        self._silent[tag] = _Silence(start, detected, score, hold)
        self._pending[tag] = None
        self._tally.count(tag, judged=+(tag not in self._threshold_s), silent=1)

    def _wait_ns(self, tag: int, node: int) -> int:
        """The group wait, longer while slower siblings can not have complained yet."""
        mine = self._threshold_s.get(tag, 0.0)
        others = (self._threshold_s.get(t, 0.0) for t in self.topology.tags[node] if t not in self._silent)
        extra = round(max(0.0, max(others, default=0.0) - mine) * 1e9)
        return self.rules.group_wait_ns + min(extra, self.rules.sibling_wait_ns_max)

    def _alone_ns(self) -> int:
        """The wait of a tag that hangs nowhere: only when there are enough to fall silent together."""
        return self.rules.kind_wait_ns if len(self._threshold_s) >= self.rules.together_min else 0

    def _came_back(self, tag: int, at_ns: int) -> None:
        silence = self._silent.get(tag)
        if silence is None:
            return
        if (
            tag in self._pending
            and silence.incident is None
            and not silence.waited
            and self._lasted(tag, silence, at_ns)
        ):
            self._judge(tag, at_ns)
        del self._silent[tag]
        self._pending.pop(tag, None)
        self._tally.count(tag, judged=-(tag not in self._threshold_s), silent=-1)
        if silence.incident is not None:
            self._well(silence.incident, tag, at_ns)

    def _lasted(self, tag: int, silence: _Silence, at_ns: int) -> bool:
        """Whether a silence that is over before its hold is was one of the tag itself, and no blink of its session."""
        node = self.topology.node_of(tag)
        adapter = self.topology.adapter_of.get(node, "")
        above = [adapter, *(self.topology.names[n] for n in self.topology.up(node))]
        blinked = any(
            a in self._adapters or self._up_ns.get(a, silence.start_ns - 1) >= silence.start_ns for a in above
        )
        return not blinked and at_ns - silence.detected_ns >= self.rules.group_wait_ns

    def _judge(self, tag: int, now_ns: int) -> None:
        """Open or join an incident for a silent tag whose hold is over."""
        silence = self._silent[tag]
        node = self.topology.node_of(tag)
        adapter = self.topology.adapter_of.get(node, "")
        down = self._adapters.get(adapter)
        if down is not None and down.due_ns > now_ns:
            silence.hold_ns = down.due_ns
            return
        names = [self.topology.names[n] for n in self.topology.up(node)]
        explaining = self._tally.explain(node)
        if node == NO_NODE and self._silent_together(tag, now_ns):
            return
        for name in [*names, adapter]:
            live = self._ledger.find("outage", name) or self._ledger.find("flapping", name)
            if live is not None:
                self._join(live, tag)
                wide_enough = explaining == NO_NODE or name not in names[: names.index(self.topology.names[explaining])]
                if wide_enough:
                    return
        if explaining != NO_NODE:
            self._outage(explaining, now_ns)
        elif silence.incident is None:
            name = self.topology.tag_name(tag)
            own_ns = round(self._threshold_s.get(tag, 0.0) * 1e9)
            if self._ledger.find("hold", name) is not None and now_ns < silence.hold_ns + 1 and not silence.waited:
                # It is known to be held back, and to come in the end.
                silence.waited = True
                silence.hold_ns = now_ns + 3 * max(own_ns, self.rules.group_wait_ns)
                return
            live = self._ledger.find("flapping", name)
            if live is not None:
                live.last_ns = now_ns
                self._join(live, tag)
            else:
                live = self._ledger.begin("silence", name, silence.start_ns, now_ns, silence.score)
                if live is not None:
                    live.detail = f"quiet for {silence.score:.1f} periods when found"
                    self._join(live, tag)
                    self._joined(live, self._flaps.began(live, 40 * own_ns))
        self._pending.pop(tag, None)

    def _joined(self, before: Live, after: Live) -> None:
        """What kept one incident open keeps another open now."""
        if before is not after:
            for cause in after.ill:
                if isinstance(cause, int) and cause in self._silent:
                    self._silent[cause].incident = after

    def _silent_together(self, tag: int, now_ns: int) -> bool:
        """One incident for very many tags without a topology that fell silent at once; whether it is so."""
        rules = self.rules
        near = [
            t for t in self._pending
            if self.topology.node_of(t) == NO_NODE and self._silent[t].hold_ns <= now_ns + rules.kind_wait_ns
        ]  # fmt: skip
        if not together(len(near), len(self._threshold_s), rules.together_min, rules.together_share):
            return False
        name = common_node([self.topology.tag_name(t) for t in near])
        first = self._silent[tag]
        live = self._ledger.begin("outage", name, first.start_ns, now_ns, first.score)
        if live is None:
            return False
        live.detail = f"{len(near)} of {len(self._threshold_s)} tags silent at once"
        for each in near:
            self._join(live, each)
        return True

    def _outage(self, node: int, now_ns: int) -> None:
        """One outage of `node` for everything silent or down below it."""
        name = self.topology.names[node]
        below = [t for t in self.topology.below(node) if t in self._silent]
        under = {self.topology.names[n] for n in self._nodes(node)}
        parts = {x.id: x for x in (self._silent[t].incident for t in below) if x is not None and x.end_ns is None}
        parts |= {x.id: x for x in self._ledger.open.values() if x.kind == "outage" and x.node in under}
        live = self._ledger.find("outage", name) or self._ledger.find("flapping", name)
        fresh = live is None
        if live is None and parts:
            live = parts[min(parts)]
            self._ledger.rename(live, "outage", name)
        if live is None:
            start = min((self._silent[t].start_ns for t in below), default=now_ns)
            live = self._ledger.begin("outage", name, start, now_ns, 0.0)
            if live is None:
                return
        for part in parts.values():
            if part is not live:
                self._absorb(part, live, now_ns)
        for tag in below:
            self._join(live, tag)
        if fresh:
            flapping = self._flaps.began(live, 0)
            self._joined(live, flapping)
            if flapping is not live or live.kind == "flapping":
                return
        live.detail = f"{self._tally.silent.get(node, 0)} of {self._tally.judged.get(node, 0)} tags silent"

    def _nodes(self, node: int) -> Iterable[int]:
        stack = [node]
        while stack:
            at = stack.pop()
            yield at
            stack.extend(self.topology.children[at])

    def _join(self, live: Live, tag: int) -> None:
        silence = self._silent[tag]
        silence.incident = live
        live.members[tag] = None
        live.add(tag)
        live.start_ns = min(live.start_ns, silence.start_ns)
        live.score = max(live.score, silence.score)
        self._pending.pop(tag, None)
        self._ledger.touch(live)

    def _well(self, live: Live, cause: int | str, at_ns: int) -> None:
        """One of the things that kept it open is over."""
        live.ill.discard(cause)
        if live.quiet_ns:
            live.last_ns = max(live.last_ns, at_ns)
        elif live.end_ns is None and len(live.ill) <= self.rules.back_share * live.peak:
            self._close(live, at_ns)

    # -- events -------------------------------------------------------------------------------------------------

    def _covered(self, cause: str) -> bool:
        return any(cause in live.ill for live in self._ledger.open.values())

    def _device_lost(self, name: str, down: _Down, now_ns: int) -> None:
        cause = f"down:{name}"
        if self._covered(cause):
            return
        node = self.topology.node(name)
        live = None
        for at in self.topology.up(node):
            live = live or self._ledger.find("outage", self.topology.names[at])
        if live is None:
            live = self._ledger.begin("outage", name, down.since_ns, now_ns, 1.0)
            if live is None:
                return
            live.detail = down.reason or "the device does not answer"
        live.add(cause)
        if node != NO_NODE:
            self._tally.gone.add(node)
            self._take_in(live, self.topology.below(node), now_ns)
            wider = self._tally.explain(node)
            if wider not in {NO_NODE, node} and self._ledger.find("outage", self.topology.names[wider]) is None:
                self._outage(wider, now_ns)

    def _take_in(self, live: Live, tags: Iterable[int], now_ns: int) -> None:
        """All these tags are members, and their own incidents parts."""
        for tag in tags:
            live.members[tag] = None
            if tag in self._silent:
                part = self._silent[tag].incident
                if part is not None and part is not live and part.end_ns is None:
                    self._absorb(part, live, now_ns)
                self._join(live, tag)
        self._ledger.touch(live)

    def _absorb(self, part: Live, into: Live, now_ns: int) -> None:
        for cause in part.ill:
            if isinstance(cause, int) and cause in self._silent:
                self._silent[cause].incident = into
        self._ledger.absorb(part, into, now_ns)

    def _adapter_lost(self, adapter: str, down: _Down, now_ns: int) -> None:
        cause = f"down:{adapter}"
        if self._covered(cause):
            return
        roots = self._roots(adapter)
        outages = [self._outage_above(root) for root in roots] or self._at_the_time(down.since_ns)
        if outages and all(live is not None for live in outages):
            # Already explained from the plant's side, device by device: the session adds nothing.
            for live in outages:
                if live is not None:
                    live.add(cause)
            return
        # A device with an adapter of its own is named itself: that is what a person looks for.
        name = self.topology.names[self._narrow(roots[0])] if len(roots) == 1 else adapter
        live = self._ledger.begin("outage", name, down.since_ns, now_ns, 1.0)
        if live is None:
            return
        live.detail = f"adapter {adapter!r} lost its session" + (f": {down.reason}" if down.reason else "")
        live.add(cause)
        for root in roots:
            self._take_in(live, self.topology.below(root), now_ns)

    def _at_the_time(self, since_ns: int) -> list[Live | None]:
        """Outages that began when a session of unknown devices was lost: most likely the same cause."""
        near = self.rules.adapter_grace_ns
        return [x for x in self._ledger.open.values() if x.kind == "outage" and abs(x.start_ns - since_ns) <= near]

    def _outage_above(self, node: int) -> Live | None:
        """The outage that covers this node: of itself, of a node above, or of the only branch below."""
        for at in [*self.topology.up(node), self._narrow(node)]:
            live = self._ledger.find("outage", self.topology.names[at])
            if live is not None:
                return live
        return None

    def _roots(self, adapter: str) -> list[int]:
        """The highest nodes that hold nothing but this adapter's devices."""
        roots: dict[int, None] = {}
        for node in [n for n, a in self.topology.adapter_of.items() if a == adapter]:
            top = node
            for at in self.topology.up(node):
                owners = {self.topology.adapter_of.get(n, adapter) for n in self._nodes(at) if self.topology.tags[n]}
                if owners != {adapter}:
                    break
                top = at
            roots[top] = None
        return list(roots)

    def _narrow(self, node: int) -> int:
        """Down through nodes that have one branch and no tags: they say nothing more than the branch."""
        while len(self.topology.children[node]) == 1 and not self.topology.tags[node]:
            node = self.topology.children[node][0]
        return node

    def _up(self, name: str, at_ns: int) -> None:
        """What an event said to be down is up again."""
        cause = f"down:{name}"
        self._tally.gone.discard(self.topology.node(name))
        for live in [x for x in self._ledger.open.values() if cause in x.ill]:
            down = sum(isinstance(c, str) for c in live.ill)
            if down == 1:
                # Said down by events only, and the last one is taken back.
                live.ill.discard(cause)
                self._close(live, at_ns)
            else:
                self._well(live, cause, at_ns)

    def _malformed(self, event: Event) -> None:
        live = self._ledger.find("corrupt", event.node)
        if live is None:
            live = self._ledger.begin("corrupt", event.node, event.time_ns, event.time_ns, 0.0)
            if live is None:
                return
        live.count += event.count
        live.score = float(live.count)
        live.last_ns = max(live.last_ns, event.time_ns)
        live.confirm_ns = NEVER
        live.detail = f"{live.count} malformed messages" + (f", last: {event.reason}" if event.reason else "")
        self._ledger.touch(live)

    # -- other conditions of tags -------------------------------------------------------------------------------

    def _group(self, kind: int) -> Groups:
        """The group of a kind, made on first use: there are as many as kinds."""
        found = self._groups.get(kind)
        if found is None:
            rules = self.rules
            found = self._groups[kind] = Groups(
                Kind(kind),
                self.topology,
                self._tally.judged,
                self._ledger,
                share=rules.share,
                back_share=rules.back_share,
                wait_ns=rules.kind_wait_ns,
                close=self._ledger.close,
                own_wait_ns=self._own_wait_ns if kind in {Kind.SLOW, Kind.BURST} else None,
                all_of=lambda: len(self._threshold_s),
                together_min=rules.together_min,
                together_share=rules.together_share,
                opened=self._hold_opened if kind == Kind.HOLD else None,
            )
        return found

    def _own_wait_ns(self, tag: int) -> int:
        """A changed schedule shows at its own pace."""
        return round(self._threshold_s.get(tag, 0.0) * 1e9)

    def _hold_opened(self, live: Live) -> None:
        """What fell silent while it was held back is a part of that."""
        flapping = self._ledger.find("flapping", live.node)
        for part in [*self._flaps.parts("silence", live.node), *([flapping] if flapping else [])]:
            if part.parent is None and part is not live:
                end_ns = part.end_ns if part.end_ns is not None else live.detected_ns
                for cause in part.ill:
                    if isinstance(cause, int) and cause in self._silent:
                        self._silent[cause].incident = None
                part.ill = set()
                self._ledger.absorb(part, live, end_ns)

    # -- endings ------------------------------------------------------------------------------------------------

    def _close(self, live: Live, at_ns: int) -> None:
        self._ledger.close(live, at_ns)
        for cause in live.ill:
            if isinstance(cause, str):
                # Its samples are back, so what the event said is out of date.
                name = cause.removeprefix("down:")
                self._devices.pop(name, None)
                self._adapters.pop(name, None)
                self._tally.gone.discard(self.topology.node(name))
            elif cause in self._silent:
                # Still silent after the common cause went: give it its own rhythm's time to come back.
                silence = self._silent[cause]
                silence.incident = None
                silence.waited = True
                wait_s = max(self._threshold_s.get(cause, 0.0), 10.0)
                silence.hold_ns = at_ns + round(wait_s * 1e9) + self.rules.group_wait_ns
                self._pending[cause] = None
        live.ill = set()

    def _expire(self, live: Live, now_ns: int) -> None:
        if live.kind == "corrupt":
            if now_ns - live.last_ns >= self.rules.corrupt_quiet_ns:
                self._close(live, live.last_ns)
        elif live.quiet_ns and not live.ill:
            if now_ns - live.last_ns >= live.quiet_ns:
                self._close(live, live.last_ns)
        elif live.confirm_ns <= now_ns:
            self._close(live, now_ns)
