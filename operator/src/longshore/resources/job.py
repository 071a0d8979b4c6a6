"""The optimize Job."""

from collections.abc import Mapping
from typing import Any

from longshore.api.base import seconds
from longshore.api.model import Model
from longshore.api.optimize import Optimize
from longshore.api.serving import Packaging, Serving
from longshore.artifact.job import JobRequest, Target
from longshore.resources.deployment import container_resources, serving_millicores
from longshore.resources.gpu import Gpu
from longshore.resources.model_source import (
    pulled_by_pods,
    source_environment,
    source_mounts,
    source_volumes,
)
from longshore.resources.names import ATTEMPT, KEY, OPTIMIZER, RETRY, Owner, job_name
from longshore.resources.pod import environment, pod_spec
from longshore.settings import Settings

WORK_PATH = "/work"
_WORK_LIMIT = "20Gi"
_OWN_CODES = [1, 2, 3, 4, 5, 6, 7]
"""Exit codes with which the optimizer tells a failure in its report."""

_ENGINE_SECONDS = 1800
"""The optimizer's own bound for building an engine and comparing it, after the search."""

_FETCH_SECONDS = 1800
"""Time for a Job without a search: fetching and converting only."""


def job_request(
    owner: Owner,
    model: Model,
    optimize: Optimize | None,
    serving: Serving,
    samples: int,
    settings: Settings,
    gpu: Gpu | None = None,
) -> JobRequest:
    """Give what the Job is asked; it measures for the CPU that a serving pod has.

    `samples` are the requests that a preflight asks; `gpu` is what a TensorRT engine is built for.
    """
    return JobRequest(
        namespace=owner.namespace,
        name=owner.name,
        model=model,
        optimize=optimize,
        target=Target(
            runtime=serving.runtime.value,
            cpu_millicores=serving_millicores(serving),
            gpu=gpu.text if gpu else None,
        ),
        store=settings.store,
        store_plain_http=settings.store_plain_http,
        samples=samples,
        server_image=pulled_by_pods(settings.server_image, settings)
        if serving.packaging is Packaging.IMAGE
        else None,
    )


def optimize_job(
    owner: Owner,
    key: str,
    request: JobRequest,
    serving: Serving,
    settings: Settings,
    attempt: int = 1,
    retry: str | None = None,
    gpu: Gpu | None = None,
    queue: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Build the Job for an artifact key.

    A disruption (drained or vanished node) starts the pod again; any other failure ends the Job, so that
    its reason is read and told. Source: Kubernetes "Pod failure policy". With `gpu` it runs on such a node,
    where it builds a TensorRT engine too. `queue` are the labels that Kueue goes by.
    """
    optimize = request.optimize
    resources = (
        {"requests": dict(optimize.resources.requests), "limits": dict(optimize.resources.limits)}
        if optimize and optimize.resources
        else _job_resources(serving)
    )
    container = {
        "name": "optimizer",
        "image": (settings.tensorrt_image if gpu else None) or settings.optimizer_image,
        "args": ["job"],
        "env": environment({**source_environment(request, settings), "LONGSHORE_WORK": WORK_PATH}),
        "resources": _with_gpu(resources, gpu),
        "volumeMounts": [
            {"name": "work", "mountPath": WORK_PATH},
            *source_mounts(request.model, optimize, settings),
        ],
    }
    volumes = [
        {"name": "work", "emptyDir": {"sizeLimit": _WORK_LIMIT}},
        *source_volumes(request.model, optimize, settings),
    ]
    spec = pod_spec(owner.name, [container], volumes)
    budget = seconds(optimize.budget.time) if optimize else _FETCH_SECONDS
    overlay = serving.pod_template
    spec |= {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": int(budget)
        + settings.job_active_deadline_grace
        + (_ENGINE_SECONDS if gpu else 0),
    }
    selector = {**overlay.node_selector, **(dict(gpu.labels) if gpu else {})}
    if selector:
        spec["nodeSelector"] = selector
    if gpu and overlay.runtime_class_name:
        spec["runtimeClassName"] = overlay.runtime_class_name
    if overlay.tolerations:
        spec["tolerations"] = [toleration.to_wire() for toleration in overlay.tolerations]
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    metadata = owner.metadata(job_name(owner, key, attempt), OPTIMIZER)
    metadata["labels"] |= {KEY: key, **(queue or {})}
    metadata["annotations"] = {ATTEMPT: str(attempt), **({RETRY: retry} if retry else {})}
    workers = optimize.parallelism if optimize else 1
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            **_workers(workers),
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    *_fatal(workers),
                ]
            },
            "template": {"metadata": {"labels": owner.labels(OPTIMIZER)}, "spec": spec},
        },
    }


def _with_gpu(resources: Mapping[str, Any], gpu: Gpu | None) -> Mapping[str, Any]:
    """Ask for one GPU, or one slice of the kind that serves."""
    if gpu is None:
        return resources
    return {**resources, "limits": {**resources["limits"], gpu.resource: "1"}}


def _workers(count: int) -> dict[str, Any]:
    """One pod, or an Indexed Job whose pods search side by side; a killed one is started again, as it goes on
    with what it had measured."""
    if count == 1:
        return {"backoffLimit": 0}
    return {
        "completionMode": "Indexed",
        "completions": count,
        "parallelism": count,
        "backoffLimit": count,
    }


def _fatal(count: int) -> list[dict[str, Any]]:
    """Say with which exit codes one of several pods ends the Job: the optimizer's own, which only the leader
    gives.

    The failure of a single pod ends it anyway, by `backoffLimit`. A rule would do so also when the Job is
    suspended: it holds for deleted pods as well, which count as no failure otherwise.
    """
    if count == 1:
        return []
    codes = {"containerName": "optimizer", "operator": "In", "values": _OWN_CODES}
    return [{"action": "FailJob", "onExitCodes": codes}]


def _job_resources(serving: Serving) -> dict[str, Any]:
    """Measure under the CPU of a serving pod, with 4 GiB: several candidates lie in memory at once."""
    resources = container_resources(serving)
    return {
        "requests": {**resources["requests"], "memory": "512Mi"},
        "limits": {**resources["limits"], "memory": "4Gi"},
    }
