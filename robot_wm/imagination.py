"""What a planner minimises: the cost of imagined futures, got with as little work as will do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from robot_wm.objectives import Objective
from robot_wm.types import PlanningError, check_counts
from robot_wm.world_model import State, WorldModel

_MIN_DROPPED = 16  # fewer candidates are all followed to the end


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
        keep_share: of the candidates, after each imagined step but the last: those that are best
            so far go on (successive halving over the horizon). 1: all.
        screen_depth: first, all are imagined by so many of the predictor's blocks. None: not.
        screen_share: of the candidates, the best in that screening, which are imagined exactly.
        batch_size: candidates imagined at once; None: all. A constant of the settings, never of
            the machine's load, so that a plan can be repeated.
        bfloat16: imagine in it; see `elite_agreement`.
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
                self.exactly(part) if exact else self._sparingly(part)
                for part in actions.split(size)
            ]
        return torch.cat(costs)

    def exactly(self, actions: Tensor) -> Tensor:
        """All of them to the end."""
        return self._objective(_finite(self._model.rollout(self._state, actions)), actions)

    def _sparingly(self, actions: Tensor) -> Tensor:
        economy, model = self._economy, self._model
        if economy.screen_depth is None and economy.keep_share == 1:
            return self.exactly(actions)
        assert isinstance(model, SelectiveWorldModel)
        guess = actions.new_full((len(actions),), 0.0)  # of those that are dropped
        rank = actions.new_full((len(actions),), 0.0)  # how early: the later, the better
        alive = torch.arange(len(actions), device=actions.device)
        if economy.screen_depth is not None:
            rough = model.rollout_roughly(self._state, actions, economy.screen_depth)
            guess = _clean(self._objective(rough, actions))
            alive = _best(guess, economy.screen_share)
            rank[alive] += 1
        inside = alive

        def select(futures: Tensor) -> Tensor:
            nonlocal inside
            steps = futures.shape[1]
            so_far = self._objective(_finite(futures), actions[inside][:, :steps])
            guess[inside] = _clean(so_far)
            chosen = _best(guess[inside], economy.keep_share)
            inside = inside[chosen]
            rank[inside] += 1
            return chosen

        futures, index = model.rollout_selected(
            self._state, actions[alive], select if economy.keep_share < 1 else lambda _: None
        )
        index = alive[index]
        exact = self._objective(_finite(futures), actions[index])
        return _behind(guess, rank, index, exact)


def _best(costs: Tensor, share: float) -> Tensor:
    """Indices of the best share of the costs `[n]`, in their order."""
    count = max(math.ceil(share * len(costs)), min(len(costs), _MIN_DROPPED // 2))
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
    ranks = [values[best].argsort(stable=True).argsort().double() for values in (exact, quick)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])
