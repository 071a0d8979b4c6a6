"""How a model reaches a pod: as an image volume where the node can pull it, else by an init container."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from longshore.api.model import Model
from longshore.artifact.job import REQUEST_VARIABLE, JobRequest, Target
from longshore.resources.names import Owner
from longshore.resources.pod import environment, harden
from longshore.settings import Settings

CREDENTIALS_PATH = "/mnt/credentials"
PVC_PATH = "/mnt/pvc"


@dataclass(frozen=True)
class ModelSource:
    """What a pod loads: an artifact of the optimize Job, or the model as the user named it."""

    model: Model
    artifact: str | None = None

    @property
    def reference(self) -> str:
        """Give the uri that is loaded."""
        return self.artifact or self.model.uri


def image_volume(source: ModelSource, settings: Settings) -> dict[str, Any] | None:
    """Give the volume source that mounts the model's image, or None where the node cannot pull it."""
    reference = source.reference
    private = source.artifact is None and source.model.credentials is not None
    if not reference.startswith("oci://") or private:
        return None
    host, _, path = reference.removeprefix("oci://").partition("/")
    node_hosts = {registry.host: registry.node_host for registry in settings.node_registries}
    if host not in node_hosts:
        return None
    if source.artifact is None and source.model.sha256:
        path = f"{path.partition('@')[0]}@sha256:{source.model.sha256}"
    return {"reference": f"{node_hosts[host]}/{path}", "pullPolicy": "IfNotPresent"}


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
            "volumeMounts": [{"name": "model", "mountPath": path}, *source_mounts(source.model)],
        }
    )


def source_environment(request: JobRequest, settings: Settings) -> dict[str, str]:
    """Give what the optimizer image reads to fetch: the request, and where credentials and claims lie."""
    variables = {
        REQUEST_VARIABLE: request.model_dump_json(by_alias=True, exclude_none=True, exclude_defaults=True),
        "LONGSHORE_CREDENTIALS": CREDENTIALS_PATH,
        "LONGSHORE_PVC_ROOT": PVC_PATH,
        "HOME": "/tmp",  # noqa: S108 (the pod's own emptyDir)
    }
    if request.model.credentials:
        variables["LONGSHORE_CREDENTIALS_SECRET"] = request.model.credentials.secret_name
    if settings.plain_http_registries:
        variables["LONGSHORE_PLAIN_HTTP_REGISTRIES"] = ",".join(settings.plain_http_registries)
    return variables


def source_mounts(model: Model, *more_uris: str) -> list[dict[str, Any]]:
    """Give the mounts of the credentials and of every claim that is named by a pvc:// uri."""
    mounts = [
        {"name": f"pvc-{index}", "mountPath": f"{PVC_PATH}/{claim}", "readOnly": True}
        for index, claim in enumerate(_claims(model.uri, *more_uris))
    ]
    if model.credentials:
        mounts.append({"name": "credentials", "mountPath": CREDENTIALS_PATH, "readOnly": True})
    return mounts


def source_volumes(model: Model, *more_uris: str) -> list[dict[str, Any]]:
    """Give the volumes of `source_mounts`.

    The Secret is optional so that its absence is a sentence in status, not a pod that waits for ever.
    """
    volumes: list[dict[str, Any]] = [
        {"name": f"pvc-{index}", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
        for index, claim in enumerate(_claims(model.uri, *more_uris))
    ]
    if model.credentials:
        volumes.append(
            {
                "name": "credentials",
                "secret": {
                    "secretName": model.credentials.secret_name,
                    "optional": True,
                    "defaultMode": 0o440,
                },
            }
        )
    return volumes


def _claims(*uris: str) -> tuple[str, ...]:
    parts = [urlsplit(uri) for uri in uris]
    return tuple(dict.fromkeys(part.netloc for part in parts if part.scheme == "pvc"))
