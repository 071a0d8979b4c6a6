"""The server's settings: every one is a flag, and every flag also an environment variable.

`--max-batch-size 32` is `LONGSHORE_SERVER_MAX_BATCH_SIZE=32`; the flag wins.
"""

import argparse
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from longshore_server import __version__
from longshore_server.errors import ExitCode, StartupError
from longshore_server.providers import FULL_NAMES

ENVIRONMENT_PREFIX = "LONGSHORE_SERVER_"
SAGEMAKER_MODEL = "/opt/ml/model"
PROVIDERS = tuple(FULL_NAMES)
BATCHING = ("auto", "on", "off")
_KEY = re.compile(r"[A-Za-z0-9_-]{0,256}")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may ask of the server; sizes in bytes, times in seconds."""

    body_bytes: int
    header_bytes: int
    in_flight_bytes: int
    connections: int
    tensor_rank: int
    header_timeout: float
    body_timeout: float
    write_timeout: float
    idle_timeout: float


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the command line says; `0` means "chosen by the server" for workers, threads and budgets."""

    model: Path
    name: str
    version: str
    host: str
    http_port: int
    grpc_port: int
    providers: tuple[str, ...]
    workers: int
    threads: int
    batching: str
    max_batch_size: int
    latency_objective_ms: float
    queue_size: int
    limits: Limits
    drain_delay: float
    grace_period: float
    termination_log: Path
    tls_certificate: Path | None
    tls_key: Path | None
    tls_client_ca: Path | None
    api_key_file: Path | None
    access_log_sample: float
    otlp_endpoint: str
    trace_sample: float
    mirror_target: tuple[str, int] | None
    mirror_key: str
    log_level: str


