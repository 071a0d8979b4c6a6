"""How a model reaches a pod: as an image volume where the node can pull it, else by an init container."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from longshore.api.model import Model
from longshore.api.optimize import Data, Optimize
from longshore.artifact.job import REQUEST_VARIABLE, JobRequest, Target
from longshore.resources.names import Owner
from longshore.resources.pod import environment, harden
from longshore.settings import Settings

CREDENTIALS_PATH = "/mnt/credentials"
"""Each Secret lies in a directory of its own name below this, so that messages can name it."""
PVC_PATH = "/mnt/pvc"
_MODEL = "model"
_STORE = "store"


@dataclass(frozen=True)
class ModelSource:
    """What a pod loads: an artifact of the optimize Job, or the model as the user named it.

    `image` is the image of server and model, where the Job made one.
    """

    model: Model
    artifact: str | None = None
    image: str | None = None

    @property
    def reference(self) -> str:
        """Give the uri that is loaded."""
        return self.artifact or self.model.uri


def image_volume(source: ModelSource, settings: Settings) -> dict[str, Any] | None:
    """Give the volume source that mounts the model's image, or None where the node cannot pull it."""
    reference = source.reference
    if source.artifact is None and source.model.credentials is not None:
        return None
    if source.artifact is None and source.model.sha256:
        reference = f"{reference.partition('@')[0]}@sha256:{source.model.sha256}"
    pulled = pulled_by_nodes(reference, settings)
    return {"reference": pulled, "pullPolicy": "IfNotPresent"} if pulled else None


def pulled_by_nodes(reference: str, settings: Settings) -> str | None:
    """Give the name by which nodes pull an image that pods know as `reference`; None where they cannot."""
    host, _, path = reference.removeprefix("oci://").partition("/")
    node_hosts = {registry.host: registry.node_host for registry in settings.node_registries}
    if not reference.startswith("oci://") or host not in node_hosts:
        return None
    return f"{node_hosts[host]}/{path}"


def pulled_by_pods(image: str, settings: Settings) -> str:
    """Give the name by which pods reach an image that nodes pull as `image`."""
    host, _, path = image.partition("/")
    hosts = {registry.node_host: registry.host for registry in settings.node_registries}
    return f"{hosts[host]}/{path}" if host in hosts else image


def fetch_container(owner: Owner, source: ModelSource, settings: Settings, path: str) -> dict[str, Any]:
    """Build the init container that fetches and verifies the model into `path`."""
    request = JobRequest(
        namespace=owner.namespace,
        name=owner.name,
        model=source.model,
        target=Target(),
        store=settings.store,
        store_plain_http=settings.store_plain_http,
    )
    variables = source_environment(request, settings)
    if source.artifact:
        variables["LONGSHORE_ARTIFACT"] = source.artifact
    return harden(
        {
            "name": "fetch",
            "image": settings.optimizer_image,
            "command": ["longshore-optimizer", "fetch", "--out", path],
            "env": environment(variables),
            "resources": {
                "requests": {"cpu": "50m", "memory": "128Mi"},
                "limits": {"cpu": "1", "memory": "1Gi"},
            },
            "volumeMounts": [
                {"name": "model", "mountPath": path},
                *source_mounts(source.model, None, settings),
            ],
        }
    )


def source_environment(request: JobRequest, settings: Settings) -> dict[str, str]:
    """Give what the optimizer image reads to fetch: the request, and where credentials and claims lie."""
    variables = {
        REQUEST_VARIABLE: request.model_dump_json(by_alias=True, exclude_none=True, exclude_defaults=True),
        "LONGSHORE_PVC_ROOT": PVC_PATH,
        "HOME": "/tmp",  # noqa: S108 (the pod's own emptyDir)
    }
    for role, secret in _secrets(request.model, request.optimize, settings).items():
        suffix = "" if role == _MODEL else f"_{role.upper()}"
        name = "LONGSHORE_STORE_CREDENTIALS" if role == _STORE else f"LONGSHORE_CREDENTIALS{suffix}"
        variables[name] = f"{CREDENTIALS_PATH}/{role}/{secret}"
    if settings.plain_http_registries:
        variables["LONGSHORE_PLAIN_HTTP_HOSTS"] = ",".join(settings.plain_http_registries)
    return variables


def source_mounts(model: Model, optimize: Optimize | None, settings: Settings) -> list[dict[str, Any]]:
    """Give the mounts of all credentials and of every claim that is named by a pvc:// uri."""
    mounts = [
        {"name": f"pvc-{index}", "mountPath": f"{PVC_PATH}/{claim}", "readOnly": True}
        for index, claim in enumerate(_claims(model, optimize))
    ]
    mounts += [
        {"name": f"credentials-{role}", "mountPath": f"{CREDENTIALS_PATH}/{role}/{secret}", "readOnly": True}
        for role, secret in _secrets(model, optimize, settings).items()
    ]
    return mounts


def source_volumes(model: Model, optimize: Optimize | None, settings: Settings) -> list[dict[str, Any]]:
    """Give the volumes of `source_mounts`.

    Secrets are optional so that an absent one is a sentence in status, not a pod that waits for ever.
    """
    volumes: list[dict[str, Any]] = [
        {"name": f"pvc-{index}", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
        for index, claim in enumerate(_claims(model, optimize))
    ]
    volumes += [
        {
            "name": f"credentials-{role}",
            "secret": {"secretName": secret, "optional": True, "defaultMode": 0o440},
        }
        for role, secret in _secrets(model, optimize, settings).items()
    ]
    return volumes


def _secrets(model: Model, optimize: Optimize | None, settings: Settings) -> dict[str, str]:
    """Map what credentials are for to the Secret that holds them."""
    found = {_MODEL: model.credentials.secret_name} if model.credentials else {}
    if optimize is not None:
        data = {
            "calibration": optimize.calibration,
            "evaluation": optimize.evaluation,
            "training": optimize.training,
            "metric": optimize.evaluation.function if optimize.evaluation else None,
        }
        found |= {role: d.credentials.secret_name for role, d in data.items() if d and d.credentials}
    if settings.store_secret:
        found[_STORE] = settings.store_secret
    return found


def _claims(model: Model, optimize: Optimize | None) -> tuple[str, ...]:
    data: tuple[Data | None, ...] = ()
    uris = [model.uri]
    if optimize is not None:
        function = optimize.evaluation.function if optimize.evaluation else None
        data = (optimize.calibration, optimize.evaluation, optimize.training, function)
        if optimize.training is not None:
            others = (optimize.training.teacher, optimize.training.student)
            uris += [uri for uri in others if uri is not None]
    parts = [urlsplit(uri) for uri in (*uris, *(d.uri for d in data if d))]
    return tuple(dict.fromkeys(part.netloc for part in parts if part.scheme == "pvc"))
