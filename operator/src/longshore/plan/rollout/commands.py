"""One-shot annotations: what a person asks of a rollout, done once, answered and removed."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Order(StrEnum):
    """What can be asked, the most cautious first: of two at once only the first is done."""

    ABORT = "abort"
    PAUSE = "pause"
    ROLLBACK = "rollback"
    RETRY = "retry"
    RESUME = "resume"
    PROMOTE = "promote"
    PROMOTE_FULL = "promote-full"


PREFIX = "longshore.dev/"
FORCE = "force"


@dataclass(frozen=True)
class Command:
    """One annotation.

    Attributes:
        order: what is asked.
        value: the annotation's value as it stands.
        revision: revision to go back to, for rollback.
        force: skip preflight, steps and analysis, for rollback.
    """

    order: Order
    value: str = ""
    revision: str | None = None
    force: bool = False

    @property
    def annotation(self) -> str:
        """Name of the annotation."""
        return f"{PREFIX}{self.order}"

    @property
    def token(self) -> str:
        """What tells this one from one asked later: name and value."""
        return f"{self.order}={self.value}"[:128]


def commands_of(annotations: Mapping[str, str]) -> tuple[Command, ...]:
    """Read the one-shot annotations, the most cautious first.

    `longshore.dev/rollback` has a revision as its value, and `<revision>,force` skips all gates; the value of
    the others is free (a time or a random word lets the same order be given twice). Any value counts as
    asked, but "false" and "" do not, because that is what a person who wants none of it writes.
    """
    found = []
    for order in Order:
        value = annotations.get(f"{PREFIX}{order}")
        if value is None or value.strip().lower() in ("", "false"):
            continue
        if order is Order.ROLLBACK:
            revision, _, option = value.strip().partition(",")
            found.append(Command(order, value, revision.strip(), option.strip().lower() == FORCE))
        else:
            found.append(Command(order, value))
    return tuple(found)
