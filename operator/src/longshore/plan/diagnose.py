"""What is wrong with a pod, as a sentence with the next step."""

import re
from collections.abc import Iterable

from pydantic import ValidationError

from longshore.artifact.job import JobReport
from longshore.plan.outcome import Problem
from longshore.plan.state import Observed, PodView, Terminated

MEMORY_FIELD = "serving.resources.limits.memory"
"""The field of the spec that bounds a serving pod's memory."""

UNSCHEDULABLE_GRACE = 10.0
"""Seconds a pod may wait for a node before it is told: schedulers need a moment."""

_IMAGE_REASONS = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
_CONFIG_REASONS = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
OUT_OF_MEMORY = "OOMKilled"
"""Reason of the end of a container that used more memory than its limit."""
_REASON = re.compile(r"[A-Z][A-Za-z0-9]{0,63}")


def report_of(message: str) -> JobReport | None:
    """Read a termination message as the report of the optimizer; None when it is something else."""
    try:
        return JobReport.model_validate_json(message)
    except ValidationError:
        return None


def reason_of(report: JobReport, fallback: str) -> str:
    """Give the report's reason where it is a word as conditions take it; it comes from an untrusted pod."""
    return report.reason if _REASON.fullmatch(report.reason) else fallback


def pod_problem(pod: PodView, now: float, memory_field: str) -> Problem | None:
    """Say what keeps a pod from its work; None when nothing does.

    Args:
        pod: the pod.
        now: seconds since the epoch.
        memory_field: the field of the spec that bounds this pod's memory, for the advice.
    """
    for end in pod.terminated:
        if end.exit_code != 0:
            return _ended(pod, end, memory_field)
    for container, reason, message in pod.waiting:
        if reason in _IMAGE_REASONS:
            return Problem(
                "ImagePullFailed",
                f"container {container} of pod {pod.name} cannot get its image or model volume: "
                f"{message or reason}; check the reference and that the node reaches its registry",
            )
        if reason in _CONFIG_REASONS:
            return Problem(
                "PodRefused", f"container {container} of pod {pod.name} cannot start: {message or reason}"
            )
    if pod.unschedulable:
        since = pod.unschedulable_since if pod.unschedulable_since is not None else pod.created
        if now - since >= UNSCHEDULABLE_GRACE:
            return Problem(
                "Unschedulable",
                f"no node takes pod {pod.name}: {pod.unschedulable}; add capacity or ask for less",
            )
    if pod.phase == "Failed":
        return Problem(
            pod.reason or "PodFailed",
            f"pod {pod.name} failed: {pod.message or pod.reason or 'no message'}; "
            f"see `kubectl describe pod {pod.name}`",
        )
    return None


def pods_problem(observed: Observed, revision: str) -> Problem | None:
    """Say what keeps pods of a revision from being ready, or from being made at all."""
    found = starting_problem(observed.pods_of(revision), observed.now)
    if found is not None:
        return found
    standing = observed.deployment(revision)
    conditions = standing.conditions if standing else ()
    return refused_pods(((kind, status, message) for kind, status, _, message in conditions), revision)


def restart_problem(pods: Iterable[PodView]) -> Problem | None:
    """Say why the first of these pods whose containers run again had to; None when none ended badly."""
    ends = ((pod, end) for pod in sorted(pods, key=lambda p: p.name) for end in pod.ended_before)
    return next((_ended(pod, end, MEMORY_FIELD) for pod, end in ends if end.exit_code != 0), None)


def starting_problem(pods: Iterable[PodView], now: float) -> Problem | None:
    """Say what keeps the first of these pods that has a problem from being ready."""
    # A pod that its node or a drain took is replaced: the one that follows tells what is wrong, if anything.
    starting = [p for p in pods if not (p.deleting or p.disrupted or p.ready)]
    problems = (pod_problem(pod, now, MEMORY_FIELD) for pod in sorted(starting, key=lambda p: p.name))
    return next((p for p in problems if p is not None), None)


def refused_pods(conditions: Iterable[tuple[str, str, str]], revision: str) -> Problem | None:
    """Say why the cluster makes no pods, from a Deployment's conditions: type, status, message."""
    for kind, status, message in conditions:
        if kind == "ReplicaFailure" and status == "True":
            return Problem("PodRefused", f"the cluster refuses the pods of revision {revision}: {message}")
    return None


def missing_pods(observed: Observed, revision: str) -> Problem | None:
    """Say why a revision that answers has fewer pods than are wanted; None when they are on their way."""
    answers = any(pod.ready and not pod.deleting for pod in observed.pods_of(revision))
    return pods_problem(observed, revision) if answers else None


def unschedulable_again(pods: tuple[PodView, ...], now: float) -> float | None:
    """Give the seconds until a waiting pod counts as unschedulable; None when there is none."""
    left = [
        UNSCHEDULABLE_GRACE
        - (now - (p.unschedulable_since if p.unschedulable_since is not None else p.created))
        for p in pods
        if p.unschedulable
    ]
    return min((seconds for seconds in left if seconds > 0), default=None)


def _ended(pod: PodView, end: Terminated, memory_field: str) -> Problem:
    report = report_of(end.message)
    if report is not None:
        return Problem(reason_of(report, "Failed"), report.message)
    if end.reason == OUT_OF_MEMORY:
        return Problem(
            "OutOfMemory",
            f"container {end.container} of pod {pod.name} used more memory than its limit: "
            f"raise {memory_field}",
        )
    said = end.message.strip().splitlines()
    return Problem(
        "ContainerFailed" if end.container != "server" else "ServerFailed",
        f"container {end.container} of pod {pod.name} ended with exit code {end.exit_code}: "
        + (said[-1] if said else f"{end.reason or 'no message'}; see its log"),
    )
