"""A rollout as a pure function: (state, seen) -> (next state, what shall stand, when to look again)."""

from longshore.plan.rollout.actions import Action, actions_between
from longshore.plan.rollout.commands import Command, commands_of
from longshore.plan.rollout.machine import Decision, step
from longshore.plan.rollout.model import (
    Answer,
    Ending,
    FailedRevision,
    Phase,
    PreflightView,
    RevisionView,
    RolloutState,
    Seen,
    Targets,
    TrafficMode,
    TrafficView,
)
from longshore.plan.rollout.policy import Policy, Stage, policy_of, step_problems
from longshore.plan.rollout.store import dump_state, load_state

__all__ = [
    "Action",
    "Answer",
    "Command",
    "Decision",
    "Ending",
    "FailedRevision",
    "Phase",
    "Policy",
    "PreflightView",
    "RevisionView",
    "RolloutState",
    "Seen",
    "Stage",
    "Targets",
    "TrafficMode",
    "TrafficView",
    "actions_between",
    "commands_of",
    "dump_state",
    "load_state",
    "policy_of",
    "step",
    "step_problems",
]
