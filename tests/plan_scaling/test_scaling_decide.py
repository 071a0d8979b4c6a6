"""The tick as a person would watch it: up at once, down slowly, never on missing data, one line why."""

import itertools
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from longshore.api.scaling import Schedule, Signal
from longshore.plan.scaling import (
    External,
    Observation,
    PodSample,
    PodStart,
    RevisionLoad,
    State,
    Target,
    Waiting,
    from_json,
    step,
    to_json,
)

from tests.plan_scaling.fleet import EPOCH, Fleet, policy


def settled(rate: float = 60.0, pods: int = 2, **more: object) -> Fleet:
    fleet = Fleet(policy(**more), pods=pods, rate=rate)
    fleet.run_for(150)
    fleet.decisions.clear()
    return fleet


def test_every_decision_is_one_line_with_cause_and_objective():
    fleet = settled()
    fleet.rate, fleet.queue = 300.0, 0.412
    seen = [d.reason for d in fleet.run_for(6)]
    assert any(
        " -> " in line and "412 ms queue at" in line and "objective 100 ms, needs" in line for line in seen
    )
    assert all("\n" not in line and len(line) < 250 for line in seen)


def test_load_times_five_is_answered_within_a_stable_window_and_without_overshoot():
    fleet = settled(rate=60.0)
    before = fleet.pods
    fleet.rate = 300.0
    fleet.run_for(60)
    reached = fleet.pods
    fleet.run_for(300)
    right = fleet.pods
    assert before < reached
    assert reached >= right
    assert max(d.total for d in fleet.decisions) <= math.ceil(right * 1.2)


def test_load_that_falls_is_followed_late_and_in_steps():
    fleet = settled(rate=600.0, pods=15)
    high = fleet.pods
    fleet.rate = 60.0
    assert all(d.total == high for d in fleet.run_for(30))
    fleet.run_for(600)
    assert fleet.pods < high / 3
    totals = [d.total for d in fleet.decisions]
    drops = [a - b for a, b in itertools.pairwise(totals) if b < a]
    assert max(drops) <= max(1, int(high * 0.2))


def test_poisson_noise_scales_at_most_twice_an_hour():
    for load in (9.0, 61.0, 118.0):
        fleet = settled(rate=load)
        noise = random.Random(4)
        mean = fleet.rate
        for _ in range(1800):
            fleet.rate = max(noise.gauss(mean * 2, math.sqrt(mean * 2)), 0) / 2
            fleet.tick()
        totals = [d.total for d in fleet.decisions]
        assert sum(a != b for a, b in itertools.pairwise(totals)) <= 2


def test_missing_data_holds_and_says_so():
    fleet = settled(rate=300.0, pods=12)
    held = fleet.pods
    fleet.rate = 1.0
    decisions = fleet.run_for(900, samples=())
    assert {d.total for d in decisions} == {held}
    assert decisions[-1].held
    assert "no data" in decisions[-1].reason
    assert any("no answer" in p for p in decisions[-1].problems)


def test_one_silent_pod_of_three_is_filled_in_for_scaling_up_but_blocks_scaling_down():
    fleet = settled(rate=90.0, pods=3)
    fleet.follow = False
    fleet.pods = 3
    fleet.rate = 30.0
    decisions = []
    for _ in range(150):
        fleet.now += 2
        for i in range(3):
            fleet.counted[f"pod-{i}"][0] += fleet.rate * 2 / 3
            fleet.counted[f"pod-{i}"][1] += fleet.rate * 2 / 3 * fleet.run
        decisions.append(fleet.look(samples=fleet.samples()[:2]))
    assert {d.total for d in decisions} == {3}
    assert "not lowered" in decisions[-1].reason
    fleet.rate = 400.0
    for _ in range(10):
        fleet.now += 2
        for i in range(3):
            fleet.counted[f"pod-{i}"][0] += fleet.rate * 2 / 3
            fleet.counted[f"pod-{i}"][1] += fleet.rate * 2 / 3 * fleet.run
        decision = fleet.look(samples=fleet.samples()[:2])
    assert decision.total >= 10


