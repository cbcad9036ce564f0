"""Plans at every observation, and executes the first action."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robot_wm.imagination import ImaginedCost, SearchBudget, ranking_survives
from robot_wm.models import WorldModel
from robot_wm.objectives import Objective
from robot_wm.planners import Planner, Space, shift
from robot_wm.proposals import Proposals, Situation
from robot_wm.types import (
    ActionSpec,
    Decision,
    DecisionKind,
    FloatArray,
    Goal,
    NonNegative,
    Observation,
    Plan,
    PlanningError,
    UserError,
    checked,
)


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
        margin: Energy by which a plan must beat what is done without a search: what the proposers
            propose, or nothing where there are none.
        search_budget: Where imagining saves work.
        proposals: Where candidate actions come from before the search.

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
        proposals: Proposals | None = None,
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
        self._proposals = proposals
        self._goals: list[Tensor] = []  # their latents
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
        latents = [self._model.embed(g.images) for g in goals]
        objectives = [self._make_objective(latent) for latent in latents]
        self._generator.manual_seed(self._seed)
        self._goals, self._objectives = latents, objectives
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
        self._proprio = obs.proprio
        return self._energy(self._latent)

    @torch.no_grad()
    def energy(self, obs: Observation) -> float:
        """See `SteerableController.energy`."""
        return self._energy(self._model.embed(obs.images))

    @torch.no_grad()
    def decide(self) -> Decision:
        """Plans from the last observation.

        Returns:
            A decision `"plan"`, or `"hold"` where nothing is proposed and no plan beats doing
            nothing.

        Raises:
            PlanningError: no plan has a finite cost.
        """
        proposed = self._propose()
        if self._proposals is not None and not self._proposals.search:
            assert proposed is not None
            (cost,), rest_cost = self._exact_costs([proposed.actions])
            plan = replace(proposed, cost=cost)
        else:
            plan, rest_cost = self._search(proposed)
        self._plan, self._executed = plan, 0
        return self._decision("hold" if plan is None else "plan", rest_cost)

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
            predict=self._prediction(),
        )

    def _prediction(self) -> Callable[[FloatArray], tuple[Tensor, float]]:
        """Returns a function that imagines actions from the last observation."""
        state, objective = self._state, self._objectives[self._goal]

        @torch.no_grad()
        def predict(actions_of_one: FloatArray) -> tuple[Tensor, float]:
            actions = torch.tensor(np.atleast_2d(actions_of_one), dtype=torch.float32)[None]
            device = self._generator.device
            noise = torch.Generator(device).manual_seed(self._seed)
            latent = self._model.rollout(state, actions.to(device), noise).mean[0, -1]
            return latent, _finite(objective.energy(latent))

        return predict

    def _propose(self) -> Plan | None:
        """Returns what to do without a search, and as its elites all that is proposed."""
        if self._proposals is None:
            return None
        device = self._generator.device
        proprio = torch.tensor(self._proprio, dtype=torch.float32, device=device)
        return self._proposals.propose(
            Situation(self._latent, self._goals[self._goal], proprio),
            Space(self._spec, self.horizon, device),
            last=None if self._plan is None else shift(self._plan, self._executed + 1),
            generator=self._generator,
        )

    def _search(self, proposed: Plan | None) -> tuple[Plan | None, float]:
        """Returns the plan to execute, None for none, and the exact cost of doing nothing."""
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
        init = proposed
        if init is None and self._plan is not None:
            init = shift(self._plan, self._executed + 1)
        plan = self._planner.plan(cost, self._spec, init=init, generator=self._generator)
        plan = replace(plan, actions=self._spec.clip(plan.actions))
        # Compares the exact costs, whatever the search saved.
        costs, rest_cost = self._exact_costs(
            [plan.actions] if proposed is None else [plan.actions, proposed.actions]
        )
        plan = replace(plan, cost=costs[0])
        if proposed is None:
            return plan if rest_cost - plan.cost > self._margin else None, rest_cost
        if costs[1] - plan.cost > self._margin:
            return plan, rest_cost
        return replace(proposed, cost=costs[1], info=plan.info), rest_cost

    def _exact_costs(self, sequences: Sequence[FloatArray]) -> tuple[list[float], float]:
        """Returns the exact costs of sequences `[H, A]`, and of doing nothing."""
        rest = np.tile(self._spec.rest, (len(sequences[0]), 1))
        actions = torch.tensor(np.stack([*sequences, rest]), dtype=torch.float32)
        exact = ImaginedCost(
            self._model, self._state, self._objectives[self._goal], seed=self._seed
        )
        costs = exact(actions.to(self._generator.device))
        if not costs.isfinite().all():
            raise PlanningError(f"the plans and doing nothing cost {costs.tolist()}")
        *of_sequences, of_rest = costs.tolist()
        return of_sequences, of_rest

    def _energy(self, latent: Tensor) -> float:
        return _finite(self._objectives[self._goal].energy(latent))


def _finite(energy: Any) -> float:
    """Returns an energy as a number, or raises PlanningError where it is not finite."""
    if not math.isfinite(energy):
        raise PlanningError("the energy of a latent is not finite")
    return float(energy)
