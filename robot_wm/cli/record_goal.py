"""`robot-wm record-goal`: takes goal pictures with the arm's own camera.

The arm's port is not opened: its torque stays as it is, so that the arm can be moved by hand.
"""

from __future__ import annotations

import sys

from robot_wm.cli.console import ask, finish
from robot_wm.types import UserError
from robot_wm.workflows.record_goal import RecordGoalSettings, record_goals

SETTINGS = RecordGoalSettings
EXAMPLES = (
    "robot-wm record-goal robot=lerobot robot.port=/dev/ttyACM0 out=goal.png",
    "robot-wm record-goal out=goal.png confirm=false",
)


def run(settings: RecordGoalSettings) -> None:
    """Takes the pictures, one after the other.

    Args:
        settings: Which camera takes the pictures, and where they are written.

    Raises:
        UserError: there is nobody at a terminal to ask.
    """
    if settings.confirm and not sys.stdin.isatty():
        raise UserError("confirm: nobody at a terminal to ask; confirm=false goes without")
    taken, camera = record_goals(settings, ask)
    finish({"goals": [str(path) for path in taken], "camera": camera})