@pytest.mark.parametrize(
    "lie",
    [
        {"requests": math.nan},
        {"requests": -5.0},
        {"requests": math.inf},
        {"requests": 1e14},
        {"requests": 3.0},
        {"compute_seconds": math.nan},
        {"compute_seconds": -1.0},
        {"pending": math.nan},
        {"pending": -1e9},
        {"in_flight": math.inf},
        {"at": EPOCH - 900},
        {"at": EPOCH + 1e6},
    ],
    ids=str,
)
def test_a_lying_pod_never_moves_the_number_much_and_is_named(lie):
    fleet = settled(rate=60.0, pods=2)
    before = fleet.pods
    told: list[str] = []
    for _ in range(60):
        fleet.now += 2
        for i in range(fleet.pods):
            fleet.counted[f"pod-{i}"][0] += 60.0
            fleet.counted[f"pod-{i}"][1] += 60.0 * fleet.run
        honest = fleet.samples()
        decision = fleet.look(samples=(replace(honest[0], **lie), *honest[1:]))
        told += decision.problems
        assert before <= decision.total <= before + 1
    assert any("pod-0" in problem for problem in told)


def test_a_restarted_pod_is_no_negative_and_no_huge_load():
    fleet = settled(rate=60.0)
    before = fleet.pods
    fleet.counted["pod-0"] = [0.0, 0.0, 0.0]
    assert {d.total for d in fleet.run_for(60)} == {before}


def test_operator_down_for_ten_minutes_resumes_without_a_jump():
    fleet = settled(rate=60.0)
    before = fleet.pods
    fleet.tick(600.0)
    assert "windows begin anew" in " ".join(fleet.decisions[-1].problems)
    assert {d.total for d in fleet.run_for(120)} == {before}


def test_a_new_operator_that_knows_only_what_was_learned_resumes_without_a_jump():
    fleet = settled(rate=60.0)
    before = fleet.pods
    fleet.state = from_json(to_json(fleet.state.learned()))
    assert {d.total for d in fleet.run_for(120)} == {before}


@pytest.mark.parametrize("jump", [-3600.0, -1.5, -0.5, 3600.0, 86400.0 * 400])
def test_a_clock_that_jumps_holds_and_goes_on(jump):
    fleet = settled(rate=60.0)
    before = fleet.pods
    fleet.now += jump
    assert fleet.look().total == before
    assert {d.total for d in fleet.run_for(60)} == {before}


def test_never_below_what_the_rollout_needs_even_above_max():
    fleet = settled(rate=10.0, max=3)
    fleet.floor = 7
    assert fleet.tick().total == 7
    assert {d.total for d in fleet.run_for(300)} == {7}


def test_stable_and_canary_each_get_what_their_weight_needs():
    fleet = settled(rate=300.0, pods=10)
    loads = (
        RevisionLoad("a", fleet.pods, fleet.pods, weight=75.0),
        RevisionLoad("b", 0, 0, weight=25.0, floor=1),
    )
    decision = fleet.tick(revisions=loads)
    assert decision.need is not None
    assert decision.replicas["a"] >= math.ceil(decision.need * 0.75 - 0.1)
    assert decision.replicas["b"] == math.ceil(decision.need * 0.25 - 0.1)
    gone = fleet.tick(revisions=(loads[0], replace(loads[1], weight=0.0, floor=0, replicas=3)))
    assert gone.replicas["b"] == 0


def test_max_and_budget_limit_and_are_told():
    fleet = settled(rate=60.0, max=3)
    fleet.rate = 600.0
    assert fleet.run_for(10)[-1].total == 3
    assert "at max 3" in fleet.decisions[-1].reason
    free = settled(rate=60.0)
    free.rate = 600.0
    limited = free.run_for(10, granted=4)[-1]
    assert limited.total == 4
    assert "budget grants 4" in limited.reason


def test_schedule_is_a_floor_and_a_bad_one_is_told():
    start = Schedule.model_validate({"start": "* * * * *", "duration": "1h", "min": 6})
    fleet = settled(rate=10.0, schedules=(start,))
    assert fleet.pods == 6
    bad = Schedule.model_validate({"start": "61 * * * *", "duration": "1h", "min": 6})
    fleet = settled(rate=10.0, schedules=(bad,))
    assert "61" in " ".join(fleet.tick().problems)
    assert fleet.pods < 6


