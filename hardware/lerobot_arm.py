"""Any LeRobot robot as an arm.

It adds what LeRobot's drivers lack. Reads that fail for one lost packet are repeated; servo errors,
which neither reads nor writes report, are asked for; torque comes on with every joint target where
the arm stands; only one process drives a port; and closing never raises and never drops torque
unasked.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from hardware.arm import ArmError, ArmLimits, check_command
from hardware.lerobot_bus import (
    BUS_ERRORS,
    TRIES,
    DeviceLock,
    enable_torque,
    open_robot,
    release_port,
)
from hardware.reasons import Kind, Reason
from hardware.ticks import Reading
from hardware.wire import FrameSlot
from robot_wm.kinematics.joints import JointMap
from robot_wm.types import FloatArray, UserError

_UNIT_ERROR = 0.1  # largest relative difference of a joint's range by joint map and calibration
_ERROR_BITS = ("voltage", "angle", "temperature", "current", "?", "overload")
_T = TypeVar("_T")


class LeRobotArm:
    """A connected LeRobot robot (`hardware.arm.Arm`).

    Args:
        robot: The connected robot, without cameras.
        joints: Joint map from the robot's joints to the model's.
        low: Lower limits of the model's joints `[J]`, rad.
        high: Upper limits of the model's joints `[J]`, rad.
        frames: Shared memory of each camera's newest picture, by camera; None: no cameras.
        lock: Lock of the robot's port, which closing the arm releases; None: there is none.
    """

    def __init__(
        self,
        robot: Any,
        joints: JointMap,
        *,
        low: FloatArray,
        high: FloatArray,
        frames: Mapping[str, FrameSlot] | None = None,
        lock: DeviceLock | None = None,
    ) -> None:
        self._robot, self._joints, self._lock = robot, joints, lock
        self._limits = ArmLimits(joints.names, np.array(low), np.array(high))
        self._frames = dict(frames or {})
        self._num_pings = 0
        self._servo_errors: dict[str, Reason | None] = {}  # by servo, as of its last ping
        self.num_retries = 0

    @property
    def frames(self) -> Mapping[str, FrameSlot]:
        """See `Arm.frames`."""
        return self._frames

    def limits(self) -> ArmLimits:
        """See `Arm.limits`."""
        return self._limits

    def read(self) -> Reading:
        """See `Arm.read`."""
        stamp_s = time.monotonic()
        values = self._observe()
        try:
            angles = self._joints.angles(values)
        except (ValueError, TypeError) as error:
            raise ArmError(str(error)) from error
        stamps = {name: slot.stamp_s() for name, slot in self._frames.items()}
        return Reading(angles, stamp_s, stamps, self._servo_error())

    def _observe(self) -> Mapping[str, Any]:
        """Reads all joints at once; if one of the many replies is lost, reads them one by one."""
        bus = getattr(self._robot, "bus", None)
        if bus is None:
            return self._try(self._robot.get_observation)
        try:
            return self._robot.get_observation()
        except BUS_ERRORS:
            release_port(bus)
            self.num_retries += 1
        names = [key.removesuffix(".pos") for key in self._joints.keys]
        return {
            f"{name}.pos": self._try(functools.partial(bus.read, "Present_Position", name))
            for name in names
        }

    def write(self, joints: FloatArray) -> None:
        """See `Arm.write`."""
        check_command(joints, len(self._joints.keys))
        values = self._joints.values(joints)
        self._try(lambda: self._robot.send_action(dict(values)))

    def hold(self) -> None:
        """Sets each motor's target to where it is; a motor that fails does not stop the others."""
        try:
            values = self._try(self._robot.get_observation)
            self._robot.send_action({key: values[key] for key in self._joints.keys})
            return
        except Exception:  # noqa: BLE001 - the stop path: go on, motor by motor
            bus = getattr(self._robot, "bus", None)
        for motor in getattr(bus, "motors", {}):
            try:
                bus.write("Goal_Position", motor, bus.read("Present_Position", motor))  # type: ignore[union-attr]
            except Exception:  # noqa: BLE001 - the stop path: the next motor
                continue

    def close(self, *, relax: bool = False) -> None:
        """Leaves the robot holding its last joint target, torque on, unless `relax`; never raises.

        A driver whose config has no switch for torque at disconnect does as it always does.

        Args:
            relax: Whether to turn torque off.
        """
        config = getattr(self._robot, "config", None)
        if hasattr(config, "disable_torque_on_disconnect"):
            config.disable_torque_on_disconnect = relax  # type: ignore[union-attr]
        try:
            self._robot.disconnect()
        except Exception:  # noqa: BLE001 - the stop path: it is left as it is
            pass
        if self._lock is not None:
            self._lock.close()

    def _try(self, request: Callable[[], _T]) -> _T:
        for num_left in reversed(range(TRIES)):
            try:
                return request()
            except BUS_ERRORS as error:
                release_port(getattr(self._robot, "bus", None))
                if not num_left:
                    raise ArmError(" ".join(str(error).split())[:200]) from error
                self.num_retries += 1
        raise AssertionError

    def _servo_error(self) -> Reason | None:
        """Pings one motor per call, round robin, and returns the error of a motor, if any has one.

        Reads and writes do not report servo errors.

        Returns:
            The first error among the motors' last answers; None if no motor reports one.
        """
        bus = getattr(self._robot, "bus", None)
        handler, port = getattr(bus, "packet_handler", None), getattr(bus, "port_handler", None)
        if bus is None or handler is None or port is None or not hasattr(handler, "ping"):
            return None
        name = list(bus.motors)[self._num_pings % len(bus.motors)]
        self._num_pings += 1
        _, comm, error = self._try(lambda: handler.ping(port, bus.motors[name].id))
        if comm == 0:  # else the packet was lost: it is asked again after the others
            bits = [word for i, word in enumerate(_ERROR_BITS) if error >> i & 1]
            numbers = {"servo": name, "errors": ", ".join(bits) or hex(error)}
            self._servo_errors[name] = Reason(Kind.SERVO, numbers) if error else None
        return next(filter(None, self._servo_errors.values()), None)


