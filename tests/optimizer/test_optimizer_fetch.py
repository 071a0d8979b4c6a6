"""Fetching from servers that fail, lie and attack."""

import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.fetch import credentials
from longshore_optimizer.fetch.hub import hub_url
from longshore_optimizer.fetch.settings import FetchSettings, from_environment
from longshore_optimizer.fetch.source import fetch
from longshore_optimizer.fetch.uri import parse

from tests.optimizer.conftest import Files

SETTINGS = FetchSettings(attempts=3, connect_timeout=2, read_timeout=5, deadline=30)
BODY = os.urandom(300_000)

Serve = Callable[..., str]


async def refused(
    uri: str, where: Path, settings: FetchSettings = SETTINGS, sha256: str | None = None
) -> Problem:
    with pytest.raises(Problem) as caught:
        await fetch(uri, where, settings, sha256)
    return caught.value


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "site"
    path.mkdir()
    (path / "model.bin").write_bytes(BODY)
    return path


async def test_a_file_arrives_with_its_digest(site: Path, tmp_path: Path, serve: Serve) -> None:
    got = await fetch(f"{serve(site)}/model.bin", tmp_path / "in", SETTINGS)
    assert got.path.read_bytes() == BODY
    assert (got.sha256, got.size_bytes) == (hashlib.sha256(BODY).hexdigest(), len(BODY))


async def test_what_is_missing_forbidden_or_too_large_is_told_apart(
    site: Path, tmp_path: Path, serve: Serve
) -> None:
    base = serve(site)
    assert (await refused(f"{base}/none", tmp_path / "a")).reason is Reason.NOT_FOUND
    small = replace(SETTINGS, max_bytes=1000)
    assert (await refused(f"{base}/model.bin", tmp_path / "b", small)).reason is Reason.TOO_LARGE
    wrong = await refused(f"{base}/model.bin", tmp_path / "c", sha256="0" * 64)
    assert wrong.reason is Reason.DIGEST_MISMATCH
    assert hashlib.sha256(BODY).hexdigest() in wrong.message

    def forbid(handler: Files) -> bool:
        handler.send_error(403)
        return True

    denied = await refused(f"{serve(site, forbid)}/model.bin", tmp_path / "d")
    assert denied.reason is Reason.ACCESS_DENIED
    assert "credentials.secretName" in denied.message


async def test_an_unreachable_host_is_retryable(tmp_path: Path) -> None:
    problem = await refused("https://127.0.0.1:1/model.onnx", tmp_path, replace(SETTINGS, attempts=1))
    assert (problem.reason, problem.retryable) == (Reason.FETCH_FAILED, True)
    assert "127.0.0.1" in problem.message


async def test_a_broken_transfer_resumes_where_it_stopped(site: Path, tmp_path: Path, serve: Serve) -> None:
    ranges: list[str | None] = []

    def flaky(handler: Files) -> bool:
        asked = handler.headers.get("Range")
        ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        handler.send_response(206 if asked else 200)
        handler.send_header("ETag", '"v1"')
        handler.send_header("Content-Length", str(len(BODY) - start))
        handler.end_headers()
        stop = len(BODY) if len(ranges) == 3 else start + 100_000
        handler.wfile.write(BODY[start:stop])
        handler.close_connection = True
        return True

    got = await fetch(f"{serve(site, flaky)}/model.bin", tmp_path / "in", SETTINGS)
    assert got.path.read_bytes() == BODY
    assert ranges == [None, "bytes=100000-", "bytes=200000-"]


async def test_a_transfer_that_always_ends_early_is_truncated(
    site: Path, tmp_path: Path, serve: Serve
) -> None:
    def short(handler: Files) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(BODY)))
        handler.end_headers()
        handler.wfile.write(BODY[:1000])
        handler.close_connection = True
        return True

    problem = await refused(f"{serve(site, short)}/model.bin", tmp_path, replace(SETTINGS, attempts=2))
    assert problem.reason is Reason.TRUNCATED


async def test_a_server_that_is_busy_is_asked_again(site: Path, tmp_path: Path, serve: Serve) -> None:
    calls: list[int] = []

    def busy(handler: Files) -> bool:
        calls.append(1)
        if len(calls) < 3:
            handler.send_response(503)
            handler.send_header("Retry-After", "0")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return True
        return False

    await fetch(f"{serve(site, busy)}/model.bin", tmp_path / "in", SETTINGS)
    assert len(calls) == 3


async def test_a_dead_slow_server_meets_the_deadline(site: Path, tmp_path: Path, serve: Serve) -> None:
    import threading

    release = threading.Event()

    def hang(handler: Files) -> bool:
        release.wait(10)
        handler.close_connection = True
        return True

    try:
        problem = await refused(f"{serve(site, hang)}/x", tmp_path, replace(SETTINGS, deadline=0.3))
        assert problem.reason is Reason.DEADLINE_EXCEEDED
    finally:
        release.set()


async def test_credentials_go_to_their_host_only(site: Path, tmp_path: Path, serve: Serve) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "token").write_text("s3cret\n")
    seen: dict[str, str | None] = {}

    def second(handler: Files) -> bool:
        seen["second"] = handler.headers.get("Authorization")
        return False

    target = serve(site, second)

    def first(handler: Files) -> bool:
        seen["first"] = handler.headers.get("Authorization")
        handler.send_response(302)
        handler.send_header("Location", f"{target}/model.bin")
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    await fetch(f"{serve(site, first)}/model.bin", tmp_path / "in", replace(SETTINGS, credentials=secret))
    assert seen == {"first": "Bearer s3cret", "second": None}


