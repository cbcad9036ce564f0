"""Executes several actions of a plan before the next one."""

from __future__ import annotations

from collections.abc import Sequence

from robot_wm.controller.mpc import MPC
from robot_wm.types import Count, Decision, FloatArray, Goal, Observation, UserError, checked


class ActionChunks:
    """Executes several actions of a plan before the next one (SteerableController).

    Args:
        controller: The controller that plans.
        execute_steps: Number of actions that are executed of each plan.

    Raises:
        UserError: it is less than one action, or more than a plan has.
    """

    @checked
    def __init__(self, controller: MPC, execute_steps: Count) -> None:
        if execute_steps > controller.horizon:
            raise UserError(
                f"execute_steps: got {execute_steps}, want at most the planner's horizon, "
                f"{controller.horizon}"
            )
        self._controller, self._execute_steps = controller, execute_steps
        self._num_left = 0  # actions of the last plan

    def reset(self, goal: Goal | Sequence[Goal]) -> None:
        """See `Controller.reset`."""
        self._num_left = 0
        self._controller.reset(goal)

    def act(self, obs: Observation, applied: FloatArray | None) -> Decision:
        """See `Controller.act`."""
        self.observe(obs, applied)
        return self.decide()

    def observe(self, obs: Observation, applied: FloatArray | None) -> float:
        """See `SteerableController.observe`."""
        return self._controller.observe(obs, applied)

    def aim(self, goal: int) -> None:
        """See `SteerableController.aim`."""
        self._num_left = 0
        self._controller.aim(goal)

    def decide(self) -> Decision:
        """See `SteerableController.decide`."""
        if self._num_left:
            self._num_left -= 1
            return self._controller.go_on()
        decision = self._controller.decide()
        self._num_left = 0 if decision.plan is None else self._execute_steps - 1
        return decision

    def held(self) -> None:
        """Drops the plan, because a guard held the arm."""
        self.rest()

    def rest(self) -> Decision:
        """See `SteerableController.rest`."""
        self._num_left = 0
        return self._controller.rest()

    def energy(self, obs: Observation) -> float:
        """See `SteerableController.energy`."""
        return self._controller.energy(obs)
