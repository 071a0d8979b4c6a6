"""Detached processes: found again, ended, and never mistaken for another."""

import dataclasses
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster import processes
from e2e.cluster.errors import ClusterError
from e2e.cluster.processes import Identity
from e2e.cluster.wait import wait_for


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process of somebody else."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def start(folder: Path, *command: str, mark: str = "") -> Identity:
    return processes.start(
        command,
        folder=folder,
        log=folder / "log",
        pid_file=folder / "pid.json",
        mark=mark or str(folder),
        fingerprint="abc",
    )


def test_a_started_process_is_found_by_its_pid_file_and_ended(tmp_path: Path) -> None:
    identity = start(tmp_path, "sleep", "600")
    record = processes.running(tmp_path / "pid.json")
    assert record is not None
    assert record.identity == identity
    assert record.fingerprint == "abc"
    wait_for(
        "the program", lambda: processes.program_of(identity) == "sleep", seconds=5, next_step="look at env"
    )
    assert processes.stop([identity], grace=5) == []
    assert processes.running(tmp_path / "pid.json") is None


def test_it_outlives_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from e2e.cluster import processes; "
        "folder = Path(sys.argv[1]); "
        "processes.start(['sleep', '600'], folder=folder, log=folder / 'log', "
        "pid_file=folder / 'pid.json', mark='m')"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    record = processes.running(tmp_path / "pid.json")
    assert record is not None
    assert os.getsid(record.identity.pid) != os.getsid(0)
    processes.stop([record.identity], grace=5)


def test_a_started_process_holds_nothing_open_that_its_starter_held(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.set_inheritable(lock.fileno(), True)
        identity = start(tmp_path, "sleep", "600")
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    processes.stop([identity], grace=5)


@pytest.mark.parametrize("difference", [{"started": 1}, {"boot": "another"}], ids=["start", "boot"])
def test_a_recycled_pid_is_not_running_and_not_killed(
    tmp_path: Path, bystander: subprocess.Popen[bytes], difference: dict[str, object]
) -> None:
    real = processes.identify(bystander.pid)
    assert real is not None
    stale = dataclasses.replace(real, **difference)  # type: ignore[arg-type]
    pid_file = tmp_path / "pid.json"
    pid_file.write_text(json.dumps(dataclasses.asdict(stale) | {"fingerprint": "abc"}))
    assert processes.running(pid_file) is None
    assert processes.stop([stale], grace=0) == []
    assert bystander.poll() is None


@pytest.mark.parametrize(
    "content", ["", "12", "{}", '{"pid": "x"}', '{"pid": 1}', "null", '["pid"]', "\x00"], ids=repr
)
def test_a_pid_file_that_is_not_ours_names_nobody(tmp_path: Path, content: str) -> None:
    pid_file = tmp_path / "pid.json"
    pid_file.write_text(content)
    assert processes.read_record(pid_file) is None


def test_a_process_that_ignores_the_polite_signal_is_killed(tmp_path: Path) -> None:
    identity = start(tmp_path, "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
    wait_for(
        "the trap", lambda: "ready" in (tmp_path / "log").read_text(), seconds=10, next_step="look at the log"
    )
    assert processes.stop([identity], grace=0.2) == []
    assert not processes.is_running(identity)


def test_an_ended_child_does_not_count_as_running(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as child:
        identity = processes.identify(child.pid)
        if identity:  # otherwise it has ended already
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            assert not processes.is_running(identity)


def test_marked_processes_are_found_without_a_pid_file(
    tmp_path: Path, bystander: subprocess.Popen[bytes]
) -> None:
    mark = str(tmp_path / "a node")
    identity = start(tmp_path, "sleep", "600", mark=mark)
    (tmp_path / "pid.json").unlink()
    # `env` becomes the program: for a moment it has no environment.
    wait_for("the mark", lambda: processes.marked(mark) == [identity], seconds=10, next_step="look at env")
    assert processes.marked(f"{mark}-longer") == []
    processes.stop([identity], grace=5)


def test_a_name_with_brackets_and_spaces_is_read_right(tmp_path: Path) -> None:
    program = tmp_path / "a) Z (b"
    program.symlink_to("/bin/sleep")
    identity = start(tmp_path, str(program), "600")
    wait_for(
        "the program", lambda: processes.program_of(identity) == "a) Z (b", seconds=5, next_step="look at env"
    )
    assert processes.is_running(identity)
    processes.stop([identity], grace=5)


def test_waiting_names_the_component_its_last_lines_and_the_next_step(tmp_path: Path) -> None:
    log = tmp_path / "etcd.log"
    log.write_text("".join(f"line {number}\n" for number in range(1000)))
    with pytest.raises(ClusterError) as caught:
        wait_for("etcd", lambda: False, seconds=0.1, next_step="read the whole log", log=log)
    message = str(caught.value)
    assert message.startswith("etcd: not ready after")
    assert "line 999" in message
    assert "line 900" not in message
    assert "next step: read the whole log" in message


def test_waiting_ends_at_once_when_the_component_is_dead(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="stopped"):
        wait_for("etcd", lambda: False, seconds=600, next_step="-", alive=lambda: False)
