"""A table of arms by name, to which others can be added; one file per arm."""

from __future__ import annotations

from collections.abc import Callable

from robot_wm.kinematics import RobotModel
from robot_wm.robots.jaco import jaco
from robot_wm.robots.so100 import so100
from robot_wm.types import UserError

# The arm of each robot type in LeRobot's datasets; `robot_wm_sim` is that of our plugin.
LEROBOT_ARMS = {
    "so100_follower": "so100",
    "so101_follower": "so100",
    "so_follower": "so100",
    "robot_wm_sim": "so100",
}
_ARMS: dict[str, Callable[[], RobotModel]] = {"so100": so100, "jaco": jaco}


def register_arm(name: str, make: Callable[[], RobotModel]) -> None:
    """Adds an arm to the table.

    Args:
        name: Name of the arm.
        make: Makes the arm's model.

    Raises:
        UserError: another arm has this name.
    """
    if _ARMS.get(name, make) is not make:
        raise UserError(f"arm: {name!r} is taken")
    _ARMS[name] = make


def known_arms() -> tuple[str, ...]:
    """Returns the names of all arms in the table."""
    return tuple(sorted(_ARMS))


def find_arm_factory(name: str) -> Callable[[], RobotModel]:
    """Finds the function that makes an arm's model.

    Args:
        name: Name of the arm.

    Returns:
        The function.

    Raises:
        UserError: there is no such arm.
    """
    if name not in _ARMS:
        raise UserError(f"arm: got {name!r}, want one of {', '.join(sorted(_ARMS))}")
    return _ARMS[name]


def make_arm(name: str) -> RobotModel:
    """Makes an arm's model.

    Args:
        name: Name of the arm.

    Returns:
        The model.

    Raises:
        UserError: there is no such arm.
    """
    return find_arm_factory(name)()


__all__ = [
    "LEROBOT_ARMS",
    "find_arm_factory",
    "jaco",
    "known_arms",
    "make_arm",
    "register_arm",
    "so100",
]
