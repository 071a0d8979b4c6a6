"""`longshore operator check`: shows that a cluster serves models."""

import asyncio
import json
from typing import Annotated

import typer


def check(
    model: Annotated[str, typer.Argument(help="Uri of the model to serve.")],
    namespace: Annotated[str, typer.Option(help="Namespace to work in.", envvar="POD_NAMESPACE")] = "default",
    name: Annotated[str, typer.Option(help="Name of the ModelDeployment.")] = "longshore-check",
    question: Annotated[
        str | None, typer.Option(help="Row for the model's one input, as JSON; none: zeros.")
    ] = None,
    answer: Annotated[str | None, typer.Option(help="Row that must come back, as JSON; none: any.")] = None,
    timeout: Annotated[float, typer.Option(min=5, max=3600, help="Longest time until an answer, s.")] = 300,
) -> None:
    """Apply a ModelDeployment, ask it a question, and remove it; exit code 1 with what is wrong."""
    try:
        from longshore.check import CheckError, Question, check_model
        from longshore.cluster import ClusterError
    except ImportError as error:
        typer.echo(f"{error}: install the operator's part with `pip install 'longshore[operator]'`", err=True)
        raise typer.Exit(2) from None
    try:
        asked = Question(
            model=model,
            row=json.loads(question) if question else None,
            answer=json.loads(answer) if answer else None,
        )
    except ValueError as error:
        typer.echo(f"--question and --answer are lists in JSON, such as [1, 2]: {error}", err=True)
        raise typer.Exit(2) from None
    try:
        asyncio.run(check_model(namespace, name, asked, timeout, typer.echo))
    except (CheckError, ClusterError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
