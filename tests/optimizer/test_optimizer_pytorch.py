"""PyTorch models become ONNX that answers as PyTorch does, whichever way they were saved."""

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
