"""Copies of a network that learn side by side give the gradients of the whole batch, and are one network."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from longshore.api.optimize import TechniqueName
from longshore_optimizer.techniques.registry import TECHNIQUES
from longshore_optimizer.techniques.replicas import Replicas
from longshore_optimizer.techniques.torch_graph import TorchGraph, answers
from longshore_optimizer.techniques.training import parts_of
from torch import Tensor
from torch.nn import functional

from tests.optimizer.technique_bench import accuracy, digits_folder, work

Part = tuple[Tensor, Tensor, float]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("replicas"))


@pytest.fixture
def batch(folder: Path) -> tuple[Tensor, Tensor]:
    with np.load(folder / "training.npz") as loaded:
        return torch.from_numpy(loaded["x"][:50]), torch.from_numpy(loaded["labels"][:50])


def network(folder: Path) -> tuple[TorchGraph, str]:
    model = onnx.load(folder / "prepared" / "model.onnx")
    target = answers(model.graph)
    return TorchGraph(model, target), target


def split(batch: tuple[Tensor, Tensor], *sizes: int) -> list[Part]:
    images, labels = (torch.split(values, sizes) for values in batch)
    return [(x, y, len(x) / sum(sizes)) for x, y in zip(images, labels, strict=True)]


@pytest.mark.parametrize("sizes", [(50,), (25, 25), (30, 20), (49, 1)])
def test_gradients_are_those_of_the_whole_batch_and_weights_are_one(
    folder: Path, batch: tuple[Tensor, Tensor], sizes: tuple[int, ...]
) -> None:
    whole, target = network(folder)

    def loss(graph: TorchGraph, part: Part) -> Tensor:
        images, labels, weight = part
        return weight * functional.cross_entropy(graph({"x": images}, [target])[0], labels)

    shared, _ = network(folder)
    rates = (torch.optim.SGD(whole.parameters(), 0.1), torch.optim.SGD(shared.parameters(), 0.1))
    before = torch.get_num_threads()
    with Replicas[Part](shared, 2, before) as replicas:
        for _ in range(3):
            whole.zero_grad()
            loss(whole, (*batch, 1.0)).backward()
            replicas.learn(split(batch, *sizes), loss)
            for mine, wanted in zip(shared.parameters(), whole.parameters(), strict=True):
                assert mine.grad is not None
                assert wanted.grad is not None
                scale = float(wanted.grad.abs().max())
                torch.testing.assert_close(mine.grad, wanted.grad, rtol=1e-3, atol=1e-4 * scale + 1e-9)
            # What the optimizer changes the copy has too, or the next gradients differ.
            for optimizer in rates:
                optimizer.step()
    assert torch.get_num_threads() == before


def test_what_fails_in_a_copy_is_told(folder: Path, batch: tuple[Tensor, Tensor]) -> None:
    graph, target = network(folder)
    before = torch.get_num_threads()

    def loss(network: TorchGraph, part: Part) -> Tensor:
        if network is not graph:
            raise ValueError("the second part is spoiled")
        return network({"x": part[0]}, [target])[0].sum()

    with (
        pytest.raises(ValueError, match="the second part is spoiled"),
        Replicas[Part](graph, 2, before) as replicas,
    ):
        replicas.learn(split(batch, 25, 25), loss)
    assert torch.get_num_threads() == before


def test_a_batch_is_shared_out_whole() -> None:
    draws = [np.random.default_rng(n) for n in range(2)]
    parts = parts_of(np.arange(7), draws)
    assert [p.places.tolist() for p in parts] == [[0, 1, 2, 3], [4, 5, 6]]
    assert [p.weight for p in parts] == pytest.approx([4 / 7, 3 / 7])
    (alone,) = parts_of(np.arange(1), draws)
    assert alone.weight == 1.0


def test_students_learn_as_well_on_two_cores(folder: Path, tmp_path: Path) -> None:
    job = work(
        folder / "prepared" / "model.onnx",
        tmp_path,
        folder / "calibration.npz",
        criterion="taylor",
        share=0.8,
        rounds=2,
        epochs=12,
    )
    TECHNIQUES[TechniqueName.STRUCTURED_PRUNING].apply(
        replace(job, training=folder / "training.npz", threads=2)
    )
    evaluation = folder / "evaluation.npz"
    assert accuracy(job.out, evaluation) >= accuracy(folder / "model.onnx", evaluation) - 0.01
