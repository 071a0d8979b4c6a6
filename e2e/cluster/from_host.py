"""What builds of images take from this host: its certificates, its package index, its proxies."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

CA_IN_BUILD = "/run/host-ca-certificates.crt"
"""Where a build sees the host's CA bundle: mounted while a command runs, never part of an image."""

PROXIES = tuple(
    spelled
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for spelled in (name, name.lower())
)
"""Build arguments that every Dockerfile has without declaring them."""

_CA_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
_CA_ARGUMENTS = ("PIP_CERT", "SSL_CERT_FILE")

CA_OPTIONS = tuple(f"--build-arg={name}={CA_IN_BUILD}" for name in _CA_ARGUMENTS)
"""Options that tell a build where the bundle is."""


def ca_bundle() -> Path | None:
    """The host's CA bundle, which may hold the authority of a proxy that inspects TLS."""
    for name in (os.environ.get("SSL_CERT_FILE", ""), *_CA_BUNDLES):
        if name and Path(name).is_file():
            return Path(name).resolve()
    return None


def with_secret(dockerfile: str, secret: str) -> str:
    """Mount a secret of BuildKit as CA bundle in the stages that declare that they take one.

    Docker mounts nothing into a build but what the Dockerfile names; the files themselves stay free of it, as
    buildah mounts the bundle by an option.
    """
    return "\n".join(_mounted(dockerfile, f"RUN --mount=type=secret,id={secret},target={CA_IN_BUILD} "))


def _mounted(dockerfile: str, run: str) -> Iterator[str]:
    takes = False
    for line in dockerfile.split("\n"):
        if line.startswith("FROM "):
            takes = False
        elif re.fullmatch(rf"ARG ({'|'.join(_CA_ARGUMENTS)})", line):
            takes = True
        yield re.sub("^RUN ", run, line) if takes else line
