"""Answered requests as OpenTelemetry spans, sent over OTLP/HTTP.

Names and attributes are those of OpenTelemetry's semantic conventions for HTTP and RPC servers
(https://opentelemetry.io/docs/specs/semconv/).
"""

import os
import threading
import time
from urllib.parse import urlsplit, urlunsplit

from longshore_server import __version__
from longshore_server.errors import ExitCode, StartupError
from longshore_server.tracing import Answered, parse_traceparent

_TRACES_PATH = "/v1/traces"  # where OTLP/HTTP has them below a collector's base URL


def traces_url(endpoint: str) -> str:
    """The URL that spans go to: `endpoint`, or the default path below it when it names none.

    Raises `StartupError` when it is no HTTP URL.
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise StartupError(
            ExitCode.BAD_CONFIGURATION,
            f"--otlp-endpoint {endpoint!r} is no HTTP URL; a collector's is like http://collector:4318",
        )
    return urlunsplit(parts if parts.path.strip("/") else parts._replace(path=_TRACES_PATH))


class Spans:
    """Makes a span of each request that is sampled: as its parent says, else a share of them."""

    def __init__(self, endpoint: str, sample: float, model: str) -> None:
        """Raises `StartupError` when OpenTelemetry is not installed or the endpoint is no URL."""
        url = traces_url(endpoint)
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
        attributes = {"service.version": __version__, "longshore.model": model}
        named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get(
            "OTEL_RESOURCE_ATTRIBUTES", ""
        )
        if not named:
            attributes["service.name"] = "longshore-server"
        self._trace = trace
        # Ended by `close`: a worker process that was forked ends without Python's exit handlers.
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample)),
            resource=Resource.create(attributes),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(url)))
        self._tracer = self._provider.get_tracer("longshore_server", __version__)

    def __call__(self, answered: Answered) -> None:
        """Make the span of one request that has just been answered."""
        trace = self._trace
        context = None
        parent = parse_traceparent(answered.traceparent)
        if parent is not None:
            flags = trace.TraceFlags(1 if parent.sampled else 0)
            state = trace.TraceState.from_header([answered.tracestate] if answered.tracestate else [])
            remote = trace.SpanContext(parent.trace_id, parent.span_id, True, flags, state)
            context = trace.set_span_in_context(trace.NonRecordingSpan(remote))
        end = time.time_ns()
        span = self._tracer.start_span(
            _name(answered), context, trace.SpanKind.SERVER, start_time=end - int(answered.seconds * 1e9)
        )
        if span.is_recording():
            span.set_attributes(_attributes(answered))
            if answered.failed:
                span.set_status(trace.StatusCode.ERROR)
        span.end(end)

    def close(self, seconds: float) -> None:
        """Send what is left, for at most so long."""
        # A collector that does not answer is asked again for longer than an exit may take.
        last = threading.Thread(target=self._provider.shutdown, daemon=True)
        last.start()
        last.join(seconds)


def _name(answered: Answered) -> str:
    if answered.protocol == "grpc":
        return answered.path.lstrip("/")
    return f"{answered.method} {answered.path}"


def _attributes(answered: Answered) -> dict[str, str | int]:
    found: dict[str, str | int] = {"client.address": answered.peer} if answered.peer else {}
    if answered.protocol == "grpc":
        service, _, method = answered.path.lstrip("/").partition("/")
        return found | {
            "rpc.system": "grpc",
            "rpc.service": service,
            "rpc.method": method,
            "rpc.grpc.status_code": answered.status,
        }
    return found | {
        "http.request.method": answered.method,
        "url.path": answered.path,
        "http.response.status_code": answered.status,
    }
