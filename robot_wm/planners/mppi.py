"""Model-predictive path integral control."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from robot_wm.planners.protocol import Cost
from robot_wm.planners.search import Search, check_positive, check_sizes, check_spread, spread
from robot_wm.types import ActionSpec, Plan


@dataclass(kw_only=True)
class MPPI:
    """Path integral control over the best candidates (Williams et al. 2017, arXiv 1509.01149).

    Every iteration's mean and deviation are averages over the elites, weighted by
    exp(-(cost - least) / temperature): TD-MPC's form (arXiv 2203.04955).

    Args:
        horizon: actions per sequence, H.
        num_samples: sequences per iteration, N.
        num_iterations: updates of the Gaussian.
        num_elites: sequences that carry weight.
        temperature: in units of the elites' standard deviation of cost, so that it means the same
            whatever the cost's scale.
        init_std: first standard deviation, in units of the spec's scale.
        min_std: floor of the standard deviation, in the same units.

    Raises:
        UserError: a size below one, more elites than samples, a spread out of order, or a
            temperature that is not above zero.
    """

    horizon: int = 1
    num_samples: int = 64
    num_iterations: int = 3
    num_elites: int = 16
    temperature: float = 0.5
    init_std: float = 0.6
    min_std: float = 0.05

    def __post_init__(self) -> None:
        check_sizes(self, num_iterations=self.num_iterations)
        check_spread(self, min_std=self.min_std, init_std=self.init_std)
        check_positive(self, temperature=self.temperature)

    def with_budget(self, num_evaluated: int) -> MPPI:
        """See `Planner.with_budget`."""
        return replace(self, **spread(num_evaluated, self.num_iterations, self.num_elites))

    def plan(
        self, cost: Cost, spec: ActionSpec, *, init: Plan | None, generator: torch.Generator
    ) -> Plan:
        """See `Planner.plan`."""
        search = Search(self, cost, spec, init, generator)
        space, mean = search.space, search.mean
        std = (self.init_std * space.unit).expand_as(mean)
        for _ in range(self.num_iterations):
            search.judge(search.around(mean, std, self.num_samples))
            kept = search.costs.isfinite()
            elites, costs = search.actions[kept], search.costs[kept]
            scale = self.temperature * costs.std(correction=0)
            weights = torch.softmax(-(costs - costs[0]) / scale.clamp(min=1e-12), dim=0)
            mean = torch.einsum("n,nha->ha", weights, elites)
            variance = torch.einsum("n,nha->ha", weights, (elites - mean).square())
            std = torch.maximum(variance.sqrt(), self.min_std * space.unit)
        search.judge(space.project(mean[None]), num_finite=0)
        return search.plan()
