"""The termination message: at most 4096 bytes, the most telling rows first."""

import os
from pathlib import Path

from longshore.artifact.job import REPORT_LIMIT, JobReport, Outcome, ReportRow
from longshore.artifact.manifest import ORIGINAL, Candidate, Manifest, Verdict

from longshore_optimizer.errors import Problem
from longshore_optimizer.store.base import Stored

_MESSAGE = 1024
_REASON = 160
_ORDER = [Verdict.CHOSEN, Verdict.KEPT, Verdict.REFUSED, Verdict.FAILED, Verdict.SKIPPED]


def failed(problem: Problem) -> JobReport:
    """Report of a Job that ended with a problem."""
    return JobReport(
        outcome=Outcome.FAILED,
        reason=problem.reason,
        message=shorten(problem.message, _MESSAGE),
        retryable=problem.retryable,
    )


def succeeded(
    manifest: Manifest, stored: Stored | None, *, cached: bool, image: str | None = None
) -> JobReport:
    """Report of a Job that stored an artifact."""
    return JobReport(
        outcome=Outcome.SUCCEEDED,
        reason="Optimized" if manifest.chosen != ORIGINAL else "OriginalKept",
        message=_summary(manifest),
        artifact=stored.reference if stored else None,
        artifact_sha256=stored.sha256 if stored else None,
        image=image,
        input_sha256=manifest.input.sha256,
        format=manifest.input.format,
        chosen=manifest.chosen,
        metric=manifest.metric,
        rows=tuple(_row(c) for c in _ordered(manifest.candidates)),
        cached=cached,
    )


def _ordered(candidates: tuple[Candidate, ...]) -> list[Candidate]:
    return sorted(
        candidates, key=lambda c: (c.name != ORIGINAL, _ORDER.index(c.verdict), c.p50_ms or float("inf"))
    )


def _row(candidate: Candidate) -> ReportRow:
    return ReportRow(
        name=candidate.name,
        verdict=candidate.verdict,
        drop=_round(candidate.drop),
        drop_upper=_round(candidate.drop_upper),
        p50_ms=_round(candidate.p50_ms),
        p95_ms=_round(candidate.p95_ms),
        size_bytes=candidate.size_bytes,
        reason=shorten(candidate.reason, _REASON),
    )


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _summary(manifest: Manifest) -> str:
    original = next((c for c in manifest.candidates if c.name == ORIGINAL), None)
    chosen = next((c for c in manifest.candidates if c.name == manifest.chosen), None)
    if original is None or chosen is None:
        return "the model is stored as it is: no optimization was asked for"
    if chosen is original:
        return shorten(f"the original is served: {original.reason}", _MESSAGE)
    return shorten(f"{chosen.name} is served: {chosen.reason}", _MESSAGE)


def shorten(text: str, limit: int) -> str:
    """Cut a text to `limit` bytes of UTF-8."""
    raw = text.encode()
    return text if len(raw) <= limit else raw[: limit - 3].decode(errors="ignore") + "..."


def encode(report: JobReport) -> bytes:
    """Give the report as JSON of at most `REPORT_LIMIT` bytes: reasons are cut first, then the last rows
    go."""
    dropped = 0
    limit = _REASON
    while True:
        rows = tuple(r.model_copy(update={"reason": shorten(r.reason, limit)}) for r in report.rows)
        rows = rows[: len(rows) - dropped]
        body = report.model_copy(update={"rows": rows, "rows_omitted": dropped})
        raw = body.model_dump_json(by_alias=True, exclude_none=True, exclude_defaults=False).encode()
        if len(raw) <= REPORT_LIMIT:
            return raw
        if limit > 48:
            limit //= 2
        elif dropped < len(report.rows):
            dropped += 1
        else:
            report = report.model_copy(update={"message": shorten(report.message, len(report.message) // 2)})


def write(report: JobReport, path: Path | None = None) -> None:
    """Write the termination message where the kubelet reads it."""
    target = path or Path(os.environ.get("LONGSHORE_TERMINATION_LOG", "/dev/termination-log"))
    target.write_bytes(encode(report))
