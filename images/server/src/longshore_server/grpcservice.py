"""Which gRPC method does what: Open Inference V2, TensorFlow Serving and the standard health service."""

from collections.abc import Callable
from typing import Any

from longshore_server import __version__, describe
from longshore_server.auth import ApiKeys
from longshore_server.errors import (
    RequestError,
    bad_request,
    not_found,
    overloaded,
    unauthenticated,
    unimplemented,
)
from longshore_server.grpcstream import Method, Stream
from longshore_server.grpctf import Predict
from longshore_server.grpcv2 import V2Infer, stream_error
from longshore_server.headerblocks import Headers
from longshore_server.messages import Messages
from longshore_server.metrics import Metrics
from longshore_server.served import ServedModel

_V2 = b"/inference.GRPCInferenceService/"
_PREDICT = b"/tensorflow.serving.PredictionService/Predict"
_MODEL_STATUS = b"/tensorflow.serving.ModelService/GetModelStatus"
_HEALTH = b"/grpc.health.v1.Health/Check"
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"  # HealthCheckResponse.status
_OPEN = frozenset((_V2 + b"ServerLive", _V2 + b"ServerReady", _HEALTH))
# grpc/doc/PROTOCOL-HTTP2.md, "Timeout"
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_MAX_TIMEOUT_DIGITS = 8

# model_config.proto, DataType
_CONFIG_TYPES = {
    "BOOL": 1, "UINT8": 2, "UINT16": 3, "UINT32": 4, "UINT64": 5, "INT8": 6, "INT16": 7, "INT32": 8,
    "INT64": 9, "FP16": 10, "FP32": 11, "FP64": 12, "BYTES": 13, "BF16": 14,
}  # fmt: skip

Unary = Callable[[Any], Any]


