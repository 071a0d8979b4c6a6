"""One image of server and model: what a registry holds is an image that a container runtime can run."""

import gzip
import io
import json
import platform
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.fetch.credentials import Credentials
from longshore_optimizer.fetch.registry import Reference
from longshore_optimizer.fetch.settings import FetchSettings
from longshore_optimizer.push import push
from longshore_optimizer.store.serving_image import image_reference, put_image

from tests.optimizer.conftest import mlp
from tests.optimizer.fake_registry import FakeRegistry
from tests.optimizer.test_optimizer_job import claim, job, request_for

HERE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    server = FakeRegistry()
    yield server
    server.close()


def add_server(registry: FakeRegistry, tag: str, content: bytes = b"server", index: bool = False) -> None:
    """Push an image of one gzipped layer, as Docker does it."""
    layer = registry.add(gzip.compress(content, mtime=0)) | {"mediaType": DOCKER_LAYER}
    config = {
        "architecture": HERE,
        "os": "linux",
        "config": {"Entrypoint": ["longshore-server"], "User": "65532:65532", "Env": ["PATH=/opt"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{'a' * 64}"]},
    }
    manifest = {"config": registry.add(json.dumps(config).encode()), "layers": [layer]}
    if not index:
        registry.tag(tag, manifest)
        return
    digest = registry.tag(f"{tag}-{HERE}", manifest)
    other = registry.tag("other", {"config": registry.add(b"{}"), "layers": []})
    entries = [("s390x", other), (HERE, digest)]
    listed = [{"digest": d, "platform": {"os": "linux", "architecture": a}} for a, d in entries]
    registry.tag(tag, {"manifests": listed})


def image_of(registry: FakeRegistry, reference: str) -> tuple[dict[str, Any], dict[str, Any]]:
    manifest = json.loads(registry.manifests[reference.partition("@")[2]])
    return manifest, json.loads(registry.blobs[manifest["config"]["digest"]])


async def put(server: str, registry: FakeRegistry, directory: Path, scratch: Path) -> str:
    target = Reference(registry.host, "models/artifacts")
    settings = FetchSettings(attempts=1)
    return await put_image(server, directory, target, "image-1", settings, Credentials({}), scratch)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "artifact"
    (directory / "exports").mkdir(parents=True)
    (directory / "model.onnx").write_bytes(b"onnx")
    (directory / "exports" / "model.ort").write_bytes(b"ort")
    return directory


@pytest.mark.parametrize("index", [False, True])
async def test_the_model_lies_on_top_of_the_server_and_runs_by_itself(
    registry: FakeRegistry, model: Path, tmp_path: Path, index: bool
) -> None:
    add_server(registry, "dev", index=index)
    reference = await put(f"{registry.host}/longshore/server:dev", registry, model, tmp_path)
    manifest, config = image_of(registry, reference)
    lower, upper = manifest["layers"]
    assert lower["mediaType"] == "application/vnd.oci.image.layer.v1.tar+gzip"
    assert gzip.decompress(registry.blobs[lower["digest"]]) == b"server"
    assert config["rootfs"]["diff_ids"] == [f"sha256:{'a' * 64}", upper["digest"]]
    with tarfile.open(fileobj=io.BytesIO(registry.blobs[upper["digest"]])) as tar:
        assert tar.getnames() == [
            "mnt",
            "mnt/model",
            "mnt/model/exports",
            "mnt/model/exports/model.ort",
            "mnt/model/model.onnx",
        ]
        assert {m.mode for m in tar if m.isdir()} == {0o755}
    assert config["config"]["Entrypoint"] == ["longshore-server"]
    assert config["config"]["Cmd"] == ["--model", "/mnt/model"]
    assert config["config"]["User"] == "65532:65532"
    assert reference == await put(f"{registry.host}/longshore/server:dev", registry, model, tmp_path)


async def test_layers_of_the_same_registry_are_mounted_not_sent(
    registry: FakeRegistry, model: Path, tmp_path: Path
) -> None:
    add_server(registry, "dev")
    (layer,) = (d for d, content in registry.blobs.items() if content.startswith(b"\x1f\x8b"))
    # As in a registry, a blob is known to a repository only once it was put or mounted there.
    registry.fault = lambda handler: _hide(handler, f"/v2/models/artifacts/blobs/{layer}")
    await put(f"{registry.host}/longshore/server:dev", registry, model, tmp_path)
    asked = [path for method, path in registry.requests if method == "POST" and "mount=" in path]
    assert asked == [f"/v2/models/artifacts/blobs/uploads/?mount={layer}&from=longshore%2Fserver"]
    assert not [path for method, path in registry.requests if method == "GET" and layer in path]


async def test_layers_that_may_not_be_mounted_are_copied(
    registry: FakeRegistry, model: Path, tmp_path: Path
) -> None:
    add_server(registry, "dev")
    (layer,) = (d for d, content in registry.blobs.items() if content.startswith(b"\x1f\x8b"))

    def fault(handler: Any) -> bool:
        if "mount=" in handler.path:
            handler.answer(403)
            return True
        return _hide(handler, f"/v2/models/artifacts/blobs/{layer}")

    registry.fault = fault
    await put(f"{registry.host}/longshore/server:dev", registry, model, tmp_path)
    put_there = [path for method, path in registry.requests if method == "PUT" and layer[7:] in path]
    assert len(put_there) == 1


def _hide(handler: Any, path: str) -> bool:
    if handler.command == "HEAD" and handler.path == path:
        handler.answer(404)
        return True
    return False


async def test_layers_of_another_registry_are_copied(
    registry: FakeRegistry, model: Path, tmp_path: Path
) -> None:
    other = FakeRegistry()
    try:
        add_server(other, "dev")
        reference = await put(f"{other.host}/longshore/server:dev", registry, model, tmp_path)
    finally:
        other.close()
    manifest, _ = image_of(registry, reference)
    assert gzip.decompress(registry.blobs[manifest["layers"][0]["digest"]]) == b"server"


@pytest.mark.parametrize(
    ("manifest", "reason", "words"),
    [
        (None, Reason.NOT_FOUND, "set serving.packaging to Volume"),
        ({"manifests": []}, Reason.NOT_FOUND, HERE),
        ({"layers": [{}], "config": {}}, Reason.INVALID_MODEL, "no container image"),
    ],
)
async def test_a_server_that_is_no_image_is_told(
    registry: FakeRegistry, model: Path, tmp_path: Path, manifest: Any, reason: Reason, words: str
) -> None:
    if manifest is not None:
        registry.tag("dev", manifest)
    with pytest.raises(Problem) as refused:
        await put(f"{registry.host}/longshore/server:dev", registry, model, tmp_path)
    assert refused.value.reason is reason
    assert words in refused.value.message
    assert not [path for method, path in registry.requests if method == "PUT"]


@pytest.mark.parametrize(
    ("image", "host", "repository"),
    [
        ("busybox", "registry-1.docker.io", "library/busybox"),
        ("longshore/server:1", "registry-1.docker.io", "longshore/server"),
        ("ghcr.io/longshore/server:1", "ghcr.io", "longshore/server"),
        ("localhost/longshore/server:dev", "localhost", "longshore/server"),
        ("10.244.0.1:5000/server", "10.244.0.1:5000", "server"),
    ],
)
def test_names_of_images_are_read_as_a_container_runtime_does(image: str, host: str, repository: str) -> None:
    found = image_reference(image)
    assert (found.host, found.repository) == (host, repository)


def test_a_job_reports_the_image_also_where_the_artifact_was_there(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    add_server(registry, "dev")
    mlp(claim(tmp_path) / "model.onnx")
    plain = request_for("pvc://models/model.onnx", f"oci://{registry.host}/artifacts")
    done, first = job(tmp_path, plain)
    assert done.returncode == 0, done.stderr
    assert first.image is None
    packaged = {**plain, "serverImage": f"{registry.host}/longshore/server:dev"}
    done, second = job(tmp_path, packaged)
    assert done.returncode == 0, done.stderr
    assert second.cached
    assert second.artifact == first.artifact
    manifest, _ = image_of(registry, str(second.image))
    add_server(registry, "next", b"another")
    done, third = job(tmp_path, {**packaged, "serverImage": f"{registry.host}/longshore/server:next"})
    assert third.image != second.image
    digests = [str(report.image).partition("@")[2] for report in (second, third)]
    tagged = [content for tag, content in registry.manifests.items() if tag.startswith("image-")]
    assert all(registry.manifests[digest] in tagged for digest in digests), "an image lost its tag"
    with tarfile.open(fileobj=io.BytesIO(registry.blobs[manifest["layers"][-1]["digest"]])) as tar:
        assert "mnt/model/model.onnx" in tar.getnames()


async def test_push_makes_the_same_image_of_a_single_file(registry: FakeRegistry, tmp_path: Path) -> None:
    add_server(registry, "dev")
    onto = f"{registry.host}/longshore/server:dev"
    model = mlp(tmp_path / "digits-v3.onnx")
    reference = await push(model, f"oci://{registry.host}/digits-server:3", onto=onto)
    assert reference.startswith(f"oci://{registry.host}/digits-server@sha256:")
    manifest, config = image_of(registry, reference)
    assert json.loads(registry.manifests["3"]) == manifest
    assert config["config"]["Entrypoint"] == ["longshore-server"]
    with tarfile.open(fileobj=io.BytesIO(registry.blobs[manifest["layers"][-1]["digest"]])) as tar:
        assert tar.getnames() == ["mnt", "mnt/model", "mnt/model/model.onnx"]


def test_a_store_that_is_no_registry_is_refused(tmp_path: Path) -> None:
    mlp(claim(tmp_path) / "model.onnx")
    request = {**request_for("pvc://models/model.onnx"), "serverImage": "registry.example/server:1"}
    done, report = job(tmp_path, request)
    assert done.returncode != 0
    assert report.reason == "UnsupportedUri"
    assert "needs a registry" in report.message
