"""Keys, certificates, limits."""

import http.client
import json
import ssl
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from e2e.kit.certificate import self_signed
from tests.server import models
from tests.server.harness import Server

ASK = {"inputs": [{"name": "x", "shape": [1, 16], "datatype": "FP32", "data": [0.5] * 16}]}


def certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for localhost whose organization is `name`."""
    private, made = self_signed(x509.DNSName("localhost"), name)
    files = directory / "tls.crt", directory / "tls.key"
    for file, content in zip(files, (made, private), strict=True):
        file.write_bytes(content)
    return files


def organization(server: Server) -> str:
    pem = ssl.get_server_certificate(("127.0.0.1", server.http_port))
    found = x509.load_pem_x509_certificate(pem.encode())
    return str(found.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value)


def test_tls_for_rest_and_grpc_with_certificates_that_change(tmp_path: Path) -> None:
    crt, key = certificate(tmp_path, "first")
    flags = ("--tls-certificate", str(crt), "--tls-key", str(key))
    with Server(models.mlp(tmp_path / "mlp"), *flags, scheme="https") as server:
        context = ssl.create_default_context(cafile=str(crt))
        deadline = time.monotonic() + 20
        while True:
            connection = http.client.HTTPSConnection("localhost", server.http_port, context=context)
            connection.request("GET", "/v2/health/ready")
            response = connection.getresponse()
            response.read()
            connection.close()
            if response.status == 200:
                break
            assert time.monotonic() < deadline
        connection = http.client.HTTPSConnection("localhost", server.http_port, context=context)
        connection.request("POST", "/v2/models/mlp/infer", json.dumps(ASK))
        assert connection.getresponse().status == 200
        connection.close()
        credentials = grpc.ssl_channel_credentials(crt.read_bytes())
        with grpc.secure_channel(f"localhost:{server.grpc_port}", credentials) as channel:
            health = channel.unary_unary("/grpc.health.v1.Health/Check")
            assert health(b"", timeout=10, wait_for_ready=True) == b"\x08\x01"
        assert organization(server) == "first"
        certificate(tmp_path, "second")
        deadline = time.monotonic() + 20
        while organization(server) != "second":
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_only_clients_of_the_named_authorities_are_let_in(tmp_path: Path) -> None:
    ours, theirs, stranger = (tmp_path / name for name in ("server", "client", "stranger"))
    for directory in (ours, theirs, stranger):
        directory.mkdir()
    crt, key = certificate(ours, "server")
    client = certificate(theirs, "client")
    former = theirs / "former.crt"
    former.write_bytes(client[0].read_bytes())
    flags = ("--tls-certificate", str(crt), "--tls-key", str(key), "--tls-client-ca", str(client[0]))

    def status(identity: tuple[Path, Path] | None) -> int:
        context = ssl.create_default_context(cafile=str(crt))
        if identity is not None:
            context.load_cert_chain(*identity)
        connection = http.client.HTTPSConnection("localhost", server.http_port, context=context, timeout=20)
        try:
            connection.request("GET", "/v2/health/live")
            return connection.getresponse().status
        finally:
            connection.close()

    with Server(models.mlp(tmp_path / "mlp"), *flags, scheme="https") as server:
        assert status(client) == 200
        for identity in (None, certificate(stranger, "stranger")):
            # Whichever of the alert and the reset arrives first.
            with pytest.raises((ssl.SSLError, ConnectionError)):
                status(identity)
        identity = {"private_key": client[1].read_bytes(), "certificate_chain": client[0].read_bytes()}
        known = grpc.ssl_channel_credentials(crt.read_bytes(), **identity)
        with grpc.secure_channel(f"localhost:{server.grpc_port}", known) as channel:
            health = channel.unary_unary("/grpc.health.v1.Health/Check")
            assert health(b"", timeout=20, wait_for_ready=True) == b"\x08\x01"
        with grpc.secure_channel(
            f"localhost:{server.grpc_port}", grpc.ssl_channel_credentials(crt.read_bytes())
        ) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=20)
            error: Any = caught.value
            assert error.code() == grpc.StatusCode.UNAVAILABLE
        # An authority that is replaced is forgotten.
        client[0].write_bytes((stranger / "tls.crt").read_bytes())
        deadline = time.monotonic() + 20
        while True:
            try:
                assert status((stranger / "tls.crt", stranger / "tls.key")) == 200
                break
            except (ssl.SSLError, ConnectionError):
                assert time.monotonic() < deadline, "the new authority is not taken"
                time.sleep(0.2)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            status((former, client[1]))


def test_api_keys_guard_all_but_probes_and_metrics_and_are_read_again(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# clients\nfirst-key\nsecond-key\n")
    with Server(models.mlp(tmp_path / "mlp"), "--api-key-file", str(keys)) as server:
        assert server.get("/v2/health/live")[0] == 200
        assert server.request("GET", "/metrics")[0] == 200
        status, headers, _ = server.request("POST", "/v2/models/mlp/infer", json.dumps(ASK).encode())
        assert status == 401
        assert "bearer" in headers["www-authenticate"].lower()
        assert server.infer(ASK, Authorization="Bearer wrong")[0] == 401
        assert server.infer(ASK, Authorization="Bearer ")[0] == 401
        assert server.infer(ASK, Authorization="Bearer second-key")[0] == 200
        assert server.infer(ASK, **{"X-API-Key": "first-key"})[0] == 200
        with grpc.insecure_channel(server.grpc_address) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ServerMetadata")
            with pytest.raises(grpc.RpcError) as caught:
                call(b"", timeout=10)
            error: Any = caught.value
            assert error.code() == grpc.StatusCode.UNAUTHENTICATED
            assert call(b"", timeout=10, metadata=(("authorization", "Bearer first-key"),))
        keys.write_text("third-key\n")
        deadline = time.monotonic() + 20
        while server.infer(ASK, Authorization="Bearer second-key")[0] != 401:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert server.infer(ASK, Authorization="Bearer third-key")[0] == 200


def test_limits_of_bodies_and_connections(tmp_path: Path) -> None:
    flags = ("--max-body-bytes", "1000", "--max-connections", "4")
    with Server(models.mlp(tmp_path / "mlp"), *flags) as server:
        assert server.infer(ASK | {"id": "x" * 2000})[0] == 413
        held = [http.client.HTTPConnection("127.0.0.1", server.http_port) for _ in range(4)]
        for connection in held:
            connection.connect()
        deadline = time.monotonic() + 10
        while server.request("GET", "/v2/health/live")[0] != 503:
            assert time.monotonic() < deadline
        for connection in held:
            connection.close()
        while server.request("GET", "/v2/health/live")[0] != 200:
            assert time.monotonic() < deadline


def test_the_access_log_is_off_unless_asked_for(tmp_path: Path) -> None:
    model = models.mlp(tmp_path / "mlp")
    for flags, wanted in (((), 0), (("--access-log-sample", "1"), 1)):
        with Server(model, *flags) as server:
            trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
            assert server.infer(ASK, traceparent=trace)[0] == 200
            server.process.terminate()
            _, errors = server.process.communicate(timeout=15)
            server.process.returncode = 0
        lines = [json.loads(line) for line in errors.splitlines()]
        found = [line for line in lines if line.get("path", "").endswith("/infer")]
        assert len(found) == wanted
        if found:
            assert found[0]["status"] == 200
            assert found[0]["trace_id"] == "a" * 32
