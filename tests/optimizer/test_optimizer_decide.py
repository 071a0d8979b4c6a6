"""The decision as tables: what was measured in, who wins and why out."""

import zlib
from dataclasses import replace

import numpy as np
import pytest
from longshore.api.optimize import Goal, TechniqueName
from longshore.artifact.manifest import Verdict
from longshore_optimizer.decide import (
    Decision,
    Latency,
    Rules,
    Trial,
    decide,
    doubtful,
    gain,
    together,
)
from longshore_optimizer.statistics import Drop
from longshore_optimizer.techniques.base import Proposal

RULES = Rules(goal=Goal.LATENCY, max_drop=0.01, metric="Accuracy", confidence=0.95)


def latency(p50: float, cpu: float | None = None, noise: float = 0.01) -> Latency:
    # The same noise whatever ran before.
    rng = np.random.default_rng(zlib.crc32(repr((p50, cpu, noise)).encode()))
    wall = tuple(p50 * rng.normal(1, noise, 11).clip(0.5))
    used = tuple((cpu or p50) * rng.normal(1, noise, 11).clip(0.5))
    return Latency(wall, used, p50, p50 * 1.2)


def trial(
    name: str,
    p50: float = 10.0,
    size: int = 1000,
    upper: float = 0.005,
    *,
    cpu: float | None = None,
    noise: float = 0.01,
    lossless: bool = False,
) -> Trial:
    proposal = Proposal(name, TechniqueName.STATIC_INT8, lossless=lossless)
    return Trial(proposal, size, 0.9, Drop(upper / 2, upper), latency(p50, cpu, noise))


ORIGINAL = trial("original", 10.0, 1000, 0.0, lossless=True)


def decided(*trials: Trial, rules: Rules = RULES, original: Trial = ORIGINAL) -> Decision:
    return decide(original, trials, rules, "original")


def verdicts(decision: Decision) -> dict[str, Verdict | None]:
    return {t.proposal.name: t.verdict for t in decision.trials}


def test_the_fastest_that_passes_the_gate_wins_and_the_others_say_why() -> None:
    decision = decided(trial("fast", 4, upper=0.02), trial("good", 5), trial("slow", 12), trial("fair", 7))
    assert decision.chosen == "good"
    assert verdicts(decision) == {
        "fast": Verdict.REFUSED,
        "good": Verdict.CHOSEN,
        "slow": Verdict.KEPT,
        "fair": Verdict.KEPT,
    }
    reasons = {t.proposal.name: t.reason for t in decision.trials}
    assert "maxDrop 0.01" in reasons["fast"]
    assert "does not beat the original" in reasons["slow"]
    assert "another is better" in reasons["fair"]


def test_the_bound_counts_and_not_the_estimate() -> None:
    sure = replace(trial("a", 5), drop=Drop(0.009, 0.0099))
    unsure = replace(trial("b", 5), drop=Drop(-0.01, 0.0101))
    assert verdicts(decided(sure, unsure)) == {"a": Verdict.CHOSEN, "b": Verdict.REFUSED}


def test_a_drop_that_is_not_a_number_never_passes() -> None:
    broken = replace(trial("a", 5), drop=Drop(float("nan"), float("nan")))
    assert decided(broken).chosen == "original"


def test_when_every_variant_is_slower_the_original_is_served() -> None:
    decision = decided(trial("a", 11), trial("b", 30))
    assert decision.chosen == "original"
    assert decision.original_reason == "nothing measured beats it"
    assert decision.miss is None


def test_noise_is_not_a_gain() -> None:
    wins = sum(decided(trial(f"n{i}", 10, noise=0.3)).chosen != "original" for i in range(100))
    assert wins <= 3


def test_a_gain_that_only_one_clock_shows_is_not_a_gain() -> None:
    # Another process took the CPU whenever the original ran: its wall time doubled, its CPU time did not.
    assert decided(trial("lucky", 5, cpu=10.5)).chosen == "original"
    assert decided(trial("real", 5, cpu=5)).chosen == "real"


def test_equally_fast_candidates_are_told_apart_by_size() -> None:
    assert decided(trial("large", 5.0, 900), trial("small", 5.05, 300)).chosen == "small"


def test_without_evaluation_data_only_lossless_candidates_are_kept() -> None:
    rules = replace(RULES, max_drop=None, metric=None)
    same = trial("graph", 8, lossless=True)
    decision = decided(trial("int8", 3), same, rules=rules)
    assert decision.chosen == "graph"
    assert "add optimize.evaluation" in decision.trials[0].reason


