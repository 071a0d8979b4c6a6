"""`python -m e2e.cluster`: build, start, look at and remove the cluster that tests and the demo run on."""

import enum
import shlex
import sys
from typing import Annotated

import typer

from e2e.cluster import addons, host, images
from e2e.cluster.build import programs_of_node
from e2e.cluster.choose import chosen
from e2e.cluster.errors import ClusterError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


class Addon(enum.StrEnum):
    """What can be added to a running cluster."""

    GATEWAY = "gateway"


def say(line: str) -> None:
    """Progress goes to standard error: standard output is for what a shell evaluates."""
    print(line, file=sys.stderr, flush=True)


@app.command("host")
def require_host() -> None:
    """Name the Debian packages that this machine lacks; install them as root."""
    host.require((*host.BUILD, *host.NODE, *host.IMAGES, *host.TESTS), say)
    say("this machine has every package that the cluster and the images need")


@app.command()
def build() -> None:
    """Build every program of the local node into the cache, and print the folder they are in."""
    host.require(host.BUILD, say)
    print(programs_of_node(say))


@app.command()
def up() -> None:
    """Start the cluster and print the line that makes kubectl use it."""
    print(f"export KUBECONFIG={shlex.quote(str(chosen().up(say)))}")


@app.command()
def down() -> None:
    """End the cluster and remove all of it."""
    chosen().down(say)
    say("the cluster is down")


@app.command()
def status() -> None:
    """Show what of the cluster runs; exit code 1 when a part does not."""
    parts = chosen().status()
    width = max(len(part.name) for part in parts)
    for part in parts:
        print(f"{part.name:{width}}  {'ok' if part.well else 'NOT OK':6}  {part.remark}")
    if not all(part.well for part in parts):
        sys.exit(1)


@app.command("images")
def load_images(
    names: Annotated[list[str] | None, typer.Argument(help="by default all but the optional triton")] = None,
    *,
    refresh: Annotated[bool, typer.Option(help="fetch the Debian base image anew")] = False,
    only_build: Annotated[bool, typer.Option(help="build into the cache, load nothing")] = False,
) -> None:
    """Build the images that changed and load them into the cluster."""
    if only_build:
        images.build(names or [], say, refresh=refresh)
    else:
        chosen().load_images(names or [], say, refresh=refresh)


@app.command()
def addon(name: Annotated[Addon, typer.Argument(help="what to add")]) -> None:
    """Add to the running cluster: `gateway` is the Gateway API with Traefik; prints the Gateway's address."""
    match name:
        case Addon.GATEWAY:
            print(addons.install_gateway(chosen(), say))


@app.command()
def env() -> None:
    """Print what a shell evaluates to use the cluster: KUBECONFIG, PATH with kubectl, the registry."""
    environment = chosen().environment()
    print(f"export KUBECONFIG={shlex.quote(str(environment.kubeconfig))}")
    if environment.programs:
        print(f"export PATH={shlex.quote(str(environment.programs))}:$PATH")
    if environment.registry:
        print(f"export LONGSHORE_REGISTRY_NODES={environment.registry.nodes}")
        print(f"export LONGSHORE_REGISTRY_PODS={environment.registry.pods}")
        print(f"export LONGSHORE_REGISTRY_HOST={environment.registry.host}")


def main() -> None:
    """Run the command line; an error is a sentence and exit code 1."""
    try:
        app()
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except PermissionError as error:
        print(f"error: {error.filename}: {error.strerror}.\n  next step: run as root", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
