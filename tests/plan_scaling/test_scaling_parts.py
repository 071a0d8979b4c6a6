"""The parts of the planner, each against what it stands for."""

import itertools
import math
from datetime import datetime
from random import Random
from zoneinfo import ZoneInfo

import pytest
from longshore.api import Spec
from longshore.api.scaling import Schedule, Signal
from longshore.plan.scaling import Target, policy_of
from longshore.plan.scaling.budget import Claim, share
from longshore.plan.scaling.curve import CurveFit
from longshore.plan.scaling.forecast import seasonal
from longshore.plan.scaling.queueing import ServiceCurve, erlang_c
from longshore.plan.scaling.schedule import ScheduleError, active
from longshore.plan.scaling.window import Tick, append, averages, dispersion
from longshore.simulate.pods import PodModel, SimulatedPod
from longshore.simulate.run import quantile


def test_erlang_c_matches_its_definition():
    for servers, load in ((1, 0.3), (3, 0.8), (20, 0.95)):
        offered = servers * load
        top = offered**servers / math.factorial(servers) / (1 - load)
        total = sum(offered**k / math.factorial(k) for k in range(servers)) + top
        assert erlang_c(servers, load) == pytest.approx(top / total)
    assert erlang_c(2, 1.5) == 1.0
    assert erlang_c(2, -1) == 0.0


def test_wait_is_exact_for_poisson_arrivals_and_one_server():
    for variance in (0.0, 0.5, 1.0, 2.0):
        curve = ServiceCurve(0.0, 0.02, 1, variance)
        for load in (0.2, 0.5, 0.9):
            khinchine = load / (1 - load) * 0.02 * (1 + variance) / 2
            assert sum(curve.wait(load / 0.02)) == pytest.approx(khinchine)


@pytest.mark.parametrize(
    "curve",
    [
        ServiceCurve(0.0, 0.02, 1, 0.05),
        ServiceCurve(0.0, 0.02, 1, 1.0),
        ServiceCurve(0.0, 0.02, 1, 0.3, workers=4),
        ServiceCurve(0.009, 0.001, 32, 0.02),
        ServiceCurve(0.09, 0.01, 8, 0.05),
        ServiceCurve(0.05, 0.002, 64, 0.1, workers=2),
    ],
    ids=str,
)
@pytest.mark.parametrize("load", [0.1, 0.4, 0.7, 0.85])
def test_predicted_percentile_is_near_what_a_simulated_pod_shows(curve, load):
    """A plan must not promise what a pod does not keep, nor ask for twice the pods."""
    random = Random(3)
    rate = curve.capacity * load
    pod = SimulatedPod("p", PodModel(curve, startup=0.0, queue=10**9), 0.0, random)
    now, done = 0.0, []
    for _ in range(60_000):
        now += random.expovariate(rate)
        pod.offer(now, now)
    pod.run(math.inf, done)
    seen = quantile(sorted(latency for _, latency in done), 0.95)
    assert 0.85 * seen <= curve.latency(rate, 0.95) <= 1.6 * seen


def test_latency_only_rises_with_the_rate_and_ends_at_capacity():
    curve = ServiceCurve(0.009, 0.001, 32, 0.1)
    values = [curve.latency(curve.capacity * i / 100, 0.95) for i in range(101)]
    assert all(a <= b * 1.02 for a, b in itertools.pairwise(values))
    assert values[-1] == math.inf


def test_curve_is_learned_from_runs_of_different_sizes():
    random = Random(1)
    fit = CurveFit()
    for _ in range(200):
        batch, runs = random.uniform(1, 12), 50
        fit = fit.add(batch, 0.01 + 0.002 * batch + random.gauss(0, 0.002) / math.sqrt(runs), runs)
    curve = fit.curve(32, 1)
    assert curve.known
    assert curve.base == pytest.approx(0.01, rel=0.1)
    assert curve.per_request == pytest.approx(0.002, rel=0.1)


