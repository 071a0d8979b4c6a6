"""A cluster of kind (Kubernetes in Docker), where Docker's engine and kind are at hand."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from e2e.cluster import from_host
from e2e.cluster.command import run, succeeds
from e2e.cluster.errors import ClusterError
from e2e.cluster.images import select
from e2e.cluster.paths import cache_root
from e2e.cluster.target import Environment, Part, Registry, Say

NAME = "longshore"
REGISTRY_NAME = "longshore-registry"
_REGISTRY_IMAGE = "docker.io/library/registry:3"
_REGISTRY_PORT = 5000
_CREATE_SECONDS = 15 * 60
_BUILD_SECONDS = 30 * 60
_CA_SECRET = "host-ca"

CONFIG = """\
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
featureGates:
  ImageVolume: true
containerdConfigPatches:
- |-
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/etc/containerd/certs.d"
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = "/etc/containerd/certs.d"
"""


def available() -> bool:
    """Whether kind is installed and Docker's engine answers."""
    return (
        shutil.which("kind") is not None
        and shutil.which("docker") is not None
        and succeeds(["docker", "info", "--format", "{{.ServerVersion}}"], seconds=15)
    )


class KindCluster:
    """A cluster named `longshore`, with a kubeconfig of its own: the user's is never written to."""

    def __init__(self) -> None:
        """The kubeconfig lies in the cache folder."""
        self._kubeconfig = cache_root() / "kind" / "admin.conf"

    def up(self, say: Say) -> Path:
        """Create the cluster and its registry where they do not exist."""
        _require()
        self._kubeconfig.parent.mkdir(parents=True, exist_ok=True)
        if NAME in _clusters():
            run(["kind", "export", "kubeconfig", *self._names()], seconds=60)
            say("the kind cluster runs already")
        else:
            say("creating a kind cluster")
            create = ["kind", "create", "cluster", *self._names(), "--config=-", "--wait=180s"]
            run(create, stdin=CONFIG, seconds=_CREATE_SECONDS)
        self._ensure_registry(say)
        return self._kubeconfig

    def down(self, say: Say) -> None:
        """Delete the cluster, its registry and its kubeconfig."""
        _require()
        if NAME in _clusters():
            say("deleting the kind cluster")
            run(["kind", "delete", "cluster", *self._names()], seconds=300)
        if succeeds(["docker", "inspect", REGISTRY_NAME]):
            run(["docker", "rm", "--force", "--volumes", REGISTRY_NAME])
        shutil.rmtree(self._kubeconfig.parent, ignore_errors=True)

    def status(self) -> list[Part]:
        """Whether the cluster and its registry run."""
        _require()
        exists = NAME in _clusters()
        registry = _registry_address() is not None
        return [
            Part("kind cluster", exists, NAME if exists else "not created: `make cluster`"),
            Part("registry", registry, REGISTRY_NAME if registry else "not running: `make cluster`"),
        ]

    def load_images(self, names: Sequence[str], say: Say, *, refresh: bool) -> None:
        """Build with Docker's engine (which skips what did not change) and load into the nodes."""
        _require()
        for source in select(names):
            say(f"building {source.reference}")
            pull = ["--pull"] if refresh else []
            build = ["docker", "build", *pull, "--network=host", "--file=-", f"--tag={source.reference}"]
            build += [f"--target={source.target}"] if source.target else []
            # Values of the environment, which may hold passwords, are not written into the command.
            taken = [name for name in ("PIP_INDEX_URL", *from_host.PROXIES) if os.environ.get(name)]
            build += [f"--build-arg={name}" for name in taken]
            text = source.dockerfile.read_text()
            if bundle := from_host.ca_bundle():
                build += [f"--secret=id={_CA_SECRET},src={bundle}", *from_host.CA_OPTIONS]
                text = from_host.with_secret(text, _CA_SECRET)
            buildkit = os.environ | {"DOCKER_BUILDKIT": "1"}
            run([*build, str(source.context)], stdin=text, seconds=_BUILD_SECONDS, env=buildkit)
            run(["kind", "load", "docker-image", "--name", NAME, source.reference], seconds=600)

    def environment(self) -> Environment:
        """The cluster's kubeconfig and its registry."""
        pods = _registry_address() if available() else None
        registry = Registry(
            nodes=f"localhost:{_REGISTRY_PORT}",
            pods=f"{pods or REGISTRY_NAME}:{_REGISTRY_PORT}",
            host=f"localhost:{_REGISTRY_PORT}",
        )
        return Environment(self._kubeconfig, None, registry)

    def _names(self) -> tuple[str, str]:
        return f"--name={NAME}", f"--kubeconfig={self._kubeconfig}"

    def _ensure_registry(self, say: Say) -> None:
        if _registry_address() is None:
            say("starting a registry beside it")
            publish = ["--publish", f"127.0.0.1:{_REGISTRY_PORT}:5000"]
            if succeeds(["docker", "inspect", REGISTRY_NAME]):
                run(["docker", "start", REGISTRY_NAME])
            else:
                start = ["docker", "run", "--detach", "--restart=always", "--network=kind"]
                run([*start, *publish, "--name", REGISTRY_NAME, _REGISTRY_IMAGE], seconds=600)
        folder = f"/etc/containerd/certs.d/localhost:{_REGISTRY_PORT}"
        hosts = f'[host."http://{REGISTRY_NAME}:5000"]\n'
        for each in run(["kind", "get", "nodes", "--name", NAME]).split():
            run(["docker", "exec", each, "mkdir", "-p", folder])
            write = ["docker", "exec", "--interactive", each, "cp", "/dev/stdin", f"{folder}/hosts.toml"]
            run(write, stdin=hosts)


def _require() -> None:
    if not available():
        raise ClusterError(
            "CLUSTER=kind needs the command kind and a Docker engine that answers `docker info`.\n"
            "  next step: install and start them, or use CLUSTER=local"
        )


def _clusters() -> list[str]:
    return run(["kind", "get", "clusters"]).split()


def _registry_address() -> str | None:
    """The registry's address in kind's network; None while it does not run."""
    try:
        (container,) = json.loads(run(["docker", "inspect", REGISTRY_NAME]))
        if not container["State"]["Running"]:
            return None
        return str(container["NetworkSettings"]["Networks"]["kind"]["IPAddress"]) or None
    except (ClusterError, ValueError, KeyError, TypeError):
        return None
