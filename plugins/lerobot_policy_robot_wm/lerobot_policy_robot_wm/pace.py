"""Turns calls of a policy into the governor's ticks, and refuses calls that come too fast."""

from __future__ import annotations

import math
from statistics import median

_NUM_INTERVALS = 8
_FASTER = 1.2  # times the stated rate is refused: ticks would be shorter than the limits assume
_EARLY = 0.5  # of a period that one call may come early: the loop's reading time varies


class Pace:
    """Times the governor's ticks by the clock, as LeRobot only calls the policy.

    The limits of speed and acceleration hold for ticks that take as long as they say. So the calls
    are timed at the beginning, before anything moves, and refused if they come faster than the
    stated rate. From then on a call that comes too early is no tick: the arm is asked for the same
    joints again. However often the policy is called, the arm thus never goes faster than its
    limits, and nothing needs to be stopped for it. Calls that come late are single ticks, which
    makes the arm slower and never makes it catch up. They are not refused: a busy machine called 14
    times a second instead of 30 times.

    Args:
        rate_hz: Stated rate of the calls, Hz.
    """

    def __init__(self, rate_hz: float) -> None:
        self._rate_hz = rate_hz
        self._period_s = 1 / rate_hz
        self._intervals_s: list[float] = []
        self._called_s: float | None = None  # the last call, where its interval counts
        self._due_s = -math.inf  # when the next tick would be on time

    @property
    def is_known(self) -> bool:
        """Whether enough calls were timed; they come no faster than the stated rate."""
        return len(self._intervals_s) >= _NUM_INTERVALS

    def skip_interval(self) -> None:
        """Drops the interval that begins with the last call, as it contains a plan or a pause."""
        self._called_s = None

    def note_call(self, now_s: float) -> None:
        """Times a call.

        Args:
            now_s: Time when the call began, on a clock that never goes back, s.

        Raises:
            ValueError: the calls come faster than the stated rate.
        """
        if not self.is_known:
            if self._called_s is not None:
                self._intervals_s.append(now_s - self._called_s)
            if self.is_known:
                self._compare()
        self._called_s = now_s

    def take_tick(self, now_s: float) -> bool:
        """Begins a tick if it is time for one.

        Args:
            now_s: Time when the tick's command leaves, s.

        Returns:
            Whether a tick has begun.
        """
        if not now_s >= self._due_s - _EARLY * self._period_s:
            return False
        self._due_s = max(self._due_s, now_s) + self._period_s
        return True

    def _compare(self) -> None:
        typical_s = median(self._intervals_s)
        if typical_s * _FASTER < self._period_s:
            self._intervals_s.clear()  # further calls are timed, and refused, again
            measured = f"{1 / typical_s:.1f}" if typical_s > 0 else "countless"
            raise ValueError(
                f"fps: got {measured} calls a second as measured, want {self._rate_hz:g}, the rate "
                f"that the policy was told: faster, the arm would break its limits of speed"
            )
