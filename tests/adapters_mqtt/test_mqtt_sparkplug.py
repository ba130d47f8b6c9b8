"""The Sparkplug host against crafted sequences. Names in brackets are the specification's own test ids."""

import numpy as np
import pytest
from iiot_dask_adapters.mqtt import frames, sequence
from iiot_dask_adapters.mqtt.decode import Decoder
from iiot_dask_adapters.mqtt.naming import Tags
from iiot_dask_adapters.mqtt.options import options
from iiot_dask_adapters.mqtt.sparkplug import ASK_MAX_NS, ASK_NS, ASKS_MAX, REORDER_NS
from iiot_dask_adapters.mqtt.topics import Route
from iiot_dask_adapters.mqtt.warm import publish

from iiot_dask.core import sparkplug_b as spb
from iiot_dask.core.config import Topic
from iiot_dask.core.quality import Quality

T = spb.DataType
METRICS = {"temp": (T.FLOAT, 20.5), "rpm": (T.INT16, -7), "pieces": (T.UINT64, 2**40), "on": (T.BOOLEAN, 1)}
SECOND = 10**9


class Bench:
    """A decoder fed with messages, under a clock that moves when told."""

    def __init__(self, filters="spBv1.0/plant/+/+/#", tag="spb/{2}/{3}", **chosen):
        self.tags = Tags((), 10_000)
        self.names = []
        topic = Topic(filter=filters, tag=tag, payload="sparkplug")
        self.decoder = Decoder([Route.of(topic, "a")], self.tags, options(chosen, "a"), "a")
        self.now = 0
        self.received = 10**18
        self.events = []
        self.asked = []

    def feed(self, *messages):
        """[(topic without namespace, payload)] -> rows (tag, ms, value, quality)."""
        wire = b"".join(publish(f"spBv1.0/{t}".encode(), p, flags=0) for t, p in messages)
        data = np.frombuffer(wire, np.uint8).copy()
        rows = np.empty((len(messages), frames.COLUMNS), np.int64)
        books, owed = frames.ledger(), np.zeros((8, 3), np.int64)
        count = frames.split(data, 0, len(data), 5, 1 << 24, self.received, 1, 0, books, owed, rows, 0)[1]
        assert count == len(messages)
        self.received += 10**6
        samples = self.decoder.decode(data, rows, self.now)
        self.names += [info.tag for info in self.tags.fresh()]
        self.events += samples.events
        return [
            (self.names[t], ms // 10**6, v, q)
            for t, ms, v, q in zip(
                samples.tag.tolist(),
                samples.time.tolist(),
                samples.value.tolist(),
                samples.quality.tolist(),
                strict=True,
            )
        ]

    def tick(self, seconds=0.0):
        self.now += round(seconds * SECOND)
        sends, events = self.decoder.host.tick(self.now, self.received)
        self.asked += sends
        self.events += events
        return [topic for topic, _ in sends]

    def kinds(self, node=None):
        return [e.kind for e in self.events if node in (None, e.node)]


def payload(seq=None, stamp=1000):
    return spb.Payload(timestamp=stamp, **({} if seq is None else {"seq": seq}))


def birth(seq=0, bd=1, metrics=METRICS, first=100, node=True, stamp=1000):
    p = payload(seq, stamp)
    if node:
        spb.set_value(p.metrics.add(name=spb.BIRTH_DEATH_SEQ), T.INT64, bd)
        spb.set_value(p.metrics.add(name=spb.NODE_REBIRTH), T.BOOLEAN, 0)
    for k, (name, (datatype, value)) in enumerate(metrics.items()):
        spb.set_value(p.metrics.add(name=name, alias=first + k, timestamp=stamp), datatype, value)
    return p.SerializeToString()


def data(seq, values, stamp=2000):
    """`values`: alias -> (datatype, value); the datatype is not sent, as the specification has it."""
    p = payload(seq, stamp)
    for alias, (datatype, value) in values.items():
        m = p.metrics.add(alias=alias, timestamp=stamp)
        spb.set_value(m, datatype, value)
        m.ClearField("datatype")
    return p.SerializeToString()


def death(bd=1):
    p = spb.Payload(timestamp=9000)
    spb.set_value(p.metrics.add(name=spb.BIRTH_DEATH_SEQ), T.INT64, bd)
    return p.SerializeToString()


TEMP = {100: (T.FLOAT, 21.5)}


@pytest.fixture
def bench():
    return Bench()


def test_births_carry_samples_and_data_follows_by_alias(bench):
    rows = bench.feed(
        ("plant/NBIRTH/e1", birth()), ("plant/NDATA/e1", data(1, {101: (T.INT16, -300), 103: (T.BOOLEAN, 0)}))
    )
    assert rows == [
        ("spb/e1/temp", 1000, 20.5, 0),
        ("spb/e1/rpm", 1000, -7.0, 0),
        ("spb/e1/pieces", 1000, 2.0**40, 0),
        ("spb/e1/on", 1000, 1.0, 0),
        ("spb/e1/rpm", 2000, -300.0, 0),
        ("spb/e1/on", 2000, 0.0, 0),
    ]
    assert [(e.kind, e.node) for e in bench.events] == [("device_up", "spb/e1")]
    assert bench.tick() == []


def test_devices_have_their_own_aliases_and_paths(bench):
    rows = bench.feed(
        ("plant/NBIRTH/e1", birth(0)),
        ("plant/DBIRTH/e1/press", birth(1, metrics={"temp": (T.DOUBLE, 1)}, node=False)),
        ("plant/NBIRTH/e2", birth(0)),
        ("plant/DBIRTH/e2/press", birth(1, metrics={"temp": (T.DOUBLE, 2)}, node=False)),
        ("plant/DDATA/e1/press", data(2, {100: (T.DOUBLE, 3)})),
        ("plant/DDATA/e2/press", data(2, {100: (T.DOUBLE, 4)})),
    )
    assert [r for r in rows if "press" in r[0]] == [
        ("spb/e1/press/temp", 1000, 1.0, 0),
        ("spb/e2/press/temp", 1000, 2.0, 0),
        ("spb/e1/press/temp", 2000, 3.0, 0),
        ("spb/e2/press/temp", 2000, 4.0, 0),
    ]


def test_data_before_birth_makes_no_rows_and_asks_for_the_birth(bench):
    assert bench.feed(("plant/NDATA/e1", data(7, TEMP)), ("plant/NDATA/e1", data(8, TEMP))) == []
    assert [(e.kind, e.node, e.count) for e in bench.events] == [("rejected", "spb/e1", 2)]
    assert bench.tick() == ["spBv1.0/plant/NCMD/e1"]
    (metric,) = spb.parse(bench.asked[0][1]).metrics
    assert (metric.name, metric.datatype, metric.boolean_value) == (spb.NODE_REBIRTH, T.BOOLEAN, True)


def test_an_unknown_alias_asks_and_never_makes_a_tag(bench):
    bench.feed(("plant/NBIRTH/e1", birth()))
    rows = bench.feed(("plant/NDATA/e1", data(1, {100: (T.FLOAT, 1.0), 999: (T.FLOAT, 2.0)})))
    assert [r[0] for r in rows] == ["spb/e1/temp"]
    assert bench.kinds() == ["device_up", "rejected"]
    assert len(bench.names) == 4
    assert bench.tick() == ["spBv1.0/plant/NCMD/e1"]


def test_a_node_is_asked_once_a_second_and_then_ever_less(bench):
    asked_at = []
    for _ in range(4000):
        bench.feed(("plant/NDATA/e1", data(3, TEMP)))
        if bench.tick(0.05):
            asked_at.append(bench.now)
    gaps = np.diff(asked_at)
    assert gaps[0] >= ASK_NS
    assert (np.diff(gaps) >= 0).all()
    assert gaps[-1] >= 30 * ASK_NS
    bench.tick(ASK_MAX_NS / SECOND)
    bench.tick(2 * ASK_MAX_NS / SECOND)
    for _ in range(2):
        bench.feed(("plant/NDATA/e1", data(3, TEMP)))
        assert bench.tick(ASK_NS / SECOND) == ["spBv1.0/plant/NCMD/e1"], "after a quiet time it is once a second again"


def test_a_plant_of_nodes_is_asked_a_few_at_a_time(bench):
    bench.feed(*((f"plant/NDATA/e{k}", data(0, TEMP)) for k in range(3 * ASKS_MAX)))
    assert [len(bench.tick()) for _ in range(4)] == [ASKS_MAX, ASKS_MAX, ASKS_MAX, 0]
    assert len({topic for topic, _ in bench.asked}) == 3 * ASKS_MAX


def test_no_request_when_it_is_turned_off():
    bench = Bench(rebirth=False)
    bench.feed(("plant/NDATA/e1", data(7, TEMP)))
    assert bench.tick() == []


def test_a_gap_is_loss_only_when_nothing_late_fills_it(bench):
    bench.feed(("plant/NBIRTH/e1", birth(254)), ("plant/NDATA/e1", data(255, TEMP)), ("plant/NDATA/e1", data(2, TEMP)))
    assert bench.tick(REORDER_NS / SECOND / 2) == []
    assert len(bench.feed(("plant/NDATA/e1", data(1, TEMP)), ("plant/NDATA/e1", data(0, TEMP)))) == 2
    assert bench.tick(REORDER_NS / SECOND) == []
    assert bench.kinds() == ["device_up"]
    bench.feed(("plant/NDATA/e1", data(7, TEMP)))
    assert bench.tick(REORDER_NS / SECOND / 2) == []
    assert bench.tick(REORDER_NS / SECOND) == ["spBv1.0/plant/NCMD/e1"]
    loss = next(e for e in bench.events if e.kind == "overflow")
    assert (loss.node, loss.count) == ("spb/e1", 4)
    assert bench.tick(10) == []


def test_a_repeated_number_is_counted_and_its_data_kept(bench):
    bench.feed(("plant/NBIRTH/e1", birth()))
    rows = bench.feed(*(("plant/NDATA/e1", data(1, {100: (T.FLOAT, k)}, 2000 + k)) for k in range(5)))
    assert [r[2] for r in rows] == [0, 1, 2, 3, 4]
    assert bench.tick(60) == []
    assert [(e.kind, e.count) for e in bench.events[1:]] == [("duplicate", 4)]


def test_devices_share_the_sequence_of_their_node(bench):
    bench.feed(
        ("plant/NBIRTH/e1", birth(0)),
        ("plant/DBIRTH/e1/d", birth(1, node=False)),
        ("plant/NDATA/e1", data(2, TEMP)),
        ("plant/DDATA/e1/d", data(3, TEMP)),
        ("plant/DDEATH/e1/d", payload(4).SerializeToString()),
        ("plant/NDATA/e1", data(5, TEMP)),
    )
    assert bench.tick(60) == []
    assert bench.kinds() == ["device_up", "device_up", "device_down"]
    assert bench.events[-1].node == "spb/e1/d"


def test_death_ends_aliases_and_is_told_once_for_the_whole_node(bench):
    bench.feed(("plant/NBIRTH/e1", birth(0)), ("plant/DBIRTH/e1/d", birth(1, node=False)))
    bench.events.clear()
    assert bench.feed(("plant/NDEATH/e1", death()), ("plant/NDEATH/e1", death())) == []
    assert [(e.kind, e.node) for e in bench.events] == [("device_down", "spb/e1")]
    assert bench.feed(("plant/DDATA/e1/d", data(2, TEMP))) == []
    assert bench.kinds()[-1] == "rejected"
    bench.feed(("plant/NBIRTH/e1", birth(0, bd=2)), ("plant/DBIRTH/e1/d", birth(1, node=False)))
    assert [(e.kind, e.node) for e in bench.events[2:]] == [("device_up", "spb/e1"), ("device_up", "spb/e1/d")]


def test_a_death_certificate_of_an_earlier_birth_is_not_heeded(bench):
    bench.feed(("plant/NBIRTH/e1", birth(bd=5)), ("plant/NDEATH/e1", death(4)))
    assert bench.kinds() == ["device_up", "info"]
    assert len(bench.feed(("plant/NDATA/e1", data(1, TEMP)))) == 1
    bench.feed(("plant/NDEATH/e1", death(5)))
    assert bench.kinds()[-1] == "device_down"


def test_a_rebirth_is_no_death(bench):
    bench.feed(("plant/NBIRTH/e1", birth(0)), ("plant/NDATA/e1", data(1, TEMP)))
    rows = bench.feed(
        ("plant/NBIRTH/e1", birth(0, first=200, stamp=3000)), ("plant/NDATA/e1", data(1, {200: (T.FLOAT, 9)}, 4000))
    )
    assert rows[-1] == ("spb/e1/temp", 4000, 9.0, 0)
    assert bench.kinds() == ["device_up"]
    assert bench.feed(("plant/NDATA/e1", data(2, TEMP))) == []
    assert bench.kinds()[-1] == "rejected"


def test_a_device_must_be_born_again_after_its_node(bench):
    bench.feed(
        ("plant/NBIRTH/e1", birth(0)), ("plant/DBIRTH/e1/d", birth(1, node=False)), ("plant/NBIRTH/e1", birth(0))
    )
    assert bench.feed(("plant/DDATA/e1/d", data(1, TEMP))) == []
    assert bench.tick() == ["spBv1.0/plant/NCMD/e1"]


def test_a_device_birth_without_its_node_is_used_and_asks(bench):
    rows = bench.feed(("plant/DBIRTH/e1/d", birth(4, node=False)), ("plant/DDATA/e1/d", data(5, TEMP)))
    assert len(rows) == 5
    assert bench.tick() == ["spBv1.0/plant/NCMD/e1"]


def test_the_birth_says_the_type_and_may_change_it(bench):
    bench.feed(("plant/NBIRTH/e1", birth(metrics={"m": (T.INT8, -1)})))
    assert bench.feed(("plant/NDATA/e1", data(1, {100: (T.INT8, -100)})))[0][2] == -100
    bench.feed(("plant/NBIRTH/e1", birth(metrics={"m": (T.UINT8, 1)})))
    assert bench.feed(("plant/NDATA/e1", data(1, {100: (T.UINT8, 200)})))[0][2] == 200
    bench.feed(("plant/NBIRTH/e1", birth(metrics={"m": (T.STRING, "x")})))
    assert bench.names == ["spb/e1/m"]


def test_metrics_by_name_alone(bench):
    p = payload(0)
    spb.set_value(p.metrics.add(name="Motor/Speed"), T.INT32, -5)
    q = payload(1, 3000)
    spb.set_value(q.metrics.add(name="Motor/Speed"), T.INT32, -6)
    rows = bench.feed(("plant/NBIRTH/e1", p.SerializeToString()), ("plant/NDATA/e1", q.SerializeToString()))
    assert rows == [("spb/e1/Motor/Speed", 1000, -5.0, 0), ("spb/e1/Motor/Speed", 3000, -6.0, 0)]


def test_null_quality_transient_historical_and_missing_time(bench):
    bench.feed(("plant/NBIRTH/e1", birth()))
    p = spb.Payload(seq=1)
    p.metrics.add(alias=100, is_null=True, timestamp=1)
    p.metrics.add(alias=100, float_value=float("nan"), timestamp=2)
    p.metrics.add(alias=100, float_value=1.0, timestamp=3, is_transient=True)
    p.metrics.add(alias=100, float_value=2.0, timestamp=4, is_historical=True)
    p.metrics.add(alias=100, float_value=3.0)
    for code in (0, 192, 500, 7):
        m = p.metrics.add(alias=100, float_value=4.0, timestamp=5)
        m.properties.keys.append("Quality")
        m.properties.values.add(int_value=code, type=3)
    rows = bench.feed(("plant/NDATA/e1", p.SerializeToString()))
    assert [r[3] for r in rows] == [
        Quality.BAD_NO_VALUE, Quality.BAD_NO_VALUE, 0, Quality.UNCERTAIN_TIME_REPLACED,
        Quality.BAD, 0, Quality.BAD_STALE, Quality.BAD,
    ]  # fmt: skip
    assert [r[1] for r in rows[:3]] == [1, 2, 4]
    assert rows[3][1] == bench.received // 10**6 - 1


def test_what_is_no_number_makes_no_tag_and_a_changed_field_is_told(bench):
    metrics = METRICS | {"text": (T.STRING, "RUN"), "id": (T.UUID, "u")}
    assert len(bench.feed(("plant/NBIRTH/e1", birth(metrics=metrics)))) == 4
    p = spb.Payload(seq=1, timestamp=5)
    p.metrics.add(alias=104, string_value="STOP")
    p.metrics.add(alias=100, string_value="hot")
    assert bench.feed(("plant/NDATA/e1", p.SerializeToString())) == []
    assert [(e.kind, e.count) for e in bench.events[1:]] == [("rejected", 1)]


def test_stale_rows_on_demand():
    bench = Bench(stale_rows=True)
    bench.feed(("plant/NBIRTH/e1", birth(0)), ("plant/DBIRTH/e1/d", birth(1, node=False)))
    rows = bench.feed(("plant/NDEATH/e1", death()))
    assert sorted(r[0] for r in rows) == sorted(bench.names)
    assert {r[1] for r in rows} == {9000}
    assert {r[3] for r in rows} == {Quality.BAD_STALE}
    assert all(np.isnan(r[2]) for r in rows)
    assert bench.feed(("plant/NDEATH/e1", death())) == []


def test_damaged_payloads_are_malformed_on_their_device(bench):
    bench.feed(("plant/NBIRTH/e1", birth(0)), ("plant/DBIRTH/e1/d", birth(1, node=False)))
    rows = bench.feed(
        ("plant/DDATA/e1/d", b"\xff\x00"), ("plant/NDATA/e1", data(2, TEMP)), ("plant/DDATA/e1/d", b"\x12\x05"),
        ("plant/NBIRTH/e1", b"\x0a"), ("plant/NDATA/e1", data(3, TEMP)),
    )  # fmt: skip
    assert len(rows) == 2
    bad = [(e.node, e.count, e.raw) for e in bench.events if e.kind == "malformed"]
    assert bad == [("spb/e1", 1, b"\x0a"), ("spb/e1/d", 2, b"\xff\x00")]


@pytest.mark.parametrize(
    "topic",
    [
        "plant/NCMD/e1",
        "plant/DCMD/e1/d",
        "STATE/host",
        "plant/NDATA/e1/d",
        "plant/DDATA/e1",
        "plant/XDATA/e1",
        "plant/NDATA/e1/d/x",
    ],
)
def test_other_topics_are_left_alone(topic):
    bench = Bench(filters="spBv1.0/#", tag="spb/{1}")
    assert bench.feed((topic, data(1, TEMP))) == []
    assert bench.events == []
    assert bench.tick(5) == []


def test_groups_are_kept_apart():
    bench = Bench(filters="spBv1.0/+/+/+/#", tag="spb/{1}/{3}/{4}")
    bench.feed(("a/NBIRTH/e1", birth()), ("b/NBIRTH/e1", birth(metrics={"x": (T.FLOAT, 1)})))
    rows = bench.feed(("a/NDATA/e1", data(1, TEMP)), ("b/NDATA/e1", data(1, TEMP)))
    assert [r[0] for r in rows] == ["spb/a/e1/temp", "spb/b/e1/x"]


def test_illegal_metric_names_are_refused_visibly(bench):
    metrics = {"ok": (T.FLOAT, 1), "a//b": (T.FLOAT, 1), "c\x07": (T.FLOAT, 1), "x" * 600: (T.FLOAT, 1)}
    assert [r[0] for r in bench.feed(("plant/NBIRTH/e1", birth(metrics=metrics)))] == ["spb/e1/ok"]
    assert [(e.kind, e.count) for e in bench.events] == [("rejected", 3), ("device_up", 1)]


def test_a_flapping_node_does_not_fill_the_alias_table(bench):
    metrics = {f"m{k}": (T.FLOAT, k) for k in range(500)}
    for bd in range(200):
        bench.feed(("plant/NBIRTH/e1", birth(bd=bd, metrics=metrics)))
    assert len(bench.decoder.host._slot_of_alias) < 5_000
    assert len(bench.feed(("plant/NDATA/e1", data(1, {100 + k: (T.FLOAT, 1) for k in range(500)})))) == 500


@pytest.mark.parametrize("cut", [1, 3, 1000])
def test_messages_at_once_or_one_by_one_come_to_the_same(cut):
    rng = np.random.default_rng(17)
    messages, seq = [], {}
    for k in range(600):
        node = f"e{rng.integers(4)}"
        what = rng.integers(20)
        n = seq[node] = (seq.get(node, 0) + int(rng.integers(1, 12) == 11) + 1) % 256
        if what == 0:
            seq[node] = 0
            messages.append((f"plant/NBIRTH/{node}", birth(0, bd=k % 256)))
        elif what == 1:
            messages.append((f"plant/NDEATH/{node}", death(int(rng.integers(256)))))
        elif what == 2:
            messages.append((f"plant/DBIRTH/{node}/d", birth(n, node=False)))
        elif what == 3:
            messages.append((f"plant/DDATA/{node}/d", b"\x12\x63"))
        else:
            topic = f"plant/DDATA/{node}/d" if what < 10 else f"plant/NDATA/{node}"
            values = {int(a): (T.DOUBLE, float(k)) for a in rng.integers(100, 106, 3)}
            messages.append((topic, data(n, values, 2000 + k)))
    whole, parts = Bench(), Bench()
    want = whole.feed(*messages)
    got = [row for k in range(0, len(messages), cut) for row in parts.feed(*messages[k : k + cut])]
    assert got == want
    assert parts.decoder.host._last.cells.tolist() == whole.decoder.host._last.cells.tolist()
    assert np.array_equal(parts.decoder.host._missing, whole.decoder.host._missing)


def naive_check(seqs, last, missing):
    out = []
    for n in seqs:
        ahead = (n - last - 1) % 256
        if ahead == 0:
            last, what = n, sequence.NEXT
            missing.discard(n)
        elif n in missing:
            missing.discard(n)
            what = sequence.LATE
        elif ahead < 128:
            missing |= {(last + 1 + j) % 256 for j in range(ahead)}
            last, what = n, sequence.GAP
        else:
            what = sequence.TWICE
        out.append(what)
    return out, last, missing


def test_sequences_as_by_the_naive_twin(rng):
    for _ in range(50):
        seqs = np.cumsum(rng.choice([0, 1, 1, 1, 1, 2, 5, -1, -3, 200], 400)) % 256
        last, missing, out = np.array([7]), np.zeros((1, 256), np.uint8), np.empty(400, np.uint8)
        sequence.check(np.zeros(400, np.int64), seqs, last, missing, out)
        want = naive_check(seqs.tolist(), 7, set())
        assert (out.tolist(), last[0], set(np.flatnonzero(missing[0]).tolist())) == want
