"""A small cluster for rollouts: it does what it is told, a moment later, and refuses unsafe writes."""

from dataclasses import dataclass, field

from longshore.plan.analysis.judge import Judgement
from longshore.plan.analysis.verdict import Verdict
from longshore.plan.rollout import (
    Decision,
    Phase,
    Policy,
    PreflightView,
    RevisionView,
    RolloutState,
    Seen,
    TrafficMode,
    TrafficView,
    commands_of,
    dump_state,
    load_state,
    step,
)
from longshore.plan.rollout.actions import (
    Action,
    Mirror,
    Preview,
    Scale,
    SelectCanary,
    SelectStable,
    SetWeight,
)

GOOD, BAD, NEVER_READY, CRASHING, WRONG = "good", "bad", "never ready", "crashing", "wrong"


@dataclass
class World:
    """The cluster. `nature` says what each revision is like; everything else follows."""

    nature: dict[str, str]
    desired: str | None
    load: int = 4
    mode: TrafficMode = TrafficMode.GATEWAY
    now: float = 1_000_000.0
    wanted: dict[str, int] = field(default_factory=dict)
    ready: dict[str, int] = field(default_factory=dict)
    restarts: dict[str, int] = field(default_factory=dict)
    weight: int = 0
    unconfirmed: int = 0
    lag: int = 1
    stable: str | None = None
    canary: str | None = None
    mirrored: str | None = None
    preview: str | None = None
    problem: str | None = None
    annotations: dict[str, str] = field(default_factory=dict)
    exposure: dict[str, float] = field(default_factory=dict)
    judgement: Judgement | None = None
    preflight: Verdict | None = None
    status: object = None
    events: list[str] = field(default_factory=list)
    written: list[Action] = field(default_factory=list)
    keeps_previous: bool = True

    @classmethod
    def serving(cls, revision: str = "a", desired: str = "b", **options: object) -> "World":
        """A world in which a revision serves at full capacity."""
        nature = {"a": GOOD, "b": GOOD, "c": GOOD, **options.pop("nature", {})}  # type: ignore[dict-item]
        world = cls(nature=nature, desired=desired, **options)  # type: ignore[arg-type]
        world.wanted[revision] = world.ready[revision] = world.load
        world.stable = revision
        return world

    def seen(self) -> Seen:
        return Seen(
            now=self.now,
            desired=self.desired,
            load_replicas=self.load,
            revisions={
                revision: RevisionView(
                    revision,
                    wanted,
                    self.ready.get(revision, 0),
                    self.restarts.get(revision, 0),
                    {NEVER_READY: "image not found", CRASHING: "OOMKilled"}.get(self.nature[revision], ""),
                )
                for revision, wanted in self.wanted.items()
            },
            traffic=TrafficView(
                self.mode,
                self.weight,
                self.unconfirmed == 0,
                self.problem,
                self.stable,
                self.canary,
                self.mirrored,
                self.preview,
            ),
            known=frozenset(self.wanted),
            commands=commands_of(self.annotations),
            preflight=self._preflight(),
            judgement=self._judgement(),
            judged=self._tried(),
        )

    def _tried(self) -> str | None:
        state = self.state
        if state is None:
            return None
        return state.stable if state.phase is Phase.BAKING else state.canary

    def _preflight(self) -> PreflightView | None:
        tried = self._tried()
        if tried is None or not self.ready.get(tried):
            return None
        verdict = Verdict.FAIL if self.nature[tried] == WRONG else Verdict.PASS
        return PreflightView(tried, self.preflight or verdict, "3 of 16 answers differ")

    def _judgement(self) -> Judgement | None:
        tried = self._tried()
        if self.judgement is not None or tried is None:
            return self.judgement
        exposed = self.exposure.get(tried, 0.0)
        if exposed == 0:
            return Judgement(Verdict.NO_DATA, "no requests yet", ())
        if exposed < 20:
            return Judgement(Verdict.INCONCLUSIVE, "too early to say", ())
        if self.nature[tried] == BAD:
            return Judgement(Verdict.FAIL, "canary 14 errors of 812 (1.7 %): 99.4 % evidence", ())
        return Judgement(Verdict.PASS, "as good as stable", ())

    @property
    def state(self) -> RolloutState | None:
        return load_state(self.status) if self.status is not None else None

    def decide(self, policy: Policy) -> Decision:
        return step(policy, self.state, self.seen())

    def apply(self, action: Action) -> None:
        """Do one write, after checking that it is a safe one."""
        self.written.append(action)
        if isinstance(action, Scale):
            answering = action.revision == self.stable or (
                action.revision == self.canary and (self.weight > 0 or self.unconfirmed)
            )
            recreating = self.nature.get("recreate") == "yes"
            if action.replicas == 0 and self.load and not recreating:
                assert not answering, f"pods of {action.revision} taken away while it may get requests"
            self.wanted[action.revision] = action.replicas
        elif isinstance(action, SetWeight):
            assert 0 <= action.weight <= 100
            if action.weight > self.weight:
                assert self.canary is not None
                assert self.ready.get(self.canary, 0) > 0, "weight to a revision that is not ready"
            self.weight = action.weight
            self.unconfirmed = self.lag
        elif isinstance(action, SelectStable):
            first = self.stable is None or not self.ready.get(self.stable)
            assert first or self.ready.get(action.revision, 0) > 0, "the Service moved to pods not ready"
            self.stable = action.revision
        elif isinstance(action, SelectCanary):
            assert self.weight == 0, "the canary Service moved under weight"
            self.canary = action.revision
        elif isinstance(action, Mirror):
            self.mirrored = action.revision
        elif isinstance(action, Preview):
            self.preview = action.revision

    def save(self, decision: Decision) -> None:
        """Write status and remove the annotations that were answered."""
        self.status = dump_state(decision.state)
        self.events += [event.reason for event in decision.events]
        for answer in decision.answers:
            self.annotations.pop(answer.command.annotation, None)

    def pass_time(self, seconds: float) -> None:
        """Let pods start and stop, weights come into force, and requests arrive."""
        self.now += seconds
        for revision, wanted in self.wanted.items():
            nature = self.nature[revision]
            if nature == CRASHING and wanted:
                self.restarts[revision] = self.restarts.get(revision, 0) + 1
            startable = 0 if nature in (NEVER_READY, CRASHING) else wanted
            have = self.ready.get(revision, 0)
            self.ready[revision] = min(wanted, have + 1) if have < startable else min(have, wanted)
        self.unconfirmed = max(0, self.unconfirmed - 1)
        tried = self._tried()
        if tried is not None and self.ready.get(tried):
            gets = self.weight > 0 or self.mirrored == tried or self.stable == tried
            if gets and not self.unconfirmed:
                self.exposure[tried] = self.exposure.get(tried, 0.0) + seconds

    def run(self, policy: Policy, ticks: int = 400, seconds: float = 2.0, until: Phase | None = None) -> None:
        """Run the operator until nothing is to be done, or until a phase is reached."""
        quiet = 0
        for _ in range(ticks):
            decision = self.decide(policy)
            assert decision.targets.weight + decision.targets.stable_weight == 100
            for action in decision.actions:
                self.apply(action)
            self.save(decision)
            if until is not None and decision.state.phase is until:
                return
            quiet = quiet + 1 if not decision.actions and decision.next_in is None else 0
            if quiet >= 2:
                return
            self.pass_time(seconds)

    def end(self) -> tuple[object, ...]:
        """What stands in the end, without what only tells how it came about."""
        state = self.state
        assert state is not None
        return (
            state.phase,
            state.stable,
            state.canary,
            {revision: n for revision, n in self.wanted.items() if n},
            self.weight,
            self.stable,
            tuple(failed.revision for failed in state.failed),
        )
