"""The protocol of a technique and the facts that it decides on."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from longshore.api.optimize import Goal, TechniqueName

from longshore_optimizer.data import TensorSpec


class NotApplicableError(Exception):
    """A technique found, once at work, that it has nothing to do here; the message says why."""


class NothingBetterError(Exception):
    """A technique that searches spent its time and found nothing to offer; the message says what it asked
    for."""


@dataclass(frozen=True)
class ModelFacts:
    """What is known of the model without running it; sizes in bytes."""

    opset: int
    operators: Mapping[str, int]
    weight_bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def quantized(self) -> bool:
        """Whether the model holds integer arithmetic of a quantizer already."""
        return any(
            o.startswith("QLinear")
            or o in ("QuantizeLinear", "DequantizeLinear", "MatMulInteger", "ConvInteger")
            for o in self.operators
        )

    def count(self, *operators: str) -> int:
        """How many nodes are of one of these types."""
        return sum(self.operators.get(o, 0) for o in operators)


@dataclass(frozen=True)
class TargetFacts:
    """What the model will run on, what material there is, what is asked for (p95 in ms, size in bytes)."""

    cpu_flags: tuple[str, ...] = ()
    vnni: bool = True
    gpu: str | None = None
    calibration: bool = False
    training: bool = False
    student: bool = False
    goal: Goal = Goal.LATENCY
    p95_limit_ms: float | None = None
    size_limit: int | None = None


@dataclass(frozen=True)
class Proposal:
    """One candidate to build. A `lossless` one computes the same function up to rounding.

    One with `after` is an escalation: it is tried only where the candidate of that name lost too much
    quality. One that is `size_only` cannot be faster, so with another goal than Size it is tried last. One
    that `trains` gets a share of the time that is left.
    """

    name: str
    technique: TechniqueName
    parameters: dict[str, Any] = field(default_factory=dict)
    lossless: bool = False
    after: str | None = None
    size_only: bool = False
    trains: bool = False


@dataclass(frozen=True)
class Work:
    """What `apply` gets: the prepared model, where to write, data, a scratch directory and a time limit.

    `epochs` is the most passes over the training data; `teacher` an ONNX model that teaches in place of the
    original, `student` one that is taught in place of what is made from it.
    """

    model: Path
    out: Path
    parameters: dict[str, Any]
    calibration: Path | None
    scratch: Path
    seed: int
    threads: int
    training: Path | None = None
    seconds: float = 600.0
    epochs: int = 1000
    teacher: Path | None = None
    student: Path | None = None

    def passes(self, wanted: int) -> int:
        """Passes over the training data that a technique (or its parameters) wants, up to the limit."""
        return min(int(self.parameters.get("epochs", wanted)), self.epochs)


def lacks_weights(model: ModelFacts) -> str | None:
    """Say why there are no float32 weights to store otherwise, None where there are."""
    if model.quantized:
        return "the model is quantized already"
    return None if model.weight_bytes else "the model has no float32 weights"


def lacks_training(target: TargetFacts) -> str | None:
    """Say what is missing for techniques that train, None where nothing is."""
    if not target.training:
        return "it needs training data: add optimize.training"
    if importlib.util.find_spec("torch") is None:
        return "it needs PyTorch: use the image variant with it, or install longshore-optimizer[pytorch]"
    return None


class Technique(Protocol):
    """One way to make a model smaller or faster."""

    name: TechniqueName

    def applies(self, model: ModelFacts, target: TargetFacts) -> str | None:
        """Give why the technique cannot help here, None where it may."""
        ...

    def space(self, model: ModelFacts, target: TargetFacts) -> tuple[Proposal, ...]:
        """Give the candidates, the most promising first."""
        ...

    def apply(self, work: Work) -> None:
        """Write the new model to `work.out`; raises where it cannot be made."""
        ...
