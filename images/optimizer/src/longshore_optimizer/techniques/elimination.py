"""In which order the channels of a group go, and how the layers that read them make up for it."""

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from scipy.linalg.blas import dgemm

from longshore_optimizer.techniques import editing, onnxfile
from longshore_optimizer.techniques.channels import Channels
from longshore_optimizer.techniques.coupling import Coupling, Group, Reader, places

_DAMPING = 1e-3
"""Added to second moments, as a share of their mean diagonal: channels seen little are not trusted."""

_BINS = 8

Floats = NDArray[np.float64]
Order = NDArray[np.int64]


@dataclass(frozen=True)
class Ranking:
    """Channels of a group, first to go first; `losses[i]` is the relative harm of i + 1 removals."""

    order: Order
    losses: Floats


def by_norm(model: onnx.ModelProto, coupling: Coupling, group: Group) -> Ranking:
    """By the L2 norm of the filters that make each channel (Li et al. 2016)."""
    scores = np.zeros(group.size)
    tensors = onnxfile.float_initializers(model)
    for maker in group.makers:
        values = numpy_helper.to_array(tensors[maker.weight]).astype(np.float64)
        norms = np.sum(np.moveaxis(values, maker.axis, 0).reshape(values.shape[maker.axis], -1) ** 2, axis=1)
        scores += norms[places(maker.layout, coupling.sizes, group.space)].sum(axis=1)
    return _ranked(scores)


def by_activation(coupling: Coupling, group: Group, seen: dict[str, Channels]) -> Ranking:
    """By the mean magnitude of each channel on calibration data."""
    scores = np.zeros(group.size)
    for reader in group.readers:
        scores += seen[reader.tensor].magnitude[_features(coupling, group, reader)].sum(axis=1)
    return _ranked(scores)


def by_information(coupling: Coupling, group: Group, seen: dict[str, Channels], classes: Order) -> Ranking:
    """By the mutual information between a channel's mean and the class that the model itself answers."""
    scores = np.zeros(group.size)
    for reader in group.readers:
        samples = seen[reader.tensor].samples
        values = np.array([_information(samples[:, i], classes) for i in range(samples.shape[1])])
        scores += values[_features(coupling, group, reader)].sum(axis=1)
    return _ranked(scores)


def _information(values: Floats, classes: Order) -> float:
    """Mutual information in nats of values, in 8 bins of equal count, and classes."""
    edges = np.quantile(values, np.linspace(0, 1, _BINS + 1)[1:-1])
    bins = np.searchsorted(edges, values)
    joint = np.zeros((_BINS, int(classes.max(initial=0)) + 1))
    np.add.at(joint, (bins, classes), 1.0)
    joint /= joint.sum()
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    filled = joint > 0
    return float(np.sum(joint[filled] * np.log(joint[filled] / independent[filled])))


def by_reconstruction(
    model: onnx.ModelProto, coupling: Coupling, group: Group, seen: dict[str, Channels]
) -> Ranking:
    """By how badly the rest can stand in for a channel, after each removal anew.

    The optimal brain surgeon's criterion (Hassibi and Stork 1993) on whole channels: removing x_c costs
    |W_c|^2 / (H^-1)_cc, with H the second moments of what a layer reads.
    """
    states = _states(model, coupling, group, seen)
    left = np.ones(group.size, bool)
    order, losses, total = [], [], 0.0
    for _ in range(group.size):
        scores = sum((s.scores() for s in states), np.zeros(group.size))
        channel = int(np.argmin(np.where(left, scores, np.inf)))
        total += float(scores[channel])
        left[channel] = False
        order.append(channel)
        losses.append(total)
        for state in states:
            state.remove(np.array([channel]))
    return Ranking(np.array(order), np.array(losses))


def compensate(
    model: onnx.ModelProto, coupling: Coupling, group: Group, removed: Order, seen: dict[str, Channels]
) -> None:
    """Change the weights of the layers that read the group so that the rest stands in for what goes."""
    tensors = onnxfile.float_initializers(model)
    for reader, state in zip(group.readers, _states(model, coupling, group, seen), strict=True):
        state.remove(removed)
        editing.set_constant(tensors[reader.weight], state.weight())


def _features(coupling: Coupling, group: Group, reader: Reader) -> Order:
    return places(reader.layout, coupling.sizes, group.space)


def _states(
    model: onnx.ModelProto, coupling: Coupling, group: Group, seen: dict[str, Channels]
) -> "list[_State]":
    tensors = onnxfile.float_initializers(model)
    return [
        _State(
            r,
            numpy_helper.to_array(tensors[r.weight]).astype(np.float64),
            seen[r.tensor].second,
            _features(coupling, group, r),
        )
        for r in group.readers
    ]


class _State:
    """A layer's weights as (features, rest) and the inverse second moments of its input."""

    def __init__(self, reader: Reader, values: Floats, second: Floats, features: Order) -> None:
        moved = np.moveaxis(values, reader.weight_axis, 0)
        self._shape = moved.shape
        self._axis = reader.weight_axis
        self._features = features
        self._rows = np.array(moved.reshape(len(moved), -1), order="F")
        damping = _DAMPING * max(float(np.mean(np.diag(second))), 1e-12)
        self._inverse = np.asfortranarray(np.linalg.inv(second + damping * np.eye(len(second))))
        self._energy = max(float(np.sum((second @ self._rows) * self._rows)), 1e-30)

    def scores(self) -> Floats:
        """Harm of removing each channel, relative to the energy of the layer's output."""
        diagonal = np.maximum(np.diag(self._inverse), 1e-30)
        harm: Floats = np.sum(self._rows**2, axis=1) / diagonal / self._energy
        scores: Floats = harm[self._features].sum(axis=1)
        return scores

    def remove(self, removed: Order) -> None:
        """Take channels out and spread their weights over the others.

        All at once, which gives what one after another gives: the inverse without some rows is the Schur
        complement of theirs.
        """
        gone = self._features[removed].ravel()
        columns = self._inverse[:, gone]
        spread = np.linalg.solve(columns[gone], columns.T).T
        # In place: these are the largest matrices there are, and are changed for every channel.
        self._rows = dgemm(-1.0, spread, self._rows[gone], 1.0, self._rows, overwrite_c=True)
        self._inverse = dgemm(-1.0, spread, columns.T, 1.0, self._inverse, overwrite_c=True)
        self._rows[gone] = 0.0
        self._inverse[gone], self._inverse[:, gone] = 0.0, 0.0

    def weight(self) -> NDArray[np.float32]:
        """The weights in the layer's own shape."""
        return np.moveaxis(self._rows.reshape(self._shape), 0, self._axis).astype(np.float32)


def _ranked(scores: Floats) -> Ranking:
    order = np.argsort(scores, kind="stable")
    return Ranking(order, np.cumsum(scores[order]) / max(float(scores.sum()), 1e-30))
