"""The optimize Job: started once, judged by its report, retried where that can help, then forgotten."""

import json
from typing import Any

import pytest
from longshore.settings import Settings

from tests.operator.world import SPEC, World

OPTIMIZE = {**SPEC, "optimize": {}}
ARTIFACT = f"oci://localhost:5000/longshore@sha256:{'b' * 64}"
GOOD: dict[str, Any] = {
    "outcome": "Succeeded",
    "artifact": ARTIFACT,
    "artifactSha256": "b" * 64,
    "chosen": "dynamic-int8",
    "metric": "Accuracy",
    "rows": [{"name": "dynamic-int8", "verdict": "Chosen", "drop": 0.001, "p50Ms": 1.5, "reason": "fastest"}],
}


def failure(reason: str, retryable: bool = False) -> dict[str, Any]:
    return {"outcome": "Failed", "reason": reason, "message": f"{reason}: mend it", "retryable": retryable}


def started(spec: dict[str, Any] | None = None) -> World:
    world = World(spec or OPTIMIZE)
    world.settle()
    return world


def test_a_job_comes_before_anything_serves() -> None:
    plan = World(OPTIMIZE).plan()
    assert [(o["kind"], o["metadata"]["name"]) for o in plan.apply] == [
        ("ServiceAccount", "digits"),
        ("NetworkPolicy", "digits-optimize"),
        ("Job", plan.apply[2]["metadata"]["name"]),
    ]
    world = started()
    assert world.names("Deployment") == []
    assert world.status["phase"] == "Optimizing"
    assert "kubectl logs -f job/" in world.status["message"]
    assert world.settle() == []


def test_its_artifact_is_served_and_the_finalizer_comes_before_the_pods() -> None:
    world = started()
    world.end_job(GOOD)
    world.settle()
    written = world.writes
    assert written.index("merge ModelDeployment/digits") < written.index(
        next(w for w in written if w.startswith("apply Deployment"))
    ), "a crash between the two must not leave an artifact that nobody releases"
    assert world.condition("Ready")["status"] == "True"
    assert world.condition("Optimized")["message"] == "candidate dynamic-int8 is served"
    assert world.status["optimization"]["chosen"] == "dynamic-int8"
    assert world.status["revisions"][0]["artifact"] == ARTIFACT
    assert world.root["metadata"]["finalizers"] == ["longshore.dev/artifacts"]
    assert "Optimized" in world.told()
    assert world.settle() == []


def test_the_job_may_go_once_its_artifact_serves() -> None:
    world = started()
    world.end_job(GOOD)
    world.settle()
    (job,) = world.jobs()
    world.vanish("Job", job["metadata"]["name"])
    world.vanish("Pod", f"{job['metadata']['name']}-pod")
    world.restart()
    assert world.settle() == []
    assert world.status["optimization"]["chosen"] == "dynamic-int8"


@pytest.mark.parametrize("reason", ["DigestMismatch", "UnsupportedOperator", "NoCandidate"])
def test_a_failure_that_the_spec_decides_is_told_and_not_tried_again(reason: str) -> None:
    world = started()
    world.end_job(failure(reason), failed=True, reason="Error")
    world.settle()
    world.now += 3600
    world.settle()
    assert len(world.jobs()) == 1
    stalled = world.condition("Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", reason)
    assert stalled["message"] == f"{reason}: mend it"
    assert world.condition("Optimized")["status"] == "False"
    assert reason in world.told()


def test_fixing_the_spec_recovers() -> None:
    world = started()
    world.end_job(failure("DigestMismatch"), failed=True, reason="Error")
    world.settle()
    world.edit(model={"uri": "https://models.example/right.onnx"})
    world.settle()
    (job,) = world.jobs()
    assert world.condition("Stalled")["status"] == "False"
    world.end_job(GOOD)
    world.settle()
    assert world.condition("Ready")["status"] == "True"
    assert world.jobs() == [job]


