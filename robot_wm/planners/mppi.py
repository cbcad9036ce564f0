"""Model-predictive path integral control."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from robot_wm.planners.protocol import Cost
from robot_wm.planners.search import GaussianSettings
from robot_wm.types import ActionSpec, Count, Plan, Positive


@dataclass(kw_only=True)
class MPPI(GaussianSettings):
    """Path integral control over the best candidates (Williams et al. 2017, arXiv 1509.01149).

    Every iteration's mean and deviation are averages over the elites, weighted by
    exp(-(cost - least) / temperature), as in TD-MPC (arXiv 2203.04955).

    Attributes:
        num_elites: Number of sequences that carry weight.
        temperature: Temperature of the weights, in units of the standard deviation of the elites'
            costs, so that it means the same at any scale of the cost.
    """

    num_elites: Count = 16
    temperature: Positive = 0.5

    def plan(
        self, cost: Cost, spec: ActionSpec, *, init: Plan | None, generator: torch.Generator
    ) -> Plan:
        """See `Planner.plan`; costs weigh the elites that the Gaussian is refitted to."""
        search, std = self.begin(cost, spec, init, generator)
        mean, space = search.mean, search.space
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
