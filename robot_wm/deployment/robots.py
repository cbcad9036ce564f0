"""Makes the RobotModel of an arm, which everything else uses, from settings."""

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
    """Builds the model of the arm that the settings name.

    Args:
        settings: Settings of the robot.

    Returns:
        The arm, with its poses, limits and joint map.

    Raises:
        UserError: there is no such arm, or a limit or a pose does not fit it.
    """
    robot = build_arm(settings.arm, settings.limits)
    park, home = (_pose(value, robot) for value in (settings.park_pose, settings.posture))
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
    """Builds an arm of ours or of the caller, with some other limits than its own.

    Args:
        name: As in `find_arm`.
        limits: The limits that differ.

    Returns:
        The arm.

    Raises:
        UserError: there is no such arm, or a limit does not fit it.
    """
    return find_arm(name).with_limits(**limits.given())


def find_arm(name: str) -> RobotModel:
    """Makes the arm of a name.

    Args:
        name: A name of the table of arms, or a function `package.function` that returns a
            RobotModel.

    Returns:
        The arm.

    Raises:
        UserError: there is no such arm, or the function returns something else.
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
    """Returns the joints of a setting, rad, which is a list, `"home"`, or None."""
    if joints is None:
        return None
    return robot.home if isinstance(joints, str) else np.array(joints)
