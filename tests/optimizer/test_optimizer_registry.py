"""Pulling from and pushing to an OCI registry, and the other stores."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from longshore.artifact.manifest import Environment, InputModel, Manifest, OutputModel
from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.fetch.settings import FetchSettings
from longshore_optimizer.fetch.source import fetch
from longshore_optimizer.store.open import open_store

from tests.optimizer.fake_registry import FakeRegistry

SETTINGS = FetchSettings(attempts=3, connect_timeout=2, read_timeout=5, deadline=30)
KEY = "k" * 64


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    server = FakeRegistry()
    yield server
    server.close()


def contents(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in directory.iterdir()}


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    path = tmp_path / "artifact"
    path.mkdir()
    (path / "model.onnx").write_bytes(b"m" * 5000)
    manifest = Manifest(
        input=InputModel(sha256="1" * 64, format="Onnx"),
        output=OutputModel(sha256=hashlib.sha256(b"m" * 5000).hexdigest(), size_bytes=5000),
        chosen="original",
        environment=Environment(),
        key=KEY,
    )
    (path / "manifest.json").write_text(manifest.model_dump_json(by_alias=True))
    return path


async def test_an_artifact_comes_back_as_it_was_stored(
    registry: FakeRegistry, artifact: Path, tmp_path: Path
) -> None:
    store = open_store(f"oci://{registry.host}/models/a", SETTINGS, tmp_path)
    assert await store.find(KEY) is None
    stored = await store.put(artifact, KEY)
    assert stored.reference == f"oci://{registry.host}/models/a@sha256:{stored.sha256}"
    found = await store.find(KEY)
    assert found == stored
    got = await fetch(stored.reference, tmp_path / "in", SETTINGS, stored.sha256)
    assert contents(got.path) == contents(artifact)


async def test_the_image_is_one_that_a_kubelet_mounts_and_the_same_every_time(
    registry: FakeRegistry, artifact: Path, tmp_path: Path
) -> None:
    store = open_store(f"oci://{registry.host}/models/a", SETTINGS, tmp_path)
    first = await store.put(artifact, KEY)
    image = json.loads(registry.manifests[f"sha256:{first.sha256}"])
    config = json.loads(registry.blobs[image["config"]["digest"]])
    (layer,) = image["layers"]
    blob = registry.blobs[layer["digest"]]
    assert layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar"
    assert config["rootfs"] == {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(blob).hexdigest()]}
    with tarfile.open(fileobj=io.BytesIO(blob)) as bundle:
        assert [(m.name, m.mode, m.mtime, m.uid) for m in bundle] == [
            ("manifest.json", 0o644, 0, 0),
            ("model.onnx", 0o644, 0, 0),
        ]
    (artifact / "model.onnx").touch()
    uploads = sum(m == "POST" for m, _ in registry.requests)
    assert await store.put(artifact, KEY) == first
    assert sum(m == "POST" for m, _ in registry.requests) == uploads


async def test_a_private_registry_gets_its_token(artifact: Path, tmp_path: Path) -> None:
    registry = FakeRegistry(user=("anna", "geheim"))
    try:
        uri = f"oci://{registry.host}/models/a"
        with pytest.raises(Problem) as caught:
            await open_store(uri, SETTINGS, tmp_path).find(KEY)
        assert caught.value.reason is Reason.ACCESS_DENIED
        secret = tmp_path / "secret"
        secret.mkdir()
        auths = {"auths": {registry.host: {"username": "anna", "password": "geheim"}}}
        (secret / ".dockerconfigjson").write_text(json.dumps(auths))
        store = open_store(uri, replace(SETTINGS, credentials=secret), tmp_path)
        stored = await store.put(artifact, KEY)
        assert (await store.find(KEY)) == stored
    finally:
        registry.close()


async def test_a_layer_resumes_and_a_forged_one_is_refused(registry: FakeRegistry, tmp_path: Path) -> None:
    content = bytes(range(256)) * 4000
    blob = registry.add(content) | {"annotations": {"org.opencontainers.image.title": "model.onnx"}}
    registry.tag("1", {"schemaVersion": 2, "layers": [blob]})
    broken: list[int] = []

    def half(handler: Any) -> bool:
        if "/blobs/" not in handler.path or broken:
            return False
        broken.append(1)
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[:500_000])
        handler.close_connection = True
        return True

    registry.fault = half
    got = await fetch(f"oci://{registry.host}/m:1", tmp_path / "a", SETTINGS)
    assert (got.path / "model.onnx").read_bytes() == content
    registry.blobs[blob["digest"]] = content[:-1] + b"!"
    with pytest.raises(Problem) as caught:
        await fetch(f"oci://{registry.host}/m:1", tmp_path / "b", SETTINGS)
    assert caught.value.reason is Reason.DIGEST_MISMATCH


async def test_a_wrong_digest_and_a_missing_tag(registry: FakeRegistry, tmp_path: Path) -> None:
    digest = registry.tag("1", {"schemaVersion": 2, "layers": [registry.add(b"x")]})
    registry.manifests[digest] += b" "
    with pytest.raises(Problem) as caught:
        await fetch(f"oci://{registry.host}/m@{digest}", tmp_path / "a", SETTINGS)
    assert caught.value.reason is Reason.DIGEST_MISMATCH
    with pytest.raises(Problem) as caught:
        await fetch(f"oci://{registry.host}/m:2", tmp_path / "b", SETTINGS)
    assert caught.value.reason is Reason.NOT_FOUND


def tar_of(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as bundle:
        for name, content in files.items():
            info = tarfile.TarInfo(name.replace("__", "/"))
            info.size = len(content)
            bundle.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


async def test_container_images_and_model_artifacts_of_other_tools(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    image = registry.add(tar_of(model__model_onnx=b"weights"))
    image["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip"
    registry.tag("image", {"schemaVersion": 2, "layers": [image]})
    kit = registry.add(b"raw weights")
    kit |= {
        "mediaType": "application/vnd.cncf.model.weight.v1.raw",
        "annotations": {"org.cncf.model.filepath": "model.onnx"},
    }
    digest = registry.tag("kit", {"schemaVersion": 2, "layers": [kit]})
    index = {"manifests": [{"digest": digest, "platform": {"os": "linux", "architecture": "amd64"}}]}
    registry.tag("index", {"schemaVersion": 2, **index})
    base = f"oci://{registry.host}/m"
    got = await fetch(f"{base}:image", tmp_path / "a", SETTINGS)
    assert (got.path / "model" / "model_onnx").read_bytes() == b"weights"
    for tag in ("kit", "index"):
        got = await fetch(f"{base}:{tag}", tmp_path / tag, SETTINGS)
        assert (got.path / "model.onnx").read_bytes() == b"raw weights"


@pytest.mark.parametrize("title", ["../model.onnx", "/etc/model.onnx"])
async def test_a_layer_cannot_name_a_file_outside(registry: FakeRegistry, tmp_path: Path, title: str) -> None:
    blob = registry.add(b"x") | {"annotations": {"org.opencontainers.image.title": title}}
    registry.tag("1", {"schemaVersion": 2, "layers": [blob]})
    with pytest.raises(Problem) as caught:
        await fetch(f"oci://{registry.host}/m:1", tmp_path / "in", SETTINGS)
    assert caught.value.reason is Reason.UNSAFE_ARCHIVE


async def test_a_directory_store_ignores_what_a_killed_job_left(artifact: Path, tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/store", SETTINGS, tmp_path)
    unfinished = tmp_path / "store" / f"key-{KEY[:40]}"
    unfinished.mkdir(parents=True)
    (unfinished / "model.onnx").write_bytes(b"half")
    assert await store.find(KEY) is None
    stored = await store.put(artifact, KEY)
    assert (await store.find(KEY)) == stored
    assert (unfinished / "model.onnx").read_bytes() == b"m" * 5000


async def test_a_bucket_store_and_a_prefix_come_back(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.optimizer.fake_bucket import FakeBucket

    bucket = FakeBucket()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        store = open_store("s3://bucket/artifacts", SETTINGS, tmp_path)
        assert await store.find(KEY) is None
        stored = await store.put(artifact, KEY)
        assert await store.find(KEY) == stored
        assert bucket.order[-1].endswith("manifest.json")
        got = await fetch(stored.reference, tmp_path / "in", SETTINGS)
        assert (got.path / "model.onnx").read_bytes() == b"m" * 5000
        one = await fetch(f"{stored.reference}/model.onnx", tmp_path / "one", SETTINGS)
        assert one.sha256 == hashlib.sha256(b"m" * 5000).hexdigest()
        with pytest.raises(Problem) as caught:
            await fetch("s3://bucket/none", tmp_path / "none", SETTINGS)
        assert caught.value.reason is Reason.NOT_FOUND
    finally:
        bucket.close()


async def test_what_is_noted_on_the_way_is_no_artifact(registry: FakeRegistry, tmp_path: Path) -> None:
    store = open_store(f"oci://{registry.host}/models/a", SETTINGS, tmp_path)
    assert await store.recall(KEY) is None
    await store.note(KEY, b'{"first": 1}')
    await store.note(KEY, b'{"first": 1, "second": 2}')
    assert await store.recall(KEY) == b'{"first": 1, "second": 2}'
    assert await store.find(KEY) is None
