"""Time goes to candidates that can win."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from longshore.api.optimize import Goal, Metric, TechniqueName
from longshore.artifact.manifest import Verdict
from longshore_optimizer import candidates
from longshore_optimizer.candidates import Bench, Subject
from longshore_optimizer.data import read
from longshore_optimizer.decide import Rules, Trial
from longshore_optimizer.measure.cpu import usable_cores
from longshore_optimizer.measure.process import WorkerProcess
from longshore_optimizer.measure.protocol import Timed
from longshore_optimizer.measure.workers import Workers
from longshore_optimizer.pipeline import to_onnx
from longshore_optimizer.progress import Reporter
from longshore_optimizer.request import Request
from longshore_optimizer.techniques.base import Proposal

from tests.optimizer.technique_bench import digits_cnn, digits_folder

RULES = Rules(goal=Goal.LATENCY, max_drop=0.02, metric="Accuracy", confidence=0.95)


@pytest.fixture(autouse=True)
def judged_however_slow() -> None:
    """Leave the rule as it is: it is what stands to test here."""


@contextmanager
def benched(folder: Path, **changes: Any) -> Iterator[Bench]:
    """The digits network, ready for candidates."""
    model, calibration, evaluation = digits_cnn(folder / "source")
    request = Request(
        model=model,
        input_sha256="",
        uri=None,
        calibration=calibration,
        evaluation=evaluation,
        metric=Metric.ACCURACY,
        work=folder / "work",
        out=folder / "out",
        cores=usable_cores(1),
        seconds=600,
    )
    request = replace(request, **changes)
    with Workers(request.cores) as workers:
        prepared = to_onnx(request, Reporter(), workers)
        inputs = prepared.runnable.inputs
        data = (read(calibration, "calibration", inputs), read(evaluation, "evaluation", inputs))
        with Bench(request, Subject(prepared.path, prepared.runnable, *data), lambda: 600, workers) as bench:
            bench.original()
            bench.prepare()
            yield bench


def attempt(bench: Bench, rules: Rules = RULES, name: str = "narrow") -> Trial:
    """A candidate that lost a fifth of its products."""
    parameters = {"share": 0.2, "criterion": "norm"}
    return bench.attempt(Proposal(name, TechniqueName.STRUCTURED_PRUNING, parameters), rules)


def attempted(folder: Path, **changes: Any) -> Trial:
    with benched(folder, **changes) as bench:
        return attempt(bench)


def slowed(monkeypatch: pytest.MonkeyPatch, busy: int, factor: float = 100) -> None:
    """Make so many of a candidate's short runs look slower; the first of all is the original's."""
    ask = WorkerProcess.ask
    seen: list[int] = []

    def slower(worker: Any, kind: Any, *answer: Any, **request: Any) -> Any:
        found = ask(worker, kind, *answer, **request)
        if isinstance(found, Timed):
            seen.append(0)
            if 1 < len(seen) <= 1 + busy:
                return found.model_copy(update={"latencies_ms": [factor * v for v in found.latencies_ms]})
        return found

    monkeypatch.setattr(WorkerProcess, "ask", slower)


def test_a_candidate_that_is_far_slower_is_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowed(monkeypatch, busy=2)
    trial = attempted(tmp_path)
    assert trial.verdict is Verdict.REFUSED
    assert "times the original's: its answers were not judged" in trial.reason
    assert trial.metric is None
    assert trial.latency is not None


def test_one_busy_moment_rules_no_candidate_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slowed(monkeypatch, busy=1)
    trial = attempted(tmp_path)
    assert trial.alive
    assert trial.metric is not None


def test_a_machine_that_became_busy_rules_no_candidate_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original would take as long by now."""
    slowed(monkeypatch, busy=3)
    trial = attempted(tmp_path)
    assert trial.alive
    assert trial.metric is not None


def test_a_candidate_whose_file_is_too_large_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with benched(tmp_path) as bench:
        size = attempt(bench).size_bytes
        assert size is not None
        assert attempt(bench, replace(RULES, size_limit=size), "fits").metric is not None
        monkeypatch.setattr(Bench, "_judge", None)
        trial = attempt(bench, replace(RULES, size_limit=size - 1), "large")
    assert trial.verdict is Verdict.REFUSED
    assert trial.reason == f"{size} bytes are over limits.size ({size - 1}): its answers were not judged"
    assert trial.size_bytes == size


@pytest.mark.parametrize(("limit", "judged"), [(None, False), (1e6, True), (1e-6, False)])
def test_for_size_a_limit_on_latency_tells_how_slow_is_too_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: float | None, judged: bool
) -> None:
    slowed(monkeypatch, busy=2)
    trial = attempted(tmp_path, goal=Goal.SIZE, p95_limit_ms=limit)
    assert (trial.metric is not None) == judged
    assert judged == (trial.verdict is None)


@pytest.mark.parametrize(
    ("changes", "judged"),
    [
        ({"goal": Goal.SIZE}, True),
        ({"size_limit": 10_000}, True),
        ({"goal": Goal.LATENCY}, False),
        ({"goal": Goal.LATENCY, "p95_limit_ms": 1e6}, False),
    ],
)
def test_where_size_counts_a_slower_candidate_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], judged: bool
) -> None:
    monkeypatch.setattr(candidates, "_TOO_SLOW", 0.0)
    assert (attempted(tmp_path, **changes).metric is not None) == judged


def test_a_search_that_finds_nothing_better_is_refused_and_not_taken_for_one_with_nothing_to_do(
    tmp_path: Path,
) -> None:
    training = digits_folder(tmp_path / "digits") / "training.npz"
    # No point is more accurate than the original by its whole scale.
    parameters = {"drop": -1.0, "trials": 2, "smallest": False, "shortEpochs": 1}
    search = Proposal("searched", TechniqueName.ARCHITECTURE_SEARCH, parameters, trains=True)
    with benched(tmp_path, training=training, epochs=1) as bench:
        trial = bench.attempt(search, RULES, seconds=30)
    assert trial.verdict is Verdict.REFUSED
    assert "no point of the search beats the original" in trial.reason
