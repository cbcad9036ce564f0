"""Checks that any implementation of an interface of this library keeps it.

Each check raises an AssertionError that names what is broken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from robot_wm.contracts.encoder import check_encoder
from robot_wm.contracts.env import assert_same, check_env
from robot_wm.contracts.model import check_world_model
from robot_wm.contracts.objective import check_objective
from robot_wm.contracts.planning import check_controller, check_guard, check_planner
from robot_wm.contracts.robot import check_robot
from robot_wm.contracts.task import check_task
from robot_wm.types import UserError

_OURS = ("robot_wm", "sim_envs", "hardware")


def hold_to(check: Callable[[], None], made: object) -> None:
    """Checks somebody else's implementation, before any work is done with it.

    Our own implementations are checked by our tests.

    Args:
        check: The check, ready to run.
        made: The implementation that it is run on, or the function that made it.

    Raises:
        UserError: the check failed; the message says where.
    """
    if is_ours(made):
        return
    kind: Any = made if hasattr(made, "__qualname__") else type(made)
    name = f"{kind.__module__}.{kind.__qualname__}"
    try:
        check()
    except AssertionError as error:
        raise UserError(f"{name}: {error}") from error
    except Exception as error:
        raise UserError(f"{name}: {type(error).__name__}: {error}") from error


def is_ours(made: object) -> bool:
    """Returns whether an object's class, or a function or class itself, is of this project."""
    kind = made if hasattr(made, "__qualname__") else type(made)
    return str(kind.__module__).partition(".")[0] in _OURS


__all__ = [
    "assert_same",
    "check_controller",
    "check_encoder",
    "check_env",
    "check_guard",
    "check_objective",
    "check_planner",
    "check_robot",
    "check_task",
    "check_world_model",
    "hold_to",
    "is_ours",
]
