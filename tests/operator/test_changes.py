"""Whether an object stands as it should, told without a request."""

from typing import Any

import pytest
from longshore.changes import stamped, stands
from longshore.resources.names import APPLIED

BASE: dict[str, Any] = {
    "kind": "Service",
    "metadata": {"name": "a", "annotations": {"x": "1"}},
    "spec": {"selector": {"a": "b"}, "ports": [{"port": 80}, {"port": 81}]},
}


def live(**changes: Any) -> dict[str, Any]:
    """Give the object as the API server would hold it after it was applied."""
    wanted = stamped(BASE)
    metadata = {**wanted["metadata"], "uid": "u", "resourceVersion": "1", "labels": {"foreign": "1"}}
    spec = {**BASE["spec"], "clusterIP": "10.0.0.1", "ports": [{"port": 80, "nodePort": 1}, {"port": 81}]}
    return {**wanted, "metadata": metadata, "spec": spec, "status": {}} | changes


def test_what_others_added_is_no_change() -> None:
    assert stands(stamped(BASE), live())


@pytest.mark.parametrize(
    "changed",
    [
        {"spec": {"selector": {"a": "c"}, "ports": [{"port": 80}, {"port": 81}]}},
        {"spec": {"selector": {"a": "b"}, "ports": [{"port": 80}]}},
        {"spec": {"selector": {"a": "b"}, "ports": [{"port": 80}, {"port": 81}, {"port": 82}]}},
        {"spec": {"ports": [{"port": 80}, {"port": 81}]}},
        {"spec": None},
        {"metadata": {"name": "a", "annotations": {}}},
        {"metadata": {**live()["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}},
    ],
)
def test_drift_is_seen(changed: dict[str, Any]) -> None:
    assert not stands(stamped(BASE), live(**changed))


def test_nothing_there_does_not_stand() -> None:
    assert not stands(stamped(BASE), None)


def test_a_field_that_is_no_longer_wanted_is_seen() -> None:
    less = {
        **BASE,
        "spec": {"selector": {"a": "b"}, "ports": [{"port": 80}, {"port": 81}], "sessionAffinity": "None"},
    }
    had = {
        **live(),
        "metadata": {**live()["metadata"], "annotations": stamped(less)["metadata"]["annotations"]},
    }
    assert not stands(stamped(BASE), had)


@pytest.mark.parametrize("empty", [{}, [], "", None, 0, False])
def test_empty_and_absent_are_the_same(empty: Any) -> None:
    wanted = stamped({**BASE, "spec": {**BASE["spec"], "more": empty}})
    there = live()
    there["metadata"] = {**there["metadata"], "annotations": wanted["metadata"]["annotations"]}
    assert stands(wanted, there)


def test_the_stamp_is_of_the_content_and_stable() -> None:
    again = {**BASE, "metadata": dict(reversed(BASE["metadata"].items()))}
    assert (
        stamped(BASE)["metadata"]["annotations"][APPLIED]
        == stamped(again)["metadata"]["annotations"][APPLIED]
    )
    assert stamped(BASE)["metadata"]["annotations"]["x"] == "1"
    assert "annotations" in BASE["metadata"]
    assert APPLIED not in BASE["metadata"]["annotations"], "the wish itself is left as it was"
