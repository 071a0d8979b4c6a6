"""The command line: `longshore optimize` for a person, `longshore-optimizer` for the containers.

Nothing heavy is imported before a command runs: the init container's `fetch` starts in a fraction of a
second.
"""

from pathlib import Path
from typing import Annotated

import typer

from longshore_optimizer.errors import EXIT_FAILED, Problem, exit_code

app = typer.Typer(
    name="longshore-optimizer",
    help="The optimizer of Longshore: what its Job and its init container run.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


@app.command("optimize")
def optimize(
    model: Annotated[str, typer.Argument(help="Model file, directory, or uri (https, s3, gs, az, oci, hf).")],
    out: Annotated[Path, typer.Option(help="Directory for model.onnx and manifest.json.", file_okay=False)],
    calibration: Annotated[
        str | None, typer.Option(help="Data for static quantization: .npz, directory of shards, or uri.")
    ] = None,
    evaluation: Annotated[
        str | None, typer.Option(help="Held-out data that decides; without it only lossless steps are kept.")
    ] = None,
    training: Annotated[str | None, typer.Option(help="Data for techniques that train.")] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Model that teaches in distillation; default: the original.")
    ] = None,
    student: Annotated[
        str | None, typer.Option(help="Model that learns in distillation; default: made from the original.")
    ] = None,
    metric: Annotated[
        str,
        typer.Option(
            help="accuracy, top5, precision, recall, f1, rocauc, mae, rmse, r2, agreement, wer, cer, map."
        ),
    ] = "accuracy",
    metric_function: Annotated[
        str | None,
        typer.Option(help="Python file with metric(outputs, labels), in place of --metric; its code runs."),
    ] = None,
    max_drop: Annotated[
        float, typer.Option(min=0.0, help="Largest loss accepted, in units of the metric.")
    ] = 0.01,
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.9999, help="Confidence of the one-sided bound on the loss.")
    ] = 0.95,
    goal: Annotated[str, typer.Option(help="latency, throughput, size or cost.")] = "latency",
    technique: Annotated[
        list[str] | None, typer.Option(help="Technique to try, repeatable; default: all that apply.")
    ] = None,
    max_p95: Annotated[
        str | None, typer.Option(help="Limit on the 95th percentile of latency, such as 20ms.")
    ] = None,
    max_size: Annotated[str | None, typer.Option(help="Limit on the model's size, such as 10Mi.")] = None,
    trials: Annotated[int, typer.Option(min=1, max=10_000, help="Most candidates that are tried.")] = 40,
    time: Annotated[str, typer.Option(help="Longest time for everything, such as 10m.")] = "30m",
    cpus: Annotated[
        float | None, typer.Option(min=0.05, help="CPU that the model will be served on, in cores.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2_147_483_647, help="Seed of everything random.")] = 0,
    sha256: Annotated[str | None, typer.Option(help="Digest that the model must have.")] = None,
    format: Annotated[  # noqa: A002 - the option's name is the field's
        str | None, typer.Option(help="Format of the model; default: detected from its content.")
    ] = None,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Load pickles: this runs code from the file.")
    ] = False,
    factory: Annotated[
        str | None,
        typer.Option(help="What builds the network of PyTorch weights: file.py:function beside the model."),
    ] = None,
    allow_http: Annotated[bool, typer.Option("--allow-http", help="Fetch over http:// too.")] = False,
    on_miss: Annotated[
        str, typer.Option(help="serve-original or fail, where no candidate passes the gates.")
    ] = ("serve-original"),
    export: Annotated[
        list[str] | None, typer.Option(help="Format to write beside the model, repeatable.")
    ] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Directory for TensorBoard events of all trials.", file_okay=False)
    ] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the manifest, and nothing else, on stdout.")
    ] = False,
) -> None:
    """Make a model faster or smaller, prove on data that it still answers well, and write it to OUT.

    Exit codes: 0 done (the original where nothing beats it), 1 unexpected, 2 wrong usage, 3 fetching failed,
    4 the model is not usable, 5 the data is not usable, 6 no candidate passed and --on-miss fail, 7 out of
    memory, disk or time.
    """
    from longshore_optimizer.command import Options, run

    try:
        run(
            Options(
                model=model,
                out=out,
                calibration=calibration,
                evaluation=evaluation,
                training=training,
                teacher=teacher,
                student=student,
                metric=metric,
                metric_function=metric_function,
                max_drop=max_drop,
                confidence=confidence,
                goal=goal,
                techniques=tuple(technique or ()),
                max_p95=max_p95,
                max_size=max_size,
                trials=trials,
                time=time,
                cpus=cpus,
                seed=seed,
                sha256=sha256,
                format=format,
                allow_pickle=allow_pickle,
                factory=factory,
                allow_http=allow_http,
                on_miss=on_miss,
                exports=tuple(export or ()),
                tensorboard=tensorboard,
                json=json_output,
            )
        )
    except Problem as problem:
        typer.secho(f"{problem.reason}: {problem.message}", fg=typer.colors.RED, err=True)
        raise typer.Exit(exit_code(problem.reason)) from None


@app.command("job")
def job() -> None:
    """Run as the optimize Job: the request in LONGSHORE_JOB, the report in the termination message."""
    from longshore_optimizer.job import main as run_job

    raise typer.Exit(run_job())


@app.command("fetch")
def fetch(
    out: Annotated[Path, typer.Option(help="Directory for the verified model.", file_okay=False)],
) -> None:
    """Run as an init container: fetch and verify the model or LONGSHORE_ARTIFACT into OUT."""
    from longshore_optimizer.initfetch import main as run_fetch

    raise typer.Exit(run_fetch(out))


def main() -> None:
    """Run the command line."""
    try:
        app()
    except KeyboardInterrupt:
        raise SystemExit(EXIT_FAILED + 129) from None
