"""The promises of the seams as checks that run on anyone's implementation.

Each raises an AssertionError that names the promise that is broken.
"""

from robot_wm.contracts.encoder import check_encoder
from robot_wm.contracts.env import assert_same, check_env
from robot_wm.contracts.model import check_world_model
from robot_wm.contracts.objective import check_objective
from robot_wm.contracts.planning import check_controller, check_guard, check_planner
from robot_wm.contracts.robot import check_robot
from robot_wm.contracts.task import check_task

__all__ = [
    "assert_same",
    "check_controller",
    "check_encoder",
    "check_env",
    "check_guard",
    "check_objective",
    "check_planner",
    "check_robot",
    "check_task",
    "check_world_model",
]
