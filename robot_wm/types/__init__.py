"""Values and interfaces that all packages share, with numpy but without torch.

Dimension legend, used in every docstring and tail comment of the project:

    B batch      T time (frames)   N candidates   H horizon (actions)   P tokens per frame
    D token dim  A action size     Q proprio size C channels

Units: metres, radians, seconds. Images are uint8 RGB `[height, width, 3]`. An `action` is in the
robot's own units everywhere above a world model; a normalised one is called `action_n`.
"""

from robot_wm.types.actions import ActionSpec
from robot_wm.types.checks import FloatArray, ImageArray, are_numbers, check_image
from robot_wm.types.errors import RunError, UserError
from robot_wm.types.seams import Controller, Env, Guard, Task
from robot_wm.types.settings import (
    Count,
    Index,
    InnerShare,
    NonNegative,
    Number,
    Positive,
    Precision,
    Seed,
    Settings,
    Several,
    Share,
    ShareBelowOne,
    check_fields,
    checked,
    plain_settings,
    read_settings,
)
from robot_wm.types.values import (
    Decision,
    DecisionKind,
    Futures,
    Goal,
    Judgement,
    Measure,
    Observation,
    Outcome,
    OutcomeKind,
    Plan,
    PlanningError,
    Verdict,
    VerdictKind,
    list_goals,
)

__all__ = [
    "ActionSpec",
    "Controller",
    "Count",
    "Decision",
    "DecisionKind",
    "Env",
    "FloatArray",
    "Futures",
    "Goal",
    "Guard",
    "ImageArray",
    "Index",
    "InnerShare",
    "Judgement",
    "Measure",
    "NonNegative",
    "Number",
    "Observation",
    "Outcome",
    "OutcomeKind",
    "Plan",
    "PlanningError",
    "Positive",
    "Precision",
    "RunError",
    "Seed",
    "Settings",
    "Several",
    "Share",
    "ShareBelowOne",
    "Task",
    "UserError",
    "Verdict",
    "VerdictKind",
    "are_numbers",
    "check_fields",
    "checked",
    "check_image",
    "list_goals",
    "plain_settings",
    "read_settings",
]
