"""Networks that the bench trains first: a CNN on Fashion-MNIST and a ResNet on CIFAR-10."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.optimizer.labelled import Labelled

_BATCH = 128


class Residual(nn.Module):
    """Two convolutions and a shortcut (He et al., arXiv:1512.03385)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        same = inside == outside and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inside, outside, 1, stride)

    def forward(self, x: Any) -> Any:
        return torch.relu(self.body(x) + self.shortcut(x))


def residual_network() -> nn.Module:
    """Three stages of one block each: 16, 32 and 64 channels, 12 million products an image."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Residual(16, 16, 1),
        Residual(16, 32, 2),
        Residual(32, 64, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def convolutions() -> nn.Module:
    """Two stages of two convolutions, 32 and 64 channels, and two dense layers."""
    layers: list[nn.Module] = []
    for inside, outside in ((1, 32), (32, 64)):
        layers += [nn.Conv2d(inside, outside, 3, 1, 1), nn.BatchNorm2d(outside), nn.ReLU()]
        layers += [nn.Conv2d(outside, outside, 3, 1, 1), nn.BatchNorm2d(outside), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 49, 128), nn.ReLU(), nn.Linear(128, 10))


def train(network: nn.Module, data: Labelled, epochs: int, out: Path) -> None:
    """Train with AdamW and one cycle of the learning rate, mirrored and shifted images, and write ONNX."""
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    rng = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-3)
    steps = epochs * (len(data.training) // _BATCH)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    network.train()
    for epoch in range(epochs):
        order = rng.permutation(len(data.training))
        for start in range(0, len(order) - _BATCH + 1, _BATCH):
            rows = order[start : start + _BATCH]
            images = torch.from_numpy(_varied(data.training[rows], rng))
            loss = nn.functional.cross_entropy(network(images), torch.from_numpy(data.training_labels[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()
        print(f"epoch {epoch + 1} of {epochs}: loss {loss.item():.3f}", flush=True)
    network.eval()
    unfinished = out.with_suffix(".unfinished")
    torch.onnx.export(
        network,
        (torch.from_numpy(data.training[:2]),),
        str(unfinished),
        dynamo=True,
        input_names=["image"],
        output_names=["scores"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )
    unfinished.rename(out)


def _varied(images: Any, rng: np.random.Generator) -> Any:
    up, left = (int(n) for n in rng.integers(-2, 3, 2))
    moved = np.roll(images, (up, left), (2, 3))
    return np.ascontiguousarray(moved[..., ::-1] if rng.random() < 0.5 else moved)
