"""Model-predictive control toward goal pictures: observe, imagine, choose, act, and again.

`MPC` plans at every observation. Its wrappers are controllers, too: `ActionChunks` executes several
actions of a plan, `GoalSequence` goes from goal to goal and reports how each ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from robot_wm.imagination import ImaginedCost, SearchBudget, ranking_survives
from robot_wm.models import WorldModel
from robot_wm.objectives import Objective
from robot_wm.planners import Planner, shift
from robot_wm.types import (
    ActionSpec,
    Controller,
    Count,
    Decision,
    DecisionKind,
    FloatArray,
    Goal,
    NonNegative,
    Observation,
    Outcome,
    OutcomeKind,
    Plan,
    PlanningError,
    UserError,
    checked,
)


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


class MPC:
    """Plans at every observation, and executes the plan's first action (SteerableController).

    Args:
        model: The world model that imagines futures.
        planner: The planner that searches for the action sequence of the lowest cost.
        make_objective: A function that makes the objective from a goal's latent.
        action_spec: The legal actions.
        seed: Seed of the planner's randomness. Every episode starts from it anew, so that an
            episode's outcome does not depend on those before it.
        device: Device of the planner's candidates, which must be the model's.
        margin: Energy by which a plan must beat doing nothing; otherwise nothing is done.
        search_budget: Where imagining saves work.

    Raises:
        UserError: a number is out of range, or the model cannot imagine the planner's sequences.
    """

    @checked
    def __init__(
        self,
        model: WorldModel,
        planner: Planner,
        make_objective: Callable[[Tensor], Objective],
        action_spec: ActionSpec,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        margin: NonNegative = 0.0,
        search_budget: SearchBudget = SearchBudget(),  # noqa: B008 - frozen
    ) -> None:
        info = model.info
        if planner.horizon > info.longest_horizon or action_spec.size != info.action_spec.size:
            raise UserError(
                f"planner: got {planner.horizon} steps of {action_spec.size} actions, the model "
                f"takes {info.longest_horizon} of {info.action_spec.size}"
            )
        self._model = model
        self._planner = planner
        self._make_objective = make_objective
        self._spec = action_spec
        self._seed = seed
        self._generator = torch.Generator(device)
        self._margin = margin
        search_budget = search_budget.on(device)
        # The costs of what a planner keeps must be exact.
        at_least = max(search_budget.at_least, getattr(planner, "num_elites", 1))
        self._search_budget = replace(search_budget, at_least=at_least)
        self._checked_budget: SearchBudget | None = None
        self._objectives: list[Objective] = []
        self._plan: Plan | None = None
        self._goal = 0

    @property
    def search_budget(self) -> SearchBudget:
        """Where imagining saves work."""
        return self._search_budget

    @property
    def horizon(self) -> int:
        """Number of actions of a plan, H."""
        return self._planner.horizon

    def reset(self, goal: Goal | Sequence[Goal]) -> None:
        """Begins an episode and computes the latents of its goals, once.

        Args:
            goal: The goal, or several, of which the first is pursued until `aim`.

        Raises:
            UserError: no goal is given, or a picture does not fit the model.
        """
        goals = [goal] if isinstance(goal, Goal) else list(goal)
        if not goals:
            raise UserError("goal: got none, want at least one picture")
        self._objectives = []  # if one of the pictures does not fit, `act` raises
        objectives = [self._make_objective(self._model.embed(g.images)) for g in goals]
        self._generator.manual_seed(self._seed)
        self._objectives = objectives
        self._state = self._model.initial()
        self._checked_budget = None  # checked once per episode
        self.aim(0)

    def aim(self, goal: int) -> None:
        """Goes after another of the goals, by its number; drops a plan toward the last one."""
        self._goal, self._plan, self._executed = goal, None, 0

    def act(self, obs: Observation, applied: FloatArray | None) -> Decision:
        """Decides on the next action.

        Args:
            obs: The current observation.
            applied: The action that was executed since the last observation `[A]`; None at the
                first.

        Returns:
            The decision.

        Raises:
            PlanningError: no plan has a finite cost, or the energy is not finite.
            RuntimeError: `reset` was not called, or it failed.
        """
        self.observe(obs, applied)
        return self.decide()

    @torch.no_grad()
    def observe(self, obs: Observation, applied: FloatArray | None) -> float:
        """Takes an observation into account.

        Args:
            obs: The current observation.
            applied: The action that was executed since the last observation `[A]`; None at the
                first.

        Returns:
            Its energy toward the goal.

        Raises:
            PlanningError: the energy is not finite.
            RuntimeError: `reset` was not called, or it failed.
        """
        if not self._objectives:
            raise RuntimeError("act: called before reset(goal)")
        self._state = self._model.observe(self._state, obs, applied)
        (self._latent,) = self._model.latent(self._state)
        return self._energy(self._latent)

    @torch.no_grad()
    def energy(self, obs: Observation) -> float:
        """See `SteerableController.energy`."""
        return self._energy(self._model.embed(obs.images))

    @torch.no_grad()
    def decide(self) -> Decision:
        """Plans from the last observation.

        Returns:
            A decision `"plan"`, or `"hold"` where no plan beats doing nothing.

        Raises:
            PlanningError: no plan has a finite cost.
        """
        plan, rest_cost = self._search()
        better = rest_cost - plan.cost > self._margin
        self._plan, self._executed = plan if better else None, 0
        return self._decision("plan" if better else "hold", rest_cost)

    def go_on(self) -> Decision:
        """Decides to execute the next action of the last plan (`"continue"`)."""
        assert self._plan is not None and self._executed + 1 < len(self._plan.actions)
        self._executed += 1
        return self._decision("continue")

    def held(self) -> None:
        """Drops the plan, because a guard held the arm: the next one begins from nothing."""
        self._plan, self._executed = None, 0

    def rest(self) -> Decision:
        """See `SteerableController.rest`."""
        self._plan, self._executed = None, 0
        return self._decision("hold")

    @torch.no_grad()
    def _decision(self, kind: DecisionKind, rest_cost: float | None = None) -> Decision:
        return Decision(
            action=self._spec.rest if self._plan is None else self._plan.actions[self._executed],
            kind=kind,
            goal=self._goal,
            energy=self._energy(self._latent),
            plan=self._plan,
            rest_cost=rest_cost,
            latent=self._latent,
            predict_one_step=self._one_step_prediction(),
        )

    def _one_step_prediction(self) -> Callable[[FloatArray], tuple[Tensor, float]]:
        """Returns a function that imagines one action from the last observation."""
        state, objective = self._state, self._objectives[self._goal]

        @torch.no_grad()
        def predict_one_step(action: FloatArray) -> tuple[Tensor, float]:
            actions = torch.tensor(np.asarray(action), dtype=torch.float32)[None, None]
            device = self._generator.device
            noise = torch.Generator(device).manual_seed(self._seed)
            latent = self._model.rollout(state, actions.to(device), noise).mean[0, 0]
            return latent, _finite(objective.energy(latent))

        return predict_one_step

    def _search(self) -> tuple[Plan, float]:
        """Returns the best plan found, with its exact cost, and the cost of doing nothing."""
        objective = self._objectives[self._goal]
        if self._checked_budget is None:
            self._checked_budget = ranking_survives(
                self._search_budget,
                self._model,
                self._state,
                objective,
                self._spec,
                horizon=self._planner.horizon,
                device=self._generator.device,
            )
        cost = ImaginedCost(
            self._model, self._state, objective, self._checked_budget, seed=self._seed
        )
        init = None if self._plan is None else shift(self._plan, self._executed + 1)
        plan = self._planner.plan(cost, self._spec, init=init, generator=self._generator)
        plan = replace(plan, actions=self._spec.clip(plan.actions))
        # Compares the exact costs, whatever the search saved.
        rest = np.tile(self._spec.rest, (len(plan.actions), 1))
        both = torch.tensor(np.stack((plan.actions, rest)), dtype=torch.float32)
        exact = ImaginedCost(self._model, self._state, objective, seed=self._seed)
        costs = exact(both.to(self._generator.device))
        if not costs.isfinite().all():
            raise PlanningError(f"the plan and doing nothing cost {costs.tolist()}")
        plan_cost, rest_cost = costs.tolist()
        return replace(plan, cost=plan_cost), rest_cost

    def _energy(self, latent: Tensor) -> float:
        return _finite(self._objectives[self._goal].energy(latent))


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


class GoalSequence:
    """Goes from goal to goal, and reports how each ended (`robot_wm.types.Controller`).

    Args:
        controller: The controller that acts toward one of the goals.
        arrival: Largest energy at which a goal counts as reached; None: it never does.
        arrival_decisions: Number of observations in a row that must be that near; the energy must
            also have stopped falling.
        progress: An observation counts as nearer where its energy is lower by more than this than
            that of the last one that counted.
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
        arrival_decisions: Count = 2,
        progress: NonNegative = 0.0,
        patience: Count | None = 4,
        step_energy: float | None = None,
        timeout_steps: Count | None = None,
    ) -> None:
        self._controller = controller
        self._arrival, self._arrival_decisions = arrival, arrival_decisions
        self._least_progress, self._patience = progress, patience
        self._step_energy, self._timeout_steps = step_energy, timeout_steps
        self._over: OutcomeKind | None = None  # how the way to the last goal ended

    @property
    def moves_on(self) -> bool:
        """Whether the pursuit can ever go on from one goal to the next."""
        ends = (self._arrival, self._patience, self._timeout_steps)
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
        if nearer:  # small steps add up: each is compared with the last one that counted
            self._least = energy
        self._num_near = self._num_near + 1 if near else 0
        self._num_no_nearer = 0 if nearer else self._num_no_nearer + 1
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


def _finite(energy: Any) -> float:
    """Returns an energy as a number, or raises PlanningError where it is not finite."""
    if not math.isfinite(energy):
        raise PlanningError("the energy of a latent is not finite")
    return float(energy)
