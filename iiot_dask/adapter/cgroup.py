"""`ControlGroup`: the kernel's own budget for one adapter's process and everything it starts (cgroup v2).

Used where this process may make groups below its own (systemd's ``Delegate=yes``, a container that owns its tree). Where
it may not, `find` says why, and resource limits, affinity and the idle class are what there is (`limits`, `cage`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

WANTED = ("memory", "cpu", "pids")
PERIOD_US = 100_000


@dataclass(frozen=True, slots=True)
class Parent:
    """A folder of the cgroup tree in which groups can be made, and the controllers they would have."""

    path: Path
    controllers: frozenset[str]


def find(proc: Path = Path("/proc/self")) -> Parent | str:
    """Where groups can be made; a sentence that says why nowhere, if so.

    The process' own group comes first. One that holds processes can not be divided (the kernel's "no internal
    processes" rule), so the group above it is tried too: that is where systemd's ``DelegateSubgroup=`` puts us.

    Parameters
    ----------
    proc
        This process' folder in ``/proc``; another one in tests.
    """
    try:
        own = _own(proc)
    except OSError as error:
        return f"no cgroup v2 here: {error}"
    if own is None:
        return "no cgroup v2 is mounted here"
    why = ""
    for path in (own, own.parent):
        found = _divisible(path)
        if isinstance(found, Parent):
            return found
        why = why or found
    return why


def _own(proc: Path) -> Path | None:
    mount = next(
        (
            Path(line.split()[4])
            for line in (proc / "mountinfo").read_text().splitlines()
            if line.partition(" - ")[2].startswith("cgroup2 ")
        ),
        None,
    )
    lines = (proc / "cgroup").read_text().splitlines()
    inside = next((line[3:] for line in lines if line.startswith("0::")), None)
    return None if mount is None or inside is None else mount / inside.lstrip("/")


def _divisible(path: Path) -> Parent | str:
    try:
        there = frozenset((path / "cgroup.controllers").read_text().split()) & frozenset(WANTED)
        if not there:
            return f"{path} has none of the controllers {', '.join(WANTED)}"
        (path / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in sorted(there)))
        if not os.access(path, os.W_OK):
            return f"{path} is not writable"
    except OSError as error:
        return f"{path} can not be divided: {error.strerror or error}"
    return Parent(path, there)


class ControlGroup:
    """One group, made now.

    Parameters
    ----------
    parent
        From `find`.
    name
        Its folder; one that is left from a killed run is used again.
    memory
        Bytes; past it the kernel ends the process.
    cpu
        Cores.
    tasks
        Processes and threads.

    Raises
    ------
    OSError
        If the kernel refuses.
    """

    def __init__(self, parent: Parent, name: str, *, memory: int, cpu: float, tasks: int) -> None:
        self.path = parent.path / name
        self.controllers = parent.controllers
        self.path.mkdir(exist_ok=True)
        values = {
            "memory": {"memory.max": str(memory), "memory.oom.group": "1"},
            "cpu": {"cpu.max": f"{round(cpu * PERIOD_US)} {PERIOD_US}"},
            "pids": {"pids.max": str(tasks)},
        }
        for controller in sorted(self.controllers):
            for file, value in values[controller].items():
                (self.path / file).write_text(value)

    def take(self, pid: int) -> None:
        """Move a process, and what it will start, into the group.

        Raises
        ------
        OSError
            If it has ended, or may not be moved.
        """
        (self.path / "cgroup.procs").write_text(str(pid))

    def close(self) -> str:
        """Remove the group once it is empty; returns why it could not be, "" when it could."""
        try:
            self.path.rmdir()
        except OSError as error:
            return str(error)
        return ""
