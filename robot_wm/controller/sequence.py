"""Goes from goal to goal, and reports how each ended."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from robot_wm.controller.protocol import SteerableController
from robot_wm.types import (
    Count,
    Decision,
    FloatArray,
    Goal,
    NonNegative,
    Observation,
    Outcome,
    OutcomeKind,
    checked,
)


class GoalSequence:
    """Goes from goal to goal, and reports how each ended (`robot_wm.types.Controller`).

    Args:
        controller: The controller that acts toward one of the goals.
        arrival: Largest energy at which a goal counts as reached; None: it never does.
        passing: Energy at which a goal with another one after it counts as reached at once; None:
            it is reached as the last one is.
        arrival_decisions: Number of observations in a row that must be that near; the energy must
            also have stopped falling.
        progress: An observation counts as nearer where its energy is lower by more than this than
            that of the last one that counted; or than those of half as many before it as
            `patience`, so that a setback is no end, such as an object that slipped.
        patience: Number of observations in a row that come no nearer, after which the goal counts
            as stalled; None: it never does. The pursuit does not end at an observation that is
            further off than most of the last ones, as plans may lead to and fro.
        step_energy: Mean energy of a step of the training data, for the `Outcome`; None: it is not
            known.
        timeout_steps: Largest number of decisions that are spent on one goal; None: no limit.

    Raises:
        UserError: a number is out of range.
    """

    @checked
    def __init__(
        self,
        controller: SteerableController,
        *,
        arrival: NonNegative | None = None,
        passing: NonNegative | None = None,
        arrival_decisions: Count = 2,
        progress: NonNegative = 0.0,
        patience: Count | None = 4,
        step_energy: float | None = None,
        timeout_steps: Count | None = None,
    ) -> None:
        self._controller = controller
        self._arrival, self._arrival_decisions = arrival, arrival_decisions
        self._passing = passing
        self._least_progress, self._patience = progress, patience
        self._step_energy, self._timeout_steps = step_energy, timeout_steps
        self._over: OutcomeKind | None = None  # how the way to the last goal ended

    @property
    def moves_on(self) -> bool:
        """Whether the pursuit can ever go on from one goal to the next."""
        ends = (self._arrival, self._passing, self._patience, self._timeout_steps)
        return any(end is not None for end in ends)

    def reset(self, goal: Goal | Sequence[Goal]) -> None:
        """Begins an episode toward a goal, or several, one after the other.

        Args:
            goal: The goal, or several.

        Raises:
            UserError: no goal is given, or a picture does not fit the model.
        """
        goals = [goal] if isinstance(goal, Goal) else list(goal)
        self._controller.reset(goals)
        self._num_goals, self._over, self._held = len(goals), None, False
        self._begin_goal(0)

    def act(self, obs: Observation, applied: FloatArray | None) -> Decision:
        """See `Controller.act`; decides to do nothing once the last goal has ended."""
        energy, left = self._controller.observe(obs, applied), None
        held, self._held = self._held, False
        if self._over is None and not held:
            kind = self._update_progress(energy)
            if kind is not None and self._goal + 1 < self._num_goals:
                left = Outcome(kind, energy, self._step_energy, self._goal)
                self._begin_goal(self._goal + 1)
                self._controller.aim(self._goal)
            else:
                self._over = kind
        if self._over is not None:
            return replace(self._controller.rest(), kind=self._over)
        decision = self._controller.decide()  # if this raises, the observation does not count
        self._num_decisions += 1
        return replace(decision, left=left)

    def held(self) -> None:
        """Drops the plan, because a guard held the arm; the next observation counts for nothing."""
        self._held = True
        self._num_decisions -= 1 if self._over is None else 0
        self._controller.rest()

    def outcome(self, last: Observation) -> Outcome:
        """Returns how the pursuit of the current goal ended, given the last observation.

        A goal that has not ended yet is reached if the last observation is near enough, once, as
        none can follow; otherwise the time is out.

        Args:
            last: The last observation.

        Returns:
            The outcome.
        """
        energy, kind = self._controller.energy(last), self._over
        if kind is None and self._is_near(energy):
            kind = "arrived"
        kind = kind or "out of time"
        return Outcome(kind, energy, self._step_energy, self._goal)

    def _begin_goal(self, goal: int) -> None:
        self._goal, self._num_decisions = goal, 0
        self._num_near = self._num_no_nearer = 0  # the last observations in a row that are so
        self._least = math.inf  # energy of the last observation that came nearer
        self._recent: list[float] = []  # energies of the last `patience` + 1 observations

    def _update_progress(self, energy: float) -> OutcomeKind | None:
        """Counts one more energy; returns how this goal's pursuit ended, None if it has not."""
        near, first = self._is_near(energy), self._least == math.inf
        nearer = energy < self._least - self._least_progress
        if self._patience is not None and len(self._recent) > self._patience // 2:
            before = self._recent[-max(1, self._patience // 2) :]
            nearer = nearer or energy < min(before) - self._least_progress
        if nearer:  # small steps add up: each is compared with the last one that counted
            self._least = energy
        self._num_near = self._num_near + 1 if near else 0
        self._num_no_nearer = 0 if nearer else self._num_no_nearer + 1
        is_last = self._goal + 1 == self._num_goals
        if not is_last and self._passing is not None and energy <= self._passing:
            return "arrived"
        if self._num_near >= self._arrival_decisions and (first or not nearer):
            return "arrived"
        if self._patience is not None:
            self._recent = [*self._recent, energy][-self._patience - 1 :]
            stalled = self._num_no_nearer >= self._patience
            if stalled and energy <= float(np.median(self._recent)):
                return "arrived" if near else "stalled"
        late = self._timeout_steps is not None and self._num_decisions >= self._timeout_steps
        return "out of time" if late else None

    def _is_near(self, energy: float) -> bool:
        return self._arrival is not None and energy <= self._arrival
