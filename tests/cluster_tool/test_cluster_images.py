"""Images: when they are built again, what their Dockerfiles promise, and the archives that are loaded."""

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from longshore_server.providers import PACKAGES

from e2e.cluster import image_inputs, images, layout, oci
from e2e.cluster.errors import ClusterError
from e2e.cluster.image_inputs import ImageSource, copied_paths, inputs_hash, sources
from e2e.cluster.paths import REPOSITORY

OURS = [source for source in sources() if not source.optional]
BASE = "sha256:0"

by_name = pytest.mark.parametrize("source", OURS, ids=lambda source: source.name)


def stage(text: str, number: int) -> str:
    """The lines of one stage of a Dockerfile; -1 is the last, which becomes the image."""
    return re.split(r"^FROM .*$", text, flags=re.MULTILINE)[1:][number]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A small repository with one image."""
    (tmp_path / "images" / "one" / "src").mkdir(parents=True)
    (tmp_path / "images" / "one" / "Dockerfile").write_text(
        "FROM a AS b\nCOPY uv.lock ./\nCOPY images/one /source\nFROM c\nCOPY --from=b /source /source\n"
    )
    (tmp_path / "images" / "one" / "src" / "code.py").write_text("one = 1\n")
    (tmp_path / "uv.lock").write_text("version = 1\n")
    (tmp_path / "README.md").write_text("read me\n")
    return tmp_path


def hashed(repository: Path, base: str = BASE) -> str:
    return inputs_hash(ImageSource("one", repository / "images/one/Dockerfile", repository), base)


@pytest.mark.parametrize("name", ["uv.lock", "images/one/Dockerfile", "images/one/src/code.py"])
def test_a_changed_input_builds_again(repository: Path, name: str) -> None:
    before = hashed(repository)
    with (repository / name).open("a") as file:
        file.write("# more\n")
    assert hashed(repository) != before


def test_a_new_a_renamed_and_an_executable_file_build_again(repository: Path) -> None:
    code = repository / "images/one/src/code.py"
    seen = {hashed(repository)}
    code.with_name("more.py").write_text("")
    seen.add(hashed(repository))
    code.rename(code.with_name("renamed.py"))
    seen.add(hashed(repository))
    code.with_name("renamed.py").chmod(0o755)
    seen.add(hashed(repository))
    assert len(seen) == 4


def test_what_the_image_does_not_hold_builds_nothing(repository: Path) -> None:
    before = hashed(repository)
    (repository / "README.md").write_text("other\n")
    cache = repository / "images/one/src/__pycache__"
    cache.mkdir()
    (cache / "code.cpython-311.pyc").write_bytes(b"x")
    os.utime(repository / "uv.lock", (1, 1))
    assert hashed(repository) == before
    assert hashed(repository, base="sha256:1") != before


def test_copied_paths_are_those_of_the_context() -> None:
    text = "COPY a b ./\nCOPY --chown=1:1 c \\\n  d /x/\nCOPY --from=other e f\nADD g /\nRUN COPY h i\n"
    assert copied_paths(text) == ["a", "b", "c", "d", "g"]


@by_name
def test_every_copied_path_exists_and_is_in_the_context(source: ImageSource) -> None:
    allowed = [
        line.removeprefix("!")
        for line in (REPOSITORY / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    for path in copied_paths(source.dockerfile.read_text()):
        assert (REPOSITORY / path).exists()
        assert any(Path(path).is_relative_to(root) for root in allowed)


@by_name
def test_images_run_as_nobody_in_particular_and_send_no_telemetry(source: ImageSource) -> None:
    last = stage(source.dockerfile.read_text(), -1)
    assert "USER 65532:65532" in last
    assert "ORT_DISABLE_TELEMETRY=1" in last
    assert "PYTHONDONTWRITEBYTECODE=1" in last
    assert "RUN" not in last


@by_name
def test_images_start_from_the_same_layers(source: ImageSource) -> None:
    def preamble(text: str) -> str:
        start, end = text.index("\nFROM ${BASE} AS python"), text.index("\n# What uv.lock says")
        return text[start:end]

    assert preamble(source.dockerfile.read_text()) == preamble(OURS[0].dockerfile.read_text())


@by_name
def test_the_hosts_certificates_are_never_copied(source: ImageSource) -> None:
    assert "/etc/ssl" not in source.dockerfile.read_text()


def test_the_entry_points_exist_in_the_packages() -> None:
    for source in OURS:
        entry = re.search(r'ENTRYPOINT \["([^"]+)"\]', source.dockerfile.read_text())
        assert entry
        folders = [path for path in copied_paths(source.dockerfile.read_text()) if path.count("/") < 2]
        projects = [REPOSITORY / folder / "pyproject.toml" for folder in folders]
        texts = "".join(project.read_text() for project in projects if project.is_file())
        assert f"\n{entry[1]} = " in texts


def test_variants_of_the_server_are_pinned_and_ask_for_a_provider_that_exists() -> None:
    server = next(source for source in OURS if source.name == "server")
    text = server.dockerfile.read_text()
    requirements = {file.stem: file for file in (REPOSITORY / "images/server/variants").glob("*.txt")}
    variants = re.findall(
        r"^FROM variant AS (\w+)\nENV LONGSHORE_SERVER_PROVIDER=(\S+)\n", text, re.MULTILINE
    )
    assert sorted(variants) == [(name, f"{name},cpu") for name in sorted(requirements)]
    for name, _ in variants:
        assert f"sh /variants/replace.sh {name}\n" in text
        assert f"COPY --from={name}-packages /opt/longshore /opt/longshore\n" in text
    last = stage(text, -1)
    assert stage(text, -4)[: stage(text, -4).index("USER")] in last  # what both set
    for name, file in requirements.items():
        found = re.findall(r"^([a-z0-9-]+)==\S+ \\\n    --hash=sha256:", file.read_text(), re.MULTILINE)
        assert len(found) == file.read_text().count("==")
        assert [one for one in found if not one.startswith("nvidia-")] == [PACKAGES[name]]


def test_a_variant_is_another_build_of_the_same_file() -> None:
    known = {source.name: source for source in sources()}
    server, variant = known["server"], known["server-openvino"]
    assert variant.dockerfile == server.dockerfile
    assert inputs_hash(variant, BASE) != inputs_hash(server, BASE)
    assert variant.target == "openvino"


def test_optional_images_are_built_only_when_named() -> None:
    assert {source.name for source in images.select([])} == {"operator", "optimizer", "server", "activator"}
    assert [source.name for source in images.select(["triton", "triton"])] == ["triton"]
    with pytest.raises(ClusterError, match="choose from operator"):
        images.select(["nginx"])


def write_layout(folder: Path, content: oci.Image, name: str) -> None:
    """Unpack an archive as the layout that buildah writes."""
    subprocess.run(["tar", "-xf", "-", "-C", str(folder)], input=oci.archive(content, name), check=True)


def test_an_image_goes_through_a_layout_into_an_archive(tmp_path: Path) -> None:
    content = oci.image({"model.onnx": b"weights"}, entrypoint=("/serve",))
    write_layout(tmp_path, content, "localhost/one:dev")
    found = layout.find(tmp_path, "localhost/one:dev")
    assert found is not None
    assert found.digest == content.digest
    written = io.BytesIO()
    layout.write_archive(found, written)
    written.seek(0)
    with tarfile.open(fileobj=written) as archive:
        files = {entry.name: archive.extractfile(entry) for entry in archive}
        index = json.loads(files["index.json"].read())  # type: ignore[union-attr]
    (descriptor,) = index["manifests"]
    assert descriptor["digest"] == content.digest
    assert descriptor["annotations"]["io.containerd.image.name"] == "localhost/one:dev"
    assert {f"blobs/{digest.replace(':', '/')}" for digest in (*content.blobs, content.digest)} <= set(files)


def test_an_image_that_lacks_a_blob_is_not_there(tmp_path: Path) -> None:
    content = oci.image({"file": b"x"})
    write_layout(tmp_path, content, "one")
    assert layout.find(tmp_path, "another") is None
    assert list(layout.unreferenced(tmp_path)) == []
    extra = tmp_path / "blobs" / "sha256" / ("0" * 64)
    extra.write_bytes(b"old")
    assert list(layout.unreferenced(tmp_path)) == [extra]
    (tmp_path / "blobs" / next(iter(content.blobs)).replace(":", "/")).unlink()
    assert layout.find(tmp_path, "one") is None
    shutil.rmtree(tmp_path / "blobs")
    assert layout.find(tmp_path, "one") is None


def test_the_same_files_give_the_same_image() -> None:
    one = oci.image({"b": b"2", "a": b"1"})
    assert one == oci.image({"a": b"1", "b": b"2"})
    assert one.digest != oci.image({"a": b"1", "b": b"3"}).digest


def test_the_tag_is_not_one_that_kubernetes_always_pulls() -> None:
    assert image_inputs.TAG != "latest"
