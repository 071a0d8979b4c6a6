"""Replaying a trace: what the file may hold, what the simulation keeps, what a person gets to see."""

import json
import math
from pathlib import Path

import pytest
import typer
from longshore.api import Spec
from longshore.cli.simulate import simulate
from longshore.plan.scaling import policy_of
from longshore.plan.scaling.queueing import ServiceCurve
from longshore.simulate.compare import Assumptions, compare
from longshore.simulate.pods import PodModel
from longshore.simulate.run import replay
from longshore.simulate.scalers import Builtin, Fixed, Hpa, HpaSettings, Keda, KedaSettings, View
from longshore.simulate.trace import TraceError, from_rates, read
from typer.testing import CliRunner

SPEC = {
    "model": {"uri": "oci://registry.example/models/digits:1"},
    "serving": {"latencyObjective": "100ms", "batching": {"maxSize": 1}},
    "scaling": {"min": 1, "max": 20},
}
MODEL = PodModel(ServiceCurve(0.0, 0.02, 1, 0.05), startup=5.0, objective=0.1)


def lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


@pytest.mark.parametrize(
    ("text", "seconds", "requests"),
    [
        ("time,requests\n0,10\n10,20\n20,0\n", 30, 30),
        ("time,rps\n0,10\n10,20\n", 20, 300),
        ("requests,time\n5,100.5\n5,101.5\n", 2, 10),
        ("time\n1\n1.05\n1.5\n", 0.6, 3),
        ("Time,Requests\n2025-06-01T00:00:00Z,3\n2025-06-01T00:01:00Z,4\n\n", 120, 7),
    ],
)
def test_trace_columns(text, seconds, requests):
    trace = read(lines(text))
    assert trace.seconds == pytest.approx(seconds)
    assert trace.requests == pytest.approx(requests)
    arrivals = list(trace.arrivals(1))
    assert len(arrivals) == requests
    assert arrivals == sorted(arrivals)
    assert all(0 <= t <= trace.seconds for t in arrivals)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no column 'time'"),
        ("a,b\n1,2\n", "no column 'time'"),
        ("time,requests\n", "fewer than two rows"),
        ("time,requests\n0,x\n1,2\n", "line 2"),
        ("time,requests\n0,1\n1\n", "line 3"),
        ("time,requests\n0,1\n1,nan\n", "finite"),
        ("time,requests\n0,1\n1,-3\n", "not negative"),
        ("time,requests\n5,1\n1,3\n", "sort"),
        ("time,requests\n0,1e12\n1,3\n", "thin"),
        ("time\n0\n1e9\n", "time,requests"),
    ],
)
def test_bad_traces_are_refused_with_the_line(text, words):
    with pytest.raises(TraceError, match=words):
        read(lines(text))


def test_every_request_is_answered_or_lost_and_the_same_seed_gives_the_same():
    trace = from_rates([100.0] * 120, 1.0, 3)
    one = replay(trace, MODEL, Fixed(3), objective=0.1, start=3)
    assert one.requests == trace.requests
    assert one.lost == 0
    assert one == replay(trace, MODEL, Fixed(3), objective=0.1, start=3)
    assert one.pod_seconds == pytest.approx(360.0)


def test_simulated_wait_matches_the_exact_formula():
    """M/D/1 at load 0.6: Pollaczek-Khinchine gives a mean wait of rho / (1 - rho) * s / 2."""
    model = PodModel(ServiceCurve(0.0, 0.02, 1, 0.0), startup=0.0, objective=0.1)
    trace = from_rates([30.0] * 4000, 1.0, 5)
    result = replay(trace, model, Fixed(1), objective=0.1)
    assert result.p50 == pytest.approx(0.02 + 0.0105, rel=0.2)
    mean = 0.02 + 0.6 / 0.4 * 0.02 / 2
    assert 0.5 * mean < result.p50 < result.p95 < 4 * mean


def test_overload_refuses_beyond_the_queue():
    model = PodModel(ServiceCurve(0.0, 0.02, 1, 0.0), startup=0.0, queue=50, objective=0.1)
    result = replay(from_rates([500.0] * 20, 1.0, 5), model, Fixed(1), objective=0.1)
    assert result.lost > 8000
    assert result.longest < 51 * 0.02 + 0.05
    assert result.held_share == 0.0


