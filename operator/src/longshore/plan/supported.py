"""Fields that are accepted but have no effect in this version, each with what to do instead."""

from collections.abc import Callable

from longshore.api import Spec
from longshore.api.base import seconds
from longshore.api.rollout import SignalType, Strategy
from longshore.api.scaling import Engine
from longshore.api.serving import RuntimeName
from longshore.plan.mirror import can_mirror, compares_answers
from longshore.plan.zero import may_sleep
from longshore.runtimes.registry import runtime_of

_CHECKS: tuple[tuple[str, Callable[[Spec], bool], str], ...] = (
    (
        "model.signature",
        lambda s: s.model.signature is not None,
        "the signature is not checked; pin model.sha256",
    ),
    (
        "serving.runtime",
        lambda s: s.serving.runtime is not RuntimeName.AUTO and runtime_of(s.serving.runtime) is None,
        "this runtime is not available; OnnxRuntime serves instead",
    ),
    (
        "serving.triton",
        # With OnnxRuntime in the spec itself this is refused; here Auto has chosen it.
        lambda s: s.serving.triton is not None and s.serving.runtime is RuntimeName.ONNX_RUNTIME,
        "OnnxRuntime was measured to be the better one; set runtime: Triton to insist",
    ),
    (
        "serving.batching.maxDelay",
        lambda s: (
            s.serving.batching.max_delay is not None
            and seconds(s.serving.batching.max_delay) > 0
            and s.serving.runtime is RuntimeName.ONNX_RUNTIME
        ),
        "the server chooses the wait from measured run times, under serving.latencyObjective",
    ),
    (
        "scaling.warm",
        lambda s: s.scaling.warm > 0 and s.scaling.engine is Engine.BUILTIN and not may_sleep(s),
        "the model never goes to zero by itself, so no warm copy is kept; set scaling.min to 0 without "
        "serving.replicas",
    ),
    (
        "scaling.budget",
        lambda s: (
            s.scaling.budget is not None
            and (s.scaling.engine is not Engine.BUILTIN or s.serving.replicas is not None)
        ),
        "another engine or serving.replicas decides: the pods are counted but not bounded",
    ),
    (
        "rollout.strategy",
        lambda s: s.rollout.strategy is Strategy.SHADOW and not can_mirror(s),
        "this runtime copies no requests, so a rollout holds: promote it, or take another strategy",
    ),
    (
        "rollout.analysis.signals",
        lambda s: (
            any(signal.type is SignalType.AGREEMENT for signal in s.rollout.analysis.signals)
            and not compares_answers(s)
        ),
        "Agreement needs strategy Shadow, or a Canary with steps below 100; other signals are compared",
    ),
    (
        "rollout.analysis.signals",
        lambda s: (
            any(signal.type is SignalType.DISTRIBUTION for signal in s.rollout.analysis.signals)
            and not counts_predictions(s)
        ),
        "this runtime does not count its predictions, so Distribution is not compared",
    ),
    (
        "rollout.affinity",
        lambda s: s.rollout.affinity is not None and s.route is None,
        "without spec.route a Service divides requests, and users may change between revisions; add a route",
    ),
)


def counts_predictions(spec: Spec) -> bool:
    """Tell whether the pods of this spec count what they predict."""
    runtime = runtime_of(spec.serving.runtime) or runtime_of(RuntimeName.ONNX_RUNTIME)
    return runtime is not None and bool(runtime.metrics.predictions)


def unsupported_fields(spec: Spec) -> tuple[str, ...]:
    """Name what has no effect: `path (what happens instead)`, in the order of the kind."""
    return tuple(f"spec.{path} ({instead})" for path, is_set, instead in _CHECKS if is_set(spec))
