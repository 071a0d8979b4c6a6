"""Which cluster is touched: only the one that was named, or our own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.cluster import choose, from_host
from e2e.cluster.current import CurrentCluster
from e2e.cluster.errors import ClusterError
from e2e.cluster.kind import KindCluster
from e2e.cluster.local import LocalCluster
from e2e.cluster.paths import REPOSITORY, NodePaths

# Notes every call; answers like programs whose engine works and that know no cluster yet.
RECORDER = """\
#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
case "$(basename "$0") $1 $2" in
  "docker info "*) exit "${DOCKER_INFO:-0}" ;;
  "docker inspect "*) exit 1 ;;
  "docker build "*) cat >> "$CALLS.dockerfiles" ;;
  "kind create "*) echo "Creating cluster ..." ;;
  "kind get nodes") echo longshore-control-plane ;;
  "kind get clusters") echo "${KIND_CLUSTERS:-others}" ;;
  "kubectl --kubeconfig="*) echo a-context ;;
esac
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PATH holds only recorders named docker, kind and kubectl (and a shell's basics)."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("docker", "kind", "kubectl"):
        (folder / name).write_text(RECORDER)
        (folder / name).chmod(0o755)
    log = tmp_path / "calls"
    log.touch()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("CALLS", str(log))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "the-users.conf"))
    (tmp_path / "the-users.conf").write_text("precious")
    return log


def quiet(line: str) -> None:
    """Say nothing."""


@pytest.mark.parametrize(
    ("name", "kind_works", "expected"),
    [
        ("local", True, LocalCluster),
        ("kind", False, KindCluster),
        ("current", True, CurrentCluster),
        ("", True, KindCluster),
        ("", False, LocalCluster),
    ],
)
def test_the_named_cluster_is_chosen(
    calls: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind_works: bool, expected: type
) -> None:
    monkeypatch.setenv("CLUSTER", name)
    monkeypatch.setenv("DOCKER_INFO", "0" if kind_works else "1")
    assert isinstance(choose.chosen(), expected)


def test_an_unknown_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER", "production")
    with pytest.raises(ClusterError, match="local, kind or current"):
        choose.chosen()


