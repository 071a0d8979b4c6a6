"""The `longshore` command. Other packages add commands through the entry-point group `longshore.commands`."""

from collections.abc import Callable
from importlib.metadata import entry_points, version

import typer

from longshore.cli import operator, rollout
from longshore.cli.simulate import simulate

GROUP = "longshore.commands"
"""Entry-point group: each entry is a command function or a `typer.Typer`; its name is the command's."""


def build() -> typer.Typer:
    """Assemble the application from what is installed."""
    app = typer.Typer(
        name="longshore",
        help="Model deployments on Kubernetes: verified, optimized with proof, served, rolled out, watched.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_show_locals=False,
    )

    @app.command("version")
    def _version() -> None:
        """Print the version."""
        typer.echo(version("longshore"))

    app.add_typer(operator.app, name="operator")
    app.command("simulate")(simulate)
    for name, function in rollout.COMMANDS.items():
        app.command(name)(function)
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        try:
            command = entry.load()
        except ImportError as error:
            app.command(entry.name, help=f"Not available: {error}")(_missing(entry.name, error))
            continue
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=entry.name)
        else:
            app.command(entry.name)(command)
    return app


def _missing(name: str, error: ImportError) -> Callable[[], None]:
    """Stand in for a command whose package is only half installed."""

    def command() -> None:
        typer.echo(f"longshore {name} cannot start: {error}; install its package again", err=True)
        raise typer.Exit(2)

    return command


def main() -> None:
    """Run the command line."""
    build()()
