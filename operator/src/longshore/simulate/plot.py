"""A page with three charts drawn as SVG: traffic, pods and latency over time. No script, no network."""

import math
from collections.abc import Sequence
from html import escape

from longshore.simulate.run import JUDGED, Result

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 960, 220, 70, 24
_POINTS = 600
"""Most points of a line; longer replays are thinned by their highest values."""

Series = tuple[str, str, Sequence[float | None]]


def page(results: Sequence[Result], objective: float, percentile: float, title: str) -> str:
    """Draw the replays side by side; all must come from the same trace."""
    first = results[0]
    colours = [_COLOURS[i % len(_COLOURS)] for i in range(len(results))]
    rate: list[Series] = [("requests per second", "#555", [i.requests / JUDGED for i in first.intervals])]
    pods: list[Series] = [
        (r.name, c, [float(i.wanted) for i in r.intervals]) for r, c in zip(results, colours, strict=True)
    ]
    latency: list[Series] = [
        (r.name, c, [None if i.latency is None else i.latency * 1000 for i in r.intervals])
        for r, c in zip(results, colours, strict=True)
    ]
    span = len(first.intervals) * JUDGED
    charts = [
        _chart("Requests per second", rate, span),
        _chart("Pods wanted", pods, span),
        _chart(
            f"Latency, {percentile:.1%} quantile, ms (line: objective, axis cut at 5 times it)",
            latency,
            span,
            mark=objective * 1000,
            top=objective * 5000,
        ),
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        "<style>body{font:14px sans-serif;margin:24px;max-width:1000px}text{font:11px sans-serif}</style>"
        f"</head><body><h1>{escape(title)}</h1>{''.join(charts)}</body></html>\n"
    )


def _chart(
    title: str, series: Sequence[Series], span: float, mark: float | None = None, top: float | None = None
) -> str:
    known = [v for _, _, values in series for v in values if v is not None and math.isfinite(v)]
    high = max([*known, mark or 0.0, 1e-9])
    high = min(high, top) if top is not None else high
    parts = [
        f"<h2>{escape(title)}</h2>",
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + _BOTTOM}" width="100%" role="img" '
        f'aria-label="{escape(title)}">',
    ]
    for share in (0, 0.5, 1):
        y = _HEIGHT - share * (_HEIGHT - 12)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{high * share:.4g}</text>'
        )
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = _LEFT + share * (_WIDTH - _LEFT)
        anchor = "end" if share == 1 else "middle"
        parts.append(
            f'<text x="{x:.1f}" y="{_HEIGHT + 16}" text-anchor="{anchor}">{_clock(span * share)}</text>'
        )
    if mark is not None:
        y = _HEIGHT - mark / high * (_HEIGHT - 12)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#000" stroke-dasharray="4"/>'
        )
    for _, colour, values in series:
        parts += [
            f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{points}"/>'
            for points in _lines(values, high)
        ]
    parts.append("</svg>")
    if len(series) > 1:
        parts.append(
            "<p>"
            + " &nbsp; ".join(f'<span style="color:{c}">&#9632;</span> {escape(n)}' for n, c, _ in series)
            + "</p>"
        )
    return "".join(parts)


def _lines(values: Sequence[float | None], high: float) -> list[str]:
    """Give one list of points for each stretch without a gap."""
    step = max(1, math.ceil(len(values) / _POINTS))
    count = max(1, math.ceil(len(values) / step))
    lines: list[str] = []
    points: list[str] = []
    for index in range(count):
        known = [v for v in values[index * step : (index + 1) * step] if v is not None]
        if not known:
            if points:
                lines.append(" ".join(points))
            points = []
            continue
        x = _LEFT + index / max(count - 1, 1) * (_WIDTH - _LEFT)
        points.append(f"{x:.1f},{_HEIGHT - min(max(known) / high, 1.0) * (_HEIGHT - 12):.1f}")
    if points:
        lines.append(" ".join(points))
    return lines


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d}" if minutes >= 60 else f"{seconds:.0f} s"
