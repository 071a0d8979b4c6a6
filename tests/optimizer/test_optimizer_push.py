"""`longshore push`: what a registry holds afterwards can be fetched, and mounted by a kubelet."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from longshore.cli.main import build
from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.fetch.settings import FetchSettings
from longshore_optimizer.fetch.source import fetch
from longshore_optimizer.push import push
from typer.testing import CliRunner

from tests.optimizer.fake_registry import FakeRegistry


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    server = FakeRegistry()
    yield server
    server.close()


async def test_a_model_file_can_be_fetched_and_served_as_it_is(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    model = tmp_path / "digits-v3.onnx"
    model.write_bytes(b"\x08\x09" * 3000)
    pinned = await push(model, f"oci://{registry.host}/models/digits:3")
    assert pinned == await push(model, f"oci://{registry.host}/models/digits:again"), "not reproducible"
    for uri in (pinned, f"oci://{registry.host}/models/digits:3"):
        fetched = await fetch(uri, tmp_path / uri[-5:], FetchSettings())
        assert pinned.endswith(fetched.sha256)
        assert {p.name: p.read_bytes() for p in fetched.path.iterdir()} == {"model.onnx": model.read_bytes()}


async def test_a_data_file_stays_one_file(registry: FakeRegistry, tmp_path: Path) -> None:
    """A tar whose last member is an .npz ends as a zip does, and is none."""
    np.savez(tmp_path / "data.npz", X=np.arange(12), labels=np.arange(12))
    pinned = await push(tmp_path / "data.npz", f"oci://{registry.host}/data/digits:1")
    fetched = await fetch(pinned, tmp_path / "fetched", FetchSettings())
    assert {p.name: p.read_bytes() for p in fetched.path.iterdir()} == {
        "data.npz": (tmp_path / "data.npz").read_bytes()
    }


async def test_the_image_is_one_that_a_kubelet_mounts(registry: FakeRegistry, tmp_path: Path) -> None:
    directory = tmp_path / "data"
    (directory / "shards").mkdir(parents=True)
    (directory / "shards" / "0.npz").write_bytes(b"0" * 100)
    pinned = await push(directory, f"oci://{registry.host}/data/digits:1")
    manifest = json.loads(next(v for k, v in registry.manifests.items() if k.endswith(pinned.split("@")[1])))
    config = json.loads(registry.blobs[manifest["config"]["digest"]])
    (layer,) = manifest["layers"]
    assert config["rootfs"]["diff_ids"] == [layer["digest"]], "an uncompressed layer is its own diff id"
    with tarfile.open(fileobj=io.BytesIO(registry.blobs[layer["digest"]])) as tar:
        assert sorted(tar.getnames()) == ["shards", "shards/0.npz"]


@pytest.mark.parametrize("place", ["https://models.example/a", "oci://{host}/a@sha256:" + "0" * 64])
async def test_a_place_that_cannot_be_pushed_to_is_refused(
    registry: FakeRegistry, tmp_path: Path, place: str
) -> None:
    (tmp_path / "a.onnx").write_bytes(b"a")
    with pytest.raises(Problem) as refused:
        await push(tmp_path / "a.onnx", place.format(host=registry.host))
    assert refused.value.reason is Reason.UNSUPPORTED_URI
    assert registry.manifests == {}


def test_the_command_logs_in_as_docker_does_and_prints_the_pinned_uri(tmp_path: Path) -> None:
    private = FakeRegistry(user=("robot", "secret"))
    try:
        (tmp_path / "a.onnx").write_bytes(b"a")
        arguments = ["push", str(tmp_path / "a.onnx"), f"oci://{private.host}/a:1"]
        environment = {"DOCKER_CONFIG": str(tmp_path / "docker")}
        refused = CliRunner().invoke(build(), arguments, env=environment)
        assert refused.exit_code == 3
        assert "AccessDenied" in refused.stderr
        (tmp_path / "docker").mkdir()
        auths = {private.host: {"username": "robot", "password": "secret"}}
        (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": auths}))
        done = CliRunner().invoke(build(), arguments, env=environment)
        assert done.exit_code == 0, done.output
        assert done.stdout.startswith(f"oci://{private.host}/a@sha256:")
    finally:
        private.close()
