"""`python -m e2e.demo`: cluster, images, operator, a model, its optimization, its answers."""

import os
import shlex
import sys
import time

from rich.console import Console

from e2e.cluster.choose import VARIABLE, chosen
from e2e.cluster.errors import ClusterError
from e2e.demo import chart, digits, watch
from e2e.demo.tools import Tools

_READY_SECONDS = 600
_ASKED = 500
_WANTED = 0.9
"""Share of right answers below which something is wrong with what is served; training gives about 0.97."""


def main() -> None:
    """Run the demo; an error is a sentence with the next step and exit code 1."""
    # In a log file nobody wraps lines at 80 characters.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    begun = time.monotonic()
    try:
        demo(console)
    except ClusterError as error:
        console.print(f"[bold red]The demo ends here[/]: {error}", markup=True)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("interrupted; `make demo` goes on from here")
        sys.exit(130)
    console.print(f"\nDone in {time.monotonic() - begun:.0f} s. Look around:")
    console.print('  eval "$(.venv/bin/python -m e2e.cluster env)"')
    console.print("  kubectl get md -o wide; kubectl describe md digits")
    console.print("  make cluster-down    # removes all of it")


def demo(console: Console) -> None:
    """Run every step."""

    def say(line: str) -> None:
        console.print(f"  {line}", markup=False)

    cluster = chosen()
    console.rule("1. a cluster", align="left")
    cluster.up(say)
    tools = Tools.of(cluster.environment())

    console.rule("2. the images", align="left")
    if os.environ.get(VARIABLE, "").strip() == "current":
        say("CLUSTER=current: the images that the chart's values name (HELM_ARGS) are used as they are")
    else:
        cluster.load_images([], say, refresh=False)

    console.rule("3. the operator, by its Helm chart", align="left")
    chart.install(tools, say, options=shlex.split(os.environ.get("HELM_ARGS", "")))

    console.rule("4. a model of handwritten digits, with data to calibrate and to judge", align="left")
    folder = digits.train()
    say(f"trained: {folder}")
    for uri in digits.push_all(tools, folder, chart.REGISTRY, chart.NAMESPACE):
        say(f"pushed {uri.split('/', 3)[3]}")

    console.rule("5. kubectl apply -f examples/digits.yaml", align="left")
    say(tools.kubectl("apply", "-n", digits.NAMESPACE, "-f", str(digits.MANIFEST)).strip())
    if watch.is_stalled(tools, digits.NAME, digits.NAMESPACE):
        say("it stalled in an earlier run: it is asked to try once more")
        retry = f"longshore.dev/retry={int(time.time())}"
        tools.kubectl(
            "annotate", "modeldeployment", digits.NAME, "-n", digits.NAMESPACE, retry, "--overwrite"
        )
    status = watch.until_ready(tools, digits.NAME, digits.NAMESPACE, console, _READY_SECONDS)
    console.print(watch.measured(status))

    console.rule("6. predictions", align="left")
    answers = digits.ask(tools, folder, _ASKED)
    shown = "  ".join(f"{said}{'=' if said == label else '≠'}{label}" for said, label in answers.first)
    say(f"answer and label of the first digits: {shown}")
    share = answers.right / answers.asked
    say(
        f"{answers.right} of {answers.asked} held-out digits are right ({share:.1%}), "
        f"{answers.seconds:.2f} s for all of them"
    )
    say(f"inside the cluster: {status['url']}")
    if share < _WANTED:
        raise ClusterError(
            f"only {share:.1%} of the answers are right, below {_WANTED:.0%}.\n"
            "  next step: compare `status.optimization` with the table above, and look at the server's log"
        )


if __name__ == "__main__":
    main()
