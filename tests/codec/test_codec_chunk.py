"""One tag's rows: blobs, the record of what was lost, why a bound was not used, and the remembered choice."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iiot_dask import codec
from iiot_dask.codec import frame, record
from iiot_dask.codec.parts import Reached
from iiot_dask.core.errors import CodecError, ConfigError

RNG = np.random.default_rng(70)
N = 3000
T = 1_764_000_000_000_000_000 + np.arange(N) * 10**9 + RNG.integers(-400_000, 400_000, N)
X = 20 + np.cumsum(RNG.normal(0, 0.1, N))
Q = np.where(np.arange(N) % 500 < 20, 128, 0).astype(np.uint8)
BOUND = codec.Precision(error_bound=0.05)


@pytest.mark.parametrize("tier", ["fast", "archive"])
@pytest.mark.parametrize("qualities", [None, Q, np.zeros(N, np.uint8)])
def test_everything_comes_back(tier: str, qualities: np.ndarray | None) -> None:
    blob = codec.encode(T, X, tier=tier, qualities=qualities)
    times, values = codec.decode(blob)
    assert times.tolist() == T.tolist()
    assert values.tobytes() == X.tobytes()
    wanted = np.zeros(N, np.uint8) if qualities is None else qualities
    assert codec.decode_quality(blob).tolist() == wanted.tolist()
    done = codec.compress(T, X, qualities, tier=tier)
    assert codec.decode_times(done.time).tolist() == T.tolist()
    assert codec.decode_values(done.value).tobytes() == X.tobytes()
    assert (done.quality is None) == (not wanted.any())


@pytest.mark.parametrize("tier", ["fast", "archive"])
def test_the_record_is_what_was_reached_and_is_read_back(tier: str) -> None:
    precision = codec.Precision(error_bound=0.05, time_snap_ns=1_000_000)
    done = codec.compress(T, X, precision=precision, tier=tier, dropped=7)
    error = np.abs(codec.decode_values(done.value) - X)
    r = done.record
    assert (r.kind, r.requested, r.fallback, r.asked, r.dropped, r.snap_ns) == ("absolute", 0.05, "", 0.0, 7, 1_000_000)
    assert r.max_error == error.max() <= 0.05
    assert r.rms_error == pytest.approx(np.sqrt(np.mean(error**2)))
    assert r.shift_max_ns == np.abs(codec.decode_times(done.time) - T).max() > 0
    assert r.ratio == pytest.approx(16 * (N + 7) / (len(done.time) + len(done.value)))
    assert codec.inspect(done.value) == replace(r, size=len(done.value), columns=1)
    chunk = codec.encode(T, X, precision, tier, dropped=7)
    assert codec.inspect(chunk) == replace(r, size=len(chunk))


CASES = {
    "as small": (np.round(X, 1), codec.Precision(error_bound=0.001), record.AS_SMALL),
    "no span": (np.full(N, 3.3), codec.Precision(span_share=0.01), record.NO_SPAN),
    "all NaN": (np.full(N, np.nan), codec.Precision(span_share=0.01), record.NO_SPAN),
    "relative, only zeros": (np.zeros(N), codec.Precision(relative=0.01), record.FEW),
    "bound below float noise": (RNG.normal(0, 1e300, N), codec.Precision(error_bound=1e-300), record.FEW),
}


@pytest.mark.parametrize("tier", ["fast", "archive"])
@pytest.mark.parametrize("name", CASES)
def test_a_bound_that_is_not_used_says_why_and_keeps_every_bit(name: str, tier: str) -> None:
    x, precision, reason = CASES[name]
    blob = codec.encode_values(x, precision, tier=tier)
    assert codec.decode_values(blob).tobytes() == x.tobytes()
    found = codec.inspect(blob)
    assert found.lossless
    assert found.fallback == record.FALLBACKS[reason]
    assert found.asked > 0
    assert codec.reached(blob) is None


def test_many_tags_say_why_a_share_of_span_was_not_used() -> None:
    blob = codec.encode_values(X, codec.Precision(span_share=0.1), starts=np.arange(0, N, 100))
    assert codec.inspect(blob).fallback == record.FALLBACKS[record.MANY_TAGS]


def test_a_bound_broken_on_the_way_to_disk_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compared is what the bytes decode to, not what the encoder meant to write."""
    from iiot_dask.codec import values

    real = values._DECODERS[frame.Kind.VALUES_ARCHIVE]
    monkeypatch.setitem(values._DECODERS, frame.Kind.VALUES_ARCHIVE, lambda f: real(f) + (0.2 if f.payload[0] else 0.0))
    blob = codec.encode_values(X, BOUND, tier="archive")
    assert codec.inspect(blob).fallback == record.FALLBACKS[record.NOT_KEPT]
    assert codec.decode_values(blob).tobytes() == X.tobytes()


