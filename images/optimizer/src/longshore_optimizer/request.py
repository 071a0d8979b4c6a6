"""What one optimization is asked to do, once everything lies on the local disk."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from longshore.api.base import quantity, seconds
from longshore.api.model import Format
from longshore.api.optimize import Export, Goal, Metric, OnMiss, Optimize, TechniqueName
from longshore.artifact.job import Target

from longshore_optimizer.measure.process import Cores

if TYPE_CHECKING:
    from longshore_optimizer.ledger import Ledger
    from longshore_optimizer.parallel import Share

_SOURCES = frozenset({"uri", "credentials", "sha256", "function", "student"})
"""Fields that tell where something lies: the digests of what lies there count in their place."""

RESULTS_VERSION = "1"
"""Raised whenever the same request would give another artifact, so that old cached ones are not taken."""


@dataclass(frozen=True)
class Request:
    """Paths are of fetched, digest-checked files; times in seconds, sizes in bytes.

    `teacher` and `student` are models in any format, for distillation; `epochs` the most passes over the
    training data for one candidate. `share` is set where several workers search. `metric` and `max_drop`
    count only where there is evaluation data (or agreement is asked for by name). `samples` is how many rows
    of the data become sample requests in the artifact. `events` is a directory that trials are written to as
    TensorBoard events; in the work directory, by the name that it has in the artifact, it goes into that.
    """

    model: Path
    input_sha256: str
    uri: str | None
    work: Path
    out: Path
    cores: Cores
    format: Format | None = None
    allow_pickle: bool = False
    factory: str | None = None
    calibration: Path | None = None
    evaluation: Path | None = None
    training: Path | None = None
    teacher: Path | None = None
    student: Path | None = None
    epochs: int = 1000
    metric: Metric = Metric.ACCURACY
    metric_function: Path | None = None
    max_drop: float = 0.01
    confidence: float = 0.95
    goal: Goal = Goal.LATENCY
    techniques: tuple[TechniqueName, ...] = (TechniqueName.AUTO,)
    exports: tuple[Export, ...] = ()
    p95_limit_ms: float | None = None
    size_limit: int | None = None
    trials: int = 40
    seconds: float = 1800.0
    seed: int = 0
    samples: int = 16
    on_miss: OnMiss = OnMiss.SERVE_ORIGINAL
    optimize: bool = True
    key: str | None = None
    ledger: "Ledger | None" = None
    share: "Share | None" = None
    events: Path | None = None
    notes: tuple[str, ...] = field(default=())


def settings_of(optimize: Optimize | None) -> dict[str, object]:
    """Give the fields of a `Request` that come from `spec.optimize`."""
    if optimize is None:
        return {"optimize": False}
    limits = optimize.limits
    result: dict[str, object] = {
        "goal": optimize.goal,
        "techniques": optimize.techniques,
        "exports": optimize.exports,
        "trials": optimize.budget.trials,
        "seconds": seconds(optimize.budget.time),
        "seed": optimize.seed,
        "on_miss": optimize.on_miss,
    }
    if limits is not None and limits.p95 is not None:
        result["p95_limit_ms"] = seconds(limits.p95) * 1000
    if limits is not None and limits.size is not None:
        result["size_limit"] = int(quantity(limits.size))
    if optimize.training is not None:
        result["epochs"] = optimize.training.epochs
    if optimize.evaluation is not None:
        result |= {
            "metric": optimize.evaluation.metric,
            "max_drop": optimize.evaluation.max_drop,
            "confidence": optimize.evaluation.confidence,
        }
    return result


def artifact_key(
    input_sha256: str,
    data: Mapping[str, str],
    optimize: Optimize | None,
    target: Target,
    version: str,
    factory: str | None = None,
) -> str:
    """Hash of everything that decides an artifact; where the data lies and who may read it do not."""
    settings = None
    if optimize is not None:
        settings = optimize.model_dump(mode="json", exclude={"parallelism", "resources"})
        if not optimize.tensor_board:
            del settings["tensor_board"]
        for part in ("calibration", "evaluation", "training"):
            if settings.get(part):
                settings[part] = {
                    k: v
                    for k, v in settings[part].items()
                    if k not in _SOURCES and not (k == "teacher" and v)
                }
    content: dict[str, object] = {
        "input": input_sha256,
        "data": dict(sorted(data.items())),
        "optimize": settings,
        "target": target.model_dump(mode="json"),
        "version": f"{version}/{RESULTS_VERSION}",
    }
    if factory is not None:
        content["factory"] = factory
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
