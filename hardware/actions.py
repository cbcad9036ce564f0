"""From a policy's actions to joint targets, and back: how an end-effector policy drives joints."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from robot_wm.kinematics import JointMap, RobotModel, inverse_kinematics
from robot_wm.types import ActionSpec, FloatArray, UserError


def _within(here: FloatArray, wish: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """A wish inside the box; where it stands outside, no farther: nothing draws it back in."""
    return np.clip(wish, np.minimum(low, here), np.maximum(high, here))


class ToolActions:
    """Steps of the tool and of the jaw: `(dx, dy, dz, d_opening)`, m, base frame.

    The wish is kept inside a box, or no farther from it than the tool is, and resolved by damped
    least squares, with the tool tilted as in the training data as far as that goes; where it cannot
    be reached, the joints go near.

    Args:
        robot: the arm.
        spec: the policy's actions, 4 of them.
        low, high: where the tool, and the gripper's opening, stay `[4]`, m; the arm's workspace
            where None.
        posture: joints `[J]`, rad, that show how the tool is tilted; the arm's home where None.
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
        return self._spec

    def proprio(self, joints: FloatArray) -> FloatArray:
        """The tool's x, y, z and the gripper's opening `[4]`, m."""
        return self._robot.state(joints)

    def targets(self, joints: FloatArray, action: FloatArray) -> FloatArray:
        """Joint targets `[1, J]`, rad, of one action `[4]` from commanded joints `[J]`."""
        here = self.proprio(joints)
        wish = _within(here, here + self._spec.clip(action), self._low, self._high)
        target, _ = self._robot.reach(wish[:3], joints, like=self._posture)
        return self._robot.opened(target, wish[3])[None]

    def moved(self, before: FloatArray, after: FloatArray) -> FloatArray:
        """The action `[4]` that leads from commanded joints `[J]` to others."""
        return self.proprio(after) - self.proprio(before)


class PoseActions:
    """Steps of the tool's pose and of the gripper, as V-JEPA 2-AC and DROID have them: seven.

    `(dx, dy, dz, turn about x, y, z, d_gripper)`: m, extrinsic xyz Euler angles of the rotation
    from the old pose to the new one, rad, and 0 (open) to 1 (closed), base frame. Position and
    rotation are sought together by damped least squares; what an arm of fewer than six joints
    cannot turn, it comes near to (arXiv 2506.09985).

    Args:
        robot: the arm.
        spec: the policy's actions, 7 of them.
        low, high: where the tool stays `[3]`, m; the arm's workspace where None.
        rotation_weight: metres that a radian is worth where both cannot be had.
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
        return self._spec

    def proprio(self, joints: FloatArray) -> FloatArray:
        """The tool's x, y, z, roll, pitch, yaw and the gripper `[7]`; m, rad, 0 to 1."""
        pose = self._robot.chain.tool(joints)
        angles = Rotation.from_matrix(pose[:3, :3]).as_euler("xyz")
        return np.concatenate((pose[:3, 3], angles, [self._robot.closed(joints)]))

    def targets(self, joints: FloatArray, action: FloatArray) -> FloatArray:
        """Joint targets `[1, J]`, rad, of one action `[7]` from commanded joints `[J]`."""
        action, pose = self._spec.clip(action), self._robot.chain.tool(joints)
        wish = _within(pose[:3, 3], pose[:3, 3] + action[:3], self._low, self._high)
        turn = Rotation.from_euler("xyz", action[3:6]).as_matrix()
        target, _, _ = inverse_kinematics(
            self._robot.chain,
            wish,
            joints,
            rotation=turn @ pose[:3, :3],
            rotation_weight=self._weight,
        )
        shut = float(np.clip(self._robot.closed(joints) + action[6], 0, 1))
        return self._robot.with_closed(target, shut)[None]

    def moved(self, before: FloatArray, after: FloatArray) -> FloatArray:
        """The action `[7]` that leads from commanded joints `[J]` to others."""
        chain = self._robot.chain
        old, new = chain.tool(before), chain.tool(after)
        turn = Rotation.from_matrix(new[:3, :3] @ old[:3, :3].T).as_euler("xyz")
        change = self.proprio(after) - self.proprio(before)
        return np.concatenate((change[:3], turn, change[6:]))


class JointActions:
    """Steps of the joints themselves: rad, or in a device's own units.

    Args:
        spec: the policy's actions, one per joint.
        low, high: of the joints `[J]`, rad.
        joints: the device's, where actions and proprioception are in its units, as in datasets
            that LeRobot has recorded; its keys in the order of the actions.
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
        return self._spec

    def proprio(self, joints: FloatArray) -> FloatArray:
        """The joints `[J]`, in the units of the actions."""
        return np.asarray(joints, np.float64) / self._unit + self._zero

    def targets(self, joints: FloatArray, action: FloatArray) -> FloatArray:
        """Joint targets `[1, J]`, rad, of one action `[J]` from commanded joints `[J]`."""
        step = self._spec.clip(action) * self._unit
        return np.clip(joints + step, self._low, self._high)[None]

    def moved(self, before: FloatArray, after: FloatArray) -> FloatArray:
        """The action `[J]` that leads from commanded joints `[J]` to others."""
        return (np.asarray(after, np.float64) - before) / self._unit
