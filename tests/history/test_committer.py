"""Exactly once, whatever happens between the steps of a commit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from iiot_dask.core.batch import Batch
from iiot_dask.core.errors import CapacityError, ChecksumError, ConfigError, DataError, InUseError, VersionError
from iiot_dask.core.metrics import Metrics
from iiot_dask.history import History, checkpoint, write_block
from iiot_dask.history.committer import Committer
from iiot_dask.stream.driver import Epoch


class Rig:
    """A committer that can crash (be dropped) and come back, and the epochs of a stream."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.metrics = Metrics()
        self.committed: list[int] = []
        self.history = History(tmp_path / "history")
        self.history.tags.ensure(["a", "b"])
        self.committer = self.open()

    def open(self, **options) -> Committer:
        options = {"shards": 2, "backoff_s": (0.0, 0.0), "on_commit": self.committed.append, **options}
        return Committer(self.history, "j1", self.folder / "checkpoints", metrics=self.metrics, **options)

    def epoch(self, first: int, stop: int) -> Epoch:
        entries = []
        for shard in range(2):
            times = list(range(first, stop))
            batch = Batch.of(
                tag=[shard] * len(times),
                time=times,
                value=[float(t) for t in times],
                received=[1000 + stop] * len(times),
            )
            entries += write_block(self.history.url, batch, f"j1-{first}-{stop}-{shard}")
        return Epoch(first, stop, tuple(entries), (f"s0@{stop}".encode(), f"s1@{stop}".encode()), 2 * (stop - first))

    def rows(self) -> list[tuple[str, float]]:
        return self.history.scan().select("tag", "value").collect().rows()


@pytest.fixture
def rig(tmp_path):
    rig = Rig(tmp_path)
    yield rig
    rig.committer.close()


def put_and_settle(rig: Rig, epochs: list[Epoch]) -> None:
    for epoch in epochs:
        rig.committer.put(epoch)
    rig.committer.settle()


def wanted(stop: int) -> list[tuple[str, float]]:
    return [(tag, float(t)) for tag in "ab" for t in range(stop)]


def test_epochs_are_committed_in_order(rig: Rig) -> None:
    assert rig.committer.settle() == (0, [None, None])
    for first in range(0, 50, 5):
        rig.committer.put(rig.epoch(first, first + 5))
    assert rig.committer.settle() == (50, [b"s0@50", b"s1@50"])
    assert rig.rows() == wanted(50)
    assert rig.committed == list(range(5, 55, 5))
    assert [p.name for p in (rig.folder / "checkpoints").glob("*.checkpoint")] == [f"j1-{50:020d}.checkpoint"]
    assert rig.metrics.value("history_rows_total") == 100
    assert rig.metrics.value("history_bytes_total") == rig.history.info().bytes


def test_a_replayed_commit_is_not_doubled(rig: Rig) -> None:
    epoch = rig.epoch(0, 5)
    for _ in range(3):
        rig.committer.put(epoch)
        rig.committer.put(rig.epoch(0, 5))
    assert rig.committer.settle()[0] == 5
    assert rig.rows() == wanted(5)
    assert rig.history.info().rows == 10
    assert rig.committed == [5]


def test_an_epoch_without_rows_moves_the_offset(rig: Rig) -> None:
    rig.committer.put(Epoch(0, 7, (), (b"x", b"y"), 0))
    assert rig.committer.settle() == (7, [b"x", b"y"])
    assert rig.history.info().files == 0


def test_a_gap_is_refused_and_the_stream_can_go_on(rig: Rig) -> None:
    rig.committer.put(rig.epoch(0, 5))
    after = rig.epoch(9, 12)
    # Raised to whichever comes first after the failure: the next put, or the next settle.
    with pytest.raises(CapacityError, match=r"epoch 6\.\.9 of 'j1' does not follow the committed offset 5"):
        put_and_settle(rig, [rig.epoch(6, 9), after])
    assert rig.committer.settle()[0] == 5
    rig.committer.put(rig.epoch(5, 12))
    assert rig.committer.settle()[0] == 12
    assert rig.rows() == wanted(12)


