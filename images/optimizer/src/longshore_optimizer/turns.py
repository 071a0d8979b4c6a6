"""Which candidate has the next turn, and into how many parts the time is split: pure decisions."""

import math
from collections.abc import Iterator, Sequence

from longshore.api.optimize import Goal
from longshore.artifact.manifest import Verdict

from longshore_optimizer.decide import Rules, Trial, gate
from longshore_optimizer.techniques.base import Proposal

_BETTER = 0.95
"""What goes on must be so much better than the best before it: short runs are rough."""


def turns(proposals: Sequence[Proposal], tried: Sequence[Trial], proposal: Proposal) -> int:
    """Into how many parts the time left is split where a candidate trains: this one's, one for the first of
    each technique that trains too and has had no turn, and one for all the others.

    A student that is taught on leaves nothing to others: they have had their turn, or are farther from the
    gate.
    """
    makers = {p.name: p.technique for p in proposals}
    goes_on = makers.get(proposal.after or "") is proposal.technique
    had = {t.proposal.technique for t in tried} | {proposal.technique}
    waiting = {p.technique for p in proposals if p.trains and p.after is None} - had
    return 1 + (not goes_on) + len(waiting)


def planned(proposals: tuple[Proposal, ...], tried: list[Trial], rules: Rules) -> Iterator[Proposal]:
    """Give the proposals in an order in which a budget that ends early has seen the most promising.

    The first of each technique that has something to do in this model; what the same technique mends of
    those that failed the gate (it keeps most of the gain; what costs no training first, then students nearest
    to the gate); what goes on with the best so far, as long as that makes it better; the others; what else
    mends; and last what only saves bytes, unless bytes are the goal.
    """
    plain = [p for p in proposals if p.after is None]
    late = [p for p in plain if p.size_only and rules.goal is not Goal.SIZE]
    leading = list({p.technique: p for p in reversed(plain) if p not in late}.values())
    first: list[Proposal] = []
    for leader in (p for p in plain if p in leading):
        for proposal in (p for p in plain if p.technique is leader.technique and p not in late):
            first.append(proposal)
            yield proposal
            if not any(t.proposal.name == proposal.name and t.verdict is Verdict.SKIPPED for t in tried):
                break
    makers = {p.name: p.technique for p in plain}
    own = [p for p in proposals if p.after is not None and makers.get(p.after) is p.technique]
    bounds = {t.proposal.name: t.drop.upper for t in tried if t.drop is not None}
    own.sort(key=lambda p: (p.trains, bounds.get(p.after or "", math.inf) if p.trains else 0.0))
    yield from _mending(own, tried, rules)
    yield from _going_on([p for p in plain if p not in first and p not in late], tried, rules)
    others = [p for p in proposals if p.after is not None and p not in own]
    yield from _mending(others, tried, rules)
    yield from late


def _mending(proposals: list[Proposal], tried: list[Trial], rules: Rules) -> Iterator[Proposal]:
    """Give what mends a candidate that failed the gate, until one of its technique has mended it."""
    for proposal in proposals:
        broken = next((t for t in tried if t.proposal.name == proposal.after), None)
        if rules.max_drop is None or broken is None or not broken.alive or gate(broken, rules).alive:
            continue
        before = [
            t
            for t in tried
            if t.proposal.after == proposal.after and t.proposal.technique is proposal.technique
        ]
        if not any(t.alive and gate(t, rules).alive for t in before):
            yield proposal


def _going_on(proposals: list[Proposal], tried: list[Trial], rules: Rules) -> Iterator[Proposal]:
    """Give the next of the technique that has the best candidate so far, until that is none better; then the
    others in their order."""
    waiting = list(proposals)
    best = _best(tried, rules)
    while best is not None:
        technique = best.proposal.technique
        following = next((p for p in waiting if p.technique is technique), None)
        if following is None:
            break
        waiting.remove(following)
        yield following
        found = _best([t for t in tried if t.proposal.name == following.name], rules)
        if found is None or _measure(found, rules) > _BETTER * _measure(best, rules):
            break
        best = found
    yield from waiting


def _best(tried: list[Trial], rules: Rules) -> Trial | None:
    passing = [t for t in tried if gate(t, rules).alive and math.isfinite(_measure(t, rules))]
    return min(passing, key=lambda t: _measure(t, rules), default=None)


def _measure(trial: Trial, rules: Rules) -> float:
    """Give what the goal wants less of, as far as it is known before the final measurement."""
    known = trial.size_bytes if rules.goal is Goal.SIZE else trial.rough_ms
    if known is None or (rules.size_limit is not None and (trial.size_bytes or 0) > rules.size_limit):
        return math.inf
    return float(known)
