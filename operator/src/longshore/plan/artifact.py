"""The stage Optimized: which artifact a revision loads, and the Job that makes it."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from longshore.api import Spec
from longshore.api.model import Format
from longshore.api.serving import Packaging
from longshore.api.status import MeasuredCandidate, Optimization
from longshore.artifact.job import JobReport, Outcome, ReportRow
from longshore.plan.diagnose import pod_problem, reason_of, report_of, unschedulable_again
from longshore.plan.engine import EngineStage
from longshore.plan.outcome import Deletion, Done, Problem, Waiting
from longshore.plan.revision import artifact_key
from longshore.plan.state import JobView, Observed, PodView
from longshore.plan.suspended import until_next_attempt, until_resumed
from longshore.resources.gpu import Gpu
from longshore.resources.job import job_request, optimize_job
from longshore.resources.kueue import queue_labels
from longshore.resources.model_source import ModelSource, pulled_by_nodes
from longshore.resources.names import RETRY
from longshore.resources.networkpolicy import optimizer_policy
from longshore.settings import Settings

BACKOFF_FIRST = 10.0
BACKOFF_MOST = 300.0
"""Seconds between attempts of a Job whose failure may pass by itself, doubling from the first."""

NODES_LOOK = 5.0
"""Seconds until the next look while the nodes are not known; news of them wakes the model earlier."""

_OUTSIDE = frozenset({"NotFound", "AccessDenied", "CredentialsMissing"})
"""Reasons that a change outside of the spec can mend: a file is uploaded, a Secret is made."""

_DEADLINE = "DeadlineExceeded"
_MEMORY_FIELD = "optimize.resources.limits.memory"
_CONVERTED = (
    ".pkl",
    ".pickle",
    ".joblib",
    ".skops",
    ".pt",
    ".pt2",
    ".pth",
    ".safetensors",
    ".keras",
    ".h5",
    ".tflite",
)
"""Names of files that hold another format than ONNX."""


@dataclass(frozen=True)
class Artifact:
    """What a revision loads, and what is known of how it was chosen."""

    source: ModelSource
    chosen: str | None = None
    digest: str | None = None
    optimization: Optimization | None = None
    gpu: Gpu | None = None
    """What its TensorRT engine was built for."""


@dataclass(frozen=True)
class ArtifactStage:
    """The outcome of the stage, and what it wants to stand."""

    outcome: Done[Artifact] | Waiting | Problem
    apply: tuple[Mapping[str, Any], ...] = ()
    delete: tuple[Deletion, ...] = ()


def needs_job(spec: Spec, engine: EngineStage) -> bool:
    """Tell whether a Job must run before anything can be served.

    Without `optimize`, an ONNX model is served as it is; another format is converted by a Job, which also
    makes the image of server and model, and TensorRT engines. Where the format is not named, the file's name
    decides; the pod's own check finds what the name hides.
    """
    if spec.optimize is not None or spec.serving.packaging is Packaging.IMAGE or engine.gpu is not None:
        return True
    if spec.model.format is not None:
        return spec.model.format not in (Format.ONNX, Format.TRITON_REPOSITORY)
    return spec.model.uri.lower().split("?")[0].endswith(_CONVERTED)


def decide(observed: Observed, spec: Spec, revision: str, engine: EngineStage) -> ArtifactStage:
    """Decide what the revision loads."""
    needed = needs_job(spec, engine)
    standing = observed.deployment(revision)
    # One that was served as it is has no use for an engine that is built later.
    if standing is not None and (standing.provenance.artifact or not needs_job(spec, EngineStage())):
        known = _known_optimization(observed, revision)
        source = ModelSource(spec.model, standing.provenance.artifact, standing.provenance.image)
        job = observed.job(_wanted(observed, spec, engine.gpu).key) if needed else None
        return ArtifactStage(
            Done(Artifact(source, standing.provenance.chosen, _digest(standing.provenance.artifact), known)),
            # Until the nodes are known, a Job may be at work on what the present GPU needs.
            delete=_superseded(observed, job) if engine.known else (),
        )
    if not needed:
        return ArtifactStage(Done(Artifact(ModelSource(spec.model))), delete=_superseded(observed, None))
    if not engine.known:
        looking = "the GPUs of the nodes are being looked at, as a TensorRT engine is built for one"
        return ArtifactStage(Waiting("Optimizing", looking, NODES_LOOK))
    return _by_job(observed, spec, revision, engine.gpu)


def stored_artifacts(observed: Observed) -> frozenset[str]:
    """Give the artifacts that finished Jobs report and that lie in the store."""
    messages = [end.message for pod in observed.pods if pod.job for end in pod.terminated]
    reports = [report for report in map(report_of, messages) if report]
    reported = [a for report in reports for a in (report.artifact, report.image) if a]
    return frozenset(a for a in reported if _is_in_store(a, observed.settings.store))


@dataclass(frozen=True)
class _Wanted:
    """What a Job is asked, under which key; `gpu` where it builds a TensorRT engine."""

    spec: Spec
    key: str
    gpu: Gpu | None


def _wanted(observed: Observed, spec: Spec, gpu: Gpu | None) -> _Wanted:
    settings = observed.settings
    own = spec.serving.triton.image if spec.serving.triton else None
    # The images decide the release of TensorRT that builds an engine, and the one that loads it.
    engine = (gpu.text, settings.tensorrt_image or "", own or settings.triton_image) if gpu else ()
    key = artifact_key(spec.model, spec.optimize, spec.serving, settings.server_image, engine)
    return _Wanted(spec, key, gpu)


def _by_job(observed: Observed, spec: Spec, revision: str, gpu: Gpu | None) -> ArtifactStage:
    if spec.serving.packaging is Packaging.IMAGE and not _nodes_pull_the_store(observed.settings):
        return ArtifactStage(_unpackable(observed.settings), delete=_superseded(observed, None))
    wanted = _wanted(observed, spec, gpu)
    job = observed.job(wanted.key)
    superseded = _superseded(observed, job)
    store = observed.settings.store
    if job is None:
        return _start(observed, wanted, 1, superseded)
    pod = _pod_of(observed, job)
    report = next((r for r in map(report_of, _messages(pod)) if r is not None), None)
    # The pods that helped may still be ending, or wait for a node: what the leader reports is all there is.
    if job.succeeded or (report is not None and report.outcome is Outcome.SUCCEEDED and not job.failed):
        if report is None or report.outcome is not Outcome.SUCCEEDED or report.artifact is None:
            # The pod and its report are gone; the store still knows the key, so the next attempt is short.
            lost = Problem("ReportLost", f"Job {job.name} succeeded, but what it reports is lost")
            first = job.attempt == 1
            return _try_again(observed, wanted, job, lost, superseded, 0.0 if first else None)
        if spec.serving.packaging is Packaging.IMAGE and report.image is None:
            older = Problem(
                "ArtifactRefused",
                f"Job {job.name} made no image of server and model: its optimizer image is older than the "
                "operator; install both from one release, then set longshore.dev/retry",
            )
            return ArtifactStage(older, delete=superseded)
        outside = [r for r in (report.artifact, report.image) if r and not _is_in_store(r, store)]
        if outside:
            refused = Problem(
                "ArtifactRefused",
                f"Job {job.name} names an artifact outside of the store {store}: "
                f"{outside[0][:200]}; check the optimizer image, then set longshore.dev/retry",
            )
            return ArtifactStage(refused, delete=superseded)
        artifact = Artifact(
            ModelSource(spec.model, report.artifact, report.image),
            _short(report.chosen),
            _short(report.artifact_sha256),
            _optimization(revision, job.name, report),
            gpu,
        )
        return ArtifactStage(Done(artifact), delete=superseded)
    if job.failed:
        return _failed(observed, wanted, job, pod, report, superseded)
    if job.suspended:
        return ArtifactStage(until_resumed(job), delete=superseded)
    if pod is not None and (pod.disrupted or pod.deleting):
        # One that was suspended and resumed has the pod from before for as long as that takes to end.
        left = "was taken from its node" if pod.disrupted else "is on its way out"
        message = f"pod {pod.name} {left}: Job {job.name} starts another"
        return ArtifactStage(Waiting("Optimizing", message), delete=superseded)
    if pod is not None:
        problem = _what_ails(job, pod, observed.now)
        if problem is not None:
            return ArtifactStage(problem, delete=superseded)
    again = unschedulable_again((pod,), observed.now) if pod is not None else None
    return ArtifactStage(
        Waiting(
            "Optimizing", f"Job {job.name} is at work; `kubectl logs -f job/{job.name}` shows how far", again
        ),
        delete=superseded,
    )


def _nodes_pull_the_store(settings: Settings) -> bool:
    return pulled_by_nodes(settings.store, settings) is not None


def _unpackable(settings: Settings) -> Problem:
    return Problem(
        "PackagingImpossible",
        f"serving.packaging is Image, and nodes cannot pull from the store {settings.store}: set it to "
        "Volume, or have the operator's store be a registry that its nodeRegistries name",
    )


def _start(
    observed: Observed, wanted: _Wanted, attempt: int, superseded: tuple[Deletion, ...]
) -> ArtifactStage:
    spec = wanted.spec
    request = job_request(
        observed.owner,
        spec.model,
        spec.optimize,
        spec.serving,
        spec.rollout.preflight.samples,
        observed.settings,
        wanted.gpu,
    )
    job = optimize_job(
        observed.owner,
        wanted.key,
        request,
        spec.serving,
        observed.settings,
        attempt,
        observed.annotations.get(RETRY),
        wanted.gpu,
        queue_labels(observed.labels),
    )
    name = job["metadata"]["name"]
    return ArtifactStage(
        Waiting("Optimizing", f"Job {name} is being started"),
        apply=(optimizer_policy(observed.owner), job),
        delete=superseded,
    )


def _failed(
    observed: Observed,
    wanted: _Wanted,
    job: JobView,
    pod: PodView | None,
    report: JobReport | None,
    superseded: tuple[Deletion, ...],
) -> ArtifactStage:
    problem, retryable = _why(observed, job, pod, report)
    if observed.annotations.get(RETRY) not in (None, job.retry):
        return _start(observed, wanted, job.attempt + 1, superseded)
    if not retryable:
        return ArtifactStage(problem, delete=superseded)
    return _try_again(observed, wanted, job, problem, superseded)


def _try_again(
    observed: Observed,
    wanted: _Wanted,
    job: JobView,
    problem: Problem,
    superseded: tuple[Deletion, ...],
    pause: float | None = None,
) -> ArtifactStage:
    """Start the next attempt after a pause that grows with every attempt, or after the one given."""
    if pause is None:
        pause = min(BACKOFF_FIRST * 2 ** min(job.attempt - 1, 20), BACKOFF_MOST)
    due = (job.finished if job.finished is not None else observed.now) + pause
    # A clock that jumped back must not postpone the next attempt without bound.
    left = min(due - observed.now, pause)
    if left <= 0:
        return _start(observed, wanted, job.attempt + 1, superseded)
    if job.suspended:
        return ArtifactStage(until_next_attempt(job, left), delete=superseded)
    message = f"{problem.message} (attempt {job.attempt}; the next follows by itself)"
    return ArtifactStage(Problem(problem.reason, message, again=left), delete=superseded)


def _why(
    observed: Observed, job: JobView, pod: PodView | None, report: JobReport | None
) -> tuple[Problem, bool]:
    # The kubelet knows why it ended the pod; the optimizer only that it was ended.
    ran_over = pod is not None and pod.reason == _DEADLINE
    if report is not None and not (ran_over and report.reason == _DEADLINE):
        retryable = report.retryable or report.reason in _OUTSIDE
        return Problem(reason_of(report, "OptimizeFailed"), report.message), retryable
    problem = _what_ails(job, pod, observed.now) if pod is not None else None
    if problem is not None:
        return problem, problem.reason not in ("OutOfMemory", _DEADLINE)
    return Problem(
        "OptimizeFailed", f"Job {job.name} failed and its pod is gone: {job.message or job.reason}"
    ), True


def _what_ails(job: JobView, pod: PodView, now: float) -> Problem | None:
    if pod.reason == _DEADLINE:
        return Problem(
            _DEADLINE,
            f"Job {job.name} ran past its deadline: raise optimize.budget.time or give it more CPU",
        )
    return pod_problem(pod, now, _MEMORY_FIELD)


def _pod_of(observed: Observed, job: JobView) -> PodView | None:
    """The latest pod that leads: of an Indexed Job the first alone reports."""
    pods = [pod for pod in observed.pods if pod.job == job.name and pod.job_index == 0]
    return max(pods, key=lambda pod: pod.created, default=None)


def _messages(pod: PodView | None) -> tuple[str, ...]:
    return tuple(end.message for end in pod.terminated) if pod else ()


def _superseded(observed: Observed, current: JobView | None) -> tuple[Deletion, ...]:
    """Give the Jobs that nothing waits for: of another spec, or an earlier attempt."""
    return tuple(
        Deletion("Job", job.name, job.uid)
        for job in observed.jobs
        if not job.deleting and (current is None or job.name != current.name)
    )


def _optimization(revision: str, job: str, report: JobReport) -> Optimization:
    return Optimization(
        revision=revision,
        job=job,
        metric=_short(report.metric),
        chosen=_short(report.chosen),
        candidates=tuple(_candidate(row) for row in report.rows[:64]),
        omitted=max(0, report.rows_omitted) + max(0, len(report.rows) - 64),
    )


def _candidate(row: ReportRow) -> MeasuredCandidate:
    return MeasuredCandidate(
        name=row.name[:128],
        verdict=row.verdict.value,
        drop=_finite(row.drop),
        drop_upper=_finite(row.drop_upper),
        p50_ms=_finite(row.p50_ms),
        p95_ms=_finite(row.p95_ms),
        size_bytes=row.size_bytes if row.size_bytes is None else min(row.size_bytes, 2**62),
        reason=row.reason[:1024],
    )


def _short(text: str | None) -> str | None:
    return None if text is None else text[:128]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _is_in_store(artifact: str, store: str) -> bool:
    """Whatever ran in the Job may have been led by the model: its word does not send pods elsewhere."""
    place = re.sub(r"(?<=/)([^/:]+):[^/]*$", r"\1", store.partition("?")[0].rstrip("/"))
    inside = artifact.removeprefix(place)
    return (
        inside != artifact and inside[:1] in ("/", "@", ":") and ".." not in inside and len(artifact) <= 1024
    )


def _known_optimization(observed: Observed, revision: str) -> Optimization | None:
    """Give what status already tells of this revision."""
    raw = observed.status.get("optimization")
    if not raw or raw.get("revision") != revision:
        return None
    return Optimization.model_validate(raw)


def _digest(artifact: str | None) -> str | None:
    return artifact.rpartition("@sha256:")[2] if artifact and "@sha256:" in artifact else None
