"""What a planner minimises: the cost of imagined futures, got with as little work as will do."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from robot_wm.models import Select, State, WorldModel
from robot_wm.objectives import Objective
from robot_wm.planners.search import Space
from robot_wm.types import ActionSpec, Futures, PlanningError, UserError, check_counts

_NUM_TRUSTED = 256  # candidates that bfloat16 is tried on
_LEAST_AGREEMENT = 0.99  # Spearman
_KEPT_TO_THE_END = 0.25  # of the candidates


@dataclass(frozen=True)
class SearchBudget:
    """Where work is saved. The cost of what remains is exact; what is dropped costs more.

    Attributes:
        keep_share: of the candidates, after each imagined step but the last: those go on whose
            future, `continued`, looks best (successive halving over the horizon), though never
            fewer than a quarter. 1: all.
        at_least: candidates that are imagined exactly, whatever the shares; an MPC raises it to
            its planner's elites.
        batch_size: candidates imagined at once; None: all. A constant of the settings, never of
            the machine's load, so that a plan can be repeated.
        precision: of the predictor while it imagines candidates; see `ranking_survives`.
    """

    keep_share: float = 1.0
    at_least: int = 8
    batch_size: int | None = None
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        share = self.keep_share
        if not (isinstance(share, int | float) and 0 < share <= 1):
            raise UserError(f"keep_share: got {share!r}, want a share above 0, to 1")
        check_counts(at_least=self.at_least)
        if self.batch_size is not None:
            check_counts(batch_size=self.batch_size)
        if self.precision not in ("float32", "bfloat16"):
            raise UserError(f"precision: got {self.precision!r}, want 'float32' or 'bfloat16'")

    @property
    def drops(self) -> bool:
        """Whether it leaves candidates on the way."""
        return self.keep_share < 1


class ImaginedCost:
    """Action sequences to the costs of what the model imagines under them.

    Args:
        model: imagines.
        state: from where.
        objective: judges.
        search_budget: where to save work; nowhere by default.
        seed: of what is random in the model: the same for every call, so that costs compare.
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
        self._search_budget, self._seed = search_budget or SearchBudget(), seed

    def __call__(self, actions: Tensor) -> Tensor:
        """`[N, H, A]`, robot's units, to `[N]`; differentiable where `actions` want it.

        Raises:
            PlanningError: the model imagined what is not finite.
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
                not search_budget.drops
                or actions.requires_grad
                or len(actions) <= search_budget.at_least
            )
            if exact or self._model.info.predicts:  # a reward cannot be guessed from latents
                return torch.cat([self._exactly(part) for part in actions.split(size)])
            parts = [self._sparingly(part) for part in actions.split(size)]
        return _behind(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _imagine(self, actions: Tensor, select: Select | None = None) -> Futures:
        generator = torch.Generator(actions.device).manual_seed(self._seed)
        futures = self._model.rollout(self._state, actions, generator, select=select)
        _check_finite(futures.latents)
        return futures

    def _judge(self, futures: Futures, actions: Tensor) -> Tensor:
        """The objective, always in float32."""
        with torch.autocast(actions.device.type, enabled=False):
            return self._objective(futures, actions)

    def _exactly(self, actions: Tensor) -> Tensor:
        """All of them to the end."""
        return self._judge(self._imagine(actions), actions)

    def _sparingly(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Costs `[n]`, and how far each came `[n]`; those that came farthest are exact."""
        search_budget = self._search_budget
        costs = actions.new_zeros(len(actions))
        came = actions.new_zeros(len(actions))
        inside = torch.arange(len(actions), device=actions.device)
        enough = max(search_budget.at_least, math.ceil(_KEPT_TO_THE_END * len(actions)))

        def select(latents: Tensor) -> Tensor:
            nonlocal inside
            _check_finite(latents)
            with torch.autocast(actions.device.type, enabled=False):
                expected = Futures(continued(latents, actions[inside]))
            costs[inside] = _clean(self._judge(expected, actions[inside]))
            came[inside] = float(latents.shape[1])
            chosen = _best(costs[inside], search_budget.keep_share, at_least=enough)
            inside = inside[chosen]
            return chosen

        futures = self._imagine(actions, select)
        index = (
            torch.arange(len(actions)).to(actions.device) if futures.kept is None else futures.kept
        )
        costs[index] = self._judge(futures, actions[index]).to(costs)
        came[index] = float(actions.shape[1])
        return costs, came


