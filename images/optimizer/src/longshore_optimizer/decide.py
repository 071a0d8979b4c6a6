"""Which candidate wins, and why every other one does not. Pure functions over what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from longshore.api.optimize import Goal
from longshore.artifact.manifest import Verdict

from longshore_optimizer.statistics import Drop, Ratio, paired_ratio
from longshore_optimizer.techniques.base import Proposal

LEAST_GAIN = 1.02
"""Smallest gain that is worth another file: below 2 % a machine's drift is as large."""

TIE = 1.03
"""Candidates within 3 % of the best in the goal's measure count as equal; the smaller one wins."""

SLOWDOWN = 1.5
"""With goal Size and no limits.p95, a candidate this much slower than the original is refused."""

_FINALISTS = 4

CONFIDENCE = 0.95
"""Of the two-sided interval on a latency ratio."""


@dataclass(frozen=True)
class Latency:
    """One model's latencies in ms: over all runs p50 and p95; one median and one CPU time a run of every
    round. `threads` it was timed with, where that is known."""

    rounds: tuple[float, ...]
    cpu_rounds: tuple[float, ...]
    p50: float
    p95: float
    threads: int | None = None


@dataclass(frozen=True)
class Trial:
    """One candidate with what is known of it so far."""

    proposal: Proposal
    size_bytes: int | None = None
    metric: float | None = None
    drop: Drop | None = None
    latency: Latency | None = None
    verdict: Verdict | None = None
    reason: str = ""
    rough_ms: float | None = None
    """Median latency of a short run, with all threads: enough to tell where it is worth going on."""

    @property
    def alive(self) -> bool:
        """Whether nothing has ruled the candidate out yet."""
        return self.verdict is None


@dataclass(frozen=True)
class Rules:
    """What the user asked for. `max_drop` is None where no evaluation data was given; limits in ms and
    bytes."""

    goal: Goal
    max_drop: float | None
    metric: str | None
    confidence: float
    p95_limit: float | None = None
    size_limit: int | None = None


@dataclass(frozen=True)
class Decision:
    """The winner's name (`original` included), every trial with its verdict, and the original's reason.

    `miss` says what `optimize.onMiss` asks about: that the limits are kept by none, or maxDrop by no
    candidate that was judged; None where that is not so.
    """

    chosen: str
    original_reason: str
    trials: tuple[Trial, ...]
    miss: str | None = None


def refuse(trial: Trial, reason: str, verdict: Verdict = Verdict.REFUSED) -> Trial:
    """Rule a candidate out."""
    return replace(trial, verdict=verdict, reason=reason)


def gate(trial: Trial, rules: Rules) -> Trial:
    """Apply the gate on quality: the upper bound of the drop must stay within `max_drop`."""
    if not trial.alive:
        return trial
    if trial.proposal.lossless:
        return trial
    if rules.max_drop is None:
        return refuse(
            trial, "not lossless, and there is no evaluation data to prove it: add optimize.evaluation"
        )
    if trial.drop is None:
        return refuse(trial, "its quality was not measured", Verdict.FAILED)
    if not trial.drop.upper <= rules.max_drop:
        return refuse(
            trial,
            f"{rules.metric} may drop by {trial.drop.upper:.4g} (upper bound at {rules.confidence:.0%} "
            "confidence; "
            f"measured {trial.drop.estimate:.4g}), more than maxDrop {rules.max_drop:.4g}",
        )
    return trial


def decide(original: Trial, trials: Sequence[Trial], rules: Rules, original_name: str) -> Decision:
    """Choose by the goal among the candidates that pass every gate; the original where nothing beats it."""
    if original.latency is None or original.size_bytes is None:
        raise ValueError("the original must be measured")
    gated = [gate(t, rules) for t in trials]
    original_misses = missed_limit(original, rules)
    miss = None
    if original_misses is not None:
        miss = f"no candidate passes the gates, and of the original {original_misses}"
    elif rules.max_drop is not None and not any(_keeps_drop(t) for t in gated):
        miss = f"no candidate is shown to be within maxDrop {rules.max_drop:g}"
    gated = [_limits(t, rules, original) for t in gated]
    gains = {t.proposal.name: gain(original, t, rules.goal) for t in gated if t.alive}
    winner = _winner([t for t in gated if t.alive], gains, rules.goal, must_beat=original_misses is None)
    judged = tuple(_explain(t, gains, winner, rules.goal) for t in gated)
    if winner is None:
        reason = original_misses or "nothing measured beats it"
        return Decision(original_name, reason, judged, miss)
    reason = (
        original_misses or f"{winner.proposal.name} {_gain_words(gains[winner.proposal.name], rules.goal)}"
    )
    return Decision(winner.proposal.name, reason, judged)


def _keeps_drop(gated: Trial) -> bool:
    return not gated.proposal.lossless and (gated.alive or gated.verdict is Verdict.KEPT)


def gain(original: Trial, trial: Trial, goal: Goal) -> Ratio:
    """How many times better than the original in the goal's measure (above 1 is better), with its
    interval."""
    if goal is Goal.SIZE:
        if not original.size_bytes or not trial.size_bytes:
            return Ratio(0.0, 0.0, 0.0)
        ratio = original.size_bytes / trial.size_bytes
        return Ratio(ratio, ratio, ratio)
    if original.latency is None or trial.latency is None:
        return Ratio(0.0, 0.0, 0.0)
    count = min(len(original.latency.rounds), len(trial.latency.rounds))
    if count == 0:
        return Ratio(0.0, 0.0, 0.0)
    cpu = paired_ratio(
        np.array(original.latency.cpu_rounds[:count]), np.array(trial.latency.cpu_rounds[:count]), CONFIDENCE
    )
    if goal is Goal.COST:
        return cpu
    wall = paired_ratio(
        np.array(original.latency.rounds[:count]), np.array(trial.latency.rounds[:count]), CONFIDENCE
    )
    # Other load on the machine spoils wall time but hardly CPU time: a gain must show on both clocks.
    return Ratio(wall.estimate, min(wall.low, cpu.low), wall.high)


