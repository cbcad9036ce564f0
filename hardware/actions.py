"""From a policy's actions to joint targets, and back: how an end-effector policy drives joints."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from hardware.joints import JointMap
from hardware.kinematics import Chain, inverse
from robot_wm.types import ActionSpec, FloatArray


def _within(here: FloatArray, wish: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """A wish inside the box; where it stands outside, no farther: nothing draws it back in."""
    return np.clip(wish, np.minimum(low, here), np.maximum(high, here))


class ToolActions:
    """Steps of the tool and of the jaw: `(dx, dy, dz, d_opening)`, m, base frame.

    The wish is kept inside a box, or no farther from it than the tool is, and resolved by damped
    least squares, with the tool tilted as in the training data as far as that goes; where it cannot
    be reached, the joints go near.

    Args:
        chain: the arm; its last joint is the jaw.
        spec: the policy's actions, 4 of them.
        low, high: where the tool, and the jaw's opening, stay `[4]`, m.
        jaw_radius_m: hinge to tip: an angle of the jaw becomes metres of opening.
        posture: joints `[J]`, rad, that show how the tool is tilted; as it stands where None.
    """

    def __init__(
        self,
        chain: Chain,
        spec: ActionSpec,
        *,
        low: FloatArray,
        high: FloatArray,
        jaw_radius_m: float,
        posture: FloatArray | None = None,
    ) -> None:
        if spec.size != 4:
            raise ValueError(f"actions: got {spec.size} ({', '.join(spec.names)}), want 4")
        self._chain, self._spec, self._jaw_radius_m = chain, spec, jaw_radius_m
        self._posture = posture
        self._low, self._high = np.array(low, np.float64), np.array(high, np.float64)

    @property
    def spec(self) -> ActionSpec:
        return self._spec

    def proprio(self, joints: FloatArray) -> FloatArray:
        """The tool's x, y, z and the jaw's opening `[4]`, m."""
        return np.append(self._chain.tool(joints)[:3, 3], joints[-1] * self._jaw_radius_m)

    def targets(self, joints: FloatArray, action: FloatArray) -> FloatArray:
        """Joint targets `[1, J]`, rad, of one action `[4]` from commanded joints `[J]`."""
        here = self.proprio(joints)
        wish = _within(here, here + self._spec.clip(action), self._low, self._high)
        target, _, _ = inverse(self._chain, wish[:3], joints, like=self._posture)
        target[-1] = np.clip(wish[3] / self._jaw_radius_m, *self._chain.joint_range[-1])
        return target[None]

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
        chain: the arm; its last joint is the jaw, open at the end of its range.
        spec: the policy's actions, 7 of them.
        low, high: where the tool stays `[3]`, m.
        rotation_weight: metres that a radian is worth where both cannot be had.
    """

    def __init__(
        self,
        chain: Chain,
        spec: ActionSpec,
        *,
        low: FloatArray,
        high: FloatArray,
        rotation_weight: float = 0.02,
    ) -> None:
        if spec.size != 7:
            raise ValueError(f"actions: got {spec.size} ({', '.join(spec.names)}), want 7")
        self._chain, self._spec, self._weight = chain, spec, rotation_weight
        self._low, self._high = np.array(low, np.float64), np.array(high, np.float64)
        self._shut, self._open = chain.joint_range[-1]

    @property
    def spec(self) -> ActionSpec:
        return self._spec

    def proprio(self, joints: FloatArray) -> FloatArray:
        """The tool's x, y, z, roll, pitch, yaw and the gripper `[7]`; m, rad, 0 to 1."""
        pose = self._chain.tool(joints)
        angles = Rotation.from_matrix(pose[:3, :3]).as_euler("xyz")
        shut = (self._open - joints[-1]) / (self._open - self._shut)
        return np.concatenate((pose[:3, 3], angles, [np.clip(shut, 0, 1)]))

    def targets(self, joints: FloatArray, action: FloatArray) -> FloatArray:
        """Joint targets `[1, J]`, rad, of one action `[7]` from commanded joints `[J]`."""
        action, pose = self._spec.clip(action), self._chain.tool(joints)
        wish = _within(pose[:3, 3], pose[:3, 3] + action[:3], self._low, self._high)
        turn = Rotation.from_euler("xyz", action[3:6]).as_matrix()
        target, _, _ = inverse(
            self._chain,
            wish,
            joints,
            rotation=turn @ pose[:3, :3],
            rotation_weight=self._weight,
        )
        shut = np.clip(self.proprio(joints)[6] + action[6], 0, 1)
        jaw = self._open - shut * (self._open - self._shut)
        target[-1] = np.clip(jaw, self._shut, self._open)
        return target[None]

    def moved(self, before: FloatArray, after: FloatArray) -> FloatArray:
        """The action `[7]` that leads from commanded joints `[J]` to others."""
        old, new = self._chain.tool(before), self._chain.tool(after)
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
            raise ValueError(f"actions: got {spec.size} ({', '.join(spec.names)}), want {len(low)}")
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