@pytest.mark.parametrize(
    ("uri", "word"),
    [
        ("http://models.example/model.onnx", "clear text"),
        ("ftp://models.example/model.onnx", "ftp"),
        ("https://user:password@models.example/m", "Secret"),
        ("model.onnx", "no uri"),
        ("https:///model.onnx", "no host"),
        ("file:///etc/passwd", "command line"),
        ("oci://registry.example/UPPER", "image name"),
        ("hf://owner/name", "names no file"),
    ],
)
async def test_uris_that_are_refused_before_anything_is_sent(tmp_path: Path, uri: str, word: str) -> None:
    problem = await refused(uri, tmp_path)
    assert problem.reason is Reason.UNSUPPORTED_URI
    assert word in problem.message
    assert "password" not in problem.message or "Secret" in problem.message


def test_hub_uris_become_download_urls() -> None:
    endpoint = "https://huggingface.co"
    assert hub_url(parse("hf://owner/name/onnx/model.onnx"), endpoint) == (
        "https://huggingface.co/owner/name/resolve/main/onnx/model.onnx"
    )
    assert hub_url(parse("hf://owner/name@v1.0/a b.onnx"), "http://mirror") == (
        "http://mirror/owner/name/resolve/v1.0/a%20b.onnx"
    )


def tar_with(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as bundle:
        for info, content in members:
            info.size = len(content)
            bundle.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def member(name: str, **changes: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in changes.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize(
    "bad",
    [
        member("../escape.onnx"),
        member("/etc/escape.onnx"),
        member("model.onnx", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("model.onnx", type=tarfile.LNKTYPE, linkname="../x"),
        member("null", type=tarfile.CHRTYPE),
    ],
    ids=["parent", "absolute", "symlink", "hardlink", "device"],
)
async def test_archives_that_attack_are_refused(
    site: Path, tmp_path: Path, serve: Serve, bad: tarfile.TarInfo
) -> None:
    (site / "model.tar.gz").write_bytes(tar_with((member("fine.onnx"), b"x"), (bad, b"")))
    problem = await refused(f"{serve(site)}/model.tar.gz", tmp_path / "in")
    assert problem.reason is Reason.UNSAFE_ARCHIVE
    assert not (tmp_path / "escape.onnx").exists()
    assert not any(p.is_symlink() for p in (tmp_path / "in").rglob("*"))


async def test_zip_members_cannot_leave_and_bombs_do_not_explode(
    site: Path, tmp_path: Path, serve: Serve
) -> None:
    with zipfile.ZipFile(site / "escape.zip", "w") as bundle:
        bundle.writestr("../../model.onnx", "x")
    with zipfile.ZipFile(site / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("model.onnx", b"\0" * (80 << 20))
    base = serve(site)
    assert (await refused(f"{base}/escape.zip", tmp_path / "a")).reason is Reason.UNSAFE_ARCHIVE
    problem = await refused(f"{base}/bomb.zip", tmp_path / "b", replace(SETTINGS, max_bytes=70 << 20))
    assert problem.reason in (Reason.UNSAFE_ARCHIVE, Reason.TOO_LARGE)


async def test_a_good_archive_is_unpacked_and_its_lone_folder_removed(
    site: Path, tmp_path: Path, serve: Serve
) -> None:
    content = tar_with((member("model-1.0/model.onnx"), b"weights"), (member("model-1.0/a/b.bin"), b"more"))
    (site / "model.tar.gz").write_bytes(content)
    got = await fetch(f"{serve(site)}/model.tar.gz", tmp_path / "in", SETTINGS)
    assert (got.path / "model.onnx").read_bytes() == b"weights"
    assert (got.path / "a" / "b.bin").read_bytes() == b"more"
    assert got.sha256 == hashlib.sha256(content).hexdigest()


async def test_data_files_stay_whole_though_they_are_zips(site: Path, tmp_path: Path, serve: Serve) -> None:
    import numpy as np

    np.savez(site / "data.npz", x=np.ones(3))
    got = await fetch(f"{serve(site)}/data.npz", tmp_path / "in", SETTINGS)
    assert got.path.is_file()


async def test_a_volume_cannot_be_left_by_links(tmp_path: Path) -> None:
    claim = tmp_path / "pvc" / "models"
    claim.mkdir(parents=True)
    (tmp_path / "secret").write_text("x")
    (claim / "link").symlink_to(tmp_path / "secret")
    (claim / "tree").mkdir()
    (claim / "tree" / "link").symlink_to(tmp_path / "secret")
    settings = replace(SETTINGS, volume_root=tmp_path / "pvc")
    assert (await refused("pvc://models/link", tmp_path / "a", settings)).reason is Reason.UNSAFE_ARCHIVE
    problem = await refused("pvc://models/tree", tmp_path / "b", settings)
    assert problem.reason is Reason.EXTERNAL_DATA_ESCAPES


def test_settings_and_secrets_come_from_the_environment(tmp_path: Path) -> None:
    settings = from_environment(
        {
            "LONGSHORE_ALLOW_HTTP": "true",
            "LONGSHORE_PLAIN_HTTP_HOSTS": "a:5000, b",
            "LONGSHORE_PVC_ROOT": "/v",
        }
    )
    assert settings.allow_http
    assert settings.plain_http_hosts == {"a:5000", "b"}
    with pytest.raises(Problem) as caught:
        credentials.load(tmp_path / "missing")
    assert caught.value.reason is Reason.CREDENTIALS_MISSING
    (tmp_path / "password").write_text("geheim\n")
    (tmp_path / "username").write_text("anna")
    loaded = credentials.load(tmp_path)
    assert loaded.basic == ("anna", "geheim")
    assert "geheim" not in repr(loaded)
