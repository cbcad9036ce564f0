"""The one value that says what an arm is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from robot_wm.kinematics.chain import Chain
from robot_wm.kinematics.ik import inverse_kinematics
from robot_wm.kinematics.joints import JointMap
from robot_wm.kinematics.limits import Limits
from robot_wm.types import FloatArray, UserError

STATE_NAMES = ("ee.x", "ee.y", "ee.z", "gripper")


@dataclass(frozen=True)
class Gripper:
    """Hinges that open and shut as one, by the same angle and to the same side.

    Attributes:
        joints: their numbers among the arm's.
        metres_per_rad: by how much the opening between its tips grows with their angle; negative
            where they shut with it.
        shut_rad: their angle where the opening is 0.
    """

    joints: tuple[int, ...]
    metres_per_rad: float
    shut_rad: float = 0.0

    def __post_init__(self) -> None:
        if not self.joints:
            raise UserError("gripper: got no joint, want at least 1")
        if not (np.isfinite(self.metres_per_rad) and self.metres_per_rad):
            raise UserError(f"metres_per_rad: got {self.metres_per_rad}, want another than 0")
        if not np.isfinite(self.shut_rad):
            raise UserError(f"shut_rad: got {self.shut_rad}, want a finite angle")

    def opening_m(self, joints: FloatArray) -> float:
        """The opening at the arm's joints `[J]`, rad; the mean where its own differ."""
        return float(np.mean(joints[list(self.joints)]) - self.shut_rad) * self.metres_per_rad

    def angle_rad(self, opening_m: float) -> float:
        """The angle of its joints at an opening."""
        return self.shut_rad + opening_m / self.metres_per_rad


@dataclass(frozen=True, eq=False)
class RobotModel:
    """An arm: what simulation, governor, actions and devices need to know of it.

    Attributes:
        name: such as `"so100"`.
        xml: its MJCF alone, with a position actuator of each joint's name; the base stands at the
            origin and the arm reaches along +x.
        assets: file name -> bytes, for the meshes that it names.
        chain: its links; J joints, in the order of its commands.
        tool: name of the site that is its tool.
        gripper: which of the joints open and shut.
        workspace_low, workspace_high: where the tool, and the opening, go in simulation `[4]`, m,
            base frame.
        table_low, table_high: where on a table objects lie in its reach `[2]`, m, base frame.
        home: joints `[J]`, rad, from which the workspace is reached, with the tool held as in the
            work that it does.
        limits: what it may do.
        park: joints `[J]`, rad, where it may go limp; None: nowhere.
        wrist: where a camera rides on it, and what it looks at: position and point `[2, 3]`, m, in
            the frame of the body that carries the tool; None: nowhere.
        device: how a real arm counts its joints; None where it is only simulated.

    Raises:
        UserError: sizes that do not fit the joints, bounds crossed, or a pose beyond the joints.
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
        """Names of its joints, J of them, in the order of its commands."""
        return self.chain.joint_names

    def with_limits(self, **changes: Any) -> RobotModel:
        """The same arm under other limits (Limits); one number stands for every joint.

        Raises:
            UserError: limits that make no sense, or are not among them.
        """
        known = [field.name for field in fields(Limits) if field.name not in ("low", "high")]
        for name, value in changes.items():
            if name not in known:
                raise UserError(f"limits: got {name!r}, want some of {', '.join(known)}")
            # True would count as 1 m/s, and text as what it spells.
            numbers = np.ravel(np.array(value, dtype=object))
            if any(isinstance(x, bool | np.bool_ | str) or x is None for x in numbers):
                raise UserError(f"{name}: got {value!r}, want numbers")
        for name in {"max_speed", "max_acceleration"} & set(changes):
            if np.ndim(changes[name]) == 0:
                changes[name] = np.full(self.chain.num_joints, changes[name])
        return replace(self, limits=replace(self.limits, **changes))

    def state(self, joints: FloatArray) -> FloatArray:
        """The tool's x, y, z and the opening `[4]`, m, at `joints` `[J]`, rad."""
        return np.append(self.chain.tool(joints)[:3, 3], self.gripper.opening_m(joints))

    def opened(self, joints: FloatArray, opening_m: float) -> FloatArray:
        """`joints` `[J]`, rad, with the gripper opened so far, as far as it can."""
        joints = np.array(joints, np.float64)
        for number in self.gripper.joints:
            angle = self.gripper.angle_rad(opening_m)
            joints[number] = np.clip(angle, *self.chain.joint_range[number])
        return joints

    def closed(self, joints: FloatArray) -> float:
        """How far the gripper is shut at `joints` `[J]`, rad: 0 (open) to 1."""
        shut, wide = self._gripper_ends()
        angle = float(np.mean(joints[list(self.gripper.joints)]))
        return float(np.clip((wide - angle) / (wide - shut), 0, 1))

    def with_closed(self, joints: FloatArray, share: float) -> FloatArray:
        """`joints` `[J]`, rad, with the gripper shut so far: 0 (open) to 1."""
        shut, wide = self._gripper_ends()
        joints = np.array(joints, np.float64)
        for number in self.gripper.joints:
            angle = wide - share * (wide - shut)
            joints[number] = np.clip(angle, *self.chain.joint_range[number])
        return joints

    def _gripper_ends(self) -> tuple[float, float]:
        low, high = self.chain.joint_range[self.gripper.joints[0]]
        return (low, high) if self.gripper.metres_per_rad > 0 else (high, low)

    def within(self, low: FloatArray, high: FloatArray) -> RobotModel:
        """The same arm, its joints' ranges those of a device `[J]`, rad.

        Raises:
            UserError: another number of joints, or its poses are beyond them.
        """
        limits = self.limits.within(low, high)
        chain = self.chain.with_range(np.stack((limits.low, limits.high), axis=1))
        home = np.clip(self.home, limits.low, limits.high)
        return replace(self, chain=chain, limits=limits, home=home, park=None)

    def reach(
        self, position: FloatArray, joints: FloatArray, *, like: FloatArray | None = None
    ) -> tuple[FloatArray, float]:
        """Joints that bring the tool somewhere, tilted against gravity as at home.

        Args:
            position: `[3]`, base frame, m.
            joints: from where `[J]`, rad.
            like: joints `[J]`, rad, that show another tilt.

        Returns:
            Joints `[J]`, rad, and the position error that is left, m.
        """
        found, error_m, _ = inverse_kinematics(
            self.chain,
            position,
            joints,
            like=self.home if like is None else like,
            low=self.limits.low,
            high=self.limits.high,
        )
        return found, error_m