def test_failures_are_retried_then_raised(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    real, fails = rig.history.log.commit, []

    def flaky(*arguments, **options):
        if len(fails) < 2:
            fails.append(1)
            msg = "disk full"
            raise CapacityError(msg)
        return real(*arguments, **options)

    monkeypatch.setattr(rig.history.log, "commit", flaky)
    rig.committer.put(rig.epoch(0, 5))
    assert rig.committer.settle()[0] == 5
    monkeypatch.setattr(rig.history.log, "commit", lambda *_, **__: False)
    rig.committer.put(rig.epoch(5, 9))
    with pytest.raises(CapacityError, match="other writers won every time"):
        rig.committer.settle()
    assert rig.metrics.value("history_commit_failures_total") == 5
    assert rig.rows() == wanted(5)


def test_a_commit_that_succeeded_but_said_no_is_found(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    real = rig.history.log.commit

    def lies(*arguments, **options):
        real(*arguments, **options)
        msg = "connection reset"
        raise CapacityError(msg)

    monkeypatch.setattr(rig.history.log, "commit", lies)
    rig.committer.put(rig.epoch(0, 5))
    assert rig.committer.settle()[0] == 5
    assert rig.rows() == wanted(5)
    assert rig.history.info().rows == 10


def test_a_lost_file_is_noticed_before_the_commit(rig: Rig) -> None:
    epoch = rig.epoch(0, 5)
    (Path(rig.history.url) / epoch.entries[0].path).unlink()
    rig.committer.put(epoch)
    with pytest.raises(CapacityError, match="looking for"):
        rig.committer.settle()
    assert rig.rows() == []


def test_one_committer_a_stream(rig: Rig) -> None:
    with pytest.raises(InUseError, match="another process commits the stream 'j1'"):
        rig.open()
    rig.committer.close()
    rig.committer.close()
    with pytest.raises(CapacityError, match="closed"):
        rig.committer.put(rig.epoch(0, 1))
    rig.committer = rig.open()


@pytest.mark.parametrize("app", ["", "a/b", "x" * 101, "ü"])
def test_a_hostile_identity_is_refused(rig: Rig, app: str) -> None:
    with pytest.raises(ConfigError, match="application id"):
        Committer(rig.history, app, rig.folder / "c", metrics=rig.metrics, on_commit=rig.committed.append)


@pytest.mark.parametrize("damage", ["gone", "flipped", "other shards"])
def test_a_lost_checkpoint_costs_state_never_history(rig: Rig, damage: str) -> None:
    rig.committer.put(rig.epoch(0, 5))
    rig.committer.settle()
    [file] = (rig.folder / "checkpoints").glob("*.checkpoint")
    if damage == "gone":
        file.unlink()
    elif damage == "flipped":
        content = bytearray(file.read_bytes())
        content[20] ^= 1
        file.write_bytes(content)
    else:
        rig.committer.close()
        rig.committer = rig.open(shards=3)
    offset, states = rig.committer.settle()
    assert offset == 5
    assert set(states) == {None}
    assert rig.metrics.value("history_checkpoints_lost_total") == 1
    rig.committer.put(rig.epoch(5, 8))
    assert rig.committer.settle()[0] == 8
    assert rig.rows() == wanted(8)


CHILD = """
import os, sys
sys.path.insert(0, sys.argv[3])
from test_committer import Rig
from pathlib import Path
from iiot_dask.history import committer as module
rig = Rig(Path(sys.argv[1]))
step = sys.argv[2]
rig.committer.put(rig.epoch(0, 5))
rig.committer.settle()
die = lambda *a, **k: os._exit(9)
if step == "write":
    epoch = rig.epoch(5, 9)
    die()
elif step == "checkpoint":
    real = rig.committer._checkpoints.put
    rig.committer._checkpoints.put = lambda *a: (real(*a), die())
elif step == "commit":
    rig.history.log.commit = die
elif step == "clean":
    rig.committer._checkpoints.delete = die
elif step == "answer":
    rig.committer.on_commit = die
rig.committer.put(rig.epoch(5, 9))
rig.committer.settle()
"""


@pytest.mark.parametrize(
    ("step", "offset"), [("write", 5), ("checkpoint", 5), ("commit", 5), ("clean", 9), ("answer", 9)]
)
def test_a_crash_at_every_step_leaves_history_whole(tmp_path: Path, step: str, offset: int) -> None:
    here = str(Path(__file__).parent)
    child = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path), step, here], check=False, timeout=120)
    assert child.returncode == 9
    rig = Rig(tmp_path)
    try:
        assert rig.committer.settle() == (offset, [f"s0@{offset}".encode(), f"s1@{offset}".encode()])
        assert rig.rows() == wanted(offset)
        rig.committer.put(rig.epoch(5, 9))
        rig.committer.put(rig.epoch(9, 11))
        assert rig.committer.settle()[0] == 11
        assert rig.rows() == wanted(11)
        assert rig.history.info().rows == 22
        assert rig.history.vacuum("0s", dry_run=False).dry_run is False
        assert len(list(rig.history.store.list())) == rig.history.info().files
        assert [p.name for p in (tmp_path / "checkpoints").glob("*.checkpoint")] == [f"j1-{11:020d}.checkpoint"]
    finally:
        rig.committer.close()


def test_checkpoint_bytes() -> None:
    content = checkpoint.dump("app", 2**40, [b"", b"x" * 1000])
    assert checkpoint.load(content) == ("app", 2**40, [b"", b"x" * 1000])
    for at in range(len(content)):
        broken = bytearray(content)
        broken[at] ^= 0x10
        with pytest.raises(ChecksumError):
            checkpoint.load(bytes(broken))
        with pytest.raises(DataError):
            checkpoint.load(content[:at])


def test_a_newer_checkpoint_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "VERSION", 2)
    content = checkpoint.dump("app", 1, [])
    monkeypatch.setattr(checkpoint, "VERSION", 1)
    with pytest.raises(VersionError, match="version 2"):
        checkpoint.load(content)
