"""What `--robot.…` may say. LeRobot finds the robot beside it by its file name."""

from __future__ import annotations

from dataclasses import dataclass

from lerobot.robots.config import RobotConfig


@RobotConfig.register_subclass("robot_wm_sim")
@dataclass(kw_only=True)
class RobotWMSimConfig(RobotConfig):
    """The SO-100 on its tabletop.

    Attributes:
        seed: of where the arm and the cube stand.
        image_size: height and width of the camera's picture, pixels.
        random_appearance: colours, textures, lights, camera and clutter from the seed too.
    """

    seed: int = 0
    image_size: int = 128
    random_appearance: bool = False
