"""What the watches told: only news counts, and what Longshore itself wrote is known at once."""

from typing import Any

from longshore.index import Index
from longshore.observe import observe
from longshore.resources.kinds import DEPLOYMENT, MODEL_DEPLOYMENT, SERVICE
from longshore.settings import Settings

KEY = ("team", "digits")


def root(version: int, uid: str = "root") -> dict[str, Any]:
    metadata = {"namespace": "team", "name": "digits", "uid": uid, "resourceVersion": str(version)}
    return {"apiVersion": MODEL_DEPLOYMENT.api_version, "kind": MODEL_DEPLOYMENT.kind, "metadata": metadata}


def child(
    version: int, uid: str = "child", name: str = "digits", kind: str = "Service", owner: str = "digits"
) -> Any:
    metadata = {
        "namespace": "team",
        "name": name,
        "uid": uid,
        "resourceVersion": str(version),
        "labels": {"longshore.dev/name": owner},
        "managedFields": [{"manager": "x"}],
    }
    return {
        "apiVersion": {
            "Service": "v1",
            "Deployment": "apps/v1",
            "PodDisruptionBudget": "policy/v1",
            "Pod": "v1",
        }[kind],
        "kind": kind,
        "metadata": metadata,
    }


def budget(version: int, status: dict[str, Any]) -> dict[str, Any]:
    found = child(version, kind="PodDisruptionBudget")
    return {**found, "status": status}


def test_news_wake_the_key_and_old_news_do_not() -> None:
    index = Index()
    assert index.put(root(5)) == KEY
    assert index.put(root(5)) is None
    assert index.put(root(4)) is None
    assert index.put({**root(6), "spec": {"model": {}}}) == KEY
    assert index.put(child(9)) == KEY
    assert index.put(child(8)) is None


def test_a_version_without_news_is_kept_and_wakes_nobody() -> None:
    index = Index()
    index.put(budget(9, {"disruptionsAllowed": 0}))
    assert index.put(budget(10, {"disruptionsAllowed": 1, "conditions": [{"type": "x"}]})) is None
    kept = index.children(KEY)["PodDisruptionBudget", "digits"]
    assert kept["metadata"]["resourceVersion"] == "10"
    assert index.put({**budget(11, {}), "spec": {"minAvailable": 2}}) == KEY


def test_progress_can_wait_and_a_ready_pod_cannot() -> None:
    index = Index()
    deployment = child(9, kind="Deployment")
    index.put(deployment)
    index.pressing.clear()
    progress = {
        "observedGeneration": 1,
        "replicas": 1,
        "conditions": [{"type": "Available", "status": "False"}],
    }
    assert index.put({**child(10, kind="Deployment"), "status": progress}) == KEY
    assert KEY not in index.pressing
    assert index.put({**child(11, kind="Deployment"), "status": {**progress, "readyReplicas": 1}}) == KEY
    assert KEY in index.pressing


def test_the_address_of_a_pod_cannot_wait() -> None:
    index = Index()
    index.put(child(9, kind="Pod"))
    index.pressing.clear()
    pending = {"phase": "Pending", "conditions": [{"type": "Ready", "status": "False"}]}
    index.put({**child(10, kind="Pod"), "status": pending})
    index.pressing.clear()
    index.put({**child(11, kind="Pod"), "status": {**pending, "podIP": "10.0.0.9"}})
    assert KEY in index.pressing


def test_versions_are_compared_as_numbers() -> None:
    index = Index()
    index.put(child(9))
    assert index.put({**child(10), "spec": {"type": "ClusterIP"}}) == KEY
    assert index.put(child(9)) is None


def test_an_event_older_than_our_own_write_is_dropped() -> None:
    index = Index()
    index.put(child(10))
    written = {**child(12), "spec": {"selector": {"a": "new"}}}
    index.put(written)
    late = {**child(11), "spec": {"selector": {"a": "old"}}}
    assert index.put(late) is None
    assert index.children(KEY)["Service", "digits"]["spec"]["selector"] == {"a": "new"}


