"""What a planner minimises: the cost of imagined futures, got with as little work as will do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from robot_wm.objectives import Objective
from robot_wm.types import ActionSpec, PlanningError, check_counts
from robot_wm.world_model import State, WorldModel

_MIN_DROPPED = 16  # fewer candidates are all followed to the end
_NUM_TRUSTED = 256  # candidates that bfloat16 is tried on
_LEAST_AGREEMENT = 0.99  # Spearman
_KEPT_TO_THE_END = 0.25  # of the candidates: twice what a planner commonly keeps as elites


@runtime_checkable
class SelectiveWorldModel(Protocol):
    """A WorldModel that can leave candidates on the way, and guess roughly."""

    def rollout_selected(
        self, state: State, actions: Tensor, select: Callable[[Tensor], Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        """As `Predictor.rollout_selected`."""
        ...

    def rollout_roughly(self, state: State, actions: Tensor, depth: int) -> Tensor:
        """As `rollout`, by the first `depth` blocks alone."""
        ...


@dataclass(frozen=True)
class Economy:
    """Where work is saved. The cost of what remains is exact; what is dropped costs more.

    Attributes:
        keep_share: of the candidates, after each imagined step but the last: those go on whose
            future, `continued`, looks best (successive halving over the horizon), though never
            fewer than a quarter. 1: all.
        screen_depth: first, all are imagined by so many of the predictor's blocks. None: not.
        screen_share: of the candidates, the best in that screening, which are imagined exactly.
        batch_size: candidates imagined at once; None: all. A constant of the settings, never of
            the machine's load, so that a plan can be repeated.
        bfloat16: imagine in it; see `trusted`.
    """

    keep_share: float = 1.0
    screen_depth: int | None = None
    screen_share: float = 0.5
    batch_size: int | None = None
    bfloat16: bool = False

    def __post_init__(self) -> None:
        for name in ("keep_share", "screen_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, want a share above 0, to 1")
        if self.screen_depth is not None:
            check_counts(screen_depth=self.screen_depth)
        if self.batch_size is not None:
            check_counts(batch_size=self.batch_size)
        if not isinstance(self.bfloat16, bool):
            raise ValueError(f"bfloat16: got {self.bfloat16!r}, want true or false")


class ImaginedCost:
    """Action sequences to the costs of what the model imagines under them.

    Args:
        model: imagines.
        state: from where.
        objective: judges.
        economy: where to save work; nowhere by default.

    Raises:
        ValueError: an economy that the model does not know.
    """

    def __init__(
        self,
        model: WorldModel,
        state: State,
        objective: Objective,
        economy: Economy | None = None,
    ) -> None:
        self._model, self._state, self._objective = model, state, objective
        self._economy = economy or Economy()
        saves = self._economy.keep_share < 1 or self._economy.screen_depth is not None
        if saves and not isinstance(model, SelectiveWorldModel):
            raise ValueError(f"economy: {type(model).__name__} has no rollout_selected")

    def __call__(self, actions: Tensor) -> Tensor:
        """`[N, H, A]`, robot's units, to `[N]`; differentiable where `actions` want it.

        Raises:
            PlanningError: the model imagined what is not finite.
        """
        exact = actions.requires_grad or len(actions) < _MIN_DROPPED
        size = self._economy.batch_size or len(actions)
        with torch.autocast(
            actions.device.type, torch.bfloat16, enabled=self._economy.bfloat16, cache_enabled=False
        ):
            costs = [
                self._exactly(part) if exact else self._sparingly(part)
                for part in actions.split(size)
            ]
        return torch.cat(costs)

    def _judge(self, futures: Tensor, actions: Tensor) -> Tensor:
        """The objective, always in float32."""
        with torch.autocast(actions.device.type, enabled=False):
            return self._objective(futures, actions)

    def _exactly(self, actions: Tensor) -> Tensor:
        """All of them to the end."""
        return self._judge(_finite(self._model.rollout(self._state, actions)), actions)

    def _sparingly(self, actions: Tensor) -> Tensor:
        economy, model = self._economy, self._model
        if economy.screen_depth is None and economy.keep_share == 1:
            return self._exactly(actions)
        assert isinstance(model, SelectiveWorldModel)
        guess = actions.new_full((len(actions),), 0.0)  # of those that are dropped
        rank = actions.new_full((len(actions),), 0.0)  # how early: the later, the better
        alive = torch.arange(len(actions), device=actions.device)
        if economy.screen_depth is not None:
            rough = model.rollout_roughly(self._state, actions, economy.screen_depth)
            guess = _clean(self._judge(rough, actions))
            alive = _best(guess, economy.screen_share)
            rank[alive] += 1
        inside = alive

        def select(futures: Tensor) -> Tensor:
            nonlocal inside
            with torch.autocast(actions.device.type, enabled=False):
                expected = continued(_finite(futures), actions[inside])
            guess[inside] = _clean(self._judge(expected, actions[inside]))
            enough = math.ceil(_KEPT_TO_THE_END * len(alive))
            chosen = _best(guess[inside], economy.keep_share, at_least=enough)
            inside = inside[chosen]
            rank[inside] += 1
            return chosen

        futures, index = model.rollout_selected(
            self._state, actions[alive], select if economy.keep_share < 1 else lambda _: None
        )
        index = alive[index]
        exact = self._judge(_finite(futures), actions[index])
        return _behind(guess, rank, index, exact)


def continued(futures: Tensor, actions: Tensor) -> Tensor:
    """Futures `[n, h, ...]` under `actions` `[n, H, A]`, guessed to their end: `[n, H, ...]`.

    Where the last imagined latents lie, by how far the actions led until then, is fitted by a
    linear map; each future then goes on along it. What is dropped is dropped by this guess, not by
    how near it is already: what hurries is not always what ends there.
    """
    steps = futures.shape[1]
    way = actions.cumsum(1)  # [n, H, A]
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


def _behind(guess: Tensor, rank: Tensor, index: Tensor, exact: Tensor) -> Tensor:
    """Exact costs at `index`; behind the worst of them the dropped, the latest dropped first."""
    costs = torch.empty_like(guess)
    dropped = torch.ones_like(guess, dtype=torch.bool)
    dropped[index] = False
    costs[index] = exact.to(costs)
    worst = exact[exact.isfinite()].max() if exact.isfinite().any() else guess.max()
    for level in rank[dropped].unique().flip(0):
        now = dropped & (rank == level)
        costs[now] = worst + guess[now] - guess[now].min()
        worst = costs[now].max()
    return costs


def _clean(costs: Tensor) -> Tensor:
    """A guess that is not a number is the worst there is."""
    return costs.nan_to_num(nan=3e38, posinf=3e38, neginf=3e38).float()


def _finite(latents: Tensor) -> Tensor:
    if not latents.isfinite().all():
        raise PlanningError("the model imagined latents that are not finite")
    return latents


def trusted(
    economy: Economy, model: WorldModel, state: State, objective: Objective, spec: ActionSpec,
    horizon: int, device: torch.device,
) -> Economy:  # fmt: skip
    """The economy, without bfloat16 where that would disturb the ranking of the elite.

    Judged on a fixed set of candidates, drawn uniformly within the bounds.
    """
    if not economy.bfloat16:
        return economy
    share = torch.rand(
        (_NUM_TRUSTED, horizon, spec.size), generator=torch.Generator().manual_seed(0)
    )
    low, high = torch.tensor(spec.low), torch.tensor(spec.high)
    actions = (low + share * (high - low)).float().to(device)
    exact = ImaginedCost(model, state, objective)(actions)
    quick = ImaginedCost(model, state, objective, Economy(bfloat16=True))(actions)
    if elite_agreement(exact, quick) >= _LEAST_AGREEMENT:
        return economy
    return replace(economy, bfloat16=False)


def elite_agreement(exact: Tensor, quick: Tensor, *, share: float = 0.25) -> float:
    """Spearman's correlation of two costs `[N]` of the same candidates, among the best by `exact`.

    Whether a cheaper way to the cost may be trusted: a planner looks at the ranking of the best.

    Raises:
        ValueError: two shapes, or fewer than four among the best.
    """
    if exact.shape != quick.shape or exact.ndim != 1:
        raise ValueError(f"costs: got {tuple(exact.shape)} and {tuple(quick.shape)}, want both [N]")
    count = int(share * len(exact))
    if count < 4:
        raise ValueError(f"costs: got {len(exact)}, want {math.ceil(4 / share)} or more")
    best = exact.argsort(stable=True)[:count]
    one, other = exact[best].cpu().numpy(), quick[best].cpu().numpy()
    if one.min() == one.max() or other.min() == other.max():
        return 0.0  # all alike: no ranking is left
    return float(np.asarray(spearmanr(one, other)[0]))
