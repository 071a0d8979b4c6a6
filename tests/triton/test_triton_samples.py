"""Recorded requests on Triton: what the optimizer left, for the operator alone, as on the other runtime."""

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from longshore.api.rollout import Preflight
from longshore.plan.analysis.verdict import Verdict
from longshore.plan.state import AskedPod
from longshore.preflight import preflight
from longshore.resources.names import HTTP_PORT
from longshore_triton import samples
from longshore_triton.log import Log
from longshore_triton.wanted import Wanted

from e2e.ports import free_ports
from tests.triton.conftest import KEY, RECORDED, Endpoint

GIVEN = {samples.KEY_HEADER: KEY}


def get(
    port: int, headers: Mapping[str, str] = GIVEN, path: str = "/samples", method: str = "GET"
) -> tuple[int, dict[str, str], bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(method, path, headers=dict(headers))
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    (tmp_path / "artifact").mkdir()
    return tmp_path / "artifact"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with (tmp_path / "log").open("w") as stream:
        yield Log(stream)


@contextmanager
def serving(artifact: Path, log: Log) -> Iterator[int]:
    (port,) = free_ports(1)
    server = samples.serve(artifact, Wanted("m", samples_port=port, samples_key=KEY), None, log)
    assert server is not None
    try:
        yield port
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """A port that is open for the whole module, and the directory with its log."""
    directory = tmp_path_factory.mktemp("shared")
    (directory / samples.FILE).write_text("{}\n")
    with (directory / "log").open("w", buffering=1) as stream, serving(directory, Log(stream)) as port:
        yield port, directory


def said(directory: Path) -> str:
    return (directory / "log").read_text()


class TestEitherRuntime:
    def test_gives_them_to_whoever_knows_the_key(self, mlp: Endpoint) -> None:
        status, headers, body = get(mlp.samples_port)
        assert status == 200
        assert [json.loads(line) for line in body.splitlines()] == RECORDED
        assert headers["content-type"] == "application/jsonl"
        assert headers["longshore-samples"] == "evaluation"

    @pytest.mark.parametrize("headers", [{}, {samples.KEY_HEADER: "guessed"}, {samples.KEY_HEADER: "ké"}])
    def test_gives_them_to_nobody_else(self, mlp: Endpoint, headers: dict[str, str]) -> None:
        status, _, body = get(mlp.samples_port, headers)
        assert status == 401
        assert "for the operator" in json.loads(body)["error"]

    async def test_is_asked_them_before_it_gets_weight(
        self, mlp: Endpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def base(address: str, port: int) -> str:
            return f"http://{mlp.http}" if port == HTTP_PORT else f"http://{address}:{port}"

        monkeypatch.setattr("longshore.inference._base", base)
        pod = AskedPod("127.0.0.1", mlp.samples_port)
        found = await preflight(mlp.name, "r2", pod, pod, Preflight(max_disagreement=0.0), None, KEY)
        assert found.verdict is Verdict.PASS
        assert found.text == "0 of 2 answers to requests from the evaluation data differ, 0 failed"


class TestPort:
    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/"),
            ("GET", "/samples/x"),
            ("GET", "/v2/health/ready"),
            ("POST", "/samples"),
            ("HEAD", "/"),
        ],
    )
    def test_has_one_path(self, shared: tuple[int, Path], method: str, path: str) -> None:
        assert get(shared[0], path=path, method=method)[0] == 404

    def test_gives_whole_lines_of_a_file_that_is_too_large(self, artifact: Path, log: Log) -> None:
        line = b'{"inputs":"' + b"a" * (1 << 20) + b'"}\n'
        (artifact / samples.FILE).write_bytes(line * 5)
        with serving(artifact, log) as port:
            assert get(port)[2] == line * 3
            (artifact / samples.FILE).unlink()
            assert get(port)[::2] == (200, b"")

    @pytest.mark.parametrize("kind", ["absent", "link", "directory"])
    def test_is_not_open_without_a_file_in_the_artifact(self, artifact: Path, log: Log, kind: str) -> None:
        if kind == "link":
            (artifact.parent / "secret").write_text("a secret\n")
            (artifact / samples.FILE).symlink_to(artifact.parent / "secret")
        elif kind == "directory":
            (artifact / samples.FILE).mkdir()
        assert samples.serve(artifact, Wanted("m", samples_key=KEY), None, log) is None

    def test_is_not_open_without_a_key(self, artifact: Path, log: Log) -> None:
        (artifact / samples.FILE).write_text("{}\n")
        assert samples.serve(artifact, Wanted("m"), None, log) is None

    def test_that_is_taken_is_told_and_nothing_else_fails(
        self, artifact: Path, log: Log, tmp_path: Path
    ) -> None:
        (artifact / samples.FILE).write_text("{}\n")
        with serving(artifact, log) as port:
            assert samples.serve(artifact, Wanted("m", samples_port=port, samples_key=KEY), None, log) is None
        assert f"recorded requests are not given at port {port}" in said(tmp_path)

    @pytest.mark.parametrize(
        "sent",
        [
            b"\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET /samples HTTP/9.9\r\n\r\n",
            b"GET /samples HTTP/1.1\r\n" + b"x: y\r\n" * 150 + b"\r\n",
            b"GET /samples HTTP/1.1\r\nx: " + b"y" * 8200 + b"\r\n\r\n",
            b"\x00\xff" * 5000,
        ],
    )
    def test_survives_what_is_no_request(self, shared: tuple[int, Path], sent: bytes) -> None:
        port, directory = shared
        with socket.create_connection(("127.0.0.1", port), 30) as client:
            client.sendall(sent)
            assert b"200" not in _received(client).split(b"\r\n")[0]
        assert get(port)[0] == 200
        assert said(directory) == ""

    def test_waits_for_nobody_for_ever(
        self, artifact: Path, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(samples, "_HEAD_SECONDS", 0.1)
        (artifact / samples.FILE).write_text("{}\n")
        with serving(artifact, log) as port, socket.create_connection(("127.0.0.1", port), 30) as slow:
            slow.sendall(b"GET /samp")
            assert _received(slow) == b""

    def test_takes_a_few_connections_at_once(
        self, artifact: Path, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(samples, "_MOST_CONNECTIONS", 2)
        (artifact / samples.FILE).write_text("{}\n")
        with serving(artifact, log) as port:
            held = [socket.create_connection(("127.0.0.1", port), 30) for _ in range(2)]
            with socket.create_connection(("127.0.0.1", port), 30) as third:
                assert _received(third) == b"", "closed at once"
            for client in held:
                client.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert _received(client).startswith(b"HTTP/1.1 404 ")
                client.close()


def _received(client: socket.socket) -> bytes:
    """Read until the server closes."""
    found = b""
    try:
        while more := client.recv(65536):
            found += more
    except ConnectionResetError:
        pass
    return found
