"""The simplest planners: draw candidates, evaluate them, take the best."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from robot_wm.planners.protocol import Cost
from robot_wm.planners.search import GaussianSettings, Search, SearchSettings, normal, spread
from robot_wm.types import ActionSpec, Count, Plan


@dataclass(kw_only=True)
class RandomShooting(SearchSettings):
    """Takes the best of candidates drawn uniformly within the bounds, and of the warm start.

    Attributes:
        num_samples: Number of sequences evaluated, N.
    """

    num_samples: Count = 192

    def with_budget(self, num_evaluated: int) -> RandomShooting:
        """See `Planner.with_budget`."""
        return replace(self, **spread(num_evaluated, 1, self.num_elites))

    def plan(
        self, cost: Cost, spec: ActionSpec, *, init: Plan | None, generator: torch.Generator
    ) -> Plan:
        """See `Planner.plan`."""
        search = Search(self, cost, spec, init, generator)
        space = search.space
        share = torch.rand(
            (self.num_samples - 1, *search.mean.shape),
            generator=generator,
            device=generator.device,
        )
        drawn = space.low + share * (space.high - space.low)
        search.judge(space.project(torch.cat((search.mean[None], drawn))))
        return search.plan()


@dataclass(kw_only=True)
class PredictiveSampling(GaussianSettings):
    """Draws candidates around the best sequence so far; their noise is a spline (arXiv 2212.00541).

    Attributes:
        num_knots: Number of the spline's knots; no more than H are used.
        order: Order of the spline: 0 holds each knot's value, 1 interpolates linearly.
    """

    num_knots: Count = 3
    order: Literal[0, 1] = 1

    def plan(
        self, cost: Cost, spec: ActionSpec, *, init: Plan | None, generator: torch.Generator
    ) -> Plan:
        """See `Planner.plan`."""
        search = Search(self, cost, spec, init, generator)
        space, best = search.space, search.mean
        knots = min(self.num_knots, self.horizon)
        basis = spline_basis(self.horizon, knots, self.order).to(generator.device)  # [H, K]
        for iteration in range(self.num_iterations):
            progress = iteration / max(1, self.num_iterations - 1)
            std = self.init_std ** (1 - progress) * self.min_std**progress * space.unit
            noise = normal((self.num_samples - 1, knots, space.spec.size), generator)
            moved = best + std * torch.einsum("hk,nka->nha", basis, noise)
            alone = self.num_samples == 1  # then there is nothing else to judge
            centre = best[None] if iteration == 0 or alone else best[None][:0]
            search.judge(space.project(torch.cat((centre, moved))))
            best = search.actions[0]
        return search.plan()


def spline_basis(horizon: int, num_knots: int, order: Literal[0, 1]) -> Tensor:
    """Returns the weights `[H, K]` of evenly spaced knots in every action."""
    if num_knots == 1:
        return torch.ones(horizon, 1)
    place = torch.arange(horizon) / max(1, horizon - 1) * (num_knots - 1)  # in knots
    if order == 0:
        nearest = (torch.arange(horizon) * num_knots) // horizon
        return torch.nn.functional.one_hot(nearest, num_knots).float()
    return (1 - (place[:, None] - torch.arange(num_knots)).abs()).clamp(min=0)
