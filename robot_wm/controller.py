"""Model-predictive control toward a goal picture: look, imagine, choose, act, look again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robot_wm.objectives import Objective
from robot_wm.planners import Planner, shift
from robot_wm.types import ActionSpec, FloatArray, Goal, Observation, Plan
from robot_wm.world_model import WorldModel


class MPC:
    """Plans at every look and executes the first action (robot_wm.types.Controller).

    Args:
        model: imagines.
        planner: searches.
        make_objective: the goal's latent to what is minimised.
        action_spec: legal actions.
        seed: of the planner's randomness. Every episode starts from it anew, so an episode's
            outcome does not depend on those before it.
        device: where the planner draws its candidates; the model's own.
    """

    def __init__(
        self,
        model: WorldModel,
        planner: Planner,
        make_objective: Callable[[Tensor], Objective],
        action_spec: ActionSpec,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self._model = model
        self._planner = planner
        self._make_objective = make_objective
        self._spec = action_spec
        self._seed = seed
        self._generator = torch.Generator(device)
        self._objective: Objective | None = None
        self._plan: Plan | None = None

    @property
    def last_plan(self) -> Plan | None:
        """The plan behind the last action."""
        return self._plan

    def reset(self, goal: Goal) -> None:
        """Begins an episode: the goal's latent is computed here, once."""
        self._generator.manual_seed(self._seed)
        self._objective = self._make_objective(self._model.embed(goal.images))
        self._state = self._model.initial()
        self._plan = None

    @torch.no_grad()
    def act(self, obs: Observation, applied: FloatArray | None) -> FloatArray:
        """The next action `[A]`, robot's units.

        Raises:
            PlanningError: no plan that the planner can stand behind.
            RuntimeError: called before `reset`.
        """
        objective = self._objective
        if objective is None:
            raise RuntimeError("act: called before reset(goal)")
        state = self._state = self._model.observe(self._state, obs, applied)

        def cost(actions: Tensor) -> Tensor:
            return objective(self._model.rollout(state, actions), actions)

        init = None if self._plan is None else shift(self._plan, 1)
        self._plan = self._planner.plan(cost, self._spec, init=init, generator=self._generator)
        return self._plan.actions[0]
