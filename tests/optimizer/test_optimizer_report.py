"""The report marks what no other candidate beats in everything."""

import re

import pytest
from longshore.artifact.manifest import Candidate, Environment, InputModel, Manifest, OutputModel, Verdict
from longshore_optimizer.report import html, markdown, words


def row(
    name: str, drop: float, p95: float, size: int, cpu: float, verdict: Verdict = Verdict.KEPT
) -> Candidate:
    return Candidate(
        name=name,
        technique="Graph",
        drop_upper=drop,
        p50_ms=p95,
        p95_ms=p95,
        cpu_ms=cpu,
        size_bytes=size,
        verdict=verdict,
        reason="told",
    )


MANIFEST = Manifest(
    input=InputModel(sha256="0" * 64, format="Onnx"),
    output=OutputModel(sha256="1" * 64, size_bytes=1),
    chosen="fast",
    candidates=(
        row("original", 0.0, 10, 1000, 10),
        row("fast", 0.005, 4, 900, 8, Verdict.CHOSEN),
        row("small", 0.005, 9, 200, 9),
        row("cheap", 0.005, 9.5, 950, 5),
        row("beaten", 0.006, 9.5, 950, 9.5),
        row("refused", 0.5, 1, 1, 1, Verdict.REFUSED),
    ),
    environment=Environment(),
)
FRONT = {"original", "fast", "small", "cheap"}


def test_the_front_is_what_nothing_beats_in_drop_latency_size_and_cost() -> None:
    assert words.on_front(MANIFEST) == FRONT


@pytest.mark.parametrize(
    ("text", "pattern"),
    [(markdown.render(MANIFEST), r"^\| \**(\w+)\** ◆"), (html.render(MANIFEST), r"<td>(\w+) ◆")],
    ids=["markdown", "html"],
)
def test_both_reports_mark_the_front(text: str, pattern: str) -> None:
    assert set(re.findall(pattern, text, re.MULTILINE)) == FRONT
