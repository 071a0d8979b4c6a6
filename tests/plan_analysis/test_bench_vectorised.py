"""The bench measures the production arithmetic: its arrays give the same numbers."""

import numpy as np
import pytest
from longshore.plan.analysis.comparison import (
    Compared,
    Count,
    Limits,
    Tick,
    abort_evidence,
    observe,
    promote_evidence,
)

from bench.rollout.vectorised import Fleet


@pytest.mark.parametrize("limits", [Limits(), Limits(margin=1.5, harm=4.0, harmless=0.05)])
@pytest.mark.parametrize("traffic", [(4, 36, 0.02, 0.005), (60, 140, 0.3, 0.1), (40, 4, 0.9, 0.5)])
def test_fleet_gives_what_observe_gives(limits: Limits, traffic: tuple[int, int, float, float]) -> None:
    canary, stable, p1, p0 = traffic
    random = np.random.default_rng(11)
    fleet, states = Fleet(limits, 8), [Compared() for _ in range(8)]
    for _ in range(80):
        n1, n0 = random.poisson(canary, 8), 1 + random.poisson(stable, 8)
        k1, k0 = random.binomial(n1, p1), random.binomial(n0, p0)
        fleet.observe(n1, k1, n0, k0, 2.0)
        states = [
            observe(limits, state, Tick(Count(int(a), int(b)), Count(int(c), int(d)), 2.0))
            for state, a, b, c, d in zip(states, n1, k1, n0, k0, strict=True)
        ]
        assert fleet.worse.value() == pytest.approx([abort_evidence(s) for s in states], abs=1e-6, rel=1e-6)
        mean = np.logaddexp(fleet.no_worse.value(), fleet.harmless.value()) + np.log(0.5)
        assert mean == pytest.approx([promote_evidence(s) for s in states], abs=1e-6, rel=1e-6)
