"""The node's components in the order they start: command line, ports, how each shows that it is ready."""

import http.client
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from e2e.cluster.config import NODE
from e2e.cluster.errors import ClusterError
from e2e.cluster.network import (
    CLUSTER_RANGE,
    NODE_IP,
    REGISTRY_PORT,
    SERVICE_RANGE,
)
from e2e.cluster.paths import NodePaths
from e2e.cluster.processes import command_hash

API_PORT = 6443
_ETCD_PORT, _ETCD_PEER_PORT = 23790, 23800
_CRI_VERSION, _CRI_SECONDS = "/runtime.v1.RuntimeService/Version", 5.0


@dataclass(frozen=True)
class Component:
    """One program of the node.

    `ports` are (address, port) pairs that must be free before it starts; `files` is the configuration that it
    reads: when that or the command line changes, a running one is started anew.
    """

    name: str
    command: tuple[str, ...]
    ports: tuple[tuple[str, int], ...]
    ready: Callable[[], bool]
    files: tuple[Path, ...] = ()

    def fingerprint(self) -> str:
        """A short hash of the command line and the files it reads."""
        return command_hash([*self.command, *(path.read_text() for path in self.files)])


def components(paths: NodePaths, binaries: Path) -> tuple[Component, ...]:
    """All components; a later one may need the earlier ones ready."""
    return (
        _etcd(paths, binaries),
        _containerd(paths, binaries),
        _registry(paths, binaries),
        _api_server(paths, binaries),
        _controller_manager(paths, binaries),
        _scheduler(paths, binaries),
        _kubelet(paths, binaries),
        _kube_proxy(paths, binaries),
        _coredns(paths, binaries),
    )


def answers(address: str, port: int, path: str, context: ssl.SSLContext | None = None) -> bool:
    """Whether a GET of this path is answered with 200; over TLS when a context is given."""
    connection = (
        http.client.HTTPSConnection(address, port, timeout=5, context=context)
        if context
        else http.client.HTTPConnection(address, port, timeout=5)
    )
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return answer.status == http.HTTPStatus.OK


def client_context(paths: NodePaths) -> ssl.SSLContext:
    """TLS with the administrator's certificate, trusting the cluster's authority only."""
    context = ssl.create_default_context(cafile=str(paths.pki / "ca.crt"))
    context.load_cert_chain(paths.pki / "admin.crt", paths.pki / "admin.key")
    return context


def connects(address: str, port: int) -> bool:
    """Whether somebody listens there."""
    try:
        with socket.create_connection((address, port), timeout=2):
            return True
    except OSError:
        return False


