"""Run with `make bench-conversion`: converts what people build, and compares answers on rows not seen."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence

from bench.common import Report, Row, versions
from bench.conversion.outcomes import TOLERANCE, Outcome

FAMILIES = {
    "Keras": ("keras_models", 1.0),
    "PyTorch": ("torch_models", 1.0),
    "scikit-learn": ("scikit_learn_models", 0.65),
}
"""The module of each family, and the share of its models that is to convert: of scikit-learn's estimators,
skl2onnx knows about two thirds."""

_SECONDS = 3600


def measure(module: str) -> list[Outcome]:
    """Run a family in a process of its own: frameworks get in each other's way."""
    done = subprocess.run(
        [sys.executable, "-m", f"bench.conversion.{module}"],
        stdout=subprocess.PIPE,
        text=True,
        timeout=_SECONDS,
        check=True,
    )
    lines = (line for line in done.stdout.splitlines() if line.startswith("{"))
    return [Outcome(**json.loads(line)) for line in lines]


def rows(family: str, share: float, outcomes: Sequence[Outcome]) -> Iterator[Row]:
    """What converts, what of it answers otherwise, and how far the rest is from its source."""
    name = family.lower()
    converted = [o for o in outcomes if o.error is not None]
    part = len(converted) / len(outcomes) if outcomes else None
    note = f"{len(converted)} of {len(outcomes)}"
    yield Row(f"{name}-converted", part, "of all", ">=", share, note)
    yield Row(f"{name}-answer-otherwise", sum(not o.right for o in converted), "models", "==", 0)
    worst = max((o.error or 0.0 for o in converted if o.right), default=None)
    yield Row(f"{name}-largest-error", worst, "of the scale", "<=", TOLERANCE)
    silent = sum(1 for o in outcomes if o.error is None and ": " not in o.reason)
    yield Row(f"{name}-refused-without-words", silent, "models", "==", 0)


def main() -> None:
    """Measure all families and write the results."""
    found = {family: measure(module) for family, (module, _) in FAMILIES.items()}
    made = [row for family, (_, share) in FAMILIES.items() for row in rows(family, share, found[family])]
    missed = [
        {
            "family": o.family,
            "model": o.model,
            "form": o.form,
            "why": o.reason or f"answers differ by {o.error}",
        }
        for outcomes in found.values()
        for o in outcomes
        if not o.right
    ]
    packages = ("keras", "tensorflow", "tf2onnx", "torch", "scikit-learn", "skl2onnx", "onnx", "onnxruntime")
    report = Report(
        "conversion",
        tuple(made),
        {**versions(packages), "refused": missed or "nothing"},
        (
            "Networks and estimators of every usual kind are saved, converted as `longshore optimize` does "
            "it, and both asked rows that the conversion has not seen: batches of 1 and 3 (estimators 60). "
            "An error is relative to the largest value of its output; of classes, one in a hundred may flip.",
            "What does not convert is listed below with what the user is told.",
        ),
    )
    print(report.write())
    report.print()


if __name__ == "__main__":
    main()
