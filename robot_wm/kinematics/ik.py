"""Inverse kinematics by damped least squares in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robot_wm.kinematics.chain import Chain
from robot_wm.types import FloatArray

_TILT_TOLERANCE_RAD = 0.005
_TILT_WEIGHT = 1e-3  # m/rad
_MIN_STEP_RAD = 1e-4  # the search ends at a smaller step


@dataclass(frozen=True)
class IKSettings:
    """Settings of the search for joints.

    Attributes:
        damping: Damping that keeps steps finite at a singularity, m/rad.
        max_step: Largest step of a joint in one iteration, rad.
        tolerance_m: Position error below which the search ends, m.
        tolerance_rad: Rotation error below which the search ends, rad.
        max_iterations: Iterations after which the best result so far is returned.
    """

    damping: float = 0.02
    max_step: float = 0.3
    tolerance_m: float = 2e-4
    tolerance_rad: float = 2e-3
    max_iterations: int = 60


def inverse_kinematics(
    chain: Chain,
    position: FloatArray,
    start: FloatArray,
    *,
    rotation: FloatArray | None = None,
    like: FloatArray | None = None,
    low: FloatArray | None = None,
    high: FloatArray | None = None,
    rotation_weight: float = 0.1,
    settings: IKSettings | None = None,
) -> tuple[FloatArray, float, float]:
    """Finds joints within their limits that bring the tool to a position.

    Args:
        chain: The arm.
        position: The target position `[3]`, base frame, m.
        start: The joints to start from `[J]`, rad; those that the tool does not need stay near.
        rotation: The target rotation `[3, 3]`, base frame. If None, the tool gets the tilt against
            gravity that it has at `like`, as far as the position allows, which has strict priority.
        like: Joints `[J]`, rad, at which the tool has the desired tilt; `start` if None.
        low: Smallest joint angles `[J]`, rad; those of the chain if None.
        high: Largest joint angles `[J]`, rad; those of the chain if None.
        rotation_weight: Weight of a target rotation's error, m/rad.
        settings: Settings of the search.

    Returns:
        Joints `[J]`, rad, within their limits, the remaining position error, m, and the remaining
        error of the rotation or tilt, rad.

    Raises:
        ValueError: a target that is not finite, or of another shape.
    """
    if rotation is not None:
        from scipy.spatial.transform import Rotation  # slow to import

    settings = settings or IKSettings()
    position = np.asarray(position, np.float64)
    if position.shape != (3,) or not np.isfinite(position).all():
        raise ValueError(f"position: got {position}, want 3 finite numbers, m")
    if rotation is not None and (np.shape(rotation) != (3, 3) or not np.isfinite(rotation).all()):
        raise ValueError(f"rotation: got {rotation}, want a finite 3 x 3 matrix")
    low = chain.joint_range[:, 0] if low is None else low
    high = chain.joint_range[:, 1] if high is None else high
    joints = np.clip(np.asarray(start, np.float64), low, high)
    up = np.array([0.0, 0.0, 1.0])
    tilt = chain.tool(joints if like is None else like)[:3, :3].T @ up  # in the tool's frame
    best: tuple[float, FloatArray, float, float] | None = None
    for _ in range(settings.max_iterations):
        pose, jacobian = chain.tool_jacobian(joints)
        error = position - pose[:3, 3]
        if rotation is None:
            x, y, _ = pose[:3, :3] @ tilt
            turn = np.array([y, -x, 0.0])  # rotates the tilt's current direction to straight up
        else:
            turn = Rotation.from_matrix(rotation @ pose[:3, :3].T).as_rotvec()
        error_m, error_rad = float(np.linalg.norm(error)), float(np.linalg.norm(turn))
        # The tilt counts only once the position is within its tolerance.
        if rotation is None:
            score = max(error_m, settings.tolerance_m) + _TILT_WEIGHT * error_rad
        else:
            score = error_m + rotation_weight * error_rad
        if best is None or score < best[0]:
            best = (score, joints.copy(), error_m, error_rad)
        tolerance_rad = _TILT_TOLERANCE_RAD if rotation is None else settings.tolerance_rad
        if error_m < settings.tolerance_m and error_rad < tolerance_rad:
            break
        free = np.ones(chain.num_joints, bool)
        while True:  # a joint that would leave its range is fixed, and the others are solved again
            step = _step(jacobian * free, error, turn, rotation is None, rotation_weight, settings)
            leaving = free & ((joints <= low) & (step < 0) | (joints >= high) & (step > 0))
            if not leaving.any():
                break
            free &= ~leaving
        largest = float(np.abs(step).max())
        if largest < _MIN_STEP_RAD:
            break  # it has converged
        step = step * min(1.0, settings.max_step / largest)
        joints = np.clip(joints + step, low, high)
    assert best is not None
    return best[1:]


def _step(
    jacobian: FloatArray,
    error: FloatArray,
    turn: FloatArray,
    position_first: bool,
    rotation_weight: float,
    settings: IKSettings,
) -> FloatArray:
    if not position_first:
        rows = np.r_[jacobian[:3], rotation_weight * jacobian[3:]]
        return _damped(rows, np.r_[error, rotation_weight * turn], settings.damping)
    left, size, right = np.linalg.svd(jacobian[:3], full_matrices=False)
    step = (left.T @ error * size / (size**2 + settings.damping**2)) @ right
    # The null space of the position is computed without damping, so that rotating does not move the
    # tool away from its position.
    used = right[size > 1e-3 * size[0]]
    null_space = np.eye(len(step)) - used.T @ used
    correction = _damped(jacobian[3:] @ null_space, turn - jacobian[3:] @ step, 0.3)
    return step + null_space @ correction


def _damped(rows: FloatArray, error: FloatArray, damping: float) -> FloatArray:
    return rows.T @ np.linalg.solve(rows @ rows.T + damping**2 * np.eye(len(rows)), error)
