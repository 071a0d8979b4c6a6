"""Trials as TensorBoard reads them: one run a candidate, its scalars, and its row of the HParams page."""

import errno
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from longshore.api.optimize import OnMiss, TechniqueName
from longshore.artifact.manifest import EVENTS_NAME, Manifest, Verdict
from longshore_optimizer import events
from longshore_optimizer.decide import Latency, Trial
from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.events import SCALARS, UNDECIDED, Events, recorded, run_name
from longshore_optimizer.ledger import FilePlace, Ledger
from longshore_optimizer.measure.cpu import usable_cores
from longshore_optimizer.parallel import Share
from longshore_optimizer.pipeline import assist, optimize
from longshore_optimizer.progress import Reporter
from longshore_optimizer.request import Request
from longshore_optimizer.statistics import Drop
from longshore_optimizer.techniques.base import Proposal

from tests.optimizer.conftest import labelled, mlp
from tests.optimizer.event_files import FAILURE, assert_is_the_table, run_of, runs_of

RNG = np.random.default_rng(0)
LONGSHORE = str(Path(sys.executable).parent / "longshore")


def request(home: Path, directory: Path | None, **changes: Any) -> Request:
    model = mlp(home / "model.onnx", hidden=256)
    data = home / "data.npz"
    if not data.exists():
        labelled(data, model, {"x": RNG.standard_normal((200, 16)).astype(np.float32)})
    settings: dict[str, Any] = {
        "evaluation": data,
        "max_drop": 0.05,
        "techniques": (TechniqueName.FLOAT16, TechniqueName.DYNAMIC_INT8),
    }
    return Request(
        model=model,
        input_sha256="0" * 64,
        uri=None,
        work=home / "work",
        out=home / "out",
        cores=usable_cores(1),
        events=directory,
        **settings | changes,
    )


def trial(name: str = "a", **changes: Any) -> Trial:
    return Trial(Proposal(name, TechniqueName.FLOAT16, changes.pop("parameters", {})), **changes)


def latency(ms: float) -> Latency:
    return Latency((ms, ms), (2 * ms, 4 * ms), ms, 5 * ms)


