"""Spans as a collector gets them: OTLP over HTTP into a receiver that speaks the collector's own protocol."""

import gzip
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from longshore_server.messages import Messages
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from e2e.ports import free_ports
from tests.server import models
from tests.server.harness import Server, failed_start

ASK = {"inputs": [{"name": "x", "shape": [1, 16], "datatype": "FP32", "data": [0] * 16}]}


class Collector:
    """Takes ExportTraceServiceRequest at `/v1/traces`, as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        self.exports: list[ExportTraceServiceRequest] = []
        self.arrived = threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                good = self.path == "/v1/traces" and self.headers["Content-Type"] == "application/x-protobuf"
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200 if good else 404)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)
                if good:
                    with collector.arrived:
                        collector.exports.append(ExportTraceServiceRequest.FromString(body))
                        collector.arrived.notify_all()

            def log_message(self, *args: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def spans(self) -> list[Span]:
        with self.arrived:
            return [
                span
                for export in self.exports
                for resource in export.resource_spans
                for scope in resource.scope_spans
                for span in scope.spans
            ]

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    running = Collector()
    yield running
    running.close()


def parent(trace: str, sampled: bool = True) -> dict[str, str]:
    return {"traceparent": f"00-{trace * 16}-{'b7' * 8}-{'01' if sampled else '00'}"}


def attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


def ask_grpc(server: Server, name: str, metadata: dict[str, str]) -> None:
    request = Messages().type("inference.ModelInferRequest")(model_name=name)
    request.inputs.add(name="x", datatype="FP32", shape=[1, 16])
    request.raw_input_contents.append(bytes(64))
    with grpc.insecure_channel(server.grpc_address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        call(request.SerializeToString(), timeout=10, metadata=tuple(metadata.items()))


def end(server: Server) -> float:
    """SIGTERM; gives the seconds until the process has ended."""
    started = time.monotonic()
    server.process.terminate()
    server.process.communicate(timeout=20)
    assert server.process.returncode == 0
    return time.monotonic() - started


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_callers_trace_goes_on_in_the_spans(collector: Collector, tmp_path: Path, workers: str) -> None:
    model = models.mlp(tmp_path / "mlp")
    flags = ("--otlp-endpoint", collector.url, "--trace-sample", "0", "--workers", workers)
    environment = {"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test"}
    with Server(model, *flags, environment=environment) as server:
        began = time.time_ns()
        assert server.infer(ASK, **parent("a1"), tracestate="vendor=value,other=1")[0] == 200
        assert server.infer(ASK, **parent("a2", sampled=False))[0] == 200
        assert server.infer(ASK)[0] == 200
        assert server.infer({"inputs": []}, **parent("a3"))[0] == 400
        ask_grpc(server, "mlp", parent("a4"))
        with pytest.raises(grpc.RpcError):
            ask_grpc(server, "other", parent("a5"))
        end(server)
    spans = {span.trace_id.hex()[:2] + span.trace_id.hex()[-2:]: span for span in collector.spans()}
    assert sorted(spans) == ["a1a1", "a3a3", "a4a4", "a5a5"]
    for span in spans.values():
        assert span.parent_span_id.hex() == "b7" * 8
        assert span.kind == Span.SPAN_KIND_SERVER
        assert began <= span.start_time_unix_nano < span.end_time_unix_nano <= time.time_ns()
        assert attributes(span.attributes)["client.address"] == "127.0.0.1"
        assert span.status.code == Status.STATUS_CODE_UNSET  # what a caller does wrong is no fault here
    assert spans["a1a1"].trace_state == "vendor=value,other=1"
    assert spans["a1a1"].name == "POST /v2/models/mlp/infer"
    assert attributes(spans["a1a1"].attributes)["http.response.status_code"] == 200
    assert attributes(spans["a3a3"].attributes)["http.response.status_code"] == 400
    assert spans["a4a4"].name == "inference.GRPCInferenceService/ModelInfer"
    assert attributes(spans["a4a4"].attributes) == {
        "client.address": "127.0.0.1",
        "rpc.system": "grpc",
        "rpc.service": "inference.GRPCInferenceService",
        "rpc.method": "ModelInfer",
        "rpc.grpc.status_code": 0,
    }
    assert attributes(spans["a5a5"].attributes)["rpc.grpc.status_code"] == grpc.StatusCode.NOT_FOUND.value[0]
    resource = attributes(collector.exports[0].resource_spans[0].resource.attributes)
    assert resource["service.name"] == "longshore-server"
    assert resource["longshore.model"] == "mlp"
    assert resource["deployment.environment"] == "test"


def test_requests_without_a_trace_are_sampled_and_start_their_own(
    collector: Collector, tmp_path: Path
) -> None:
    flags = ("--otlp-endpoint", f"{collector.url}/v1/traces", "--trace-sample", "1")
    environment = {"OTEL_SERVICE_NAME": "digits"}
    with Server(models.mlp(tmp_path / "mlp"), *flags, environment=environment) as server:
        for _ in range(3):
            assert server.infer(ASK)[0] == 200
        end(server)
    inferences = [span for span in collector.spans() if span.name.endswith("/infer")]
    assert len({span.trace_id for span in inferences}) == 3
    assert not any(span.parent_span_id for span in inferences)
    resource = attributes(collector.exports[0].resource_spans[0].resource.attributes)
    assert resource["service.name"] == "digits"


def test_a_collector_that_is_gone_holds_up_neither_answers_nor_the_end(tmp_path: Path) -> None:
    flags = ("--otlp-endpoint", f"http://127.0.0.1:{free_ports(1)[0]}", "--trace-sample", "1")
    with Server(models.mlp(tmp_path / "mlp"), *flags) as server:
        for _ in range(5):
            assert server.infer(ASK)[0] == 200
        assert end(server) < 10


def test_an_endpoint_that_is_no_url_is_refused_at_the_start(tmp_path: Path) -> None:
    code, line = failed_start(models.mlp(tmp_path / "mlp"), "--otlp-endpoint", "collector:4318")
    assert code == 78
    assert "http://collector:4318" in line
