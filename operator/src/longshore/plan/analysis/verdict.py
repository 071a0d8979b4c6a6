"""The five things that an analysis can say, and how several of them become one."""

from collections.abc import Iterable
from enum import StrEnum


class Verdict(StrEnum):
    """What is known about a canary. NoData and Error are neither good nor bad: they hold."""

    PASS = "Pass"  # noqa: S105 - a verdict, not a password
    FAIL = "Fail"
    INCONCLUSIVE = "Inconclusive"
    NO_DATA = "NoData"
    ERROR = "Error"

    @property
    def holds(self) -> bool:
        """Whether no decision may rest on it."""
        return self in (Verdict.NO_DATA, Verdict.ERROR)


_ORDER = (Verdict.FAIL, Verdict.ERROR, Verdict.NO_DATA, Verdict.INCONCLUSIVE, Verdict.PASS)


def combine(verdicts: Iterable[Verdict]) -> Verdict:
    """Combine: one Fail fails, all must Pass to pass; nothing asked is NoData.

    Fail goes before Error and NoData, because a proven fault stays proven when another signal is silent.
    """
    found = set(verdicts)
    return next((verdict for verdict in _ORDER if verdict in found), Verdict.NO_DATA)
