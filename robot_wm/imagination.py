"""The cost that a planner minimises: the cost of imagined futures, computed with little work."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor

from robot_wm.models import Select, State, WorldModel
from robot_wm.objectives import Objective
from robot_wm.planners.search import Space
from robot_wm.precision import choose_precision
from robot_wm.types import (
    ActionSpec,
    Count,
    FloatArray,
    Futures,
    PlanningError,
    Precision,
    check_fields,
)

_NUM_COMPARED = 256  # candidates on which bfloat16 is compared with float32
_LEAST_AGREEMENT = 0.99  # Spearman
_KEPT_TO_THE_END = 0.25  # of the candidates


@dataclass(frozen=True)
class SearchBudget:
    """Where the search saves work: kept candidates have exact costs, pruned ones cost more.

    Attributes:
        keep_share: Share of the candidates that are kept after each imagined step but the last, by
            the cost of their `continued` futures (successive halving over the horizon); never fewer
            than a quarter of all. At 1, all are kept.
        at_least: Least number of candidates that are imagined to the end; an MPC raises it to its
            planner's elites.
        batch_size: Number of candidates that are imagined at once; null: all. It never depends on
            the machine's load, so that a plan can be repeated.
        precision: Precision of the predictor while it imagines candidates. `"bfloat16"` is used
            only where the ranking survives it (`ranking_survives`). `"auto"` is the one that the
            device computes faster, which an MPC measures; an ImaginedCost alone takes float32 for
            it.
    """

    keep_share: Annotated[float, Meta(gt=0, le=1)] = 0.5
    at_least: Count = 8
    batch_size: Count | None = None
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        check_fields(self)

    def on(self, device: torch.device | str) -> SearchBudget:
        """Returns the same budget with the precision in which a device multiplies fastest."""
        if self.precision != "auto":
            return self
        dtype = choose_precision("auto", torch.device(device))
        return replace(self, precision="bfloat16" if dtype == torch.bfloat16 else "float32")

    @property
    def prunes(self) -> bool:
        """Whether it prunes candidates."""
        return self.keep_share < 1


EXACT = SearchBudget(keep_share=1.0, precision="float32")  # saves nothing


class ImaginedCost:
    """Maps action sequences to the costs of what the model imagines under them.

    Args:
        model: The world model that imagines futures.
        state: The state that imagining starts from.
        objective: The objective that makes the costs of futures.
        search_budget: Where imagining saves work; None: nowhere.
        seed: Seed of the model's randomness, the same for every call, so that costs are comparable.
    """

    def __init__(
        self,
        model: WorldModel,
        state: State,
        objective: Objective,
        search_budget: SearchBudget | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self._model, self._state, self._objective = model, state, objective
        self._search_budget, self._seed = search_budget or EXACT, seed

    def __call__(self, actions: Tensor) -> Tensor:
        """Returns the costs of action sequences; differentiable where `actions` require gradients.

        Args:
            actions: Action sequences `[N, H, A]`, in the robot's units.

        Returns:
            Costs `[N]`.

        Raises:
            PlanningError: the model imagined latents that are not finite.
        """
        search_budget = self._search_budget
        size = search_budget.batch_size or len(actions)
        with torch.autocast(
            actions.device.type,
            torch.bfloat16,
            enabled=search_budget.precision == "bfloat16",
            cache_enabled=False,
        ):
            exact = (
                not search_budget.prunes
                or actions.requires_grad
                or len(actions) <= search_budget.at_least
            )
            if exact or self._model.info.predicts:  # a reward cannot be extrapolated from latents
                return torch.cat([self._full_costs(part) for part in actions.split(size)])
            parts = [self._pruned_costs(part) for part in actions.split(size)]
        return _rank_pruned(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _imagine(self, actions: Tensor, select: Select | None = None) -> Futures:
        generator = torch.Generator(actions.device).manual_seed(self._seed)
        futures = self._model.rollout(self._state, actions, generator, select=select)
        _check_finite(futures.latents)
        return futures

    def _judge(self, futures: Futures, actions: Tensor) -> Tensor:
        """Returns the objective's costs, always computed in float32."""
        with torch.autocast(actions.device.type, enabled=False):
            return self._objective(futures, actions)

    def _full_costs(self, actions: Tensor) -> Tensor:
        """Imagines all candidates to the end and returns their costs `[n]`."""
        return self._judge(self._imagine(actions), actions)

    def _pruned_costs(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Returns costs `[n]`, and the steps imagined per candidate `[n]`.

        Costs are exact only for candidates that were imagined to the full horizon.

        Args:
            actions: Action sequences `[n, H, A]`.

        Returns:
            Costs, and numbers of steps.
        """
        search_budget = self._search_budget
        costs = actions.new_zeros(len(actions))
        num_steps = actions.new_zeros(len(actions))
        remaining = torch.arange(len(actions), device=actions.device)
        at_least = max(search_budget.at_least, math.ceil(_KEPT_TO_THE_END * len(actions)))

        def select(latents: Tensor) -> Tensor:
            nonlocal remaining
            _check_finite(latents)
            with torch.autocast(actions.device.type, enabled=False):
                extrapolated = Futures(continued(latents, actions[remaining]))
            costs[remaining] = _clean(self._judge(extrapolated, actions[remaining]))
            num_steps[remaining] = float(latents.shape[1])
            kept = _best(costs[remaining], search_budget.keep_share, at_least=at_least)
            remaining = remaining[kept]
            return kept

        futures = self._imagine(actions, select)
        index = (
            torch.arange(len(actions)).to(actions.device) if futures.kept is None else futures.kept
        )
        costs[index] = self._judge(futures, actions[index]).to(costs)
        num_steps[index] = float(actions.shape[1])
        return costs, num_steps


def continued(futures: Tensor, actions: Tensor) -> Tensor:
    """Extrapolates futures to the end of the horizon.

    A linear map from the path of the actions to the last imagined latents is fitted over all
    candidates, and each future is continued along it. Candidates are pruned by this extrapolation
    rather than by how near they are already, as the fastest at first is not always the nearest at
    the end.

    Args:
        futures: Imagined latents `[n, h, ...]`.
        actions: Action sequences `[n, H, A]`.

    Returns:
        Imagined and extrapolated latents `[n, H, ...]`.
    """
    steps = futures.shape[1]
    spread = actions.std((0, 1), correction=0)  # makes dimensions of different units comparable
    path = (actions / torch.where(spread > 0, spread, 1.0)).cumsum(1)  # [n, H, A]
    here, last = path[:, steps - 1], futures[:, -1].flatten(1)
    x, y = here - here.mean(0), last - last.mean(0)
    gram = x.T @ x
    ridge = 1e-4 * gram.diagonal().mean().clamp(min=1e-12) * torch.eye(len(gram)).to(gram)
    slope = torch.linalg.solve(gram + ridge, x.T @ y)  # [A, ...]
    change = (path[:, steps:] - here[:, None]) @ slope  # [n, H - h, ...]
    remainder = futures[:, -1:] + change.view(*change.shape[:2], *futures.shape[2:])
    return torch.cat((futures, remainder), dim=1)


def _best(costs: Tensor, share: float, *, at_least: int = 1) -> Tensor:
    """Returns the indices of the best share of the costs `[n]`, increasing."""
    count = min(len(costs), max(math.ceil(share * len(costs)), at_least))
    return costs.argsort(stable=True)[:count].sort().values


def _rank_pruned(costs: Tensor, num_steps: Tensor) -> Tensor:
    """Moves the costs of pruned candidates above every exact cost.

    Among the pruned, those pruned later cost less. Candidates imagined furthest keep their costs.

    Args:
        costs: Exact and extrapolated costs `[N]`.
        num_steps: Imagined steps of each candidate `[N]`.

    Returns:
        Costs `[N]`.
    """
    levels = num_steps.unique().flip(0)
    exact = costs[num_steps == levels[0]]
    finite = exact[exact.isfinite()]
    worst = finite.max() if len(finite) else costs.new_zeros(())
    ranked = costs.clone()
    for level in levels[1:]:
        pruned = num_steps == level
        gap = 1e-3 * worst.abs() + 1e-6  # so that none ties with an exact cost
        ranked[pruned] = worst + gap + (costs[pruned] - costs[pruned].min())
        worst = ranked[pruned].max()
    return ranked


def _clean(costs: Tensor) -> Tensor:
    """Replaces extrapolated costs that are not numbers by the worst there is."""
    return costs.nan_to_num(nan=3e38, posinf=3e38, neginf=3e38).float()


def _check_finite(latents: Tensor) -> None:
    if not latents.isfinite().all():
        raise PlanningError("the model imagined latents that are not finite")


def ranking_survives(
    search_budget: SearchBudget,
    model: WorldModel,
    state: State,
    objective: Objective,
    spec: ActionSpec,
    *,
    horizon: int,
    device: torch.device,
) -> SearchBudget:
    """Checks whether bfloat16 keeps the ranking of the best candidates.

    Among the best quarter of a fixed set of legal candidates, Spearman's correlation with float32
    must be at least 0.99.

    Args:
        search_budget: The search budget to be checked.
        model: The world model that imagines futures.
        state: The state that imagining starts from.
        objective: The objective that makes the costs of futures.
        spec: The legal actions.
        horizon: Number of actions of a candidate, H.
        device: Device of the candidates.

    Returns:
        The search budget, with float32 where bfloat16 would disturb the ranking.
    """
    if search_budget.precision != "bfloat16":
        return search_budget
    space = Space(spec, horizon, device)
    share = torch.rand(
        (_NUM_COMPARED, horizon, spec.size), generator=torch.Generator().manual_seed(0)
    )
    actions = space.project(space.low + share.to(device) * (space.high - space.low))
    float32 = replace(EXACT, batch_size=search_budget.batch_size)
    exact = ImaginedCost(model, state, objective, float32)(actions)
    try:
        bfloat16 = replace(float32, precision="bfloat16")
        agreement = elite_agreement(exact, ImaginedCost(model, state, objective, bfloat16)(actions))
    except PlanningError:  # in bfloat16, the model imagines what is not finite
        agreement = 0.0
    return (
        search_budget
        if agreement >= _LEAST_AGREEMENT
        else replace(search_budget, precision="float32")
    )


def elite_agreement(exact: Tensor, quick: Tensor, *, share: float = 0.25) -> float:
    """Returns Spearman's correlation of two costs of the same candidates, among the best.

    A planner uses the ranking of the best candidates alone: the correlation tells whether a cheaper
    computation of the costs keeps it.

    Args:
        exact: Exact costs `[N]`, which decide which candidates are the best.
        quick: Costs `[N]` of the cheaper computation.
        share: Share of the candidates that count as the best.

    Returns:
        The correlation, -1 to 1; 0 where all costs are equal.

    Raises:
        ValueError: the shapes differ, or fewer than four candidates are among the best.
    """
    if exact.shape != quick.shape or exact.ndim != 1:
        raise ValueError(f"costs: got {tuple(exact.shape)} and {tuple(quick.shape)}, want both [N]")
    count = int(share * len(exact))
    if count < 4:
        raise ValueError(f"costs: got {len(exact)}, want {math.ceil(4 / share)} or more")
    best = exact.argsort(stable=True)[:count]
    one, other = exact[best].cpu().numpy(), quick[best].cpu().numpy()
    if one.min() == one.max() or other.min() == other.max():
        return 0.0  # all equal: there is no ranking
    return float(np.corrcoef(_ranks(one), _ranks(other))[0, 1])


def _ranks(values: FloatArray) -> FloatArray:
    """Returns the rank of each value, equal ones at their mean; scipy.stats loads for a second."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[inverse]