def require_free(address: str, port: int, name: str) -> None:
    """Raise ClusterError when somebody listens where the component `name` wants to."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise ClusterError(
                f"{name} needs port {port} on {address}: {error.strerror}.\n"
                f"  next step: see who has it with `ss -lntp sport = :{port}`, and end that"
            ) from None


def _etcd(paths: NodePaths, binaries: Path) -> Component:
    return Component(
        name="etcd",
        command=(
            f"{binaries}/etcd",
            f"--data-dir={paths.root}/etcd",
            f"--listen-client-urls=http://127.0.0.1:{_ETCD_PORT}",
            f"--advertise-client-urls=http://127.0.0.1:{_ETCD_PORT}",
            f"--listen-peer-urls=http://127.0.0.1:{_ETCD_PEER_PORT}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{_ETCD_PEER_PORT}",
            f"--initial-cluster=default=http://127.0.0.1:{_ETCD_PEER_PORT}",
            # A killed process loses nothing by it, only a crashed machine does.
            "--unsafe-no-fsync",
            "--log-level=warn",
        ),
        ports=(("127.0.0.1", _ETCD_PORT), ("127.0.0.1", _ETCD_PEER_PORT)),
        ready=lambda: answers("127.0.0.1", _ETCD_PORT, "/readyz"),
    )


def _containerd(paths: NodePaths, binaries: Path) -> Component:
    def ready() -> bool:
        # Its socket is open before it takes calls of the CRI, and a kubelet that comes too early ends.
        with grpc.insecure_channel(f"unix://{paths.containerd_socket}") as channel:
            try:
                return bool(channel.unary_unary(_CRI_VERSION)(b"", timeout=_CRI_SECONDS))
            except grpc.RpcError:
                return False

    return Component(
        name="containerd",
        command=(f"{binaries}/containerd", "--config", f"{paths.config}/containerd.toml"),
        files=(paths.config / "containerd.toml",),
        ports=(),
        ready=ready,
    )


def _registry(paths: NodePaths, binaries: Path) -> Component:
    return Component(
        name="registry",
        command=(f"{binaries}/registry", "serve", f"{paths.config}/registry.yaml"),
        files=(paths.config / "registry.yaml",),
        ports=(("0.0.0.0", REGISTRY_PORT),),
        ready=lambda: answers("127.0.0.1", REGISTRY_PORT, "/v2/"),
    )


def _api_server(paths: NodePaths, binaries: Path) -> Component:
    pki = paths.pki
    return Component(
        name="kube-apiserver",
        command=(
            f"{binaries}/kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{_ETCD_PORT}",
            f"--secure-port={API_PORT}",
            f"--advertise-address={NODE_IP}",
            f"--cert-dir={pki}",
            f"--client-ca-file={pki}/ca.crt",
            f"--tls-cert-file={pki}/kube-apiserver.crt",
            f"--tls-private-key-file={pki}/kube-apiserver.key",
            f"--service-account-key-file={pki}/service-accounts.pub",
            f"--service-account-signing-key-file={pki}/service-accounts.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged",
            "--enable-admission-plugins=NodeRestriction",
            f"--kubelet-client-certificate={pki}/admin.crt",
            f"--kubelet-client-key={pki}/admin.key",
            # The node's name resolves nowhere.
            "--kubelet-preferred-address-types=InternalIP",
            f"--requestheader-client-ca-file={pki}/front-ca.crt",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={pki}/front-proxy-client.crt",
            f"--proxy-client-key-file={pki}/front-proxy-client.key",
            "--enable-aggregator-routing",
        ),
        ports=(("0.0.0.0", API_PORT),),
        ready=lambda: answers("127.0.0.1", API_PORT, "/readyz", client_context(paths)),
    )


def _controller_manager(paths: NodePaths, binaries: Path) -> Component:
    return Component(
        name="kube-controller-manager",
        command=(
            f"{binaries}/kube-controller-manager",
            f"--kubeconfig={paths.config}/kube-controller-manager.conf",
            "--use-service-account-credentials",
            f"--service-account-private-key-file={paths.pki}/service-accounts.key",
            f"--root-ca-file={paths.pki}/ca.crt",
            f"--cluster-cidr={CLUSTER_RANGE}",
            "--allocate-node-cidrs=false",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
        ),
        ports=(("127.0.0.1", 10257),),
        ready=lambda: answers("127.0.0.1", 10257, "/healthz", _unverified()),
    )


def _scheduler(paths: NodePaths, binaries: Path) -> Component:
    return Component(
        name="kube-scheduler",
        command=(
            f"{binaries}/kube-scheduler",
            f"--kubeconfig={paths.config}/kube-scheduler.conf",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
        ),
        ports=(("127.0.0.1", 10259),),
        ready=lambda: answers("127.0.0.1", 10259, "/healthz", _unverified()),
    )


def _kubelet(paths: NodePaths, binaries: Path) -> Component:
    return Component(
        name="kubelet",
        command=(
            f"{binaries}/kubelet",
            f"--config={paths.config}/kubelet.yaml",
            f"--kubeconfig={paths.config}/kubelet.conf",
            f"--hostname-override={NODE}",
            f"--node-ip={NODE_IP}",
            f"--root-dir={paths.kubelet}",
        ),
        files=(paths.config / "kubelet.yaml",),
        ports=((NODE_IP, 10250), ("127.0.0.1", 10248)),
        ready=lambda: answers("127.0.0.1", 10248, "/healthz"),
    )


def _kube_proxy(paths: NodePaths, binaries: Path) -> Component:
    return Component(
        name="kube-proxy",
        command=(f"{binaries}/kube-proxy", f"--config={paths.config}/kube-proxy.yaml"),
        files=(paths.config / "kube-proxy.yaml",),
        ports=(("127.0.0.1", 10249), ("127.0.0.1", 10256)),
        ready=lambda: answers("127.0.0.1", 10256, "/healthz"),
    )


def _coredns(paths: NodePaths, binaries: Path) -> Component:
    return Component(
        name="coredns",
        command=(f"{binaries}/coredns", "-conf", f"{paths.config}/Corefile"),
        files=(paths.config / "Corefile",),
        ports=((NODE_IP, 53),),
        ready=lambda: connects(NODE_IP, 53),
    )


def _unverified() -> ssl.SSLContext:
    """TLS without verification: these health endpoints use a certificate made at start, on loopback."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