def test_the_command_writes_a_run_for_every_candidate(digits: Path, tmp_path: Path) -> None:
    directory = tmp_path / "runs" / "digits"
    done = subprocess.run(
        [
            LONGSHORE, "optimize", digits / "digits.onnx", "--calibration", digits / "calibration.npz",
            "--evaluation", digits / "evaluation.npz", "--max-drop", "0.02", "--trials", "3",
            "--technique", "dynamic-int8", "--technique", "static-int8", "--technique", "cascade",
            "--out", tmp_path / "out", "--tensorboard", directory, "--json",
        ],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    manifest = Manifest.model_validate_json(done.stdout)
    assert len(manifest.candidates) > 4
    assert Verdict.SKIPPED in {row.verdict for row in manifest.candidates}
    assert_is_the_table(directory, manifest)
    timed = [run for run in runs_of(directory).values() if "p50_ms" in run.scalars]
    assert len(timed) > 1
    assert any(set(run.scalars) == set(SCALARS) for run in timed)
    assert not (tmp_path / "out" / EVENTS_NAME).exists(), "with the option they go to the directory alone"


def test_a_directory_that_cannot_be_written_is_told_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(Problem) as caught:
        optimize(request(tmp_path, tmp_path / "file" / "runs"), Reporter(on_progress=pytest.fail))
    assert caught.value.reason is Reason.INVALID_REQUEST
    assert str(tmp_path / "file" / "runs") in caught.value.message
    assert "name a directory" in caught.value.message
    assert not (tmp_path / "out").exists()


def test_only_the_work_directory_s_events_go_into_the_artifact(tmp_path: Path) -> None:
    manifest = optimize(request(tmp_path, tmp_path / "work" / EVENTS_NAME), Reporter())
    assert_is_the_table(tmp_path / "out" / EVENTS_NAME, manifest)


def test_a_directory_inside_of_the_artifact_is_kept(tmp_path: Path) -> None:
    manifest = optimize(request(tmp_path, tmp_path / "out" / "runs"), Reporter())
    assert_is_the_table(tmp_path / "out" / "runs", manifest)
    assert Manifest.model_validate_json((tmp_path / "out" / "manifest.json").read_text()) == manifest


class Killed(BaseException):
    """Stands in for the end of the process."""


def test_a_search_that_goes_on_has_every_row_once(tmp_path: Path) -> None:
    def kill(told: Trial) -> None:
        if told.proposal.name != "original" and told.metric is not None:
            raise Killed

    directory, place = tmp_path / "runs", FilePlace(tmp_path / "trials.json")
    with pytest.raises(Killed):
        optimize(request(tmp_path, directory, ledger=Ledger(place, "key")), Reporter(on_trial=kill))
    before = runs_of(directory)
    assert len(before) == 2
    assert all(run.hyperparameters[0]["verdict"] == UNDECIDED for run in before.values())
    manifest = optimize(request(tmp_path, directory, ledger=Ledger(place, "key")), Reporter())
    assert_is_the_table(directory, manifest)


def test_what_fails_for_want_of_a_candidate_shows_why(tmp_path: Path) -> None:
    wanted = request(tmp_path, tmp_path / "runs", on_miss=OnMiss.FAIL, max_drop=0.0)
    with pytest.raises(Problem) as caught:
        optimize(wanted, Reporter())
    assert caught.value.reason is Reason.NO_CANDIDATE
    verdicts = {n: r.hyperparameters[0]["verdict"] for n, r in runs_of(tmp_path / "runs").items()}
    assert len(verdicts) > 1
    assert {v for n, v in verdicts.items() if n != "original"} <= {"Refused", "Failed", "Skipped"}


def test_a_helper_of_a_divided_search_writes_no_events(tmp_path: Path) -> None:
    share = Share(1, 2, lambda i: FilePlace(tmp_path / f"table-{i}.json"))
    assist(request(tmp_path, tmp_path / "runs", share=share, key="k"), Reporter())
    assert json.loads((tmp_path / "table-1.json").read_text())["rows"]
    assert not (tmp_path / "runs").exists()


def test_numbers_appear_as_they_become_known_and_once_unless_they_change(tmp_path: Path) -> None:
    writer = Events(tmp_path)
    scored = {"size_bytes": 100, "metric": 0.75, "drop": Drop(0.25, 0.5)}
    writer.trial(trial(**scored))
    assert runs_of(tmp_path)["a"].scalars == {
        "size_bytes": 100, "metric": 0.75, "drop": 0.25, "drop_upper": 0.5,
    }  # fmt: skip
    assert runs_of(tmp_path)["a"].hyperparameters == []
    writer.trial(trial(**scored, latency=latency(2.0)))
    writer.trial(trial(**scored, latency=latency(2.0), verdict=Verdict.KEPT, reason="slower"))
    run = runs_of(tmp_path)["a"]
    assert run.scalars["cpu_ms"] == 6.0, "the median of the rounds"
    assert {tag: len(points) for tag, points in run.points.items()} == dict.fromkeys(SCALARS, 1)
    writer.trial(trial(**scored, latency=latency(1.0), verdict=Verdict.CHOSEN))
    writer.close()
    run = runs_of(tmp_path)["a"]
    assert run.points["p50_ms"] == [(0, 2.0), (1, 1.0)]
    assert run.points["metric"] == [(0, 0.75)]
    assert run.hyperparameters == [{"technique": "Float16", "verdict": "Chosen"}]


def test_parameters_are_flat_and_of_the_types_that_tensorboard_knows(tmp_path: Path) -> None:
    parameters = {
        "bits": 8, "ratio": 0.5, "perChannel": True, "mode": "store", "none": None, "layers": ["a", "b"],
        "ranks": {"first": 3, "deep": {"er": False}}, "array": np.float32(0.25), "verdict": "mine",
    }  # fmt: skip
    with recorded(Reporter(), tmp_path) as reporter:
        reporter.trial(trial(parameters=parameters, verdict=Verdict.FAILED))
    run = runs_of(tmp_path)["a"]
    assert run.hyperparameters == [
        {
            "bits": 8.0, "ratio": 0.5, "perChannel": True, "mode": "store", "layers": "a, b",
            "ranks.first": 3.0, "ranks.deep.er": False, "array": 0.25, "technique": "Float16",
            "verdict": "Failed",
        }
    ]  # fmt: skip
    assert run.statuses == [FAILURE]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, None])
