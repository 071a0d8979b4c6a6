"""A search divided among pods: nothing is measured twice, a dead worker blocks nobody, one worker leads."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from longshore.api.optimize import Goal, TechniqueName
from longshore.artifact.job import JobReport
from longshore.artifact.manifest import Manifest, Verdict
from longshore_optimizer import candidates
from longshore_optimizer.decide import Latency, Trial
from longshore_optimizer.ledger import FilePlace
from longshore_optimizer.measure import latency
from longshore_optimizer.measure.cpu import usable_cores
from longshore_optimizer.parallel import Publisher, Row, Share, Table, Timing, gather, parts, read, trials_of
from longshore_optimizer.pipeline import assist, optimize
from longshore_optimizer.progress import Reporter
from longshore_optimizer.request import Request
from longshore_optimizer.statistics import Drop
from longshore_optimizer.techniques.base import Proposal

from tests.optimizer.conftest import labelled, mlp

RNG = np.random.default_rng(0)
OPTIMIZER = str(Path(sys.executable).parent / "longshore-optimizer")
TECHNIQUES = (TechniqueName.FLOAT16, TechniqueName.DYNAMIC_INT8)


def proposal(name: str, after: str | None = None) -> Proposal:
    return Proposal(name, TechniqueName.FLOAT16, after=after)


def timing(factor: float) -> Timing:
    return Timing.of(Latency((factor, 2 * factor), (factor, factor), factor, 3 * factor))


class Clock:
    """A clock that sleeping moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 0.001)


def share(home: Path, index: int, count: int = 2, **settings: float) -> Share:
    return Share(index, count, lambda i: FilePlace(home / f"table-{i}.json"), **settings)


def test_every_candidate_has_one_worker_and_what_mends_it_the_same() -> None:
    plain = [proposal(f"p{i}") for i in range(5)]
    mends = [proposal("m3", after="p3"), proposal("m0", after="p0")]
    divided = parts(plain, [*plain, *mends], 3)
    assert sorted(p.name for part in divided for p in part) == sorted(p.name for p in [*plain, *mends])
    assert [p.name for p in divided[0]] == ["p0", "p3", "m3", "m0"]
    assert [p.name for p in divided[1]] == ["p1", "p4"]
    assert sum(trials_of(7, i, 3) for i in range(3)) == 7


def test_latencies_of_another_worker_count_relative_to_its_own_baseline() -> None:
    # That worker is ten times slower; the candidate takes half of the original's time there.
    trial = Trial(proposal("a"), 5, 0.9, Drop(0.0, float("inf")), timing(10).latency())
    table = Table(key="k", worker=1, baseline=timing(20), rows=(Row.of(trial),))
    again = Table.model_validate_json(table.model_dump_json(by_alias=True))
    found = again.trials([proposal("a")], Latency((2.0, 4.0), (1.0, 1.0), 2.0, 6.0))["a"]
    assert found.latency == Latency((1.0, 2.0), (0.5, 0.5), 1.0, 3.0)
    assert found.drop == Drop(0.0, float("inf"))
    assert not table.model_copy(update={"baseline": None}).trials([proposal("a")], timing(1).latency())


def test_who_shows_no_sign_of_life_is_not_waited_for(tmp_path: Path) -> None:
    clock = Clock()
    tables = gather(share(tmp_path, 0, patience=60, poll=5), "k", lambda: 1e9, clock=clock, sleep=clock.sleep)
    assert tables == {}
    assert 60 < clock.now <= 70


def test_who_lives_is_waited_for_until_done_and_no_longer_than_the_budget(tmp_path: Path) -> None:
    clock = Clock()
    place = FilePlace(tmp_path / "table-1.json")

    def beats(seconds: float) -> None:
        clock.sleep(seconds)
        beat = Table(key="k", worker=1, beat=int(clock.now), done=clock.now > 500)
        place.save(beat.model_dump_json(by_alias=True).encode())

    leader = share(tmp_path, 0, patience=60, poll=5)
    assert gather(leader, "k", lambda: 1e9, clock=clock, sleep=beats)[1].done
    assert 500 < clock.now < 520
    place.save(Table(key="other", worker=1, done=True).model_dump_json(by_alias=True).encode())
    clock.now = 0.0
    assert gather(leader, "k", lambda: 30 - clock.now, clock=clock, sleep=clock.sleep) == {}
    assert clock.now < 40


def test_a_helper_that_fails_says_that_nothing_more_comes(tmp_path: Path) -> None:
    def fail() -> None:
        with Publisher(share(tmp_path, 1, beat=0.01), "k") as publisher:
            publisher.publish([Row.of(Trial(proposal("a"), verdict=Verdict.SKIPPED, reason="not here"))])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    table = read(FilePlace(tmp_path / "table-1.json"), "k")
    assert table is not None
    assert table.done
    assert [r.name for r in table.rows] == ["a"]


