"""What is asked of others about a canary, and what they answered: Prometheus servers and web hooks."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from longshore.api.rollout import Analysis, AnalysisSignal, SignalType
from longshore.plan.analysis.signals import HookAnswer, Reading

_TYPES = ("vector", "scalar")


@dataclass(frozen=True)
class MetricQuestion:
    """A PromQL query for each side.

    Attributes:
        signal: name of the signal.
        address: address of the Prometheus server, with a path before `/api/v1` where it has one.
        canary: PromQL for the canary.
        stable: PromQL for the stable revision; None where only absolute bounds are asked.
    """

    signal: str
    address: str
    canary: str
    stable: str | None = None


@dataclass(frozen=True)
class HookQuestion:
    """A web hook to ask.

    Attributes:
        signal: name of the signal.
        address: where to POST.
        body: JSON values that it gets.
    """

    signal: str
    address: str
    body: Mapping[str, str]


@dataclass(frozen=True)
class Questions:
    """All that is asked about one canary."""

    canary: str
    metrics: tuple[MetricQuestion, ...] = ()
    hooks: tuple[HookQuestion, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.metrics or self.hooks)


@dataclass(frozen=True)
class Answers:
    """One round of answers about one canary, by signal; `at` is in seconds since the epoch."""

    canary: str
    at: float
    metrics: Mapping[str, tuple[Reading, Reading | None]] = field(default_factory=dict)
    hooks: Mapping[str, HookAnswer] = field(default_factory=dict)


def questions_of(
    analysis: Analysis, namespace: str, name: str, canary: str, stable: str | None, baking: bool
) -> Questions:
    """Give what to ask about a canary.

    In a query `$revision`, `$namespace` and `$name` stand for the revision it is asked for and the
    ModelDeployment.

    Args:
        analysis: `spec.rollout.analysis`.
        namespace: the ModelDeployment's.
        name: the ModelDeployment's.
        canary: the revision that is judged.
        stable: the one it is held against.
        baking: the canary has all requests, so nothing relative to the revision before can be asked.
    """

    def filled(query: str, revision: str) -> str:
        return query.replace("$revision", revision).replace("$namespace", namespace).replace("$name", name)

    def metric(signal: AnalysisSignal) -> MetricQuestion:
        query = signal.query or ""
        relative = signal.max_ratio is not None and stable is not None and not baking
        return MetricQuestion(
            signal=signal.name,
            address=signal.address or "",
            canary=filled(query, canary),
            stable=filled(query, stable) if relative and stable is not None else None,
        )

    return Questions(
        canary=canary,
        metrics=tuple(metric(s) for s in analysis.signals if s.type is SignalType.PROMETHEUS),
        hooks=tuple(
            HookQuestion(
                signal=s.name,
                address=s.address or "",
                body={
                    "namespace": namespace,
                    "name": name,
                    "signal": s.name,
                    "canary": canary,
                    "stable": stable or "",
                    "phase": "Baking" if baking else "Stepping",
                },
            )
            for s in analysis.signals
            if s.type is SignalType.WEB_HOOK
        ),
    )


def read_prometheus(status: int, body: bytes) -> Reading:
    """Read the answer to an instant query (Prometheus HTTP API v1, "Instant queries").

    What the server says of a bad query is passed on; what is no answer of a Prometheus server is named only
    by its status, because any text of an unknown server would end up in a status that others may read.
    """
    try:
        answer = json.loads(body)
        if answer["status"] != "success":
            return Reading(error=f"{answer.get('errorType', 'error')}: {answer['error']}")
        kind, result = answer["data"]["resultType"], answer["data"]["result"]
        if kind not in _TYPES:
            return Reading(error=f"the query gives a {kind}; one number is needed: take a function over it")
        if kind == "scalar":
            return _number(result[1])
        if not result:
            return Reading()
        if len(result) > 1:
            return Reading(
                error=f"the query gives {len(result)} series; one is needed: put sum() or max() around it"
            )
        return _number(result[0]["value"][1])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return Reading(error=f"HTTP {status}, and the body is no answer of a Prometheus server")


def _number(text: object) -> Reading:
    value = float(str(text))
    return Reading(value if math.isfinite(value) else None)