def test_an_answer_that_comes_after_the_deletion_brings_nothing_back() -> None:
    index = Index()
    index.put(child(10))
    assert index.remove(child(11)) == KEY
    assert index.put(child(12)) is None
    assert index.children(KEY) == {}
    assert index.put(child(13, uid="made-anew")) == KEY


def test_the_deletion_of_an_earlier_object_leaves_the_one_made_anew() -> None:
    index = Index()
    index.put(child(20, uid="second"))
    index.remove(child(15, uid="first"))
    assert index.children(KEY)["Service", "digits"]["metadata"]["uid"] == "second"


def test_a_model_that_goes_leaves_nothing_behind() -> None:
    index = Index()
    index.put(root(1))
    index.put(child(2))
    index.remove(child(3))
    index.remove(root(4))
    assert list(index.roots()) == []
    assert index.root(KEY) is None
    assert not index._children


def test_a_full_list_finds_what_no_event_told() -> None:
    index = Index()
    index.put(child(1, "a", "digits"))
    index.put(child(2, "b", "other", owner="other"))
    there = [child(2, "b", "other", owner="other"), child(5, "c", "third", owner="third")]
    assert index.replace(SERVICE, there, 6) == {("team", "digits"), ("team", "third")}
    assert index.children(KEY) == {}
    assert index.replace(SERVICE, there, 6) == set()


def test_what_was_written_while_a_full_list_was_under_way_stays() -> None:
    index = Index()
    index.put(child(7))
    assert index.replace(SERVICE, [], 6) == set()
    assert index.put({**child(8), "spec": {"selector": {"a": "new"}}}) == KEY
    assert index.children(KEY)["Service", "digits"]["spec"]["selector"] == {"a": "new"}


def test_a_full_list_of_one_namespace_leaves_others_alone() -> None:
    index = Index()
    index.put(child(1))
    assert index.replace(SERVICE, [], 9, "elsewhere") == set()
    assert index.replace(SERVICE, [], 9, KEY[0]) == {KEY}


def test_a_full_list_of_one_kind_leaves_others_alone() -> None:
    index = Index()
    index.put(child(1, "a", "digits-x", "Deployment"))
    index.put(child(2, "b"))
    assert index.replace(SERVICE, [], 9) == {KEY}
    assert list(index.children(KEY)) == [("Deployment", "digits-x")]
    assert index.replace(DEPLOYMENT, [], 9) == {KEY}


def test_what_is_nobodys_is_not_kept_and_little_is_kept_of_the_rest() -> None:
    index = Index()
    stray = child(1)
    del stray["metadata"]["labels"]
    assert index.put(stray) is None
    index.put(child(2))
    assert "managedFields" not in index.children(KEY)["Service", "digits"]["metadata"]


def test_claims_of_routes_are_read_once_a_generation_and_go_with_the_model() -> None:
    index = Index()
    spec = {"model": {"uri": "https://m.example/m.onnx"}, "route": {"parentRefs": [{"name": "gateway"}]}}
    first = root(1) | {"spec": spec}
    first["metadata"]["generation"] = 1
    other = {**root(2, "other"), "spec": spec}
    other["metadata"] = {**other["metadata"], "name": "other", "generation": 1}
    index.put(first)
    index.put(other)
    seen = observe(index, KEY, Settings(), 0.0)
    assert seen is not None
    assert [(claim.namespace, claim.name) for claim in seen.other_routes] == [("team", "other")]
    known = index.claims["team", "other"]
    observe(index, KEY, Settings(), 1.0)
    assert index.claims["team", "other"] is known
    changed = {**other, "spec": {**spec, "route": {"parentRefs": [{"name": "another"}]}}}
    changed["metadata"] = {**other["metadata"], "resourceVersion": "3", "generation": 2}
    index.put(changed)
    again = observe(index, KEY, Settings(), 2.0)
    assert again is not None
    assert again.other_routes != seen.other_routes
    index.remove(changed)
    assert ("team", "other") not in index.claims
