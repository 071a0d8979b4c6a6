"""What the pages say: links that lead somewhere, commands that exist, reasons and metrics of the code."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import click
import pytest
import typer.main
from longshore.api import reference
from longshore.cli.main import build
from longshore.metrics import Metrics
from longshore_optimizer.errors import Reason

from e2e.cluster.command import run
from tests.chart.conftest import helm  # noqa: F401 (a fixture)
from tests.chart.rendered import Helm
from tests.docs.pages import PAGES, ROOT, Block, blocks, name

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text()):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{name(page)} links to {target}"
        if anchor:
            assert anchor in _anchors(found), f"{name(page)} links to {target}"


def test_every_page_can_be_found_from_the_start() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        targets = (target.partition("#")[0] for target in _LINK.findall(page.read_text()))
        waiting += [(page.parent / t).resolve() for t in targets if t and not t.startswith("http")]
    assert [name(page) for page in PAGES if page not in seen] == []


def test_pictures_are_well_formed_and_described() -> None:
    for picture in ROOT.glob("docs/**/*.svg"):
        root = ElementTree.parse(picture).getroot()
        names = [child.tag.rpartition("}")[2] for child in root]
        assert {"title", "desc"} <= set(names), picture


def test_the_reference_is_current() -> None:
    page = ROOT / "docs/reference/modeldeployment.md"
    assert page.read_text() == reference.render(), "run `make generate`"


def _planned_reasons() -> Iterator[str]:
    """Every reason of a `Problem` in the plan, literal or a constant of its file, and of what a rollout waits
    for that may be stuck."""
    for path in (ROOT / "operator/src/longshore").rglob("*.py"):
        tree = ast.parse(path.read_text())
        constants = {
            target.id: str(node.value.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or not node.args:
                continue
            is_stuck = path.parent.name == "rollout" and (
                len(node.args) == 3 or any(keyword.arg == "stuck" for keyword in node.keywords)
            )
            if node.func.id == "Problem" or (node.func.id == "Waiting" and is_stuck):
                for part in ast.walk(node.args[0]):
                    if isinstance(part, ast.Name):
                        yield from [constants[part.id]] if part.id in constants else []
                    elif isinstance(part, ast.Constant) and re.fullmatch("[A-Z][A-Za-z]+", str(part.value)):
                        yield str(part.value)


def test_every_reason_is_explained() -> None:
    text = (ROOT / "docs/guides/troubleshooting.md").read_text()
    explained = set(re.findall(r"^\| `([A-Za-z]+)` \|", text, re.MULTILINE))
    reasons = {str(reason) for reason in Reason} | set(_planned_reasons())
    assert "DigestMismatch" in reasons
    assert "RouteConflict" in reasons
    assert sorted(reasons - explained) == [], "explain them in docs/guides/troubleshooting.md"


def test_every_metric_that_is_named_exists() -> None:
    text = (ROOT / "docs/guides/metrics.md").read_text()
    named = set(re.findall(r"`((?:nv|longshore)_[a-z_]+)(?:\{[a-z,]+\})?`", text))
    own = {metric.name for metric in Metrics().registry.collect()}
    own |= {f"{metric}_total" for metric in own}
    server = "".join(p.read_text() for p in (ROOT / "images/server/src").rglob("*.py"))
    assert [metric for metric in sorted(named) if metric not in own and metric not in server] == []
    assert len(named) > 10


def _commands() -> Iterator[tuple[Block, list[str]]]:
    """Every command of every shell block, as words; pipes and substitutions end one."""
    for block in blocks("sh"):
        joined = block.text.replace("\\\n", " ")
        for line in joined.splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words:
                yield block, words


COMMANDS = list(_commands())


def _of(program: str) -> list[list[str]]:
    return [words for _, words in COMMANDS if words[0] == program]


def test_every_longshore_command_exists_with_its_options() -> None:
    root = typer.main.get_command(build())
    assert _of("longshore")
    for words in _of("longshore"):
        command, rest = root, words[1:]
        while isinstance(command, click.Group) or hasattr(command, "commands"):
            assert rest[0] in command.commands, words
            command, rest = command.commands[rest[0]], rest[1:]
        known = {option for parameter in command.params for option in parameter.opts}
        given = {word.partition("=")[0] for word in rest if word.startswith("-")}
        assert given <= known | {"--help"}, words


def test_every_server_option_exists() -> None:
    text = run([ROOT / ".venv/bin/longshore-server", "--help"])
    for words in _of("longshore-server"):
        for word in words:
            assert not word.startswith("--") or word in text, words


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    pages = "".join(page.read_text() for page in PAGES)
    targets = {words[1] for words in _of("make")} | set(re.findall(r"`make ([a-z][a-z0-9-]*)`", pages))
    assert {"demo", "test"} <= targets
    assert [t for t in sorted(targets) if not re.search(rf"^{re.escape(t)}:", makefile, re.MULTILINE)] == []


def test_every_helm_option_exists(helm: Helm) -> None:  # noqa: F811
    for words in _of("helm"):
        known = helm(words[1], "--help")
        for word in words[2:]:
            assert not word.startswith("--") or f"{word.partition('=')[0]} " in known, words


def test_every_file_that_a_command_names_is_there_or_made_by_the_reader() -> None:
    for _, words in COMMANDS:
        for word in words[1:]:
            if word.startswith(("charts/", "examples/", "crds", "./operator", "./images")):
                assert (ROOT / word).exists(), words


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks("python"):
        exec(compile(block.text, str(block), "exec"), {})
