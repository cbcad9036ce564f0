"""robot_wm's simulated SO-100 as a LeRobot robot; found by LeRobot through this package's name."""

from lerobot_robot_robot_wm.config_robot_wm_sim import RobotWMSimConfig

__all__ = ["RobotWMSimConfig"]