def test_unknown_batch_gain_is_not_assumed_but_a_measured_one_is():
    fit = CurveFit()
    for _ in range(50):
        fit = fit.add(1.0, 0.01, 100)
    assert fit.curve(32, 1).capacity == pytest.approx(100)
    assert not fit.curve(32, 1).known
    assert fit.curve(32, 1, measured=(0.009, 0.001)).capacity == pytest.approx(32 / 0.041)


def test_window_stays_bounded_and_averages_weigh_by_time():
    entries: tuple[Tick, ...] = ()
    for i in range(5000):
        entries = append(entries, Tick(at=i * 0.1, seconds=0.1, coverage=1.0, arrivals=1.0), 600.0)
    assert len(entries) <= 64
    assert averages(entries, 499.9, 600.0).rate == pytest.approx(10.0)


def test_dispersion_tells_bursts_from_poisson_and_ignores_a_step():
    random = Random(2)

    def ticks(counts):
        return [Tick(at=2.0 * i, seconds=2.0, coverage=1.0, arrivals=c) for i, c in enumerate(counts)]

    assert dispersion(ticks([50.0] * 15 + [250.0] * 15)) == 1.0
    assert dispersion(ticks([random.gauss(100, 30) for _ in range(60)])) > 4


def test_forecast_learns_a_day_tells_its_error_and_refuses_noise():
    def day(hour: float) -> float:
        return 100 + 80 * math.sin(hour / 24 * 2 * math.pi)

    def learned(noise: float):
        random = Random(4)
        model = seasonal(86400.0)
        for i in range(5 * 96):
            rate = max(day(i / 4) * (1 + random.uniform(-noise, noise)), 0)
            if noise >= 1:
                rate = random.expovariate(1 / 50) ** 2 / 50
            model = model.add(i * 900.0 + 450, 900.0, rate)
        return model

    good = learned(0.05)
    assert good.usable
    assert good.error < 0.1
    assert good.at(5 * 86400 + 6 * 3600) == pytest.approx(day(6), rel=0.1)
    assert not learned(1.0).usable
    assert seasonal(604800.0).at(0.0) is None


SCHEDULES = [
    ("0 8 * * mon-fri", "2h", "2025-06-16T08:00", True),
    ("0 8 * * mon-fri", "2h", "2025-06-16T09:59", True),
    ("0 8 * * mon-fri", "2h", "2025-06-16T10:00", False),
    ("0 8 * * mon-fri", "2h", "2025-06-16T07:59", False),
    ("0 8 * * mon-fri", "2h", "2025-06-15T08:30", False),
    ("30 22 * * *", "3h", "2025-06-16T01:00", True),
    ("0 0 1 * *", "24h", "2025-07-01T23:00", True),
    ("0 0 1 * *", "24h", "2025-07-02T00:00", False),
    ("*/15 * * * *", "5m", "2025-06-16T12:48", True),
    ("*/15 * * * *", "5m", "2025-06-16T12:51", False),
    ("0 9 13 * fri", "1h", "2025-06-13T09:30", True),
    ("0 9 13 * fri", "1h", "2025-06-20T09:30", True),
    ("0 9 * feb 7", "1h", "2025-02-02T09:30", True),
    ("0 9 * feb 7", "1h", "2025-03-02T09:30", False),
]


@pytest.mark.parametrize(("start", "duration", "at", "expected"), SCHEDULES)
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Asia/Kolkata"])
def test_schedule_holds_in_its_own_time_zone(start, duration, at, expected, zone):
    schedule = Schedule.model_validate({"start": start, "duration": duration, "min": 1, "timeZone": zone})
    now = datetime.fromisoformat(at).replace(tzinfo=ZoneInfo(zone)).timestamp()
    assert active(schedule, now) is expected


