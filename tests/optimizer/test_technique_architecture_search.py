"""Architecture search: a bounded search that goes on after a kill, and whose best points are trained."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import optuna
import pytest
from longshore.api.optimize import Goal, TechniqueName
from longshore_optimizer.candidates import Bench, Subject
from longshore_optimizer.measure.cpu import usable_cores
from longshore_optimizer.measure.workers import Workers
from longshore_optimizer.request import Request
from longshore_optimizer.techniques import architecture_space, coupling
from longshore_optimizer.techniques.architecture_search import STUDY_NAME
from longshore_optimizer.techniques.architecture_space import AS_IS, Point, Space
from longshore_optimizer.techniques.architecture_study import Found, choose, evolutionary, reinforced, search
from longshore_optimizer.techniques.base import ModelFacts, NotApplicableError, TargetFacts
from longshore_optimizer.techniques.prepare import infer
from longshore_optimizer.techniques.registry import TECHNIQUES, propose
from longshore_optimizer.verify import Runnable
from optuna.storages.journal import JournalFileBackend

from tests.optimizer.conftest import cnn
from tests.optimizer.technique_bench import REDUCED, accuracy, digits_folder, work

SEARCH = TechniqueName.ARCHITECTURE_SEARCH


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("search"))


@pytest.fixture(scope="module")
def space(folder: Path) -> Space:
    model = onnx.load(folder / "prepared" / "model.onnx")
    return architecture_space.find(model, folder / "calibration.npz", folder, 1)


def test_the_best_point_found_has_fewer_products_and_answers_as_well(folder: Path, tmp_path: Path) -> None:
    model, evaluation = folder / "prepared" / "model.onnx", folder / "evaluation.npz"
    parameters = {"drop": 0.05, "trials": 5, "smallest": True, "shortEpochs": 1, "epochs": 20}
    job = work(model, tmp_path, folder / "calibration.npz", **parameters)
    TECHNIQUES[SEARCH].apply(replace(job, training=folder / "training.npz"))
    found = onnx.load(job.out)
    onnx.checker.check_model(found, full_check=True)
    assert coupling.products(infer(found)) < 0.7 * coupling.products(onnx.load(model))
    assert job.out.stat().st_size < 0.7 * model.stat().st_size
    assert accuracy(job.out, evaluation) >= accuracy(model, evaluation) - 0.015
    # The next candidate takes the points as they are, and only trains another one.
    assert examined(tmp_path) == 5
    eight = work(model, tmp_path, folder / "calibration.npz", **parameters, int8=True, reduceRange=REDUCED)
    eight = replace(eight, training=folder / "training.npz", out=tmp_path / "int8.onnx")
    TECHNIQUES[SEARCH].apply(eight)
    assert examined(tmp_path) == 5
    assert eight.out.stat().st_size < 0.5 * job.out.stat().st_size
    assert accuracy(eight.out, evaluation) >= accuracy(job.out, evaluation) - 0.01


def examined(folder: Path) -> int:
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / STUDY_NAME)))
    return sum(s.n_trials for s in optuna.get_all_study_summaries(storage))


class Examiner:
    """What a point costs by a formula, so that searches over many points take no time."""

    def __init__(self, then: Callable[[int], None] = lambda count: None) -> None:
        self.points: list[Point] = []
        self._then = then

    def examine(self, point: Point, scratch: Path) -> tuple[float, float, float]:
        self.points.append(point)
        self._then(len(self.points))
        pruned = sum(float(c) for n, c in point.items() if n.startswith("width:"))
        compact = sum(c != AS_IS for n, c in point.items() if n.startswith("layer:"))
        return 0.01 * pruned**2 + 0.002 * compact, 10 - 2 * pruned - compact, 1000 - 200 * pruned


def killed_at(number: int) -> Callable[[int], None]:
    def then(count: int) -> None:
        if count == number:
            raise KeyboardInterrupt

    return then


@pytest.mark.parametrize(
    "strategy", [lambda _: evolutionary(0), lambda space: reinforced(space, 0, 0.01, smallest=False)]
)
def test_a_killed_search_goes_on_with_the_points_that_it_has(
    space: Space, tmp_path: Path, strategy: Callable[[Space], Any]
) -> None:
    first, second = Examiner(killed_at(12)), Examiner()
    with pytest.raises(KeyboardInterrupt):
        search(space, first, tmp_path / "study", "a", 30, 60.0, strategy(space))
    with (tmp_path / "study").open("ab") as stream:
        stream.write(b'{"op_code": 4, "work')
    front, original = search(space, second, tmp_path / "study", "a", 30, 60.0, strategy(space))
    assert len(first.points) - 1 + len(second.points) == 30
    assert first.points[0] == space.original
    assert original == Found(space.original, 0.0, 10.0, 1000)
    for a in front:
        for b in front:
            assert key(a) == key(b) or any(x > y for x, y in zip(key(a), key(b), strict=True))
    third = Examiner()
    search(space, third, tmp_path / "study", "other data", 3, 60.0, strategy(space))
    assert len(third.points) == 3


def key(found: Found) -> tuple[float, float, int]:
    return found.drop, found.p95_ms, found.size


def test_time_ends_a_search_and_points_that_fail_do_not(space: Space, tmp_path: Path) -> None:
    late = Examiner()
    _, original = search(space, late, tmp_path / "late", "a", 30, 0.0, evolutionary(0))
    assert late.points == [space.original]
    assert original.size == 1000

    def fail(count: int) -> None:
        if count % 2 == 0:
            raise RuntimeError("no such kernel")

    front, _ = search(space, Examiner(fail), tmp_path / "failing", "a", 10, 60.0, evolutionary(0))
    assert front


def test_every_choice_of_the_space_gives_a_model_that_runs(
    folder: Path, space: Space, tmp_path: Path
) -> None:
    data = folder / "calibration.npz"
    with np.load(folder / "evaluation.npz") as held:
        x = held["x"][:2]
    before = coupling.products(space.model)
    assert {n.partition(":")[0] for n in space.choices} == {"width", "layer"}
    for name, options in space.choices.items():
        for choice in (options[1], options[-1]):
            built = architecture_space.build(space, space.original | {name: choice}, data, tmp_path, 1)
            session = ort.InferenceSession(built.SerializeToString(), providers=["CPUExecutionProvider"])
            (answers,) = session.run(None, {"x": x})
            assert np.isfinite(answers).all()
            after = coupling.products(infer(built))
            # Weights that use all directions have no lower rank.
            assert after < before or (after == before and choice.startswith("rank")), (name, choice)
    everything = {name: options[-1] for name, options in space.choices.items()}
    built = architecture_space.build(space, everything, data, tmp_path, 1)
    onnx.checker.check_model(built, full_check=True)


def test_the_point_is_chosen_by_the_goal_among_those_within_the_drop() -> None:
    original = Found({}, 0.0, 10.0, 1000)
    front = [Found({}, 0.002, 6.0, 990), Found({}, 0.004, 8.0, 200), Found({}, 0.02, 2.0, 100), original]
    assert choose(front, original, 0.01, smallest=False) == front[0]
    assert choose(front, original, 0.01, smallest=True) == front[1]
    assert choose(front, original, 0.05, smallest=False) == front[2]
    assert choose([front[0], original], original, 0.01, smallest=True) is None


def test_a_space_without_a_legal_point_is_named(tmp_path: Path) -> None:
    facts = ModelFacts(17, {"Relu": 3}, 1 << 20, (), ())
    _, skipped = propose([SEARCH], facts, TargetFacts(calibration=True, training=True))
    assert dict(skipped)[SEARCH].startswith("the search space has no legal point: ")
    _, skipped = propose([SEARCH], replace(facts, operators={"Conv": 1}), TargetFacts(calibration=True))
    assert dict(skipped)[SEARCH] == "it needs training data: add optimize.training"
    narrow = cnn(tmp_path / "narrow.onnx", channels=4, size=8)
    np.savez(tmp_path / "data.npz", x=np.zeros((4, 3, 8, 8), np.float32))
    with pytest.raises(NotApplicableError, match=r"the search space has no legal point: .*, and no layer"):
        architecture_space.find(onnx.load(narrow), tmp_path / "data.npz", tmp_path, 1)


def test_bytes_are_what_is_searched_for_where_they_are_the_goal() -> None:
    facts = ModelFacts(17, {"Conv": 3}, 1 << 20, (), ())
    for goal, smallest in ((Goal.SIZE, True), (Goal.LATENCY, False)):
        proposals, _ = propose([SEARCH], facts, TargetFacts(training=True, goal=goal))
        assert {p.parameters["smallest"] for p in proposals} == {smallest}


def test_a_new_run_keeps_the_study_of_a_killed_one_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    request = Request(
        model=folder / "model.onnx",
        input_sha256="0" * 64,
        uri=None,
        work=tmp_path,
        out=tmp_path / "out",
        cores=usable_cores(1),
    )
    scratch = tmp_path / "scratch"
    (scratch / "candidate").mkdir(parents=True)
    for name in (STUDY_NAME, "calibration.json", "candidate/model.onnx"):
        (scratch / name).write_text("{}")
    subject = Subject(request.model, Runnable((), (), 1.0), None, None)
    with Bench(request, subject, lambda: 60.0, Workers(request.cores)):
        assert [p.name for p in scratch.iterdir()] == [STUDY_NAME]
    assert not scratch.exists()
