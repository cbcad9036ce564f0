"""Where an arm's joints must go for its tool to be somewhere: damped least squares in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robot_wm.kinematics.chain import Chain
from robot_wm.types import FloatArray

_ENOUGH_TILT_RAD = 0.005
_TILT_WEIGHT = 1e-3  # m/rad
_STILL_RAD = 1e-4  # a smaller step changes nothing that counts


@dataclass(frozen=True)
class IKSettings:
    """How joints are sought.

    Attributes:
        damping: what keeps a step finite at a singularity, m/rad.
        max_step: of one joint in one iteration, rad.
        tolerance_m: position error that is good enough.
        tolerance_rad: rotation error that is good enough.
        max_iterations: after which the best so far is taken.
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
    """Joints that bring the tool somewhere: damped least squares within the joints' limits.

    Args:
        chain: the arm.
        position: wanted `[3]`, base frame, m.
        start: where to start `[J]`, rad; what the tool does not need stays near it.
        rotation: wanted `[3, 3]`; where None, the tool is tilted against gravity as at `like`, as
            far as the position allows, which has strict priority.
        like: joints `[J]`, rad, that show how the tool is to be tilted; `start` where None.
        low, high: of the joints `[J]`, rad; the chain's own range where None.
        rotation_weight: metres that a radian is worth, where a rotation is wanted.
        settings: how.

    Returns:
        Joints `[J]` within their limits, the position error that is left, m, and the error of
        rotation or tilt, rad.

    Raises:
        ValueError: a wish that is not finite, or of another shape.
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
    tilt = chain.tool(joints if like is None else like)[:3, :3].T @ up  # as the tool feels it
    best: tuple[float, FloatArray, float, float] | None = None
    for _ in range(settings.max_iterations):
        pose, jacobian = chain.tool_jacobian(joints)
        error = position - pose[:3, 3]
        if rotation is None:
            x, y, _ = pose[:3, :3] @ tilt
            turn = np.array([y, -x, 0.0])  # from there to straight up
        else:
            turn = Rotation.from_matrix(rotation @ pose[:3, :3].T).as_rotvec()
        far, turned = float(np.linalg.norm(error)), float(np.linalg.norm(turn))
        # A tilt is worth something only once the tool is there.
        if rotation is None:
            score = max(far, settings.tolerance_m) + _TILT_WEIGHT * turned
        else:
            score = far + rotation_weight * turned
        if best is None or score < best[0]:
            best = (score, joints.copy(), far, turned)
        enough = _ENOUGH_TILT_RAD if rotation is None else settings.tolerance_rad
        if far < settings.tolerance_m and turned < enough:
            break
        free = np.ones(chain.num_joints, bool)
        while True:  # a joint that would leave its range is held, and the others solve again
            step = _step(jacobian * free, error, turn, rotation is None, rotation_weight, settings)
            leaving = free & ((joints <= low) & (step < 0) | (joints >= high) & (step > 0))
            if not leaving.any():
                break
            free &= ~leaving
        largest = float(np.abs(step).max())
        if largest < _STILL_RAD:
            break  # as near as it gets
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
    # What is free of the position is told without damping: else turning would pull the tool off it.
    held = right[size > 1e-3 * size[0]]
    apart = np.eye(len(step)) - held.T @ held
    return step + apart @ _damped(jacobian[3:] @ apart, turn - jacobian[3:] @ step, 0.3)


def _damped(rows: FloatArray, error: FloatArray, damping: float) -> FloatArray:
    return rows.T @ np.linalg.solve(rows @ rows.T + damping**2 * np.eye(len(rows)), error)
