"""The options `--robot.…`. LeRobot finds the robot in this package by its file name."""

from __future__ import annotations

from dataclasses import dataclass

from lerobot.robots.config import RobotConfig


@RobotConfig.register_subclass("robot_wm_sim")
@dataclass(kw_only=True)
class RobotWMSimConfig(RobotConfig):
    """The SO-100 on its tabletop.

    Attributes:
        seed: Seed of the scene: where the arm and the cube stand.
        image_size: Height and width of the camera's picture, pixels.
        random_appearance: Also draws colours, textures, lights, camera and clutter from the seed.
    """

    seed: int = 0
    image_size: int = 128
    random_appearance: bool = False