@pytest.mark.parametrize(
    ("start", "zone"),
    [
        ("0 8 * * ", "UTC"),
        ("0 8 * * * *", "UTC"),
        ("60 8 * * *", "UTC"),
        ("5-1 8 * * *", "UTC"),
        ("*/0 8 * * *", "UTC"),
        ("a 8 * * *", "UTC"),
        ("0 8 * * ²", "UTC"),
        ("0 8 * * *", "Mars/Base"),
        ("0 8 * * *", "../etc/passwd"),
    ],
)
def test_bad_schedules_are_refused_with_a_sentence(start, zone):
    schedule = Schedule.model_validate({"start": f"{start:<9}", "duration": "1h", "min": 1, "timeZone": zone})
    with pytest.raises(ScheduleError, match=r"\w+"):
        active(schedule, 1.75e9)


def test_policy_fills_in_defaults():
    plain = policy_of(Spec.model_validate({"model": {"uri": "oci://x/y:1"}}))
    assert (plain.min, plain.max, plain.targets) == (1, 1, ())
    spec = {
        "model": {"uri": "oci://x/y:1"},
        "serving": {"latencyObjective": "50ms", "resources": {"requests": {"cpu": "500m"}}},
        "scaling": {"min": 0, "max": 9, "forecast": {}, "metrics": [{"type": "Cpu", "target": 70}]},
    }
    full = policy_of(Spec.model_validate(spec))
    assert full.targets == (Target(Signal.CPU, value=70.0),)
    assert (full.cores, full.counted_objective, full.forecast_period) == (0.5, 0.05, 86400.0)
    del spec["scaling"]["metrics"]
    assert policy_of(Spec.model_validate(spec)).objective == 0.05


def curve(run: float = 0.02) -> ServiceCurve:
    return ServiceCurve(0.0, run, 1, 0.1)


def test_budget_that_suffices_gives_all():
    grants = share((Claim("n/a", 0, 1.0, 3), Claim("n/b", 0, 1.0, 2)), max_pods=5)
    assert [(g.key, g.pods) for g in grants] == [("n/a", 3), ("n/b", 2)]


def test_budget_goes_by_priority_after_everyones_minimum():
    claims = (
        Claim("n/high", 10, 1.0, 6, min=1, rate=200, curve=curve()),
        Claim("n/low", 0, 1.0, 6, min=1, rate=200, curve=curve()),
    )
    grants = {g.key: g for g in share(claims, max_pods=7)}
    assert (grants["n/high"].pods, grants["n/low"].pods) == (6, 1)
    assert "higher priorities" in grants["n/low"].reason
    assert "7 pods" in grants["n/low"].reason


def test_budget_goes_to_whom_the_next_pod_helps_most():
    claims = (
        Claim("n/busy", 0, 1.0, 8, min=1, rate=190, curve=curve()),
        Claim("n/calm", 0, 1.0, 8, min=1, rate=20, curve=curve()),
    )
    grants = {g.key: g for g in share(claims, max_pods=6)}
    assert grants["n/busy"].pods > grants["n/calm"].pods
    assert "would cut latency by" in grants["n/calm"].reason
    assert "n/busy" in grants["n/calm"].reason


def test_budget_counts_cost_and_a_rollout_stands_above_it():
    claims = (
        Claim("n/dear", 0, 10.0, 3, floor=2, rate=10, curve=curve()),
        Claim("n/cheap", 0, 1.0, 3, rate=10, curve=curve()),
    )
    grants = {g.key: g.pods for g in share(claims, max_cost=22.0)}
    assert grants == {"n/dear": 2, "n/cheap": 2}


def test_budget_does_not_depend_on_order():
    claims = tuple(Claim(f"n/{i}", i % 3, 1.0 + i, 4, min=1, rate=50.0 * i, curve=curve()) for i in range(6))
    expected = share(claims, max_pods=11, max_cost=40.0)
    for order in itertools.islice(itertools.permutations(claims), 0, 720, 50):
        assert share(order, max_pods=11, max_cost=40.0) == expected
