"""Releasing artifacts: exactly the manifest, from exactly its registry, and never in anybody's way."""

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
    ("status", "away"),
    [
        (200, None),
        (202, None),
        (404, None),
        (405, False),
        (401, False),
        (307, False),
        (429, True),
        (503, True),
    ],
)
async def test_what_stays_is_told_and_whether_to_ask_again(
    asked: list[str], status: int, away: bool | None
) -> None:
    server = await registry(asked, status)
    artifact = f"oci://127.0.0.1:{server.port}/longshore@{DIGEST}"
    kept = await ArtifactStore(plain_http=True).release([artifact])
    await server.close()
    assert len(asked) == 1, "a redirect is not followed"
    assert [(one.artifact, one.away) for one in kept] == ([] if away is None else [(artifact, away)])
    assert all(str(status) in one.cause for one in kept)


@pytest.mark.parametrize(
    ("host", "away"), [("127.0.0.1:9", True), ("[::", False), ("no host", True), ("127.0.0.1:99999", False)]
)
async def test_a_registry_that_is_away_may_be_asked_again(
    host: str, away: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_TIMEOUT", 0.5)
    (kept,) = await ArtifactStore(plain_http=True).release([f"oci://{host}/longshore@{DIGEST}"])
    assert kept.cause
    assert kept.away == away


async def test_what_lies_elsewhere_is_told_as_left() -> None:
    (kept,) = await ArtifactStore(plain_http=True).release([f"s3://bucket/models@{DIGEST}"])
    assert not kept.away
    assert "OCI" in kept.cause
