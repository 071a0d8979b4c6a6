"""A spec from a file and a spec in the cluster: Python and the API server always say the same."""

import random
import re
from typing import Any

import pytest
from longshore.api.crd import custom_resource_definition
from longshore.api.parse import SpecError, parse_spec, unknown_fields

from tests.api.cases import OUT_OF_RANGE, RULES, TAKEN, URI
from tests.kube import Answer, Kube, model, models_path

pytestmark = pytest.mark.apiserver

TABLE = {
    **{name: raw for name, (raw, _) in RULES.items()},
    **OUT_OF_RANGE,
    **TAKEN,
}
GENERATED = 700


def ask(kube: Kube, raw: Any) -> Answer:
    return kube.call("POST", models_path("default") + "?dryRun=All", model("candidate", raw))


@pytest.mark.parametrize("name", TABLE)
def test_both_agree_on_the_table(kube: Kube, name: str) -> None:
    answer = ask(kube, TABLE[name])
    assert (answer.status == 201) == (name in TAKEN), answer.message
    if name in RULES:
        assert RULES[name][1] in answer.message


def test_both_agree_on_generated_specs(kube: Kube) -> None:
    generator = SpecGenerator(random.Random(7))
    taken = 0
    for _ in range(GENERATED):
        raw = generator.spec()
        answer = ask(kube, raw)
        assert answer.status in (201, 400, 422), answer
        refused = refusal(raw)
        assert (answer.status == 201) == (refused is None), f"{raw}\n{answer.message}\n{refused}"
        taken += answer.status == 201
    assert GENERATED / 10 < taken < GENERATED * 9 / 10, "the generator has lost its balance"


def refusal(raw: Any) -> str | None:
    assert unknown_fields(raw) == ()
    try:
        parse_spec(raw)
    except SpecError as error:
        return str(error)
    return None


class SpecGenerator:
    """Makes specs from the schema: most values fit, some lie on a bound, some are wrong."""

    WRONG = 0.004
    TEXTS = (
        "model.py:build",
        *("30s", "500m", "0s", "1h", "digits", "2", "a b", "x-user", "/v1", "up", "UTC", "A_B"),
        *("0 8 * * 1-5", "Exists", "NoSchedule", "http://prometheus:9090", "a" * 64, URI),
    )

    def __init__(self, source: random.Random) -> None:
        self.random = source
        version = custom_resource_definition()["spec"]["versions"][0]
        self.schema = version["schema"]["openAPIV3Schema"]["properties"]["spec"]

    def spec(self) -> Any:
        return self.object(self.schema, 0)

    def value(self, node: dict[str, Any], depth: int) -> Any:
        if self.random.random() < self.WRONG:
            return self.random.choice([None, True, -1, 0, 0.5, "", "wrong", [], {}, 10**12])
        if node.get("x-kubernetes-int-or-string"):
            return self.random.choice([1, 2, "1", "500m", "1Gi", "0.5"])
        if node.get("x-kubernetes-preserve-unknown-fields"):
            return {"any": [{"thing": 1}]}
        kind = node["type"]
        if kind == "object":
            return self.object(node, depth)
        if kind == "array":
            most = min(node["maxItems"], 2)
            return [self.value(node["items"], depth + 1) for _ in range(self.random.randint(0, most))]
        if kind == "boolean":
            return self.random.random() < 0.3
        if "enum" in node:
            return self.random.choice(node["enum"])
        if kind in ("integer", "number"):
            return self.number(node)
        return self.text(node)

    def object(self, node: dict[str, Any], depth: int) -> dict[str, Any]:
        if "properties" not in node:
            return {
                f"k{i}": self.value(node["additionalProperties"], depth)
                for i in range(self.random.randint(0, 2))
            }
        share = 0.6 if depth == 0 else 0.25
        required = node.get("required", ())
        return {
            name: self.value(inner, depth + 1)
            for name, inner in node["properties"].items()
            if name in required or self.random.random() < share
        }

    def number(self, node: dict[str, Any]) -> float:
        low, high = node["minimum"], node["maximum"]
        choices = [low, high, min(low + 1, high), (low + high) // 2 or low]
        if self.random.random() < 0.01:
            choices = [low - 1, high + 1]
        value = self.random.choice(choices)
        return int(value) if node["type"] == "integer" else float(value)

    def text(self, node: dict[str, Any]) -> str:
        fitting = [
            text
            for text in self.TEXTS
            if re.search(node.get("pattern", ""), text)
            and node.get("minLength", 0) <= len(text) <= node["maxLength"]
        ]
        return self.random.choice(fitting)
