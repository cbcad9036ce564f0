"""Where candidate actions come from before any search: a policy, demonstrations, the last plan."""

from robot_wm.proposals.distance import TemporalDistance
from robot_wm.proposals.features import Features
from robot_wm.proposals.policy import FlowPolicy
from robot_wm.proposals.prior import (
    FILE,
    MAX_TASKS,
    Prior,
    PriorShape,
    ProposerName,
    load_prior,
)
from robot_wm.proposals.protocol import Proposals, Proposer, Situation, densest
from robot_wm.proposals.retrieval import Demonstrations
from robot_wm.proposals.waypoints import Waypoints

__all__ = [
    "FILE",
    "MAX_TASKS",
    "Demonstrations",
    "Features",
    "FlowPolicy",
    "Prior",
    "PriorShape",
    "Proposals",
    "Proposer",
    "ProposerName",
    "Situation",
    "TemporalDistance",
    "Waypoints",
    "densest",
    "load_prior",
]
