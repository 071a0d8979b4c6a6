"""Every manifest in the documentation and in examples/ is one that the API server takes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from longshore.api.parse import parse_manifest
from longshore.plan.supported import unsupported_fields

from e2e.cluster.apiserver import ApiServer
from tests.chart.conftest import helm  # noqa: F401 (a fixture)
from tests.chart.rendered import Helm
from tests.docs.pages import ROOT, blocks
from tests.kube import Kube

FOREIGN = ("argoproj.io/",)
"""Groups whose definitions are not here; their objects are only read as YAML."""


def _documents() -> Iterator[tuple[str, dict[str, Any]]]:
    for block in blocks("yaml"):
        for document in yaml.safe_load_all(block.text):
            yield str(block), document
    for path in sorted(ROOT.glob("examples/**/*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            yield path.relative_to(ROOT).as_posix(), document


ALL = list(_documents())
MODELS = [(where, doc) for where, doc in ALL if doc.get("kind") == "ModelDeployment"]
OTHERS = [(where, doc) for where, doc in ALL if "kind" in doc and doc["kind"] != "ModelDeployment"]
VALUES = [(where, doc) for where, doc in ALL if "kind" not in doc]


def _cases(documents: list[tuple[str, dict[str, Any]]]) -> Any:
    return pytest.mark.parametrize(
        "document", [document for _, document in documents], ids=[where for where, _ in documents]
    )


@pytest.fixture(scope="module")
def kube(apiserver: ApiServer) -> Iterator[Kube]:
    with Kube(apiserver) as client:
        client.install((ROOT / "crds/longshore.dev_modeldeployments.yaml").read_text())
        for document in (document for _, document in ALL if "kind" in document):
            client.namespace(document["metadata"].get("namespace", "default"))
        yield client


@_cases(MODELS)
def test_a_model_is_read_as_it_stands_and_every_field_has_its_effect(document: dict[str, Any]) -> None:
    assert unsupported_fields(parse_manifest(document).spec) == ()


@pytest.mark.apiserver
@_cases([*MODELS, *(o for o in OTHERS if not o[1]["apiVersion"].startswith(FOREIGN))])
def test_the_api_server_takes_it(kube: Kube, document: dict[str, Any]) -> None:
    arguments = ("apply", "--dry-run=server", "--validate=strict", "-f", "-")
    assert "dry run" in kube.server.kubectl(*arguments, stdin=json.dumps(document))


@_cases(VALUES)
def test_values_are_values_of_the_chart(helm: Helm, document: dict[str, Any]) -> None:  # noqa: F811
    assert helm.render(document)


def test_there_is_an_example_for_each_guide() -> None:
    found = {path.stem for path in Path(ROOT / "examples").glob("*.yaml")}
    assert {"minimal", "digits", "canary", "scaling", "triton", "zero"} <= found
