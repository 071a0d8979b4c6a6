"""Where speed is the goal whole blocks of channels stay; where bytes are, every few channels may go."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from longshore.api.optimize import Goal, TechniqueName
from longshore_optimizer.techniques import architecture_space, blocks
from longshore_optimizer.techniques.base import ModelFacts, Proposal, TargetFacts
from longshore_optimizer.techniques.coupling import products
from longshore_optimizer.techniques.registry import TECHNIQUES
from longshore_optimizer.techniques.survey import Removals, Survey, by_share, survey_of, to_size
from onnx import TensorProto, helper, numpy_helper

from tests.optimizer.conftest import save
from tests.optimizer.technique_bench import digits_folder, work

_AMX = ("amx_int8", "avx2", "avx512f")
_AVX_512 = ("avx2", "avx512f")
_AVX2 = ("avx2",)

_WIDTHS = (144, 40, 64, 16)


@pytest.fixture
def perceptron(tmp_path: Path) -> tuple[Path, Path]:
    """A random network with groups of 144, 40, 64 and 16 neurons, and data for it."""
    rng = np.random.default_rng(0)
    sizes = (24, *_WIDTHS, 4)
    weights, nodes, tensor = {}, [], "x"
    for number, (inside, outside) in enumerate(itertools.pairwise(sizes)):
        weights[f"w{number}"] = (rng.standard_normal((inside, outside)) / inside**0.5).astype(np.float32)
        nodes.append(helper.make_node("MatMul", [tensor, f"w{number}"], [f"h{number}"], name=f"h{number}"))
        tensor = f"h{number}"
        if outside != 4:
            nodes.append(helper.make_node("Relu", [tensor], [f"r{number}"], name=f"r{number}"))
            tensor = f"r{number}"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "perceptron",
        [value("x", TensorProto.FLOAT, ["n", sizes[0]])],
        [value(tensor, TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    save(tmp_path / "model.onnx", graph)
    np.savez(tmp_path / "data.npz", x=rng.standard_normal((400, sizes[0])).astype(np.float32))
    return tmp_path / "model.onnx", tmp_path / "data.npz"


def surveyed(perceptron: tuple[Path, Path], folder: Path, target: TargetFacts) -> Survey:
    model, data = perceptron
    return survey_of(work(model, folder, data, **blocks.asked(target)), data, "reconstruction")


def left(survey: Survey, removals: Removals) -> dict[int, int]:
    """How many channels stay, by how many there were."""
    return {group.size: group.size - removals[space] for space, group in survey.groups.items()}


@pytest.mark.parametrize(
    ("flags", "goal", "asked"),
    [
        (_AMX, Goal.LATENCY, {"channelBlock": 32}),
        (_AVX_512, Goal.LATENCY, {"channelBlock": 16}),
        (_AVX2, Goal.LATENCY, {"channelBlock": 8}),
        ((), Goal.THROUGHPUT, {"channelBlock": 8}),
        (_AMX, Goal.COST, {"channelBlock": 32}),
        (_AMX, Goal.SIZE, {}),
    ],
)
def test_every_technique_that_narrows_asks_for_the_blocks_of_the_cpu(
    flags: tuple[str, ...], goal: Goal, asked: dict[str, int]
) -> None:
    facts = ModelFacts(17, {"Conv": 3}, 1 << 20, (), ())
    target = TargetFacts(flags, calibration=True, training=True, goal=goal, p95_limit_ms=5.0)
    narrowing = (
        TechniqueName.STRUCTURED_PRUNING,
        TechniqueName.DISTILLATION,
        TechniqueName.ARCHITECTURE_SEARCH,
    )

    def block(proposal: Proposal) -> dict[str, object]:
        return {k: v for k, v in proposal.parameters.items() if k == "channelBlock"}

    for name in narrowing:
        space = TECHNIQUES[name].space(facts, target)
        assert [block(p) for p in space] == [asked] * len(space)


@pytest.mark.parametrize(
    ("flags", "units"),
    [
        (_AMX, {144: 32, 40: 16, 64: 32, 16: 8}),
        (_AVX_512, {144: 16, 40: 16, 64: 16, 16: 8}),
        (_AVX2, {144: 8, 40: 8, 64: 8, 16: 8}),
    ],
)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 1.0])
def test_whole_blocks_stay(
    perceptron: tuple[Path, Path], tmp_path: Path, flags: tuple[str, ...], units: dict[int, int], share: float
) -> None:
    survey = surveyed(perceptron, tmp_path, TargetFacts(flags))
    stays = left(survey, by_share(survey, share))
    for size, unit in units.items():
        assert stays[size] == size or stays[size] % unit == 0
        assert stays[size] >= unit
    if share == 1.0:
        assert stays == units, "one block of each group stays, whatever is asked for"


def test_finer_steps_are_for_the_smallest_file(perceptron: tuple[Path, Path], tmp_path: Path) -> None:
    survey = surveyed(perceptron, tmp_path, TargetFacts(_AMX, goal=Goal.SIZE))
    assert left(survey, by_share(survey, 1.0)) == {144: 8, 40: 8, 64: 8, 16: 4}


def test_a_step_that_leaves_kernels_as_many_blocks_counts_for_half(
    perceptron: tuple[Path, Path], tmp_path: Path
) -> None:
    survey = surveyed(perceptron, tmp_path, TargetFacts(_AVX_512))
    space = {group.size: space for space, group in survey.groups.items()}

    def worth(size: int, gone: int) -> float:
        """What a step saves, as a share of the products that go."""
        step = survey.step(space[size], gone)
        return survey.saved(space[size], gone, step) / (survey.costs[space[size]] * step)

    assert worth(64, 0) == 1.0
    assert worth(144, 16) == 1.0
    assert worth(16, 0) == 0.5, "eight of sixteen cost the kernel that makes them the same"
    assert worth(40, 0) == 1.5, "eight channels less are a whole block less"


def test_a_limit_on_the_size_is_met_in_whole_blocks(perceptron: tuple[Path, Path], tmp_path: Path) -> None:
    survey = surveyed(perceptron, tmp_path, TargetFacts(_AVX_512))
    nothing = dict.fromkeys(survey.groups, 0)
    stays = left(survey, to_size(survey, nothing, 11_000))
    assert stays != left(survey, nothing)
    assert all(count == size or count % (8 if size == 16 else 16) == 0 for size, count in stays.items())


def test_a_search_chooses_among_whole_blocks(perceptron: tuple[Path, Path], tmp_path: Path) -> None:
    model, data = perceptron
    space = architecture_space.find(onnx.load(model), data, tmp_path, 1, 32)
    assert space.survey is not None
    sizes = {s: group.size for s, group in space.survey.groups.items()}
    for name, widths in space.choices.items():
        if not name.startswith("width:"):
            continue
        size = sizes[int(name.removeprefix("width:"))]
        unit = {144: 32, 40: 16, 64: 32, 16: 8}[size]
        for width in widths:
            point = space.original | {name: width}
            built = architecture_space.build(space, point, data, tmp_path, 1)
            here = [i.dims[1] for i in built.graph.initializer if i.name.startswith("w")]
            changed = [h for h, s in zip(here, _WIDTHS, strict=False) if h != s]
            assert all(h % unit == 0 for h in changed)
        assert len(widths) > 1, name


@pytest.mark.parametrize("share", [0.3, 0.55])
def test_rounds_of_whole_blocks_take_no_more_than_one_would(tmp_path: Path, share: float) -> None:
    folder = digits_folder(tmp_path / "digits")
    model = folder / "prepared" / "model.onnx"
    parameters = {"criterion": "taylor", "share": share, "epochs": 4, "channelBlock": 16}
    gone = {}
    for schedule in ("constant", "polynomial"):
        job = work(model, tmp_path / schedule, folder / "calibration.npz", schedule=schedule, **parameters)
        job = replace(job, out=tmp_path / schedule / "out.onnx", training=folder / "training.npz")
        TECHNIQUES[TechniqueName.STRUCTURED_PRUNING].apply(job)
        whole, fewer = (
            products(onnx.shape_inference.infer_shapes(onnx.load(path))) for path in (model, job.out)
        )
        gone[schedule] = 1 - fewer / whole
    assert gone["constant"] >= share
    assert gone["polynomial"] == pytest.approx(gone["constant"], abs=0.1)
