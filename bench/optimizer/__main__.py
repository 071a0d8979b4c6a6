"""Run with `make bench-optimizer`: optimizes real models and holds what was measured against the targets."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from longshore_optimizer.measure import cpu

from bench.common import RESULTS, Report, Row
from bench.optimizer.cases import CASES
from bench.optimizer.rows import NOT_RUN, rows_of
from bench.optimizer.runs import Record, kept, measure, sources

MAKING = 1200.0
"""Seconds for making a model: two are trained first."""


def name(flags: tuple[str, ...]) -> str:
    """Name of the results: 8 bits gain less without VNNI, so that has a table of its own."""
    return "optimizer" if cpu.has_vnni(flags) else "optimizer-without-vnni"


def stored() -> tuple[dict[str, Row], list[Record]]:
    """Rows of earlier runs, by id, and the runs that they tell of."""
    path = RESULTS / f"{name(cpu.cpu_flags())}.json"
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
        name(cpu.cpu_flags()),
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
            "the sources that it is of. Brief runs, with less than a third of the time that a model may "
            "take, time no defaults and count only for the rows `never-...`, for which all runs count.",
        ),
    )


def _place(record: Record) -> tuple[str, int, bool]:
    (case,) = (c for c in CASES if c.name == record.case)
    return record.case, record.seed, case.brief(record.minutes)


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
            minutes = round(case.seconds / 60 * arguments.share, 2)
            # Making the model, and timing the defaults, comes on top of what the optimizer may take.
            limit = 2 * case.seconds + MAKING
            known = records.get((case.name, seed, case.brief(minutes)))
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
