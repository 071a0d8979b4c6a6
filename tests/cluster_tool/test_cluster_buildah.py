"""Builds with buildah: where the base image comes from, and what of the host a build sees."""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.cluster import base_image, from_host
from e2e.cluster.base_image import BASE_IMAGE
from e2e.cluster.buildah import Buildah
from e2e.cluster.errors import ClusterError

# Their arguments go to $FAKE/calls, a JSON list a line; an image is a file in $FAKE that holds its id.
FAKE = """\
#!{python}
import json, os, pathlib, shutil, sys
fake = pathlib.Path(os.environ["FAKE"])
program, words = os.path.basename(sys.argv[0]), sys.argv[1:]
while program == "buildah" and words[0].startswith("--"):
    del words[:2]
with (fake / "calls").open("a") as calls:
    calls.write(json.dumps([program, *words]) + "\\n")
if program == "mmdebstrap":
    if "mirror" not in os.environ["REACHED"].split():
        sys.exit("E: cannot reach deb.debian.org")
    pathlib.Path(words[-1]).write_text("a tree of Debian")
elif words[0] == "pull":
    if "registry" not in os.environ["REACHED"].split():
        sys.exit("Error: cannot reach docker.io")
    (fake / "image").write_text("sha256:pulled")
elif words[0] == "build":
    shutil.copytree(words[-1], fake / "context", dirs_exist_ok=True)
    (fake / "image").write_text("sha256:made")
elif words[0] == "images" and (fake / "image").exists():
    print((fake / "image").read_text())
"""


@dataclass(frozen=True)
class Fake:
    """buildah and mmdebstrap that do as if; `REACHED` names what of registry and mirror can be reached."""

    folder: Path
    buildah: Buildah
    cache: Path

    def ensure(self, *, refresh: bool = False) -> str:
        return base_image.ensure(self.buildah, self.cache, lambda _: None, refresh=refresh)

    def calls(self, *names: str) -> list[list[str]]:
        """What was run of these programs and commands of buildah."""
        lines = [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]
        return [words for words in lines if words[0] in names or words[1] in names]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("buildah", "mmdebstrap"):
        (programs / name).write_text(FAKE.replace("{python}", f"{sys.executable} -IS"))
        (programs / name).chmod(0o755)
    (tmp_path / "calls").touch()
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("FAKE", str(tmp_path))
    monkeypatch.setenv("REACHED", "registry mirror")
    return Fake(tmp_path, Buildah(tmp_path / "cache"), tmp_path / "cache")


def test_the_base_image_is_pulled_once(fake: Fake) -> None:
    assert fake.ensure() == fake.ensure() == "sha256:pulled"
    assert len(fake.calls("pull")) == 1
    fake.ensure(refresh=True)
    assert [words[-1] for words in fake.calls("pull")] == [BASE_IMAGE] * 2
    assert fake.calls("mmdebstrap", "build") == []


def test_without_a_registry_the_base_image_is_made_from_packages(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REACHED", "mirror")
    assert fake.ensure() == "sha256:made"
    ((_, *options, suite, _),) = fake.calls("mmdebstrap")
    assert suite in BASE_IMAGE
    assert "--variant=minbase" in options
    (build,) = fake.calls("build")
    assert build[build.index("--tag") + 1] == BASE_IMAGE
    assert (fake.folder / "context/base.tar").read_text() == "a tree of Debian"
    # The tree outlives buildah's storage: packages are fetched anew only when that is asked for.
    (fake.folder / "image").unlink()
    assert fake.ensure() == "sha256:made"
    assert len(fake.calls("mmdebstrap")) == 1
    fake.ensure(refresh=True)
    assert len(fake.calls("mmdebstrap")) == 2
    assert list((fake.cache / "images").glob(".partial-*")) == []


def test_with_neither_registry_nor_mirror_the_error_names_both(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REACHED", "")
    with pytest.raises(ClusterError, match=r"(?s)deb\.debian\.org.*before that:.*docker\.io.*next step:"):
        fake.ensure()
    assert fake.calls("build") == []
    assert list((fake.cache / "images").iterdir()) == [], "what is not whole must not be taken for a tree"
    monkeypatch.setenv("REACHED", "mirror")
    assert fake.ensure() == "sha256:made"


def test_a_build_sees_the_hosts_certificates_and_the_image_does_not_hold_them(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("the authority of a proxy")
    context = tmp_path / "sources"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")
    fake.buildah.build(context / "Dockerfile", context, "one", log=tmp_path / "log", target="stage")
    ((_, _, *words),) = fake.calls("build")
    path = from_host.CA_IN_BUILD
    (volume,) = [words[at + 1] for at, word in enumerate(words) if word in ("--volume", "-v")]
    assert volume == f"{bundle}:{path}:ro", "a build could write to the host's bundle"
    arguments = {word.removeprefix("--build-arg=") for word in words if word.startswith("--build-arg=")}
    index = "PIP_INDEX_URL=https://mirror.example/simple"
    assert arguments == {f"PIP_CERT={path}", f"SSL_CERT_FILE={path}", index}
    assert "--target=stage" in words
    assert words[-1] == str(context)
    assert not [word for word in words if re.match("--(secret|build-context|add-host)", word)]
    built = fake.folder / "context"
    assert [file.name for file in built.iterdir()] == ["Dockerfile"]
    assert "authority" not in (built / "Dockerfile").read_text()


def test_a_build_that_fails_shows_the_end_of_its_log(fake: Fake, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"(?s)building one failed.*No such file.*next step"):
        fake.buildah.build(tmp_path / "none", tmp_path / "none", "one", log=tmp_path / "log")
