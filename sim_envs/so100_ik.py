"""Where the SO-100's joints must go for its gripper to be somewhere: damped least squares."""

from __future__ import annotations

import numpy as np

from robot_wm.types import FloatArray
from sim_envs.physics import Physics
from sim_envs.so100_scene import EE_SITE, JOINTS

_ARM = JOINTS[
    :4
]  # rotation, pitch, elbow, wrist pitch: the roll and the jaw do not move the tip far
_DAMPING = 0.02  # m/rad: what keeps a step finite where the arm is stretched out
_POSTURE_GAIN = 0.5
_MAX_STEP_RAD = 0.3
_TOLERANCE_M = 2e-4
_PITCH_ROW = np.array([0.0, 1.0, 1.0, 1.0])  # the gripper's angle as a function of the arm's joints


class SO100Kinematics:
    """Forward and inverse kinematics of the arm on a MuJoCo state of its own.

    Args:
        physics: a Physics of the SO-100 scene that nobody else steps: its pose is overwritten.
    """

    def __init__(self, physics: Physics) -> None:
        self._physics = physics
        self._qpos, _ = physics.joint_indices(JOINTS)
        _, self._dofs = physics.joint_indices(_ARM)
        self._range = physics.joint_range(JOINTS)

    def position(self, joints: FloatArray) -> FloatArray:
        """Gripper position `[3]` in the base frame, m, at `joints` `[6]`, rad."""
        self._physics.data.qpos[self._qpos] = joints
        self._physics.kinematics()
        return self._physics.site_position(EE_SITE)

    def solve(
        self,
        position: FloatArray,
        joints: FloatArray,
        *,
        pitch_rad: float,
        max_iterations: int = 40,
    ) -> tuple[FloatArray, float]:
        """Joints that bring the gripper to `position`, starting from `joints`.

        Damped least squares on the position; what freedom is left turns the gripper toward
        `pitch_rad`, its angle in the arm's vertical plane (the sum of the three pitch joints).

        Args:
            position: `[3]`, base frame, m.
            joints: `[6]`, rad; wrist roll and jaw come back as they were.
            pitch_rad: preferred gripper angle; position has strict priority over it.
            max_iterations: steps before the best so far is taken.

        Returns:
            Joints `[6]` within their limits, and the position error left, m.
        """
        q = np.array(joints, np.float64)
        low, high = self._range[:4].T
        for _ in range(max_iterations):
            error = position - self.position(q)
            pitch_error = pitch_rad - q[1:4].sum()
            if np.linalg.norm(error) < _TOLERANCE_M and abs(pitch_error) < 0.02:
                break
            jac = self._physics.site_jacobian(EE_SITE)[:, self._dofs]  # [3, 4]
            free = np.ones(4, bool)
            while True:  # a joint that would leave its range is held, and the others solve again
                step = np.where(free, _step(jac * free, error, pitch_error), 0.0)
                leaving = free & ((q[:4] <= low) & (step < 0) | (q[:4] >= high) & (step > 0))
                if not leaving.any():
                    break
                free &= ~leaving
            step *= min(1.0, _MAX_STEP_RAD / (np.abs(step).max() + 1e-12))
            q[:4] = np.clip(q[:4] + step, low, high)
        return q, float(np.linalg.norm(position - self.position(q)))


def _step(jac: FloatArray, error: FloatArray, pitch_error: float) -> FloatArray:
    """One damped step `[4]`: position first, the gripper's angle in what freedom is left."""
    step = jac.T @ np.linalg.solve(jac @ jac.T + _DAMPING**2 * np.eye(3), error)
    # The projector comes from the undamped pseudo-inverse: with the damped one the posture would
    # pull the gripper off its position.
    posture = (np.eye(4) - np.linalg.pinv(jac, rcond=1e-3) @ jac) @ _PITCH_ROW
    gain = posture @ _PITCH_ROW
    if gain > 1e-3:
        step = step + _POSTURE_GAIN * pitch_error / gain * posture
    return step
