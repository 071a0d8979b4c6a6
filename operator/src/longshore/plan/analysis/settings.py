"""From `spec.rollout.analysis` to what the statistics need."""

from dataclasses import dataclass, field

from longshore.api.base import seconds
from longshore.api.rollout import Analysis, AnalysisSignal, SignalType
from longshore.plan.analysis.comparison import Limits
from longshore.plan.analysis.distribution import Bounds
from longshore.plan.analysis.predictions import signal_name
from longshore.plan.analysis.signals import MetricBounds

LOOK_SECONDS = 2.0
"""Between two looks while a canary has weight; what `make bench-rollout` is calibrated at."""

HARMLESS_ERRORS = 0.01
"""A canary proven to fail more seldom than this is not bad, however seldom the stable revision fails."""

HARMLESS_SLOW = 0.05
"""The same for requests slower than the objective, which is a 95th percentile."""

_DEFAULT_PSI = 0.2
_DEFAULT_DISAGREEMENT = 0.05


@dataclass(frozen=True)
class Settings:
    """What is asked of a canary, over all signals.

    Attributes:
        errors: limits of the error count.
        latency: limits of requests slower than the objective; None without an objective.
        distribution: bounds by signal name.
        agreement: highest share of differing answers by signal name.
        metrics: bounds by signal name.
        hooks: names of the web hooks.
        warmup: seconds after a pod's readiness that do not count.
        no_data_deadline: seconds without requests to the canary after which the rollout pauses.
    """

    errors: Limits = field(default_factory=Limits)
    latency: Limits | None = None
    distribution: tuple[tuple[str, Bounds], ...] = ()
    agreement: tuple[tuple[str, float], ...] = ()
    metrics: tuple[tuple[str, MetricBounds], ...] = ()
    hooks: tuple[str, ...] = ()
    warmup: float = 15.0
    no_data_deadline: float = 600.0

    @property
    def statistical(self) -> int:
        """How many signals share alpha."""
        return 1 + (self.latency is not None) + len(self.distribution) + len(self.agreement)


def settings_of(
    analysis: Analysis,
    latency_objective: bool,
    shadow: bool = False,
    baking: bool = False,
    compares: bool = True,
    kinds: tuple[str, ...] = (),
) -> Settings:
    """Read the settings from the spec.

    Args:
        analysis: `spec.rollout.analysis`.
        latency_objective: whether the deployment has a latency objective that requests can be slower than.
        shadow: whether agreement is always looked at, asked for or not.
        baking: the new revision has all requests: nothing is held against the one before any more.
        compares: whether answers to copies of requests are compared at all.
        kinds: kinds of bins that the pods count their predictions in; each is a part of every distribution
            signal and has its share of the signal's alpha. Empty: not known yet.
    """

    def named(kind: SignalType) -> list[AnalysisSignal]:
        return [signal for signal in analysis.signals if signal.type is kind]

    agreement = tuple(
        (signal.name, min(signal.threshold or _DEFAULT_DISAGREEMENT, 0.5))
        for signal in named(SignalType.AGREEMENT)
        if compares and not baking
    )
    if shadow and not agreement and not baking:
        agreement = (("agreement", _DEFAULT_DISAGREEMENT),)
    shifts = named(SignalType.DISTRIBUTION)
    alpha = analysis.false_abort / (1 + latency_objective + len(shifts) + len(agreement))

    def limits(harmless: float) -> Limits:
        return Limits(
            false_abort=alpha,
            false_promote=analysis.false_promote,
            margin=analysis.margin,
            harm=max(analysis.harm, analysis.margin * 1.01),
            harmless=harmless,
        )

    return Settings(
        errors=limits(HARMLESS_ERRORS),
        latency=limits(HARMLESS_SLOW) if latency_objective else None,
        distribution=tuple(
            (name, Bounds(psi=s.threshold or _DEFAULT_PSI, alpha=alpha / max(1, len(kinds))))
            for s in shifts
            for name in ([signal_name(s.name, kind) for kind in kinds] or [s.name])
        ),
        agreement=agreement,
        metrics=tuple(
            (s.name, MetricBounds(s.max, s.min, None if baking else s.max_ratio))
            for s in named(SignalType.PROMETHEUS)
        ),
        hooks=tuple(s.name for s in named(SignalType.WEB_HOOK)),
        warmup=seconds(analysis.warmup),
        no_data_deadline=seconds(analysis.no_data_deadline),
    )
