"""PyTorch models become ONNX that answers as PyTorch does, whichever way they were saved."""

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from longshore.api.model import Format, Model
from longshore_optimizer.convert.run import convert
from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.modeldir import identify, locate
from pydantic import ValidationError

torch = pytest.importorskip("torch", reason="the extra `pytorch` is not installed")

FACTORY = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, ids, mask):
        hidden = self.norm(self.embed(ids)) * mask.unsqueeze(-1)
        return self.head(hidden.sum(1)), hidden


def build():
    return Net()
"""
RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 50, (20, 6))
MASK = (RNG.random((20, 6)) > 0.3).astype(np.float32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One network in every form, and its answers."""
    from safetensors.torch import save_file

    out = tmp_path_factory.mktemp("saved")
    names: dict[str, Any] = {}
    exec(FACTORY, names)
    torch.manual_seed(0)
    network = names["Net"]().eval()
    ids, mask = torch.from_numpy(IDS), torch.from_numpy(MASK)
    with torch.no_grad():
        scores, hidden = network(ids, mask)
    np.savez(out / "answers.npz", scores=scores.numpy(), hidden=hidden.numpy())
    np.savez(out / "data.npz", ids=IDS, mask=MASK, labels=np.zeros(20))
    batch = torch.export.Dim("batch")
    program = torch.export.export(network, (ids, mask), dynamic_shapes=({0: batch}, {0: batch}))
    torch.export.save(program, out / "exported.pt2")
    (out / "weights").mkdir()
    save_file(network.state_dict(), out / "weights" / "model.safetensors")
    (out / "weights" / "model.py").write_text(FACTORY)
    torch.save(network.state_dict(), out / "state.pth")
    return out


def check(model: Path, saved: Path) -> None:
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["ids", "mask"]
    assert [i.shape[0] for i in session.get_inputs()] == ["batch", "batch"]
    with np.load(saved / "answers.npz") as stored:
        for rows in (1, 7):
            scores, hidden = session.run(None, {"ids": IDS[:rows], "mask": MASK[:rows]})
            np.testing.assert_allclose(scores, stored["scores"][:rows], atol=1e-5)
            np.testing.assert_allclose(hidden, stored["hidden"][:rows], atol=1e-5)


def test_an_exported_program_needs_no_opt_in_and_no_data(saved: Path, tmp_path: Path) -> None:
    source = identify(saved / "exported.pt2")
    assert source.format is Format.PYTORCH
    report = convert(source, tmp_path / "out.onnx", None, allow_pickle=False)
    assert report.framework == "PyTorch"
    assert report.max_absolute_error < 1e-5
    check(tmp_path / "out.onnx", saved)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_torchscript_is_converted_on_the_calibration_data(saved: Path, tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec(FACTORY, names)
    torch.manual_seed(0)
    traced = torch.jit.trace(names["Net"]().eval(), (torch.from_numpy(IDS), torch.from_numpy(MASK)))
    torch.jit.save(traced, tmp_path / "scripted.pt")
    source = identify(tmp_path / "scripted.pt")
    assert source.format is Format.PYTORCH
    with pytest.raises(Problem) as caught:
        convert(source, tmp_path / "out.onnx", None, allow_pickle=False)
    assert "calibration data" in caught.value.message
    report = convert(source, tmp_path / "out.onnx", saved / "data.npz", allow_pickle=False)
    assert report.samples == 20
    check(tmp_path / "out.onnx", saved)


class Recurrent(torch.nn.Module):
    """Takes and gives a state whose rows lie on its second axis."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.GRU(4, 8, num_layers=2, batch_first=True)

    def forward(self, x: Any, state: Any) -> Any:
        return self.lstm(x, state)


class Attending(torch.nn.Module):
    """Gives None in place of the weights of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Any) -> Any:
        return self.attention(x, x, x, need_weights=False)


class Encoder(torch.nn.Module):
    """Reads texts with padding at their ends."""

    def __init__(self, **layer: Any) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(20, 16)
        one = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, **layer)
        self.layers = torch.nn.TransformerEncoder(one, 2, enable_nested_tensor=False)

    def forward(self, ids: Any) -> Any:
        return self.layers(self.embed(ids), src_key_padding_mask=ids == 0)[:, 0]


class CausalEncoder(Encoder):
    """Sees no later words."""

    def forward(self, ids: Any) -> Any:
        later = torch.nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        return self.layers(self.embed(ids), mask=later, is_causal=True)