def test_pods_that_take_long_to_start_are_ordered_ahead_of_a_ramp():
    def peak(readiness: float) -> int:
        fleet = settled(rate=60.0)
        created = fleet.now - readiness
        fleet.extra = {"starts": (PodStart("pod-0", created, fleet.now),)}
        fleet.tick()
        fleet.extra = {}
        assert fleet.decisions[-1].readiness_seconds == pytest.approx(readiness)
        for _ in range(40):
            fleet.rate += 6.0
            fleet.tick()
        return fleet.pods

    assert peak(60.0) > peak(1.0)


def test_objective_below_the_run_time_is_told_not_chased():
    fleet = Fleet(policy(targets=(Target(Signal.LATENCY, seconds=0.005),), max=50), pods=2, rate=60.0)
    fleet.run_for(120)
    assert fleet.pods <= 4
    assert "no number of pods meets it" in " ".join(fleet.decisions[-1].problems)


def test_prometheus_down_holds_and_is_told():
    prometheus = (Target(Signal.PROMETHEUS, value=10.0),)
    fleet = Fleet(policy(targets=prometheus), pods=5, rate=60.0)
    good = {"external": {0: External(50.0, EPOCH)}}
    for _ in range(90):
        good = {"external": {0: External(50.0, fleet.now)}}
        assert fleet.tick(**good).total == 5
    down = fleet.run_for(300, external={0: External(None, fleet.now, "connection refused")})
    assert {d.total for d in down} == {5}
    assert "connection refused" in " ".join(down[-1].problems)
    for value in (math.nan, -1.0, math.inf, None):
        assert fleet.tick(external={0: External(value, fleet.now + 2)}).total == 5
    stale = fleet.tick(external={0: External(500.0, fleet.now - 300)})
    assert stale.total == 5
    assert "old" in " ".join(stale.problems)
    fleet.run_for(4, external={0: External(120.0, fleet.now + 2)})
    assert fleet.pods == 12


@pytest.mark.parametrize(
    ("signal", "value", "rate", "expected"),
    [(Signal.REQUESTS_PER_SECOND, 10.0, 60.0, 6), (Signal.CONCURRENCY, 0.5, 100.0, 4)],
)
def test_plain_signals_divide_by_their_target(signal, value, rate, expected):
    fleet = Fleet(policy(targets=(Target(signal, value=value),)), pods=2, rate=rate)
    fleet.run_for(150)
    assert fleet.pods == expected


def test_gpu_moves_in_proportion_and_tolerates_ten_percent():
    fleet = Fleet(policy(targets=(Target(Signal.GPU, value=50.0),)), pods=4, rate=60.0)

    def with_gpu(percent: float) -> tuple[PodSample, ...]:
        return tuple(replace(s, at=fleet.now + 2, gpu_percent=percent) for s in fleet.samples())

    for _ in range(60):
        fleet.tick(samples=with_gpu(54.0))
    assert fleet.pods == 4
    fleet.follow = False
    for _ in range(60):
        decision = fleet.tick(samples=with_gpu(100.0))
    assert decision.total == 8


def test_idle_goes_to_zero_and_a_waiting_client_wakes_it_at_once():
    fleet = settled(rate=20.0, min=0)
    fleet.waiting = Waiting()
    fleet.rate = 0.0
    assert fleet.run_for(290)[-1].total >= 1
    fleet.run_for(30)
    assert fleet.pods == 0
    assert "no request" in " ".join(d.reason for d in fleet.decisions)
    assert fleet.tick().total == 0
    fleet.waiting = Waiting(demand=1)
    assert fleet.look().total == 1
    assert "1 clients wait" in fleet.decisions[-1].reason


@pytest.mark.parametrize(
    "use",
    [
        {"waiting": Waiting(active=1)},
        {"waiting": Waiting(demand=1)},
        {"streams": 1.0},
        {"in_flight": 1.0},
        {"silent": True},
        {"waiting": None},
        {"floor": 1},
    ],
    ids=str,
)
def test_open_streams_waiting_clients_silence_and_rollouts_keep_a_model_from_zero(use):
    fleet = settled(rate=20.0, min=0)
    fleet.waiting = use.get("waiting", Waiting())
    fleet.floor = use.get("floor", 0)
    fleet.rate = 0.0
    for _ in range(400):
        honest = tuple(
            replace(
                s,
                at=fleet.now + 2,
                open_streams=use.get("streams", 0.0),
                in_flight=use.get("in_flight", 0.0),
            )
            for s in fleet.samples()
        )
        fleet.tick(samples=() if "silent" in use else honest)
    assert fleet.pods >= 1


