"""The simulated SO-100, driven like an SO-101: with the same names, degrees and percent.

It runs in real time: whenever it is called it catches up with the wall clock, behind the governor
that drives the real arm, and it holds its last joint target for ever.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from lerobot.robots.robot import Robot
from lerobot.utils.decorators import check_if_already_connected, check_if_not_connected

from hardware.governor import Governor
from lerobot_robot_robot_wm.config_robot_wm_sim import RobotWMSimConfig
from robot_wm.deployment.robots import build_robot
from robot_wm.deployment.settings import SO101, SimulatedRobot
from robot_wm.types import Count, FloatArray, Seed, read_settings
from sim_envs.tabletop import Tabletop

_LATEST_S = 0.5
CAMERA = "front"


class RobotWMSim(Robot):
    """An SO-100 that LeRobot drives by joint targets (lerobot.robots.Robot).

    Attributes:
        config_class: Class of its config, for LeRobot.
        name: Name of the robot, for LeRobot.

    Args:
        config: Config of the scene and its appearance.

    Raises:
        ValueError: a setting is out of range.
    """

    config_class = RobotWMSimConfig
    name = "robot_wm_sim"

    def __init__(self, config: RobotWMSimConfig) -> None:
        read_settings("image_size", config.image_size, Count)
        read_settings("seed", config.seed, Seed)
        super().__init__(config)
        self.config = config
        self.cameras = {CAMERA: None}  # LeRobot only counts them
        device = build_robot(SO101).device
        assert device is not None
        self._joints = device
        self._env: Tabletop | None = None

    @property
    def observation_features(self) -> dict[str, Any]:
        """Type of each joint, and shape of the picture, by name."""
        size = self.config.image_size
        return {**self.action_features, CAMERA: (size, size, 3)}

    @property
    def action_features(self) -> dict[str, type]:
        """Type of each joint target, by name."""
        return dict.fromkeys(self._joints.keys, float)

    @property
    def is_connected(self) -> bool:
        """Whether `connect` was called, and `disconnect` not since."""
        return self._env is not None

    @property
    def is_calibrated(self) -> bool:
        """Always True: the model is exact."""
        return True

    def calibrate(self) -> None:
        """Does nothing: the model is exact."""

    def configure(self) -> None:
        """Does nothing: there is nothing to configure."""

    @check_if_already_connected
    def connect(self, calibrate: bool = True) -> None:
        """Builds the scene and starts its time."""
        robot = build_robot(SimulatedRobot())
        limits = robot.limits
        env = Tabletop(
            robot,
            image_size=self.config.image_size,
            random_appearance=self.config.random_appearance,
        )
        env.reset(self.config.seed)
        self._governor = Governor(
            limits, robot.chain.corners, limits.clip_within_tolerance(env.joints())
        )
        self._tick_s = float(limits.tick_s)
        self._substeps = round(self._tick_s / env.physics.timestep_s)
        self._target: FloatArray | None = None
        self._env, self._simulated_s = env, time.monotonic()

    @check_if_not_connected
    def get_observation(self) -> dict[str, Any]:
        """Returns the joints, in LeRobot's units, and the picture `[size, size, 3]`, uint8."""
        env = self._catch_up()
        return {**self._joints.values(env.joints()), **env.observe().images}

    @check_if_not_connected
    def send_action(self, action: Mapping[str, Any]) -> dict[str, float]:
        """Sets the joint target; the governor decides how and whether the arm gets there.

        Args:
            action: Target of each joint by name, in LeRobot's units.

        Returns:
            The last command of each servo, in LeRobot's units.

        Raises:
            ValueError: a joint is missing, or a target is not finite; the arm then keeps its last
                target.
        """
        missing = [key for key in self.action_features if key not in action]
        if missing:
            raise ValueError(f"action: got no {', '.join(missing)}")
        target = self._joints.angles(action)
        if not np.isfinite(target).all():
            raise ValueError(f"action: got {dict(action)}, want finite numbers")
        self._catch_up()
        self._target = target
        return self._joints.values(self._governor.joints)

    def _catch_up(self) -> Tabletop:
        """Simulates tick by tick until now."""
        assert self._env is not None
        now_s, physics = time.monotonic(), self._env.physics
        # A machine that is too slow lets the simulated time fall behind, rather than leap.
        self._simulated_s = max(self._simulated_s, now_s - _LATEST_S)
        while self._simulated_s + self._tick_s <= now_s:
            self._env.command(self._governor.step(self._target).joints)
            physics.step(self._substeps)
            self._simulated_s += self._tick_s
        return self._env

    @check_if_not_connected
    def disconnect(self) -> None:
        """Closes the scene."""
        assert self._env is not None
        self._env.close()
        self._env = None