def test_loss_before_is_kept_and_added() -> None:
    first = codec.compress(T, X, precision=BOUND, dropped=3)
    rounded = codec.decode_values(first.value)
    kept = codec.compress(T, rounded, earlier=first.record)
    assert codec.decode_values(kept.value).tobytes() == rounded.tobytes()
    again = codec.inspect(kept.value)
    assert (again.kind, again.requested, again.max_error, again.dropped) == (
        "absolute",
        0.05,
        first.record.max_error,
        3,
    )
    both = codec.compress(T, rounded, precision=codec.Precision(error_bound=0.5), earlier=first.record).record
    assert both.requested == pytest.approx(0.55)
    assert np.abs(codec.decode_values(kept.value) - X).max() <= both.max_error
    with pytest.raises(CodecError, match="relative"):
        codec.compress(T, rounded, precision=codec.Precision(relative=0.01), earlier=first.record)


def test_records_merge() -> None:
    a = codec.compress(T, X, precision=BOUND).record
    b = codec.compress(T, X).record
    c = a.merge(b)
    assert (c.samples, c.size, c.kind, c.requested) == (2 * N, a.size + b.size, "absolute", 0.05)
    assert c.rms_error == pytest.approx(a.rms_error / np.sqrt(2))
    with pytest.raises(CodecError, match="can not be merged"):
        a.merge(codec.compress(T, X, precision=codec.Precision(relative=0.01)).record)


NOTES = st.builds(
    record.Note,
    fallback=st.integers(0, len(record.FALLBACKS) - 1),
    asked=st.none() | st.builds(Reached, st.floats(1e-300, 1e300), st.just(0.0), st.just(0.0), st.booleans()),
    dropped=st.integers(0, 2**40),
    snap_ns=st.integers(1, 2**60),
    shift_max_ns=st.integers(0, 2**60),
    earlier=st.none() | st.builds(Reached, *[st.floats(0, 1e300)] * 3, st.booleans()),
)


@given(NOTES)
@settings(max_examples=80, deadline=None)
def test_any_note_comes_back(note: record.Note) -> None:
    plain = frame.unseal(codec.encode_values(X))
    inside, back = record.read_note(frame.unseal(record.write_note(plain, note)))
    assert back == note
    assert (inside.kind, inside.count, bytes(inside.payload)) == (plain.kind, plain.count, bytes(plain.payload))


def test_a_note_in_a_note_is_refused() -> None:
    once = frame.unseal(record.write_note(frame.unseal(codec.encode_values(X)), record.Note(dropped=1)))
    twice = frame.seal(frame.Kind.VALUES_NOTED, N, b"".join((bytes((once.kind, 0, 0)), once.payload)))
    with pytest.raises(CodecError, match="wraps kind 0x15"):
        codec.decode_values(twice)


def test_choices_are_bounded_and_the_oldest_goes() -> None:
    choices = codec.Choices(limit=2)
    first = choices.of(1)
    choices.of(2)
    assert choices.of(1) is first
    choices.of(3)
    assert len(choices) == 2
    assert choices.of(1) is first
    with pytest.raises(ConfigError, match="limit of 0"):
        codec.Choices(limit=0)


@pytest.mark.parametrize("precision", [None, BOUND])
def test_a_choice_is_remembered_and_not_searched_again(precision: codec.Precision | None, monkeypatch) -> None:
    from iiot_dask.codec import archive, ints, values

    searched = []
    for module in (archive, values):
        real = module.best_proposal
        monkeypatch.setattr(module, "best_proposal", lambda x, real=real: searched.append("grid") or real(x))
    choose = ints.choose
    monkeypatch.setattr(ints, "choose", lambda k: searched.append("codec") or choose(k))
    remembered = codec.Remembered()
    sizes = []
    for part in range(6):
        x = np.round(X[part * 500 : part * 500 + 500], 3)
        t = T[part * 500 : part * 500 + 500]
        sizes.append(len(codec.compress(t, x, precision=precision, remembered=remembered).value))
    assert sorted(searched) == ["codec", "codec", "grid"], "one search for times, one for values"
    fresh = [
        len(codec.compress(T[a : a + 500], np.round(X[a : a + 500], 3), precision=precision).value)
        for a in range(0, N, 500)
    ]
    assert sum(sizes) <= 1.02 * sum(fresh)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: codec.encode(T, X, tier="tape"), "tier 'tape' is unknown; allowed: fast, archive"),
        (lambda: codec.compress(T, X, Q[:5]), "3000 times, 3000 values, 5 qualities"),
        (lambda: codec.compress(T, X, dropped=-1), "-1 samples dropped"),
        (lambda: codec.compress(T, X, np.full(N, 300)), "without loss"),
        (lambda: codec.inspect(codec.encode_times(T)), "holds TIMES"),
    ],
)  # fmt: skip
def test_bad_arguments(call, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        call()


def test_old_blobs_can_be_inspected() -> None:
    found = codec.inspect(codec.encode_values(np.round(X, 2), tier="archive"))
    assert (found.samples, found.kind, found.fallback) == (N, "lossless", "")
    assert found.codec.startswith("archive, k / 10**2, ")
    assert codec.inspect(codec.encode_values(np.empty(0))).ratio == 0.0
