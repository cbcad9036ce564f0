"""The simplest planners: draw, judge, take the best."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from robot_wm.planners.protocol import Cost
from robot_wm.planners.search import Search, check_sizes, check_spread, normal, spread
from robot_wm.types import ActionSpec, Plan, UserError, check_counts


@dataclass(kw_only=True)
class RandomShooting:
    """Uniform candidates within the bounds; the best of them (and of the warm start).

    Args:
        horizon: actions per sequence, H.
        num_samples: sequences judged, N.
        num_elites: best sequences that are kept.

    Raises:
        UserError: a size below one, or more elites than samples.
    """

    horizon: int = 1
    num_samples: int = 192
    num_elites: int = 8

    def __post_init__(self) -> None:
        check_sizes(self)

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
class PredictiveSampling:
    """Noise on the knots of a spline through the best sequence so far (arXiv 2212.00541).

    Args:
        horizon: actions per sequence, H.
        num_samples: sequences per iteration, N.
        num_iterations: times that the best sequence becomes the next one's centre.
        num_elites: best sequences that are kept.
        num_knots: knots of the spline; as many as actions at most.
        order: of the spline: 0 holds each knot's value, 1 joins them by lines.
        init_std: standard deviation of the noise on every knot, in units of the spec's scale.
        min_std: what it has fallen to, geometrically, in the last iteration.

    Raises:
        UserError: a size below one, more elites than samples, or a spread out of order.
    """

    horizon: int = 1
    num_samples: int = 64
    num_iterations: int = 3
    num_elites: int = 8
    num_knots: int = 3
    order: Literal[0, 1] = 1
    init_std: float = 0.6
    min_std: float = 0.05

    def __post_init__(self) -> None:
        check_sizes(self, num_iterations=self.num_iterations)
        check_counts(num_knots=self.num_knots)
        check_spread(self, min_std=self.min_std, init_std=self.init_std)
        if self.order not in (0, 1):
            raise UserError(f"order: got {self.order!r}, want 0 or 1")

    def with_budget(self, num_evaluated: int) -> PredictiveSampling:
        """See `Planner.with_budget`."""
        return replace(self, **spread(num_evaluated, self.num_iterations, self.num_elites))

    def plan(
        self, cost: Cost, spec: ActionSpec, *, init: Plan | None, generator: torch.Generator
    ) -> Plan:
        """See `Planner.plan`."""
        search = Search(self, cost, spec, init, generator)
        space, best = search.space, search.mean
        knots = min(self.num_knots, self.horizon)
        basis = spline_basis(self.horizon, knots, self.order).to(generator.device)  # [H, K]
        for iteration in range(self.num_iterations):
            done = iteration / max(1, self.num_iterations - 1)
            std = self.init_std ** (1 - done) * self.min_std**done * space.unit
            noise = normal((self.num_samples - 1, knots, space.spec.size), generator)
            moved = best + std * torch.einsum("hk,nka->nha", basis, noise)
            alone = self.num_samples == 1  # then there is nothing else to judge
            known = best[None] if iteration == 0 or alone else best[None][:0]
            search.judge(space.project(torch.cat((known, moved))))
            best = search.actions[0]
        return search.plan()


def spline_basis(horizon: int, num_knots: int, order: Literal[0, 1]) -> Tensor:
    """Weights `[H, K]` of the knots in every action; the knots are evenly spaced over H."""
    if num_knots == 1:
        return torch.ones(horizon, 1)
    place = torch.arange(horizon) / max(1, horizon - 1) * (num_knots - 1)  # in knots
    if order == 0:
        nearest = (torch.arange(horizon) * num_knots) // horizon
        return torch.nn.functional.one_hot(nearest, num_knots).float()
    return (1 - (place[:, None] - torch.arange(num_knots)).abs()).clamp(min=0)
