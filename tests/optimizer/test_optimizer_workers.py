"""Workers are processes of their own, forked from one that runs nothing itself: what goes wrong in one stays
there."""

import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from longshore_optimizer.errors import Reason
from longshore_optimizer.measure.cpu import usable_cores
from longshore_optimizer.measure.process import WorkerError, WorkerProcess
from longshore_optimizer.measure.protocol import Loaded, Timed
from longshore_optimizer.measure.workers import Workers
from longshore_optimizer.pipeline import worker_problem

from tests.optimizer.conftest import mlp

CORES = usable_cores(1)


@pytest.fixture
def workers() -> Iterator[Workers]:
    with Workers(CORES) as workers:
        yield workers


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return mlp(tmp_path / "model.onnx")


def load(worker: WorkerProcess, model: Path) -> Loaded:
    return worker.ask(Loaded, 60, operation="load", model=str(model), threads=1)


def rows_for(folder: Path) -> Path:
    rows = folder / "rows.npz"
    np.savez(rows, x=np.zeros((4, 16), np.float32))
    return rows


class Watched:
    """A process by its descriptor, which no later process with the same number can be taken for."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)

    def ended(self) -> bool:
        return bool(select.select([self._descriptor], [], [], 10)[0])

    def parent(self) -> int:
        return int(Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def test_each_worker_is_a_process_of_its_own(workers: Workers, model: Path, tmp_path: Path) -> None:
    rows = rows_for(tmp_path)
    with workers.start() as first, workers.start() as second:
        assert len({first.pid, second.pid, os.getpid()}) == 3
        assert load(first, model).inputs == load(second, model).inputs
        # A worker that has loaded nothing knows nothing of what another has loaded.
        with workers.start() as third, pytest.raises(WorkerError):
            third.ask(Timed, 60, operation="time", seconds=0.01, data=str(rows))
        pinned = [os.sched_getaffinity(w.pid) for w in (first, second)]
        assert pinned == [set(CORES.cores)] * 2
        processes = [Watched(w.pid) for w in (first, second)]
    assert all(p.ended() for p in processes)


def test_what_workers_are_forked_from_has_one_thread_and_no_credentials(
    monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with Workers(CORES) as workers, workers.start() as worker:
        load(worker, model)
        server = Watched(worker.pid).parent()
        # With more threads, a fork could inherit a lock that nobody will open.
        assert len(list(Path(f"/proc/{server}/task").iterdir())) == 1
        for pid in (worker.pid, server):
            assert "secret" not in Path(f"/proc/{pid}/environ").read_text()
        open_files = {os.readlink(f) for f in Path(f"/proc/{worker.pid}/fd").iterdir()}
        # Through the server's socket, a hostile model could ask for processes.
        assert not [f for f in open_files if f.startswith("socket:")]


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [(signal.SIGKILL, "OutOfMemory", "lack of memory"), (signal.SIGSEGV, "Died", "SIGSEGV")],
)
def test_how_a_worker_died_is_told_and_others_go_on(
    workers: Workers, model: Path, number: signal.Signals, kind: str, words: str
) -> None:
    with workers.start() as other, workers.start() as worker:
        load(worker, model)
        os.kill(worker.pid, number)
        with pytest.raises(WorkerError, match=words) as caught:
            load(worker, model)
        assert caught.value.kind == kind
        load(other, model)


def test_a_worker_that_does_not_answer_in_time_is_ended(
    workers: Workers, model: Path, tmp_path: Path
) -> None:
    rows = rows_for(tmp_path)
    with workers.start() as worker:
        process = Watched(worker.pid)
        load(worker, model)
        with pytest.raises(WorkerError, match="within its time"):
            worker.ask(Timed, 0.2, operation="time", seconds=60, data=str(rows))
        assert process.ended()


def test_workers_end_with_what_they_are_forked_from_and_others_start_anew(
    workers: Workers, model: Path
) -> None:
    with workers.start() as worker:
        load(worker, model)
        process = Watched(worker.pid)
        os.kill(process.parent(), signal.SIGKILL)
        assert process.ended()
        with pytest.raises(WorkerError, match="died"):
            load(worker, model)
    with workers.start() as worker:
        load(worker, model)


def test_a_worker_whose_module_cannot_be_imported_says_why(workers: Workers, model: Path) -> None:
    with workers.start("longshore_optimizer.absent") as worker, pytest.raises(WorkerError) as caught:
        load(worker, model)
    assert "No module named 'longshore_optimizer.absent'" in str(caught.value)


def test_a_python_without_what_workers_need_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise ImportError('numpy is broken here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Workers(CORES) as workers, pytest.raises(WorkerError, match="died: ImportError") as caught:
        workers.start()
    problem = worker_problem(caught.value)
    assert problem.reason is Reason.INTERNAL_ERROR
    assert "ImportError" in problem.message
    assert "install longshore-optimizer again" in problem.message
