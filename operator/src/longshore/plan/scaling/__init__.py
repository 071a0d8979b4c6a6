"""How many pods: pure and total. `step` is the tick; everything it uses is a value.

state, decision = step(policy_of(spec), state, observation)
"""

from longshore.plan.scaling.budget import Budget, Claim, Grant
from longshore.plan.scaling.decide import step
from longshore.plan.scaling.inputs import (
    Decision,
    External,
    Observation,
    PodSample,
    PodStart,
    Policy,
    RevisionLoad,
    Target,
    Waiting,
)
from longshore.plan.scaling.memory import recall, remember
from longshore.plan.scaling.policy import policy_of
from longshore.plan.scaling.state import State, from_json, to_json

__all__ = [
    "Budget",
    "Claim",
    "Decision",
    "External",
    "Grant",
    "Observation",
    "PodSample",
    "PodStart",
    "Policy",
    "RevisionLoad",
    "State",
    "Target",
    "Waiting",
    "from_json",
    "policy_of",
    "recall",
    "remember",
    "step",
    "to_json",
]
