"""The table of rules, driven with times that are numbers: a day of restarts takes a millisecond."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iiot_dask.adapter.supervisor import (
    EVENTS,
    RULES,
    Broken,
    Exited,
    Faulted,
    Kill,
    Launch,
    Opened,
    Policy,
    Report,
    S,
    SendStop,
    Start,
    State,
    Stop,
    Supervisor,
    Tick,
)

POLICY = Policy(jitter=0.0)


def make(policy=POLICY):
    return Supervisor(policy, np.random.default_rng(7))


def running(policy=POLICY, now=0):
    s = make(policy)
    s.on(Start(), now)
    s.on(Opened(), now)
    return s


def test_the_table_is_total_and_names_methods_only():
    assert set(RULES) == {(state, event) for state in State for event in EVENTS}
    for rule in RULES.values():
        assert callable(getattr(Supervisor, f"_{rule}"))


def test_a_good_life():
    s = make()
    assert s.on(Start(), 0) == [Launch(0)]
    assert s.on(Opened(), S) == []
    assert s.on(Tick(5 * S), 6 * S) == []
    assert s.on(Stop(15 * S), 7 * S) == [SendStop()]
    assert s.on(Exited("ended with status 0"), 8 * S) == []
    assert (s.state, s.restarts, s.faults, s.reason, s.due_ns) == (State.STOPPED, 0, 0, "", None)


def test_waits_double_up_to_the_cap_and_incarnations_count_up():
    s, now, waits = running(Policy(jitter=0.0, budget=1000)), 0, []
    for incarnation in range(1, 10):
        s.on(Exited("ended by SIGKILL"), now)
        waits.append((s.due_ns - now) / S)
        assert s.on(Tick(now), s.due_ns - 1) == []
        now = s.due_ns
        assert s.on(Tick(now), now) == [Launch(incarnation)]
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


@given(st.integers(0, 2**32 - 1), st.integers(0, 100), st.floats(0, 1))
def test_jitter_only_shortens_and_by_at_most_its_share(seed, restarts, jitter):
    policy = Policy(jitter=jitter)
    whole = Policy(jitter=0.0).wait_ns(restarts, np.random.default_rng(0), degraded=False)
    wait = policy.wait_ns(restarts, np.random.default_rng(seed), degraded=False)
    assert whole * (1 - jitter) - 1 <= wait <= whole


def test_adapters_that_fall_together_do_not_rise_together():
    rng = np.random.default_rng(7)
    waits = {Policy().wait_ns(3, rng, degraded=False) for _ in range(50)}
    assert len(waits) == 50


def test_one_report_for_one_absence():
    s = running()
    first = s.on(Exited("ended by SIGSEGV"), 10 * S)
    assert first == [Report("disconnected", "ended by SIGSEGV; restart in 0.5 s")]
    s.on(Tick(0), 11 * S)
    assert s.on(Exited("ended by SIGSEGV"), 12 * S) == []
    s.on(Tick(0), 20 * S)
    assert s.on(Opened(), 21 * S) == [Report("connected", "restarted")]


def test_wrong_configuration_is_final_and_reported():
    s = make()
    s.on(Start(), 0)
    assert s.on(Faulted("config", "tag 'a' has no address"), S) == []
    assert s.on(Exited("ended with status 78"), 2 * S) == [Report("disconnected", "tag 'a' has no address")]
    assert s.state is State.FAILED
    for event in (Tick(0), Exited("again"), Stop(1)):
        assert s.on(event, 10**6 * S) == []
    assert (s.state, s.reason, s.due_ns) == (State.FAILED, "tag 'a' has no address", None)
    # Only a person can help: the section was changed, and it is started again.
    assert s.on(Start(), 10**7 * S) == [Launch(1)]
    assert s.on(Opened(), 10**7 * S + 1) == [Report("connected", "restarted")]


@pytest.mark.parametrize("family", ["remote", "local"])
def test_other_faults_are_restarted_with_the_adapters_own_words(family):
    s = running()
    s.on(Faulted(family, "plc-7 refuses"), S)
    assert s.on(Exited("ended with status 69"), 2 * S) == [
        Report("disconnected", "plc-7 refuses; restart in 0.5 s"),
    ]
    assert s.on(Tick(0), 3 * S) == [Launch(1)]


def test_silence_is_killed_and_blamed_on_the_read():
    s = running()
    assert s.on(Tick(1 * S), 31 * S - 1) == []
    assert s.on(Tick(1 * S), 31 * S) == [Kill()]
    assert s.on(Tick(1 * S), 90 * S) == []  # killed once; the end is waited for
    s.on(Exited("ended by SIGKILL"), 91 * S)
    assert s.reason == "sent nothing for 30.0 s; read() hangs"
    assert s.state is State.WAITING


def test_time_that_is_not_the_childs_fault_does_not_count():
    s = running()
    for now in range(1, 1000):
        assert s.on(Tick(heard_ns=now * S), now * S) == []
    assert s.state is State.RUNNING


def test_a_start_that_takes_too_long_is_killed():
    s = make()
    s.on(Start(), 0)
    assert s.on(Tick(0), 120 * S - 1) == []
    assert s.on(Tick(119 * S), 120 * S) == [Kill()]
    assert s.reason == "open() did not return within 120 s"


def test_a_child_that_reports_an_error_and_stays_is_killed():
    s = running()
    s.on(Faulted("local", "ZeroDivisionError: division by zero"), 0)
    assert s.on(Tick(0), 10 * S - 1) == []
    assert s.on(Tick(0), 10 * S) == [Kill()]
    s.on(Exited("ended by SIGKILL"), 11 * S)
    assert s.reason == "ZeroDivisionError: division by zero"


def test_a_damaged_stream_is_killed_at_once():
    s = running()
    assert s.on(Broken("sent a damaged frame"), S) == [Kill()]
    s.on(Exited("ended by SIGKILL"), 2 * S)
    assert (s.state, s.reason) == (State.WAITING, "sent a damaged frame")


def crash(s, now):
    s.on(Exited("ended by SIGKILL"), now)
    now = s.due_ns
    assert s.on(Tick(now), now) == [Launch(s.incarnation)]
    s.on(Opened(), now)
    return now


def test_too_many_restarts_degrade_but_never_give_up_and_a_long_run_forgives():
    s, now = running(), 0
    for _ in range(8):
        now = crash(s, now)
        assert not s.degraded
    now = crash(s, now)
    assert s.degraded
    before = now
    now = crash(s, now)
    assert now - before == POLICY.slow_ns
    assert s.on(Tick(now + 59 * S), now + 59 * S) == []
    assert s.degraded
    s.on(Tick(now + 60 * S), now + 60 * S)
    assert (s.degraded, s.reason) == (False, "")
    after = crash(s, now + 61 * S)
    assert after - (now + 61 * S) == POLICY.first_ns


def test_rare_faults_never_degrade():
    s, now = running(), 0
    for _ in range(200):
        now = crash(s, now + 50 * S)
        now += 26 * S  # not long enough to settle; 8 faults a 10 minutes are within the budget
    assert not s.degraded


def test_stop_between_runs_needs_no_process():
    s = running()
    s.on(Exited("ended by SIGKILL"), S)
    assert s.on(Stop(15 * S), S) == []
    assert s.state is State.STOPPED
    assert s.on(Tick(0), 10**6 * S) == []


def test_stop_before_start():
    s = make()
    assert s.on(Stop(S), 0) == []
    assert s.state is State.STOPPED
    assert s.on(Tick(0), 10**6 * S) == []


def test_what_was_stopped_starts_again_as_new_when_asked():
    s, now = running(), 0
    for _ in range(9):
        now = crash(s, now)
    assert s.degraded
    s.on(Stop(15 * S), now)
    s.on(Exited("ended with status 0"), now + S)
    assert s.on(Start(), now + 2 * S) == [Launch(10)]
    assert (s.degraded, s.reason, s.state) == (False, "", State.STARTING)


def test_a_crash_loop_is_one_absence_until_it_has_settled():
    s, now, said = running(), 0, []
    for _ in range(12):
        said += s.on(Exited("ended by SIGSEGV"), now)
        now = s.due_ns
        s.on(Tick(now), now)
        said += s.on(Opened(), now)
    quiet = s.on(Tick(now + S), now + S)
    settled = s.on(Tick(now + 60 * S), now + 60 * S)
    assert [report.kind for report in said] == ["disconnected", "connected"] * 8 + ["disconnected"]
    assert said[-1].reason == "crash loop, 9 ends within 92 s: ended by SIGSEGV; restart in 60.0 s"
    assert (quiet, settled) == ([], [Report("connected", "restarted")])


def test_a_child_that_does_not_stop_is_killed():
    s = running()
    s.on(Stop(15 * S), 0)
    assert s.on(Tick(0), 15 * S - 1) == []
    assert s.on(Tick(0), 15 * S) == [Kill()]
    assert s.on(Tick(0), 16 * S) == []
    s.on(Exited("ended by SIGKILL"), 17 * S)
    assert (s.state, s.reason) == (State.STOPPED, "did not stop in time; killed")


def test_a_fault_while_stopping_ends_in_stopped():
    s = running()
    s.on(Stop(15 * S), 0)
    s.on(Faulted("remote", "plc-7 refuses"), S)
    s.on(Exited("ended with status 69"), 2 * S)
    assert (s.state, s.reason, s.faults) == (State.STOPPED, "plc-7 refuses", 1)


events = st.one_of(
    st.just(Opened()),
    st.builds(Faulted, st.sampled_from(["config", "remote", "local"]), st.just("x")),
    st.just(Broken("y")),
    st.just(Exited("z")),
    st.builds(Tick, st.integers(0, 300).map(lambda s: s * S)),
    st.just(Stop(5 * S)),
)


@given(st.lists(st.tuples(events, st.integers(0, 40)), max_size=60), st.integers(0, 99))
def test_whatever_happens_at_most_one_process_lives_and_reports_alternate(steps, seed):
    s = Supervisor(Policy(), np.random.default_rng(seed))
    now, alive, reports = 0, False, []
    stopped = False
    for event, later in [(Start(), 0), *steps]:
        now += later * S
        if isinstance(event, Exited) and not alive:
            continue  # there is nothing that could end
        alive = alive and not isinstance(event, Exited)
        for action in s.on(event, now):
            if isinstance(action, Launch):
                assert not alive, "two processes at once"
                assert not stopped, "launched after a stop"
                alive = True
            elif isinstance(action, (Kill, SendStop)):
                assert alive or isinstance(action, SendStop)
            else:
                reports.append(action.kind)
        stopped = stopped or isinstance(event, Stop)
        assert alive == (s.state in {State.STARTING, State.RUNNING, State.ENDING, State.STOPPING})
    assert reports == ["disconnected", "connected"] * (len(reports) // 2) + ["disconnected"] * (len(reports) % 2)
    assert s.incarnation == s.restarts
