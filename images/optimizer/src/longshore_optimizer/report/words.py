"""Sentences and numbers that both reports share. Pure functions of the manifest."""

import math

from longshore.artifact.manifest import ORIGINAL, Candidate, Manifest

EXPORT = "Export"
"""Technique of the rows that tell of exports: they were not candidates."""


def find(manifest: Manifest, name: str) -> Candidate | None:
    """Give a candidate by name."""
    return next((c for c in manifest.candidates if c.name == name), None)


def summary(manifest: Manifest) -> str:
    """Say in one or two sentences what was chosen and what it brings."""
    original, chosen = find(manifest, ORIGINAL), find(manifest, manifest.chosen)
    if original is None or chosen is None or chosen is original:
        return f"The original is served: {original.reason if original else 'nothing was tried'}."
    parts = []
    if original.p50_ms and chosen.p50_ms:
        parts.append(
            f"{original.p50_ms / chosen.p50_ms:.2f} times the speed (p50 {milliseconds(chosen.p50_ms)})"
        )
    if original.size_bytes and chosen.size_bytes:
        parts.append(f"{chosen.size_bytes / original.size_bytes:.0%} of the size ({size(chosen.size_bytes)})")
    if chosen.drop is not None and chosen.drop_upper is not None and manifest.metric:
        parts.append(f"{manifest.metric} lower by {chosen.drop:.4g}, at most {chosen.drop_upper:.4g}")
    return f"{chosen.name} is served: {', '.join(parts)}."


def number(value: float | None, digits: int = 4) -> str:
    """Give a number with so many significant digits, a dash for none."""
    return "-" if value is None else f"{value:.{digits}g}"


def milliseconds(value: float | None) -> str:
    """Give a latency with its unit."""
    return "-" if value is None else f"{value:.3g} ms"


def size(value: int | None) -> str:
    """Give a size in bytes with a binary unit."""
    if value is None:
        return "-"
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= factor:
            return f"{value / factor:.1f} {unit}"
    return f"{value} B"


def speed(manifest: Manifest, candidate: Candidate) -> str:
    """Give how many times as fast as the original a candidate is."""
    original = find(manifest, ORIGINAL)
    if original is None or not original.p50_ms or not candidate.p50_ms:
        return "-"
    return f"{original.p50_ms / candidate.p50_ms:.2f}x"


def on_front(manifest: Manifest) -> frozenset[str]:
    """Names of the candidates that pass and that no other one beats in drop bound, p95, size and CPU time at
    once."""
    points = {
        c.name: (c.drop_upper or 0.0, c.p95_ms or math.inf, float(c.size_bytes or 0), c.cpu_ms or math.inf)
        for c in manifest.candidates
        if c.verdict in ("Chosen", "Kept") and c.technique != EXPORT
    }

    def beaten(name: str) -> bool:
        mine = points[name]
        return any(
            other != mine and all(o <= m for o, m in zip(other, mine, strict=True))
            for other in points.values()
        )

    return frozenset(n for n in points if not beaten(n))