def connect(
    kind: str,
    settings: Mapping[str, Any],
    joints: JointMap,
    *,
    low: FloatArray,
    high: FloatArray,
    frames: Mapping[str, FrameSlot],
    reply_s: float = 0.02,
    dry_run: bool = False,
) -> LeRobotArm:
    """Opens a LeRobot robot as an arm that no other process drives.

    Args:
        kind: LeRobot's name of the robot type.
        settings: The robot's config, as LeRobot decodes it.
        joints: Joint map from the robot's joints to the model's.
        low: Lower limits of the model's joints `[J]`, rad; a narrower calibrated range counts.
        high: Upper limits of the model's joints `[J]`, rad; a narrower calibrated range counts.
        frames: Shared memory of each camera's newest picture, by camera.
        reply_s: Time after which a servo's reply counts as lost, s; LeRobot's own 50 ms and more
            are half the age that a reading may have.
        dry_run: Whether to write nothing; torque then stays as it is.

    Returns:
        The arm, holding where it stands unless `dry_run`.

    Raises:
        UserError: `open_robot` raises it, the robot lacks a joint, or the units are wrong.
        ArmError: the robot does not answer, or another process drives it.
    """
    port = settings.get("port")
    with contextlib.ExitStack() as stack:  # closes port and lock where the arm cannot be driven
        lock = None
        if port is not None:
            lock = DeviceLock(str(port))
            stack.callback(lock.close)
        robot = open_robot(kind, settings, reply_s=reply_s)
        stack.callback(robot.bus.disconnect, False)
        missing = [key for key in joints.keys if key not in robot.action_features]
        if missing:
            have = ", ".join(robot.action_features)
            raise UserError(f"robot.joints.keys: {kind} has no {', '.join(missing)}, but {have}")
        ends = np.array([joints.angles(values) for values in _calibrated_ends(robot, joints)])
        _check_units(robot.bus, joints, np.ptp(ends, axis=0))
        if not dry_run:
            enable_torque(robot)
        stack.pop_all()
    low, high = np.maximum(low, ends.min(0)), np.minimum(high, ends.max(0))
    return LeRobotArm(robot, joints, low=low, high=high, frames=frames, lock=lock)


def _check_units(bus: Any, joints: JointMap, spans: FloatArray) -> None:
    """Raises UserError where calibration and joint map disagree on how far a joint moves."""
    for key, unit, span in zip(joints.keys, joints.rad_per_unit, spans, strict=True):
        name = key.removesuffix(".pos")
        calibration = (getattr(bus, "calibration", None) or {}).get(name)
        if calibration is None:
            continue
        ticks = bus.model_resolution_table[bus.motors[name].model]
        range_rad = abs(calibration.range_max - calibration.range_min) * 2 * np.pi / ticks
        if not abs(span - range_rad) <= _UNIT_ERROR * range_rad:
            raise UserError(
                f"robot.joints.rad_per_unit: {key} goes {span:.2f} rad by it, {range_rad:.2f} by "
                f"its calibration; want {unit * range_rad / span:.5g}, or other units of the robot"
            )


def _calibrated_ends(robot: Any, joints: JointMap) -> list[dict[str, float]]:
    """Returns both ends of every joint's calibrated range, in the device's units.

    A joint without calibration gets -1e9 and 1e9, so that its limits are the model's.

    Args:
        robot: The connected robot.
        joints: Joint map from the robot's joints to the model's.

    Returns:
        The values at one end of every range, then those at the other, by key.
    """
    ends = []
    bus: Any = getattr(robot, "bus", None)
    far = np.where(joints.rad_per_unit > 0, 1e9, -1e9)
    for side, sign in (("range_min", -1.0), ("range_max", 1.0)):
        values = dict(zip(joints.keys, sign * far, strict=True))
        for name, motor in getattr(bus, "motors", {}).items():
            key, range_ = f"{name}.pos", (getattr(bus, "calibration", None) or {}).get(name)
            if key in values and range_ is not None:
                # LeRobot has no public function from ticks to the robot's values.
                (values[key],) = bus._normalize({motor.id: getattr(range_, side)}).values()
        ends.append({key: float(value) for key, value in values.items()})
    return ends
