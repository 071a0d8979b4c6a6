"""Releasing artifacts: exactly the manifest, from exactly its registry, and never in anybody's way."""

import logging

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from longshore import store
from longshore.store import ArtifactStore

DIGEST = f"sha256:{'a' * 64}"


@pytest.fixture
def asked() -> list[str]:
    return []


async def registry(asked: list[str], status: int = 202) -> TestServer:
    async def delete(request: web.Request) -> web.Response:
        asked.append(f"{request.method} {request.path}")
        return web.Response(status=status, headers={"Location": "http://127.0.0.1:9/elsewhere"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", delete)
    server = TestServer(app)
    await server.start_server()
    return server


async def test_the_manifest_is_deleted_and_nothing_else(asked: list[str]) -> None:
    server = await registry(asked)
    host = f"127.0.0.1:{server.port}"
    others = ["s3://bucket/key", f"oci://{host}/longshore:tag", f"oci://{host}@{DIGEST}", "nonsense"]
    await ArtifactStore(plain_http=True).release([*others, f"oci://{host}/longshore/team@{DIGEST}"])
    await server.close()
    assert asked == [f"DELETE /v2/longshore/team/manifests/{DIGEST}"]


@pytest.mark.parametrize(
    ("status", "told"), [(200, False), (202, False), (404, False), (405, True), (307, True)]
)
async def test_a_refusal_is_logged_and_holds_nobody_up(
    asked: list[str], status: int, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    server = await registry(asked, status)
    with caplog.at_level(logging.WARNING):
        await ArtifactStore(plain_http=True).release([f"oci://127.0.0.1:{server.port}/longshore@{DIGEST}"])
    await server.close()
    assert len(asked) == 1, "a redirect is not followed"
    assert (f"HTTP {status}" in caplog.text) == told


@pytest.mark.parametrize("host", ["127.0.0.1:9", "[::", "no host", "127.0.0.1:99999"])
async def test_a_registry_that_is_away_is_logged(
    host: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_TIMEOUT", 0.5)
    with caplog.at_level(logging.WARNING):
        await ArtifactStore(plain_http=True).release([f"oci://{host}/longshore@{DIGEST}"])
    assert "stays in its store" in caplog.text