def test_size_takes_the_smallest_that_is_not_absurdly_slow() -> None:
    rules = replace(RULES, goal=Goal.SIZE)
    small, slow, tiny = trial("small", 11, 500), trial("slow", 40, 100), trial("none", 10, 999)
    assert decided(small, slow, tiny, rules=rules).chosen == "small"
    allowed = replace(rules, p95_limit=60.0)
    assert decided(small, slow, tiny, rules=allowed).chosen == "slow"


def test_cost_goes_by_cpu_time() -> None:
    rules = replace(RULES, goal=Goal.COST)
    assert decided(trial("wide", 5, cpu=20), trial("thrifty", 9, cpu=6), rules=rules).chosen == "thrifty"


@pytest.mark.parametrize(
    ("rules", "word"),
    [
        (replace(RULES, p95_limit=7.0), "limits.p95"),
        (replace(RULES, size_limit=700), "limits.size"),
    ],
)
def test_limits_refuse_and_a_candidate_inside_them_beats_an_original_outside(rules: Rules, word: str) -> None:
    inside = trial("inside", 5.5, 600)
    outside = trial("outside", 8, 800)
    decision = decided(inside, outside, rules=rules)
    assert decision.chosen == "inside"
    assert word in decision.original_reason
    assert word in decision.trials[1].reason


def test_a_slower_candidate_inside_the_size_limit_is_served_when_the_original_breaks_it() -> None:
    rules = replace(RULES, size_limit=700)
    assert decided(trial("compact", 11, 600), rules=rules).chosen == "compact"


def unjudged(name: str, size: int) -> Trial:
    made = trial(name, 5, size)
    return replace(made, metric=None, drop=None, verdict=Verdict.REFUSED, reason="too large", latency=None)


@pytest.mark.parametrize(
    ("rules", "trials", "miss"),
    [
        pytest.param(RULES, [trial("a", 20)], None, id="kept, and slower"),
        pytest.param(RULES, [trial("a", 5, upper=0.1)], "maxDrop 0.01", id="not kept"),
        pytest.param(
            RULES, [trial("same", 20, lossless=True)], "maxDrop 0.01", id="only lossless and slower"
        ),
        pytest.param(RULES, [trial("same", 5, lossless=True)], None, id="a lossless one wins"),
        pytest.param(
            replace(RULES, size_limit=2000), [unjudged("a", 3000)], "maxDrop 0.01", id="none judged"
        ),
        pytest.param(replace(RULES, size_limit=700), [unjudged("a", 800)], "limits.size", id="none fits"),
        pytest.param(
            replace(RULES, size_limit=700), [trial("a", 5, 800)], "limits.size", id="judged, too large"
        ),
        pytest.param(replace(RULES, size_limit=700), [trial("a", 5, 600)], None, id="one fits"),
        pytest.param(
            replace(RULES, max_drop=None, p95_limit=20.0), [], None, id="only limits, which are kept"
        ),
        pytest.param(
            replace(RULES, max_drop=None, p95_limit=1.0), [], "limits.p95", id="only limits, missed"
        ),
    ],
)
def test_what_on_miss_asks_about(rules: Rules, trials: list[Trial], miss: str | None) -> None:
    decision = decided(*trials, rules=rules)
    assert (decision.miss is None) == (miss is None)
    assert miss is None or miss in str(decision.miss)
    assert (decision.chosen == "original") or decision.miss is None


def test_more_rounds_are_asked_for_while_noise_hides_who_wins() -> None:
    noisy = [trial("first", 5, noise=0.6), trial("second", 5.2, noise=0.6), trial("slow", 30)]
    assert set(doubtful(ORIGINAL, noisy, RULES)) <= {"first", "second"}
    assert doubtful(ORIGINAL, noisy, RULES)
    assert doubtful(ORIGINAL, [trial("first", 5), trial("slow", 8)], RULES) == ()
    assert doubtful(ORIGINAL, [trial("worse", 12, noise=0.6), trial("refused", 2, upper=0.5)], RULES) == ()


def test_rounds_of_two_measurements_are_joined_pair_by_pair() -> None:
    first, second = Latency((1.0, 2.0, 3.0), (1.0, 1.0, 1.0), 2.0, 3.0), Latency((6.0,), (5.0,), 6.0, 7.0)
    joined = together(first, second)
    assert joined == Latency((1.0, 2.0, 3.0, 6.0), (1.0, 1.0, 1.0, 5.0), 3.0, 4.0)
    rounds = tuple(10.0 + n for n in range(44))
    slow = replace(ORIGINAL, latency=together(latency(10), Latency(rounds, rounds, 10.0, 10.0)))
    half = tuple(n / 2 for n in rounds)
    fast = replace(trial("fast", 5), latency=together(latency(5), Latency(half, half, 5.0, 5.0)))
    assert gain(slow, fast, Goal.LATENCY).estimate == pytest.approx(2.0)
