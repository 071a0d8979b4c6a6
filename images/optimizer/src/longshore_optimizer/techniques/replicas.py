"""Copies of a network that learn side by side: each takes a part of every batch, on cores of its own.

The threads of one operator wait for each other at its end, hundreds of times a step; copies meet once a step
(data parallelism, Li et al. 2020, "PyTorch Distributed").
"""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor

from longshore_optimizer.techniques.torch_graph import TorchGraph

Part = TypeVar("Part")


class Replicas(Generic[Part]):
    """A network and `count - 1` copies with the same weights; a context manager that ends their threads."""

    def __init__(self, network: TorchGraph, count: int, threads: int) -> None:
        """Copy the network; `threads` are shared out evenly, one to each at least."""
        self._networks = [network]
        for _ in range(1, count):
            replica = copy.deepcopy(network)
            for its, theirs in zip(replica.parameters(), network.parameters(), strict=True):
                its.data = theirs.data
            self._networks.append(replica.train())
        self._threads = max(threads // count, 1)
        self._all_threads = threads
        # What an operator may use is kept for each thread.
        self._pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(self._threads,))

    def __enter__(self) -> Self:
        """Give each copy its threads: changing that at every step costs more than the rest of the step."""
        torch.set_num_threads(self._threads)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the threads."""
        self._pool.shutdown()
        torch.set_num_threads(self._all_threads)

    def learn(self, parts: Sequence[Part], loss: Callable[[TorchGraph, Part], Tensor]) -> None:
        """Set the network's gradients to those of the sum of the losses of at most `count` parts."""
        for network in self._networks:
            network.zero_grad()
        others = list(zip(self._networks[1:], parts[1:], strict=False))
        waiting = [self._pool.submit(_backward, loss, network, part) for network, part in others]
        try:
            _backward(loss, self._networks[0], parts[0])
        finally:
            for done in waiting:
                done.result()
        for network, _ in others:
            for mine, its in zip(self._networks[0].parameters(), network.parameters(), strict=True):
                if its.grad is not None:
                    mine.grad = its.grad if mine.grad is None else mine.grad.add_(its.grad)


def _backward(loss: Callable[[TorchGraph, Part], Tensor], network: TorchGraph, part: Part) -> None:
    loss(network, part).backward()
