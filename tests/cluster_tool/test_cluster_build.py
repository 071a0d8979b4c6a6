"""Building the programs: once for each set of checksums and flags, whole or not at all."""

import dataclasses
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.cluster import build
from e2e.cluster.errors import ClusterError
from e2e.cluster.go import environment, parse_version, require_go
from e2e.cluster.paths import MODULES, REPOSITORY
from e2e.cluster.programs import ETCD, MODULES_OF_NODE, RUNC, Module, set_key

FAKE_GO = """\
#!/bin/sh
# Answers as Go does; "builds" what programs.txt names, and counts how often it was asked.
if [ "$1" = env ]; then echo "${FAKE_GO_VERSION:-go1.26.8}"; exit; fi
echo "$(basename "$PWD")" >> "$FAKE_GO_LOG"
echo "some/package" >&2
if [ -n "$FAKE_GO_FAILS" ]; then echo "cannot find module providing it" >&2; exit 1; fi
case "$(basename "$PWD")" in
  etcd) programs="server registry" ;;
  runc) programs="runc" ;;
esac
for program in $programs; do
  printf '#!/bin/sh\\necho %s\\n' "$program" > "$GOBIN/$program"
  chmod +x "$GOBIN/$program"
  sleep "${FAKE_GO_SECONDS:-0}"
done
"""

BUILD = """
import sys
from pathlib import Path
from e2e.cluster import build
from e2e.cluster.programs import ETCD
build.ensure((ETCD,), say=lambda line: print(line, flush=True), cache=Path(sys.argv[1]))
"""


@pytest.fixture
def go_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "fake"
    folder.mkdir()
    program = folder / "go"
    program.write_text(FAKE_GO)
    program.chmod(0o755)
    log = folder / "log"
    log.touch()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_GO_LOG", str(log))
    return log


def quiet(line: str) -> None:
    """Say nothing."""


@pytest.mark.parametrize("name", ["go.mod", "go.sum"])
def test_key_changes_with_checksums(tmp_path: Path, name: str) -> None:
    shutil.copytree(MODULES, tmp_path / "modules")
    before = RUNC.key(tmp_path / "modules")
    assert before == RUNC.key()
    with (tmp_path / "modules" / "runc" / name).open("a") as file:
        file.write("\n// one more line\n")
    assert RUNC.key(tmp_path / "modules") != before
    assert ETCD.key(tmp_path / "modules") == ETCD.key()


@pytest.mark.parametrize(
    "change",
    [{"tags": "other"}, {"ldflags": "-X a.b=c"}, {"cgo": False}, {"renames": {"runc": "run"}}],
    ids=lambda change: next(iter(change)),
)
def test_key_changes_with_flags(change: dict[str, object]) -> None:
    assert dataclasses.replace(RUNC, **change).key() != RUNC.key()  # type: ignore[arg-type]


def test_set_key_depends_on_every_module_and_not_on_their_order() -> None:
    assert set_key(tuple(reversed(MODULES_OF_NODE))) == set_key(MODULES_OF_NODE)
    assert set_key(MODULES_OF_NODE[1:]) != set_key(MODULES_OF_NODE)


def test_builds_once(tmp_path: Path, go_log: Path) -> None:
    first = build.ensure((ETCD, RUNC), say=quiet, cache=tmp_path)
    assert sorted(path.name for path in first.iterdir()) == ["etcd", "registry", "runc"]
    assert all(path.stat().st_mode & stat.S_IXUSR for path in first.iterdir())
    assert build.ensure((ETCD, RUNC), say=quiet, cache=tmp_path) == first
    # Another set takes the module that both have from the cache.
    build.ensure((RUNC,), say=quiet, cache=tmp_path)
    assert go_log.read_text().split() == ["etcd", "runc"]


def test_a_failed_build_names_the_module_and_publishes_nothing(
    tmp_path: Path, go_log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_GO_FAILS", "1")
    with pytest.raises(ClusterError, match=r"(?s)building runc failed.*cannot find module.*next step"):
        build.ensure((RUNC,), say=quiet, cache=tmp_path)
    monkeypatch.delenv("FAKE_GO_FAILS")
    assert build.ensure((RUNC,), say=quiet, cache=tmp_path).is_dir()


def test_a_program_that_is_not_built_is_an_error(tmp_path: Path, go_log: Path) -> None:
    module = Module("runc", ("runc", "another"))
    with pytest.raises(ClusterError, match="gave no another"):
        build.ensure((module,), say=quiet, cache=tmp_path)


def test_a_killed_build_leaves_nothing_that_looks_finished(
    tmp_path: Path, go_log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_GO_SECONDS", "1")
    with subprocess.Popen(
        [sys.executable, "-c", BUILD, str(tmp_path)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "building etcd" in process.stdout.readline()
        process.kill()
    monkeypatch.setenv("FAKE_GO_SECONDS", "0")
    assert not list((tmp_path / "cluster").glob("modules/*"))
    folder = build.ensure((ETCD,), say=quiet, cache=tmp_path)
    assert (folder / "etcd").is_file()
    assert not list((tmp_path / "cluster").glob(".partial-*"))


def test_two_builds_at_once_build_one_time(
    tmp_path: Path, go_log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_GO_SECONDS", "0.5")
    command = [sys.executable, "-c", BUILD, str(tmp_path)]
    processes = [
        subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert go_log.read_text().split() == ["etcd"]
    assert any("waiting for it" in output for output in outputs)


@pytest.mark.parametrize(
    ("text", "version"),
    [("go1.26.8\n", (1, 26)), ("go1.27rc1", (1, 27)), ("devel go1.28-abc", (1, 28)), ("gccgo", None)],
)
def test_go_versions(text: str, version: tuple[int, int] | None) -> None:
    assert parse_version(text) == version


def test_an_old_go_is_refused(go_log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_GO_VERSION", "go1.19.8")
    with pytest.raises(ClusterError, match=r"(?s)go1\.19\.8, too old.*install Go 1\.26"):
        require_go()


def test_a_missing_go_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="no `go` on PATH"):
        require_go()


def test_what_is_built_does_not_depend_on_the_users_go_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"GOFLAGS": "-mod=vendor", "GOBIN": "/elsewhere", "GOOS": "plan9"}.items():
        monkeypatch.setenv(name, value)
    found = environment()
    assert found["GOFLAGS"] == "-buildvcs=false"
    assert "GOBIN" not in found
    assert "GOOS" not in found
