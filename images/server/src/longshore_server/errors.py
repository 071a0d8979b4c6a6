"""What can go wrong, as the two kinds a caller sees: a request that fails, a server that cannot start."""

from dataclasses import dataclass
from enum import IntEnum


class GrpcStatus(IntEnum):
    """The gRPC status codes that this server sends (grpc/doc/statuscodes.md)."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class FailureReason:
    """The values of the label `reason` of `nv_inference_request_failure`, as Triton names them."""

    REJECTED = "REJECTED"
    CANCELED = "CANCELED"
    BACKEND = "BACKEND"
    OTHER = "OTHER"


@dataclass(slots=True)
class RequestError(Exception):
    """One request cannot be answered.

    `status` is the HTTP status, `grpc` the gRPC one, `message` a sentence for the caller, `reason` the
    metric's label, `retry_after` seconds after which the same request may succeed.
    """

    status: int
    grpc: GrpcStatus
    message: str
    reason: str = FailureReason.OTHER
    retry_after: int | None = None

    def __str__(self) -> str:
        return self.message

    @property
    def is_server_fault(self) -> bool:
        """Whether the server is to blame: what rollouts count as an error."""
        return self.status >= 500 and self.status != 501


def bad_request(message: str) -> RequestError:
    """What the client sent cannot be understood or does not fit the model."""
    return RequestError(400, GrpcStatus.INVALID_ARGUMENT, message)


def not_found(message: str) -> RequestError:
    """No such path, model or version."""
    return RequestError(404, GrpcStatus.NOT_FOUND, message)


def too_large(message: str) -> RequestError:
    """The body is above the limit."""
    return RequestError(413, GrpcStatus.RESOURCE_EXHAUSTED, message)


def unimplemented(message: str) -> RequestError:
    """A call of the protocol that this server does not offer."""
    return RequestError(501, GrpcStatus.UNIMPLEMENTED, message)


def unauthenticated(message: str) -> RequestError:
    """No key, or one that is not in the key file."""
    return RequestError(401, GrpcStatus.UNAUTHENTICATED, message)


def overloaded(message: str, retry_after: int = 1) -> RequestError:
    """The queue is full: the same request may succeed a little later."""
    return RequestError(503, GrpcStatus.UNAVAILABLE, message, FailureReason.REJECTED, retry_after)


def deadline_exceeded(message: str) -> RequestError:
    """The request's own deadline passed before it ran."""
    return RequestError(504, GrpcStatus.DEADLINE_EXCEEDED, message, FailureReason.CANCELED)


def backend_failed(message: str) -> RequestError:
    """The runtime refused or failed to run the model on this input."""
    return RequestError(500, GrpcStatus.INTERNAL, message, FailureReason.BACKEND)


class ExitCode(IntEnum):
    """Exit codes of the process, after sysexits(3) where it has one."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    BAD_MODEL = 65
    NO_MODEL = 66
    PROVIDER_ABSENT = 69
    WARM_UP_FAILED = 70
    CANNOT_LISTEN = 71
    GRACE_PERIOD_OVER = 75
    BAD_CONFIGURATION = 78


@dataclass(slots=True)
class StartupError(Exception):
    """The server cannot start; `message` is one line that says why and what to do next."""

    exit_code: ExitCode
    message: str

    def __str__(self) -> str:
        return " ".join(self.message.split())


def cannot_listen(host: str, port: int, error: OSError) -> StartupError:
    """The port is taken, or the address is not this machine's."""
    return StartupError(
        ExitCode.CANNOT_LISTEN,
        f"cannot listen on {host}:{port}: {error.strerror}; choose another port or host",
    )
