"""A search that was killed goes on with what it had measured."""

import asyncio
import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from longshore.api.optimize import TechniqueName
from longshore.artifact.manifest import Manifest, Verdict
from longshore_optimizer import candidates, modeldir
from longshore_optimizer.decide import Trial
from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.ledger import FilePlace, Known, Ledger, StorePlace, known_of
from longshore_optimizer.measure.cpu import usable_cores
from longshore_optimizer.pipeline import optimize
from longshore_optimizer.progress import Reporter
from longshore_optimizer.request import Request
from longshore_optimizer.statistics import Drop
from longshore_optimizer.store.directory import DirectoryStore
from longshore_optimizer.techniques.base import Proposal

from tests.optimizer.conftest import labelled, mlp

RNG = np.random.default_rng(0)
PROPOSAL = Proposal("float16-store", TechniqueName.FLOAT16, {"mode": "store"})


def request(tmp_path: Path, place: FilePlace) -> Request:
    model = mlp(tmp_path / "model.onnx", hidden=256)
    feeds = {"x": RNG.standard_normal((200, 16)).astype(np.float32)}
    data = tmp_path / "data.npz"
    if not data.exists():
        labelled(data, model, feeds)
    return Request(
        model=model,
        input_sha256="0" * 64,
        uri=None,
        work=tmp_path / "work",
        out=tmp_path / "out",
        cores=usable_cores(1),
        evaluation=data,
        max_drop=0.05,
        techniques=(TechniqueName.FLOAT16, TechniqueName.DYNAMIC_INT8),
        ledger=Ledger(place, "key"),
    )


class Killed(BaseException):
    """Stands in for the end of the process."""


def killed_after(count: int) -> Callable[[Trial], None]:
    seen: set[str] = set()

    def on_trial(trial: Trial) -> None:
        if trial.proposal.name != "original" and trial.metric is not None:
            seen.add(trial.proposal.name)
        if len(seen) == count:
            raise Killed

    return on_trial


def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    judge = candidates.Bench._judge

    def counted(bench: candidates.Bench, worker: object, trial: Trial) -> Trial:
        names.append(trial.proposal.name)
        return judge(bench, worker, trial)  # type: ignore[arg-type]

    monkeypatch.setattr(candidates.Bench, "_judge", counted)
    return names


def test_a_killed_search_scores_no_candidate_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = evaluations(monkeypatch)
    place = FilePlace(tmp_path / "trials.json")
    with pytest.raises(Killed):
        optimize(request(tmp_path, place), Reporter(on_trial=killed_after(2)))
    first = set(names)
    assert len(first) >= 2
    names.clear()
    manifest: Manifest = optimize(request(tmp_path, place), Reporter())
    assert names, "the candidates that were not reached are still scored"
    assert not first & set(names)
    rows = {c.name: c for c in manifest.candidates}
    for name in first:
        assert rows[name].metric is not None
        assert rows[name].verdict is Verdict.REFUSED or rows[name].p50_ms is not None


def test_other_data_start_anew(tmp_path: Path) -> None:
    place = FilePlace(tmp_path / "trials.json")
    trial = Trial(PROPOSAL, 10, 0.9, Drop(0.0, 0.01))
    Ledger(place, "one").note(known_of(trial, "a" * 64))
    assert Ledger(place, "one").find(PROPOSAL) is not None
    assert Ledger(place, "one").find(replace(PROPOSAL, parameters={"mode": "compute"})) is None
    assert not Ledger(place, "two").known


def test_what_is_known_comes_back_as_it_was(tmp_path: Path) -> None:
    place = FilePlace(tmp_path / "trials.json")
    refused = Trial(PROPOSAL, 10, 0.5, Drop(0.4, 0.45), None, Verdict.REFUSED, "it lost too much")
    Ledger(place, "key").note(known_of(refused, None))
    known = Ledger(place, "key").find(PROPOSAL)
    assert known is not None
    assert known.trial(PROPOSAL) == refused


def test_a_failure_is_tried_again(tmp_path: Path) -> None:
    # What ran out of memory may do so no longer once the Job has more.
    failed = Trial(PROPOSAL, verdict=Verdict.FAILED, reason="it ran out of memory")
    assert known_of(failed, None) is None


def test_a_damaged_file_costs_the_resumption_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trials.json").write_text('{"key": "key", "known": [{"na')
    ledger = Ledger(FilePlace(tmp_path / "trials.json"), "key")
    assert not ledger.known
    assert "measured again" in capsys.readouterr().err


def test_a_full_disk_costs_the_resumption_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = FilePlace(tmp_path / "trials.json")
    ledger = Ledger(place, "key")
    ledger.note(Known(name="first", verdict=Verdict.REFUSED))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("longshore_optimizer.ledger.os.fsync", full)
    ledger.note(Known(name="second", verdict=Verdict.REFUSED))
    assert "No space left" in capsys.readouterr().err
    # What was there is still whole, and nothing half-written lies beside it.
    assert set(Ledger(place, "key").known) == {"first"}
    assert [p.name for p in tmp_path.iterdir()] == ["trials.json"]


def test_the_store_holds_it_for_the_next_job(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store", "pvc://claim/models")
    Ledger(StorePlace(store, "a" * 64), "a" * 64).note(Known(name="first", verdict=Verdict.REFUSED))
    assert set(Ledger(StorePlace(store, "a" * 64), "a" * 64).known) == {"first"}
    assert asyncio.run(store.find("a" * 64)) is None


@pytest.mark.parametrize("copies", [0, 1], ids=["at-the-start", "at-the-end"])
def test_a_disk_that_is_full_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copies: int
) -> None:
    left = iter(range(copies))
    copy = modeldir.copy_onnx

    def full(source: Path, destination: Path) -> object:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return copy(source, destination)

    asked = request(tmp_path, FilePlace(tmp_path / "trials.json"))
    monkeypatch.setattr(modeldir, "copy_onnx", full)
    with pytest.raises(Problem) as caught:
        optimize(replace(asked, optimize=False), Reporter())
    assert caught.value.reason is Reason.DISK_FULL
    assert "free the disk" in caught.value.message
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_a_budget_that_is_spent_gives_the_best_so_far(tmp_path: Path) -> None:
    asked = replace(request(tmp_path, FilePlace(tmp_path / "trials.json")), seconds=1.0)
    manifest = optimize(asked, Reporter())
    assert manifest.chosen
    assert (tmp_path / "out" / "model.onnx").is_file()
    assert any("budget.time" in c.reason for c in manifest.candidates)
