"""RobotModel: the value that describes an arm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from robot_wm.kinematics.chain import Chain
from robot_wm.kinematics.ik import inverse_kinematics
from robot_wm.kinematics.joints import JointMap
from robot_wm.kinematics.limits import Limits
from robot_wm.types import FloatArray, Index, Number, UserError, check_fields

_REACHED_M = 1e-3
_WORKSPACE = ("workspace_low", "workspace_high")
STATE_NAMES = ("ee.x", "ee.y", "ee.z", "gripper")


@dataclass(frozen=True)
class Gripper:
    """Hinges that open and shut together, by the same angle and in the same direction.

    Attributes:
        joints: Numbers of these hinges among the arm's joints.
        metres_per_rad: Change of the opening between the tips per angle; negative if the gripper
            shuts with a growing angle.
        shut_rad: Angle of the hinges at which the opening is 0.
    """

    joints: Annotated[tuple[Index, ...], Meta(min_length=1)]
    metres_per_rad: Number
    shut_rad: Number = 0.0

    def __post_init__(self) -> None:
        check_fields(self, name="gripper")
        if not self.metres_per_rad:
            raise UserError("gripper.metres_per_rad: got 0, want another number")

    def opening_m(self, joints: FloatArray) -> float:
        """Returns the opening at the arm's joints `[J]`, rad; from the mean of its hinges."""
        return float(np.mean(joints[list(self.joints)]) - self.shut_rad) * self.metres_per_rad

    def angle_rad(self, opening_m: float) -> float:
        """Returns the angle of the hinges at an opening."""
        return self.shut_rad + opening_m / self.metres_per_rad


