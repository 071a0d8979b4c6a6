"""One record of each answered request for whoever wants one: an access log, and OpenTelemetry spans.

Both are off unless asked for; then requests are sampled. The parent of a span comes from the W3C header
`traceparent` (https://www.w3.org/TR/trace-context/).
"""

import logging
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from longshore_server import __version__
from longshore_server.errors import ExitCode, StartupError

_access = logging.getLogger("longshore_server.access")
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)


@dataclass(frozen=True, slots=True)
class Answered:
    """One answered request; `started` on the clock of `time.perf_counter`, `status` HTTP's or gRPC's."""

    protocol: str
    method: str
    path: str
    status: int
    failed: bool
    started: float
    peer: str
    traceparent: str

    @property
    def seconds(self) -> float:
        """How long it took until now."""
        return time.perf_counter() - self.started


Observer = Callable[[Answered], None]


@dataclass(frozen=True, slots=True)
class Parent:
    """The caller's span: ids as numbers."""

    trace_id: int
    span_id: int
    sampled: bool


def parse_traceparent(value: str) -> Parent | None:
    """The parent that a `traceparent` header names; None when it is absent or invalid."""
    match = _TRACEPARENT.fullmatch(value.strip())
    if match is None or (match[4] and value.startswith("00")):
        return None
    return Parent(int(match[1], 16), int(match[2], 16), bool(int(match[3], 16) & 1))


def observer(
    access_log_sample: float, otlp_endpoint: str, trace_sample: float, model: str
) -> Observer | None:
    """What is to be told of every answer; None when nothing is. Raises `StartupError`."""
    parts: list[Observer] = []
    if access_log_sample > 0:
        parts.append(_access_log(access_log_sample))
    if otlp_endpoint:
        parts.append(_spans(otlp_endpoint, trace_sample, model))
    if not parts:
        return None

    def tell(answered: Answered) -> None:
        for part in parts:
            part(answered)

    return tell


def _access_log(sample: float) -> Observer:
    def log(answered: Answered) -> None:
        if random.random() >= sample:  # noqa: S311 - which requests are logged is no secret
            return
        parent = parse_traceparent(answered.traceparent)
        fields: dict[str, Any] = {
            "protocol": answered.protocol,
            "method": answered.method,
            "path": answered.path,
            "status": answered.status,
            "milliseconds": round(answered.seconds * 1e3, 3),
            "peer": answered.peer,
        }
        if parent is not None:
            fields["trace_id"] = f"{parent.trace_id:032x}"
        _access.info("request", extra={"fields": fields})

    return log


def _spans(endpoint: str, sample: float, model: str) -> Observer:
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
    except ImportError:
        raise StartupError(
            ExitCode.BAD_CONFIGURATION,
            "--otlp-endpoint needs OpenTelemetry: pip install 'longshore-server[otel]', or leave it out",
        ) from None
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(sample)),
        resource=Resource.create(
            {"service.name": "longshore-server", "service.version": __version__, "longshore.model": model}
        ),
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
    tracer = provider.get_tracer("longshore_server", __version__)

    def record(answered: Answered) -> None:
        parent = parse_traceparent(answered.traceparent)
        context = None
        if parent is not None:
            flags = trace.TraceFlags(1 if parent.sampled else 0)
            remote = trace.SpanContext(parent.trace_id, parent.span_id, True, flags)
            context = trace.set_span_in_context(trace.NonRecordingSpan(remote))
        end = time.time_ns()
        span = tracer.start_span(
            f"{answered.method} {answered.path}",
            context,
            trace.SpanKind.SERVER,
            start_time=end - int(answered.seconds * 1e9),
        )
        if span.is_recording():
            span.set_attribute("network.protocol.name", answered.protocol)
            span.set_attribute("url.path", answered.path)
            span.set_attribute(
                "rpc.grpc.status_code" if answered.protocol == "grpc" else "http.response.status_code",
                answered.status,
            )
            if answered.failed:
                span.set_status(trace.StatusCode.ERROR)
        span.end(end)

    return record
