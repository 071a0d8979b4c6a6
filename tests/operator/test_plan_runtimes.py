"""`runtime: Auto`: both runtimes are measured beside what answers, the better is served, and only once."""

from collections.abc import Mapping
from typing import Any

import pytest
from longshore.api.optimize import Goal
from longshore.api.parse import parse_spec
from longshore.api.serving import RuntimeName
from longshore.plan.choice import Measured, Speed, choice_key, compare
from longshore.plan.measure import DEADLINE

from tests.operator.world import SPEC, KilledError, World

ONNX, TRITON = RuntimeName.ONNX_RUNTIME, RuntimeName.TRITON
AUTO: Mapping[str, Any] = {**SPEC, "serving": {"runtime": "Auto"}}
QUICK, STRONG = Speed(0.001, 0.002, 400.0), Speed(0.003, 0.006, 900.0)
KEY = ("team", "digits")


def begun(spec: Mapping[str, Any] = AUTO) -> World:
    world = World(spec)
    world.settle(patience=1.0)
    return world


def found(world: World, **told: Any) -> None:
    """Let the measurement that was asked for end."""
    measurement = world.plan().measurement
    assert measurement is not None
    world.senses.measured[KEY] = Measured(measurement.revision, **told)
    world.settle()


def measuring(world: World) -> list[str]:
    return [
        name
        for (kind, name), obj in world.objects.items()
        if kind != "Pod" and obj["metadata"].get("labels", {}).get("app.kubernetes.io/component") == "measure"
    ]


def image(world: World) -> str:
    revision = world.status["stable"]["revision"]
    (container,) = world.objects["Deployment", f"digits-{revision}"]["spec"]["template"]["spec"]["containers"]
    return str(container["image"])


