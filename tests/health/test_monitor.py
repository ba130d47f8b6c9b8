"""The monitor against a slow twin, in batches against whole, and on what must not alarm."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from iiot_dask.core.batch import Batch
from iiot_dask.core.errors import ChecksumError, VersionError
from iiot_dask.core.quality import Quality
from iiot_dask.health import record
from iiot_dask.health.kinds import CHANGE_DTYPE, Kind
from iiot_dask.health.monitor import Knobs, Monitor

S = 1_000_000_000


def batch(t_s, values=None, tag=0, received=None, quality=None):
    t = (np.asarray(t_s, np.float64) * S).astype(np.int64)
    n = len(t)
    return Batch.of(
        tag=np.full(n, tag) if np.isscalar(tag) else tag,
        time=t,
        value=np.arange(n) * 7.3 % 5 if values is None else values,
        received=t if received is None else received,
        quality=quality,
    )


def kinds(changes, kind):
    return [
        (bool(c["active"]), round(float(c["start_ns"]) / S, 1), round(float(c["detected_ns"]) / S, 1))
        for c in changes
        if c["kind"] == kind
    ]


def run(t_s, values=None, until=None, knobs=None, **more):
    monitor = Monitor(0, 1, knobs or Knobs.offline())
    rows = batch(t_s, values, **more)
    found = monitor.update(rows, int(rows.received[0]))
    return np.concatenate([found, monitor.sweep(int((until or 0) * S))]), monitor


def test_silence_begins_at_the_first_missed_sample_and_ends_at_the_next():
    t = np.concatenate([np.arange(0, 60), np.arange(100, 130)])
    changes, _ = run(t)
    (began, start, detected), (ended, same, end) = kinds(changes, Kind.SILENCE)
    assert began
    assert not ended
    assert start == same == 60
    assert 63 < detected < 70
    assert end == 100


def test_silence_at_the_end_is_found_by_the_sweep_once():
    changes, monitor = run(np.arange(40), until=60)
    assert [k[:2] for k in kinds(changes, Kind.SILENCE)] == [(True, 40)]
    assert len(monitor.sweep(70 * S)) == 0


def test_the_silence_threshold_follows_the_loss_rate(rng):
    t = np.arange(4000)
    clean, lossless = run(t)
    lossy, losing = run(t[rng.random(len(t)) > 0.2])
    assert kinds(clean, Kind.SILENCE) == kinds(lossy, Kind.SILENCE) == []
    wait = [float(m.state["wait"][0]) / S for m in (lossless, losing)]
    assert wait[0] < 9
    assert 15 < wait[1] < 40
    assert losing.state["signs"][0, record.C_LOST] / losing.state["samples"][0] == pytest.approx(0.2, abs=0.08)


@pytest.mark.parametrize("period", [0.01, 0.5, 1.0, 30.0, 3600.0])
def test_any_period_is_learnt(period, rng):
    t = np.arange(200) * period + rng.normal(0, 0.02 * period, 200)
    changes, monitor = run(t, until=float(t[-1] + 12 * period + 2))
    assert monitor.state["period"][0] == pytest.approx(period * S, rel=0.05)
    assert [k[0] for k in kinds(changes, Kind.SILENCE)] == [True]


@pytest.mark.parametrize(("before", "after"), [(0.5, 2.0), (2.0, 0.5), (1.0, 5.0)])
def test_a_shift_that_changes_the_period_is_no_silence(before, after):
    first = np.arange(0, 300, before)
    second = 300 + np.arange(0, 300, after)
    ramp = np.cumsum(np.linspace(before, after, 40)) + 600
    back = ramp[-1] + np.arange(before, 200, before)
    changes, monitor = run(np.concatenate([first, second, ramp, back]))
    assert kinds(changes, Kind.SILENCE) == []
    assert monitor.state["period"][0] == pytest.approx(before * S, rel=0.1)


def test_a_much_slower_schedule_stops_alarming_after_three_times():
    t = np.concatenate([np.arange(0, 100), 100 + np.arange(1, 200) * 60])
    changes, _ = run(t)
    began = [k for k in kinds(changes, Kind.SILENCE) if k[0]]
    assert len(began) <= 3


@pytest.mark.parametrize("seed", range(5))
def test_report_on_change_does_not_alarm(seed):
    rng = np.random.default_rng(seed)
    changes, monitor = run(np.cumsum(rng.exponential(20, 3000)))
    assert kinds(changes, Kind.SILENCE) == []
    assert not monitor.state["flags"][0] & record.F_ARMED


def test_rows_that_say_nothing_came_do_not_count_as_arrivals():
    quality = np.where(np.arange(100) >= 50, np.uint8(Quality.BAD_COMMUNICATION), np.uint8(0))
    changes, _ = run(np.arange(100), quality=quality, until=100)
    assert [k[:2] for k in kinds(changes, Kind.SILENCE)] == [(True, 50)]


def test_values_sent_in_one_burst_are_one_arrival():
    t = np.arange(0, 400, 0.1)
    received = (np.ceil((t + 1e-6) / 10) * 10 * S).astype(np.int64)
    changes, monitor = run(t, received=received)
    assert kinds(changes, Kind.SILENCE) == []
    assert monitor.state["period"][0] == pytest.approx(10 * S, rel=0.02)


def test_flatline_begins_where_the_value_stopped_and_ends_where_it_moves(rng):
    values = rng.normal(size=300).round(2)
    values[100:200] = values[99]
    changes, _ = run(np.arange(300), values)
    (began, start, detected), (ended, same, end) = kinds(changes, Kind.FLATLINE)
    assert (began, ended, same, end) == (True, False, 200, 200)
    assert start == pytest.approx(99, abs=1)
    assert 108 < detected < 125


LEGITIMATE = {
    "setpoint": lambda rng, n: np.full(n, 60.0),
    "valve": lambda rng, n: (np.cumsum(rng.random(n) < 0.01) % 2).astype(float),
    "counter": lambda rng, n: np.cumsum((np.arange(n) % 1000 < 500) * (rng.random(n) < 0.7)).astype(float),
    "energy": lambda rng, n: np.cumsum((np.arange(n) % 1000 < 500) * rng.random(n)),
    "coarse": lambda rng, n: np.cumsum(rng.normal(0, 0.05, n)).round(1),
    "few levels": lambda rng, n: rng.integers(0, 3, n).astype(float),
    "at rest": lambda rng, n: np.where(np.arange(n) % 1000 < 500, rng.normal(10, 1, n), 0.0),
    "missing": lambda rng, n: np.full(n, np.nan),
}


@pytest.mark.parametrize("name", LEGITIMATE)
@pytest.mark.parametrize("seed", range(3))
def test_what_repeats_by_nature_is_no_flatline(name, seed):
    rng = np.random.default_rng(seed)
    changes, _ = run(np.arange(20_000), LEGITIMATE[name](rng, 20_000))
    assert kinds(changes, Kind.FLATLINE) == []


def busy(rng, tags=37, seconds=400):
    """Many tags with jitter, losses, silences and stuck values, in order of arrival."""
    t = (np.arange(seconds) + rng.random((tags, seconds)) * 0.2).ravel() * S
    tag = np.repeat(np.arange(tags), seconds)
    order = np.argsort(t, kind="stable")[rng.random(len(t)) > 0.02]
    t, tag = t[order].astype(np.int64), tag[order]
    rows = len(t)
    keep = ~((tag % 5 == 0) & (t > 150 * S) & (t < 220 * S + tag * S))
    value = np.where((tag % 3 == 0) & (t > 200 * S), 5.0, rng.normal(size=rows).round(1))
    t, tag, value = t[keep], tag[keep], value[keep]
    return Batch.of(tag=tag, time=t, value=value, received=t)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_batches_do_not_matter(rng, size):
    rows = busy(rng)
    whole, parts = Monitor(0, 1, Knobs.offline()), Monitor(0, 1, Knobs.offline())
    want = np.concatenate([whole.update(rows, 0), whole.sweep(500 * S)])
    got = [parts.update(Batch(rows.data.slice(i, size)), 0) for i in range(0, len(rows), size)]
    got = np.concatenate([*got, parts.sweep(500 * S)])
    assert (want == got).all()
    assert len(want) > 40
    assert (whole.state[: whole.rows] == parts.state[: parts.rows]).all()


def test_sweeping_often_finds_the_same_silences_at_the_same_times(rng):
    rows = busy(rng)
    lazy, eager = Monitor(0, 1, Knobs.offline()), Monitor(0, 1, Knobs.offline())
    want = np.concatenate([lazy.update(rows, 0), lazy.sweep(500 * S)])
    got = [
        eager.update(part, int(part.received[-1]))
        for part in (Batch(rows.data.slice(i, 40)) for i in range(0, len(rows), 40))
    ]
    got = np.concatenate([*got, eager.sweep(500 * S)])
    order = ["tag", "kind", "start_ns", "active"]
    want, got = np.sort(want, order=order), np.sort(got, order=order)
    for name in ("tag", "kind", "active", "start_ns", "detected_ns"):
        assert (want[name] == got[name]).all(), name


def test_shards_share_the_tags_out(rng):
    rows = busy(rng)
    whole = Monitor(0, 1, Knobs.offline())
    want = np.concatenate([whole.update(rows, 0), whole.sweep(500 * S)])
    got = []
    for shard in range(3):
        monitor = Monitor(shard, 3, Knobs.offline())
        got += [monitor.update(rows.take(rows.tag % 3 == shard), 0), monitor.sweep(500 * S)]
    order = list(CHANGE_DTYPE.names)
    assert (np.sort(want, order=order) == np.sort(np.concatenate(got), order=order)).all()


def test_bytes_restore_the_state_and_damage_is_refused(rng):
    rows = busy(rng)
    half = len(rows) // 2
    monitor = Monitor(0, 1, Knobs.offline())
    monitor.update(Batch(rows.data.slice(0, half)), 0)
    payload = monitor.to_bytes()
    again = Monitor.from_bytes(payload, Knobs.offline())
    assert again.to_bytes() == payload == pickle.loads(pickle.dumps(monitor)).to_bytes()
    rest = Batch(rows.data.slice(half))
    assert (monitor.update(rest, 0) == again.update(rest, 0)).all()
    for at in (0, 30, len(payload) // 2, len(payload) - 1):
        with pytest.raises(ChecksumError):
            Monitor.from_bytes(payload[:at] + bytes([payload[at] ^ 4]) + payload[at + 1 :])
    with pytest.raises(ChecksumError):
        Monitor.from_bytes(payload[:10])
    newer = payload[:4] + b"\x09\x00" + payload[6:-4]
    with pytest.raises(VersionError, match="version 9"):
        Monitor.from_bytes(newer + np.uint32(__import__("zlib").crc32(newer)).tobytes())


def feed(monitor, t_s):
    found = []
    for t in t_s:
        row = batch([t])
        found.append(monitor.update(row, int(t * S)))
    return np.concatenate(found)


def test_our_own_stall_is_forgiven():
    monitor = Monitor(0, 1, Knobs(floor_ns=0))
    feed(monitor, range(60))
    # Not looking for 9 s: the tag's 9 s without a sample prove nothing.
    assert kinds(monitor.sweep(68 * S), Kind.SILENCE) == []
    assert kinds(feed(monitor, [69]), Kind.SILENCE) == []
    assert monitor.excused_ns > 8 * S


def test_a_restart_says_what_holds_and_waits_for_the_adapters():
    monitor = Monitor(0, 1)
    feed(monitor, range(60))
    again = Monitor.from_bytes(monitor.to_bytes())
    first = again.sweep(3600 * S)
    assert [(int(c["kind"]), bool(c["active"])) for c in first] == [(Kind.ARMED, True)]
    silent = [t for t in range(3600, 3660) if kinds(again.sweep(t * S), Kind.SILENCE)]
    assert len(silent) == 1
    assert 3620 < silent[0] < 3640


def test_a_quiet_shard_is_believed_after_the_grace():
    monitor = Monitor(0, 1, Knobs(floor_ns=0))
    feed(monitor, range(60))
    silent = [t for t in range(60, 80) if kinds(monitor.sweep(t * S), Kind.SILENCE)]
    assert silent == [69]


def test_random_rows_never_break_the_state(rng):
    monitor = Monitor(0, 1)
    for _ in range(50):
        n = 200
        t = rng.integers(-(2**62), 2**62, n)
        rows = Batch.of(
            tag=rng.integers(0, 50, n),
            time=t,
            value=rng.choice([0.0, np.nan, np.inf, -np.inf, 1e308, 1.0], n),
            received=rng.permutation(t),
            quality=rng.integers(0, 256, n),
        )
        changes = monitor.update(rows, int(rng.integers(0, 2**62)))
        assert np.isin(changes["kind"], [int(k) for k in Kind]).all()
    assert Monitor.from_bytes(monitor.to_bytes()).to_bytes() == monitor.to_bytes()


GOLDEN = Path(__file__).parents[1] / "golden" / "health"


def test_a_state_of_version_2_is_read_and_what_was_learnt_is_kept():
    """monitor-v2.bin was written by the program of version 2: four tags at 1, 1, 2 and 5 s, 1 % loss, noisy values."""
    monitor = Monitor.from_bytes((GOLDEN / "monitor-v2.bin").read_bytes(), Knobs.offline())
    assert monitor.rows == 4
    assert monitor.state["period"] / S == pytest.approx([1, 1, 2, 5], rel=0.02)
    assert (monitor.state["flags"] & record.F_ARMED).all()
    assert (monitor.state["samples"] > 300).all()
    assert (monitor.state["seq"] > 300).all()
    again = Monitor.from_bytes(monitor.to_bytes(), Knobs.offline())
    assert again.to_bytes() == monitor.to_bytes()
    end = int(monitor.state["rx"].max())
    silent = monitor.sweep(end + 120 * S)
    assert sorted(int(c["tag"]) for c in silent if c["kind"] == Kind.SILENCE) == [0, 1, 2, 3]


def test_a_tag_takes_two_cache_lines():
    assert record.STATE_DTYPE.itemsize == 128
    state = record.fresh(3)
    assert state.ctypes.data % 64 == 0
