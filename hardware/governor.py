"""The last filter before the arm: each command that it returns can still be stopped legally.

A command is legal only if it *and the braking path after it* keep every limit. A target speed that
is not is blended toward braking; where no blend is legal the governor brakes, and that braking path
was checked a tick ago: by induction every command is legal. It has no clock, no I/O and no threads,
and measures against its own last command, so that no late tick and no bad sensor enlarges a step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hardware.reasons import Kind, NotLegalError, Reason
from robot_wm.kinematics.limits import Limits
from robot_wm.types import FloatArray, are_numbers

# Of target speed and braking; the last for a tip that may move by a millimetre a second.
_BLENDS = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01, 0.003)
_MARGIN = 1e-9  # kept from every limit, so that rounding never crosses one


@dataclass(frozen=True, eq=False)
class Command:
    """What may be written to the arm.

    Attributes:
        joints: Joints to go to `[J]`, rad.
        speed: Speed at which the command moves there `[J]`, rad/s.
        blend: Share of the target speed in that speed, the remainder being braking; 0: it brakes.
        refused: Whether the target was not finite, of the wrong length, or too far away.
    """

    joints: FloatArray
    speed: FloatArray
    blend: float
    refused: bool


class Governor:
    """Turns any joint target into a command whose braking path is already known to be legal.

    Args:
        limits: The limits that every command keeps.
        corners: Function from joints `[N, J]`, rad, to the corners of all bodies `[N, P, 3]`, m.
        joints: Joints where the arm stands, at rest, `[J]`, rad.

    Raises:
        NotLegalError: the arm stands where it may not.
    """

    def __init__(
        self, limits: Limits, corners: Callable[[FloatArray], FloatArray], joints: FloatArray
    ) -> None:
        self._limits, self._corners = limits, corners
        self._fastest = limits.max_speed * (1 - _MARGIN)
        self._speed_step = limits.max_acceleration * limits.tick_s * (1 - _MARGIN)  # in one tick
        self._num_brake = int(np.ceil((self._fastest / self._speed_step).max())) + 1
        problem = self.problem(joints)
        if problem is not None:
            raise NotLegalError(problem)
        self._joints = np.array(joints, np.float64)
        self._speed = np.zeros_like(limits.low)

    @property
    def joints(self) -> FloatArray:
        """The last command, or the starting pose before the first, `[J]`, rad."""
        return self._joints.copy()

    def step(self, target: FloatArray | Sequence[float] | None) -> Command:
        """Returns this tick's command toward `target` `[J]`, rad; None or an invalid one brakes."""
        brake = self._brake(self._speed)
        away = self._away(target)
        if away is None:
            return self._commit(brake, 0.0, refused=target is not None)
        desired = away * self._pace(np.sign(away) * self._speed, np.abs(away))
        desired = np.clip(desired, self._speed - self._speed_step, self._speed + self._speed_step)
        for blend in _BLENDS:
            speed = brake + blend * (desired - brake)
            if self.legal(speed):
                return self._commit(speed, blend, refused=False)
        return self._commit(brake, 0.0, refused=False)

    def problem(self, joints: FloatArray) -> Reason | None:
        """Returns why the arm may not stand at `joints` `[J]`, rad; None if it may."""
        limits = self._limits
        if not are_numbers(joints, len(limits.low)) or not np.isfinite(joints).all():
            return Reason(Kind.NOT_ANGLES, {"want": len(limits.low)})
        outside = ~((joints >= limits.low) & (joints <= limits.high))
        if outside.any():
            joint = int(outside.argmax())
            return Reason(Kind.JOINT_OUTSIDE, {"joint": joint, "angle_rad": float(joints[joint])})
        return None if self._inside(self._corners(joints[None])) else Reason(Kind.BOX_LEFT)

    def _away(self, target: FloatArray | Sequence[float] | None) -> FloatArray | None:
        """Returns target minus last command `[J]`, rad; None if it is not to be followed."""
        if not are_numbers(target, len(self._joints)):
            return None
        away = np.asarray(target, np.float64) - self._joints
        # Not "any is farther": NaN is neither near nor far, and must count as far.
        if not (np.abs(away) <= self._limits.max_jump).all():
            return None
        return self._within(self._joints + away) - self._joints

    def _pace(self, toward: FloatArray, far: FloatArray) -> float:
        """Returns the share of the way that is gone per second, 1/s, the same for every joint.

        At a pace of each joint's own, the tool would leave the straight way by a centimetre.
        """
        # The fastest speed from which a joint can still stop at the target, in whole ticks.
        tick, acceleration = self._limits.tick_s, self._limits.max_acceleration
        speed = acceleration * (np.sqrt(tick**2 + 2 * far / acceleration) - tick)
        soon = np.where(toward < 0, np.inf, toward + self._speed_step)  # who turns delays no other
        speed = np.minimum(np.minimum(speed, self._fastest), soon)
        return float(np.min(speed[far > _MARGIN] / far[far > _MARGIN], initial=1 / tick))

    def _within(self, joints: FloatArray) -> FloatArray:
        """Clips to the joint limits, further in than `legal` asks: one joint does not stop all."""
        return np.clip(joints, self._limits.low + 2 * _MARGIN, self._limits.high - 2 * _MARGIN)

    def _brake(self, speed: FloatArray) -> FloatArray:
        return np.sign(speed) * np.maximum(np.abs(speed) - self._speed_step, 0)

    def legal(self, speed: FloatArray) -> bool:
        """Returns whether a tick at `speed` `[J]`, rad/s, and the stop after it, are legal."""
        limits = self._limits
        ticks = np.arange(self._num_brake)[:, None]
        speeds = np.sign(speed) * np.maximum(np.abs(speed) - ticks * self._speed_step, 0)  # [K, J]
        path = self._joints + limits.tick_s * np.cumsum(speeds, axis=0)
        corners = self._corners(np.concatenate((self._joints[None], path)))  # [K + 1, P, 3]
        tips = np.linalg.norm(np.diff(corners, axis=0), axis=-1) / limits.tick_s
        # A joint may begin nearer to a limit than the margin; it may then not go further out.
        low = np.minimum(limits.low + _MARGIN, self._joints)
        high = np.maximum(limits.high - _MARGIN, self._joints)
        return bool(
            (path >= low).all()
            and (path <= high).all()
            and (tips <= limits.tip_speed - _MARGIN).all()
            and self._inside(corners[1:], _MARGIN)
        )

    def _inside(self, corners: FloatArray, margin: float = 0.0) -> bool:
        low, high = self._limits.box_low + margin, self._limits.box_high - margin
        return bool((corners >= low).all() and (corners <= high).all())

    def _commit(self, speed: FloatArray, blend: float, *, refused: bool) -> Command:
        self._speed = speed
        self._joints = self._joints + self._limits.tick_s * speed
        return Command(self._joints.copy(), speed.copy(), blend, refused)