@dataclass(frozen=True, eq=False)
class RobotModel:
    """An arm, as simulation, governor, actions and devices need to know it.

    Attributes:
        name: Name of the arm, such as `"so100"`.
        xml: MJCF of the arm only, with one position actuator per joint, of the joint's name; the
            base is at the origin and the arm reaches along +x.
        assets: Content of each mesh file that the MJCF names, by file name.
        chain: The arm's links; J joints, in the order of commands.
        tool: Name of the tool's site.
        gripper: The joints that open and shut.
        workspace_low: Smallest position and opening of the tool in simulation `[4]`, m, base frame.
        workspace_high: Largest position and opening of the tool in simulation `[4]`, m, base frame.
        table_low: Lower corner of the reachable area on a table `[2]`, m, base frame.
        table_high: Upper corner of the reachable area on a table `[2]`, m, base frame.
        home: Joints `[J]`, rad, from which the workspace is reached, with the tool tilted as in its
            usual work.
        limits: Ranges, speeds and accelerations that the arm must keep to.
        park: Joints `[J]`, rad, where the arm may go limp; None if there is no such pose.
        wrist: Position of a camera on the arm, and the point that it looks at, `[2, 3]`, m, in the
            frame of the body that carries the tool; None for no camera.
        device: Map from a real arm's joint values to angles; None for an arm that is only
            simulated.
        reach_m: How far along x the arm works, m, which sizes the table and the cameras around it;
            other limits leave it as it is. None: as far as `workspace_high`.

    Raises:
        UserError: sizes that do not fit the joints, low above high, or a pose beyond the joints'
            ranges.
    """

    name: str
    xml: str
    assets: Mapping[str, bytes]
    chain: Chain
    tool: str
    gripper: Gripper
    workspace_low: FloatArray
    workspace_high: FloatArray
    table_low: FloatArray
    table_high: FloatArray
    home: FloatArray
    limits: Limits
    park: FloatArray | None = None
    wrist: FloatArray | None = None
    device: JointMap | None = None
    reach_m: float | None = None

    def __post_init__(self) -> None:
        size = self.chain.num_joints
        sizes = {"workspace_low": 4, "workspace_high": 4, "table_low": 2, "table_high": 2}
        for name, want in {**sizes, "home": size, "park": size}.items():
            if getattr(self, name) is None and name == "park":
                continue
            value = np.array(getattr(self, name), np.float64)
            if value.shape != (want,) or not np.isfinite(value).all():
                raise UserError(f"{name}: got {value}, want {want} finite numbers")
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        reach_m = self.workspace_high[0] if self.reach_m is None else self.reach_m
        if not 0 < reach_m < np.inf:
            name = "workspace_high: x" if self.reach_m is None else "reach_m"
            raise UserError(f"{name}: got {reach_m}, want a finite number above 0")
        object.__setattr__(self, "reach_m", float(reach_m))
        if self.wrist is not None and not (
            np.shape(self.wrist) == (2, 3) and np.isfinite(self.wrist).all()
        ):
            raise UserError(f"wrist: got {self.wrist}, want a finite position and point")
        for what in ("workspace", "table"):
            low, high = getattr(self, f"{what}_low"), getattr(self, f"{what}_high")
            if not (low < high).all():
                raise UserError(f"{what}_low: got {low}, want less than {high}")
        if self.limits.low.shape != (size,):
            raise UserError(f"limits: got {len(self.limits.low)} joints, want {size}")
        low, high = self.chain.joint_range.T
        if not ((self.limits.low >= low - 1e-9) & (self.limits.high <= high + 1e-9)).all():
            raise UserError(
                f"limits: got {self.limits.low} to {self.limits.high} rad, wider than the joints"
            )
        for name in ("home", "park"):
            pose = getattr(self, name)
            if (
                pose is not None
                and not ((pose >= self.limits.low - 1e-9) & (pose <= self.limits.high + 1e-9)).all()
            ):
                raise UserError(f"{name}: got {pose}, beyond the joints' ranges")
        if not set(self.gripper.joints) <= set(range(size)):
            raise UserError(f"gripper: got joints {self.gripper.joints}, want some of {size}")

    @property
    def joints(self) -> tuple[str, ...]:
        """Names of the joints, J of them, in the order of commands."""
        return self.chain.joint_names

    def with_limits(self, **changes: Any) -> RobotModel:
        """Returns the same arm with some other limits.

        Args:
            **changes: Fields of Limits, except `low` and `high`; one number stands for every joint.
                Or `workspace_low` and `workspace_high`, `[4]`, m.

        Returns:
            The arm with these limits.

        Raises:
            UserError: an unknown limit or an invalid value.
        """
        allowed = [field.name for field in fields(Limits) if field.name not in ("low", "high")]
        allowed += [*_WORKSPACE]
        for name, value in changes.items():
            if name not in allowed:
                raise UserError(f"limits: got {name!r}, want some of {', '.join(allowed)}")
            # numpy would convert True to 1 and text to a number.
            numbers = np.ravel(np.array(value, dtype=object))
            if any(isinstance(x, bool | np.bool_ | str) or x is None for x in numbers):
                raise UserError(f"{name}: got {value!r}, want numbers")
        for name in {"max_speed", "max_acceleration"} & set(changes):
            if np.ndim(changes[name]) == 0:
                changes[name] = np.full(self.chain.num_joints, changes[name])
        box = {name: np.array(changes.pop(name)) for name in _WORKSPACE if name in changes}
        return replace(self, limits=replace(self.limits, **changes), **box)

    def state(self, joints: FloatArray) -> FloatArray:
        """Returns the tool's x, y, z and the opening `[4]`, m, at `joints` `[J]`, rad."""
        return np.append(self.chain.tool(joints)[:3, 3], self.gripper.opening_m(joints))

    def opened(self, joints: FloatArray, opening_m: float) -> FloatArray:
        """Returns `joints` `[J]`, rad, with the gripper at an opening, clipped to its range."""
        return self._with_gripper(joints, self.gripper.angle_rad(opening_m))

    def closed(self, joints: FloatArray) -> float:
        """Returns how far the gripper is shut at `joints` `[J]`, rad: 0 (open) to 1."""
        shut, wide = self._gripper_ends()
        angle = float(np.mean(joints[list(self.gripper.joints)]))
        return float(np.clip((wide - angle) / (wide - shut), 0, 1))

    def with_closed(self, joints: FloatArray, share: float) -> FloatArray:
        """Returns `joints` `[J]`, rad, with the gripper shut by `share`: 0 (open) to 1."""
        shut, wide = self._gripper_ends()
        return self._with_gripper(joints, wide - share * (wide - shut))

    def _with_gripper(self, joints: FloatArray, angle: float) -> FloatArray:
        joints = np.array(joints, np.float64)
        for number in self.gripper.joints:
            joints[number] = np.clip(angle, *self.chain.joint_range[number])
        return joints

    def _gripper_ends(self) -> tuple[float, float]:
        """Returns the angles of the shut and of the fully open gripper, rad."""
        low, high = self.chain.joint_range[self.gripper.joints[0]]
        return (low, high) if self.gripper.metres_per_rad > 0 else (high, low)

    def within(self, low: FloatArray, high: FloatArray) -> RobotModel:
        """Returns the same arm with its joint ranges narrowed to a device's.

        Args:
            low: The device's smallest joint angles `[J]`, rad.
            high: The device's largest joint angles `[J]`, rad.

        Returns:
            The arm without a park pose.

        Raises:
            UserError: another number of joints, or an empty range.
        """
        limits = self.limits.within(low, high)
        chain = self.chain.with_range(np.stack((limits.low, limits.high), axis=1))
        home = np.clip(self.home, limits.low, limits.high)
        return replace(self, chain=chain, limits=limits, home=home, park=None)

    def reach(
        self, position: FloatArray, joints: FloatArray, *, like: FloatArray | None = None
    ) -> tuple[FloatArray, float]:
        """Finds joints that bring the tool to a position, with the same tilt as at home.

        Args:
            position: The tool's target position `[3]`, base frame, m.
            joints: The joints to start from `[J]`, rad.
            like: Joints `[J]`, rad, at which the tool has the desired tilt; home if None.

        Returns:
            Joints `[J]`, rad, and the remaining position error, m.
        """

        def search(start: FloatArray) -> tuple[FloatArray, float]:
            solution, error_m, _ = inverse_kinematics(
                self.chain,
                position,
                start,
                like=self.home if like is None else like,
                low=self.limits.low,
                high=self.limits.high,
            )
            return solution, error_m

        near = search(joints)
        if near[1] < _REACHED_M:
            return near
        # At a joint's limit it may end short of a place that can be reached; what cannot be reached
        # is no reason to leave the neighbourhood.
        again = search(self.home)
        return again if again[1] < _REACHED_M else near
