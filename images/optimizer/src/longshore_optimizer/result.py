"""Writes the artifact: the model, its manifest and the reports, visible only once all of it is there."""

import os
import shutil
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from longshore.artifact.manifest import (
    EVENTS_NAME,
    MANIFEST_NAME,
    MODEL_NAME,
    ORIGINAL,
    SAMPLES_NAME,
    Candidate,
    Conversion,
    Environment,
    InputModel,
    Manifest,
    OutputModel,
    Tensor,
    Verdict,
)

from longshore_optimizer import modeldir, samples
from longshore_optimizer.cascade import CASCADE_NAME
from longshore_optimizer.convert.protocol import Converted
from longshore_optimizer.data import Dataset, TensorSpec
from longshore_optimizer.decide import Decision, Trial
from longshore_optimizer.exports import run as exports
from longshore_optimizer.fetch.sink import disk_problem
from longshore_optimizer.measure import cpu
from longshore_optimizer.measure.workers import Workers
from longshore_optimizer.report import html, markdown
from longshore_optimizer.request import Request
from longshore_optimizer.samples import WIRE_TYPES
from longshore_optimizer.techniques.base import ModelFacts
from longshore_optimizer.verify import Runnable


@dataclass(frozen=True)
class Result:
    """Everything that the artifact is made from; a few rows of `recorded` become sample requests."""

    request: Request
    original_path: Path
    chosen_path: Path
    runnable: Runnable
    original: Trial
    decision: Decision
    format: str = ""
    conversion: Converted | None = None
    facts: ModelFacts | None = None
    notes: tuple[str, ...] = ()
    exports: tuple[Candidate, ...] = ()
    recorded: Dataset | None = None


def tensor(spec: TensorSpec) -> Tensor:
    """Describe an input or output as the manifest does."""
    return Tensor(name=spec.name, dtype=WIRE_TYPES[spec.dtype], shape=spec.symbols)


def candidate(trial: Trial) -> Candidate:
    """Give a trial's row of the manifest."""
    latency = trial.latency if trial.latency is not None and trial.latency.rounds else None
    return Candidate(
        name=trial.proposal.name,
        technique="Original" if trial.proposal.name == ORIGINAL else trial.proposal.technique.value,
        parameters=trial.proposal.parameters,
        metric=trial.metric,
        drop=trial.drop.estimate if trial.drop is not None else None,
        drop_upper=trial.drop.upper if trial.drop is not None else None,
        p50_ms=latency.p50 if latency else None,
        p95_ms=latency.p95 if latency else None,
        cpu_ms=statistics.median(latency.cpu_rounds) if latency else None,
        size_bytes=trial.size_bytes,
        verdict=trial.verdict or Verdict.FAILED,
        reason=trial.reason,
    )


def make_exports(result: Result, workers: Workers) -> tuple[Candidate, ...]:
    """Write the exports of the chosen model to the work directory; one row each."""
    request = result.request
    sources = exports.Sources(
        result.chosen_path,
        result.original_path,
        request.evaluation or request.calibration,
        request.calibration,
    )
    return exports.make(
        request.exports,
        sources,
        request.work / exports.DIRECTORY,
        workers,
        request.seed,
    )


def manifest_of(result: Result) -> Manifest:
    """Build the manifest; digests are taken from the files that are written."""
    request = result.request
    rows = (
        [candidate(result.original), *(candidate(t) for t in result.decision.trials)]
        if request.optimize
        else []
    )
    rows += result.exports
    return Manifest(
        input=InputModel(
            sha256=request.input_sha256,
            format=result.format,
            uri=request.uri,
            size_bytes=modeldir.onnx_size(result.original_path),
        ),
        output=OutputModel(
            sha256=modeldir.onnx_sha256(result.chosen_path),
            size_bytes=modeldir.onnx_size(result.chosen_path),
            inputs=tuple(tensor(s) for s in result.runnable.inputs),
            outputs=tuple(tensor(s) for s in result.runnable.outputs),
        ),
        chosen=result.decision.chosen,
        metric=request.metric.value if request.evaluation is not None else None,
        goal=request.goal.value if request.optimize else None,
        candidates=tuple(rows),
        environment=Environment(
            cpu_flags=cpu.cpu_flags(),
            versions=cpu.versions(),
            seed=request.seed,
            cpus=request.cores.limit,
            threads=result.original.latency.threads if result.original.latency else None,
        ),
        key=request.key,
        conversion=Conversion.model_validate(result.conversion.model_dump()) if result.conversion else None,
        notes=result.notes,
    )


def write(result: Result) -> Manifest:
    """Write the artifact to the request's output directory; files appear whole, the manifest last.

    Raises:
        Problem: DiskFull or StoreFailed; what stood there before is kept then.
    """
    manifest = manifest_of(result)
    out = result.request.out
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Inside a directory that exists (it may be a mount), else beside the new one: renames must not
        # cross disks.
        where = out if out.is_dir() else out.parent
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=where) as staging_name:
            staging = Path(staging_name) / "artifact"
            staging.mkdir(mode=0o755)
            modeldir.copy_onnx(result.chosen_path, staging)
            if (result.chosen_path.parent / CASCADE_NAME).is_file():
                shutil.copytree(result.chosen_path.parent, staging, dirs_exist_ok=True)
            exported = result.request.work / exports.DIRECTORY
            if result.exports and exported.is_dir():
                shutil.copytree(exported, staging / exports.DIRECTORY)
            events = result.request.work / EVENTS_NAME
            if result.request.events == events and events.is_dir():
                shutil.copytree(events, staging / EVENTS_NAME)
            (staging / MANIFEST_NAME).write_text(manifest.model_dump_json(by_alias=True, indent=2) + "\n")
            if result.recorded is not None and result.request.samples:
                file = staging / SAMPLES_NAME
                samples.write(result.recorded, result.runnable.inputs, result.request.samples, file)
            if result.request.optimize:
                (staging / "report.md").write_text(markdown.render(manifest))
                (staging / "report.html").write_text(html.render(manifest))
            _publish(staging, out)
    except OSError as error:
        raise disk_problem(error, f"the artifact in {out}") from error
    return manifest


def _publish(staging: Path, out: Path) -> None:
    """Move the staged files into place: by one rename where nothing stands there yet, else the manifest
    last."""
    if not out.exists():
        os.rename(staging, out)
        return
    # A reader takes an artifact without manifest as unfinished, so the old one goes first.
    (out / MANIFEST_NAME).unlink(missing_ok=True)
    files = sorted(p for p in staging.rglob("*") if p.is_file())
    for path in sorted(files, key=lambda p: (p.name == MANIFEST_NAME, p.name == MODEL_NAME)):
        target = out / path.relative_to(staging)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
