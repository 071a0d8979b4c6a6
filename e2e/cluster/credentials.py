"""The certificates of a node and a kubeconfig for each component that talks to the API server."""

import os
import shutil
import tempfile
from pathlib import Path

from e2e.cluster.components import API_PORT
from e2e.cluster.config import NODE
from e2e.cluster.kubeconfig import kubeconfig
from e2e.cluster.network import API_SERVICE_IP, NODE_IP
from e2e.cluster.paths import NodePaths
from e2e.cluster.pki import Authority, KeyPair, signing_key, write_private

CONTEXT = "longshore-local"
_SERVICE_NAMES = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]


def ensure(paths: NodePaths) -> None:
    """Make all certificates and kubeconfigs once; a run that was killed half way leaves none behind."""
    if not paths.pki.is_dir():
        paths.root.mkdir(parents=True, exist_ok=True)
        for left in paths.root.glob(".pki-*"):
            shutil.rmtree(left)
        partial = Path(tempfile.mkdtemp(prefix=".pki-", dir=paths.root))
        _write_all(partial)
        partial.chmod(0o755)
        _give_to_caller(partial / "admin.conf")
        partial.rename(paths.pki)
    for name in ("kubelet", "kube-controller-manager", "kube-scheduler", "kube-proxy", "coredns"):
        _link(paths.config / f"{name}.conf", paths.pki / f"{name}.conf")
    _link(paths.kubeconfig, paths.pki / "admin.conf")


def _write_all(folder: Path) -> None:
    authority = Authority("longshore-cluster")
    # The API server refuses one authority for both client certificates and the aggregation layer.
    front_authority = Authority("longshore-front-proxy")
    (folder / "ca.crt").write_bytes(authority.pair.certificate)
    (folder / "front-ca.crt").write_bytes(front_authority.pair.certificate)
    front_authority.issue("front-proxy-client").write(folder, "front-proxy-client")
    private, public = signing_key()
    write_private(folder / "service-accounts.key", private)
    (folder / "service-accounts.pub").write_bytes(public)
    names = ["localhost", *_SERVICE_NAMES, "kubernetes.default.svc.cluster.local"]
    addresses = ["127.0.0.1", API_SERVICE_IP, NODE_IP]
    authority.issue("kube-apiserver", names=names, addresses=addresses).write(folder, "kube-apiserver")
    users = {
        "kubelet": authority.issue(
            f"system:node:{NODE}",
            organizations=["system:nodes"],
            names=[NODE],
            addresses=["127.0.0.1", NODE_IP],
        ),
        "kube-controller-manager": authority.issue("system:kube-controller-manager"),
        "kube-scheduler": authority.issue("system:kube-scheduler"),
        "kube-proxy": authority.issue("system:kube-proxy"),
        "coredns": authority.issue("coredns", organizations=["system:masters"]),
        "admin": authority.issue("admin", organizations=["system:masters"]),
    }
    for user, pair in users.items():
        pair.write(folder, user)
        write_private(folder / f"{user}.conf", _kubeconfig(authority, user, pair))


def _give_to_caller(path: Path) -> None:
    """Under sudo, the administrator's kubeconfig is for the user who called it."""
    user, group = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    if user.isdecimal() and group.isdecimal():
        os.chown(path, int(user), int(group))


def _kubeconfig(authority: Authority, user: str, pair: KeyPair) -> bytes:
    server = f"https://127.0.0.1:{API_PORT}"
    return kubeconfig(
        server=server,
        authority=authority.pair.certificate,
        user=user,
        credentials=pair,
        context=CONTEXT,
    )


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(target)