def test_a_large_burst_at_zero_wakes_more_than_one_pod_once_the_model_is_known():
    fleet = settled(rate=40.0, min=0)
    fleet.waiting = Waiting()
    fleet.rate = 0.0
    fleet.run_for(400)
    assert fleet.pods == 0
    fleet.waiting = Waiting(demand=1000)
    assert fleet.tick().total == 5


def test_zero_without_an_activator_is_told():
    fleet = Fleet(policy(min=0), pods=0)
    fleet.tick()
    assert "no activator" in " ".join(fleet.tick().problems)


numbers = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))
samples = st.builds(
    PodSample,
    pod=st.sampled_from(["p", "q", "r"]),
    revision=st.sampled_from(["a", "b"]),
    at=st.one_of(st.just(EPOCH), st.floats(0, 4e9)),
    requests=numbers,
    succeeded=numbers,
    executions=numbers,
    rows=numbers,
    queue_seconds=numbers,
    compute_seconds=numbers,
    request_seconds=numbers,
    slow=numbers,
    cpu_seconds=numbers,
    pending=numbers,
    in_flight=numbers,
    open_streams=numbers,
    gpu_percent=numbers,
    workers=numbers,
)
observations = st.builds(
    Observation,
    now=st.one_of(st.floats(EPOCH, EPOCH + 100), st.floats(0, 4e9)),
    revisions=st.lists(
        st.builds(
            RevisionLoad,
            name=st.sampled_from(["a", "b"]),
            replicas=st.integers(0, 30),
            ready=st.integers(0, 30),
            weight=st.floats(0, 100),
            floor=st.integers(0, 5),
        ),
        max_size=2,
        unique_by=lambda r: r.name,
    ).map(tuple),
    samples=st.lists(samples, max_size=4).map(tuple),
    ready_pods=st.frozensets(st.sampled_from(["p", "q", "r"])),
    waiting=st.one_of(st.none(), st.builds(Waiting, demand=st.integers(0, 9999), active=st.integers(0, 9))),
    granted=st.one_of(st.none(), st.integers(0, 40)),
    external=st.dictionaries(st.integers(0, 1), st.builds(External, value=numbers, at=st.just(EPOCH))),
)


@settings(max_examples=150, deadline=None)
@given(
    seen=st.lists(observations, min_size=1, max_size=8),
    low=st.integers(0, 3),
    signal=st.sampled_from(list(Signal)),
)
def test_any_sequence_of_observations_gives_bounded_numbers_twice_alike(seen, low, signal):
    chosen = policy(
        min=low,
        targets=(Target(signal, value=5.0, seconds=0.1),),
        forecast_period=86400.0,
    )
    state = State()
    for observation in seen:
        again = step(chosen, state, observation)
        state, decision = step(chosen, state, observation)
        assert (state, decision) == again
        floors = sum(r.floor for r in observation.revisions)
        assert 0 <= decision.total <= max(chosen.max, floors)
        assert decision.total == sum(decision.replicas.values())
        for revision in observation.revisions:
            assert decision.replicas[revision.name] >= min(revision.floor, decision.total)
        text = to_json(state)
        assert len(text) < 60_000
        assert from_json(text) == state


def test_state_stays_small():
    fleet = settled(rate=60.0, forecast_period=604800.0)
    fleet.run_for(600)
    assert len(to_json(fleet.state)) < 40_000
    assert len(to_json(fleet.state.learned())) < 4_000


def test_unreadable_state_is_a_fresh_one():
    assert from_json("{") == State()
    assert from_json('{"at": "yesterday"}') == State()


def test_room_is_kept_for_bursts_that_come_again_and_is_told_but_not_for_the_first():
    fleet = settled(rate=60.0)
    lows = []
    for _ in range(4):
        fleet.rate = 180.0
        fleet.run_for(120)
        fleet.rate = 60.0
        fleet.run_for(400)
        lows.append(fleet.pods)
    assert lows[-1] > lows[0]
    assert "60 rps now" in fleet.decisions[-1].reason
    fleet.tick(7300.0)
    fleet.run_for(500)
    assert fleet.pods == lows[0]