def test_from_zero_the_builtin_engine_loses_nothing_and_keda_does():
    trace = from_rates([0.0] * 30 + [50.0] * 120, 1.0, 5)
    spec = Spec.model_validate({**SPEC, "scaling": {"min": 0, "max": 20}})
    builtin = replay(trace, MODEL, Builtin(policy_of(spec)), objective=0.1, start=0)
    assert builtin.lost == 0
    assert 5.0 <= builtin.longest < 12.0
    keda = replay(trace, MODEL, Keda(KedaSettings(0, 20, 30.0)), objective=0.1, start=0)
    assert keda.lost > 100


def test_hpa_moves_as_documented():
    hpa = Hpa(HpaSettings(1, 20))

    class Pod:
        def __init__(self, name):
            self.name, self.used = name, 0.0

        def ready(self, now):
            return True

        def cpu_seconds(self, now):
            return self.used

    pods = (Pod("a"), Pod("b"))

    def look(now, share):
        for pod in pods:
            pod.used += 15 * share
        return hpa.decide(View(now, pods, 0, 0))[0]

    assert look(15, 0.8) == 2
    assert look(30, 0.87) == 2  # within the tolerance of 10 %
    assert look(45, 1.0) == 3  # ceil(2 * 1.0 / 0.8)
    assert look(60, 0.1) == 2  # stabilized: the highest of five minutes, but never above what runs
    assert look(400, 0.1) == 1


def test_comparison_finds_the_smallest_fixed_number_that_holds():
    trace = from_rates([100.0] * 200, 1.0, 3)
    found = compare(trace, Spec.model_validate(SPEC), Assumptions(run_time=0.02, per_request=0.02))
    assert [r.name.split()[0] for r in found.results] == ["Builtin", "HPA", "KEDA"]
    assert found.fixed is not None
    assert found.fixed.held_share >= 0.99
    less = int(found.fixed.name.split()[1]) - 1
    worse = replay(
        trace,
        PodModel(ServiceCurve(0, 0.02, 1, 0.04), 10.0, 1000, 0.1),
        Fixed(less),
        objective=0.1,
        start=less,
    )
    assert worse.held_share < 0.99


@pytest.fixture
def run(tmp_path: Path):
    app = typer.Typer()
    app.command()(simulate)
    manifest = tmp_path / "digits.yaml"
    manifest.write_text(
        json.dumps(
            {
                "apiVersion": "longshore.dev/v1alpha1",
                "kind": "ModelDeployment",
                "metadata": {"name": "digits"},
                "spec": SPEC,
            }
        )
    )
    trace = tmp_path / "trace.csv"
    trace.write_text("time,rps\n" + "".join(f"{i * 10},{20 + 15 * math.sin(i / 5):.1f}\n" for i in range(30)))

    def call(*arguments: str, trace: Path = trace, manifest: Path = manifest):
        return CliRunner().invoke(app, [str(trace), str(manifest), *arguments])

    return call


def test_command_draws_a_table_and_a_page(run, tmp_path):
    page = tmp_path / "out.html"
    result = run("--html", str(page))
    assert result.exit_code == 0, result.output
    for word in ("Builtin", "HPA cpu 80", "KEDA", "Fixed", "100 ms"):
        assert word in result.output
    text = page.read_text()
    assert text.count("<svg") == 3
    assert "<script" not in text


def test_command_gives_json(run):
    result = run("--json", "--no-fixed", "--cost", "2")
    found = json.loads(result.stdout)
    assert found["objectiveSeconds"] == 0.1
    builtin = found["results"][0]
    assert builtin["cost"] == pytest.approx(builtin["pod_seconds"] / 3600 * 2)
    assert builtin["requests"] == found["results"][1]["requests"]


@pytest.mark.parametrize(
    ("arguments", "files", "words"),
    [
        (["--run-time", "fast"], {}, "no duration"),
        (["--run-time", "1ms", "--per-request", "2ms"], {}, "above --run-time"),
        (["--startup", "-1s"], {}, "no duration"),
        ([], {"trace": "time,requests\n0,x\n"}, "line 2"),
        ([], {"trace": None}, "cannot read"),
        ([], {"manifest": "a: [b"}, "no YAML"),
        ([], {"manifest": "- 1"}, "no single object"),
        ([], {"manifest": "kind: Pod"}, "ModelDeployment"),
    ],
)
def test_command_says_what_is_wrong(run, tmp_path, arguments, files, words):
    paths = {}
    for name, text in files.items():
        paths[name] = tmp_path / f"bad-{name}"
        if text is not None:
            paths[name].write_text(text)
    result = run(*arguments, **paths)
    assert result.exit_code == 2
    assert words in result.output
    assert "Traceback" not in result.output
