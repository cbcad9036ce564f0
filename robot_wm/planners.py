"""Planners: search action sequences that a cost likes. They see a function, never a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from robot_wm.types import ActionSpec, Plan, PlanningError

Cost = Callable[[Tensor], Tensor]


class Planner(Protocol):
    """Minimises a cost over action sequences."""

    def plan(
        self, cost: Cost, spec: ActionSpec, *, init: Plan | None, generator: torch.Generator
    ) -> Plan:
        """Searches.

        Args:
            cost: action sequences `[N, H, A]`, float32, robot's units, to costs `[N]`.
            spec: bounds of every action.
            init: a plan to start from, already shifted to now; its horizon may be shorter.
            generator: the only source of randomness, on the device to plan on.

        Raises:
            PlanningError: too few candidates with a finite cost.
        """
        ...


class CEM:
    """Cross-entropy method with elites kept within a plan (Rubinstein 1999).

    Args:
        horizon: actions per sequence, H.
        num_samples: sequences per iteration, N.
        num_iterations: refits of the Gaussian.
        num_elites: best sequences the Gaussian is refitted to.
        init_std: first standard deviation, as a share of half of each action's range.
        min_std: floor of the standard deviation, as the same share.

    Raises:
        ValueError: a size below one, more elites than samples, or a spread out of order.
    """

    def __init__(
        self,
        *,
        horizon: int = 1,
        num_samples: int = 64,
        num_iterations: int = 3,
        num_elites: int = 8,
        init_std: float = 0.6,
        min_std: float = 0.05,
    ) -> None:
        if min(horizon, num_samples, num_iterations, num_elites) < 1:
            raise ValueError(
                f"CEM: got horizon={horizon}, num_samples={num_samples}, num_iterations="
                f"{num_iterations}, num_elites={num_elites}; want each at least 1"
            )
        if num_elites > num_samples:
            raise ValueError(
                f"num_elites: got {num_elites}, want at most num_samples={num_samples}"
            )
        if not 0 < min_std <= init_std:
            raise ValueError(
                f"CEM: got min_std={min_std}, init_std={init_std}; want 0 < min <= init"
            )
        self.horizon = horizon
        self.num_samples = num_samples
        self.num_iterations = num_iterations
        self.num_elites = num_elites
        self.init_std = init_std
        self.min_std = min_std

    def plan(
        self, cost: Cost, spec: ActionSpec, *, init: Plan | None, generator: torch.Generator
    ) -> Plan:
        """See `Planner.plan`."""
        device = generator.device
        low = torch.tensor(spec.low, dtype=torch.float32, device=device)
        high = torch.tensor(spec.high, dtype=torch.float32, device=device)
        half_range = (high - low) / 2
        mean = _start(init, spec, self.horizon).to(device)  # [H, A]
        std = (self.init_std * half_range).expand_as(mean)
        elites, elite_costs = mean[None], torch.full((1,), torch.inf, device=device)
        course: list[float] = []
        num_finite = num_evaluated = 0
        for iteration in range(self.num_iterations + 1):
            if iteration < self.num_iterations:
                noise = torch.randn(
                    (self.num_samples, *mean.shape), generator=generator, device=device
                )
                candidates = torch.cat((mean[None], mean + std * noise[1:])).clamp(low, high)
            else:
                candidates = mean[None]  # the last fit is judged like any candidate
            costs = finite_costs(cost(candidates), len(candidates))
            num_evaluated += len(candidates)
            finite = int(costs.isfinite().sum())
            if finite < min(self.num_elites, len(candidates)):
                raise PlanningError(
                    f"{finite} of {len(candidates)} candidates have a finite cost; "
                    f"{min(self.num_elites, len(candidates))} are needed"
                )
            num_finite += finite
            pool, pool_costs = torch.cat((elites, candidates)), torch.cat((elite_costs, costs))
            best = pool_costs.argsort(stable=True)[: self.num_elites]
            elites, elite_costs = pool[best], pool_costs[best]
            mean, std = elites.mean(0), elites.std(0, correction=0)
            std = torch.maximum(std, self.min_std * half_range)
            course.append(float(elite_costs[0]))
        return Plan(
            actions=spec.clip(elites[0].cpu().numpy()),
            cost=float(elite_costs[0]),
            info={
                "cost_by_iteration": course,
                "num_evaluated": num_evaluated,
                "num_finite": num_finite,
                "elite_cost_std": float(elite_costs.std(correction=0)),
            },
        )


def finite_costs(costs: Tensor, num_candidates: int) -> Tensor:
    """Costs `[N]` with every non-finite one turned into +inf.

    Raises:
        ValueError: the cost function returned another shape.
    """
    if tuple(costs.shape) != (num_candidates,):
        raise ValueError(f"cost: got shape {tuple(costs.shape)}, want ({num_candidates},)")
    return torch.where(costs.isfinite(), costs, torch.inf)


def shift(plan: Plan, num_executed: int) -> Plan:
    """What is left of a plan after `num_executed` actions: the warm start of the next."""
    return Plan(actions=plan.actions[num_executed:], cost=plan.cost, info=plan.info)


def _start(init: Plan | None, spec: ActionSpec, horizon: int) -> Tensor:
    """The first mean `[H, A]`: the warm start, then the action nearest to none at all."""
    rest = spec.clip(np.zeros(spec.size))
    start = np.tile(rest, (horizon, 1))
    if init is not None:
        known = min(horizon, len(init.actions))
        start[:known] = spec.clip(init.actions[:known])
    return torch.tensor(start, dtype=torch.float32)
