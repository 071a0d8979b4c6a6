"""`longshore simulate`: what would scaling have done with this traffic, and what would it have cost?"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn

import typer
import yaml
from rich.console import Console
from rich.table import Table

from longshore.api import ModelDeployment
from longshore.api.base import seconds
from longshore.api.parse import SpecError, parse_manifest
from longshore.simulate.compare import HELD, Assumptions, Comparison, bill, compare
from longshore.simulate.plot import page
from longshore.simulate.run import Result
from longshore.simulate.trace import Trace, TraceError, read

_MAX_MANIFEST = 1 << 20


def simulate(
    trace: Annotated[
        Path, typer.Argument(help="CSV with a header: time and requests, time and rps, or time alone.")
    ],
    manifest: Annotated[Path, typer.Argument(help="The ModelDeployment, YAML.")],
    run_time: Annotated[str, typer.Option(help="Time a pod needs for one request alone.")] = "20ms",
    per_request: Annotated[
        str | None,
        typer.Option(help="Time that each further request of a batch adds; absent: as much as one alone."),
    ] = None,
    variation: Annotated[
        float, typer.Option(min=0, max=3, help="Standard deviation of a run's time over its mean.")
    ] = 0.2,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Batches that a pod runs at once.")] = 1,
    startup: Annotated[str, typer.Option(help="Time from a pod's creation to its readiness.")] = "10s",
    objective: Annotated[
        str | None, typer.Option(help="Latency objective; absent: the spec's, else ten run times.")
    ] = None,
    percentile: Annotated[
        float | None, typer.Option(min=0.5, max=0.999, help="Percentile held to the objective.")
    ] = None,
    hpa_cpu: Annotated[
        float | None, typer.Option(min=1, max=1000, help="CPU target of the HPA in percent; absent: 80.")
    ] = None,
    keda_rps: Annotated[
        float | None,
        typer.Option(min=0.001, help="KEDA's requests per second and pod; absent: the best one there is."),
    ] = None,
    cost: Annotated[float, typer.Option(min=0, help="Cost of one pod per hour.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same result.")] = 1,
    fixed: Annotated[bool, typer.Option(help="Also look for the best fixed number of pods.")] = True,
    html: Annotated[Path | None, typer.Option(help="Also draw pods and latency into this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Replay a request trace under Builtin, HPA and KEDA and compare pods, latency and cost."""
    spec = _read_manifest(manifest).spec
    replayed = _read_trace(trace)
    alone = _length(run_time, "--run-time")
    each = alone if per_request is None else _length(per_request, "--per-request")
    if each > alone:
        _fail(
            f"--per-request {per_request} is above --run-time {run_time}: a batch of one takes the run time"
        )
    assumed = Assumptions(
        run_time=alone,
        per_request=each,
        variation=variation,
        workers=workers,
        startup=_length(startup, "--startup", zero=True),
        objective=None if objective is None else _length(objective, "--objective"),
        percentile=percentile,
        hpa_cpu=hpa_cpu,
        keda_rps=keda_rps,
        seed=seed,
    )
    with Console(stderr=True).status(f"replaying {replayed.requests:.0f} requests"):
        found = compare(replayed, spec, assumed, with_fixed=fixed)
    if as_json:
        typer.echo(json.dumps(_as_json(found, cost), indent=2))
    else:
        Console().print(_table(found, cost))
    if html is not None:
        try:
            html.write_text(
                page(_all(found), found.objective, found.percentile, f"{manifest.stem} on {trace.name}")
            )
        except OSError as error:
            _fail(f"cannot write {html}: {error.strerror}; choose another path")


def _read_manifest(path: Path) -> ModelDeployment:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_MANIFEST + 1)
        if len(text) > _MAX_MANIFEST:
            _fail(f"{path} is larger than {_MAX_MANIFEST} bytes: give one ModelDeployment")
        raw = yaml.safe_load(text)
        if not isinstance(raw, dict):
            _fail(f"{path} holds no single object: give one ModelDeployment")
        return parse_manifest(raw)
    except OSError as error:
        _fail(f"cannot read {path}: {error.strerror}")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        _fail(f"{path} is no YAML: {error}")
    except SpecError as error:
        _fail(f"{path}: {error}")


def _read_trace(path: Path) -> Trace:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return read(file)
    except OSError as error:
        _fail(f"cannot read {path}: {error.strerror}")
    except UnicodeDecodeError as error:
        _fail(f"{path} is no text in UTF-8: {error}")
    except TraceError as error:
        _fail(f"{path}: {error}")


def _length(text: str, option: str, *, zero: bool = False) -> float:
    try:
        value = seconds(text)
    except ValueError as error:
        _fail(f"{option}: {error}")
    if value <= 0 and not zero:
        _fail(f"{option} must be above 0")
    return value


def _fail(message: str) -> NoReturn:
    typer.echo(f"longshore simulate: {message}", err=True)
    raise typer.Exit(2)


def _all(found: Comparison) -> tuple[Result, ...]:
    return found.results if found.fixed is None else (*found.results, found.fixed)


def _table(found: Comparison, cost: float) -> Table:
    table = Table(
        title=f"{found.percentile:.3g} of requests within {found.objective * 1000:.4g} ms, "
        f"{HELD:.0%} of the time"
    )
    table.add_column("", no_wrap=True)
    for name in ("held", "lost", "p50/p95/p99 ms", "longest s", "pods mean/peak", "changes", "cost"):
        table.add_column(name, justify="right")
    for result in _all(found):
        good = result.held_share >= HELD and not result.lost
        table.add_row(
            result.name,
            f"{result.held_share:.1%}",
            str(result.lost),
            "/".join(f"{q * 1000:.3g}" for q in (result.p50, result.p95, result.p99)),
            f"{result.longest:.2g}",
            f"{result.mean_pods:.2f}/{result.peak}",
            str(len(result.events)),
            f"{bill(result, cost):.2f}",
            style="green" if good else "red",
        )
    if found.fixed is None:
        table.caption = "no fixed number of pods up to max holds the objective, or none was looked for"
    return table


def _as_json(found: Comparison, cost: float) -> dict[str, object]:
    def one(result: Result) -> dict[str, object]:
        values = asdict(result)
        del values["intervals"]
        return {**values, "mean_pods": result.mean_pods, "cost": bill(result, cost)}

    return {
        "objectiveSeconds": found.objective,
        "percentile": found.percentile,
        "results": [one(result) for result in _all(found)],
    }
