"""What the server answers: every path of every REST protocol, in one table."""

import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from longshore_server import __version__, compression, describe, tfrest
from longshore_server.auth import ApiKeys
from longshore_server.errors import (
    GrpcStatus,
    RequestError,
    not_found,
    overloaded,
    unauthenticated,
    unimplemented,
)
from longshore_server.httpexchange import Exchange
from longshore_server.httphead import Body, Endpoint, RequestHead
from longshore_server.metrics import Metrics
from longshore_server.mirrorclient import KEY_HEADER
from longshore_server.mirrorlease import parse
from longshore_server.sagemaker import Invocations
from longshore_server.samples import LARGEST, Samples
from longshore_server.served import ServedModel
from longshore_server.tfrest import Predict
from longshore_server.v2rest import CopiedWork, V2Rest

_PROMETHEUS = b"text/plain; version=0.0.4; charset=utf-8"
_V2_MODEL = re.compile(r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?(?P<call>/[a-z]+)?")
_V1_MODEL = re.compile(r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>[^/:]+))?(?P<call>[/:][a-z]+)?")
_MIRROR = "/mirror"
_SAMPLES = "/samples"
_GUARDED = frozenset((_MIRROR, _SAMPLES))
_SOURCE = b"Longshore-Samples: %b\r\n"
"""Header that tells where recorded requests come from."""
_KEY = KEY_HEADER.lower().encode()
_OPEN_PATHS = frozenset(
    ("/v2/health/live", "/v2/health/ready", "/ping", "/metrics", "/metrics/predictions", *_GUARDED)
)


@dataclass(frozen=True, slots=True)
class Inference:
    """The endpoints that run the model, made once it is loaded."""

    served: ServedModel
    v2: V2Rest
    copies: V2Rest
    predict: Predict
    invocations: Invocations


