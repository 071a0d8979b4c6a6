"""`python -m e2e.cluster`: build, start, look at and remove the cluster that tests and the demo run on."""

import sys

import typer

from e2e.cluster import host, node, teardown
from e2e.cluster.build import programs_of_node
from e2e.cluster.errors import ClusterError
from e2e.cluster.lock import exclusive
from e2e.cluster.paths import NodePaths

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


def say(line: str) -> None:
    """Progress goes to standard error: standard output is for what a shell evaluates."""
    print(line, file=sys.stderr, flush=True)


@app.command()
def build() -> None:
    """Build every program of the local node into the cache."""
    host.require(host.BUILD, say)
    print(programs_of_node(say))


@app.command()
def up() -> None:
    """Start the cluster and print the line that makes kubectl use it."""
    print(f"export KUBECONFIG={node.up(NodePaths(), say)}")


@app.command()
def down() -> None:
    """End the cluster and remove all of it."""
    with exclusive(node.LOCK, what="ending the local cluster", seconds=600, say=say):
        teardown.down(NodePaths(), programs_of_node(say) / "kube-proxy")


def main() -> None:
    """Run the command line; an error is a sentence and exit code 1."""
    try:
        app()
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
