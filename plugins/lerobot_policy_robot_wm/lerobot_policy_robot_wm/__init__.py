"""robot_wm's planner as a LeRobot policy; found by LeRobot through this package's name."""

from lerobot_policy_robot_wm.configuration_robot_wm import RobotWMConfig

__all__ = ["RobotWMConfig"]
