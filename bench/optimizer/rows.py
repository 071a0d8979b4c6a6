"""Rows of the table: for every target the worst of all runs of a model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from bench.common import Row
from bench.optimizer.cases import Case
from bench.optimizer.runs import Record

NOT_RUN = "not measured: left out so far"


def rows_of(case: Case, records: Sequence[Record], failed: Sequence[str] = ()) -> Iterator[Row]:
    """Give the worst of all seeds for every target of a model.

    Of brief runs only what holds however short the budget is counts.
    """
    targets = case.targets()
    if failed or not records:
        for row in targets.values():
            yield replace(row, note="not measured: " + "; ".join(failed))
        return
    full = [r for r in records if not case.brief(r.minutes)]
    for key, row in targets.items():
        if key.startswith("never"):
            value, note = _never(key, records)
        elif full:
            value, note = _worst(key, full)
        else:
            yield replace(row, note=NOT_RUN)
            continue
        yield replace(row, value=round(value, 5), note=note)


def _worst(key: str, records: Sequence[Record]) -> tuple[float, str]:
    runs = [r.run for r in records]
    match key:
        case "speed":
            return min(r.speed for r in runs), f"{_seeds(records)}; {_chosen(records)}"
        case "size":
            return min(r.size for r in runs), _seeds(records)
        case "macs":
            return min(r.products for r in runs), f"{_seeds(records)}; {_chosen(records)}"
        case "drop":
            return max(r.drop for r in runs), _seeds(records)
        case "time":
            return max(r.seconds for r in runs), _seeds(records)
        case "over-defaults":
            # Where no default holds the gate, the original is what a careful user would serve.
            against = [r.speed if r.default is None else r.default for r in runs]
            some = any(r.default is not None for r in runs)
            told = (
                "against the best default that holds the gate"
                if some
                else "no default holds the gate: against the original"
            )
            return min(against), f"{_seeds(records)}; {told}"
    raise ValueError(f"nothing is measured for {key}")


def _never(key: str, records: Sequence[Record]) -> tuple[float, str]:
    runs = [r.run for r in records]
    value: Mapping[str, float] = {
        "never-worse": max(r.drop for r in runs),
        "never-slower": min(r.speed for r in runs),
        "never-larger": min(r.size for r in runs),
    }
    minutes = sorted({r.minutes for r in records})
    told = " to ".join(f"{m:g}" for m in dict.fromkeys((minutes[0], minutes[-1])))
    return value[key], f"{_seeds(records)}; budgets of {told} minutes; {_chosen(records)}"


def _seeds(records: Sequence[Record]) -> str:
    return "seeds " + ", ".join(str(seed) for seed in sorted({r.seed for r in records}))


def _chosen(records: Sequence[Record]) -> str:
    return "chosen: " + ", ".join(sorted({r.run.chosen for r in records}))