def test_docker_without_an_engine_does_not_make_kind_usable(
    calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_INFO", "1")
    with pytest.raises(ClusterError, match=r"(?s)answers `docker info`.*CLUSTER=local"):
        KindCluster().up(quiet)
    assert "create" not in calls.read_text()


def test_kind_is_created_with_a_kubeconfig_of_its_own(calls: Path, tmp_path: Path) -> None:
    kubeconfig = KindCluster().up(quiet)
    assert kubeconfig.is_relative_to(tmp_path / "cache")
    made = [line for line in calls.read_text().splitlines() if line.startswith("kind create cluster")]
    assert len(made) == 1
    assert "--name=longshore" in made[0]
    assert f"--kubeconfig={kubeconfig}" in made[0]
    assert (tmp_path / "the-users.conf").read_text() == "precious"


def test_kind_removes_only_the_cluster_of_its_name(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    KindCluster().down(quiet)
    assert "delete" not in calls.read_text()
    monkeypatch.setenv("KIND_CLUSTERS", "others longshore")
    KindCluster().down(quiet)
    deleted = [line for line in calls.read_text().splitlines() if "delete" in line]
    assert len(deleted) == 1
    assert "--name=longshore" in deleted[0]


def test_builds_for_kind_take_certificates_index_and_proxy_from_the_host(
    calls: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in (*from_host.PROXIES, "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("the authority of a proxy")
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:secret@mirror.example/simple")
    monkeypatch.setenv("https_proxy", "http://user:secret@127.0.0.1:3128")
    KindCluster().load_images(["server", "traefik"], quiet, refresh=False)
    builds = [line.split() for line in calls.read_text().splitlines() if line.startswith("docker build ")]
    assert [words[-1] for words in builds] == [str(REPOSITORY), str(REPOSITORY / "e2e/cluster/gateway")]
    path = from_host.CA_IN_BUILD
    for words in builds:
        (secret,) = [word for word in words if word.startswith("--secret=")]
        assert secret == f"--secret=id=host-ca,src={bundle}"
        arguments = [word.removeprefix("--build-arg=") for word in words if word.startswith("--build-arg=")]
        assert sorted(arguments) == [
            "PIP_CERT=" + path,
            "PIP_INDEX_URL",
            "SSL_CERT_FILE=" + path,
            "https_proxy",
        ]
        assert "--network=host" in words, "a proxy of this machine is reached from its own network only"
    assert "user:secret" not in calls.read_text(), "passwords are in the command"
    dockerfiles = Path(f"{calls}.dockerfiles").read_text().replace("\\\n", " ")
    installs = re.findall("^RUN (.*pip install.*)", dockerfiles, re.MULTILINE)
    downloads = [command for command in installs if "--offline" not in command]
    assert len(downloads) == 3
    mount = f"--mount=type=secret,id=host-ca,target={path} "
    assert [command for command in downloads if not command.startswith(mount)] == []
    assert not re.search(rf"^(COPY|ADD).*{path}", dockerfiles, re.MULTILINE), "the bundle is in an image"


def test_builds_for_kind_on_a_host_without_a_bundle_take_the_files_as_they_are(
    calls: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "")
    monkeypatch.setattr(from_host, "_CA_BUNDLES", ())
    KindCluster().load_images(["operator"], quiet, refresh=True)
    (build,) = [line for line in calls.read_text().splitlines() if line.startswith("docker build ")]
    assert "--secret" not in build
    assert "--pull" in build
    assert Path(f"{calls}.dockerfiles").read_text() == (REPOSITORY / "images/operator/Dockerfile").read_text()


def test_only_stages_that_ask_for_certificates_get_them() -> None:
    text = (
        "FROM a AS b\nRUN one\nFROM a\nARG PIP_CERT\nRUN two \\\n    && three\nFROM a\nARG OTHER\nRUN four\n"
    )
    wanted = f"RUN --mount=type=secret,id=x,target={from_host.CA_IN_BUILD} two "
    assert from_host.with_secret(text, "x") == text.replace("RUN two ", wanted)


def test_the_current_context_is_used_and_left_alone(calls: Path, tmp_path: Path) -> None:
    cluster = CurrentCluster()
    assert cluster.up(quiet) == tmp_path / "the-users.conf"
    cluster.down(quiet)
    assert "docker" not in calls.read_text()
    assert "delete" not in calls.read_text()
    with pytest.raises(ClusterError, match="push them to a registry"):
        cluster.load_images([], quiet, refresh=False)


def test_without_being_named_the_users_context_is_not_even_looked_at(
    calls: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CLUSTER", raising=False)
    monkeypatch.setenv("DOCKER_INFO", "1")
    target = choose.chosen()
    assert target.environment().kubeconfig != tmp_path / "the-users.conf"
    target.status()
    assert "kubectl" not in calls.read_text()


def test_a_shell_can_evaluate_what_the_start_prints(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(calls.parent / "a folder; with traps"))
    monkeypatch.setenv("CLUSTER", "kind")
    answer = subprocess.run(
        [sys.executable, "-m", "e2e.cluster", "up"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    assert len(answer.stdout.splitlines()) == 1
    assert answer.stdout.startswith("export KUBECONFIG=")
    shown = subprocess.run(
        ["sh", "-c", f'{answer.stdout}\nprintf %s "$KUBECONFIG"'], check=True, capture_output=True, text=True
    )
    assert shown.stdout == str(KindCluster().environment().kubeconfig)
    assert "creating a kind cluster" in answer.stderr


def test_an_error_on_the_command_line_is_a_sentence(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "e2e.cluster", "up"],
        cwd=REPOSITORY,
        env={"CLUSTER": "nowhere", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert answer.stderr.startswith("error: CLUSTER=nowhere is no kind of cluster.")
    assert "Traceback" not in answer.stderr


def test_the_local_cluster_has_folders_of_its_own() -> None:
    paths = NodePaths()
    assert "longshore" in str(paths.root)
    assert "longshore" in str(paths.run)
    assert "longshore" in paths.cgroup
    assert "longshore" in paths.bridge
