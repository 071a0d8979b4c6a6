"""The writes that lead from what stands to what shall stand."""

from dataclasses import dataclass

from longshore.plan.rollout.model import Seen, Targets


@dataclass(frozen=True)
class Scale:
    """Ask a Deployment for a number of pods."""

    revision: str
    replicas: int


@dataclass(frozen=True)
class SelectStable:
    """Move the stable Service's selector."""

    revision: str


@dataclass(frozen=True)
class SelectCanary:
    """Move the canary Service's selector."""

    revision: str


@dataclass(frozen=True)
class SetWeight:
    """Write the weights; the stable revision gets 100 minus this."""

    weight: int


@dataclass(frozen=True)
class Mirror:
    """Send copies of requests to a revision, or to none."""

    revision: str | None


@dataclass(frozen=True)
class Preview:
    """Lead the preview route to a revision, or remove it."""

    revision: str | None


Action = Scale | SelectStable | SelectCanary | SetWeight | Mirror | Preview


def actions_between(seen: Seen, targets: Targets) -> tuple[Action, ...]:
    """Give the writes that are needed, capacity first, then traffic, then what takes capacity away.

    Nothing is given for what stands already, so applying twice writes nothing the second time.
    """
    scales = [
        Scale(revision, targets.replicas.get(revision, 0))
        for revision in sorted({*seen.revisions, *targets.replicas})
        if targets.replicas.get(revision, 0) != seen.pods(revision).wanted
    ]
    traffic: list[Action] = []
    if targets.weight < seen.traffic.weight:
        traffic.append(SetWeight(targets.weight))
    if targets.stable is not None and targets.stable != seen.traffic.stable:
        traffic.append(SelectStable(targets.stable))
    if targets.canary is not None and targets.canary != seen.traffic.canary:
        traffic.append(SelectCanary(targets.canary))
    if targets.weight > seen.traffic.weight:
        traffic.append(SetWeight(targets.weight))
    if targets.mirror != seen.traffic.mirrored:
        traffic.append(Mirror(targets.mirror))
    if targets.preview != seen.traffic.preview:
        traffic.append(Preview(targets.preview))
    more = [scale for scale in scales if scale.replicas > seen.pods(scale.revision).wanted]
    fewer = [scale for scale in scales if scale.replicas < seen.pods(scale.revision).wanted]
    return (*more, *traffic, *fewer)
