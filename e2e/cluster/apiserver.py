"""A real etcd and kube-apiserver and nothing else, in a temporary folder, for fast tests.

Starts in a few seconds; several run side by side on ports of their own. There is no kubelet, so nothing ever
runs; `controllers` starts a controller manager with just the named controllers beside it.
"""

import http.client
import os
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from e2e.cluster.build import programs_of_api_server
from e2e.cluster.errors import ClusterError
from e2e.cluster.kubeconfig import kubeconfig
from e2e.cluster.kubectl import kubectl
from e2e.cluster.pki import Authority, KeyPair, signing_key, write_private
from e2e.cluster.wait import last_lines, wait_for
from e2e.ports import free_ports

_START_SECONDS = 90
_TRIES = 5
_SERVICES = "10.96.0.0/16"
_NEXT_STEP = "read the whole log; on a busy machine run the test again"

# Leads the process group of one server's programs and kills it when its standard input closes, which happens
# when the process that started it ends: the programs of a test never outlive it, however it is killed.
_LIFELINE = "read -r _; kill -KILL 0"


@dataclass(frozen=True)
class ApiServer:
    """A running API server.

    `kubeconfig` is the administrator's (group system:masters); `certificate_authority`, `certificate` and
    `key` are the same credentials as PEM files; `binaries` holds kubectl.
    """

    directory: Path
    url: str
    kubeconfig: Path
    certificate_authority: Path
    certificate: Path
    key: Path
    binaries: Path
    _authority: Authority = field(repr=False)

    def kubeconfig_for(self, user: str, groups: Sequence[str] = ()) -> Path:
        """Write a kubeconfig for another user, to test what RBAC lets them do, and return its path."""
        pair = self._authority.issue(user, organizations=groups)
        path = self.directory / f"{user.replace(':', '-').replace('/', '-')}.conf"
        write_private(path, _kubeconfig(self.url, self._authority, user, pair))
        return path

    def kubectl(self, *arguments: str, stdin: str | None = None, seconds: float = 60) -> str:
        """Run kubectl as the administrator and return what it prints; raises ClusterError with its words."""
        return kubectl(self.binaries, self.kubeconfig, *arguments, stdin=stdin, seconds=seconds)


class _PortTakenError(Exception):
    """A port was free when asked for and taken when a program wanted it."""


@contextmanager
def start(
    directory: Path,
    *,
    controllers: Sequence[str] = (),
    definitions: Sequence[Path] = (),
    binaries: Path | None = None,
) -> Iterator[ApiServer]:
    """Run etcd and kube-apiserver below `directory` (made when missing) until the context ends.

    `controllers` names controllers of kube-controller-manager to run too, such as
    `garbage-collector-controller` or `namespace-controller`. `definitions` are files of
    CustomResourceDefinitions, served before the controllers start: the garbage collector looks for new kinds
    only every 30 s. Raises ClusterError when the API server does not become ready in 90 s.
    """
    programs = binaries or programs_of_api_server(lambda line: print(line, file=sys.stderr))
    for attempt in range(_TRIES):
        with ExitStack() as stack:
            try:
                server, group = _start(directory / f"try-{attempt}", programs, stack)
            except _PortTakenError:
                continue
            for path in definitions:
                server.kubectl("create", "-f", str(path))
                server.kubectl("wait", "--for=condition=Established", "--timeout=50s", "-f", str(path))
            if controllers:
                group.run(_controller_manager(programs, server.directory, controllers))
            yield server
            return
    raise ClusterError(
        f"no free port found in {_TRIES} tries.\n  next step: see with `ss -lnt` what takes so many ports"
    )


def _start(directory: Path, programs: Path, stack: ExitStack) -> "tuple[ApiServer, _Group]":
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    authority = Authority("cluster")
    admin = _write_credentials(directory, authority)
    client_port, peer_port, port = free_ports(3)
    url = f"https://127.0.0.1:{port}"
    write_private(directory / "admin.conf", _kubeconfig(url, authority, "admin", admin))
    group = stack.enter_context(_Group(directory))
    group.run(_etcd(programs, directory, client_port, peer_port))
    group.run(_kube_apiserver(programs, directory, client_port, port))
    server = ApiServer(
        directory=directory,
        url=url,
        kubeconfig=directory / "admin.conf",
        certificate_authority=directory / "ca.crt",
        certificate=directory / "admin.crt",
        key=directory / "admin.key",
        binaries=programs,
        _authority=authority,
    )
    context = ssl.create_default_context(cafile=str(server.certificate_authority))
    context.load_cert_chain(server.certificate, server.key)
    log = directory / "kube-apiserver.log"
    try:
        wait_for(
            "kube-apiserver",
            lambda: _ready(port, context),
            seconds=_START_SECONDS,
            log=log,
            alive=group.alive,
            next_step=_NEXT_STEP,
        )
    except ClusterError:
        if any("address already in use" in last_lines(path, 200) for path in directory.glob("*.log")):
            raise _PortTakenError from None
        raise
    return server, group


