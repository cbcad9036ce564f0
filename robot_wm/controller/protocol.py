"""The interface of controllers that a wrapper steers."""

from __future__ import annotations

from typing import Protocol

from robot_wm.types import Controller, Decision, FloatArray, Observation


class SteerableController(Controller, Protocol):
    """A controller whose wrapper calls its parts: observe, aim and decide."""

    def observe(self, obs: Observation, applied: FloatArray | None) -> float:
        """Takes an observation into account; returns its energy toward the goal."""
        ...

    def aim(self, goal: int) -> None:
        """Goes after another of the goals that it was reset to, by its number."""
        ...

    def decide(self) -> Decision:
        """Decides on the action after the last observation."""
        ...

    def rest(self) -> Decision:
        """Decides to do nothing after the last observation, and drops its plan."""
        ...

    def energy(self, obs: Observation) -> float:
        """Returns the energy of an observation toward the goal, and changes nothing."""
        ...
