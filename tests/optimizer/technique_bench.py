"""What tests of single techniques share: trained models, a call to apply a technique, accuracy of a file."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from longshore.api.optimize import TechniqueName
from longshore_optimizer.measure import cpu
from longshore_optimizer.techniques import static_int8
from longshore_optimizer.techniques.base import Work
from longshore_optimizer.techniques.prepare import prepare
from longshore_optimizer.techniques.registry import TECHNIQUES
from onnx import TensorProto, helper, numpy_helper

from tests.optimizer.conftest import save

Feeds = dict[str, np.ndarray[Any, Any]]

REDUCED = not cpu.has_vnni(cpu.cpu_flags())
"""Whether weights need a bit less here: sums of 8-bit products saturate on CPUs without VNNI."""

BASE = static_int8.BASE | {"reduceRange": REDUCED}
"""How static quantization is tried first on this machine."""


def work(model: Path, folder: Path, data: Path | None, **parameters: Any) -> Work:
    folder.mkdir(parents=True, exist_ok=True)
    return Work(model, folder / "model.onnx", parameters, data, folder, seed=0, threads=1)


def applied(
    technique: TechniqueName, model: Path, folder: Path, data: Path | None = None, **parameters: Any
) -> Path:
    """The prepared model after one technique."""
    prepared = work(model, folder / "prepared", None)
    prepare(prepared)
    job = work(prepared.out, folder / "applied", data, **parameters)
    TECHNIQUES[technique].apply(job)
    onnx.checker.check_model(onnx.load(job.out))
    return job.out


def outputs(model: Path, feeds: Feeds) -> np.ndarray[Any, Any]:
    """The last output; the runtime's default optimizations are on, as where models are served."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[-1])


def accuracy(model: Path, data: Path) -> float:
    with np.load(data) as loaded:
        arrays = dict(loaded)
    labels = arrays.pop("labels")
    return float(np.mean(np.argmax(outputs(model, arrays), -1) == labels))


def digits_cnn(folder: Path) -> tuple[Path, Path, Path]:
    """A convolutional network on handwritten digits: random filters, a residual connection, a trained head.

    Gives model, calibration and evaluation data; about 97 % of the evaluation data are right.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _digits_cnn():
        (folder / name).write_bytes(content)
    return folder / "model.onnx", folder / "calibration.npz", folder / "evaluation.npz"


@cache
def _digits_cnn() -> tuple[tuple[str, bytes], ...]:
    with TemporaryDirectory() as made:
        return tuple((path.name, path.read_bytes()) for path in _make_digits_cnn(Path(made)))


def _make_digits_cnn(folder: Path) -> tuple[Path, Path, Path]:
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[:, None]

    def filters(*shape: int) -> np.ndarray[Any, Any]:
        return (rng.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5).astype(np.float32)

    first, second, third = filters(32, 1, 3, 3), filters(48, 32, 3, 3), filters(32, 48, 3, 3)
    weights = {"w1": first, "w2": second, "w3": third, "wd": filters(48, 1, 3, 3)}
    for name, count in (("b1", 32), ("b2", 48), ("b3", 32)):
        weights[name] = (rng.standard_normal(count) * 0.1).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1] * 4, name="conv1"),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1] * 4, name="conv2"),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu2"),
        helper.make_node("Conv", ["r2", "wd"], ["cd"], pads=[1] * 4, group=48, name="depthwise"),
        helper.make_node("Conv", ["cd", "w3", "b3"], ["c3"], pads=[1] * 4, name="conv3"),
        helper.make_node("Add", ["c3", "r1"], ["s"], name="residual"),
        helper.make_node("Relu", ["s"], ["r3"], name="relu3"),
        helper.make_node("MaxPool", ["r3"], ["p"], kernel_shape=[2, 2], strides=[2, 2], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
    ]

    def write(path: Path, extra: list[onnx.NodeProto], output: str, width: int) -> None:
        graph = helper.make_graph(
            [*nodes, *extra],
            "digits-cnn",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 8, 8])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", width])],
            [numpy_helper.from_array(v, k) for k, v in weights.items()],
        )
        save(path, graph)

    write(folder / "features.onnx", [], "f", 512)
    features = outputs(folder / "features.onnx", {"x": images})
    order = rng.permutation(len(images))
    train, calibrate, evaluate = np.split(order, [1000, 1200])
    head = LogisticRegression(C=0.02, max_iter=400).fit(features[train], digits.target[train])
    weights["wf"], weights["bf"] = head.coef_.astype(np.float32), head.intercept_.astype(np.float32)
    model = folder / "model.onnx"
    write(model, [helper.make_node("Gemm", ["f", "wf", "bf"], ["y"], transB=1, name="head")], "y", 10)
    for name, rows in (("calibration", calibrate), ("evaluation", evaluate)):
        np.savez(folder / f"{name}.npz", x=images[rows], labels=digits.target[rows])
    return model, folder / "calibration.npz", folder / "evaluation.npz"


def training_data(path: Path, evaluation: Path) -> Path:
    """Write the handwritten digits that are not in the evaluation data."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[:, None]
    with np.load(evaluation) as held:
        known = {row.tobytes() for row in held["x"]}
    rows = [i for i, image in enumerate(images) if image.tobytes() not in known]
    np.savez(path, x=images[rows], labels=digits.target[rows])
    return path


def digits_folder(folder: Path) -> Path:
    """Write the digits network, also prepared, with data; nothing of the evaluation data is trained on."""
    model, _, evaluation = digits_cnn(folder)
    prepare(work(model, folder / "prepared", None))
    training_data(folder / "training.npz", evaluation)
    return folder
