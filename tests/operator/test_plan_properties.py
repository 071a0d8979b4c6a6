"""Whatever happens in whatever order: there is a plan, the same one each time, and then there is rest."""

import copy
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from longshore.plan.pipeline import make_plan
from longshore.plan.scaling import Waiting
from longshore.plan.state import ActivatorView
from longshore.status import build_status

from tests.operator.world import SPEC, World

ARTIFACT = f"oci://localhost:5000/longshore@sha256:{'b' * 64}"
REPORTS: list[Any] = [
    {"outcome": "Succeeded", "artifact": ARTIFACT, "artifactSha256": "b" * 64, "chosen": "x"},
    {"outcome": "Succeeded"},
    {"outcome": "Failed", "reason": "FetchFailed", "message": "away", "retryable": True},
    {"outcome": "Failed", "reason": "DigestMismatch", "message": "wrong"},
    {"outcome": "Failed", "reason": "bad reason", "message": ""},
    "nothing that can be read",
    None,
]
EDITS: list[dict[str, Any]] = [
    {"model": {"uri": "https://models.example/other.onnx"}},
    {"model": SPEC["model"]},
    {"model": {"uri": "ftp://nowhere"}},
    {"optimize": {}},
    {"optimize": {"seed": 1}},
    {"optimize": None},
    {"serving": {"replicas": 0}},
    {"serving": {"replicas": 3}},
    {"serving": {"runtime": "Triton"}},
    {"serving": None},
    {"scaling": {"min": 0, "max": 4}},
    {"scaling": {"min": 0, "max": 4, "warm": 2}},
    {"scaling": None},
    {"rollout": {"steps": [{"weight": 20, "hold": "5s"}], "progressDeadline": "20s"}},
    {"rollout": {"strategy": "Recreate"}},
    {"rollout": {"steps": [{"weight": 50}], "affinity": {"cookie": "session"}}},
    {"rollout": {"strategy": "BlueGreen", "revisionHistory": 0}},
    {"rollout": {"strategy": "BlueGreen", "steps": [{"weight": 0, "pause": {}}]}},
    {"rollout": None},
    {"route": {"parentRefs": [{"name": "gateway"}]}},
    {"route": {"parentRefs": [{"name": "gateway"}], "grpcParentRefs": [{"name": "gateway"}]}},
    {"route": None},
    {"unheard": 1},
]
ANNOTATIONS = ["retry", "promote", "abort", "pause", "rollback-to", "resume"]

EVENTS = st.one_of(
    st.tuples(st.just("reconcile"), st.integers(1, 4)),
    st.tuples(st.just("edit"), st.sampled_from(EDITS)),
    st.tuples(st.just("end-job"), st.tuples(st.sampled_from(REPORTS), st.booleans(), st.booleans())),
    st.tuples(st.just("time"), st.sampled_from([0.1, 3.0, 30.0, 900.0, -3600.0])),
    st.tuples(st.just("work"), st.none()),
    st.tuples(st.just("break"), st.booleans()),
    st.tuples(st.just("lose"), st.integers(0, 20)),
    st.tuples(st.just("restart"), st.none()),
    st.tuples(st.just("annotate"), st.sampled_from(ANNOTATIONS)),
    st.tuples(st.just("gateway"), st.booleans()),
    st.tuples(st.just("activators"), st.sampled_from([None, 0, 3])),
    st.tuples(st.just("forget-status"), st.none()),
    st.tuples(st.just("crash"), st.integers(0, 5)),
)


def happen(world: World, event: tuple[str, Any]) -> None:
    """Let one thing happen."""
    kind, value = event
    if kind == "reconcile":
        for _ in range(value):
            world.reconcile()
    elif kind == "edit":
        world.edit(**value)
    elif kind == "end-job" and world.jobs():
        report, failed, pod = value
        world.end_job(report, failed=failed, reason="Error" if failed else "Completed", pod=pod)
    elif kind == "time":
        world.now += value
    elif kind == "work":
        world.work()
    elif kind == "break":
        world.broken = set(world.replicas()) if value else set()
    elif kind == "lose":
        children = sorted(key for key in world.objects if key[0] != "ModelDeployment")
        if children:
            world.vanish(*children[value % len(children)])
    elif kind == "restart":
        world.restart()
    elif kind == "annotate":
        world.annotate(**{f"longshore_dev_{value}": "now"})
    elif kind == "gateway":
        world.gateway_api = value
        world.accepts = {"HTTPRoute"} if value else None
        world.restart()
    elif kind == "activators":
        view = ActivatorView(("10.0.0.7",), 20000, 20001, Waiting(demand=value or 0, accepted=0.0))
        world.senses.activators = lambda key: None if value is None else view
    elif kind == "forget-status":
        world.root.pop("status", None)
        world._touch(world.root)
        world.restart()
    elif kind == "crash":
        _crash(world, value)


def _crash(world: World, after: int) -> None:
    from tests.operator.world import KilledError

    world.kill_at = len(world.writes) + after
    try:
        world.reconcile()
    except KilledError:
        world.restart()
    finally:
        world.kill_at = None


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(EVENTS, max_size=14))
def test_every_reachable_state_has_one_plan_and_leads_to_rest(events: list[tuple[str, Any]]) -> None:
    world = World()
    for event in events:
        happen(world, event)
        observed = world.observed()
        before = copy.deepcopy(dict(observed.live))
        plan = make_plan(observed)
        assert plan == make_plan(observed), "deterministic"
        assert before == dict(observed.live), "a plan changes nothing"
        if plan.facts is not None:
            status = build_status(observed.status, plan.facts, observed.generation, observed.now)
            assert build_status(status, plan.facts, observed.generation, observed.now + 9) == status
            assert plan.facts.ready == (status["conditions"][0]["status"] == "True")
        selected = world.selected()
        if plan.facts is not None and plan.facts.ready and selected is not None:
            assert f"digits-{selected}" in world.names("Deployment") or "lose" in {e[0] for e in events}

    world.edit(model=SPEC["model"], optimize=None, serving=None, scaling=None, rollout=None, route=None)
    world.annotate(**{f"longshore_dev_{name}": None for name in ANNOTATIONS})
    world.annotate(longshore_dev_retry="at last")
    world.broken = set()
    world.settle(most=900, patience=700)
    assert world.settle() == [], "applying twice writes nothing the second time"
    world.restart()
    assert world.settle() == []
    assert world.condition("Stalled").get("status") == "False", world.condition("Stalled")
    assert not [name for name in world.names("Deployment") if name.endswith("-warm")]
    if "rollback-to" not in {value for kind, value in events if kind == "annotate"}:
        assert world.condition("Ready")["status"] == "True"
