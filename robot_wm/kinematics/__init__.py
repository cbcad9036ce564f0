"""Models of arms: chains of links, limits, joint units, and inverse kinematics."""

from robot_wm.kinematics.chain import Chain, Link
from robot_wm.kinematics.ik import IKSettings, inverse_kinematics
from robot_wm.kinematics.joints import JointMap
from robot_wm.kinematics.limits import EDGE_RAD, Limits
from robot_wm.kinematics.robot import Gripper, RobotModel

__all__ = [
    "EDGE_RAD",
    "Chain",
    "Gripper",
    "IKSettings",
    "JointMap",
    "Limits",
    "Link",
    "RobotModel",
    "inverse_kinematics",
]
