"""The values' schema: every value is described, and what is not described is refused."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from e2e.cluster.errors import ClusterError
from tests.chart.rendered import CHART, Helm

SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"opertor": {"replicas": 2}}, "additional properties 'opertor' not allowed"),
        ({"operator": {"replica": 2}}, "additional properties 'replica' not allowed"),
        ({"operator": {"replicas": "two"}}, "got string, want integer"),
        ({"operator": {"workers": 0}}, "minimum"),
        ({"imageVolumes": "yes"}, "imageVolumes"),
        ({"store": {"uri": "registry.example/artifacts"}}, "store/uri"),
        ({"registry": {"nodePort": 80}}, "nodePort"),
        ({"registry": {"persistence": {"mode": True}}}, "mode"),
        ({"watchNamespaces": ["Team_A"]}, "watchNamespaces/0"),
        ({"nodeRegistries": [{"nodeHost": "localhost:5000"}]}, "missing property 'host'"),
        ({"image": {"tag": "a b"}}, "image/tag"),
        ({"tests": {"modelUri": "http://models.example/m.onnx"}}, "tests/modelUri"),
    ],
)
def test_a_wrong_value_is_refused_by_name(helm: Helm, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ClusterError) as refused:
        helm.render(values)
    assert message in str(refused.value)


def test_the_chart_may_be_part_of_another(helm: Helm) -> None:
    assert helm.render({"global": {"imageRegistry": "registry.example"}})


def _leaves(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, child in node.get("properties", {}).items():
        where = f"{path}.{name}" if path else name
        if "properties" in child and "$ref" not in child:
            assert child.get("additionalProperties") is False, f"{where} takes unknown values"
            yield from _leaves(child, where)
        yield where, child


def _has(values: Any, path: str) -> bool:
    for name in path.split("."):
        if not isinstance(values, dict) or name not in values:
            return False
        values = values[name]
    return True


def test_every_value_is_described_and_has_its_default_written_out() -> None:
    leaves = dict(_leaves(SCHEMA))
    assert [path for path, node in leaves.items() if not node.get("description")] == []
    assert [path for path in leaves if path != "global" and not _has(VALUES, path)] == []
