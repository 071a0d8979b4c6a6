"""The factory of bare weights: found beside the model or in a package, and named where it does not work."""

from collections import OrderedDict
from pathlib import Path

import pytest
from longshore_optimizer.convert.factory import build
from longshore_optimizer.errors import Problem, Reason

CODE = """
def build():
    return {"layers": 3}

def broken():
    raise ValueError("no such size")

def text():
    return "a model"
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "outside.py").write_text(CODE)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "network.py").write_text(CODE)
    (tmp_path / "model" / "wrong.py").write_text("import no_such_package")
    (tmp_path / "model" / "link.py").symlink_to(tmp_path / "outside.py")
    return tmp_path / "model"


def test_a_file_beside_the_model_builds_it_by_opt_in(model: Path) -> None:
    assert build("network.py:build", model, dict, allow_code=True) == {"layers": 3}
    with pytest.raises(Problem) as caught:
        build("network.py:build", model, dict, allow_code=False)
    assert caught.value.reason is Reason.PICKLE_NOT_ALLOWED


def test_an_installed_package_needs_no_opt_in(model: Path) -> None:
    assert build("collections:OrderedDict", model, dict, allow_code=False) == OrderedDict()


@pytest.mark.parametrize(
    ("factory", "reason", "words"),
    [
        ("../outside.py:build", Reason.INVALID_REQUEST, "beside the model"),
        ("link.py:build", Reason.INVALID_REQUEST, "beside the model"),
        ("absent.py:build", Reason.INVALID_REQUEST, "beside the model"),
        ("network.py", Reason.INVALID_REQUEST, "file.py:function"),
        ("network.py:absent", Reason.INVALID_REQUEST, "no function 'absent'"),
        ("network.py:text", Reason.INVALID_REQUEST, "gives a str"),
        ("network.py:broken", Reason.CONVERSION_FAILED, "no such size"),
        ("wrong.py:build", Reason.CONVERSION_FAILED, "no_such_package"),
        ("no.such.package:build", Reason.INVALID_REQUEST, "not installed"),
    ],
)
def test_a_factory_that_does_not_work_is_named(model: Path, factory: str, reason: Reason, words: str) -> None:
    with pytest.raises(Problem) as caught:
        build(factory, model, dict, allow_code=True)
    assert caught.value.reason is reason
    assert words in caught.value.message