def request(home: Path, index: int, **settings: float) -> Request:
    model = mlp(home / "model.onnx", hidden=256)
    data = home / "data.npz"
    if not data.exists():
        labelled(data, model, {"x": RNG.standard_normal((200, 16)).astype(np.float32)})
    return Request(
        model=model,
        input_sha256="0" * 64,
        uri=None,
        work=home / f"work-{index}",
        out=home / "out",
        cores=usable_cores(1),
        evaluation=data,
        max_drop=0.05,
        goal=Goal.SIZE,
        techniques=TECHNIQUES,
        key="k",
        share=share(home, index, **settings),
    )


def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    judge = candidates.Bench._judge

    def counted(bench: candidates.Bench, worker: Any, trial: Trial) -> Trial:
        names.append(trial.proposal.name)
        return judge(bench, worker, trial)

    monkeypatch.setattr(candidates.Bench, "_judge", counted)
    return names


def test_the_leader_does_what_a_silent_worker_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "ROUNDS", 6)
    monkeypatch.setattr(latency, "_BLOCK_LEAST", 0.003)
    names = scored(monkeypatch)
    assist(request(tmp_path, 1), Reporter())
    helped = set(names)
    place = FilePlace(tmp_path / "table-1.json")
    table = read(place, "k")
    assert table is not None
    assert table.done
    assert helped <= {r.name for r in table.rows}
    names.clear()
    whole = optimize(request(tmp_path, 0), Reporter())
    assert names
    # What is served is proven where it is written; nothing else of the helper's is measured again.
    assert set(names) & helped <= {whole.chosen}
    rows = {c.name: c for c in whole.candidates}
    assert helped < rows.keys()
    assert all(rows[name].metric is not None and rows[name].p50_ms is not None for name in helped)
    assert "2 workers searched" in " ".join(whole.notes)
    assert "fell silent" not in " ".join(whole.notes)

    # Killed before it timed anything: no baseline, no end.
    kept = tuple(r.model_copy(update={"latency": None}) for r in table.rows)
    dead = table.model_copy(update={"done": False, "baseline": None, "rows": kept})
    place.save(dead.model_dump_json(by_alias=True).encode())
    names.clear()
    alone = optimize(replace(request(tmp_path, 0, patience=0.0), out=tmp_path / "again"), Reporter())
    assert helped <= set(names)
    assert "worker 1 fell silent: worker 0 did the rest" in " ".join(alone.notes)
    assert {c.name for c in alone.candidates} == rows.keys()
    assert all(c.p50_ms is not None for c in alone.candidates if c.name in helped)


def start(home: Path, index: int, job: dict[str, Any]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [OPTIMIZER, "job"],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LONGSHORE_JOB": json.dumps(job),
            "LONGSHORE_TERMINATION_LOG": str(home / f"log-{index}"),
            "LONGSHORE_WORK": str(home / f"work-{index}"),
            "LONGSHORE_PVC_ROOT": str(home / "pvc"),
            "LONGSHORE_FETCH_ATTEMPTS": "1",
            "JOB_COMPLETION_INDEX": str(index),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_pods_of_an_indexed_job_share_the_search_and_one_reports(tmp_path: Path) -> None:
    claim = tmp_path / "pvc" / "models"
    claim.mkdir(parents=True)
    model = mlp(claim / "model.onnx", hidden=256)
    labelled(claim / "data.npz", model, {"x": RNG.standard_normal((200, 16)).astype(np.float32)})
    job = {
        "namespace": "ns",
        "name": "m",
        "model": {"uri": "pvc://models/model.onnx"},
        "store": "pvc://models/store",
        "optimize": {
            "goal": "Size",
            "techniques": [t.value for t in TECHNIQUES],
            "evaluation": {"uri": "pvc://models/data.npz", "maxDrop": 0.05},
            "parallelism": 2,
        },
    }
    pods = [start(tmp_path, index, job) for index in (0, 1)]
    told = [pod.communicate(timeout=280) for pod in pods]
    assert [pod.returncode for pod in pods] == [0, 0], told
    report = JobReport.model_validate_json((tmp_path / "log-0").read_bytes())
    assert report.reason == "Optimized"
    assert not (tmp_path / "log-1").exists(), "a helper reports nothing"
    (stored,) = (claim / "store").glob("key-*/manifest.json")
    manifest = Manifest.model_validate_json(stored.read_text())
    assert "2 workers searched" in " ".join(manifest.notes)
    tried = [
        {json.loads(line).get("message") for line in out.splitlines() if '"Candidates"' in line}
        for out, _ in told
    ]
    names = {c.name for c in manifest.candidates}
    assert tried[0] & names
    assert tried[1] & names
    assert not tried[0] & tried[1] & names, "nothing is tried twice"


def test_a_helper_without_a_model_fails_nobody(tmp_path: Path) -> None:
    job = {
        "namespace": "ns",
        "name": "m",
        "model": {"uri": "pvc://models/missing.onnx"},
        "store": "pvc://models/store",
        "optimize": {"parallelism": 2},
    }
    (tmp_path / "pvc" / "models").mkdir(parents=True)
    pod = start(tmp_path, 1, job)
    _, errors = pod.communicate(timeout=120)
    assert pod.returncode == 0
    assert "this worker helps no longer: NotFound" in errors
