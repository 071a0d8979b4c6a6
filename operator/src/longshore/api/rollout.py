"""`spec.rollout`: how a new revision takes over, and what must be true for it to."""

from enum import StrEnum
from itertools import pairwise
from typing import Annotated, ClassVar

from pydantic import Field

from longshore.api.base import Duration, Label, Part, Rule


class Strategy(StrEnum):
    """How a new revision takes over."""

    CANARY = "Canary"
    BLUE_GREEN = "BlueGreen"
    SHADOW = "Shadow"
    RECREATE = "Recreate"


class Pause(Part):
    """A gate that a person opens."""

    reason: Annotated[str, Field(max_length=256)] = Field(
        default="", description="Shown to whoever is asked to go on."
    )


class Step(Part):
    """One step of a canary."""

    weight: int = Field(ge=0, le=100, description="Share of requests that the canary gets, in percent.")
    hold: Duration | None = Field(
        default=None,
        description="How long at least before the next step; absent: until the evidence suffices.",
    )
    pause: Pause | None = Field(default=None, description="Wait at this step until promoted.")


class SignalType(StrEnum):
    """What stable and canary are compared by."""

    ERRORS = "Errors"
    LATENCY = "Latency"
    DISTRIBUTION = "Distribution"
    AGREEMENT = "Agreement"
    PROMETHEUS = "Prometheus"
    WEB_HOOK = "WebHook"


class AnalysisSignal(Part):
    """One more thing to look at."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.type != 'Prometheus' || (has(self.query) && has(self.address))",
            "type Prometheus needs query and address: add both",
            lambda s: s.type is not SignalType.PROMETHEUS or bool(s.query and s.address),
        ),
        Rule(
            "self.type != 'WebHook' || has(self.address)",
            "type WebHook needs address: add it",
            lambda s: s.type is not SignalType.WEB_HOOK or s.address is not None,
        ),
        Rule(
            "self.type != 'Prometheus' || has(self.max) || has(self.min) || has(self.maxRatio)",
            "type Prometheus needs a bound: add max, min or maxRatio",
            lambda s: (
                s.type is not SignalType.PROMETHEUS
                or any(bound is not None for bound in (s.max, s.min, s.max_ratio))
            ),
        ),
    )

    name: Label = Field(description="Name of the signal, in status and events.")
    type: SignalType = Field(description="What is compared.")
    address: Annotated[str, Field(max_length=512, pattern=r"^https?://[^\x00-\x20\x7f]+$")] | None = Field(
        default=None, description="Address of the Prometheus server or of the web hook."
    )
    query: Annotated[str, Field(min_length=1, max_length=2048)] | None = Field(
        default=None,
        description="PromQL that gives one number; $revision, $namespace and $name stand for the revision it "
        "is asked for and this ModelDeployment.",
    )
    max: float | None = Field(
        default=None, ge=-1e12, le=1e12, description="The canary's value may not be above this."
    )
    min: float | None = Field(
        default=None, ge=-1e12, le=1e12, description="The canary's value may not be below this."
    )
    max_ratio: float | None = Field(
        default=None, gt=0, le=1e6, description="The canary's value over the stable's may not be above this."
    )
    threshold: float | None = Field(
        default=None, gt=0, le=10, description="Bound for Distribution (PSI) or disagreement for Agreement."
    )


class SyntheticLoad(Part):
    """Sample requests sent to both revisions when traffic is too thin to decide."""

    requests_per_second: float = Field(default=2.0, gt=0, le=1000, description="Requests to each revision.")


MARGIN = 1.0
HARM = 3.0
"""Defaults of the odds ratios; the rule between them needs them too."""


class Analysis(Part):
    """When a canary is good and when it is not. The defaults are meant to be left alone."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"(has(self.margin) ? self.margin : {MARGIN}) < (has(self.harm) ? self.harm : {HARM})",
            f"analysis.harm (absent: {HARM}) must be above analysis.margin (absent: {MARGIN}): "
            "raise harm or lower margin",
            lambda a: a.margin < a.harm,
        ),
        Rule(
            "!has(self.signals) || self.signals.all(s, self.signals.exists_one(t, t.name == s.name))",
            "analysis.signals must have different names: give each its own",
            lambda a: len({s.name for s in a.signals}) == len(a.signals),
        ),
    )

    false_abort: float = Field(
        default=0.01, gt=0, lt=0.5, description="Highest probability of ever aborting a good canary (alpha)."
    )
    false_promote: float = Field(
        default=0.05, gt=0, lt=0.5, description="Highest probability of ever promoting a bad one (beta)."
    )
    margin: float = Field(
        default=MARGIN,
        ge=1,
        le=100,
        description="Odds ratio of failure up to which a canary is no worse (theta0).",
    )
    harm: float = Field(
        default=HARM,
        gt=1,
        le=1000,
        description="Odds ratio of failure from which a canary is bad (theta_bad).",
    )
    warmup: Duration = Field(
        default="15s", description="Requests in this time after a pod is ready do not count."
    )
    no_data_deadline: Duration = Field(
        default="10m", description="Without requests for this long the rollout pauses and says so."
    )
    bake: Duration = Field(
        default="0s", description="How long the stable revision is kept ready after promotion."
    )
    signals: Annotated[tuple[AnalysisSignal, ...], Field(max_length=8)] = Field(
        default=(), description="More things to look at; errors and latency always are."
    )
    synthetic_load: SyntheticLoad | None = Field(
        default=None, description="Send sample requests when traffic is too thin."
    )


