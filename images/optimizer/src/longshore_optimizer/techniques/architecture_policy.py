"""Reinforcement of a policy over architectures: what was rewarded is asked for more often."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

_RATE = 1.0
"""Step of the logits for an advantage of one standard deviation."""

_LEAST_ASKED = 0.02
"""Probability that every choice keeps, so that no early misfortune rules one out."""

Reward = Callable[[Sequence[float]], float]
"""What the objectives of a point are worth."""

Probabilities = NDArray[np.float64]


class PolicySampler(optuna.samplers.BaseSampler):
    """Draws every choice from a softmax policy that policy gradients shift (REINFORCE, Williams 1992; for
    architectures Zoph and Le 2017).

    The policy is computed anew from the points that a study has: one that was killed goes on with it.
    """

    def __init__(self, reward: Reward, seed: int) -> None:
        """`reward` is maximized."""
        self._reward = reward
        self._rng = np.random.default_rng(seed)
        self._logits: dict[str, Probabilities] = {}

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Choices are drawn one by one."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Choices are drawn one by one."""
        return {}

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Learn from the points examined so far."""
        over = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        rewards = [self._reward(t.values) for t in over]
        self._logits = learned([(t.params, t.distributions) for t in over], rewards)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw one choice."""
        assert isinstance(param_distribution, CategoricalDistribution)
        choices = param_distribution.choices
        odds = policy(self._logits.get(param_name, np.zeros(len(choices))))
        return choices[int(self._rng.choice(len(choices), p=odds))]


def learned(
    points: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], rewards: Sequence[float]
) -> dict[str, Probabilities]:
    """Give logits by parameter after a policy gradient for each point, in order; the mean is the baseline."""
    logits: dict[str, Probabilities] = {}
    values = np.array(rewards, np.float64)
    spread = max(float(values.std()), 1e-9) if len(values) else 1.0
    for (params, distributions), value in zip(points, values, strict=True):
        advantage = float(np.clip((value - values.mean()) / spread, -2, 2))
        for name, choice in params.items():
            choices = distributions[name].choices
            own = logits.setdefault(name, np.zeros(len(choices)))
            gradient = -policy(own)
            gradient[choices.index(choice)] += 1.0
            own += _RATE * advantage * gradient
    return logits


def policy(logits: Probabilities) -> Probabilities:
    """Give probabilities of the choices, none below a floor."""
    odds = np.exp(logits - logits.max())
    odds /= odds.sum()
    floor = min(_LEAST_ASKED, 1 / len(odds))
    mixed: Probabilities = floor + (1 - floor * len(odds)) * odds
    return mixed


def reward(original: Sequence[float], allowed: float, *, smallest: bool) -> Reward:
    """Give what a point is worth: the logarithm of what it saves, less what it loses beyond what is allowed
    (Tan et al. 2019, with a hard limit on quality in place of one on time)."""

    def worth(values: Sequence[float]) -> float:
        drop, p95, size = values
        saved = np.log(original[2] / size) if smallest else np.log(original[1] / p95)
        return float(saved - max(drop - original[0] - allowed, 0.0) / max(allowed, 1e-3))

    return worth
