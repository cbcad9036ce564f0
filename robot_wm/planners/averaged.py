"""Averages what is proposed, weighted by cost; searches no further."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robot_wm.planners.protocol import Cost
from robot_wm.planners.search import Search, Space
from robot_wm.types import ActionSpec, Count, Plan, Positive, check_fields

_COMPARED = 4  # first actions of sequences, which tell whether they go the same way


@dataclass(kw_only=True)
class Averaged:
    """Averages the elites of the warm start by exp(-cost / temperature), within one mode of them.

    A learned model errs most where no data was, and that is where a search ends. The mean of what a
    policy proposes stays where the data was, and lets the model decide among its ways. Of several
    ways the mean would be none, so that sequences weigh less the less they resemble the one around
    which there is most weight.

    Without elites the sequences are normal noise around the start, as in one iteration of MPPI.

    Attributes:
        horizon: Number of actions per sequence, H.
        num_samples: Number of sequences that are averaged, N, at most.
        temperature: Temperature of the weights, in units of the standard deviation of the costs.
        init_std: Standard deviation of the noise, in units of the spec's scale.
    """

    horizon: Count = 8
    num_samples: Count = 64
    temperature: Positive = 0.5
    init_std: Positive = 0.3

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def num_elites(self) -> int:
        """Number of sequences whose costs must be exact: all."""
        return self.num_samples

    def with_budget(self, num_evaluated: int) -> Averaged:
        """See `Planner.with_budget`."""
        return replace(self, num_samples=max(1, num_evaluated))

    def plan(
        self, cost: Cost, spec: ActionSpec, *, init: Plan | None, generator: torch.Generator
    ) -> Plan:
        """See `Planner.plan`; where the mean costs more than the start, the start is returned."""
        search = Search(self, cost, spec, init, generator)
        space, start = search.space, search.mean
        proposed = None if init is None or init.elites is None else init.elites[: self.num_samples]
        if proposed is None or len(proposed) < 2:
            candidates = search.around(start, self.init_std * space.unit, self.num_samples)
        else:
            candidates = _legal(space, proposed)
        costs = search.judge(candidates, num_finite=1)
        kept = costs.isfinite()
        mean = self._mean(space, candidates[kept], costs[kept])
        both = torch.stack((space.project(mean), start))
        plan = search.plan(both[search.judge(both, num_finite=1).argmin()])
        # As the next start's elites the sequences would be averaged again, and none tried anew.
        return replace(plan, elites=proposed)

    def _mean(self, space: Space, candidates: Tensor, costs: Tensor) -> Tensor:
        """Returns the weighted mean `[H, A]` of candidates `[N, H, A]` with finite costs."""
        scale = self.temperature * costs.std(correction=0)
        weights = torch.softmax(-(costs - costs.min()) / scale.clamp(min=1e-12), dim=0)
        alike = likeness(space.scaled(candidates))
        weights = weights * alike[(alike @ weights).argmax()]
        return torch.einsum("n,nha->ha", weights / weights.sum(), candidates)


def likeness(sequences: Tensor) -> Tensor:
    """Returns how much the beginnings of sequences resemble each other, from 0 to 1.

    It is a Gaussian kernel over their first actions, as wide as the median of their distances.

    Args:
        sequences: Sequences `[N, H, A]`, in units in which the actions' dimensions compare.

    Returns:
        The kernel's values `[N, N]`.
    """
    first = sequences[:, :_COMPARED].flatten(1)
    apart = torch.cdist(first, first, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.exp(-apart.square() / (2 * apart.median().square()).clamp_min(1e-12))


def _legal(space: Space, sequences: object) -> Tensor:
    """Returns sequences `[K, h, A]` as legal ones of H actions, `[K, H, A]`."""
    actions = torch.as_tensor(sequences, dtype=torch.float32, device=space.device)
    actions = actions[:, : space.horizon]
    missing = space.horizon - actions.shape[1]
    return space.project(torch.cat((actions, space.rest.expand(len(actions), missing, -1)), dim=1))
