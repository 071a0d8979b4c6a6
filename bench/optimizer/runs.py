"""One model and seed: optimized as a user does, then timed against the original and the runtime's defaults.

Runs are kept in the cache, so that a bench that was stopped goes on with the next; another state of the
optimizer's sources, or another budget, measures anew.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import longshore_optimizer
import numpy as np
import onnx
from longshore.artifact.manifest import ORIGINAL, Manifest
from longshore_optimizer.measure import cpu
from longshore_optimizer.modeldir import onnx_size
from longshore_optimizer.techniques.coupling import products

from bench.optimizer import defaults
from bench.optimizer.cases import CASES, Case, Samples
from bench.optimizer.packages import CACHE


@dataclass(frozen=True)
class Run:
    """What one seed gave: factors over the original and over the best default that holds the gate.

    `default` is None where no default holds the gate, or in a brief run, which times none; `seconds` is
    what `longshore optimize` took.
    """

    chosen: str
    speed: float
    size: float
    drop: float
    products: float
    default: float | None
    seconds: float


@dataclass(frozen=True)
class Record:
    """A run as the results keep it: of which case and seed, with which budget, of which state of the
    sources."""

    case: str
    seed: int
    minutes: float
    sources: str
    run: Run

    def to_json(self) -> dict[str, Any]:
        """Give one flat row."""
        row = asdict(self)
        run = row.pop("run")
        return row | {k: round(v, 5) if isinstance(v, float) else v for k, v in run.items()}

    @classmethod
    def of_json(cls, row: dict[str, Any]) -> "Record":
        """Read what `to_json` gave."""
        run = Run(**{name: row[name] for name in Run.__dataclass_fields__})
        return cls(row["case"], row["seed"], row["minutes"], row["sources"], run)


def kept(case: Case, seed: int, minutes: float) -> Record | None:
    """Give a run that was measured before."""
    path = _path(case, seed, minutes)
    if not path.exists():
        return None
    return Record(case.name, seed, minutes, sources(), Run(**json.loads(path.read_text())))


def measure(case: Case, seed: int, minutes: float, limit: float) -> Record | str:
    """Run in a process of its own, for at most `limit` seconds; gives a sentence where that fails."""
    command = [sys.executable, "-m", "bench.optimizer.runs", case.name, str(seed), str(minutes)]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"seed {seed} did not end within {limit:g} s"
    return kept(case, seed, minutes) or f"seed {seed} failed with exit code {code}"


@cache
def sources() -> str:
    """Name the state of the optimizer's sources, and of this bench's."""
    digest = hashlib.sha256()
    home = Path(longshore_optimizer.__file__).parent
    for source in sorted([*home.rglob("*.py"), *Path(__file__).parent.glob("*.py")]):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def _path(case: Case, seed: int, minutes: float) -> Path:
    return CACHE / "runs" / sources() / f"{case.name}-{seed}-{minutes:g}.json"


def _write(samples: Samples, folder: Path) -> None:
    np.savez(folder / "calibration.npz", **samples.calibration)
    np.savez(folder / "evaluation.npz", **samples.evaluation)
    if samples.training is not None:
        np.savez(folder / "training.npz", **samples.training)


def _optimize(case: Case, model: Path, seed: int, minutes: float, folder: Path) -> tuple[Manifest, float]:
    started = time.monotonic()
    command = Path(sys.executable).parent / "longshore"
    options = {
        "--calibration": folder / "calibration.npz",
        "--evaluation": folder / "evaluation.npz",
        "--metric": case.metric.value,
        "--max-drop": case.max_drop,
        "--goal": case.goal.value.lower(),
        "--out": folder / "out",
        "--seed": seed,
        "--time": f"{round(minutes * 60)}s",
    }
    if (training := folder / "training.npz").exists():
        options["--training"] = training
    if case.size is not None:
        # A user who wants both speed and size says so.
        options["--max-size"] = int(onnx_size(model) / case.size)
    if case.technique is not None:
        options["--technique"] = case.technique
    arguments = [str(part) for pair in options.items() for part in pair]
    done = subprocess.run(
        [str(command), "optimize", str(model), *arguments, "--json"], stdout=subprocess.PIPE, check=True
    )
    return Manifest.model_validate_json(done.stdout), time.monotonic() - started


def _run(case: Case, seed: int, minutes: float) -> Run:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples = case.make()
        _write(samples, folder)
        model, chosen = samples.model, folder / "out" / "model.onnx"
        manifest, elapsed = _optimize(case, model, seed, minutes, folder)
        made = {} if case.brief(minutes) else defaults.build(model, folder / "calibration.npz", folder)
        changed = None if manifest.chosen == ORIGINAL else chosen
        faster, uppers = defaults.compare(
            model, changed, made, folder / "evaluation.npz", case.metric, cpu.usable_cores(), seed
        )
        fewer = 1.0
        if case.products is not None:
            # Without shapes every layer would count as if its output had one place.
            before, after = (onnx.shape_inference.infer_shapes(onnx.load(m)) for m in (model, chosen))
            fewer = products(before) / products(after)
    rows = {c.name: c for c in manifest.candidates}
    original, winner = rows[ORIGINAL], rows[manifest.chosen]
    held = [faster[n] for n, upper in uppers.items() if upper <= case.max_drop]
    for candidate in manifest.candidates:
        print(f"  {candidate.name}: {candidate.verdict.value}, {candidate.reason[:150]}", flush=True)
    for default, upper in uppers.items():
        print(f"  {default}: {faster[default]:.2f}x, bound of the drop {upper:.4f}", flush=True)
    return Run(
        chosen=manifest.chosen,
        speed=faster["chosen"],
        size=(original.size_bytes or 0) / (winner.size_bytes or 1),
        drop=winner.drop_upper or 0.0,
        products=fewer,
        default=faster["chosen"] / max(held) if held else None,
        seconds=elapsed,
    )


def main() -> None:
    """Measure one case with one seed, and keep the result."""
    name, seed, minutes = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    (case,) = (c for c in CASES if c.name == name)
    path = _path(case, seed, minutes)
    run = _run(case, seed, minutes)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(asdict(run)))
    unfinished.rename(path)
    print(f"{case.name} seed {seed}: {run}", flush=True)


if __name__ == "__main__":
    main()
