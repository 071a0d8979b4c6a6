"""A spec from a file: what it becomes, and what is said of one that cannot be understood."""

import contextlib
import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longshore.api import Spec
from longshore.api.base import millicores, quantity, seconds
from longshore.api.parse import SpecError, parse_manifest, parse_spec, unknown_fields
from longshore.plan.revision import artifact_key, revision_of

from tests.api.cases import OUT_OF_RANGE, RULES, TAKEN, spec
from tests.kube import model


@pytest.mark.parametrize("name", RULES)
def test_broken_rules_are_told_in_the_same_words_as_by_the_api_server(name: str) -> None:
    raw, words = RULES[name]
    with pytest.raises(SpecError, match=r".") as caught:
        parse_spec(raw)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_out_of_range_is_refused_and_the_field_named(name: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(OUT_OF_RANGE[name])
    assert str(caught.value).startswith("spec.")


@pytest.mark.parametrize("name", TAKEN)
def test_good_specs_are_taken(name: str) -> None:
    parse_spec(TAKEN[name])
    assert unknown_fields(TAKEN[name]) == ()


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec({"model": {"uri": "ftp://x"}, "serving": {"replicas": -1}})
    assert {p.partition(":")[0] for p in caught.value.problems} == {"spec.model.uri", "spec.serving.replicas"}


def test_defaults_are_filled_in_and_the_raw_spec_is_left_alone() -> None:
    raw = copy.deepcopy(TAKEN["least"])
    parsed = parse_spec(raw)
    assert raw == TAKEN["least"]
    assert parsed.scaling.min == 1
    assert parsed.serving.batching.max_size == 32
    assert parsed.rollout.progress_deadline == "10m"


def test_whole_numbers_and_texts_are_the_same_quantity() -> None:
    number = parse_spec(spec(serving={"resources": {"limits": {"cpu": 2}}}))
    text = parse_spec(spec(serving={"resources": {"limits": {"cpu": "2"}}}))
    assert number == text
    assert revision_of(number) == revision_of(text)


def test_unknown_fields_are_named_wherever_they_hide() -> None:
    raw = spec(
        serving={"podTemplate": {"tolerations": [{"key": "a"}, {"kee": "b"}]}, "replica": 1},
        zebra=1,
        rollout={"analysis": {"alpha": 1}},
    )
    assert unknown_fields(raw) == (
        "spec.rollout.analysis.alpha",
        "spec.serving.podTemplate.tolerations[1].kee",
        "spec.serving.replica",
        "spec.zebra",
    )


def test_free_parts_hold_no_unknown_fields() -> None:
    assert unknown_fields(TAKEN["free-affinity"]) == ()


def test_a_manifest_is_read_as_strictly_as_kubectl_applies_it() -> None:
    assert parse_manifest(model("digits")).metadata.name == "digits"
    with pytest.raises(SpecError, match=r"there is no such field; remove it"):
        parse_manifest(model("digits", spec(serving={"replica": 1})))
    with pytest.raises(SpecError, match="shorten it"):
        parse_manifest(model("a" * 41))
    with pytest.raises(SpecError, match=r"longshore\.dev/v1alpha1 ModelDeployment is wanted here"):
        parse_manifest({**model("digits"), "kind": "InferenceService"})
    with pytest.raises(SpecError, match="spec: field required"):
        parse_manifest(
            {"apiVersion": "longshore.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "a"}}
        )


@pytest.mark.parametrize(
    ("text", "value"),
    [("300ms", 0.3), ("30s", 30), ("1h30m", 5400), ("1.5h", 5400), ("0s", 0), ("1m1s1ms", 61.001)],
)
def test_durations(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "30", "s", "-1s", "1d", "1s ", "1s\n", "1 s", "1e3s", "\uff11s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write a number with a unit"):
        seconds(text)


@pytest.mark.parametrize(
    ("text", "millis"),
    [
        ("500m", 500),
        ("2", 2000),
        ("0.1", 100),
        ("1m", 1),
        ("0.0001", 1),
        ("1k", 1_000_000),
        ("1Ki", 1_024_000),
    ],
)
def test_quantities_in_millicores(text: str, millis: int) -> None:
    assert millicores(text) == millis


@pytest.mark.parametrize("text", ["", "m", "1GB", "-1", "1 Gi", "1Gi\n", "1ki", "1e3"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write a number with an optional unit"):
        quantity(text)


def test_revision_knows_what_makes_a_pod_answer_differently() -> None:
    first = revision_of(parse_spec(spec()))
    assert revision_of(parse_spec(spec(serving={"replicas": 5}))) == first
    assert revision_of(parse_spec(spec(scaling={"min": 3}, rollout={"steps": [{"weight": 5}]}))) == first
    assert revision_of(parse_spec(spec(serving={"runtime": "OnnxRuntime"}))) == first, "a default written out"
    assert revision_of(parse_spec(spec(serving={"batching": {"maxSize": 8}}))) != first
    assert revision_of(parse_spec(spec(optimize={}))) != first
    assert revision_of(parse_spec({"model": {"uri": "https://models.example/other.onnx"}})) != first


def test_artifact_key_ignores_what_the_artifact_does_not_depend_on() -> None:
    def key(parsed: Spec) -> str:
        return artifact_key(parsed.model, parsed.optimize, parsed.serving, "server:1")

    first = key(parse_spec(spec(optimize={})))
    assert key(parse_spec(spec(optimize={}, serving={"batching": {"maxSize": 8}}))) == first
    assert key(parse_spec(spec(optimize={}, serving={"resources": {"limits": {"cpu": 2}}}))) != first
    assert key(parse_spec(spec(optimize={"seed": 1}))) != first


@given(st.text(max_size=40))
def test_any_text_is_a_duration_or_refused_as_such(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert seconds(text) >= 0


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)
_PARTS = st.sampled_from(["model", "optimize", "serving", "scaling", "rollout", "route", "other"])


@given(st.dictionaries(_PARTS, _JSON, max_size=6))
def test_any_json_is_parsed_or_refused_as_such(raw: dict[str, object]) -> None:
    with contextlib.suppress(SpecError):
        parse_spec(raw)


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("1000m", "1"),
        ("1500m", "1500m"),
        ("0.5", "500m"),
        ("0.1", "100m"),
        ("1000", "1k"),
        ("1536", "1536"),
        ("0.5Gi", "512Mi"),
        ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("0.1Gi", "107374182400m"),
        ("1Ki", "1Ki"),
        ("0.5Ki", "512"),
        ("0", "0"),
        ("0Gi", "0"),
        ("0.0001", "1m"),
        ("2G", "2G"),
        ("2000M", "2G"),
        ("1024Pi", "1Ei"),
        ("00500m", "500m"),
    ],
)
def test_quantities_are_written_as_the_api_server_stores_them(text: str, stored: str) -> None:
    parsed = parse_spec(spec(serving={"resources": {"limits": {"cpu": text}}}))
    assert parsed.serving.resources.limits == {"cpu": stored}
