"""Batch normalization for a network that had it folded into its convolutions: put back while it learns.

With it a network bears a higher rate and learns more from as many samples (Ioffe and Szegedy 2015); what is
served has it folded again and costs nothing (as in RepVGG, Ding et al. 2021).
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

import onnx
import torch
from torch import Tensor
from torch.nn import functional

RATE = 4.0
"""How many times the rate of learning of a network without it."""

_EPSILON = 1e-5
_LEAST = 16
"""Fewer samples tell too little of their statistics: those known are used."""


class Normalization(torch.nn.Module):  # type: ignore[misc]  # torch comes without types in the base image
    """Normalizes channels (n, channels, ...); at first it changes nothing outside of training."""

    def __init__(self, seen: Tensor) -> None:
        """Begin with the statistics of some values (n, channels, ...)."""
        super().__init__()
        values = seen.float().transpose(0, 1).reshape(seen.shape[1], -1)
        variance, mean = torch.var_mean(values, 1, unbiased=False)
        self.scale = torch.nn.Parameter((variance + _EPSILON).sqrt())
        self.shift = torch.nn.Parameter(mean.clone())
        self.register_buffer("mean", mean)
        self.register_buffer("variance", variance)
        self.counted = 0

    def forward(self, x: Tensor) -> Tensor:
        """Normalize by the batch in training, else by the mean of the batches since `counted` was 0."""
        learns = self.training and len(x) >= _LEAST
        self.counted += learns
        return functional.batch_norm(
            x,
            self.mean,
            self.variance,
            self.scale,
            self.shift,
            learns,
            1 / self.counted if learns else 0.0,
            _EPSILON,
        )

    def folded(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Give weight (channels, ...) and bias (channels,) of a convolution that answers as both do."""
        factor = self.scale / (self.variance + _EPSILON).sqrt()
        by_channel = factor.reshape(-1, *(1,) * (weight.dim() - 1))
        return weight * by_channel, (bias - self.mean) * factor + self.shift


def settle(layers: Iterable["Normalization"], run: Callable[[], object]) -> None:
    """Count the statistics anew; `run` runs the network on some batches.

    Those of a running mean lag behind the weights (Wu and Johnson 2021, "Rethinking Batch in BatchNorm").
    """
    layers = list(layers)
    for layer in layers:
        layer.counted = 0
        layer.train()
    if layers:
        run()


def places(nodes: Sequence[onnx.NodeProto], trained: Collection[str]) -> list[onnx.NodeProto]:
    """Convolutions behind which it can be folded: weight and bias are theirs alone and trained."""
    readers = Counter(name for node in nodes for name in node.input)
    return [
        node
        for node in nodes
        if node.op_type == "Conv"
        and len(node.input) == 3
        and all(name in trained and readers[name] == 1 for name in node.input[1:])
    ]
