"""What an arm may do, in numbers that cannot contradict each other."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from robot_wm.types import FloatArray, UserError

EDGE_RAD = 0.01
_POSITIVE = ("max_speed", "max_acceleration", "tip_speed", "max_jump", "tick_s")
_MAX_STOP_TICKS = 1000
_SIZES = {"tip_speed": (), "max_jump": (), "tick_s": (), "box_low": (3,), "box_high": (3,)}


@dataclass(frozen=True, eq=False)
class Limits:
    """What the arm may do.

    Attributes:
        low, high: joint angles `[J]`, rad.
        max_speed: of each joint `[J]`, rad/s.
        max_acceleration: of each joint `[J]`, rad/s^2; braking too.
        box_low, box_high: where every corner of every body stays `[3]`, m, base frame.
        tip_speed: of the fastest corner, m/s.
        max_jump: a joint target farther than this from the last command is refused, rad.
        tick_s: from one command to the next, s.

    Raises:
        UserError: not finite, lengths that differ, limits crossed, or a bound not above zero.
    """

    low: FloatArray
    high: FloatArray
    max_speed: FloatArray
    max_acceleration: FloatArray
    box_low: FloatArray
    box_high: FloatArray
    tip_speed: float
    max_jump: float
    tick_s: float

    def __post_init__(self) -> None:
        size = np.shape(self.low)
        for name in (field.name for field in fields(self)):
            try:
                value = np.array(getattr(self, name), np.float64)
            except (TypeError, ValueError) as error:
                raise UserError(f"{name}: got {getattr(self, name)!r}, want numbers") from error
            if value.shape != _SIZES.get(name, size) or len(size) != 1 or not size[0]:
                raise UserError(f"{name}: got shape {value.shape}, want one number per joint")
            if not np.isfinite(value).all():
                raise UserError(f"{name}: got {value}, want finite numbers")
            if name in _POSITIVE and not (value > 0).all():
                raise UserError(f"{name}: got {value}, want numbers above zero")
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        ticks = (self.max_speed / (self.max_acceleration * self.tick_s)).max()
        if not ticks <= _MAX_STOP_TICKS:
            raise UserError(
                f"max_acceleration: a stop takes {ticks:.3g} ticks, want {_MAX_STOP_TICKS}"
            )
        for low, high in (("low", "high"), ("box_low", "box_high")):
            if not (getattr(self, low) < getattr(self, high)).all():
                raise UserError(f"{low}: got {getattr(self, low)}, want less than {high}")

    def within(self, low: FloatArray, high: FloatArray) -> Limits:
        """The same, inside a device's own joint limits `[J]`, rad.

        Raises:
            UserError: another number of joints, or they do not meet.
        """
        if np.shape(low) != self.low.shape or np.shape(high) != self.high.shape:
            raise UserError(f"low: the arm has {len(low)} joints, want {len(self.low)}")
        return replace(self, low=np.maximum(low, self.low), high=np.minimum(high, self.high))

    def seat(self, joints: FloatArray) -> FloatArray:
        """Where an arm that was measured at joints `[J]`, rad, is taken to stand.

        At an end of its range it is measured a little beyond: up to EDGE_RAD that is the end.
        """
        inside = np.clip(joints, self.low, self.high)
        at_edge = np.abs(joints - inside) <= EDGE_RAD
        return np.where(at_edge, inside, joints)
