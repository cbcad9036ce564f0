"""Model-predictive control toward goal pictures: look, imagine, choose, act, look again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from robot_wm.imagination import Economy, ImaginedCost, trusted
from robot_wm.objectives import Objective
from robot_wm.planners import Planner, shift
from robot_wm.types import (
    ActionSpec,
    FloatArray,
    Goal,
    Observation,
    Outcome,
    OutcomeKind,
    Plan,
    PlanningError,
    check_counts,
)
from robot_wm.world_model import WorldModel


@dataclass(frozen=True)
class Look:
    """What the controller made of one look.

    Attributes:
        goal: number of the goal picture it was after.
        energy: of what it saw: its distance to the goal picture, in the objective's terms.
        decision: `"plan"`: the first action of a new plan; `"continue"`: the next of the last one;
            `"hold"`: nothing, for no plan is better than that by the margin; `"arrived"`: nothing,
            the last goal is reached; `"stalled"`: nothing, the last goal comes no nearer;
            `"out of time"`: nothing, the last goal's time is over.
        plan_cost: what the plan was predicted to cost, where there was one.
        rest_cost: what doing nothing was predicted to cost.
    """

    goal: int
    energy: float
    decision: Literal["plan", "continue", "hold", "arrived", "stalled", "out of time"]
    plan_cost: float | None = None
    rest_cost: float | None = None

    @property
    def planned(self) -> bool:
        """Whether a plan was made for it, followed or not."""
        return self.rest_cost is not None


class MPC:
    """Plans, executes the beginning of the plan, looks again (robot_wm.types.Controller).

    Args:
        model: imagines.
        planner: searches.
        make_objective: the goal's latent to what is minimised.
        action_spec: legal actions.
        seed: of the planner's randomness. Every episode starts from it anew, so an episode's
            outcome does not depend on those before it.
        device: where the planner draws its candidates; the model's own.
        execute_steps: actions of a plan that are executed before the next one.
        margin: energy by which a plan must beat doing nothing; otherwise nothing is done.
        arrival: a goal is reached where the energy is no higher than this; None: never.
        arrival_looks: for so many looks in a row, and where it no longer falls.
        progress: energy by which a look must be lower than the last one that counted as nearer, to
            count as nearer too.
        patience: looks in a row that come no nearer, after which the goal counts as stalled; None:
            it never does. A look that is farther off than most of them is not where it stops:
            plans that lead to and fro end on the near side.
        step_energy: mean energy of a step of the training data, for the `Outcome`; None: unknown.
        timeout_steps: looks that are spent on one goal at most; None: without end.
        economy: where imagining saves work.

    Raises:
        ValueError: a number out of range, or an action space that the planner cannot fill.
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
        execute_steps: int = 1,
        margin: float = 0.0,
        arrival: float | None = None,
        arrival_looks: int = 2,
        progress: float = 0.0,
        patience: int | None = 4,
        step_energy: float | None = None,
        timeout_steps: int | None = None,
        economy: Economy | None = None,
    ) -> None:
        check_counts(execute_steps=execute_steps, arrival_looks=arrival_looks)
        for name, count in (("timeout_steps", timeout_steps), ("patience", patience)):
            if count is not None:
                check_counts(**{name: count})
        if execute_steps > planner.horizon:
            raise ValueError(
                f"execute_steps: got {execute_steps}, want at most the planner's horizon, "
                f"{planner.horizon}"
            )
        energies = {"margin": margin, "arrival": arrival, "progress": progress}
        for name, energy in energies.items():
            if energy is not None and not 0 <= energy < math.inf:
                raise ValueError(f"{name}: got {energy}, want an energy of 0 or more")
        self._model = model
        self._planner = planner
        self._make_objective = make_objective
        self._spec = action_spec
        self._seed = seed
        self._generator = torch.Generator(device)
        self._execute_steps = execute_steps
        self._margin, self._arrival = margin, arrival
        self._arrival_looks, self._timeout_steps = arrival_looks, timeout_steps
        self._least_progress, self._patience = progress, patience
        self._step_energy = step_energy
        economy = economy or Economy()
        # What a planner keeps must be exact.
        at_least = max(economy.at_least, getattr(planner, "num_elites", 1))
        self._economy = replace(economy, at_least=at_least)
        self._trusted: Economy | None = None
        self._objectives: list[Objective] = []
        self.outcomes: list[Outcome] = []  # of the goals that it has left behind
        self._plan: Plan | None = None
        self._goal = 0
        self.looks: list[Look] = []

    @property
    def last_plan(self) -> Plan | None:
        """The plan behind the last action; None where it was to do nothing."""
        return self._plan

    @property
    def action_names(self) -> tuple[str, ...]:
        """Of its actions, A names."""
        return self._spec.names

    @property
    def economy(self) -> Economy:
        """Where imagining saves work."""
        return self._economy

    @property
    def goal_index(self) -> int:
        """Number of the goal picture it is after."""
        return self._goal

    @property
    def moves_on(self) -> bool:
        """Whether it ever goes on from one goal to the next."""
        ends = (self._arrival, self._patience, self._timeout_steps)
        return any(end is not None for end in ends)

    def reset(self, goal: Goal | Sequence[Goal]) -> None:
        """Begins an episode: the goals' latents are computed here, once.

        Args:
            goal: what is wanted, or several, one after the other.

        Raises:
            ValueError: no goal, or a picture that does not fit.
        """
        goals = [goal] if isinstance(goal, Goal) else list(goal)
        if not goals:
            raise ValueError("goal: got none, want at least one picture")
        self._objectives = []  # should one of the pictures not fit, it acts toward none of them
        objectives = [self._make_objective(self._model.embed(g.images)) for g in goals]
        self._generator.manual_seed(self._seed)
        self._objectives = objectives
        self._state = self._model.initial()
        self._plan, self._executed = None, 0
        self._begin_goal(0)
        self._over: OutcomeKind | None = None
        self._trusted = None  # looked at once an episode
        self.outcomes = []
        self.looks = []

    def outcome(self, last: Observation) -> Outcome:
        """How the way to the goal that it is after ended, with what is seen at the end.

        The last look counts like those before it, but that nothing can come after it: being near
        enough once is enough.
        """
        energy = self.energy(last)
        kind = self._over
        if kind is None:
            kind = "arrived" if self._is_near(energy) else "out of time"
        return Outcome(kind, energy, self._step_energy, self._goal)

    @torch.no_grad()
    def energy(self, obs: Observation) -> float:
        """Distance of what is seen to the goal picture that it is after."""
        return self._energy(self._model.embed(obs.images))

    @torch.no_grad()
    def foresee(self, action: FloatArray) -> tuple[Tensor, float]:
        """What an action `[A]` from the last look would lead to.

        Returns:
            The latent `[P, D]` imagined, the mean of them where there are several, and its energy.
        """
        actions = torch.tensor(np.asarray(action), dtype=torch.float32)[None, None]
        latent = self._model.rollout(self._state, actions.to(self._generator.device))[0, 0]
        latent = latent.mean(0) if latent.ndim == 3 else latent
        return latent, self._energy(latent)

    @torch.no_grad()
    def act(self, obs: Observation, applied: FloatArray | None) -> FloatArray:
        """The next action `[A]`, robot's units.

        Raises:
            PlanningError: no plan that the planner can stand behind, or a latent that is not
                finite.
            RuntimeError: called before `reset`.
        """
        if not self._objectives:
            raise RuntimeError("act: called before reset(goal)")
        self._state = self._model.observe(self._state, obs, applied)
        latent = self._model.embed(obs.images)
        energy = self._energy(latent)
        if self._over is None:
            energy = self._progress(latent, energy)
        if self._over is not None:
            return self._rest(Look(self._goal, energy, self._over))
        if self._plan is not None and self._executed + 1 < self._execute_steps:
            self._executed += 1
            action = self._plan.actions[self._executed]
            self.looks.append(Look(self._goal, energy, "continue", self._plan.cost))
        else:
            action = self._replan(energy)
        self._num_looks += 1
        return action

    def _replan(self, energy: float) -> FloatArray:
        objective = self._objectives[self._goal]
        if self._trusted is None:
            self._trusted = trusted(
                self._economy,
                self._model,
                self._state,
                objective,
                self._spec,
                horizon=self._planner.horizon,
                device=self._generator.device,
            )
        cost = ImaginedCost(self._model, self._state, objective, self._trusted)
        init = None if self._plan is None else shift(self._plan, self._executed + 1)
        plan = self._planner.plan(cost, self._spec, init=init, generator=self._generator)
        plan = replace(plan, actions=self._spec.clip(plan.actions))
        # Judged side by side, and exactly, whatever the search saved.
        rest = np.tile(self._spec.rest, (len(plan.actions), 1))
        both = torch.tensor(np.stack((plan.actions, rest)), dtype=torch.float32)
        costs = ImaginedCost(self._model, self._state, objective)(both.to(self._generator.device))
        if not costs.isfinite().all():
            raise PlanningError(f"the plan and doing nothing cost {costs.tolist()}")
        plan_cost, rest_cost = costs.tolist()
        if rest_cost - plan_cost <= self._margin:
            return self._rest(Look(self._goal, energy, "hold", plan_cost, rest_cost))
        self._plan, self._executed = plan, 0
        self.looks.append(Look(self._goal, energy, "plan", plan_cost, rest_cost))
        return plan.actions[0]

    def _rest(self, look: Look) -> FloatArray:
        self._plan, self._executed = None, 0
        self.looks.append(look)
        return self._spec.rest

    def _progress(self, latent: Tensor, energy: float) -> float:
        """Moves on to the next goal where this one is reached, comes no nearer or has no time left.

        Returns the energy toward the goal that it is after from now on.
        """
        kind = self._end_of_goal(energy)
        if kind is None:
            return energy
        if self._goal + 1 == len(self._objectives):
            self._over = kind
            return energy
        self.outcomes.append(Outcome(kind, energy, self._step_energy, self._goal))
        self._begin_goal(self._goal + 1)
        self._plan, self._executed = None, 0
        return self._energy(latent)

    def _begin_goal(self, goal: int) -> None:
        self._goal, self._num_looks = goal, 0
        self._num_near = self._num_no_nearer = 0  # of the last looks, in a row
        self._least = math.inf  # energy of the last look that came nearer
        self._recent: list[float] = []  # energies of the last looks, as many as `patience` asks for

    def _end_of_goal(self, energy: float) -> OutcomeKind | None:
        """Takes one more look's energy into account; how the way to this goal ends, if it does."""
        near, first = self._is_near(energy), self._least == math.inf
        nearer = energy < self._least - self._least_progress
        if nearer:  # small steps add up: they are held against the last one that counted
            self._least = energy
        self._num_near = self._num_near + 1 if near else 0
        self._num_no_nearer = 0 if nearer else self._num_no_nearer + 1
        if self._num_near >= self._arrival_looks and (first or not nearer):
            return "arrived"
        if self._patience is not None:
            self._recent = [*self._recent, energy][-self._patience - 1 :]
            stalled = self._num_no_nearer >= self._patience
            if stalled and energy <= float(np.median(self._recent)):
                return "arrived" if near else "stalled"
        late = self._timeout_steps is not None and self._num_looks >= self._timeout_steps
        return "out of time" if late else None

    def _is_near(self, energy: float) -> bool:
        return self._arrival is not None and energy <= self._arrival

    def _energy(self, latent: Tensor) -> float:
        energy = float(self._objectives[self._goal].energy(latent))
        if not math.isfinite(energy):
            raise PlanningError("the energy of what is seen is not finite")
        return energy
