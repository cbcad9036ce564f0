"""Finds what the policy must know of its caller: the joints' names, and the rate of the calls.

LeRobot passes vectors without names. `lerobot-record` and `make_policy` pass the names and the rate
in `dataset_meta`. `lerobot-rollout` (0.6) passes them to no policy and to no processor of a policy;
they are in the `RolloutContext` that its strategies drive the policy with. That is a public class
with public fields, but no argument of ours, so it is searched for in the local variables of the
callers. If it is not found nothing is assumed: the policy refuses.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lerobot.utils.constants import ACTION, OBS_STATE

_LEAST_HZ = 10


@dataclass(frozen=True)
class Layout:
    """A robot as LeRobot shows it to a policy.

    Attributes:
        state_names: Names of the numbers in `observation.state`, in their order.
        action_names: Names of the numbers in an action, in their order.
        fps: Calls per second.
    """

    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    fps: float


def read_layout(features: Mapping[str, Any], fps: float) -> Layout:
    """Returns the layout that a dataset's features and its rate describe."""
    names = [tuple((features.get(key) or {}).get("names") or ()) for key in (OBS_STATE, ACTION)]
    return Layout(names[0], names[1], float(fps))


def find_rollout(policy: object) -> Layout | None:
    """Finds the layout of the robot that `lerobot-rollout` drives with this policy.

    Args:
        policy: The policy, called directly or indirectly by the rollout.

    Returns:
        The layout; None if no caller is a rollout of this very policy.
    """
    # Without an import there is no context; a later LeRobot may have another class.
    context = getattr(sys.modules.get("lerobot.rollout"), "RolloutContext", None)
    if not isinstance(context, type):
        return None
    frame = inspect.currentframe()
    while frame is not None:
        for value in list(frame.f_locals.values()):
            if isinstance(value, context) and value.policy.policy is policy:
                return read_layout(value.data.dataset_features, value.runtime.cfg.fps)
        frame = frame.f_back
    return None


def check_layout(layout: Layout, joints: tuple[str, ...], fps: float | None) -> None:
    """Compares a robot with the joints that are to be driven.

    Args:
        layout: The layout of the robot.
        joints: Names of the joints, in any order.
        fps: The rate that the user gave the policy; None: none.

    Raises:
        ValueError: a joint is missing or there are others, or the rate is too low or another one.
    """
    for what, names in (("state", layout.state_names), ("action", layout.action_names)):
        missing = [name for name in joints if name not in names]
        others = [name for name in names if name not in joints]
        if missing or others or len(names) != len(joints):
            wrong = f"no {', '.join(missing)}" if missing else f"more: {', '.join(others or names)}"
            raise ValueError(
                f"checkpoint: made for another robot: the {what} of this one has {wrong}; got "
                f"{', '.join(names) or 'nothing'}, want {', '.join(joints)}"
            )
    check_rate(layout.fps)
    if fps is not None and fps != layout.fps:
        raise ValueError(
            f"policy.fps: got {fps:g}, but LeRobot calls {layout.fps:g} times a second (its "
            f"--fps or --dataset.fps); want the same, or no policy.fps"
        )


def check_rate(fps: float) -> None:
    """Raises ValueError if the calls are so rare that a servo would take too large steps."""
    if not fps >= _LEAST_HZ:
        raise ValueError(
            f"fps: got {fps:g}, want at least {_LEAST_HZ}: a servo goes to the next goal as fast "
            f"as it can, so goals must lie close together"
        )
