"""An arm that another process simulates, in real time, behind shared memory.

Like a servo, it holds its last goal for ever, whatever becomes of those who wrote it.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping

import numpy as np

from hardware.arm import ArmError, ArmLimits, check_command
from hardware.ticks import Reading
from hardware.wire import FrameSlot, Slot
from robot_wm.types import FloatArray


class Goals:
    """The joint goals of a simulated arm, as its servos see them.

    Args:
        num_joints: J.
        descriptor: of the memory, where another process made it.
    """

    def __init__(self, num_joints: int, descriptor: int | None = None) -> None:
        self._slot = Slot(8 * num_joints, descriptor)

    def fileno(self) -> int:
        """For a child's `pass_fds`."""
        return self._slot.fileno()

    def close(self) -> None:
        """Lets go of the memory."""
        self._slot.close()

    def write(self, joints: FloatArray) -> None:
        """Sets them, `[J]`, rad."""
        self._slot.write(np.asarray(joints, np.float64).tobytes())

    def read(self) -> FloatArray | None:
        """The last `[J]`, rad; None where there was none."""
        value = self._slot.read()
        return None if value is None else np.frombuffer(value, np.float64)

    def count(self) -> int:
        """How many were set so far."""
        return self._slot.count()


class Measured:
    """The joints of a simulated arm, as its encoders see them.

    Args:
        num_joints: J.
        descriptor: of the memory, where another process made it.
    """

    _STAMP = struct.Struct("<d")

    def __init__(self, num_joints: int, descriptor: int | None = None) -> None:
        self._slot = Slot(self._STAMP.size + 8 * num_joints, descriptor)

    def fileno(self) -> int:
        """For a child's `pass_fds`."""
        return self._slot.fileno()

    def close(self) -> None:
        """Lets go of the memory."""
        self._slot.close()

    def write(self, joints: FloatArray, stamp_s: float) -> None:
        """Shows them, `[J]`, rad."""
        self._slot.write(self._STAMP.pack(stamp_s) + np.asarray(joints, np.float64).tobytes())

    def read(self) -> tuple[FloatArray, float] | None:
        """Joints `[J]`, rad, and when; None before the first."""
        value = self._slot.read()
        if value is None:
            return None
        return np.frombuffer(value, np.float64, offset=8).copy(), self._STAMP.unpack_from(value)[0]


class SimulatedArm:
    """The controller's side of it (hardware.arm.Arm).

    Args:
        limits: of the arm.
        goals, measured, frames: the memory that it shares with the simulation.
    """

    def __init__(
        self,
        limits: ArmLimits,
        goals: Goals,
        measured: Measured,
        frames: Mapping[str, FrameSlot],
    ) -> None:
        self._limits, self._goals, self._measured, self._frames = limits, goals, measured, frames

    @property
    def frames(self) -> Mapping[str, FrameSlot]:
        return self._frames

    def limits(self) -> ArmLimits:
        return self._limits

    def read(self) -> Reading:
        measured = self._measured.read()
        if measured is None:
            raise ArmError("the simulation has not begun")
        stamps = {name: slot.stamp_s() for name, slot in self._frames.items()}
        return Reading(measured[0], measured[1], stamps)

    def write(self, joints: FloatArray) -> None:
        check_command(joints, len(self._limits.names))
        self._goals.write(joints)

    def hold(self) -> None:
        """Nothing: it holds its last goal, and every goal is near."""

    def close(self, *, relax: bool = False) -> None:
        """Nothing: the simulation goes on, and holds."""


def wait_for_life(measured: Measured, *, timeout_s: float) -> None:
    """Returns when the simulation runs.

    Raises:
        ArmError: it does not, for too long.
    """
    until_s = time.monotonic() + timeout_s
    while measured.read() is None:
        if time.monotonic() > until_s:
            raise ArmError(f"the simulation did not begin within {timeout_s:.0f} s")
        time.sleep(0.01)