def continued(futures: Tensor, actions: Tensor) -> Tensor:
    """Futures `[n, h, ...]` under `actions` `[n, H, A]`, guessed to their end: `[n, H, ...]`.

    Where the last imagined latents lie, by how far the actions led until then, is fitted by a
    linear map; each future then goes on along it. What is dropped is dropped by this guess, not by
    how near it is already: what hurries is not always what ends there.
    """
    steps = futures.shape[1]
    spread = actions.std((0, 1), correction=0)  # a unit per dimension, whatever the robot's is
    way = (actions / torch.where(spread > 0, spread, 1.0)).cumsum(1)  # [n, H, A]
    here, last = way[:, steps - 1], futures[:, -1].flatten(1)
    x, y = here - here.mean(0), last - last.mean(0)
    gram = x.T @ x
    ridge = 1e-4 * gram.diagonal().mean().clamp(min=1e-12) * torch.eye(len(gram)).to(gram)
    slope = torch.linalg.solve(gram + ridge, x.T @ y)  # [A, ...]
    ahead = (way[:, steps:] - here[:, None]) @ slope  # [n, H - h, ...]
    rest = futures[:, -1:] + ahead.view(*ahead.shape[:2], *futures.shape[2:])
    return torch.cat((futures, rest), dim=1)


def _best(costs: Tensor, share: float, *, at_least: int = 1) -> Tensor:
    """Indices of the best share of the costs `[n]`, in their order."""
    count = min(len(costs), max(math.ceil(share * len(costs)), at_least))
    return costs.argsort(stable=True)[:count].sort().values


def _behind(costs: Tensor, came: Tensor) -> Tensor:
    """Costs `[N]` of which those of the candidates that came farthest stay as they are.

    The others are moved behind the worst of those, the nearer to it the farther they came.
    """
    levels = came.unique().flip(0)
    exact = costs[came == levels[0]]
    known = exact[exact.isfinite()]
    worst = known.max() if len(known) else costs.new_zeros(())
    behind = costs.clone()
    for level in levels[1:]:
        now = came == level
        gap = 1e-3 * worst.abs() + 1e-6  # so that none is level with what is exact
        behind[now] = worst + gap + (costs[now] - costs[now].min())
        worst = behind[now].max()
    return behind


def _clean(costs: Tensor) -> Tensor:
    """A guess that is not a number is the worst there is."""
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
    """The search_budget, without bfloat16 where that would disturb the ranking of the elite.

    Judged on a fixed set of legal candidates: Spearman's correlation with float32 among the best
    quarter must be .99.
    """
    if search_budget.precision == "float32":
        return search_budget
    space = Space(spec, horizon, device)
    share = torch.rand(
        (_NUM_TRUSTED, horizon, spec.size), generator=torch.Generator().manual_seed(0)
    )
    actions = space.project(space.low + share.to(device) * (space.high - space.low))
    plain = SearchBudget(batch_size=search_budget.batch_size)
    exact = ImaginedCost(model, state, objective, plain)(actions)
    try:
        low = replace(plain, precision="bfloat16")
        agreement = elite_agreement(exact, ImaginedCost(model, state, objective, low)(actions))
    except PlanningError:  # it imagines what is not finite
        agreement = 0.0
    return (
        search_budget
        if agreement >= _LEAST_AGREEMENT
        else replace(search_budget, precision="float32")
    )


def elite_agreement(exact: Tensor, quick: Tensor, *, share: float = 0.25) -> float:
    """Spearman's correlation of two costs `[N]` of the same candidates, among the best by `exact`.

    A planner uses the ranking of the best candidates alone: this says whether a cheaper way to the
    cost keeps it.

    Raises:
        ValueError: two shapes, or fewer than four among the best.
    """
    if exact.shape != quick.shape or exact.ndim != 1:
        raise ValueError(f"costs: got {tuple(exact.shape)} and {tuple(quick.shape)}, want both [N]")
    count = int(share * len(exact))
    if count < 4:
        raise ValueError(f"costs: got {len(exact)}, want {math.ceil(4 / share)} or more")
    from scipy.stats import spearmanr  # slow to import, and needed for bfloat16 alone

    best = exact.argsort(stable=True)[:count]
    one, other = exact[best].cpu().numpy(), quick[best].cpu().numpy()
    if one.min() == one.max() or other.min() == other.max():
        return 0.0  # all alike: no ranking is left
    return float(np.asarray(spearmanr(one, other)[0]))
