"""An arm that another process simulates in real time, connected by shared memory.

Like a servo, it holds its last joint target for ever, whatever becomes of the processes that wrote
it.
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


class JointTargets:
    """The joint targets of a simulated arm, in shared memory.

    Args:
        num_joints: Number of joints, J.
        descriptor: Descriptor of the memory, if another process made it; None: it is made here.
    """

    def __init__(self, num_joints: int, descriptor: int | None = None) -> None:
        self._slot = Slot(8 * num_joints, descriptor)

    def fileno(self) -> int:
        """Returns the descriptor, for a child's `pass_fds`."""
        return self._slot.fileno()

    def close(self) -> None:
        """Releases the memory."""
        self._slot.close()

    def write(self, joints: FloatArray) -> None:
        """Sets the joint targets `[J]`, rad."""
        self._slot.write(np.asarray(joints, np.float64).tobytes())

    def read(self) -> FloatArray | None:
        """Returns the last joint targets `[J]`, rad; None before the first are set."""
        value = self._slot.read()
        return None if value is None else np.frombuffer(value, np.float64)

    def count(self) -> int:
        """Returns the number of times that targets were set so far."""
        return self._slot.count()


class Measured:
    """The measured joints of a simulated arm, in shared memory.

    Args:
        num_joints: Number of joints, J.
        descriptor: Descriptor of the memory, if another process made it; None: it is made here.
    """

    _STAMP = struct.Struct("<d")

    def __init__(self, num_joints: int, descriptor: int | None = None) -> None:
        self._slot = Slot(self._STAMP.size + 8 * num_joints, descriptor)

    def fileno(self) -> int:
        """Returns the descriptor, for a child's `pass_fds`."""
        return self._slot.fileno()

    def close(self) -> None:
        """Releases the memory."""
        self._slot.close()

    def write(self, joints: FloatArray, stamp_s: float) -> None:
        """Sets the measured joints `[J]`, rad, and their stamp, s, time.monotonic()."""
        self._slot.write(self._STAMP.pack(stamp_s) + np.asarray(joints, np.float64).tobytes())

    def read(self) -> tuple[FloatArray, float] | None:
        """Returns the joints `[J]`, rad, and their stamp, s; None before the first are set."""
        value = self._slot.read()
        if value is None:
            return None
        return np.frombuffer(value, np.float64, offset=8).copy(), self._STAMP.unpack_from(value)[0]


class SimulatedArm:
    """The arm server's side of a simulated arm (`hardware.arm.Arm`).

    Args:
        limits: Limits of the arm.
        targets: Shared memory that the simulation reads.
        measured: Shared memory that the simulation writes.
        frames: Shared memory of each camera's newest picture, by camera.
    """

    def __init__(
        self,
        limits: ArmLimits,
        targets: JointTargets,
        measured: Measured,
        frames: Mapping[str, FrameSlot],
    ) -> None:
        self._limits, self._frames = limits, frames
        self._targets, self._measured = targets, measured

    @property
    def frames(self) -> Mapping[str, FrameSlot]:
        """See `Arm.frames`."""
        return self._frames

    def limits(self) -> ArmLimits:
        """See `Arm.limits`."""
        return self._limits

    def read(self) -> Reading:
        """See `Arm.read`."""
        measured = self._measured.read()
        if measured is None:
            raise ArmError("the simulation has not begun")
        stamps = {name: slot.stamp_s() for name, slot in self._frames.items()}
        return Reading(measured[0], measured[1], stamps)

    def write(self, joints: FloatArray) -> None:
        """See `Arm.write`."""
        check_command(joints, len(self._limits.names))
        self._targets.write(joints)

    def hold(self) -> None:
        """Does nothing: the arm holds its last joint target, which is always near."""

    def close(self, *, relax: bool = False) -> None:
        """Does nothing: the simulation goes on, and holds."""


def wait_for_life(measured: Measured, *, timeout_s: float) -> None:
    """Waits until the simulation has written its first joints.

    Args:
        measured: Shared memory that the simulation writes.
        timeout_s: Longest wait, s.

    Raises:
        ArmError: nothing came in time.
    """
    until_s = time.monotonic() + timeout_s
    while measured.read() is None:
        if time.monotonic() > until_s:
            raise ArmError(f"the simulation did not begin within {timeout_s:.0f} s")
        time.sleep(0.01)
