"""The command line of `tritonserver`: what keeps it safe and well behaved.

Source: `tritonserver --help` and
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/customization_guide/deploy.html
"""

from pathlib import Path

from longshore_triton.wanted import Wanted

_CLOSED_APIS = "shared-memory,trace,logging"
"""APIs that map memory of the pod, write files or change the server for everybody."""

_BODY_LIMIT = 256 << 20
"""Largest request body in bytes, where the server has the flag for it."""

BODY_LIMIT_FLAG = "http-max-input-size"


def command(
    home: Path, repository: Path, wanted: Wanted, complete: bool, secret: str, traces: Path, limits_body: bool
) -> list[str]:
    """Build the command line.

    Args:
        home: where Triton is installed: `bin`, `backends`, `caches`.
        repository: the model repository.
        wanted: what the operator asks for.
        complete: every configuration says all, so that no model is started only to be asked.
        secret: a random word that opens the closed APIs; no client is told.
        traces: a directory for what tracing writes, which the API alone can switch on but not move.
        limits_body: the server knows the flag that bounds a request's body.
    """
    flags = {
        "model-repository": str(repository),
        "model-control-mode": "none",
        "exit-on-error": "true",
        "strict-readiness": "true",
        "backend-directory": str(home / "backends"),
        "cache-directory": str(home / "caches"),
        "http-port": str(wanted.http_port),
        "grpc-port": str(wanted.grpc_port),
        "metrics-port": str(wanted.metrics_port),
        "http-thread-count": str(min(16, 2 * wanted.cores + 2)),
        "http-restricted-api": f"{_CLOSED_APIS}:longshore={secret}",
        "grpc-restricted-protocol": f"{_CLOSED_APIS}:longshore={secret}",
        "grpc-max-connection-age": str(1000 * wanted.grpc_age_seconds),
        "exit-timeout-secs": str(wanted.exit_seconds),
        "log-format": "ISO8601",
        "allow-gpu-metrics": "true" if wanted.gpus else "false",
    }
    if complete:
        flags["disable-auto-complete-config"] = "true"
    if limits_body:
        flags[BODY_LIMIT_FLAG] = str(_BODY_LIMIT)
    if wanted.cache_bytes:
        flags["cache-config"] = f"local,size={wanted.cache_bytes}"
    if wanted.rate_resources or wanted.rate_priority:
        flags["rate-limit"] = "execution_count"
    if not wanted.gpus:
        flags["pinned-memory-pool-byte-size"] = "0"
    words = [str(home / "bin" / "tritonserver")]
    for name, value in flags.items():
        words.append(f"--{name}" if name == "disable-auto-complete-config" else f"--{name}={value}")
    if wanted.mirror_target:
        words += [
            f"--trace-config={word}" for word in ("mode=triton", f"triton,file={traces}/trace", "level=OFF")
        ]
    return words
