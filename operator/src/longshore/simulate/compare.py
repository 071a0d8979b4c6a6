"""The replays that `longshore simulate` puts side by side, made from a spec."""

from collections.abc import Callable
from dataclasses import dataclass

from longshore.api import Spec
from longshore.api.scaling import Signal
from longshore.api.serving import DEFAULT_QUEUE
from longshore.plan.scaling import policy_of
from longshore.plan.scaling.inputs import Policy
from longshore.plan.scaling.queueing import ServiceCurve
from longshore.simulate.pods import PodModel
from longshore.simulate.run import Result, replay
from longshore.simulate.scalers import Builtin, Fixed, Hpa, HpaSettings, Keda, KedaSettings, Scaler
from longshore.simulate.trace import Trace

HELD = 0.99
"""Share of time in which the objective must be held to count as held."""


@dataclass(frozen=True)
class Assumptions:
    """What a spec does not say about its pods. Seconds; `variation` is a standard deviation over mean."""

    run_time: float
    per_request: float = 0.0
    variation: float = 0.2
    workers: int = 1
    startup: float = 10.0
    objective: float | None = None
    percentile: float | None = None
    hpa_cpu: float | None = None
    keda_rps: float | None = None
    seed: int = 1


@dataclass(frozen=True)
class Comparison:
    """All replays of one trace."""

    objective: float
    percentile: float
    results: tuple[Result, ...]
    fixed: Result | None
    """The smallest fixed number that holds the objective, None when `max` pods do not."""


def pod_model(spec: Spec, assumed: Assumptions, objective: float) -> PodModel:
    """Build the simulated pod."""
    curve = ServiceCurve(
        base=max(assumed.run_time - assumed.per_request, 0.0),
        per_request=assumed.per_request,
        max_batch=spec.serving.batching.max_size,
        variance=assumed.variation**2,
        workers=assumed.workers,
    )
    return PodModel(curve, assumed.startup, spec.serving.batching.queue or DEFAULT_QUEUE, objective)


def objective_of(policy: Policy, assumed: Assumptions) -> tuple[float, float]:
    """Give the latency objective and its percentile: as assumed, else the spec's, else ten run times."""
    target = next((t for t in policy.targets if t.signal is Signal.LATENCY), None)
    percentile = assumed.percentile or (target.percentile if target else 0.95)
    if assumed.objective is not None:
        return assumed.objective, percentile
    if target is not None:
        return target.seconds, percentile
    return policy.counted_objective or 10 * assumed.run_time, percentile


def compare(
    trace: Trace, spec: Spec, assumed: Assumptions, *, with_fixed: bool = True, only: str = ""
) -> Comparison:
    """Replay a trace under Builtin, HPA, KEDA and, if asked for, the best fixed number.

    Args:
        trace: when requests come.
        spec: of the ModelDeployment.
        assumed: what the spec does not say.
        with_fixed: whether to look for the best fixed number.
        only: beginning of a scaler's name: the others are left out.
    """
    policy = policy_of(spec)
    objective, percentile = objective_of(policy, assumed)
    model = pod_model(spec, assumed, objective)
    start = max(policy.min, 1)

    def under(scaler: Scaler, pods: int = start) -> Result:
        return replay(
            trace,
            model,
            scaler,
            objective=objective,
            percentile=percentile,
            start=pods,
            seed=assumed.seed,
        )

    cpu = assumed.hpa_cpu or next((t.value for t in policy.targets if t.signal is Signal.CPU), 80.0)
    rps = assumed.keda_rps or next(
        (t.value for t in policy.targets if t.signal is Signal.REQUESTS_PER_SECOND), None
    )
    if rps is None:
        # The best that can be asked of a person: what a pod carries within the objective.
        rps = model.curve.rate_within(objective, percentile, 1.0, 0.8) or model.curve.capacity / 2
    scalers: tuple[Scaler, ...] = (
        Builtin(policy),
        Hpa(HpaSettings(max(policy.min, 1), max(policy.max, 1), cpu)),
        Keda(KedaSettings(policy.min, max(policy.max, 1), rps)),
    )
    results = tuple(under(scaler) for scaler in scalers if scaler.name.startswith(only))
    fixed = best_fixed(under, max(policy.max, 1)) if with_fixed else None
    return Comparison(objective, percentile, results, fixed)


def best_fixed(under: Callable[[Scaler, int], Result], most: int) -> Result | None:
    """Find the smallest fixed number that holds the objective, by bisection."""
    best: Result | None = None
    low, high = 1, most
    while low <= high:
        middle = (low + high) // 2
        result = under(Fixed(middle), middle)
        if result.held_share >= HELD and not result.lost:
            best, high = result, middle - 1
        else:
            low = middle + 1
    return best


def bill(result: Result, cost: float) -> float:
    """Give what a replay cost at `cost` per pod and hour."""
    return result.pod_seconds / 3600 * cost
