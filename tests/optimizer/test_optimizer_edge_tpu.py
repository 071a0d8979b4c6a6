"""What the Edge TPU leaves to the CPU, by the limitations that Coral publishes."""

import numpy as np
import pytest
from longshore_optimizer.exports.edge_tpu import Operator, Tensor, refusal, sentence

IMAGE = Tensor("x", "int8", (1, 8, 8, 16))


def stored(values: object, dtype: str = "int32") -> Tensor:
    array = np.asarray(values)
    return Tensor("c", dtype, array.shape, array.reshape(-1))


def operator(kind: str, *inputs: Tensor, out: Tensor = IMAGE, **options: object) -> Operator:
    return Operator(kind, inputs or (IMAGE,), (out,), options)


ROW = Tensor("r", "int8", (1, 64))
CASES = {
    "convolution": (operator("CONV_2D", IMAGE, stored(np.ones((4, 3, 3, 16)), "int8")), None),
    "dilation": (operator("CONV_2D", dilationWFactor=1, dilationHFactor=2), "dilations differ"),
    "unknown": (operator("GELU"), "no such operator"),
    "float": (operator("ADD", Tensor("f", "float32", (1, 4))), "not in eight bits"),
    "sixteen bits": (operator("ADD", out=Tensor("o", "int16", (1, 4))), "not in eight bits"),
    "dynamic": (operator("ADD", Tensor("d", "int8", (-1, 4))), "not constant"),
    "batch of two": (operator("ADD", Tensor("b", "int8", (2, 8, 8, 3))), "over 3 dimensions"),
    "fused pool": (operator("MAX_POOL_2D", fusedActivationFunction=1), "fused activation"),
    "plain pool": (operator("MAX_POOL_2D", fusedActivationFunction=0), None),
    "zero padding by joining": (operator("CONCATENATION", IMAGE, stored([0, 0], "int8")), None),
    "joins constants": (operator("CONCATENATION", IMAGE, stored([0, 1], "int8")), "other than zeros"),
    "dense": (operator("FULLY_CONNECTED", ROW, out=Tensor("o", "int8", (1, 10))), None),
    "dense on rows": (operator("FULLY_CONNECTED", ROW, out=Tensor("o", "int8", (4, 10))), "one dimension"),
    "mean of places": (operator("MEAN", IMAGE, stored([1, 2])), None),
    "mean of batch": (operator("MEAN", IMAGE, stored([0])), "batch dimension"),
    "mean of depth": (operator("MEAN", Tensor("x", "int8", (1, 4, 4, 6)), stored([3])), "no multiple of 4"),
    "pad": (operator("PAD", IMAGE, stored([[0, 0], [1, 1], [1, 1], [0, 0]])), None),
    "pad of batch": (operator("PAD", IMAGE, stored([[1, 0], [1, 1], [1, 1], [0, 0]])), "batch dimension"),
    "softmax": (operator("SOFTMAX", ROW), None),
    "softmax of rows": (operator("SOFTMAX", Tensor("x", "int8", (1, 4, 4))), "more than one dimension"),
    "large softmax": (operator("SOFTMAX", Tensor("x", "int8", (1, 20_000))), "16000"),
    "slope a channel": (operator("PRELU", IMAGE, Tensor("a", "int8", (1, 1, 16), np.ones(16))), None),
    "slope a place": (operator("PRELU", IMAGE, Tensor("a", "int8", (8, 8, 16), np.ones(1024))), "alpha"),
    "strides": (operator("STRIDED_SLICE", IMAGE, stored([0]), stored([8]), stored([2])), "strides"),
    "squeeze leading": (operator("SQUEEZE", Tensor("x", "int8", (1, 1, 10))), None),
    "squeeze behind": (operator("SQUEEZE", Tensor("x", "int8", (5, 1, 10))), "behind a larger"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_fit_is_told_with_its_reason(case: str) -> None:
    given, expected = CASES[case]
    reason = refusal(given)
    if expected is None:
        assert reason is None
    else:
        assert reason is not None
        assert expected in reason


def test_all_behind_the_first_misfit_falls_back_to_the_cpu() -> None:
    told = sentence((operator("CONV_2D"), operator("GELU"), operator("ADD"), operator("GELU")))
    assert "GELU (no such operator there)" in told
    assert told.count("GELU") == 1
    assert "operators 2 to 4 of 4 fall back to the CPU" in told


def test_a_graph_that_fits_is_told_whole() -> None:
    assert sentence((operator("CONV_2D"), operator("ADD"))) == (
        "Edge TPU: all 2 operators are on Coral's list"
    )
