"""What can be added to a running cluster: a Gateway, with the kinds of the Gateway API, and those of KEDA."""

from pathlib import Path

from e2e.cluster.clients import programs_of_client
from e2e.cluster.definitions import GATEWAY_API, KEDA, Definitions, manifests
from e2e.cluster.kubectl import await_established, kubectl
from e2e.cluster.target import Say, Target

GATEWAY_NAMESPACE = "longshore-gateway"
GATEWAY_NAME = "longshore"
GATEWAY_PORTS = {"http": 8000, "grpc": 8001}
"""Listener -> port, of the Service `traefik` in the gateway's namespace."""

_MANIFEST = Path(__file__).parent / "gateway" / "traefik.yaml"
_READY_SECONDS = 120


def install_gateway_api(kubeconfig: Path, say: Say) -> None:
    """Install the kinds of the Gateway API (standard channel) in a cluster, as an API server alone is too."""
    _install(GATEWAY_API, kubeconfig, say)


def install_keda_kinds(kubeconfig: Path, say: Say) -> None:
    """Install KEDA's ScaledObject in a cluster, as an API server alone is too; nothing acts on it."""
    _install(KEDA, kubeconfig, say)


def _install(wanted: Definitions, kubeconfig: Path, say: Say) -> None:
    binaries = programs_of_client(say)
    folder = manifests(wanted)
    kubectl(binaries, kubeconfig, "apply", "--server-side", "--force-conflicts", "-f", folder, seconds=120)
    # Their files are called GROUP_PLURAL.yaml; one holds no definition but an admission policy.
    names = [path.stem.partition("_")[::2] for path in folder.glob("*_*.yaml")]
    definitions = [f"crd/{plural}.{group}" for group, plural in names if not plural.startswith("vap_")]
    await_established(binaries, kubeconfig, *sorted(definitions))


def install_gateway(target: Target, say: Say) -> str:
    """Install the Gateway API, Traefik as its controller and the Gateway `longshore`; returns its address.

    Raises ClusterError when the Gateway is not programmed within two minutes.
    """
    kubeconfig = target.environment().kubeconfig
    install_gateway_api(kubeconfig, say)
    target.load_images(["traefik"], say, refresh=False)
    binaries = programs_of_client(say)
    namespace = f"--namespace={GATEWAY_NAMESPACE}"
    kubectl(binaries, kubeconfig, "apply", "--server-side", "--force-conflicts", "-f", _MANIFEST)
    timeout = f"--timeout={_READY_SECONDS}s"
    seconds = _READY_SECONDS + 30
    rollout = ("rollout", "status", "deployment/traefik", timeout)
    kubectl(binaries, kubeconfig, namespace, *rollout, seconds=seconds)
    programmed = ("wait", "--for=condition=Programmed", f"gateway/{GATEWAY_NAME}", timeout)
    kubectl(binaries, kubeconfig, namespace, *programmed, seconds=seconds)
    address = ("get", "service", "traefik", "-o", "jsonpath={.spec.clusterIP}")
    return kubectl(binaries, kubeconfig, namespace, *address).strip()