class Weighing(torch.nn.Module):
    """Gives the weights of attention too, of every head or their mean."""

    def __init__(self, mean: bool) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(20, 16)
        self.attention = torch.nn.MultiheadAttention(16, 4, batch_first=True)
        self.norm = torch.nn.RMSNorm(16)
        self.mean = mean

    def forward(self, ids: Any) -> Any:
        x = self.embed(ids)
        mixed, weights = self.attention(x, x, x, average_attn_weights=self.mean)
        return self.norm(mixed), weights


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("gradients", [False, True], ids=["fused", "plain"])
@pytest.mark.parametrize(
    "network",
    [
        Encoder(),
        Encoder(activation="gelu", norm_first=True, layer_norm_eps=0.01),
        CausalEncoder(),
        Weighing(mean=True),
        Weighing(mean=False),
    ],
    ids=["encoder", "norm-first", "causal", "mean-weights", "weights"],
)
def test_torchscript_of_attention_however_it_was_traced(
    network: torch.nn.Module, gradients: bool, tmp_path: Path
) -> None:
    """Without gradients PyTorch traces attention and whole encoder layers as one fused operator each."""
    ids = RNG.integers(1, 20, (24, 7))
    for row, sentence in enumerate(ids):
        sentence[7 - row % 5 :] = 0
    np.savez(tmp_path / "data.npz", ids=ids)
    with torch.set_grad_enabled(gradients):
        traced = torch.jit.trace(network.eval(), torch.from_numpy(ids[:2]), check_trace=False)
    torch.jit.save(traced, tmp_path / "traced.pt")
    report = convert(
        identify(tmp_path / "traced.pt"), tmp_path / "out.onnx", tmp_path / "data.npz", allow_pickle=False
    )
    assert report.disagreements == 0
    assert report.max_relative_error < 1e-5
    session = ort.InferenceSession(str(tmp_path / "out.onnx"), providers=["CPUExecutionProvider"])
    others = ids[::-1][:11].copy()
    with torch.no_grad():
        expected = torch.utils._pytree.tree_leaves(network(torch.from_numpy(others)))
    for given, right in zip(session.run(None, {"ids": others}), expected, strict=True):
        np.testing.assert_allclose(given, right.numpy(), atol=1e-5)


