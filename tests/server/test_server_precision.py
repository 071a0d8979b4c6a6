"""An 8-bit model answers alike on every CPU: sums of products that would saturate are taken precisely."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from longshore_optimizer.measure.session import open_session
from longshore_server.cpu import sums_saturate
from longshore_server.session import Session, SessionOptions

from tests import saturation


@pytest.mark.parametrize("form", saturation.FORMS)
def test_sums_of_products_of_eight_bits_do_not_saturate(tmp_path: Path, form: str) -> None:
    onnx.save(saturation.model(form), tmp_path / "model.onnx")
    session = Session(tmp_path / "model.onnx", SessionOptions())
    np.testing.assert_allclose(session.run([saturation.ROWS])[0], saturation.SUMS, atol=saturation.ERROR)


@pytest.mark.parametrize(
    ("machine", "told", "saturates"),
    [
        ("x86_64", "processor\t: 0\nflags\t\t: fpu avx2 avx512_vnni\n", False),
        ("x86_64", "flags\t\t: fpu avx2 avx_vnni\n", False),
        ("AMD64", "flags\t\t: fpu avx2 avx512f\n", True),
        ("x86_64", None, True),
        ("aarch64", "Features\t: fp asimd\n", False),
    ],
)
def test_only_x86_without_vnni_saturates(
    tmp_path: Path, machine: str, told: str | None, saturates: bool
) -> None:
    if told is not None:
        (tmp_path / "cpuinfo").write_text(told)
    assert sums_saturate(machine, tmp_path / "cpuinfo") is saturates


def test_a_graph_for_which_the_runtime_cannot_do_so_is_served_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    onnx.save(saturation.model(saturation.SHARED), tmp_path / "model.onnx")
    found = Session(tmp_path / "model.onnx", SessionOptions()).run([saturation.ROWS])
    right = all(np.allclose(values, saturation.SUMS, atol=saturation.ERROR) for values in found)
    assert right is not ("sums of them may saturate" in caplog.text)
    assert right or sums_saturate()


def test_candidates_are_measured_as_they_are_served(tmp_path: Path) -> None:
    onnx.save(saturation.model("dynamic"), tmp_path / "model.onnx")
    measured = open_session(tmp_path / "model.onnx", 1).get_session_options()
    precise = "1" if sums_saturate() else "0"
    assert measured.get_session_config_entry("session.x64quantprecision") == precise
