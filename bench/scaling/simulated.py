"""What the planner does on simulated pods: no timing, the same figures on every machine."""

import math
from dataclasses import replace

from longshore.api import Spec
from longshore.plan.scaling import policy_of
from longshore.plan.scaling.queueing import ServiceCurve
from longshore.simulate.compare import HELD, Assumptions, Comparison, compare
from longshore.simulate.pods import PodModel
from longshore.simulate.run import Result, replay
from longshore.simulate.scalers import Builtin, View
from longshore.simulate.trace import from_rates

from bench.common import Row
from bench.scaling.traces import bursty, diurnal, flash

_OBJECTIVE = 0.5
_BATCHED = Assumptions(run_time=0.1, per_request=0.01, variation=0.1, startup=10.0)
"""A model of 100 ms that gains from batches as a 21 MB MLP on a CPU does: eight requests take 170 ms."""
_UNBATCHED = replace(_BATCHED, per_request=0.1)


def spec(low: int = 1, high: int = 40, batch: int = 8) -> Spec:
    """Build the spec that is replayed."""
    return Spec.model_validate(
        {
            "model": {"uri": "oci://registry.example/models/bench:1"},
            "serving": {"latencyObjective": "500ms", "batching": {"maxSize": batch}},
            "scaling": {"min": low, "max": high},
        }
    )


def rows() -> tuple[Row, ...]:
    """Replay everything."""
    return (*_step(), _noise(), *_from_zero(), *_operator_down(), *_traces())


def _pods(curve: ServiceCurve, startup: float = 5.0) -> PodModel:
    return PodModel(curve, startup=startup, queue=100_000, objective=_OBJECTIVE)


_ALONE = ServiceCurve(0.0, 0.1, 1, 0.01)


def _step() -> tuple[Row, ...]:
    """Five times the load at once: when is the size right, and how far above it does it go?"""
    before, after = 300, 600
    trace = from_rates([15.0] * before + [75.0] * after, 1.0, 3)
    scaler = Builtin(policy_of(spec(batch=1)))
    result = replay(trace, _pods(_ALONE), scaler, objective=_OBJECTIVE, start=3)
    # Right is what the planner settles on when the same load never was anything else.
    steady = replay(
        from_rates([75.0] * 900, 1.0, 4),
        _pods(_ALONE),
        Builtin(policy_of(spec(batch=1))),
        objective=_OBJECTIVE,
        start=13,
    )
    right = steady.intervals[-1].wanted
    reached = next((e.at - before for e in result.events if e.at > before and e.after >= right), math.inf)
    peak = max(e.after for e in result.events if e.at > before)
    return (
        Row("step-x5-seconds-to-right-size", reached, "s", "<=", 60, f"right size {right} pods"),
        Row("step-x5-overshoot", (peak - right) / right, "share", "<=", 0.2, f"peak {peak} pods"),
    )


def _noise() -> Row:
    """An hour of Poisson arrivals at a steady rate, at several rates: the worst counts."""
    worst, where = 0, 0.0
    for rate in (23.0, 41.0, 52.0, 67.0):
        trace = from_rates([rate] * 4200, 1.0, 7)
        result = replay(
            trace,
            _pods(_ALONE),
            Builtin(policy_of(spec(batch=1))),
            objective=_OBJECTIVE,
            start=math.ceil(rate / 6.5),
        )
        changes = sum(e.at > 600 for e in result.events)
        if changes >= worst:
            worst, where = changes, rate
    return Row("noise-scale-events", worst, "changes an hour", "<=", 2, f"worst of four rates: {where:g} rps")


def _from_zero() -> tuple[Row, ...]:
    """A step of 1,000 requests per second from zero, and of 3,000 half a minute later; pods take 2 s."""
    curve = ServiceCurve(0.004, 0.0005, 32, 0.02)
    trace = from_rates([0.0] * 20 + [1000.0] * 30 + [3000.0] * 60, 1.0, 5)
    result = replay(
        trace, _pods(curve, 2.0), Builtin(policy_of(spec(0, 40, 32))), objective=_OBJECTIVE, start=0
    )
    note = f"{result.requests} requests, pods ready after 2 s, peak {result.peak} pods"
    return (
        Row("from-zero-1k-3k-errors", result.lost, "requests", "==", 0, note),
        Row("from-zero-1k-3k-longest-wait", result.longest, "s", "<=", 10, note),
    )


