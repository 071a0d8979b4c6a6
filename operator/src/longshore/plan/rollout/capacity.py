"""How many pods a weight needs, and what weight pods give where no gateway divides requests."""

from longshore.plan.rollout.model import TrafficMode
from longshore.plan.rollout.policy import Stage


def replicas_for(stage: Stage, full: int, mode: TrafficMode) -> int:
    """Give the pods that the new revision needs before it gets a stage's weight, 1 to `full`.

    Through a gateway: its share of what the whole load needs. By replica ratio: also as many as make its
    share of all pods nearest to the weight, the stable revision staying at full capacity.
    """
    if (stage.mirror and stage.weight == 0) or stage.preview or stage.weight >= 100:
        return full
    share = -(-full * stage.weight // 100)
    if mode is TrafficMode.SERVICE and stage.weight > 0:
        share = max(share, round(full * stage.weight / (100 - stage.weight)))
    return min(full, max(1, share))


def effective_weight(mode: TrafficMode, weight: int, canary_ready: int, stable_ready: int) -> int:
    """Give the percent of requests that the canary really gets.

    Without a gateway a Service spreads requests evenly over the ready pods that it selects.
    """
    if mode is TrafficMode.GATEWAY or weight in (0, 100):
        return weight
    pods = canary_ready + stable_ready
    return round(100 * canary_ready / pods) if pods else 0
