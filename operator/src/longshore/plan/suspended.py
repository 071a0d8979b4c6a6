"""What is told while a Job is suspended: Kueue holds it until its queue has room, or a person stopped it."""

from longshore.plan.outcome import Waiting
from longshore.plan.state import JobView


def until_resumed(job: JobView) -> Waiting:
    """Say what a suspended Job waits for; its pods are deleted and begun anew later, which is no failure."""
    if job.queue:
        return Waiting(
            "Queued",
            f"Job {job.name} is suspended: it waits in the Kueue queue {job.queue}; "
            "see `kubectl get workloads`",
        )
    resume = f'kubectl patch job {job.name} --type=merge -p \'{{"spec":{{"suspend":false}}}}\''
    return Waiting(
        "Suspended",
        f"Job {job.name} is suspended and has no label of a Kueue queue: somebody suspended it; "
        f"resume it with `{resume}`",
    )


def until_next_attempt(job: JobView, left: float) -> Waiting:
    """Say that a Job counts as failed because it was suspended, and another follows after `left` seconds.

    A pod that is told to end does so with an exit code. For as long as it is there the Job controller holds
    that against the Job's pod failure policy, although it deleted the pod itself.
    """
    message = (
        f"Job {job.name} was suspended while it worked, and the end of its pod counted as a failure; "
        f"attempt {job.attempt + 1} follows by itself"
    )
    return Waiting("Suspended", message, left)