def test_what_cannot_be_drawn_is_left_out(tmp_path: Path, value: float | None) -> None:
    told: list[Trial] = []
    with recorded(Reporter(on_trial=told.append), tmp_path) as reporter:
        drop = None if value is None else Drop(0.0, value)
        reporter.trial(trial(metric=value, drop=drop, parameters={"alpha": value}, verdict=Verdict.REFUSED))
    assert len(told) == 1
    run = runs_of(tmp_path)["a"]
    assert set(run.scalars) == ({"drop"} if value is not None else set())
    assert run.hyperparameters[0]["verdict"] == "Refused"
    if value is not None:
        assert run.hyperparameters[0]["alpha"] == (1e300 if value == 1e300 else str(value))


ODD_NAMES = (
    "../../outside",
    "/etc/x",
    "..",
    "",
    "a/b",
    "a b",
    "ä" * 300,
    "a" * 300,
    "a" * 299 + "b",
    "x\0\udc80",
)


def test_odd_names_and_texts_stay_inside_and_apart(tmp_path: Path) -> None:
    directory = tmp_path / "runs"
    with recorded(Reporter(), directory) as reporter:
        for number, name in enumerate(ODD_NAMES):
            parameters = {name: "\udc80" * 1000, "number": number, "large": 10**400}
            reporter.trial(trial(name, size_bytes=number, parameters=parameters, verdict=Verdict.KEPT))
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    runs = runs_of(directory)
    assert len(runs) == len(ODD_NAMES)
    assert {run.hyperparameters[0]["number"] for run in runs.values()} == set(range(len(ODD_NAMES)))
    assert all(len(name.encode()) < 120 and not name.startswith(".") for name in runs)
    assert run_name("static-int8-u8s8_1.5") == "static-int8-u8s8_1.5"


def test_a_disk_that_fills_up_ends_the_events_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[Trial] = []
    with recorded(Reporter(on_trial=told.append), tmp_path) as reporter:
        reporter.trial(trial("a", metric=0.5))

        def full(path: Path, *arguments: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(events.Path, "open", full)
            reporter.trial(trial("a", metric=0.75))
        reporter.trial(trial("b", metric=0.5))
    assert [t.metric for t in told] == [0.5, 0.75, 0.5]
    assert capsys.readouterr().err.count("No space left") == 1
    assert runs_of(tmp_path)["a"].scalars == {"metric": 0.5}
    assert not (tmp_path / "b").exists(), "nothing follows what was cut short"


def test_a_new_search_replaces_the_events_before_and_no_other_files(tmp_path: Path) -> None:
    with recorded(Reporter(), tmp_path) as reporter:
        for name in ("a", "gone"):
            reporter.trial(trial(name, metric=0.5))
    training = tmp_path / "training" / "events.out.tfevents.1700000000.host"
    training.parent.mkdir()
    training.write_bytes(b"of somebody else")
    with recorded(Reporter(), tmp_path) as reporter:
        reporter.trial(trial("a", metric=0.25))
    assert {path.name for path in tmp_path.iterdir()} == {"a", "training"}
    assert training.read_bytes() == b"of somebody else"
    assert run_of(tmp_path / "a").scalars == {"metric": 0.25}


@pytest.mark.parametrize("asked", [False, True])
def test_nothing_heavy_is_imported_and_nothing_unless_asked(tmp_path: Path, asked: bool) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from longshore_optimizer.events import recorded\n"
        "from longshore_optimizer.progress import Reporter\n"
        f"with recorded(Reporter(), Path({str(tmp_path)!r}) if {asked} else None): pass\n"
        "print(*sorted({'tensorboardX', 'torch'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == (["tensorboardX"] if asked else [])
