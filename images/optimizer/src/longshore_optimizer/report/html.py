"""The report as one HTML page with a plot of the trade-off; it loads nothing from anywhere."""

import math
from html import escape

from longshore.artifact.manifest import ORIGINAL, Candidate, Manifest

from longshore_optimizer.report import words

_WIDTH, _HEIGHT, _MARGIN = 760, 380, 56
_COLOURS = {
    "Chosen": "#15803d",
    "Kept": "#2563eb",
    "Refused": "#d97706",
    "Failed": "#dc2626",
    "Skipped": "#9ca3af",
}
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } .lead { font-size: 1.1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; }
td:last-child { white-space: normal; min-width: 16rem; }
tr.chosen { font-weight: 600; }
.verdict { border-radius: .6rem; padding: 0 .5rem; color: #fff; font-size: .85rem; }
li { white-space: pre-wrap; overflow-wrap: anywhere; }
svg { max-width: 100%; height: auto; } svg text { fill: currentColor; font-size: 12px; }
footer { color: #888; font-size: .85rem; margin-top: 2rem; overflow-wrap: anywhere; }
"""


def render(manifest: Manifest) -> str:
    """Write the page; every text is escaped, as names and reasons may come from a hostile model."""
    rows = "".join(_row(manifest, c) for c in manifest.candidates)
    listed = "".join(f"<li>{escape(note)}</li>" for note in manifest.notes)
    heads = ("candidate", "metric", "drop", "drop ≤", "p50", "p95", "CPU", "speed", "size", "verdict", "why")
    environment = manifest.environment
    versions = ", ".join(f"{k} {v}" for k, v in sorted(environment.versions.items()))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>What the optimizer measured</title><style>{_STYLE}</style></head><body>"
        f'<h1>What the optimizer measured</h1><p class="lead">{escape(words.summary(manifest))}</p>'
        + (f"<ul>{listed}</ul>" if manifest.notes else "")
        + plot(manifest)
        + f'<div class="wide"><table><thead><tr>{"".join(f"<th>{h}</th>" for h in heads)}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        "<p>◆ on the Pareto front over drop bound, p95, size and CPU time. Latencies and CPU time are of one "
        "request at a time, every model in a process of its own, in interleaved rounds.</p>"
        f"<footer>input {manifest.input.sha256} ({escape(manifest.input.format)})<br>output "
        f"{manifest.output.sha256}<br>seed {environment.seed}, CPU limit {words.number(environment.cpus)}, "
        f"{escape(versions)}<br>CPU flags: {escape(' '.join(environment.cpu_flags))}</footer></body></html>\n"
    )


def _row(manifest: Manifest, c: Candidate) -> str:
    front = " ◆" if c.name in words.on_front(manifest) else ""
    badge = f'<span class="verdict" style="background:{_COLOURS[c.verdict]}">{c.verdict.value}</span>'
    cells = (
        escape(c.name) + front,
        words.number(c.metric),
        words.number(c.drop),
        words.number(c.drop_upper),
        words.milliseconds(c.p50_ms),
        words.milliseconds(c.p95_ms),
        words.milliseconds(c.cpu_ms),
        words.speed(manifest, c),
        words.size(c.size_bytes),
        badge,
        escape(c.reason),
    )
    kind = ' class="chosen"' if c.name == manifest.chosen else ""
    return f"<tr{kind}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def plot(manifest: Manifest) -> str:
    """Draw p95 against the bound on the drop, dots sized as the models are; empty with nothing to draw."""
    judged = [c for c in manifest.candidates if c.technique != words.EXPORT]
    points = [c for c in judged if c.p95_ms and (c.drop_upper is not None or c.name == ORIGINAL)]
    if len(points) < 2:
        return ""
    latencies = [math.log10(c.p95_ms or 1) for c in points]
    drops = [max(c.drop_upper or 0.0, 0.0) for c in points]
    left, right = min(latencies) - 0.05, max(latencies) + 0.05
    top = max(max(drops) * 1.1, 1e-6)
    largest = max(c.size_bytes or 1 for c in points)

    def x(value: float) -> float:
        return _MARGIN + (value - left) / (right - left) * (_WIDTH - 2 * _MARGIN)

    def y(value: float) -> float:
        return _HEIGHT - _MARGIN - value / top * (_HEIGHT - 2 * _MARGIN)

    drawn = []
    for c, latency, drop in zip(points, latencies, drops, strict=True):
        radius = 4 + 10 * math.sqrt((c.size_bytes or 0) / largest)
        tip = f"{c.name}: p95 {words.milliseconds(c.p95_ms)}, drop ≤ {drop:.4g}, {words.size(c.size_bytes)}"
        drawn.append(
            f'<circle cx="{x(latency):.1f}" cy="{y(drop):.1f}" r="{radius:.1f}" fill="{_COLOURS[c.verdict]}" '
            f'fill-opacity=".65"><title>{escape(tip)}</title></circle>'
        )
    front = sorted(
        (latency, drop)
        for c, latency, drop in zip(points, latencies, drops, strict=True)
        if c.name in words.on_front(manifest)
    )
    line = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in front)
    ticks = "".join(
        f'<text x="{x(v):.1f}" y="{_HEIGHT - _MARGIN + 18}" text-anchor="middle">{10**v:.3g}</text>'
        for v in (left + (right - left) * i / 5 for i in range(6))
    ) + "".join(
        f'<text x="{_MARGIN - 8}" y="{y(top * i / 4) + 4:.1f}" text-anchor="end">{top * i / 4:.3g}</text>'
        for i in range(5)
    )
    base = _HEIGHT - _MARGIN
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="p95 latency against the drop">'
        f'<path d="M{_MARGIN},{_MARGIN} V{base} H{_WIDTH - _MARGIN}" fill="none" stroke="currentColor"/>'
        f'<polyline points="{line}" fill="none" stroke="#2563eb" stroke-dasharray="4 3"/>'
        f"{''.join(drawn)}{ticks}"
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 12}" text-anchor="middle">p95 in ms (logarithmic)</text>'
        f'<text x="14" y="{_MARGIN - 24}">upper bound of the drop</text></svg>'
    )
