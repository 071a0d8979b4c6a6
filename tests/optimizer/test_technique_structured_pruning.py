"""Structured pruning: the right tensors are cut together, and the layers behind make up for what went."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from longshore.api.optimize import TechniqueName
from longshore_optimizer.techniques import coupling
from longshore_optimizer.techniques.base import ModelFacts, NotApplicableError, TargetFacts
from longshore_optimizer.techniques.latency_pruning import to_limit
from longshore_optimizer.techniques.prepare import prepare
from longshore_optimizer.techniques.registry import TECHNIQUES
from longshore_optimizer.techniques.survey import by_share, pruned, take_survey
from onnx import TensorProto, helper, numpy_helper

from tests.optimizer.conftest import save
from tests.optimizer.technique_bench import accuracy, applied, digits_cnn, outputs, work
from tests.realmodels import rapidocr_model

Trained = tuple[Path, Path, Path]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return digits_cnn(tmp_path_factory.mktemp("digits-cnn"))


def prepared(model: Path, folder: Path) -> Path:
    job = work(model, folder / "prepared", None)
    prepare(job)
    return job.out


def assert_cut_is_mask(path: Path, feeds: dict[str, np.ndarray], folder: Path) -> int:
    """Cutting channels gives what setting the weights that read them to zero gives; tells the groups."""
    model = onnx.load(path)
    traced = coupling.trace(model)
    rng = np.random.default_rng(0)
    kept = {g.space: np.sort(rng.choice(g.size, g.size - g.size // 3, replace=False)) for g in traced.groups}
    masked = onnx.ModelProto()
    masked.CopyFrom(model)
    tensors = {i.name: i for i in masked.graph.initializer}
    for group in traced.groups:
        for reader in group.readers:
            values = numpy_helper.to_array(tensors[reader.weight]).copy()
            gone = np.ones(values.shape[reader.weight_axis], bool)
            gone[coupling.positions(reader.layout, traced.sizes, kept)] = False
            np.moveaxis(values, reader.weight_axis, 0)[gone] = 0
            tensors[reader.weight].CopyFrom(numpy_helper.from_array(values, reader.weight))
    coupling.cut(model, traced, kept)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "cut.onnx")
    onnx.save(masked, folder / "masked.onnx")
    first, second = (outputs(folder / f"{n}.onnx", feeds) for n in ("cut", "masked"))
    np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-4 * float(np.abs(second).max()))
    assert (folder / "cut.onnx").stat().st_size < 0.9 * path.stat().st_size
    return len(traced.groups)


def test_residual_depthwise_and_flattened_channels_are_cut_together(trained: Trained, tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((4, 1, 8, 8)).astype(np.float32)
    assert assert_cut_is_mask(prepared(trained[0], tmp_path), {"x": x}, tmp_path) == 2


@pytest.mark.parametrize(
    ("name", "shape", "groups"),
    [("PP-OCRv6_det_small.onnx", (1, 3, 64, 96), 20), ("PP-OCRv6_rec_small.onnx", (1, 3, 48, 64), 20)],
)
def test_channels_of_real_models_are_cut_together(
    tmp_path: Path, name: str, shape: tuple[int, ...], groups: int
) -> None:
    x = np.random.default_rng(0).random(shape).astype(np.float32)
    assert assert_cut_is_mask(prepared(rapidocr_model(name), tmp_path), {"x": x}, tmp_path) >= groups


def test_concatenated_normalized_and_gated_channels_are_cut_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.prod(shape[1:]) ** 0.5).astype(np.float32)

    weights = {"wa": weight(12, 3, 3, 3), "wb": weight(20, 3, 1, 1), "wc": weight(16, 32, 1, 1)}
    weights |= {"squeeze": weight(8, 16, 1, 1), "excite": weight(16, 8, 1, 1), "wd": weight(16, 6)}
    weights |= {n: rng.random(32).astype(np.float32) + 0.5 for n in ("scale", "shift", "mean", "variance")}
    nodes = [
        helper.make_node("Conv", ["x", "wa"], ["a"], pads=[1] * 4, name="a"),
        helper.make_node("Conv", ["x", "wb"], ["b"], name="b"),
        helper.make_node("Concat", ["a", "b"], ["ab"], axis=1, name="ab"),
        helper.make_node(
            "BatchNormalization", ["ab", "scale", "shift", "mean", "variance"], ["n"], name="norm"
        ),
        helper.make_node("HardSwish", ["n"], ["r"], name="act"),
        helper.make_node("Conv", ["r", "wc"], ["c"], name="c"),
        helper.make_node("GlobalAveragePool", ["c"], ["g"], name="g"),
        helper.make_node("Conv", ["g", "squeeze"], ["s"], name="s"),
        helper.make_node("Relu", ["s"], ["sr"], name="sr"),
        helper.make_node("Conv", ["sr", "excite"], ["e"], name="e"),
        helper.make_node("Sigmoid", ["e"], ["gate"], name="gate"),
        helper.make_node("Mul", ["c", "gate"], ["m"], name="m"),
        helper.make_node("ReduceMean", ["m"], ["flat"], axes=[2, 3], keepdims=0, name="flat"),
        helper.make_node("MatMul", ["flat", "wd"], ["y"], name="y"),
    ]
    graph = helper.make_graph(
        nodes,
        "gated",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 6])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    save(tmp_path / "model.onnx", graph)
    x = rng.standard_normal((3, 3, 8, 8)).astype(np.float32)
    inferred = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "model.onnx"))
    onnx.save(inferred, tmp_path / "inferred.onnx")
    # a and b, c with its gate, and the squeezed channels in between.
    assert assert_cut_is_mask(tmp_path / "inferred.onnx", {"x": x}, tmp_path / "out") == 4


def test_nothing_that_reaches_an_output_or_mixes_channels_is_cut(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((16, 16)).astype(np.float32), n) for n in ("a", "b")
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], name="h"),
        helper.make_node("Softmax", ["h"], ["s"], axis=-1, name="s"),
        helper.make_node("MatMul", ["s", "b"], ["y"], name="y"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "mixing",
        [value("x", TensorProto.FLOAT, ["n", 16])],
        [value("y", TensorProto.FLOAT, ["n", 16])],
        weights,
    )
    save(tmp_path / "model.onnx", graph)
    assert coupling.trace(onnx.load(tmp_path / "model.onnx")).groups == ()
    np.savez(tmp_path / "data.npz", x=rng.standard_normal((20, 16)).astype(np.float32))
    with pytest.raises(NotApplicableError, match="tied to the model's outputs"):
        applied(
            TechniqueName.STRUCTURED_PRUNING,
            tmp_path / "model.onnx",
            tmp_path,
            tmp_path / "data.npz",
            criterion="reconstruction",
            share=0.5,
        )


@pytest.mark.parametrize("criterion", ["reconstruction", "norm", "activation", "information"])
def test_a_third_of_a_network_goes_and_the_answers_stay(
    trained: Trained, tmp_path: Path, criterion: str
) -> None:
    model, calibration, evaluation = trained
    small = applied(
        TechniqueName.STRUCTURED_PRUNING, model, tmp_path, calibration, criterion=criterion, share=0.35
    )
    assert small.stat().st_size < 0.8 * model.stat().st_size
    assert accuracy(small, evaluation) >= accuracy(model, evaluation) - 0.02


def test_neurons_of_a_trained_perceptron_go(digits: Path, tmp_path: Path) -> None:
    model, evaluation = digits / "digits.onnx", digits / "evaluation.npz"
    small = applied(
        TechniqueName.STRUCTURED_PRUNING,
        model,
        tmp_path,
        digits / "calibration.npz",
        criterion="reconstruction",
        share=0.6,
    )
    assert small.stat().st_size < 0.5 * model.stat().st_size
    assert accuracy(small, evaluation) >= accuracy(model, evaluation) - 0.01


def test_the_layers_behind_make_up_for_what_went(trained: Trained, tmp_path: Path) -> None:
    model = prepared(trained[0], tmp_path)
    survey = take_survey(onnx.load(model), trained[1], tmp_path, 1, "norm")
    removals = by_share(survey, 0.4)
    compensated = pruned(survey, removals)
    plain = onnx.ModelProto()
    plain.CopyFrom(survey.model)
    kept = {
        s: np.setdiff1d(np.arange(survey.groups[s].size), survey.rankings[s].order[:n])
        for s, n in removals.items()
    }
    coupling.cut(plain, survey.coupling, kept)
    with np.load(trained[2]) as data:
        feeds = {"x": data["x"]}
    exact = outputs(model, feeds)
    errors = []
    for number, candidate in enumerate((compensated, plain)):
        onnx.save(candidate, tmp_path / f"{number}.onnx")
        errors.append(float(np.sum((outputs(tmp_path / f"{number}.onnx", feeds) - exact) ** 2)))
    assert errors[0] < 0.3 * errors[1]


def test_a_channel_that_others_can_stand_in_for_goes_first(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first = rng.standard_normal((8, 16)).astype(np.float32)
    first[:, 5] = 1.5 * first[:, 11]
    weights = {"a": first, "b": rng.standard_normal((16, 4)).astype(np.float32)}
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "a"], ["h"], name="h"),
            helper.make_node("Relu", ["h"], ["r"], name="r"),
            helper.make_node("MatMul", ["r", "b"], ["y"], name="y"),
        ],
        "twins",
        [value("x", TensorProto.FLOAT, ["n", 8])],
        [value("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    save(tmp_path / "model.onnx", graph)
    np.savez(tmp_path / "data.npz", x=rng.standard_normal((100, 8)).astype(np.float32))
    model = onnx.load(tmp_path / "model.onnx")
    survey = take_survey(model, tmp_path / "data.npz", tmp_path, 1, "reconstruction")
    (ranking,) = survey.rankings.values()
    assert ranking.order[0] in (5, 11)
    assert ranking.losses[0] < 0.1 * ranking.losses[1]


@pytest.mark.parametrize("count", [1, 3, 8])
def test_what_stays_stands_in_as_least_squares_would(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    weights = {n: rng.standard_normal(s).astype(np.float32) for n, s in (("a", (8, 16)), ("b", (16 * 9, 4)))}
    value = helper.make_tensor_value_info
    kernels = weights["a"].T.reshape(16, 8, 1, 1)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "a"], ["h"], name="h"),
            helper.make_node("Relu", ["h"], ["r"], name="r"),
            helper.make_node("Flatten", ["r"], ["f"], name="f"),
            helper.make_node("MatMul", ["f", "b"], ["y"], name="y"),
        ],
        "flattened",
        [value("x", TensorProto.FLOAT, ["n", 8, 3, 3])],
        [value("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(kernels, "a"), numpy_helper.from_array(weights["b"], "b")],
    )
    save(tmp_path / "model.onnx", graph)
    np.savez(tmp_path / "data.npz", x=rng.standard_normal((100, 8, 3, 3)).astype(np.float32))
    model = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "model.onnx"))
    survey = take_survey(model, tmp_path / "data.npz", tmp_path, 1, "reconstruction")
    ((space, ranking),) = survey.rankings.items()
    small = pruned(survey, {space: count})
    (given,) = [numpy_helper.to_array(t) for t in small.graph.initializer if t.name == "b"]
    gone = np.isin(np.arange(16 * 9) // 9, ranking.order[:count])
    second = survey.seen["f"].second
    second = second + 1e-3 * np.mean(np.diag(second)) * np.eye(len(second))
    kept = second[~gone]
    np.testing.assert_allclose(
        given, np.linalg.solve(kept[:, ~gone], kept @ weights["b"]), rtol=1e-3, atol=1e-4
    )


def test_pruning_goes_on_until_the_measured_latency_is_within_the_limit(
    trained: Trained, tmp_path: Path
) -> None:
    survey = take_survey(onnx.load(prepared(trained[0], tmp_path)), trained[1], tmp_path, 1, "reconstruction")

    def bytes_as_ms(model: onnx.ModelProto) -> tuple[float, float]:
        return model.ByteSize() / 1000, model.ByteSize() / 1e6

    whole, _ = bytes_as_ms(survey.model)
    removals = to_limit(survey, bytes_as_ms, 0.6 * whole)
    reached, _ = bytes_as_ms(pruned(survey, removals))
    assert 0.45 * whole < reached <= 0.6 * whole
    assert to_limit(survey, bytes_as_ms, whole) == dict.fromkeys(survey.groups, 0)
    # A limit that cannot be reached ends with the smallest there is, however the measurements fall.
    smallest = to_limit(survey, bytes_as_ms, 1e-3)
    assert min(smallest.values()) > 0
    assert to_limit(survey, lambda m: (1.0, m.ByteSize() / 1e6), 1e-3) == smallest


def test_the_measured_mode_runs_where_there_is_a_limit(trained: Trained, tmp_path: Path) -> None:
    facts = ModelFacts(17, {"Conv": 3}, 1 << 20, (), ())
    technique = TECHNIQUES[TechniqueName.STRUCTURED_PRUNING]
    names = [p.name for p in technique.space(facts, TargetFacts(calibration=True, p95_limit_ms=5.0))]
    assert names[0] == "structured-to-limit"
    assert "structured-to-limit" not in [
        p.name for p in technique.space(facts, TargetFacts(calibration=True))
    ]
    assert "add optimize.calibration" in (technique.applies(facts, TargetFacts()) or "")
    small = applied(
        TechniqueName.STRUCTURED_PRUNING,
        trained[0],
        tmp_path,
        trained[1],
        criterion="reconstruction",
        p95LimitMs=1e-4,
    )
    assert small.stat().st_size < 0.6 * trained[0].stat().st_size
