"""From settings to the one RobotModel that everything else is handed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from robot_wm.contracts import check_robot, hold_to
from robot_wm.deployment.extensions import find_attribute
from robot_wm.deployment.settings import LeRobotRobot, LimitSettings, RobotSettings
from robot_wm.kinematics import JointMap, RobotModel
from robot_wm.robots import find_arm_factory
from robot_wm.types import FloatArray, UserError


def build_robot(settings: RobotSettings) -> RobotModel:
    """Builds the arm that a robot is set to.

    Raises:
        UserError: no such arm, limits that make no sense, or poses that it does not have.
    """
    robot = build_arm(settings.arm, settings.limits)
    park, home = (_pose(value, robot) for value in (settings.rest, settings.posture))
    device = robot.device
    if isinstance(settings, LeRobotRobot):
        joints = settings.joints
        zero, scale = np.array(joints.zero), np.array(joints.rad_per_unit)
        device = JointMap(robot.joints, joints.keys, zero, scale)
    return replace(
        robot,
        park=robot.park if park is None else park,
        home=robot.home if home is None else home,
        device=device,
    )


def build_arm(name: str, limits: LimitSettings) -> RobotModel:
    """Builds an arm of the table, or of the caller's, with limits that differ from its own.

    Raises:
        UserError: no such arm, or limits that make no sense.
    """
    return find_arm(name).with_limits(**limits.given())


def find_arm(name: str) -> RobotModel:
    """The arm of a name of the table, or of a function `package.function`.

    Raises:
        UserError: there is none, or it returns something else.
    """
    make: Any = find_arm_factory(name) if "." not in name else find_attribute(name)
    try:
        made = make()
    except TypeError as error:
        raise UserError(f"arm: {name}: {error}") from error
    if not isinstance(made, RobotModel):
        raise UserError(f"arm: {name} returned a {type(made).__name__}, want a RobotModel")
    hold_to(lambda: check_robot(lambda: made), make)
    return made


def _pose(joints: Sequence[float] | str | None, robot: RobotModel) -> FloatArray | None:
    """Joints of a setting, rad: a list, `"home"`, or None."""
    if joints is None:
        return None
    return robot.home if isinstance(joints, str) else np.array(joints)
