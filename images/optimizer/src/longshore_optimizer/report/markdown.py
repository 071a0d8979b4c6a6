"""The report as Markdown."""

from collections.abc import Sequence

from longshore.artifact.manifest import Manifest

from longshore_optimizer.report import words

_COLUMNS = ("candidate", "metric", "drop", "drop ≤", "p50", "p95", "CPU", "speed", "size", "verdict", "why")


def render(manifest: Manifest) -> str:
    """Write the report; text from the model or from libraries is escaped."""
    front = words.on_front(manifest)
    lines = ["# What the optimizer measured", "", words.summary(manifest), ""]
    lines += [_note(note) for note in manifest.notes] + ([""] if manifest.notes else [])
    lines += [_row(_COLUMNS), _row(["---"] * len(_COLUMNS))]
    for c in manifest.candidates:
        name = f"**{c.name}**" if c.name == manifest.chosen else c.name
        lines.append(
            _row(
                [
                    name + (" ◆" if c.name in front else ""),
                    words.number(c.metric),
                    words.number(c.drop),
                    words.number(c.drop_upper),
                    words.milliseconds(c.p50_ms),
                    words.milliseconds(c.p95_ms),
                    words.milliseconds(c.cpu_ms),
                    words.speed(manifest, c),
                    words.size(c.size_bytes),
                    c.verdict.value,
                    c.reason,
                ]
            )
        )
    lines += [
        "",
        "◆ on the Pareto front over drop bound, p95, size and CPU time. Latencies and CPU time are of one "
        "request at a time, in interleaved rounds.",
    ]
    environment = manifest.environment
    lines += [
        "",
        f"- input `{manifest.input.sha256}` ({manifest.input.format})",
        f"- output `{manifest.output.sha256}` ({words.size(manifest.output.size_bytes)})",
        f"- seed {environment.seed}, CPU limit {words.number(environment.cpus)}, "
        + ", ".join(f"{k} {v}" for k, v in sorted(environment.versions.items())),
        "",
    ]
    return "\n".join(lines)


def _note(text: str) -> str:
    """One item of a list; further lines, such as a traceback's, stand in it as code."""
    first, *rest = text.strip().splitlines()
    return "\n".join([f"- {first}", *([""] if rest else []), *(f"      {line}" for line in rest)])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
