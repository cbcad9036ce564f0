"""From settings to the one RobotModel that everything else is handed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from robot_wm.cli.extensions import find_attribute
from robot_wm.contracts import check_robot, hold_to
from robot_wm.kinematics import JointMap, RobotModel
from robot_wm.robots import find_arm_factory
from robot_wm.types import FloatArray, UserError


def build_robot(config: DictConfig) -> RobotModel:
    """The arm of a `robot` or an `env` group.

    Args:
        config: `arm`: a name of the table, or of a function of the caller's, `package.function`,
            that returns a RobotModel; `limits`, where they differ from the arm's own; in a `robot`
            group also `rest`, `posture` and `joints`.

    Raises:
        UserError: no such arm, limits that make no sense, or poses that it does not have.
    """
    robot = find_arm(str(config.arm))
    own: Any = OmegaConf.to_container(config.limits)
    robot = robot.with_limits(**{name: v for name, v in own.items() if v is not None})
    park, home = (_pose(config.get(key), robot) for key in ("rest", "posture"))
    device = joint_map(config, robot.joints) if config.get("joints") is not None else None
    return replace(
        robot,
        park=robot.park if park is None else park,
        home=robot.home if home is None else home,
        device=robot.device if device is None else device,
    )


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


def joint_map(robot: DictConfig, names: tuple[str, ...]) -> JointMap:
    """How the joints of a LeRobot robot, as a `robot` group has them, become the model's.

    Raises:
        UserError: not a key, a zero and a unit for each.
    """
    own: Any = OmegaConf.to_container(robot.joints)
    try:
        return JointMap(names, tuple(own["keys"]), own["zero"], own["rad_per_unit"])
    except (KeyError, TypeError) as error:
        raise UserError(f"robot.joints: {error!r}") from error


def _pose(value: Any, robot: RobotModel) -> FloatArray | None:
    """Joints of a setting: a list, `home`, or null.

    Raises:
        UserError: something else.
    """
    if value is None:
        return None
    if value == "home":
        return robot.home
    if not OmegaConf.is_list(value):
        raise UserError(f"robot.rest: got {value!r}, want home, or a list of joints, rad")
    return np.array(OmegaConf.to_container(value))
