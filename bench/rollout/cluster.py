"""What only a real cluster shows: rows stand here from the beginning, measured or not."""

from bench.common import Row


def rows() -> list[Row]:
    """Name the targets; none of them is measured without the cluster."""
    note = "needs the cluster of `make cluster`"
    return [
        Row(
            "real cluster, 100 % errors, 50 rps: fault to weight 0 at the gateway", None, "s", "<=", 10, note
        ),
        Row(
            "real cluster, failed requests through a good rollout under load", None, "requests", "==", 0, note
        ),
        Row(
            "real cluster, failed requests through an abort beyond the canary's own",
            None,
            "requests",
            "==",
            0,
            note,
        ),
        Row("real cluster, operator killed at any step: ends that differ", None, "ends", "==", 0, note),
    ]
