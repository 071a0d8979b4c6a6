"""Every message of the optimizer's names its next step: after the cause, an order to the reader."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.docs.pages import ROOT

SOURCES = ROOT / "images" / "optimizer" / "src"
STEPS = re.compile(
    r"(add|align|build|check|choose|clean|convert|correct|create|delete|encode|export|give|install|leave|let|"
    r"make|mount|name|prepare|push|put|raise|remove|rename|repair|replace|reshape|save|see|set|stack|train|"
    r"try|upload|use|write)\b"
)
"""The words that a next step begins with; a new one belongs here if it tells the reader what to do."""

WITHOUT = (
    # Why a candidate is refused stands in the table, and asks nothing of anybody.
    "its output",
    "the candidate has no output",
    "the output {} has {} rows",
    # What is put in brings the step with it; other tests read those whole.
    "{} is no model in a known format",
    "the {} cannot be used",
)


def text(node: ast.expr) -> str | None:
    """The text of a literal, with {} for what is put in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(v.value if isinstance(v, ast.Constant) else "{}" for v in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def messages() -> Iterator[tuple[str, str]]:
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Problem":
                message = text(node.args[1])
                if message is not None and not message.startswith(WITHOUT):
                    yield f"{path.stem}:{node.lineno}", message


def steps(message: str) -> list[str]:
    return [part for part in re.split("[:;] ", message)[1:] if STEPS.match(part)]


def test_messages_name_the_next_step() -> None:
    found = list(messages())
    assert len(found) > 150, "the messages are made in another way now: look for them there"
    assert [f"{place}: {message}" for place, message in found if not steps(message)] == []


@pytest.mark.parametrize(
    "message", ["it is broken", "{} cannot be imported: {}", "the registry is over 4 MiB: not a model"]
)
def test_a_cause_alone_is_no_next_step(message: str) -> None:
    assert not steps(message)
