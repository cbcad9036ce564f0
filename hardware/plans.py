"""Plans: a few joint targets that a policy asks for, and the motion that follows them."""

from __future__ import annotations

import msgspec
import numpy as np

from robot_wm.types import FloatArray

_ARRIVED_RAD = 1e-3
MAX_WAYPOINTS = 16  # all are checked within one tick


class JointPlan(msgspec.Struct, frozen=True, eq=False, forbid_unknown_fields=True):
    """Joint targets, one after the other, and the observation that they were planned from.

    Attributes:
        epoch: Number of the arming that the plan was made for.
        seq: Number of the plan, which grows from plan to plan.
        observed_s: Time when the oldest of the plan's pictures and joints was taken, s,
            time.monotonic().
        begun_s: Time when planning began, s, time.monotonic().
        start: Joints where the arm stood then `[J]`, rad.
        waypoints: Joint targets `[H, J]`, rad.
        valid_until_s: Time when the plan expires, s, time.monotonic().

    Raises:
        ValueError: a value is not a number, not finite, or of the wrong shape.
    """

    epoch: int
    seq: int
    observed_s: float
    begun_s: float
    start: FloatArray
    waypoints: FloatArray
    valid_until_s: float

    def __post_init__(self) -> None:
        for name in ("epoch", "seq"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"plan: {name} is {value!r:.60}, want a whole number")
        for name in ("observed_s", "begun_s", "valid_until_s"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, float | int):
                raise ValueError(f"plan: {name} is {value!r:.60}, want seconds")
            if not abs(value) < 1e12:  # not math.isfinite, which an enormous integer breaks
                raise ValueError(f"plan: {name} is {value!r:.60}, want finite seconds")
        for name, num_axes in (("start", 1), ("waypoints", 2)):
            angles = _angles(name, getattr(self, name), num_axes)
            msgspec.structs.force_setattr(self, name, angles)
        if not 1 <= len(self.waypoints) <= MAX_WAYPOINTS:
            raise ValueError(
                f"plan: got {len(self.waypoints)} waypoints, want 1 to {MAX_WAYPOINTS}"
            )
        if self.waypoints.shape[1:] != self.start.shape:
            raise ValueError(
                f"plan: got waypoints {self.waypoints.shape} from a start {self.start.shape}, "
                f"want one angle per joint in each"
            )


def _angles(name: str, value: object, num_axes: int) -> FloatArray:
    try:
        array = np.array(value)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"plan: {name} is ragged") from error
    if array.dtype.kind not in "fiu" or array.ndim != num_axes or not np.isfinite(array).all():
        raise ValueError(f"plan: {name} is {value!r:.60}, want finite angles, rad")
    return array.astype(np.float64)


class Motion:
    """Follows the joint targets of a plan, each until the command has arrived there.

    Args:
        waypoints: Joint targets `[H, J]`, rad.
        deadline_s: Time when the motion ends, arrived or not, s.
    """

    def __init__(self, waypoints: FloatArray, deadline_s: float) -> None:
        self._waypoints, self._deadline_s, self._index = waypoints, deadline_s, 0

    @property
    def done(self) -> int:
        """Number of joint targets that the command has reached."""
        return self._index

    def target(self, commanded: FloatArray, now_s: float) -> FloatArray | None:
        """Returns the joint target to move to now.

        Args:
            commanded: The last command `[J]`, rad.
            now_s: Time on the clock of the deadline, s.

        Returns:
            The joint target `[J]`, rad; None if all are reached or the deadline has passed.
        """
        if now_s > self._deadline_s:
            return None
        while self._index < len(self._waypoints):
            target = self._waypoints[self._index]
            if np.abs(target - commanded).max() > _ARRIVED_RAD:
                return target
            self._index += 1
        return None
