"""The Go toolchain: found on PATH, new enough or a sentence that says so."""

import os
import re
import shutil
from pathlib import Path

from e2e.cluster.command import run
from e2e.cluster.errors import ClusterError

OLDEST = (1, 26)
_NEXT_STEP = "install Go 1.26 or newer (https://go.dev/dl) and put its bin folder on PATH"


def environment() -> dict[str, str]:
    """The process environment without what would change the build: GOFLAGS, GOWORK, GOBIN, GOOS, GOARCH."""
    ours = {"GOFLAGS": "-buildvcs=false", "GOWORK": "off"}
    foreign = {"GOFLAGS", "GOWORK", "GOBIN", "GOOS", "GOARCH", "CGO_ENABLED"}
    return {name: value for name, value in os.environ.items() if name not in foreign} | ours


def parse_version(text: str) -> tuple[int, int] | None:
    """(major, minor) of what `go env GOVERSION` prints, e.g. `go1.26.8`; None when it is something else."""
    match = re.match(r"(?:go|devel go)(\d+)\.(\d+)", text.strip())
    return (int(match[1]), int(match[2])) if match else None


def require_go() -> str:
    """The path of a Go that is new enough. Raises ClusterError that says what to install otherwise."""
    go = shutil.which("go")
    if go is None:
        raise ClusterError(
            f"the cluster is built from source and there is no `go` on PATH.\n  next step: {_NEXT_STEP}"
        )
    found = run([go, "env", "GOVERSION"], cwd=Path("/")).strip()
    version = parse_version(found)
    if version is None:
        raise ClusterError(f"{go} does not tell its version, but {found[:300]!r}.\n  next step: {_NEXT_STEP}")
    if version < OLDEST:
        raise ClusterError(f"{go} is {found}, too old to build the cluster.\n  next step: {_NEXT_STEP}")
    return go
