"""What the policy must know of its caller: which number is which joint, and how often it is called.

LeRobot hands over vectors without names. `lerobot-record` and `make_policy` say the names and the
rate beside them, in `dataset_meta`. `lerobot-rollout` (0.6) says them to no policy and to no
processor of a policy; they stand in the `RolloutContext` that its strategies drive the policy with.
That is a public class with public fields, but no argument of ours, so it is looked for among the
variables of those who called. Where it is not found nothing is assumed: the policy refuses.
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
        state_names: what the numbers of `observation.state` are, in their order.
        action_names: what the numbers of an action are, in their order.
        fps: calls per second.
    """

    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    fps: float


def read_layout(features: Mapping[str, Any], fps: float) -> Layout:
    """The layout that a dataset's features and its rate describe."""
    names = [tuple((features.get(key) or {}).get("names") or ()) for key in (OBS_STATE, ACTION)]
    return Layout(names[0], names[1], float(fps))


def find_rollout(policy: object) -> Layout | None:
    """The layout of the robot that `lerobot-rollout` drives with this policy.

    Args:
        policy: is called, directly or not, by whom it is looked for.

    Returns:
        None where no caller is a rollout of this very policy.
    """
    # Who has not imported it has made no context; a later LeRobot may have another one.
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
        layout: the robot's.
        joints: names of the joints, in any order.
        fps: the rate that the policy was told by its user; None: nothing.

    Raises:
        ValueError: a joint is missing or there are others, or the rate is too low or another.
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
    """Raises ValueError where a servo would be driven in steps that lie too far apart."""
    if not fps >= _LEAST_HZ:
        raise ValueError(
            f"fps: got {fps:g}, want at least {_LEAST_HZ}: a servo goes to the next goal as fast "
            f"as it can, so goals must lie close together"
        )
