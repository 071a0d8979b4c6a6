"""A Job that waits in a Kueue queue, or that somebody suspended: told as such, never taken for a failure."""

from typing import Any

import pytest
from longshore.resources.kueue import queue_labels

from tests.operator.test_plan_job import GOOD, OPTIMIZE, ended, failure, started, worker
from tests.operator.world import SPEC, World, rfc3339

QUEUE, PRIORITY = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"
LABELS = {QUEUE: "team-a", PRIORITY: "nightly"}


def labelled(labels: dict[str, str], spec: dict[str, Any] | None = None) -> World:
    """A ModelDeployment with these labels, whose Job was made."""
    world = World(spec or OPTIMIZE)
    relabel(world, labels)
    world.settle()
    return world


def relabel(world: World, labels: dict[str, str]) -> None:
    world.root["metadata"]["labels"] = dict(labels)
    world._touch(world.root)


def suspend(world: World, suspended: bool = True) -> None:
    """What Kueue does to the latest Job, and the Job controller then."""
    job = world.jobs()[-1]
    job["spec"]["suspend"] = suspended
    condition = {"type": "Suspended", "status": str(suspended), "lastTransitionTime": rfc3339(world.now)}
    job["status"] = {"active": int(not suspended), "conditions": [condition]}
    world._touch(job)


@pytest.mark.parametrize(
    ("labels", "passed"),
    [
        ({}, {}),
        ({QUEUE: "team-a"}, {QUEUE: "team-a"}),
        (LABELS, LABELS),
        ({**LABELS, "kueue.x-k8s.io/managed": "true", "team": "vision"}, LABELS),
        ({QUEUE: ""}, {}),
    ],
)
def test_a_job_has_the_queue_and_the_priority_of_its_model_and_no_other_label(
    labels: dict[str, str], passed: dict[str, str]
) -> None:
    assert queue_labels(labels) == passed
    plain, world = started().jobs()[-1], labelled(labels)
    (job,) = world.jobs()
    assert job["metadata"]["labels"] == {**plain["metadata"]["labels"], **passed}
    assert job["metadata"]["name"] == plain["metadata"]["name"], "no label is part of the key"
    assert job["spec"] == plain["spec"], "whether it is suspended is Kueue's to say"


def test_nothing_that_serves_or_is_measured_waits_in_a_queue() -> None:
    world = labelled(LABELS, {**OPTIMIZE, "serving": {"runtime": "Auto"}})
    world.end_job(GOOD)
    world.settle()
    assert len(world.names("Deployment")) == 2
    bearers = {kind for (kind, _), obj in world.objects.items() if QUEUE in str(obj)}
    assert bearers == {"ModelDeployment", "Job"}


def test_a_queued_job_is_told_by_its_queue_for_as_long_as_it_takes() -> None:
    world = labelled(LABELS)
    (job,) = world.jobs()
    suspend(world)
    world.settle()
    name = job["metadata"]["name"]
    sentence = f"Job {name} is suspended: it waits in the Kueue queue team-a; see `kubectl get workloads`"
    assert (world.status["phase"], world.status["message"]) == ("Queued", sentence)
    for condition, status in (("Reconciling", "True"), ("Optimized", "Unknown"), ("Stalled", "False")):
        assert world.condition(condition)["status"] == status
    for condition in ("Reconciling", "Optimized"):
        assert (world.condition(condition)["reason"], world.condition(condition)["message"]) == (
            "Queued",
            sentence,
        )
    for _ in range(3):
        world.now += 86_400
        assert world.settle() == []
    suspend(world, suspended=False)
    world.settle()
    assert world.status["phase"] == "Optimizing"
    world.end_job(GOOD)
    world.settle()
    assert world.condition("Ready")["status"] == "True"
    assert sum(w.startswith("apply Job") for w in world.writes) == 1


def test_a_job_suspended_by_a_person_says_how_to_resume_it() -> None:
    world = started()
    suspend(world)
    world.settle()
    name = world.jobs()[-1]["metadata"]["name"]
    assert world.status["phase"] == "Suspended"
    command = f'kubectl patch job {name} --type=merge -p \'{{"spec":{{"suspend":false}}}}\''
    assert "somebody suspended it" in world.status["message"]
    assert world.status["message"].endswith(f"resume it with `{command}`")
    assert world.condition("Stalled")["status"] == "False"


def test_a_queue_that_kueue_gave_by_default_is_told() -> None:
    world = started()
    world.jobs()[-1]["metadata"]["labels"][QUEUE] = "default"
    suspend(world)
    world.settle()
    assert "the Kueue queue default" in world.status["message"]


