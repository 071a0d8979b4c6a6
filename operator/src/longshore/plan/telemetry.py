"""What pods tell of themselves: the text of their metrics read into numbers with our names."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from longshore.runtimes.base import MetricSource


@dataclass(frozen=True)
class PodReading:
    """One answer of one pod, at `at` seconds since the epoch; `process` changes when the server restarts."""

    pod: str
    uid: str
    revision: str
    at: float
    process: str
    values: Mapping[str, float]
    predictions: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    """How often each bin was predicted since the server started, by kind of bin."""
    unmirrored: str = ""
    """Why it does not send copies though it was asked to."""


@dataclass(frozen=True)
class Telemetry:
    """The latest round of readings of one ModelDeployment."""

    at: float = 0.0
    readings: tuple[PodReading, ...] = ()
    unanswered: Mapping[str, str] = field(default_factory=dict)
    """Pods that were asked and did not answer, and why."""


PREDICTIONS = "longshore_predictions_total"
MOST_BINS = 4096
"""Bins that are read of one pod; a server of ours has half as many."""

_PREDICTION = re.compile(
    rf'^{PREDICTIONS}\{{(?:.*,)?kind="(?P<kind>[a-z]{{1,16}})",bin="(?P<bin>\d{{1,6}})"\}} '
    r"(?P<count>\d{1,15})$",
    re.MULTILINE | re.ASCII,
)


def parse_predictions(text: str) -> dict[str, dict[int, int]]:
    """Read how often each bin was predicted, by kind of bin; what is not understood is left out."""
    found: dict[str, dict[int, int]] = {}
    for number, match in enumerate(_PREDICTION.finditer(text)):
        if number >= MOST_BINS:
            break
        found.setdefault(match["kind"], {})[int(match["bin"])] = int(match["count"])
    return found


def parse_metrics(text: str, source: MetricSource) -> dict[str, float]:
    """Read the values that `source` names from Prometheus text (exposition format 0.0.4).

    Series of the same name are added up over their labels. What is no number is left out.
    """
    wanted: dict[str, list[tuple[str, float, str]]] = {}
    for ours, series in source.series.items():
        for one in series:
            wanted.setdefault(one.name, []).append((ours, one.scale, one.label))
    values: dict[str, float] = {}
    for line in text.splitlines():
        if not line or line[0] == "#":
            continue
        brace = line.find("{")
        name = line[:brace] if brace >= 0 else line.partition(" ")[0]
        if name not in wanted:
            continue
        end = line.rfind("}")
        labels, rest = (line[brace + 1 : end], line[end + 1 :]) if brace >= 0 else ("", line[len(name) :])
        words = rest.split()
        try:
            value = float(words[0])
        except (IndexError, ValueError):
            continue
        if not math.isfinite(value):
            continue
        for ours, scale, label in wanted[name]:
            if label in labels:
                values[ours] = values.get(ours, 0.0) + value * scale
    return values
