"""What the plan alone can show: its cost for many rollouts, and its end wherever it is killed."""

import random
import time

from longshore.api.rollout import Analysis, Rollout, Step
from longshore.plan.analysis.comparison import Count, Tick
from longshore.plan.analysis.judge import AnalysisState, Look, judge, look_at
from longshore.plan.analysis.judge import dump_state as dump_analysis
from longshore.plan.analysis.judge import load_state as load_analysis
from longshore.plan.analysis.settings import Settings, settings_of
from longshore.plan.rollout import Phase, Policy, TrafficMode, dump_state, policy_of, step

from bench.common import Row, median
from bench.rollout.world import BAD, CRASHING, GOOD, NEVER_READY, WRONG, World

AT_ONCE = 500
ROUNDS = 9
POLICY = policy_of(
    Rollout(steps=(Step(weight=5, hold="6s"), Step(weight=25, hold="6s"), Step(weight=50, hold="6s")))
)


def rows() -> list[Row]:
    """Measure on one core."""
    different, kills = ends_that_differ()
    return [
        Row("500 rollouts at once: one tick, CPU", round(tick_seconds(300), 4), "s", "<=", 1.0),
        Row(
            "500 rollouts at once, 10,000 requests a second each: one tick, CPU",
            round(tick_seconds(20_000), 4),
            "s",
            "<=",
            1.0,
        ),
        Row(
            "plan level: ends that differ after a kill between any two writes",
            different,
            "ends",
            "==",
            0,
            f"{kills:,} kills, each with and without the status written; weights summed to 100 throughout",
        ),
    ]


def tick_seconds(requests: int) -> float:
    """CPU seconds of one tick: read state, take a look at two signals, decide, write state; the median."""
    settings = settings_of(Analysis(), latency_objective=True)
    world = World.serving()
    world.run(POLICY, until=Phase.STEPPING)
    source = random.Random(5)
    analysis, taken = [AnalysisState()] * AT_ONCE, []
    for _ in range(ROUNDS):
        looks = [_look(source, requests) for _ in range(AT_ONCE)]
        stored = [dump_analysis(state) for state in analysis]
        begun = time.process_time()
        analysis = [_tick(settings, world, raw, look) for raw, look in zip(stored, looks, strict=True)]
        taken.append(time.process_time() - begun)
    return median(taken)


def _tick(settings: Settings, world: World, raw: object, look: Look) -> AnalysisState:
    state = look_at(settings, load_analysis(raw) or AnalysisState(), look)
    judge(settings, state)
    dump_state(step(POLICY, world.state, world.seen()).state)
    dump_analysis(state)
    return state


def _look(source: random.Random, requests: int) -> Look:
    canary, stable = requests // 10, requests - requests // 10

    def tick() -> Tick:
        few = max(1, canary // 50), max(1, stable // 100)
        return Tick(Count(canary, source.randint(0, few[0])), Count(stable, source.randint(0, few[1])), 2.0)

    return Look(2.0, errors=tick(), latency=tick())


def ends_that_differ() -> tuple[int, int]:
    """Kill one rollout at every write, with and without its status written; count ends that are different."""
    different = kills = 0
    for nature in (GOOD, BAD, NEVER_READY, CRASHING, WRONG):
        for mode in TrafficMode:
            policy = Policy(stages=POLICY.stages, progress_deadline=30.0, bake=6.0)
            undisturbed = World.serving(nature={"b": nature}, mode=mode)
            undisturbed.run(policy)
            for decisions in range(60):
                for writes in range(3):
                    for status in (True, False):
                        world = World.serving(nature={"b": nature}, mode=mode)
                        world.run(policy, ticks=decisions)
                        _kill(world, policy, writes, status)
                        world.run(policy)
                        kills += 1
                        different += world.end() != undisturbed.end()
    return different, kills


def _kill(world: World, policy: Policy, writes: int, status: bool) -> None:
    decision = world.decide(policy)
    for action in decision.actions[:writes]:
        world.apply(action)
    if status:
        world.save(decision)
    world.pass_time(2.0)