@pytest.mark.parametrize("labels", [{}, {QUEUE: "team-b"}, {QUEUE: "team-b", PRIORITY: "urgent"}])
@pytest.mark.parametrize("suspended", [True, False])
def test_a_changed_label_counts_for_the_next_job(labels: dict[str, str], suspended: bool) -> None:
    world = labelled(LABELS)
    suspend(world, suspended)
    world.settle()
    relabel(world, labels)
    assert world.settle() == []
    world.restart()
    assert world.settle() == []
    assert {k: v for k, v in world.jobs()[-1]["metadata"]["labels"].items() if k in LABELS} == LABELS
    if suspended:
        assert "the Kueue queue team-a" in world.status["message"]
    world.edit(optimize={"seed": 5})
    world.settle()
    (job,) = world.jobs()
    assert {k: v for k, v in job["metadata"]["labels"].items() if k in LABELS} == labels


def test_what_kueue_writes_into_a_suspended_job_stays() -> None:
    world = labelled(LABELS)
    suspend(world)
    job = world.jobs()[-1]
    template = job["spec"]["template"]
    template["metadata"]["labels"]["kueue.x-k8s.io/podset"] = "main"
    template["spec"] |= {"nodeSelector": {"pool": "spot"}, "tolerations": [{"operator": "Exists"}]}
    suspend(world, suspended=False)
    before = str(job["spec"])
    world.settle()
    world.restart()
    assert world.settle() == []
    assert str(world.jobs()[-1]["spec"]) == before


SIGTERM = failure("DeadlineExceeded", retryable=True)
"""What the optimizer reports when it is told to end."""


def preempted() -> World:
    """A Job at work that Kueue suspends; its pod is told to end, and takes its time."""
    world = labelled(LABELS)
    suspend(world, suspended=False)
    world.end_job(SIGTERM, failed=True, reason="Error")
    (pod,) = (o for (k, _), o in world.objects.items() if k == "Pod")
    pod["metadata"]["deletionTimestamp"] = rfc3339(world.now)
    suspend(world)
    return world


def test_a_preempted_job_waits_again_and_its_ending_pod_is_no_failure() -> None:
    world = preempted()
    world.settle()
    assert world.status["phase"] == "Queued"
    assert world.condition("Stalled")["status"] == "False"
    # Kueue admits it again before the kubelet is through with the old pod.
    suspend(world, suspended=False)
    world.settle()
    assert (world.status["phase"], world.condition("Stalled")["status"]) == ("Optimizing", "False")
    assert "is on its way out" in world.status["message"]
    world.vanish("Pod", world.names("Pod")[0])
    world.settle()
    assert "is at work" in world.status["message"]
    world.end_job(GOOD)
    world.settle()
    assert world.condition("Ready")["status"] == "True"
    assert "OptimizeFailed" not in str(world.events)
    assert len(world.jobs()) == 1


@pytest.mark.parametrize(("pod", "resumed"), [(True, False), (False, False), (False, True)])
def test_a_job_that_failed_by_its_preemption_is_begun_anew_and_stalls_nothing(
    pod: bool, resumed: bool
) -> None:
    world = preempted()
    world.jobs()[-1]["spec"]["suspend"] = not resumed
    suspended = world.jobs()[-1]["status"]["conditions"]
    failed = {"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": "code 7"}
    world.jobs()[-1]["status"]["conditions"] = [
        *suspended,
        {**failed, "lastTransitionTime": rfc3339(world.now)},
    ]
    world._touch(world.jobs()[-1])
    if not pod:
        world.vanish("Pod", world.names("Pod")[0])
    again = world.reconcile()
    assert again is not None
    assert world.condition("Stalled")["status"] == "False"
    assert "attempt 2 follows by itself" in world.status["message"]
    world.now += 10
    world.settle()
    (job,) = world.jobs()
    assert job["metadata"]["annotations"]["longshore.dev/attempt"] == "2"
    assert job["metadata"]["labels"][QUEUE] == "team-a"
    assert "Warning" not in {event["type"] for event in world.events}


def test_of_several_workers_a_preempted_leader_is_no_failure() -> None:
    world = labelled(LABELS, {**SPEC, "optimize": {"parallelism": 3}})
    suspend(world, suspended=False)
    worker(world, 0, phase="Failed", containerStatuses=ended(137, "Error"))
    suspend(world)
    world.settle()
    assert (world.status["phase"], world.condition("Stalled")["status"]) == ("Queued", "False")


@pytest.mark.parametrize("parallelism", [1, 4])
def test_no_exit_code_of_a_single_pod_ends_a_job_that_is_suspended(parallelism: int) -> None:
    """Of one pod any failure that counts ends the Job, so only deleted pods would be held against it."""
    world = started({**SPEC, "optimize": {"parallelism": parallelism}})
    spec = world.jobs()[-1]["spec"]
    fatal = [rule for rule in spec["podFailurePolicy"]["rules"] if rule["action"] == "FailJob"]
    assert (spec["backoffLimit"] == 0) is (parallelism == 1)
    assert len(fatal) == (parallelism > 1)
