"""Hints to the scheduler: only for small models, only preferences, and a user's own words go before them."""

from typing import Any

import pytest
from longshore.settings import Settings

from tests.operator.world import SPEC, World


def pod(serving: dict[str, Any], packs: bool = True) -> dict[str, Any]:
    world = World({**SPEC, "serving": serving}, Settings(pack_small_models=packs))
    (found,) = [o for o in world.plan().apply if o["kind"] == "Deployment"]
    spec: dict[str, Any] = found["spec"]["template"]["spec"]
    return spec


def test_small_models_share_nodes_and_copies_of_one_stay_apart() -> None:
    affinity = pod({})["affinity"]
    (together,) = affinity["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    (apart,) = affinity["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert apart["weight"] > together["weight"]
    labels = apart["podAffinityTerm"]["labelSelector"]["matchLabels"]
    assert labels["longshore.dev/name"] == "digits"
    assert "longshore.dev/name" not in together["podAffinityTerm"]["labelSelector"]["matchLabels"]


@pytest.mark.parametrize(
    "serving",
    [
        {"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "2"}}},
        {"resources": {"requests": {"memory": "4Gi"}, "limits": {"memory": "4Gi"}}},
        {"resources": {"limits": {"nvidia.com/gpu": "1"}, "requests": {"nvidia.com/gpu": "1"}}},
    ],
)
def test_large_models_are_left_to_the_scheduler(serving: dict[str, Any]) -> None:
    assert "affinity" not in pod(serving)


def test_it_is_asked_for_by_whoever_installs_the_operator() -> None:
    assert "affinity" not in pod({}, packs=False)


def test_what_the_user_says_goes_first_and_the_priority_class_is_passed_on() -> None:
    own: dict[str, Any] = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
    found = pod({"podTemplate": {"affinity": own, "priorityClassName": "urgent"}})
    assert found["affinity"] == own
    assert found["priorityClassName"] == "urgent"
