"""From an artifact to an engine that has answered: load, warm up, prove batching, measure."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from longshore_server.artifact import Artifact
from longshore_server.batcher import Engine
from longshore_server.cascade import Cascade
from longshore_server.cost import CostModel
from longshore_server.errors import ExitCode, StartupError
from longshore_server.guarded import GuardedSession, open_session
from longshore_server.recorded import find_recorded
from longshore_server.session import Session, SessionOptions
from longshore_server.warmup import (
    Attempts,
    Sample,
    find_sample,
    may_have_batch_axis,
    measure,
    proves_batching,
)

_log = logging.getLogger(__name__)
# Seconds. The search ends early as soon as something works; measuring takes as long as it needs to tell a
# from b.
_SEARCH_BUDGET = 30.0
_MEASURE_BUDGET = 0.05


@dataclass(frozen=True, slots=True)
class Loaded:
    """An engine that is ready. `batched`: whether rows of several requests may run together."""

    engine: Engine
    batched: bool
    cost: CostModel


def load(
    artifact: Artifact,
    options: SessionOptions,
    batching: str,
    max_rows: int,
    escalated: Callable[[int], None],
) -> Loaded:
    """Load and warm up. `batching` is `auto`, `on` or `off`. Raises `StartupError`."""
    engine = _engine(artifact, options, escalated)
    signature = engine.signature
    sample = _prove(artifact, engine)
    has_axis = may_have_batch_axis(signature)
    if batching == "on" and not has_axis:
        _log.warning(
            "--batching on has no effect: the model has no free leading dimension on every input and output"
        )
    if sample is None:
        return Loaded(engine, batching == "on" and has_axis, CostModel())
    batched = has_axis and batching != "off" and max_rows > 1
    if batched and batching == "auto" and not proves_batching(signature, engine.run, sample):
        batched = False
        _log.warning(
            "not shown that the model's answers stay the same when rows run together (dynamic quantization "
            "changes them): requests run one by one; --batching on joins them all the same"
        )
    cost = measure(signature, engine.run, sample, batched, max_rows, _MEASURE_BUDGET)
    return Loaded(engine, batched, cost)


def _prove(artifact: Artifact, engine: Engine) -> Sample | None:
    """Have the model answer inputs made up from its own shapes, else requests that were recorded for it.

    None: nothing is known that it must be able to answer. Raises `StartupError` where there is.
    """
    made_up = find_sample(engine.signature, engine.run, _SEARCH_BUDGET)
    if isinstance(made_up, Sample):
        return made_up
    recorded = artifact.samples and find_recorded(engine.signature, engine.run, artifact.samples)
    if isinstance(recorded, Sample):
        return recorded
    if isinstance(recorded, Attempts):
        raise StartupError(
            ExitCode.WARM_UP_FAILED,
            f"{artifact.model} fails on the rows of its evaluation data that lie beside it: "
            f"{recorded.last_error}; optimize it again, with the runtime's version that serves it",
        )
    if all(-1 not in spec.shape for spec in engine.signature.inputs):
        raise StartupError(
            ExitCode.WARM_UP_FAILED,
            f"{artifact.model} fails on inputs of its own shapes: {made_up.last_error}; export it again",
        )
    _log.warning(
        "no inference made at start succeeded (sizes tried for the free dimensions: %s; last error: %s): "
        "ready without proof; requests run one by one",
        ", ".join(map(str, made_up.sizes)),
        made_up.last_error,
    )
    return None


def _engine(artifact: Artifact, options: SessionOptions, escalated: Callable[[int], None]) -> Engine:
    session = open_session(artifact.model, options)
    _tell_placement(session, options.providers)
    if session.left_out:
        _log.warning("outputs that are no tensors are not served: %s", ", ".join(session.left_out))
    if artifact.cascade is None:
        return session
    return Cascade(session, open_session(artifact.cascade.large, options), artifact.cascade, escalated)


def _tell_placement(session: Session | GuardedSession, providers: Sequence[str]) -> None:
    if not session.operators:
        return
    _log.info("placed", extra={"fields": {"operators": session.operators}})
    for provider in providers:
        if provider not in session.operators and provider != "cpu":
            _log.warning(
                "no operator of the model runs on %s, which does not support them: --provider cpu serves it "
                "as well",
                provider,
            )