def test_a_failure_that_may_pass_is_tried_again_with_growing_pauses() -> None:
    world = started()
    pauses = []
    for attempt in range(1, 8):
        world.end_job(failure("FetchFailed", retryable=True), failed=True, reason="Error")
        failed_at = world.now
        again = world.reconcile()
        assert world.condition("Stalled")["reason"] == "FetchFailed"
        assert f"attempt {attempt}" in world.condition("Stalled")["message"]
        while f"-{attempt + 1}" not in world.jobs()[-1]["metadata"]["name"]:
            assert again is not None
            world.now += again
            again = world.reconcile()
        pauses.append(round(world.now - failed_at))
        world.reconcile()
        assert len(world.jobs()) == 1
    assert pauses == [10, 20, 40, 80, 160, 300, 300]
    world.end_job(GOOD)
    world.settle()
    assert world.condition("Ready")["status"] == "True"
    assert world.condition("Stalled")["status"] == "False"


def test_a_clock_that_jumps_back_does_not_postpone_the_next_attempt() -> None:
    world = started()
    world.end_job(failure("FetchFailed", retryable=True), failed=True, reason="Error")
    world.reconcile()
    world.now -= 86_400
    again = world.reconcile()
    assert again is not None
    assert again <= 10


def test_out_of_memory_names_the_field() -> None:
    world = started()
    world.end_job("", failed=True, reason="OOMKilled")
    world.settle()
    assert world.condition("Stalled")["reason"] == "OutOfMemory"
    assert "raise optimize.resources.limits.memory" in world.condition("Stalled")["message"]
    world.now += 3600
    world.settle()
    assert len(world.jobs()) == 1


LAST_WORDS = {
    "outcome": "Failed",
    "reason": "DeadlineExceeded",
    "message": "the Job was ended from outside before it was done",
    "retryable": True,
}


@pytest.mark.parametrize("words", ["", LAST_WORDS], ids=["without-words", "with-last-words"])
@pytest.mark.parametrize("job_knows", [True, False], ids=["the-job-failed", "its-pod-failed-first"])
def test_the_deadline_names_the_field(job_knows: bool, words: Any) -> None:
    world = started()
    world.end_job(words, failed=True, phase="Failed", reason="DeadlineExceeded", containerStatuses=[])
    pod = next(o for (k, _), o in world.objects.items() if k == "Pod")
    pod["status"]["reason"] = "DeadlineExceeded"
    world._touch(pod)
    if not job_knows:
        world.jobs()[-1]["status"] = {"active": 1}
    world.settle()
    assert world.condition("Stalled")["reason"] == "DeadlineExceeded"
    assert "raise optimize.budget.time" in world.condition("Stalled")["message"]
    world.now += 3600
    world.settle()
    assert len(world.jobs()) == 1, "the same time is too short again"


