"""Model-predictive control toward goal pictures: observe, imagine, choose, act, and again.

`MPC` plans at every observation. Its wrappers are controllers, too: `ActionChunks` executes several
actions of a plan, `Calibrated` turns actions to where the arm's axes really point, `GoalSequence`
goes from goal to goal and reports how each ended.
"""

from robot_wm.controller.calibrated import Calibrated
from robot_wm.controller.chunks import ActionChunks
from robot_wm.controller.mpc import MPC
from robot_wm.controller.protocol import SteerableController
from robot_wm.controller.sequence import GoalSequence

__all__ = ["MPC", "ActionChunks", "Calibrated", "GoalSequence", "SteerableController"]
