"""Run with `make bench-optimizer`: optimizes real models and holds what was measured against the targets."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from longshore_optimizer.measure import cpu

from bench.common import RESULTS, Report, Row
from bench.optimizer.cases import CASES, Case
from bench.optimizer.runs import Record, kept, measure, sources

MAKING = 1200.0
"""Seconds for making a model: two are trained first."""
NOT_RUN = "not measured: left out so far"


def rows_of(case: Case, records: Sequence[Record], failed: Sequence[str] = ()) -> Iterator[Row]:
    """Give the worst of all seeds for every target of a model."""
    targets = case.targets()
    if failed or not records:
        for row in targets.values():
            yield replace(row, note="not measured: " + "; ".join(failed))
        return
    done = [r.run for r in records]
    seeds = "seeds " + ", ".join(str(r.seed) for r in sorted(records, key=lambda r: r.seed))
    against = [r.default for r in done if r.default is not None]
    told = "against the best default that holds the gate"
    if not against:
        # Where no default holds the gate, the original is what a careful user would serve.
        against, told = [r.speed for r in done], "no default holds the gate: against the original"
    chosen = f"chosen: {', '.join(sorted({r.chosen for r in done}))}"
    worst = {
        "speed": (min(r.speed for r in done), chosen),
        "drop": (max(r.drop for r in done), ""),
        "time": (max(r.seconds for r in done), ""),
        "over-defaults": (min(against), told),
        "size": (min(r.size for r in done), ""),
        "macs": (min(r.products for r in done), chosen),
    }
    for key, row in targets.items():
        value, note = worst[key]
        yield replace(row, value=round(value, 5), note="; ".join(filter(None, (seeds, note))))


def stored() -> tuple[dict[str, Row], list[Record]]:
    """Rows of earlier runs, by id, and the runs that they tell of."""
    path = RESULTS / "optimizer.json"
    if not path.exists():
        return {}, []
    content = json.loads(path.read_text())
    rows = {
        r["id"]: Row(r["id"], r["value"], r["unit"], r["op"], r["target"], r.get("note", ""))
        for r in content["rows"]
    }
    return rows, [Record.of_json(r) for r in content["environment"].get("runs", ())]


def report(
    records: Sequence[Record], failed: Mapping[str, Sequence[str]], before: Mapping[str, Row]
) -> Report:
    """One row for every target: as measured, now or by an earlier run, else as not measured."""
    rows: list[Row] = []
    for case in CASES:
        own = [r for r in records if r.case == case.name]
        if own or failed.get(case.name):
            rows += rows_of(case, own, failed.get(case.name, ()))
        else:
            rows += [before.get(r.id) or replace(r, note=NOT_RUN) for r in case.targets().values()]
    flags = [f for f in cpu.cpu_flags() if f.startswith(("avx", "amx", "fma"))]
    return Report(
        "optimizer",
        tuple(rows),
        {"cpuFlags": flags, **cpu.versions(), "runs": [r.to_json() for r in sorted(records, key=_place)]},
        (
            "Real models through `longshore optimize`, by the goal that the targets are about: `latency`, or "
            "`size` where they are about products (MACs); the worst of the seeds named counts.",
            "Speed is timed after the choice, against the original and ONNX Runtime's `quantize_dynamic` and "
            "`quantize_static` with every setting left as it is, in fresh processes and interleaved rounds, "
            "each with the threads that the server would give it; "
            "the factor is the median of the rounds' ratios. "
            "Where the original itself is chosen, the factor is 1 by definition: the file is the same, and "
            "is not timed.",
            "All seeds of all models take many hours, so runs add up: each is told below, with the state of "
            "the sources that it is of.",
        ),
    )


def _place(record: Record) -> tuple[str, int]:
    return record.case, record.seed


def main() -> None:
    """Measure, and write the results after each model and seed; what was measured before is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds, from 0; the worst is reported")
    parser.add_argument(
        "--seed", type=int, action="append", help="one seed in place of these; may be repeated"
    )
    parser.add_argument(
        "--share", type=float, default=0.8, help="budget.time, as a share of the time that a seed may take"
    )
    parser.add_argument("--only", action="append", choices=[c.name for c in CASES], help="may be repeated")
    arguments = parser.parse_args()
    before, found = stored()
    records = {_place(r): r for r in found}
    failed: dict[str, list[str]] = {}
    for case in CASES:
        if arguments.only and case.name not in arguments.only:
            continue
        for seed in arguments.seed or range(arguments.seeds):
            minutes = case.seconds / 60 * arguments.share
            # Making the model, and timing the defaults, comes on top of what the optimizer may take.
            limit = 2 * case.seconds + MAKING
            known = records.get((case.name, seed))
            if known is not None and (known.minutes, known.sources) == (minutes, sources()):
                continue
            measured = kept(case, seed, minutes) or measure(case, seed, minutes, limit)
            if isinstance(measured, Record):
                records[_place(measured)] = measured
            else:
                failed.setdefault(case.name, []).append(measured)
            report(list(records.values()), failed, before).write()
    report(list(records.values()), failed, before).print()


if __name__ == "__main__":
    main()
