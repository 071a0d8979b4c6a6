"""Makes the exports that were asked for and says in the table what became of each."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from longshore.api.optimize import Export
from longshore.artifact.manifest import Candidate, Verdict

from longshore_optimizer.exports.base import Exported, MissingDataError
from longshore_optimizer.exports.registry import EXPORTERS
from longshore_optimizer.measure.process import WorkerError
from longshore_optimizer.measure.workers import Workers
from longshore_optimizer.report import words

DIRECTORY = "exports"
"""Where exports lie in the artifact: `exports/<format>/`."""

WORKER = "longshore_optimizer.exports.worker"

_TIMEOUT = 900.0
_TIMEOUTS = {Export.TENSORRT: 1800.0}
"""Building an engine tries out many kernels of each layer on the GPU."""


@dataclass(frozen=True)
class Sources:
    """What exports are made from and compared on: the served model, the original for formats that need float
    arithmetic, and data."""

    model: Path
    original: Path
    data: Path | None
    calibration: Path | None


def make(
    exports: tuple[Export, ...], sources: Sources, out: Path, workers: Workers, seed: int
) -> tuple[Candidate, ...]:
    """Write each export to `out/<format>`; one row each, and no files of one that failed."""
    return tuple(_make(e, sources, out / e.value, workers, seed) for e in exports)


def _make(export: Export, sources: Sources, out: Path, workers: Workers, seed: int) -> Candidate:
    extra = EXPORTERS[export][2]
    shutil.rmtree(out, ignore_errors=True)
    with workers.start(WORKER) as worker:
        try:
            exported = worker.ask(
                Exported,
                _TIMEOUTS.get(export, _TIMEOUT),
                operation="export",
                export=export.value,
                model=str(sources.model),
                original=str(sources.original),
                data=str(sources.data) if sources.data else None,
                calibration=str(sources.calibration) if sources.calibration else None,
                out=str(out),
                threads=workers.cores.threads,
                seed=seed,
            )
        except WorkerError as error:
            shutil.rmtree(out, ignore_errors=True)
            if error.kind == "ModuleNotFoundError" and extra is not None:
                reason = f"this build is without {extra}: use an image with longshore-optimizer[{extra}]"
                return _row(export, Verdict.SKIPPED, reason)
            text = " ".join(str(error).split())[:300]
            if error.kind == MissingDataError.__name__:
                return _row(export, Verdict.SKIPPED, text)
            return _row(export, Verdict.FAILED, f"it cannot be written or run: {text}")
    if exported.agreement is not None and not exported.agreement >= exported.least_agreement:
        shutil.rmtree(out, ignore_errors=True)
        reason = (
            f"it answers differently: agreement {exported.agreement:.4f} on {exported.samples} samples, "
            f"{exported.least_agreement:g} is asked for"
        )
        return _row(export, Verdict.REFUSED, reason, exported)
    return _row(export, Verdict.KEPT, _kept(export, exported), exported)


def _kept(export: Export, exported: Exported) -> str:
    if exported.agreement is None:
        proof = f"not compared here: {exported.not_compared}"
    else:
        proof = (
            f"run with {exported.runtime} on {exported.samples} samples: agreement {exported.agreement:.6f}, "
            f"errors up to {exported.max_absolute_error:.3g} absolute, {exported.max_relative_error:.3g} "
            "relative"
        )
    source = ("made from the original, as the served model is quantized",) if exported.from_original else ()
    files = f"{DIRECTORY}/{export.value}: {', '.join(exported.files)}"
    return "; ".join((proof, *source, *exported.notes, files))


def _row(export: Export, verdict: Verdict, reason: str, exported: Exported | None = None) -> Candidate:
    return Candidate(
        name=f"export-{export.value}",
        technique=words.EXPORT,
        verdict=verdict,
        reason=reason,
        p50_ms=exported.p50_ms if exported else None,
        p95_ms=exported.p95_ms if exported else None,
        size_bytes=exported.size_bytes if exported else None,
    )