class App:
    """The router of the HTTP listener."""

    def __init__(
        self,
        name: str,
        version: str,
        metrics: Metrics,
        keys: ApiKeys | None,
        body_limit: int,
        mirror_key: str = "",
    ) -> None:
        """Before `serve` every call but liveness and metrics is answered 503.

        With `mirror_key` whoever knows it may ask for mirroring and for recorded requests, and may send
        copies.
        """
        self._name = name
        self._version = version
        self._metrics = metrics
        self._keys = keys
        self._body_limit = body_limit
        self._mirror_key = mirror_key.encode()
        self._inference: Inference | None = None
        self._samples: Samples | None = None

    def serve(self, served: ServedModel, samples: Samples | None = None) -> None:
        """Begin to answer for the model; `samples` are given to whoever knows the key."""
        self._samples = samples
        v2, predict = V2Rest(served), Predict(served)
        copies = V2Rest(served, CopiedWork)
        self._inference = Inference(served, v2, copies, predict, Invocations(served, v2, predict))

    @property
    def is_ready(self) -> bool:
        """What the readiness probes are told."""
        return self._inference is not None and self._inference.served.is_ready

    def route(self, head: RequestHead) -> None:
        """Set the head's endpoint. Raises `RequestError`."""
        if self._keys is not None and head.path not in _OPEN_PATHS and not self._keys.accept(head):
            raise unauthenticated("no valid API key: send 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")
        head.plain = not compression.choose(head.header(b"accept-encoding"))
        method, endpoint = self._find(head)
        if head.method != method and not (method == "GET" and head.method == "HEAD"):
            raise RequestError(
                405, GrpcStatus.UNIMPLEMENTED, f"{head.method} is not for {head.path}: use {method}"
            )
        coding = head.header(b"content-encoding").strip().lower()
        if coding not in ("", "identity"):
            endpoint = _Decoded(endpoint, coding, self._body_limit)
        head.endpoint = endpoint

    def _find(self, head: RequestHead) -> tuple[str, Endpoint]:
        path = head.path
        fixed: dict[str, tuple[str, Endpoint]] = {
            "/v2/health/live": ("GET", _json(lambda: ({"live": True}, 200))),
            "/v2/health/ready": ("GET", _json(self._ready)),
            "/ping": ("GET", _json(self._ready)),
            "/metrics": ("GET", self._exposition),
            "/metrics/predictions": ("GET", self._predictions),
            _MIRROR: ("POST", self._mirror),
            _SAMPLES: ("GET", self._recorded),
            "/v2": ("GET", _json(lambda: (describe.server(__version__), 200))),
            "/v2/repository/index": ("POST", _json(self._index)),
            "/v1/models": ("GET", _json(lambda: ({"models": [self._name]}, 200))),
        }
        plain = path.rstrip("/") or path
        if plain in _GUARDED:
            self._check_mirror_key(head)
        if (found := fixed.get(plain)) is not None:
            return found
        if path == "/invocations":
            return self._infer(head, lambda inference: inference.invocations)
        if (match := _V2_MODEL.fullmatch(path)) is not None:
            self._check_model(match)
            return self._v2_call(head, match["call"] or "")
        if (match := _V1_MODEL.fullmatch(path)) is not None:
            self._check_model(match)
            return self._v1_call(head, match["call"] or "")
        if path.startswith("/v2/repository/models/"):
            raise unimplemented("models are not loaded or unloaded by calls: one server serves one model")
        raise not_found(f"no such path: {path}")

    def _v2_call(self, head: RequestHead, call: str) -> tuple[str, Endpoint]:
        if call == "/infer":
            if self._is_copy(head):
                return self._infer(head, lambda inference: inference.copies)
            return self._infer(head, lambda inference: inference.v2)
        calls: dict[str, Callable[[ServedModel], Any]] = {
            "": describe.model,
            "/config": describe.config,
            "/stats": describe.statistics,
        }
        if call == "/ready":
            return "GET", _json(self._ready)
        if call not in calls:
            raise unimplemented(f"the call {call!r} is not offered for this model")
        return "GET", _json(self._about(calls[call]))

    def _v1_call(self, head: RequestHead, call: str) -> tuple[str, Endpoint]:
        if call == ":predict":
            return self._infer(head, lambda inference: inference.predict)
        calls = {"": tfrest.status, "/metadata": tfrest.metadata}
        if call not in calls:
            raise unimplemented(f"the call {call!r} is not offered: use :predict")
        return "GET", _json(self._about(calls[call]))

    def _check_model(self, match: re.Match[str]) -> None:
        if match["name"] != self._name:
            raise not_found(f"unknown model {match['name']!r}: this server has {self._name!r}")
        if match["version"] not in (None, self._version):
            raise not_found(
                f"unknown version {match['version']!r} of {self._name!r}: it has {self._version!r}"
            )

    def _infer(self, head: RequestHead, pick: Callable[[Inference], Endpoint]) -> tuple[str, Endpoint]:
        if self._inference is None:
            raise overloaded("the model is still being loaded: retry shortly")
        head.is_inference = True
        return "POST", pick(self._inference)

    def _ready(self) -> tuple[Any, int]:
        ready = self.is_ready
        return {"name": self._name, "ready": ready}, 200 if ready else 503

    def _index(self) -> tuple[Any, int]:
        return [describe.index_entry(self._name, self._version, self.is_ready)], 200

    def _about(self, tell: Callable[[ServedModel], Any]) -> Callable[[], tuple[Any, int]]:
        def answer() -> tuple[Any, int]:
            if self._inference is None:
                raise overloaded("the model is still being loaded: retry shortly")
            return tell(self._inference.served), 200

        return answer

    def _predictions(self, exchange: Exchange, head: RequestHead, body: Body) -> None:
        exchange.answer(self._metrics.predictions(), _PROMETHEUS)

    def _is_copy(self, head: RequestHead) -> bool:
        key = head.headers.get(_KEY)
        return bool(self._mirror_key) and key is not None and hmac.compare_digest(key, self._mirror_key)

    def _check_mirror_key(self, head: RequestHead) -> None:
        if not self._mirror_key:
            raise not_found(f"no such path: {head.path}: this server was started without --mirror-target")
        if not self._is_copy(head):
            raise unauthenticated(f"no valid {KEY_HEADER}: {head.path} is for the operator")

    def _mirror(self, exchange: Exchange, head: RequestHead, body: Body) -> None:
        wanted = parse(body)
        self._metrics.lease.grant(wanted)
        exchange.answer_json({"share": self._metrics.lease.share, "seconds": wanted.seconds})

    def _recorded(self, exchange: Exchange, head: RequestHead, body: Body) -> None:
        if self._samples is None or self._inference is None:
            raise overloaded("the model is still being loaded: retry shortly")
        samples, signature = self._samples, self._inference.served.admission.signature
        headers = _SOURCE % samples.source.encode()
        exchange.run_aside(
            LARGEST,
            lambda: samples.lines(signature),
            lambda lines: exchange.answer(lines, b"application/jsonl", headers),
        )

    def _exposition(self, exchange: Exchange, head: RequestHead, body: Body) -> None:
        exchange.answer(self._metrics.exposition(), _PROMETHEUS)


def _json(tell: Callable[[], tuple[Any, int]]) -> Endpoint:
    def endpoint(exchange: Exchange, head: RequestHead, body: Body) -> None:
        document, status = tell()
        exchange.answer_json(document, status)

    return endpoint


class _Decoded:
    """An endpoint that gets the decoded body."""

    def __init__(self, endpoint: Endpoint, coding: str, limit: int) -> None:
        self._endpoint = endpoint
        self._coding = coding
        self._limit = limit

    def __call__(self, exchange: Exchange, head: RequestHead, body: Body) -> None:
        exchange.run_aside(
            len(body),
            lambda: compression.decompress(self._coding, body, self._limit),
            lambda decoded: self._endpoint(exchange, head, decoded),
        )