def test_both_are_started_in_no_service_before_anything_serves() -> None:
    world = begun()
    deployments = [obj for (kind, _), obj in world.objects.items() if kind == "Deployment"]
    assert sorted(obj["metadata"]["labels"]["longshore.dev/runtime"] for obj in deployments) == [ONNX, TRITON]
    service = world.objects.get(("Service", "digits"))
    for obj in deployments:
        labels = obj["spec"]["template"]["metadata"]["labels"]
        assert obj["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert service is None or not service["spec"]["selector"].items() <= labels.items()
    assert world.status["phase"] == "Measuring"
    measurement = world.plan().measurement
    assert measurement is not None
    assert measurement.addresses.keys() == {ONNX, TRITON}
    assert world.settle(patience=1.0) == []


@pytest.mark.parametrize(("goal", "chosen"), [("Latency", ONNX), ("Throughput", TRITON), ("Cost", TRITON)])
def test_the_better_one_by_the_goal_serves_and_the_table_says_why(goal: str, chosen: RuntimeName) -> None:
    world = begun(AUTO)
    told = compare("key", Goal(goal), (ONNX, TRITON), {ONNX: QUICK, TRITON: STRONG}, {})
    assert told.chosen == chosen
    found(world, speeds={ONNX: STRONG, TRITON: QUICK})
    table = world.status["runtimes"]
    assert table["goal"] == "Latency"
    assert [(row["name"], row["verdict"], row["p95Ms"]) for row in table["candidates"]] == [
        ("OnnxRuntime", "Kept", 6.0),
        ("Triton", "Chosen", 2.0),
    ]
    assert image(world) == world.settings.triton_image
    assert measuring(world) == []
    assert world.condition("Ready")["status"] == "True"
    assert world.condition("FieldsSupported")["status"] == "True"


def test_options_of_the_runtime_that_was_not_chosen_are_told() -> None:
    world = begun({**SPEC, "serving": {"runtime": "Auto", "triton": {"warmup": 2}}})
    assert world.condition("FieldsSupported")["status"] == "True"
    found(world, speeds={ONNX: QUICK, TRITON: STRONG})
    assert "spec.serving.triton (OnnxRuntime was" in world.condition("FieldsSupported")["message"]


def test_a_difference_within_the_noise_keeps_the_default() -> None:
    close = Speed(QUICK.p50, QUICK.p95 * 0.97, QUICK.throughput)
    told = compare("key", Goal.LATENCY, (ONNX, TRITON), {ONNX: QUICK, TRITON: close}, {})
    assert told.chosen == ONNX
    assert "no other is better by more than 5%" in told.candidates[0].reason


def test_it_is_measured_once_also_after_a_restart_and_for_a_spec_that_asks_the_same() -> None:
    world = begun()
    found(world, speeds={ONNX: STRONG, TRITON: QUICK})
    world.restart()
    assert world.settle() == []
    table = world.status["runtimes"]
    world.edit(serving={"runtime": "Auto", "podTemplate": {"labels": {"team": "vision"}}})
    world.settle()
    assert measuring(world) == []
    assert image(world) == world.settings.triton_image
    assert world.status["runtimes"] == table


def test_what_the_choice_depends_on_is_measured_anew() -> None:
    key = choice_key(parse_spec(AUTO), None)
    assert choice_key(parse_spec({**AUTO, "scaling": {"max": 3}}), None) == key
    more = {"runtime": "Auto", "resources": {"limits": {"cpu": "4"}}}
    assert choice_key(parse_spec({**AUTO, "serving": more}), None) != key
    assert choice_key(parse_spec({**AUTO, "optimize": {"goal": "Throughput"}}), None) != key
    assert choice_key(parse_spec(AUTO), "oci://store@sha256:1") != key


def test_what_answers_goes_on_while_the_next_is_measured() -> None:
    world = World(SPEC)
    world.settle()
    stable = world.status["stable"]["revision"]
    world.edit(serving={"runtime": "Auto"})
    world.settle(patience=1.0)
    assert len(measuring(world)) == 3
    assert world.selected() == stable
    assert world.condition("Ready")["status"] == "True"
    assert world.replicas() == {stable: 1}
    world.edit(serving={"runtime": "OnnxRuntime"})
    world.settle()
    assert measuring(world) == []


def test_one_that_does_not_start_leaves_the_other() -> None:
    world = World(AUTO)
    world.broken.add(
        f"digits-{world.plan().apply[-1]['metadata']['labels']['longshore.dev/revision']}-onnxruntime"
    )
    world.settle(patience=1.0)
    assert "OnnxRuntime are starting" in world.status["message"]
    assert world.plan().measurement is None
    world.now += DEADLINE
    world.settle()
    assert image(world) == world.settings.triton_image
    verdicts = {row["name"]: row for row in world.status["runtimes"]["candidates"]}
    assert verdicts["OnnxRuntime"]["verdict"] == "Refused"
    assert verdicts["OnnxRuntime"]["reason"] == "its pod was not ready in time"
    assert measuring(world) == []


def test_one_that_fails_on_what_the_other_answers_is_refused() -> None:
    world = begun()
    found(world, speeds={TRITON: STRONG}, failures={ONNX: "it fails on a request"})
    assert image(world) == world.settings.triton_image
    assert world.status["runtimes"]["candidates"][0]["reason"] == "it fails on a request"


@pytest.mark.parametrize("told", [{"nothing": "not measured: no sample request fits"}, {"error": "refused"}])
def test_what_cannot_be_measured_is_served_by_the_default(told: dict[str, str]) -> None:
    world = begun()
    found(world, **told)
    if "error" in told:
        assert world.status["phase"] == "Measuring", "it is tried again"
        world.now += DEADLINE
        world.settle()
    assert image(world) == world.settings.server_image
    assert "not measured: " in world.status["runtimes"]["candidates"][0]["reason"]


def test_only_one_can_serve() -> None:
    world = World({**AUTO, "model": {**SPEC["model"], "format": "TritonRepository"}})
    world.settle()
    assert image(world) == world.settings.triton_image
    rows = world.status["runtimes"]["candidates"]
    assert [(row["name"], row["verdict"]) for row in rows] == [
        ("Triton", "Chosen"),
        ("OnnxRuntime", "Refused"),
    ]
    assert "does not load TritonRepository" in rows[1]["reason"]


def test_none_can_serve() -> None:
    triton = {"accelerator": "TensorRT"}
    spec = {
        "model": {**SPEC["model"], "format": "TritonRepository"},
        "serving": {"runtime": "Auto", "triton": triton},
    }
    world = World(spec)
    world.settle()
    assert world.condition("Stalled")["reason"] == "RuntimeRefuses"
    assert "needs a GPU" in world.condition("Stalled")["message"]


def test_a_killed_operator_ends_in_the_same_place() -> None:
    def run(kill_at: int | None) -> tuple[World, int]:
        world = World(AUTO)
        world.kill_at = kill_at
        for _ in range(40):
            try:
                world.settle(patience=1.0)
                if (measurement := world.plan().measurement) is None:
                    break
                world.senses.measured[KEY] = Measured(measurement.revision, {ONNX: STRONG, TRITON: QUICK})
            except KilledError:
                world.kill_at = None
                world.restart()
        return world, len(world.writes)

    whole, writes = run(None)
    for place in range(writes):
        assert run(place)[0].end_state() == whole.end_state(), f"killed before write {place}"