class Counting(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return x + 1, x.shape[0]


@pytest.mark.parametrize(
    ("network", "outputs"), [(Attending, ["output"]), (Counting, ["output_0", "output_1"])]
)
def test_what_is_no_tensor_among_the_answers_is_none_or_a_number(
    network: type[torch.nn.Module], outputs: list[str], tmp_path: Path
) -> None:
    given = (torch.randn(3, 5, 8),)
    program = torch.export.export(network().eval(), given, dynamic_shapes=({0: torch.export.Dim("rows")},))
    torch.export.save(program, tmp_path / "model.pt2")
    report = convert(identify(tmp_path / "model.pt2"), tmp_path / "out.onnx", None, allow_pickle=False)
    assert report.disagreements == 0
    session = ort.InferenceSession(str(tmp_path / "out.onnx"), providers=["CPUExecutionProvider"])
    assert [o.name for o in session.get_outputs()] == outputs


def test_what_pytorch_cannot_convert_is_told_without_its_advice(tmp_path: Path) -> None:
    class Constant(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return {"a": x + 1, "count": 3}

    torch.export.save(torch.export.export(Constant(), (torch.zeros(2, 3),)), tmp_path / "model.pt2")
    with pytest.raises(Problem) as caught:
        convert(identify(tmp_path / "model.pt2"), tmp_path / "out.onnx", None, allow_pickle=False)
    assert caught.value.reason is Reason.CONVERSION_FAILED
    assert "\x1b" not in caught.value.message
    assert "step 3/3" not in caught.value.message


class Answer(OrderedDict[str, Any]):
    """As Transformers' models answer."""


class Answering(torch.nn.Module):
    def forward(self, ids: Any, mask: Any = None, scale: Any = None, weight: float = 1.0) -> Any:
        hidden = ids.float().unsqueeze(-1) * weight
        hidden = hidden if scale is None else hidden * scale
        return Answer(logits=(hidden * mask.unsqueeze(-1)).sum(1), hidden=(hidden, hidden + 1))


@pytest.fixture
def answering() -> Iterator[torch.nn.Module]:
    pytree = torch.utils._pytree
    pytree.register_pytree_node(
        Answer,
        lambda answer: (list(answer.values()), list(answer)),
        lambda values, names: Answer(zip(names, values, strict=True)),
        serialized_type_name="a_library.that_is_not_here.Answer",
    )
    yield Answering()
    pytree._deregister_pytree_node(Answer)


def test_a_program_may_answer_in_a_type_of_its_authors_library_and_take_inputs_by_name(
    answering: torch.nn.Module, tmp_path: Path
) -> None:
    ids, mask = torch.from_numpy(IDS), torch.from_numpy(MASK)
    rows = torch.export.Dim("rows")
    shapes = {"ids": {0: rows}, "mask": {0: rows}, "scale": None, "weight": None}
    given = {"mask": mask, "weight": 2.0, "scale": None}
    program = torch.export.export(answering, (ids,), given, dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "model.pt2")
    np.savez(tmp_path / "data.npz", ids=IDS, mask=MASK)
    for samples in (None, tmp_path / "data.npz"):
        source = identify(tmp_path / "model.pt2")
        report = convert(source, tmp_path / "out.onnx", samples, allow_pickle=False)
        assert report.disagreements == 0
    session = ort.InferenceSession(str(tmp_path / "out.onnx"), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["ids", "mask"]
    assert [o.name for o in session.get_outputs()] == ["output_0", "output_1", "output_2"]
    logits = session.run(["output_0"], {"ids": IDS, "mask": MASK})[0]
    np.testing.assert_allclose(logits[:, 0], (2.0 * IDS * MASK).sum(1), rtol=1e-5)


@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")
@pytest.mark.parametrize("data", [False, True])
def test_a_state_whose_rows_are_not_its_leading_axis_is_taken_whole(data: bool, tmp_path: Path) -> None:
    network = Recurrent().eval()
    x, state = torch.randn(6, 5, 4), torch.randn(6, 2, 1, 8)
    program = torch.export.export(network, (x[:1], state[0]))
    torch.export.save(program, tmp_path / "model.pt2")
    np.savez(tmp_path / "data.npz", x=x.numpy(), state=state.numpy())
    samples = tmp_path / "data.npz" if data else None
    report = convert(identify(tmp_path / "model.pt2"), tmp_path / "out.onnx", samples, allow_pickle=False)
    assert report.samples == (6 if data else 8)
    session = ort.InferenceSession(str(tmp_path / "out.onnx"), providers=["CPUExecutionProvider"])
    feeds = {"x": x[:1].numpy(), "state": state[0].numpy()}
    with torch.no_grad():
        for found, expected in zip(session.run(None, feeds), network(x[:1], state[0]), strict=True):
            np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_torchscript_that_was_traced_for_one_row_stays_so(tmp_path: Path) -> None:
    class One(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x.reshape(2, 3).sum(0)

    torch.jit.trace(One(), torch.zeros(1, 6)).save(str(tmp_path / "model.pt"))
    np.savez(tmp_path / "data.npz", x=RNG.random((9, 6), np.float32))
    source = identify(tmp_path / "model.pt")
    report = convert(source, tmp_path / "out.onnx", tmp_path / "data.npz", allow_pickle=False)
    assert report.samples == 9
    session = ort.InferenceSession(str(tmp_path / "out.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [1, 6]


def test_sizes_are_found_for_a_program_with_free_ones(tmp_path: Path) -> None:
    """Three convolutions with a stride leave nothing of a small image."""
    convolutions = [torch.nn.Conv2d(3, 3, 3, stride=2) for _ in range(3)]
    network = torch.nn.Sequential(*convolutions, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
    free = ({0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},)
    program = torch.export.export(network, (torch.zeros(2, 3, 40, 50),), dynamic_shapes=free)
    torch.export.save(program, tmp_path / "model.pt2")
    report = convert(identify(tmp_path / "model.pt2"), tmp_path / "out.onnx", None, allow_pickle=False)
    assert (report.samples, report.disagreements) == (8, 0)


def test_weights_become_a_model_with_the_factory_beside_them(saved: Path, tmp_path: Path) -> None:
    source = identify(locate(saved / "weights"))
    report = convert(
        source, tmp_path / "out.onnx", saved / "data.npz", allow_pickle=True, factory="model.py:build"
    )
    assert report.samples == 20
    check(tmp_path / "out.onnx", saved)


def test_weights_alone_ask_for_their_factory(saved: Path, tmp_path: Path) -> None:
    source = identify(locate(saved / "weights"))
    with pytest.raises(Problem) as caught:
        convert(source, tmp_path / "out.onnx", saved / "data.npz", allow_pickle=False)
    assert caught.value.reason is Reason.INVALID_REQUEST
    assert "without the network they belong to" in caught.value.message


def test_a_state_dict_is_a_pickle(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(Problem) as caught:
        convert(identify(saved / "state.pth"), tmp_path / "out.onnx", None, allow_pickle=False)
    assert caught.value.reason is Reason.PICKLE_NOT_ALLOWED


def test_the_kind_takes_code_beside_the_model_by_opt_in_only() -> None:
    uri, digest = "https://models.example/net.tar", "0" * 64
    with pytest.raises(ValidationError, match="allowPickle"):
        Model.model_validate({"uri": uri, "factory": "model.py:build"})
    accepted = Model.model_validate(
        {"uri": uri, "sha256": digest, "allowPickle": True, "factory": "model.py:build"}
    )
    assert accepted.factory == "model.py:build"
    assert Model.model_validate({"uri": uri, "factory": "torchvision.models:resnet18"}).factory
    with pytest.raises(ValidationError):
        Model.model_validate({"uri": uri, "factory": "import os; os.abort()"})