class Preflight(Part):
    """What a new pod must answer before it gets any weight."""

    samples: int = Field(
        default=16,
        ge=0,
        le=1000,
        description="Sample requests that are asked: rows of the evaluation data (kept in the artifact), "
        "else what the stable revision was asked lately, else made from the model's signature; 0 asks none, "
        "and keeps none.",
    )
    max_disagreement: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Largest share of answers that may differ from the stable revision's; absent: a new "
        "model may answer differently, but it must answer.",
    )
    tolerance: float = Field(
        default=0.01, ge=0, le=1e6, description="Relative difference of numbers that counts as the same."
    )


class Affinity(Part):
    """What keeps a user on one revision."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.header) != has(self.cookie)",
            "affinity takes one of header and cookie: give exactly one",
            lambda a: (a.header is None) != (a.cookie is None),
        ),
    )

    header: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[A-Za-z0-9-]+$")] | None = Field(
        default=None, description="Header whose hash decides."
    )
    cookie: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[A-Za-z0-9_-]+$")] | None = Field(
        default=None, description="Cookie whose hash decides."
    )


class Notification(Part):
    """A web hook that is told of every transition."""

    url: Annotated[str, Field(max_length=512, pattern=r"^https?://[^\x00-\x20\x7f]+$")] = Field(
        description="Gets a POST with the event as JSON."
    )


class Rollout(Part):
    """How a new revision takes over."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.steps) || size(self.steps) < 2 || "
            "self.steps.all(s, self.steps.filter(t, t.weight == s.weight).size() == 1) && "
            "self.steps.map(s, s.weight).isSorted()",
            "rollout.steps must rise: give each step a weight above the one before",
            lambda r: all(low.weight < high.weight for low, high in pairwise(r.steps)),
        ),
        Rule(
            "!has(self.steps) || !has(self.strategy) || self.strategy == 'Canary' || "
            "self.strategy == 'BlueGreen' && self.steps.all(s, s.weight == 0)",
            "rollout.steps belong to strategy Canary (one of weight 0 to BlueGreen too, for its preview): "
            "remove them or change the strategy",
            lambda r: (
                "steps" not in r.model_fields_set
                or r.strategy is Strategy.CANARY
                or (r.strategy is Strategy.BLUE_GREEN and all(step.weight == 0 for step in r.steps))
            ),
        ),
    )

    strategy: Strategy = Field(default=Strategy.CANARY, description="How a new revision takes over.")
    steps: Annotated[tuple[Step, ...], Field(max_length=32)] = Field(
        default=(),
        description="Weights on the way to 100; absent: straight to 100 once the new revision is ready. "
        "BlueGreen takes one of weight 0: how long its preview stands, or who opens it.",
    )
    analysis: Analysis = Field(default=Analysis(), description="When a canary is good and when it is not.")
    preflight: Preflight = Field(
        default=Preflight(), description="What a new pod must answer before it gets any weight."
    )
    affinity: Affinity | None = Field(default=None, description="Keep a user on one revision.")
    progress_deadline: Duration = Field(
        default="10m", description="A new revision that is not ready within this is given up."
    )
    revision_history: int = Field(
        default=5, ge=0, le=20, description="Old revisions that are kept at zero pods for a rollback."
    )
    notifications: Annotated[tuple[Notification, ...], Field(max_length=4)] = Field(
        default=(), description="Web hooks that are told of every transition."
    )