def parse(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Settings:
    """Read flags and environment.

    Raises `SystemExit(2)` on bad usage, as argparse does, and `StartupError`.
    """
    environment = os.environ if environment is None else environment
    if list(arguments) == ["serve"]:  # how SageMaker starts a container
        arguments = ["--model", SAGEMAKER_MODEL]
        environment = {**environment, **_sagemaker(environment)}
    parser = _parser(environment)
    options = parser.parse_args(arguments)
    if options.model is None:
        parser.error(
            f"--model is required (or {ENVIRONMENT_PREFIX}MODEL): the directory of the model to serve"
        )
    if (options.tls_certificate is None) != (options.tls_key is None):
        parser.error("--tls-certificate and --tls-key go together: give both or neither")
    if options.tls_client_ca and not options.tls_certificate:
        parser.error("--tls-client-ca needs --tls-certificate and --tls-key")
    if bool(options.mirror_target) != bool(options.mirror_key):
        parser.error("--mirror-target and --mirror-key go together: give both or neither")
    if not _KEY.fullmatch(options.mirror_key):
        parser.error("--mirror-key takes up to 256 letters, digits, - and _")
    providers = tuple(part.strip() for part in options.provider.split(",") if part.strip())
    if unknown := [provider for provider in providers if provider not in PROVIDERS]:
        parser.error(f"--provider {unknown[0]} is not known: choose from {', '.join(PROVIDERS)}")
    return Settings(
        model=options.model,
        name=options.name or _default_name(options.model),
        version=options.model_version,
        host=options.host,
        http_port=options.http_port,
        grpc_port=options.grpc_port,
        providers=providers or ("cpu",),
        workers=options.workers,
        threads=options.threads,
        batching=options.batching,
        max_batch_size=options.max_batch_size,
        latency_objective_ms=options.latency_objective_ms,
        queue_size=options.queue_size,
        limits=Limits(
            body_bytes=options.max_body_bytes,
            header_bytes=options.max_header_bytes,
            in_flight_bytes=options.max_in_flight_bytes,
            connections=options.max_connections,
            tensor_rank=options.max_tensor_rank,
            header_timeout=options.header_timeout,
            body_timeout=options.body_timeout,
            write_timeout=options.write_timeout,
            idle_timeout=options.idle_timeout,
        ),
        drain_delay=options.drain_delay,
        grace_period=options.grace_period,
        termination_log=options.termination_log,
        tls_certificate=options.tls_certificate,
        tls_key=options.tls_key,
        tls_client_ca=options.tls_client_ca,
        api_key_file=options.api_key_file,
        access_log_sample=options.access_log_sample,
        otlp_endpoint=options.otlp_endpoint,
        trace_sample=options.trace_sample,
        mirror_target=options.mirror_target,
        mirror_key=options.mirror_key,
        log_level=options.log_level,
    )


def _default_name(model: Path) -> str:
    path = model.absolute()
    return (path.parent if path.suffix == ".onnx" else path).name or "model"


def _sagemaker(environment: Mapping[str, str]) -> dict[str, str]:
    port = environment.get("SAGEMAKER_BIND_TO_PORT")
    found = {f"{ENVIRONMENT_PREFIX}HTTP_PORT": port} if port else {}
    found.setdefault(f"{ENVIRONMENT_PREFIX}NAME", environment.get(f"{ENVIRONMENT_PREFIX}NAME", "model"))
    return found


class _EnvironmentParser(argparse.ArgumentParser):
    """Adds one option and takes its default from the environment, checked by the same type function."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__(
            prog="longshore-server",
            description="Serve one ONNX model: Open Inference, TensorFlow Serving and SageMaker protocols.",
            epilog=f"Each flag is a variable too: --http-port is {ENVIRONMENT_PREFIX}HTTP_PORT.",
        )
        self._environment = environment

    def option(self, flag: str, **keywords: object) -> None:
        variable = ENVIRONMENT_PREFIX + flag.removeprefix("--").replace("-", "_").upper()
        if value := self._environment.get(variable):
            # argparse passes a default that is a string through `type`, so a bad value is refused by name.
            keywords["default"] = value
        self.add_argument(flag, **keywords)  # type: ignore[arg-type]


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = _EnvironmentParser(environment)
    option = parser.option
    port, count = _whole(0, 65535), _whole(1)
    seconds, share = _real(0), _real(0, 1)
    parser.add_argument("--version", action="version", version=__version__)
    option(
        "--model",
        type=Path,
        metavar="DIR",
        help="directory with model.onnx or cascade.json, or an .onnx file",
    )
    option("--name", default="", help="model name in every protocol (default: the directory's name)")
    option("--model-version", default="1", help="model version in every protocol (default %(default)s)")
    option("--host", default="0.0.0.0", help="address to listen on (default %(default)s)")  # noqa: S104 - a pod's server listens on the pod's address
    option("--http-port", type=port, default=8080, help="default %(default)s; 0 takes a free port")
    option("--grpc-port", type=port, default=8081, help="default %(default)s; 0 turns gRPC off")
    option(
        "--provider",
        default="cpu",
        help=f"execution providers in order, of {', '.join(PROVIDERS)} (default cpu)",
    )
    option("--workers", type=_whole(0, 256), default=0, help="processes; 0: measured at start")
    option("--threads", type=_whole(0, 1024), default=0, help="threads in an operator; 0: measured at start")
    option("--batching", choices=BATCHING, default="auto", help="auto: when proven not to change answers")
    option("--max-batch-size", type=count, default=64, help="rows run together at most (default %(default)s)")
    option("--latency-objective-ms", type=_real(0.01), default=100.0, help="default %(default)s")
    option("--queue-size", type=count, default=2048, help="waiting requests before 503 (default %(default)s)")
    option("--max-body-bytes", type=count, default=256 << 20, help="default %(default)s")
    option("--max-header-bytes", type=_whole(1024), default=16 << 10, help="default %(default)s")
    option(
        "--max-in-flight-bytes", type=count, default=1 << 30, help="bodies held at once (default %(default)s)"
    )
    option("--max-connections", type=count, default=10_000, help="default %(default)s")
    option("--max-tensor-rank", type=count, default=16, help="default %(default)s")
    option(
        "--header-timeout",
        type=seconds,
        default=10.0,
        help="seconds for a request's head (default %(default)s)",
    )
    option(
        "--body-timeout",
        type=seconds,
        default=60.0,
        help="seconds for a request's body (default %(default)s)",
    )
    option("--write-timeout", type=seconds, default=60.0, help="seconds for a client to take an answer")
    option("--idle-timeout", type=seconds, default=300.0, help="seconds a quiet connection is kept")
    option("--drain-delay", type=seconds, default=3.0, help="seconds served after SIGTERM before closing")
    option(
        "--grace-period",
        type=seconds,
        default=30.0,
        help="seconds after SIGTERM to finish (default %(default)s)",
    )
    option("--termination-log", type=Path, default=Path("/dev/termination-log"), help="default %(default)s")
    option("--tls-certificate", type=Path, default=None, help="PEM chain, reloaded when it changes")
    option("--tls-key", type=Path, default=None, help="PEM key")
    option("--tls-client-ca", type=Path, default=None, help="PEM of the authorities whose clients are let in")
    option(
        "--api-key-file", type=Path, default=None, help="accepted keys, one a line, reloaded when it changes"
    )
    option("--access-log-sample", type=share, default=0.0, help="share of requests logged (default: none)")
    option(
        "--otlp-endpoint",
        default="",
        help="OTLP/HTTP collector, http://HOST:4318 or the URL of its traces; empty: no tracing",
    )
    option("--trace-sample", type=share, default=0.01, help="share of requests traced without a parent")
    option(
        "--mirror-target",
        type=_host_port,
        default=None,
        metavar="HOST:PORT",
        help="where copies of requests may be sent when the operator asks for it",
    )
    option("--mirror-key", default="", help="what whoever asks for copies, or sends some, must know")
    option(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="default %(default)s",
    )
    return parser


def _whole(low: int, high: int | None = None) -> Callable[[str], int]:
    def parse_whole(text: str) -> int:
        value = int(text)
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"{value} is not between {low} and {high or 'any size'}")
        return value

    parse_whole.__name__ = "whole number"
    return parse_whole


def _host_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is no HOST:PORT")
    return host.strip("[]"), int(port)


def _real(low: float, high: float | None = None) -> Callable[[str], float]:
    def parse_real(text: str) -> float:
        value = float(text)
        if not value >= low or (high is not None and value > high) or value == float("inf"):
            raise argparse.ArgumentTypeError(f"{value} is not between {low} and {high or 'any size'}")
        return value

    parse_real.__name__ = "number"
    return parse_real


def read_file(path: Path, flag: str) -> bytes:
    """Read a small configuration file. Raises `StartupError` naming the flag that asked for it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartupError(
            ExitCode.BAD_CONFIGURATION,
            f"cannot read {path} of {flag}: {error.strerror}; mount it, or leave the flag out",
        ) from None
