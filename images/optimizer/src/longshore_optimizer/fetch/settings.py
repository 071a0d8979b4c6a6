"""How fetching is bounded and what the environment allows: one value, read once at the border."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

GIBIBYTE = 2**30

ProgressCallback = Callable[[int, int | None], None]
"""Called with the bytes received so far and the total, None where the source does not tell it."""


def _silent(done: int, total: int | None) -> None:
    del done, total


@dataclass(frozen=True)
class FetchSettings:
    """Bounds of one fetch; sizes in bytes, times in seconds.

    `allow_http` lets `http://` be used for any host; without it only loopback addresses are reached in clear.
    `plain_http_hosts` are registries (`host` or `host:port`) that speak HTTP without TLS.
    `credentials` is a directory laid out as a mounted Secret.
    """

    max_bytes: int = 20 * GIBIBYTE
    max_files: int = 10_000
    deadline: float = 1800.0
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    attempts: int = 5
    allow_http: bool = False
    allow_file: bool = False
    plain_http_hosts: frozenset[str] = frozenset()
    volume_root: Path = Path("/mnt/pvc")
    credentials: Path | None = None
    hub_endpoint: str = "https://huggingface.co"
    progress: ProgressCallback = field(default=_silent, compare=False)


def from_environment(environ: Mapping[str, str] = os.environ) -> FetchSettings:
    """Read the settings from `LONGSHORE_*` variables; the package's README lists them."""
    credentials = environ.get("LONGSHORE_CREDENTIALS")
    hosts = environ.get("LONGSHORE_PLAIN_HTTP_HOSTS", "")
    return FetchSettings(
        max_bytes=int(environ.get("LONGSHORE_MAX_FETCH_BYTES", str(20 * GIBIBYTE))),
        deadline=float(environ.get("LONGSHORE_FETCH_DEADLINE", "1800")),
        attempts=int(environ.get("LONGSHORE_FETCH_ATTEMPTS", "5")),
        allow_http=environ.get("LONGSHORE_ALLOW_HTTP", "").lower() in ("1", "true", "yes"),
        plain_http_hosts=frozenset(h.strip() for h in hosts.split(",") if h.strip()),
        volume_root=Path(environ.get("LONGSHORE_PVC_ROOT", "/mnt/pvc")),
        credentials=Path(credentials) if credentials else None,
        hub_endpoint=environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/"),
    )
