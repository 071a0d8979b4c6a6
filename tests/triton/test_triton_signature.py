"""The signature of an ONNX file is read as ONNX itself reads it, and hostile bytes end in a sentence."""

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from longshore_triton.errors import StartError
from longshore_triton.onnxfile import read_signature
from longshore_triton.tensors import Signature, Tensor, leads_with_batch, surely_batches
from onnx import TensorProto, helper, numpy_helper

from tests.realmodels import NAMES, rapidocr_model
from tests.server import models

_DTYPES = {TensorProto.FLOAT: "FP32", TensorProto.INT64: "INT64", TensorProto.STRING: "BYTES"}


@pytest.mark.parametrize("name", NAMES)
def test_reads_real_models_as_onnx_does(name: str) -> None:
    path = rapidocr_model(name)
    graph = onnx.load(path).graph
    constants = {constant.name for constant in graph.initializer}
    found = read_signature(path)
    for expected, tensors in (
        ([v for v in graph.input if v.name not in constants], found.inputs),
        (graph.output, found.outputs),
    ):
        assert [v.name for v in expected] == [t.name for t in tensors]
        for value, tensor in zip(expected, tensors, strict=True):
            kind = value.type.tensor_type
            assert tensor.dtype == _DTYPES[kind.elem_type]
            dims = [d.dim_param or (d.dim_value if d.dim_value > 0 else None) for d in kind.shape.dim]
            assert list(tensor.shape) == dims


def test_weights_listed_as_inputs_are_none(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((2, 2), np.float32), "w")
    x, w, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 2]) for n in "xwy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x, w], [y], [weight])
    onnx.save(helper.make_model(graph, ir_version=3), tmp_path / "model.onnx")
    assert [t.name for t in read_signature(tmp_path / "model.onnx").inputs] == ["x"]


def test_a_batch_is_sure_only_where_names_agree() -> None:
    def signature(batch: str | None, out: str | int | None) -> Signature:
        return Signature((Tensor("x", "FP32", (batch, 4)),), (Tensor("y", "FP32", (out, 2)),))

    assert surely_batches(signature("N", "N"))
    assert not surely_batches(signature("N", "M"))
    assert not surely_batches(signature("?", "?"))
    assert not surely_batches(signature(None, None))
    assert leads_with_batch(signature("N", "M"))
    assert not leads_with_batch(signature("N", 3))
    assert not leads_with_batch(Signature((Tensor("x", "FP32", ()),), (Tensor("y", "FP32", ("N",)),)))


@pytest.mark.parametrize("content", [b"", b"name,age\n1,2\n", b"\x08\x07" * 20, b"\x3a\xff\xff\xff\xff\x0f"])
def test_what_is_no_model_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(StartError, match=r"model\.onnx"):
        read_signature(tmp_path / "model.onnx")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot be read"):
        read_signature(tmp_path / "model.onnx")


@given(cut=st.integers(min_value=0), flip=st.integers(min_value=0), bit=st.integers(0, 7))
@settings(max_examples=200, deadline=None)
def test_damage_never_escapes_as_another_error(
    cut: int, flip: int, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("damaged")
    content = bytearray((models.mlp(directory / "mlp") / "model.onnx").read_bytes())
    content[flip % len(content)] ^= 1 << bit
    damaged = directory / "model.onnx"
    damaged.write_bytes(content[: cut % len(content)] if cut % 2 else content)
    with contextlib.suppress(StartError):
        read_signature(damaged)
