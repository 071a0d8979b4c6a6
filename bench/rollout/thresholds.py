"""The rule to beat: a success rate below a threshold is a strike, and five strikes abort."""

import numpy as np

from bench.rollout.traffic import Scenario, draw
from bench.rollout.vectorised import Floats

INTERVAL_SECONDS = 60.0
THRESHOLD = 0.99
STRIKES = 5
"""As in the example of https://docs.flagger.app/usage/how-it-works: every minute, 99 %, five times."""


def simulate_strikes(scenario: Scenario, rollouts: int, seed: int) -> Floats:
    """Give when each rollout was aborted, seconds; infinity for never."""
    random = np.random.default_rng(seed)
    strikes, aborted, now = np.zeros(rollouts), np.full(rollouts, np.inf), 0.0
    while now < scenario.seconds:
        requests, failures = np.zeros(rollouts), np.zeros(rollouts)
        for _ in range(6):
            now += INTERVAL_SECONDS / 6
            n1, k1, _, _ = draw(scenario, random, now, scenario.weight, INTERVAL_SECONDS / 6, rollouts)
            requests, failures = requests + n1, failures + k1
        strikes += (requests > 0) & (1 - failures / np.maximum(requests, 1) < THRESHOLD)
        aborted[(strikes >= STRIKES) & np.isinf(aborted)] = now
    return aborted
