"""Checks whether commands kept the limits, from the commands alone and without the governor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from robot_wm.kinematics.limits import Limits
from robot_wm.types import FloatArray


def violations(
    limits: Limits,
    corners: Callable[[FloatArray], FloatArray],
    commands: FloatArray,
) -> dict[str, int]:
    """Counts the commands that broke a limit.

    Args:
        limits: The limits that the commands should keep.
        corners: Function from joints `[N, J]`, rad, to the corners of all bodies `[N, P, 3]`, m.
        commands: Joints where the arm began, at rest, and every command after that, `[T, J]`, rad.

    Returns:
        Number of bad commands under `finite`, `joints`, `speed`, `acceleration`, `box`,
        `tip_speed`.
    """
    commands = np.asarray(commands, np.float64)
    finite = np.isfinite(commands).all(axis=1)
    if not finite.all():
        return {"finite": int((~finite).sum())}
    speed = np.diff(commands, axis=0) / limits.tick_s
    acceleration = np.diff(speed, axis=0, prepend=np.zeros((1, commands.shape[1]))) / limits.tick_s
    points = corners(commands)  # [T, P, 3]
    tips = np.linalg.norm(np.diff(points, axis=0), axis=-1) / limits.tick_s
    after, places = commands[1:], points[1:]
    kept = {
        "finite": np.ones(len(after), bool),
        "joints": ((after >= limits.low) & (after <= limits.high)).all(1),
        "speed": (np.abs(speed) <= limits.max_speed).all(1),
        "acceleration": (np.abs(acceleration) <= limits.max_acceleration).all(1),
        "box": ((places >= limits.box_low) & (places <= limits.box_high)).all((1, 2)),
        "tip_speed": (tips <= limits.tip_speed).all(1),
    }
    return {name: int((~right).sum()) for name, right in kept.items()}