class GrpcService:
    """The calls of one server. Before `serve` those that need the model are UNAVAILABLE."""

    def __init__(self, name: str, version: str, metrics: Metrics, keys: ApiKeys | None) -> None:
        """`keys` are asked for unless None."""
        self._name = name
        self._version = version
        self._metrics = metrics
        self._keys = keys
        self._messages = Messages()
        self._served: ServedModel | None = None
        self._infer: V2Infer | None = None
        self._predict: Predict | None = None
        self._unary: dict[str, tuple[str, Unary]] = {
            "ServerLive": ("ServerLive", lambda _: {"live": True}),
            "ServerReady": ("ServerReady", lambda _: {"ready": self._ready}),
            "ModelReady": (
                "ModelReady",
                lambda request: {"ready": self._checked(request) is not None and self._ready},
            ),
            "ServerMetadata": ("ServerMetadata", lambda _: describe.server(__version__)),
            "ModelMetadata": ("ModelMetadata", lambda request: describe.model(self._checked(request))),
            "ModelConfig": ("ModelConfig", lambda request: {"config": _config(self._checked(request))}),
            "ModelStatistics": ("ModelStatistics", self._statistics),
            "RepositoryIndex": (
                "RepositoryIndex",
                lambda _: {"models": [describe.index_entry(name, version, self._ready)]},
            ),
        }

    def serve(self, served: ServedModel) -> None:
        """Begin to answer for the model."""
        self._served = served
        self._infer = V2Infer(served, self._messages)
        self._predict = Predict(served, self._messages)

    @property
    def _ready(self) -> bool:
        return self._served is not None and self._served.is_ready

    def resolve(self, headers: Headers) -> Method:
        """The method that the headers ask for; mistakes are in its `error`."""
        path = headers.get(b":path", b"")
        coding = headers.get(b"grpc-encoding", b"").decode("latin-1")
        try:
            if headers.get(b":method") != b"POST" or not headers.get(b"content-type", b"").startswith(
                b"application/grpc"
            ):
                raise unimplemented("this port speaks gRPC only: use the HTTP port for REST")
            if self._keys is not None and path not in _OPEN and not self._keys.accept_key(_key(headers)):
                raise unauthenticated("no valid API key: send the metadata 'authorization: Bearer KEY'")
            handle, streaming = self._find(path)
            timeout = _timeout(headers.get(b"grpc-timeout"))
        except RequestError as error:
            return Method(None, error=error, headers=headers)
        return Method(handle, streaming, None, timeout, coding, headers)

    def refused(self, stream: Stream, error: RequestError) -> None:
        """Count a refused inference; end the call, or answer within its stream."""
        method = stream.method
        if method.headers.get(b":path") in (_V2 + b"ModelInfer", _V2 + b"ModelStreamInfer", _PREDICT):
            self._metrics.request_failed(error)
        if method.streaming:
            stream.send(stream_error(error))
        else:
            stream.finish(error)

    def _find(self, path: bytes) -> tuple[Callable[[Stream, bytes | memoryview], None], bool]:
        if path == _V2 + b"ModelInfer":
            return self._need(self._infer).infer, False
        if path == _V2 + b"ModelStreamInfer":
            return self._need(self._infer).stream_infer, True
        if path == _PREDICT:
            return self._need(self._predict).predict, False
        if path == _MODEL_STATUS:
            predict = self._need(self._predict)
            return lambda stream, message: stream.reply((predict.model_status(message),)), False
        if path == _HEALTH:
            return self._health, False
        name = path.removeprefix(_V2).decode("latin-1")
        if path.startswith(_V2) and name in self._unary:
            return self._unary_handler(*self._unary[name]), False
        raise unimplemented(
            f"no method {path.decode('latin-1')!r} here: this server serves one model, and only that"
        )

    def _need(self, part: "Any | None") -> Any:
        if part is None:
            raise overloaded("the model is still being loaded: retry shortly")
        return part

    def _unary_handler(self, name: str, answer: Unary) -> Callable[[Stream, bytes | memoryview], None]:
        request_type = self._messages.type(f"inference.{name}Request")
        response_type = self._messages.type(f"inference.{name}Response")

        def handle(stream: Stream, message: bytes | memoryview) -> None:
            try:
                request = request_type.FromString(bytes(message))
            except Exception:  # noqa: BLE001 - DecodeError has no stable home among protobuf's implementations
                raise bad_request(f"the message is no {name}Request") from None
            response = response_type(**answer(request))
            stream.reply((response.SerializeToString(),))

        return handle

    def _health(self, stream: Stream, message: bytes | memoryview) -> None:
        service = bytes(message[2:]).decode("utf-8", "replace")
        if service not in ("", "inference.GRPCInferenceService", self._name):
            raise not_found(f"unknown service {service!r}")
        stream.reply((_SERVING if self._ready else _NOT_SERVING,))

    def _checked(self, request: Any) -> ServedModel:
        if request.name != self._name:
            raise not_found(f"unknown model {request.name!r}: this server has {self._name!r}")
        if request.version not in ("", self._version):
            raise not_found(
                f"unknown version {request.version!r} of {self._name!r}: it has {self._version!r}"
            )
        return self._need(self._served)  # type: ignore[no-any-return]

    def _statistics(self, request: Any) -> dict[str, Any]:
        if request.name:
            self._checked(request)
        stats = describe.statistics(self._need(self._served))["model_stats"][0]
        return {"model_stats": [{key: value for key, value in stats.items() if key != "batch_stats"}]}


def _config(served: ServedModel) -> dict[str, Any]:
    config = describe.config(served)
    for kind in ("input", "output"):
        for entry in config[kind]:
            name = entry["data_type"].removeprefix("TYPE_")
            entry["data_type"] = _CONFIG_TYPES["BYTES" if name == "STRING" else name]
    return config


def _key(headers: Headers) -> str:
    scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get(b"x-api-key", b"").decode("latin-1")


def _timeout(value: bytes | None) -> float | None:
    """Seconds of a grpc-timeout header. Raises `RequestError`."""
    if value is None:
        return None
    text = value.decode("latin-1")
    digits, unit = text[:-1], text[-1:]
    if (
        unit not in _UNITS
        or not digits.isascii()
        or not digits.isdigit()
        or len(digits) > _MAX_TIMEOUT_DIGITS
    ):
        raise bad_request(f"bad grpc-timeout {text!r}")
    return int(digits) * _UNITS[unit]
