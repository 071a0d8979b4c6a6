"""`make bench-rollout`: error probabilities, times to a decision, cost, and safety of rollouts."""

from bench.common import Report, versions
from bench.rollout import cluster, plan_level, simulated

SUMMARY = (
    "Traffic is simulated as Poisson requests with binomial errors, 20 requests a second with 10 % to the "
    "canary where nothing else is said, and looked at after every tick, which is the worst case of optional "
    "stopping; the arithmetic is the operator's own, over arrays.",
)


def main() -> None:
    """Measure everything and write the results."""
    report = Report(
        name="rollout",
        rows=(*simulated.rows(), *plan_level.rows(), *cluster.rows()),
        environment={**simulated.environment(), "versions": versions(("numpy", "pydantic"))},
        summary=SUMMARY,
    )
    report.write()
    report.print()


if __name__ == "__main__":
    main()