def doubtful(original: Trial, trials: Sequence[Trial], rules: Rules) -> tuple[str, ...]:
    """Name the few candidates between which more rounds of timing decide; none where it is clear who wins.

    It is open while the best may be no faster than the original, or another may be faster than the best.
    """
    if rules.goal is Goal.SIZE or original.latency is None:
        return ()
    gated = [_limits(gate(t, rules), rules, original) for t in trials]
    gains = {t.proposal.name: gain(original, t, rules.goal) for t in gated if t.alive}
    hopeful = {name: ratio for name, ratio in gains.items() if ratio.estimate >= LEAST_GAIN}
    if not hopeful:
        return ()
    ranked = sorted(hopeful, key=lambda name: -hopeful[name].estimate)
    best = hopeful[ranked[0]]
    rivals = [n for n in ranked[1:] if hopeful[n].high > best.estimate > hopeful[n].estimate * TIE]
    if is_better(best) and not rivals:
        return ()
    return tuple(ranked[:1] + [n for n in ranked[1:] if hopeful[n].high > best.estimate])[:_FINALISTS]


def together(first: Latency, second: Latency) -> Latency:
    """Join two measurements of one model; percentiles are means by the number of rounds."""
    counts = len(first.rounds), len(second.rounds)
    share = counts[0] / max(sum(counts), 1)
    return Latency(
        first.rounds + second.rounds,
        first.cpu_rounds + second.cpu_rounds,
        share * first.p50 + (1 - share) * second.p50,
        share * first.p95 + (1 - share) * second.p95,
        first.threads,
    )


def is_better(ratio: Ratio) -> bool:
    """Tell whether a gain is large enough to matter and more than noise."""
    return ratio.estimate >= LEAST_GAIN and ratio.low > 1.0


def missed_limit(trial: Trial, rules: Rules) -> str | None:
    """Say which limit a measured model breaks, None where it keeps all."""
    if rules.p95_limit is not None and trial.latency is not None and trial.latency.p95 > rules.p95_limit:
        return f"p95 of {trial.latency.p95:.3g} ms is over limits.p95 ({rules.p95_limit:.3g} ms)"
    if rules.size_limit is not None and trial.size_bytes is not None and trial.size_bytes > rules.size_limit:
        return f"{trial.size_bytes} bytes are over limits.size ({rules.size_limit})"
    return None


def _limits(trial: Trial, rules: Rules, original: Trial) -> Trial:
    if not trial.alive:
        return trial
    missed = missed_limit(trial, rules)
    if missed is not None:
        return refuse(trial, missed)
    if trial.latency is None:
        return refuse(trial, "its latency was not measured", Verdict.FAILED)
    too_slow = original.latency is not None and trial.latency.p50 > SLOWDOWN * original.latency.p50
    if rules.goal is Goal.SIZE and rules.p95_limit is None and too_slow:
        return refuse(
            trial,
            f"{trial.latency.p50:.3g} ms is over {SLOWDOWN:g} times the original's p50: set limits.p95 to "
            "accept it",
        )
    return trial


def _winner(
    trials: Sequence[Trial], gains: Mapping[str, Ratio], goal: Goal, *, must_beat: bool
) -> Trial | None:
    def beats(trial: Trial) -> bool:
        return is_better(gains[trial.proposal.name])

    eligible = [t for t in trials if beats(t)] if must_beat else list(trials)
    if not eligible:
        return None
    best = max(gains[t.proposal.name].estimate for t in eligible)
    ties = [t for t in eligible if gains[t.proposal.name].estimate * TIE >= best]

    def preference(trial: Trial) -> tuple[float, float, float, str]:
        drop = trial.drop.estimate if trial.drop is not None else 0.0
        latency = trial.latency.p50 if trial.latency is not None else 0.0
        if goal is Goal.SIZE:
            return (latency, drop, 0.0, trial.proposal.name)
        return (float(trial.size_bytes or 0), drop, latency, trial.proposal.name)

    return min(ties, key=preference)


def _explain(trial: Trial, gains: Mapping[str, Ratio], winner: Trial | None, goal: Goal) -> Trial:
    if not trial.alive:
        return trial
    ratio = gains[trial.proposal.name]
    words = _gain_words(ratio, goal)
    if winner is not None and trial.proposal.name == winner.proposal.name:
        return replace(trial, verdict=Verdict.CHOSEN, reason=f"{words}, the best for goal {goal.value}")
    if not is_better(ratio):
        return replace(
            trial, verdict=Verdict.KEPT, reason=f"passes the gates but does not beat the original: {words}"
        )
    return replace(trial, verdict=Verdict.KEPT, reason=f"passes the gates and {words}, but another is better")


def _gain_words(ratio: Ratio, goal: Goal) -> str:
    if goal is Goal.SIZE:
        return f"is {ratio.estimate:.2f} times smaller"
    measure = "costs less CPU by" if goal is Goal.COST else "is faster by"
    return f"{measure} a factor of {ratio.estimate:.2f} (95 % interval {ratio.low:.2f} to {ratio.high:.2f})"