def _write_credentials(directory: Path, authority: Authority) -> KeyPair:
    """Write every certificate and key that the programs read; returns the administrator's."""
    server = authority.issue(
        "kube-apiserver", names=["localhost", "kubernetes.default.svc"], addresses=["127.0.0.1"]
    )
    server.write(directory, "server")
    admin = authority.issue("admin", organizations=["system:masters"])
    admin.write(directory, "admin")
    # The API server refuses one authority for both client certificates and the aggregation layer.
    front_authority = Authority("front-proxy")
    front_authority.issue("front-proxy-client").write(directory, "front-proxy-client")
    (directory / "ca.crt").write_bytes(authority.pair.certificate)
    (directory / "front-ca.crt").write_bytes(front_authority.pair.certificate)
    private, public = signing_key()
    write_private(directory / "service-accounts.key", private)
    (directory / "service-accounts.pub").write_bytes(public)
    return admin


def _etcd(programs: Path, directory: Path, client_port: int, peer_port: int) -> list[str]:
    return [
        str(programs / "etcd"),
        f"--data-dir={directory / 'etcd'}",
        f"--listen-client-urls=http://127.0.0.1:{client_port}",
        f"--advertise-client-urls=http://127.0.0.1:{client_port}",
        f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peer_port}",
        f"--initial-cluster=default=http://127.0.0.1:{peer_port}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _kube_apiserver(programs: Path, directory: Path, etcd_port: int, port: int) -> list[str]:
    return [
        str(programs / "kube-apiserver"),
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        # The endpoint of the `kubernetes` Service may not be a loopback address; nothing here dials it.
        "--advertise-address=192.0.2.1",
        f"--cert-dir={directory}",
        f"--client-ca-file={directory / 'ca.crt'}",
        f"--tls-cert-file={directory / 'server.crt'}",
        f"--tls-private-key-file={directory / 'server.key'}",
        f"--service-account-key-file={directory / 'service-accounts.pub'}",
        f"--service-account-signing-key-file={directory / 'service-accounts.key'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--requestheader-client-ca-file={directory / 'front-ca.crt'}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={directory / 'front-proxy-client.crt'}",
        f"--proxy-client-key-file={directory / 'front-proxy-client.key'}",
        f"--service-cluster-ip-range={_SERVICES}",
        "--authorization-mode=RBAC",
        "--allow-privileged",
        # Without a controller that makes the default ServiceAccounts, this plugin would refuse every Pod.
        "--disable-admission-plugins=ServiceAccount",
    ]


def _controller_manager(programs: Path, directory: Path, controllers: Sequence[str]) -> list[str]:
    return [
        str(programs / "kube-controller-manager"),
        f"--kubeconfig={directory / 'admin.conf'}",
        f"--controllers={','.join(controllers)}",
        "--leader-elect=false",
        "--secure-port=0",
        f"--cert-dir={directory}",
    ]


class _Group:
    """The programs of one server, in one process group that ends with this process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._programs: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self._leader = subprocess.Popen(
            ["/bin/sh", "-c", _LIFELINE], stdin=subprocess.PIPE, cwd=self._directory, process_group=0
        )
        return self

    def run(self, command: list[str]) -> None:
        with (self._directory / f"{Path(command[0]).name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                process_group=self._leader.pid,
            )
        self._programs.append(process)

    def alive(self) -> bool:
        return all(program.poll() is None for program in self._programs)

    def __exit__(self, *exception: object) -> None:
        # Nobody has waited for the leader yet, so its id cannot belong to anyone else.
        os.killpg(self._leader.pid, signal.SIGKILL)
        for process in (*self._programs, self._leader):
            process.wait(timeout=30)
        if self._leader.stdin:
            self._leader.stdin.close()


def _ready(port: int, context: ssl.SSLContext) -> bool:
    """Whether /readyz says ok and the first namespaces exist."""
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context)
    try:
        for path in ("/readyz", "/api/v1/namespaces/default"):
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            if answer.status != http.HTTPStatus.OK:
                return False
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def _kubeconfig(url: str, authority: Authority, user: str, pair: KeyPair) -> bytes:
    return kubeconfig(
        server=url, authority=authority.pair.certificate, user=user, credentials=pair, context="test"
    )
