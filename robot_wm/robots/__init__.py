"""Arms by name: an open table of factories, one file per arm."""

from __future__ import annotations

from collections.abc import Callable

from robot_wm.kinematics import RobotModel
from robot_wm.robots.jaco import jaco
from robot_wm.robots.so100 import so100
from robot_wm.types import UserError

# LeRobot's names of robots, as its datasets have them, to the arm that each is; `robot_wm_sim` is
# the one of our plugin.
LEROBOT_ARMS = {
    "so100_follower": "so100",
    "so101_follower": "so100",
    "so_follower": "so100",
    "robot_wm_sim": "so100",
}
_ARMS: dict[str, Callable[[], RobotModel]] = {"so100": so100, "jaco": jaco}


def register_arm(name: str, make: Callable[[], RobotModel]) -> None:
    """Adds an arm to the table.

    Raises:
        UserError: the name is taken.
    """
    if _ARMS.get(name, make) is not make:
        raise UserError(f"arm: {name!r} is taken")
    _ARMS[name] = make


def known_arms() -> tuple[str, ...]:
    """Names of the table."""
    return tuple(sorted(_ARMS))


def find_arm_factory(name: str) -> Callable[[], RobotModel]:
    """What makes the arm of a name.

    Raises:
        UserError: there is none.
    """
    if name not in _ARMS:
        raise UserError(f"arm: got {name!r}, want one of {', '.join(sorted(_ARMS))}")
    return _ARMS[name]


def make_arm(name: str) -> RobotModel:
    """The arm of a name.

    Raises:
        UserError: there is none.
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