def test_a_pod_that_its_node_took_along_is_no_failure() -> None:
    world = started()
    job = world.jobs()[-1]
    labels = job["spec"]["template"]["metadata"]["labels"]
    labels |= {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    taken = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC"}
    world.pod("taken", labels, status={"phase": "Failed", "conditions": [taken]})
    world.settle()
    assert world.condition("Stalled")["status"] == "False"
    assert "pod taken was taken from its node" in world.condition("Reconciling")["message"]
    assert world.jobs() == [job]


def test_a_job_whose_pod_is_gone_is_tried_again() -> None:
    world = started()
    world.end_job(None, failed=True, pod=False)
    world.reconcile()
    assert world.condition("Stalled")["reason"] == "OptimizeFailed"
    assert "its pod is gone" in world.condition("Stalled")["message"]
    world.now += 11
    world.settle()
    assert world.jobs()[-1]["metadata"]["annotations"]["longshore.dev/attempt"] == "2"


@pytest.mark.parametrize(
    "report", [None, "no json", {"outcome": "Succeeded"}, {"outcome": "Succeeded", "artifact": 5}]
)
def test_a_lost_report_is_asked_for_again(report: Any) -> None:
    world = started()
    world.end_job(report)
    world.settle()
    (job,) = world.jobs()
    assert job["metadata"]["annotations"]["longshore.dev/attempt"] == "2"
    assert world.names("Deployment") == []


def test_a_lost_report_of_every_attempt_does_not_start_jobs_without_pause() -> None:
    world = started()
    begun = world.now
    for _ in range(6):
        world.end_job(None)
        for _ in range(200):
            before = len(world.writes)
            again = world.reconcile()
            if any(w.startswith("apply Job") for w in world.writes[before:]):
                break
            assert again is not None
            world.now += again
    assert world.now - begun > 60, "six Jobs in no time"


@pytest.mark.parametrize(
    "hostile",
    [
        {"rows": [{"name": "n" * 3000, "verdict": "Kept", "drop": float("nan"), "reason": "r" * 3000}]},
        {"rows": [{"name": "n", "verdict": "Kept", "p50Ms": float("inf"), "dropUpper": float("-inf")}]},
        {"rowsOmitted": -5},
        {"metric": "m" * 3000},
        {"chosen": "c" * 3000},
        {"artifactSha256": "s" * 3000},
        {"artifact": "oci://elsewhere.example/" + "a" * 3000},
    ],
)
def test_no_report_however_strange_stops_the_operator(hostile: dict[str, Any]) -> None:
    world = started()
    world.end_job({**GOOD, **hostile})
    world.settle()
    assert world.status["phase"] in ("Ready", "Optimizing", "Stalled")


@pytest.mark.parametrize("reason", ["", "two words", "r" * 3000, "Ünicode", "5"])
def test_no_reason_however_strange_stops_the_operator(reason: str) -> None:
    world = started()
    world.end_job({**failure("X"), "reason": reason, "message": "m" * 3000}, failed=True, reason="Error")
    world.settle()
    stalled = world.condition("Stalled")
    assert stalled["status"] == "True"
    assert stalled["reason"].isascii()
    assert len(stalled["reason"]) <= 64
    assert " " not in stalled["reason"]
    assert stalled["reason"][0].isalpha()


def test_an_artifact_from_outside_the_store_is_not_served() -> None:
    world = started()
    world.end_job({**GOOD, "artifact": f"oci://elsewhere.example/models@sha256:{'c' * 64}"})
    world.settle()
    assert world.names("Deployment") == []
    assert world.condition("Stalled")["reason"] == "ArtifactRefused"


def test_a_retry_by_annotation_starts_one_job_and_is_answered() -> None:
    world = started()
    world.end_job(failure("DigestMismatch"), failed=True, reason="Error")
    world.settle()
    world.annotate(longshore_dev_retry="now")
    world.settle()
    (job,) = world.jobs()
    assert job["metadata"]["annotations"]["longshore.dev/attempt"] == "2"
    assert job["metadata"]["annotations"]["longshore.dev/retry"] == "now"
    assert "longshore.dev/retry" not in world.root["metadata"].get("annotations", {})
    world.end_job(failure("DigestMismatch"), failed=True, reason="Error")
    world.settle()
    assert world.jobs() == [world.jobs()[0]], "one wish, one attempt"
    assert world.condition("Stalled")["reason"] == "DigestMismatch"


def test_a_job_of_an_older_spec_goes() -> None:
    world = started()
    (first,) = world.names("Job")
    world.edit(optimize={"seed": 5})
    world.settle()
    (second,) = world.names("Job")
    assert second != first
    world.edit(optimize=None)
    world.settle()
    assert world.names("Job") == []
    assert world.condition("Ready")["status"] == "True", "without optimize the model is served as it is"


def test_serving_goes_on_while_a_new_artifact_is_made() -> None:
    world = World()
    world.settle()
    stable = world.selected()
    world.edit(optimize={})
    world.settle()
    assert world.condition("Ready")["status"] == "True"
    assert world.condition("Reconciling")["status"] == "True"
    assert world.selected() == stable
    world.end_job(failure("NoCandidate"), failed=True, reason="Error")
    world.settle()
    assert world.condition("Ready")["status"] == "True"
    assert world.condition("Stalled")["reason"] == "NoCandidate"
    assert world.selected() == stable
    world.edit(serving={"replicas": 2})
    world.settle()
    assert world.replicas() == {stable: 2}, "scaling counts meanwhile"


def test_another_format_is_converted_by_a_job_without_a_search() -> None:
    world = World({"model": {"uri": "https://models.example/m.skops"}})
    world.settle()
    assert len(world.jobs()) == 1
    world = World({"model": {"uri": "https://models.example/m", "format": "ScikitLearn"}})
    world.settle()
    assert len(world.jobs()) == 1


def test_the_job_mounts_the_volumes_of_teacher_and_student() -> None:
    others = {"teacher": "pvc://teachers/large.onnx", "student": "pvc://students/small.onnx"}
    training = {"uri": "https://data.example/t.npz", **others}
    world = World({"model": {"uri": "pvc://models/m.onnx"}, "optimize": {"training": training}})
    world.settle()
    (job,) = world.jobs()
    volumes = job["spec"]["template"]["spec"]["volumes"]
    claims = [v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v]
    assert claims == ["models", "teachers", "students"]


@pytest.mark.parametrize(
    ("store", "artifact", "served"),
    [
        ("oci://r.example/longshore", "oci://r.example/longshore@sha256:" + "b" * 64, True),
        ("oci://r.example:5000/longshore:v1", "oci://r.example:5000/longshore@sha256:" + "b" * 64, True),
        ("oci://r.example/longshore/", "oci://r.example/longshore/team@sha256:" + "b" * 64, True),
        ("s3://bucket/prefix", "s3://bucket/prefix/key", True),
        ("pvc://claim/models", "pvc://claim/models/key", True),
        ("oci://r.example/longshore", "oci://r.example/longshore-evil@sha256:" + "b" * 64, False),
        ("s3://bucket/prefix", "s3://bucket/prefix/../../other", False),
        ("s3://bucket/prefix", "s3://bucket/prefix", False),
        ("pvc://claim/models", "pvc://other/models/key", False),
    ],
)
def test_only_artifacts_of_the_store_are_served(store: str, artifact: str, served: bool) -> None:
    world = World(OPTIMIZE, Settings(store=store))
    world.settle()
    world.end_job({**GOOD, "artifact": artifact})
    world.settle()
    assert bool(world.names("Deployment")) == served


def worker(world: World, index: int, **status: Any) -> None:
    """A pod of the latest Job, which is an Indexed one."""
    job = world.jobs()[-1]
    name = job["metadata"]["name"]
    labels = {**job["spec"]["template"]["metadata"]["labels"], "batch.kubernetes.io/job-name": name}
    annotations = {"batch.kubernetes.io/job-completion-index": str(index)}
    world.pod(f"{name}-{index}-abcde", labels, status=status, annotations=annotations)


def ended(code: int, reason: str, message: str = "") -> list[dict[str, Any]]:
    end = {"exitCode": code, "reason": reason, "message": message}
    return [{"name": "optimizer", "state": {"terminated": end}}]


def test_of_several_workers_the_first_reports_and_the_others_need_not_end() -> None:
    world = started({**SPEC, "optimize": {"parallelism": 3}})
    assert world.jobs()[-1]["spec"]["completions"] == 3
    assert "parallelism" not in str(world.condition("FieldsSupported")["message"])
    worker(world, 0, phase="Succeeded", containerStatuses=ended(0, "Completed", json.dumps(GOOD)))
    world.now += 5
    worker(world, 1)
    worker(world, 2, phase="Pending")
    world.settle()
    assert world.status["revisions"][0]["artifact"] == ARTIFACT
    assert world.names("Deployment")


def test_a_worker_that_dies_is_no_failure_of_the_search() -> None:
    world = started({**SPEC, "optimize": {"parallelism": 2}})
    worker(world, 0)
    world.now += 5
    worker(world, 1, phase="Failed", containerStatuses=ended(137, "OOMKilled"))
    world.settle()
    assert world.status["phase"] == "Optimizing"
    assert world.names("Deployment") == []
