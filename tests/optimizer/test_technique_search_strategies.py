"""How architectures are found: by a policy that is reinforced, or among weights that all widths share."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from longshore.api.optimize import TechniqueName
from longshore_optimizer.techniques import architecture_space, supernet, training
from longshore_optimizer.techniques.architecture_policy import learned, policy, reward
from longshore_optimizer.techniques.architecture_space import Point, Space
from longshore_optimizer.techniques.architecture_study import reinforced, search
from longshore_optimizer.techniques.base import ModelFacts, NotApplicableError, TargetFacts
from longshore_optimizer.techniques.coupling import products
from longshore_optimizer.techniques.lesson import Lesson
from longshore_optimizer.techniques.prepare import infer
from longshore_optimizer.techniques.registry import TECHNIQUES
from optuna.distributions import CategoricalDistribution

from tests.optimizer.technique_bench import accuracy, digits_folder, outputs, work

SEARCH = TechniqueName.ARCHITECTURE_SEARCH


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("strategies"))


@pytest.fixture(scope="module")
def space(folder: Path) -> Space:
    model = onnx.load(folder / "prepared" / "model.onnx")
    return architecture_space.find(model, folder / "calibration.npz", folder, 1)


class Formula:
    """Half of the width of every group is free; more costs; layers are best left as they are."""

    def __init__(self) -> None:
        self.worth: list[float] = []

    def examine(self, point: Point, scratch: Path) -> tuple[float, float, float]:
        widths = [float(c) for n, c in point.items() if n.startswith("width:")]
        changed = sum(c != "as-is" for n, c in point.items() if n.startswith("layer:"))
        drop = sum(max(w - 0.5, 0.0) for w in widths) * 0.1 + 0.005 * changed
        values = drop, 10.0 - 4 * sum(widths), 1000.0 - 200 * sum(widths)
        self.worth.append(reward((0.0, 10.0, 1000.0), 0.01, smallest=False)(values))
        return values


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def test_a_reinforced_policy_asks_for_what_was_rewarded(space: Space, tmp_path: Path) -> None:
    late = []
    for seed in range(6):
        formula = Formula()
        sampler = reinforced(space, seed, 0.01, smallest=False)
        search(space, formula, tmp_path / f"{seed}", "a", 60, 60.0, sampler)
        late += formula.worth[-15:]
    rng, chance = np.random.default_rng(0), Formula()
    for _ in range(600):
        point = {n: options[int(rng.integers(len(options)))] for n, options in space.choices.items()}
        chance.examine(point, tmp_path)
    # All that a point can be worth is 0.51.
    assert mean(late) > mean(chance.worth) + 0.8, (mean(late), mean(chance.worth))


def test_a_choice_that_was_punished_may_still_be_asked_for() -> None:
    distribution = CategoricalDistribution(("a", "b", "c"))
    points = [({"x": "a" if n % 2 else "b"}, {"x": distribution}) for n in range(200)]
    logits = learned(points, [float(n % 2) for n in range(200)])
    odds = policy(logits["x"])
    assert odds.sum() == pytest.approx(1.0)
    assert odds[0] > 0.9
    assert odds.min() >= 0.02
    assert learned([], []) == {}


def test_a_point_is_worth_what_it_saves_unless_it_loses_too_much() -> None:
    original = (0.001, 10.0, 1000.0)
    by_time = reward(original, 0.01, smallest=False)
    by_size = reward(original, 0.01, smallest=True)
    assert by_time(original) == by_size(original) == 0.0
    assert by_time((0.01, 5.0, 900.0)) == pytest.approx(np.log(2))
    assert by_size((0.01, 12.0, 500.0)) == pytest.approx(np.log(2))
    assert by_time((0.05, 5.0, 900.0)) < 0


def test_weights_that_all_widths_share_need_no_training_at_a_point(
    folder: Path, space: Space, tmp_path: Path
) -> None:
    model, evaluation = folder / "prepared" / "model.onnx", folder / "evaluation.npz"
    samples = training.load(model, folder / "training.npz")
    found = supernet.shared(space, samples, Lesson(epochs=20, seconds=120.0), tmp_path / "shared.onnx")
    assert set(found.choices) == {name for name in space.choices if name.startswith("width:")}
    plain = replace(found, model=space.model, survey=space.survey)
    rng = np.random.default_rng(0)
    right: dict[str, list[float]] = {"shared": [], "cut": []}
    for number in range(6):
        point = {n: options[int(rng.integers(1, len(options)))] for n, options in found.choices.items()}
        for name, each in (("shared", found), ("cut", plain)):
            path = tmp_path / f"{name}-{number}.onnx"
            onnx.save(architecture_space.build(each, point, folder / "calibration.npz", tmp_path, 1), path)
            right[name].append(accuracy(path, evaluation))
    assert mean(right["shared"]) > mean(right["cut"]) + 0.1
    assert min(right["shared"]) > 0.85


def test_masked_channels_answer_as_cut_ones(folder: Path, space: Space, tmp_path: Path) -> None:
    """What the shared weights were trained to do is what is built."""
    assert space.survey is not None
    point = {n: options[-1] for n, options in space.choices.items() if n.startswith("width:")}
    cut = replace(space, choices={n: space.choices[n] for n in point}, shares=True)
    built = architecture_space.build(cut, point, folder / "calibration.npz", tmp_path, 1)
    onnx.save(built, tmp_path / "cut.onnx")
    only = {n: options[-1:] for n, options in cut.choices.items()}
    changes = supernet.Masks(replace(cut, choices=only), 0).by_weight()
    graph = training.TorchGraph(space.model, space.model.graph.output[0].name, changes)
    with np.load(folder / "evaluation.npz") as held:
        x = held["x"][:16]
    (given,) = graph({"x": training.torch.from_numpy(x)}, [space.model.graph.output[0].name])
    expected = outputs(tmp_path / "cut.onnx", {"x": x})
    np.testing.assert_allclose(
        given.detach().numpy(), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()
    )


def test_a_search_among_shared_weights_trains_twice_and_answers_as_well(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    exact = training.train

    def counted(*arguments: Any, **options: Any) -> onnx.ModelProto:
        calls.append(arguments)
        return exact(*arguments, **options)

    monkeypatch.setattr(training, "train", counted)
    facts = ModelFacts(17, {"Conv": 3}, 1 << 20, (), ())
    proposals = TECHNIQUES[SEARCH].space(facts, TargetFacts(calibration=True, training=True))
    (proposal,) = [p for p in proposals if p.name == "searched-1-one-shot"]
    model, evaluation = folder / "prepared" / "model.onnx", folder / "evaluation.npz"
    parameters = proposal.parameters | {"trials": 30, "epochs": 30, "drop": 0.03, "int8": False}
    job = work(model, tmp_path, folder / "calibration.npz", **parameters)
    TECHNIQUES[SEARCH].apply(replace(job, training=folder / "training.npz", seconds=240.0))
    assert len(calls) == 2, "once for all points, and the one that was chosen"
    assert products(infer(onnx.load(job.out))) < 0.8 * products(onnx.load(model))
    assert accuracy(job.out, evaluation) >= accuracy(model, evaluation) - 0.015
    # The other form is of the same student.
    other = replace(job, out=tmp_path / "other.onnx", parameters=parameters | {"int8": True})
    TECHNIQUES[SEARCH].apply(replace(other, training=folder / "training.npz", seconds=240.0))
    assert len(calls) == 2


def test_a_space_without_widths_cannot_share_weights(folder: Path, space: Space, tmp_path: Path) -> None:
    layers = replace(space, choices={n: o for n, o in space.choices.items() if n.startswith("layer:")})
    samples = training.load(folder / "prepared" / "model.onnx", folder / "training.npz")
    with pytest.raises(NotApplicableError, match="no group of channels"):
        supernet.shared(layers, samples, Lesson(epochs=1), tmp_path / "shared.onnx")


def test_every_strategy_has_its_turn() -> None:
    facts = ModelFacts(17, {"Conv": 3}, 1 << 20, (), ())
    names = [p.name for p in TECHNIQUES[SEARCH].space(facts, TargetFacts(training=True))]
    assert [n for n in names if not n.endswith("int8")] == [
        "searched-1",
        "searched-1-one-shot",
        "searched-3",
        "searched-1-reinforced",
    ]
