"""What every bench shares: where it ran, rows with their targets, and the two files they are written to."""

import json
import operator
import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

RESULTS = Path(__file__).parent / "results"

Op = Literal["<=", ">=", "=="]

_COMPARE: dict[Op, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
}


@dataclass(frozen=True)
class Row:
    """One measured figure and what it has to be; `value` is None where it could not be measured."""

    id: str
    value: float | None
    unit: str
    op: Op
    target: float
    note: str = ""

    @property
    def holds(self) -> bool:
        """Tell whether the target is met; what was not measured does not hold."""
        return self.value is not None and _COMPARE[self.op](self.value, self.target)

    def to_json(self) -> dict[str, Any]:
        """Give the row as it stands in the results file."""
        row = {
            "id": self.id,
            "value": self.value,
            "unit": self.unit,
            "op": self.op,
            "target": self.target,
            "holds": self.holds,
        }
        return {**row, "note": self.note} if self.note else row


@dataclass(frozen=True)
class Report:
    """Everything one bench has to say.

    Attributes:
        name: of the bench; the files are called after it.
        rows: one for every target, missed ones included.
        environment: what else decides the figures (versions, sizes, settings).
        summary: sentences above the table: what was measured and how.
    """

    name: str
    rows: tuple[Row, ...]
    environment: Mapping[str, Any] = field(default_factory=dict)
    summary: tuple[str, ...] = ()

    def write(self, directory: Path = RESULTS) -> Path:
        """Write `NAME.json` and the table made from it, `NAME.md`; gives the path of the JSON file."""
        directory.mkdir(parents=True, exist_ok=True)
        content = {
            "environment": {**environment(), **self.environment},
            "rows": [row.to_json() for row in self.rows],
        }
        path = directory / f"{self.name}.json"
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        path.with_suffix(".md").write_text(markdown(self.name, content, self.summary))
        return path

    def print(self) -> None:
        """Print one line a row."""
        for row in self.rows:
            verdict = "holds " if row.holds else "MISSED"
            print(f"{verdict} {row.id}: {_number(row.value)} {row.unit} ({row.op} {_number(row.target)})")


def written(name: str) -> dict[str, tuple[Row, ...]]:
    """Read the rows of a bench's last run by part, as its environment's `parts` counts them; none without."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return {}
    found = json.loads(path.read_text())
    rows = tuple(
        Row(r["id"], r["value"], r["unit"], r["op"], r["target"], r.get("note", "")) for r in found["rows"]
    )
    parts: dict[str, tuple[Row, ...]] = {}
    for part, count in found["environment"].get("parts", {}).items():
        parts[part], rows = rows[:count], rows[count:]
    return parts


def environment() -> dict[str, Any]:
    """Say what the figures were measured on; nothing that names a machine or a person."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "system": f"{platform.system()} {platform.release().partition('-')[0]} {platform.machine()}",
        "python": platform.python_version(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "memoryBytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Give the installed versions of the packages that a bench depends on."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str] = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def median(values: Iterable[float]) -> float:
    """Give the median of at least one value."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def percentile(values: Iterable[float], share: float) -> float:
    """Give the smallest value that `share` (0 to 1) of all values do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = max(1, -int(-share * len(ordered) // 1))
    return ordered[min(rank, len(ordered)) - 1]


def markdown(name: str, content: Mapping[str, Any], summary: Iterable[str] = ()) -> str:
    """Make the table from the content of the results file."""
    lines = [f"# {name}", "", *(f"{sentence}\n" for sentence in summary)]
    lines += ["| measured | value | target | holds |", "|---|---:|---:|---|"]
    for row in content["rows"]:
        note = f" ({row['note']})" if row.get("note") else ""
        lines.append(
            f"| {row['id']}{note} | {_number(row['value'])} {row['unit']} "
            f"| {row['op']} {_number(row['target'])} {row['unit']} | {'yes' if row['holds'] else '**no**'} |"
        )
    lines += ["", "Measured on:", ""]
    tables = {key: value for key, value in content["environment"].items() if _is_table(value)}
    lines += [
        f"- {key}: {_words(value)}" for key, value in content["environment"].items() if key not in tables
    ]
    for key, value in tables.items():
        lines += ["", f"{key.capitalize()}:", "", *_table(value)]
    return "\n".join(lines) + "\n"


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)


def _table(rows: list[Mapping[str, Any]]) -> Iterable[str]:
    columns = list(rows[0])
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield f"| {' | '.join(_words(row.get(column)) for column in columns)} |"


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value))
    return str(value)


def _number(value: float | None) -> str:
    if value is None:
        return "not measured"
    return (
        f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    )


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    sys.exit("this is what the benches share; run one of them: make bench-NAME")
