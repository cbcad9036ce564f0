"""Maps a policy's actions to joint targets and back, so that a tool policy can drive joints."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from robot_wm.kinematics import JointMap, RobotModel, inverse_kinematics
from robot_wm.types import ActionSpec, FloatArray, UserError


def _within(here: FloatArray, target: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """Clips `target` to `[low, high]`; where `here` is outside, it just goes no further out."""
    return np.clip(target, np.minimum(low, here), np.maximum(high, here))


class ToolActions:
    """Tool displacement and gripper opening: `(dx, dy, dz, d_opening)`, m, base frame.

    The target is clipped to a box; where the tool is outside the box already, it may not go further
    out. Damped least squares find the joints, with the tool tilted as in the training data as far
    as possible; for a target out of reach they find the nearest joints.

    Args:
        robot: The arm.
        spec: Spec of the policy's actions, which have 4 dimensions.
        low: Lower bounds of the tool and of the gripper's opening `[4]`, m; None: the workspace's.
        high: Upper bounds of the same `[4]`, m; None: the workspace's.
        posture: Joints `[J]`, rad, that show how the tool is to be tilted; None: the arm's home.
    """

    def __init__(
        self,
        robot: RobotModel,
        spec: ActionSpec,
        *,
        low: FloatArray | None = None,
        high: FloatArray | None = None,
        posture: FloatArray | None = None,
    ) -> None:
        if spec.size != 4:
            raise UserError(f"actions: got {spec.size} ({', '.join(spec.names)}), want 4")
        self._robot, self._spec, self._posture = robot, spec, posture
        self._low = np.array(robot.workspace_low if low is None else low, np.float64)
        self._high = np.array(robot.workspace_high if high is None else high, np.float64)

    @property
    def spec(self) -> ActionSpec:
        """See `hardware.remote.Actions`."""
        return self._spec

    def proprio(self, joints: FloatArray) -> FloatArray:
        """Returns the tool's x, y, z and the gripper's opening `[4]`, m."""
        return self._robot.state(joints)

    def targets(self, joints: FloatArray, action: FloatArray) -> FloatArray:
        """Returns joint targets `[1, J]`, rad, of an action `[4]` from commanded joints `[J]`."""
        here = self.proprio(joints)
        target = _within(here, here + self._spec.clip(action), self._low, self._high)
        target_joints, _ = self._robot.reach(target[:3], joints, like=self._posture)
        return self._robot.opened(target_joints, target[3])[None]

    def moved(self, before: FloatArray, after: FloatArray) -> FloatArray:
        """Returns the action `[4]` that leads from commanded joints `[J]`, rad, to others."""
        return self.proprio(after) - self.proprio(before)


class PoseActions:
    """Tool pose displacement and gripper closing, as V-JEPA 2-AC and DROID have them: 7 numbers.

    `(dx, dy, dz, rotation about x, y, z, d_gripper)` in the base frame: m; extrinsic xyz Euler
    angles of the rotation from the old to the new orientation, rad; gripper from 0 (open) to 1
    (closed). Damped least squares solve position and rotation together; an arm of fewer than six
    joints approximates rotations that it cannot reach (arXiv 2506.09985).

    Args:
        robot: The arm.
        spec: Spec of the policy's actions, which have 7 dimensions.
        low: Lower bounds of the tool `[3]`, m; None: the workspace's.
        high: Upper bounds of the tool `[3]`, m; None: the workspace's.
        rotation_weight: Position error that counts as much as one radian of rotation error where
            both cannot be met, m/rad.
    """

    def __init__(
        self,
        robot: RobotModel,
        spec: ActionSpec,
        *,
        low: FloatArray | None = None,
        high: FloatArray | None = None,
        rotation_weight: float = 0.02,
    ) -> None:
        if spec.size != 7:
            raise UserError(f"actions: got {spec.size} ({', '.join(spec.names)}), want 7")
        self._robot, self._spec, self._weight = robot, spec, rotation_weight
        self._low = np.array(robot.workspace_low[:3] if low is None else low, np.float64)
        self._high = np.array(robot.workspace_high[:3] if high is None else high, np.float64)

    @property
    def spec(self) -> ActionSpec:
        """See `hardware.remote.Actions`."""
        return self._spec

    def proprio(self, joints: FloatArray) -> FloatArray:
        """Returns the tool's x, y, z, roll, pitch, yaw and the gripper `[7]`; m, rad, 0 to 1."""
        pose = self._robot.chain.tool(joints)
        angles = Rotation.from_matrix(pose[:3, :3]).as_euler("xyz")
        return np.concatenate((pose[:3, 3], angles, [self._robot.closed(joints)]))

    def targets(self, joints: FloatArray, action: FloatArray) -> FloatArray:
        """Returns joint targets `[1, J]`, rad, of an action `[7]` from commanded joints `[J]`."""
        action, pose = self._spec.clip(action), self._robot.chain.tool(joints)
        target = _within(pose[:3, 3], pose[:3, 3] + action[:3], self._low, self._high)
        rotation = Rotation.from_euler("xyz", action[3:6]).as_matrix()
        target_joints, _, _ = inverse_kinematics(
            self._robot.chain,
            target,
            joints,
            rotation=rotation @ pose[:3, :3],
            rotation_weight=self._weight,
        )
        closed = float(np.clip(self._robot.closed(joints) + action[6], 0, 1))
        return self._robot.with_closed(target_joints, closed)[None]

    def moved(self, before: FloatArray, after: FloatArray) -> FloatArray:
        """Returns the action `[7]` that leads from commanded joints `[J]`, rad, to others."""
        chain = self._robot.chain
        old, new = chain.tool(before), chain.tool(after)
        rotation = Rotation.from_matrix(new[:3, :3] @ old[:3, :3].T).as_euler("xyz")
        change = self.proprio(after) - self.proprio(before)
        return np.concatenate((change[:3], rotation, change[6:]))


class JointActions:
    """Joint displacements: rad, or in a device's own units.

    Args:
        spec: Spec of the policy's actions, which have one dimension per joint.
        low: Lower joint limits `[J]`, rad.
        high: Upper joint limits `[J]`, rad.
        joints: The device's joint map, if actions and proprioception are in the device's units, as
            in datasets that LeRobot records; its keys are in the order of the actions. None: they
            are in rad.
    """

    def __init__(
        self,
        spec: ActionSpec,
        *,
        low: FloatArray,
        high: FloatArray,
        joints: JointMap | None = None,
    ) -> None:
        if spec.size != len(low):
            raise UserError(f"actions: got {spec.size} ({', '.join(spec.names)}), want {len(low)}")
        self._spec, self._low, self._high = spec, low, high
        self._unit = np.ones(spec.size) if joints is None else joints.rad_per_unit
        self._zero = np.zeros(spec.size) if joints is None else joints.zero

    @property
    def spec(self) -> ActionSpec:
        """See `hardware.remote.Actions`."""
        return self._spec

    def proprio(self, joints: FloatArray) -> FloatArray:
        """Returns the joints `[J]` in the units of the actions."""
        return np.asarray(joints, np.float64) / self._unit + self._zero

    def targets(self, joints: FloatArray, action: FloatArray) -> FloatArray:
        """Returns joint targets `[1, J]`, rad, of an action `[J]` from commanded joints `[J]`."""
        step = self._spec.clip(action) * self._unit
        return np.clip(joints + step, self._low, self._high)[None]

    def moved(self, before: FloatArray, after: FloatArray) -> FloatArray:
        """Returns the action `[J]` that leads from commanded joints `[J]`, rad, to others."""
        return (np.asarray(after, np.float64) - before) / self._unit