class _Interrupted:
    """The planner, unheard for ten minutes."""

    name = "interrupted"
    holds = True
    interval = 2.0

    def __init__(self, inner: Builtin, begin: float, seconds: float) -> None:
        self._inner, self._begin, self._end = inner, begin, begin + seconds

    def decide(self, view: View) -> tuple[int, str]:
        if self._begin <= view.now < self._end:
            return len(view.pods), "the operator is down"
        return self._inner.decide(view)


def _operator_down() -> tuple[Row, ...]:
    trace = from_rates([45.0] * 2400, 1.0, 8)
    scaler = _Interrupted(Builtin(policy_of(spec(batch=1))), 900.0, 600.0)
    result = replay(trace, _pods(_ALONE), scaler, objective=_OBJECTIVE, start=8)
    after = [e for e in result.events if e.at >= 1500]
    jump = max((abs(e.after - e.before) for e in after), default=0)
    return (
        Row("operator-down-lost", result.lost, "requests", "==", 0, "ten minutes without a decision"),
        Row("operator-down-jump", jump, "pods", "<=", 1, "largest change once it is back, steady load"),
    )


def _traces() -> tuple[Row, ...]:
    made: list[Row] = []
    for name, trace in (("diurnal", diurnal(50, 4)), ("bursty", bursty(60, 4)), ("flash", flash(50, 3))):
        found = compare(trace, spec(), _BATCHED)
        builtin, hpa, keda = found.results
        made += [
            Row(f"{name}-objective-held", builtin.held_share, "of time", ">=", HELD, _told(found)),
            Row(
                f"{name}-pod-seconds-against-hpa",
                builtin.pod_seconds / hpa.pod_seconds,
                "x",
                "<=",
                0.7,
                f"HPA on CPU at 80 % held {hpa.held_share:.1%}",
            ),
            Row(
                f"{name}-objective-held-against-keda",
                builtin.held_share - keda.held_share,
                "of time",
                ">=",
                0.0,
                f"{keda.name} a pod, the best threshold, lost {keda.lost}; Longshore used "
                f"{builtin.pod_seconds / keda.pod_seconds:.2f} times its pod-seconds",
            ),
        ]
        if found.fixed is not None:
            made.append(
                Row(
                    f"{name}-pod-seconds-against-best-fixed",
                    builtin.pod_seconds / found.fixed.pod_seconds,
                    "x",
                    "<=",
                    1.0,
                    f"{found.fixed.name} pods held {found.fixed.held_share:.1%}",
                )
            )
    made.append(_against_tuned_hpa())
    return tuple(made)


def _against_tuned_hpa() -> Row:
    """Without batches CPU is an honest measure of load: the HPA gets the best target that holds as well."""
    trace, unbatched = diurnal(25, 4), spec(batch=1)
    builtin, hpa, _ = compare(trace, unbatched, _UNBATCHED, with_fixed=False).results
    target = 80.0
    while hpa.held_share < builtin.held_share and target > 20:
        target -= 10
        assumed = replace(_UNBATCHED, hpa_cpu=target)
        hpa = compare(trace, unbatched, assumed, with_fixed=False, only="HPA").results[0]
    return Row(
        "diurnal-unbatched-pod-seconds-against-tuned-hpa",
        builtin.pod_seconds / hpa.pod_seconds,
        "x",
        "<=",
        1.0,
        f"a model without batches, held {builtin.held_share:.1%}; {hpa.name} held {hpa.held_share:.1%}",
    )


def _told(found: Comparison) -> str:
    def one(result: Result) -> str:
        return f"{result.name} {result.held_share:.1%} with {result.mean_pods:.2f} pods"

    return "; ".join(one(r) for r in (*found.results, *((found.fixed,) if found.fixed else ())))
