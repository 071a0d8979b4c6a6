"""A metric of the user's own: it decides, and where it fails the model stays as it is."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from longshore.api.optimize import Metric, OnMiss, TechniqueName
from longshore.artifact.manifest import Manifest, Verdict
from longshore_optimizer.custom_metric import CustomEvaluator, MetricRaisedError
from longshore_optimizer.errors import Problem
from longshore_optimizer.measure.cpu import usable_cores
from longshore_optimizer.measure.workers import Workers
from longshore_optimizer.pipeline import optimize
from longshore_optimizer.progress import Reporter
from longshore_optimizer.request import Request

from tests.optimizer.conftest import labelled, mlp

RNG = np.random.default_rng(0)
WANTED = RNG.standard_normal(300)
BEFORE = {"y": WANTED + 0.10 * RNG.standard_normal(300)}
AFTER = {"y": WANTED + 0.20 * RNG.standard_normal(300)}

RMSE = """
import numpy as np
LOWER_IS_BETTER = True
def metric(outputs, labels):
    return float(np.sqrt(np.mean((outputs["y"] - labels) ** 2)))
"""
WITHIN = """
import numpy as np
def metric(outputs, labels):
    return np.abs(outputs["y"] - labels) < 0.3
"""
BROKEN = """
def helper(outputs):
    return outputs["scores"].mean()

def metric(outputs, labels):
    return helper(outputs)
"""


Judge = Callable[[str], CustomEvaluator]


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(usable_cores(1)) as workers:
        yield workers


@pytest.fixture
def judge(tmp_path: Path, workers: Workers) -> Judge:
    def written(code: str) -> CustomEvaluator:
        (tmp_path / "metric.py").write_text(code)
        return CustomEvaluator(tmp_path / "metric.py", WANTED, 0.95, 0, tmp_path, workers)

    return written


def rmse(outputs: dict[str, np.ndarray]) -> float:
    return float(np.sqrt(np.mean((outputs["y"] - WANTED) ** 2)))


def test_a_number_for_the_set_is_bounded_by_resampling(judge: Judge) -> None:
    evaluator = judge(RMSE)
    original, candidate = evaluator.evaluate(BEFORE), evaluator.evaluate(AFTER)
    assert original.value == pytest.approx(rmse(BEFORE))
    drop = evaluator.drop(original, candidate)
    # A larger error is a loss, as the file says that lower is better.
    assert drop.estimate == pytest.approx(rmse(AFTER) - rmse(BEFORE))
    assert drop.estimate < drop.upper < drop.estimate + 0.05


def test_a_value_a_sample_is_judged_as_pairs(judge: Judge) -> None:
    evaluator = judge(WITHIN)
    original, candidate = evaluator.evaluate(BEFORE), evaluator.evaluate(AFTER)
    assert original.scores is not None
    share = float(np.mean(np.abs(BEFORE["y"] - WANTED) < 0.3))
    assert original.value == pytest.approx(share)
    drop = evaluator.drop(original, candidate)
    assert drop.estimate == pytest.approx(share - candidate.value)
    assert drop.estimate < drop.upper < 1


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (BROKEN, "KeyError: 'scores'"),
        ("metric = 3", "defines no function metric(outputs, labels)"),
        ("def metric(outputs, labels): return 'good'", "give a number"),
        ("def metric(outputs, labels): return outputs['y'][:7]", "shape (300,)"),
        ("def metric(outputs, labels): return float('nan')", "not finite"),
        ("import no_such_package", "no_such_package"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import os\ndef metric(outputs, labels): os._exit(0)", "died"),
    ],
)
def test_what_is_wrong_with_the_function_is_told(judge: Judge, code: str, words: str) -> None:
    with pytest.raises(MetricRaisedError) as caught:
        judge(code).evaluate(BEFORE)
    assert words in caught.value.message
    assert "custom_metric_worker" not in caught.value.message


def test_the_function_has_no_network(judge: Judge) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code = f"import socket\ndef metric(o, l): socket.create_connection(('127.0.0.1', {port}))"
        with pytest.raises(MetricRaisedError, match="not permitted"):
            judge(code).evaluate(BEFORE)


def optimized(tmp_path: Path, code: str, on_miss: OnMiss = OnMiss.SERVE_ORIGINAL) -> Manifest:
    model = mlp(tmp_path / "model.onnx", hidden=256)
    data = labelled(tmp_path / "data.npz", model, {"x": RNG.standard_normal((200, 16)).astype(np.float32)})
    (tmp_path / "metric.py").write_text(code)
    request = Request(
        model=model,
        input_sha256="0" * 64,
        uri=None,
        work=tmp_path / "work",
        out=tmp_path / "out",
        cores=usable_cores(1),
        evaluation=data,
        metric=Metric.CUSTOM,
        metric_function=tmp_path / "metric.py",
        max_drop=0.05,
        techniques=(TechniqueName.FLOAT16,),
        on_miss=on_miss,
    )
    return optimize(request, Reporter())


def test_a_function_that_raises_leaves_the_model_untouched_and_its_traceback_in_the_report(
    tmp_path: Path,
) -> None:
    manifest = optimized(tmp_path, BROKEN)
    assert manifest.chosen == "original"
    assert (tmp_path / "out" / "model.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()
    report = (tmp_path / "out" / "report.md").read_text()
    assert "return helper(outputs)" in report
    assert "KeyError: 'scores'" in report
    page = (tmp_path / "out" / "report.html").read_text()
    assert "KeyError: &#x27;scores&#x27;" in page
    assert "no candidate could be judged" in page


def test_a_function_that_raises_fails_where_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="helper"):
        optimized(tmp_path, BROKEN, OnMiss.FAIL)
    assert not (tmp_path / "out").exists()


def test_the_function_decides_over_candidates(tmp_path: Path) -> None:
    manifest = optimized(
        tmp_path, "import numpy as np\ndef metric(o, labels): return np.argmax(o['y'], 1) == labels"
    )
    halves = [c for c in manifest.candidates if c.technique == "Float16" and c.verdict != Verdict.SKIPPED]
    assert halves
    assert all(c.metric is not None and c.metric > 0.95 for c in halves)
    assert manifest.metric == "Custom"
