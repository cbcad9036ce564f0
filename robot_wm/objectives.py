"""Objectives: costs of imagined futures, from the goal's latent. Lower is better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, Protocol

import torch
from msgspec import Meta
from torch import Tensor

from robot_wm.types import Futures, NonNegative, UserError, checked


class Objective(Protocol):
    """Returns the costs of imagined futures; it is made from the goal's latent.

    It takes futures of any length. One that is made with a `temporal_distance` gets that of the
    checkpoint's prior. A class may have a `step_energy`: by how much a step of the training data
    changes its energy. Without it, the checkpoint's figure for its `distance` counts.
    """

    def __call__(self, futures: Futures, actions: Tensor) -> Tensor:
        """Returns the costs `[N]`, lower is better, of futures under actions `[N, H, A]`."""
        ...

    def energy(self, latents: Tensor) -> Tensor:
        """Returns the distance of latents `[..., P, D]` alone to the goal's, `[...]`."""
        ...


class GoalEnergy:
    """Distance between imagined latents and the goal picture's (V-JEPA 2-AC's energy).

    Args:
        goal: The goal's latent `[P, D]`.
        distance: `"l1"` or `"l2"`: mean absolute or mean squared difference.
        horizon: `"last"` counts the last step alone; `"mean"` averages over all steps.
        discount: Base of the steps' weights in the mean: step h weighs `discount**h`. Below 1
            favours being near soon, above 1 being near at the end.
        token_weights: Weight of each token `[P]`, such as 1 inside a region of interest and 0
            elsewhere; null: all weigh the same.
        action_weight: Weight of the mean squared action in the cost.
        smoothness_weight: Weight of the mean squared change from one action to the next in the
            cost.
        disagreement_weight: Weight of the variance among the heads of a model with several heads.
        action_unit: Size `[A]` that an action is divided by before it is squared; null: a large
            action of the training data in a deployment, 1 otherwise.

    Raises:
        UserError: the distance or horizon is unknown, or a number is out of range.
    """

    @checked
    def __init__(
        self,
        goal: Tensor,
        *,
        distance: Literal["l1", "l2"] = "l2",
        horizon: Literal["last", "mean"] = "last",
        discount: Annotated[float, Meta(ge=1e-3, le=1e3)] = 1.0,
        token_weights: Sequence[float] | None = None,
        action_weight: NonNegative = 0.0,
        smoothness_weight: NonNegative = 0.0,
        disagreement_weight: NonNegative = 0.0,
        action_unit: Sequence[float] | None = None,
    ) -> None:
        if goal.ndim != 2:
            raise UserError(f"goal: got shape {tuple(goal.shape)}, want [P, D]")
        if not goal.isfinite().all():
            raise UserError("goal: its latent is not finite")
        self._goal, self._horizon, self._discount = goal, horizon, discount
        self._distance: Literal["l1", "l2"] = distance
        self._token_weights = goal.new_full((len(goal),), 1 / len(goal))
        if token_weights is not None:
            weights = _numbers(token_weights, "token_weights", goal)
            if weights.shape != (len(goal),) or not (weights.isfinite() & (weights >= 0)).all():
                raise UserError(
                    f"token_weights: got {tuple(weights.shape)}, want {len(goal)} finite numbers "
                    f"of 0 or more"
                )
            if not weights.sum() > 0:
                raise UserError("token_weights: got zeros alone, want one above zero")
            self._token_weights = weights / weights.sum()
        self._action_unit = None
        if action_unit is not None:
            unit = _numbers(action_unit, "action_unit", goal)
            if not (unit.isfinite() & (unit > 0)).all():
                raise UserError(f"action_unit: got {action_unit}, want numbers above zero")
            self._action_unit = unit
        self._action_weight, self._smoothness_weight = action_weight, smoothness_weight
        self._disagreement_weight = disagreement_weight

    @property
    def distance(self) -> Literal["l1", "l2"]:
        """The distance in use."""
        return self._distance

    def energy(self, latents: Tensor) -> Tensor:
        """Returns the distances of latents to the goal.

        Args:
            latents: Latents `[..., P, D]`.

        Returns:
            Distances `[...]`.

        Raises:
            ValueError: the latents are of another encoder: P or D differ from the goal's.
        """
        if latents.shape[-2:] != self._goal.shape:
            raise ValueError(
                f"latents: got tokens {tuple(latents.shape[-2:])}, the goal has "
                f"{tuple(self._goal.shape)}"
            )
        difference = latents - self._goal
        error = difference.abs() if self._distance == "l1" else difference.square()
        return error.mean(-1) @ self._token_weights

    def __call__(self, futures: Futures, actions: Tensor) -> Tensor:
        """Returns the costs of futures.

        Args:
            futures: Futures of N candidates.
            actions: Actions of the candidates, `[N, H, A]`.

        Returns:
            Costs `[N]`.

        Raises:
            ValueError: the latents are of another encoder.
        """
        latents, heads = futures.mean, futures.latents if futures.latents.ndim == 5 else None
        cost = self._over_time(self.energy(latents[:, -1:] if self._horizon == "last" else latents))
        if self._disagreement_weight and heads is not None:  # one head agrees with itself
            apart = heads.var(2, correction=0).mean(-1) @ self._token_weights  # [N, H]
            cost = cost + self._disagreement_weight * apart.mean(1)
        unit = 1.0 if self._action_unit is None else self._action_unit
        if self._action_weight:
            cost = cost + self._action_weight * (actions / unit).square().mean(dim=(1, 2))
        if self._smoothness_weight and actions.shape[1] > 1:
            change = actions.diff(dim=1) / unit
            cost = cost + self._smoothness_weight * change.square().mean(dim=(1, 2))
        return cost

    def _over_time(self, energy: Tensor) -> Tensor:
        """Averages `[N, H]` over the steps to `[N]`, with weights that add up to one."""
        weights = self._discount ** torch.arange(energy.shape[1], device=energy.device)
        return energy @ (weights / weights.sum()).to(energy)


class StepsToGo:
    """Learned number of steps that are left from imagined latents to the goal.

    Args:
        goal: The goal's latent `[P, D]`.
        temporal_distance: A function that predicts the number of steps `[...]` from latents
            `[..., P, D]` to the goal's; a deployment takes the one of the checkpoint's prior.
        horizon: `"last"` counts the last step alone; `"mean"` averages over all steps.

    Raises:
        UserError: the goal's latent is not one.

    Attributes:
        step_energy: What a step of the training data changes the energy by.
    """

    step_energy: float = 1.0

    @checked
    def __init__(
        self,
        goal: Tensor,
        *,
        temporal_distance: Callable[[Tensor, Tensor], Tensor],
        horizon: Literal["last", "mean"] = "last",
    ) -> None:
        if goal.ndim != 2:
            raise UserError(f"goal: got shape {tuple(goal.shape)}, want [P, D]")
        if not goal.isfinite().all():
            raise UserError("goal: its latent is not finite")
        self._goal, self._steps, self._horizon = goal, temporal_distance, horizon

    def energy(self, latents: Tensor) -> Tensor:
        """Returns the number of steps `[...]` from latents `[..., P, D]` to the goal."""
        return self._steps(latents, self._goal)

    def __call__(self, futures: Futures, actions: Tensor) -> Tensor:
        """Returns the costs `[N]` of futures of N candidates: the steps that are then left."""
        latents = futures.mean
        return self.energy(latents[:, -1:] if self._horizon == "last" else latents).mean(1)


# By the names that a command line and a file have for them.
OBJECTIVES = {"energy": GoalEnergy, "steps_to_go": StepsToGo}


def _numbers(values: Sequence[float], name: str, like: Tensor) -> Tensor:
    try:
        return torch.as_tensor(values, dtype=like.dtype, device=like.device)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: got {values!r}, want a list of numbers") from error


def region_weights(grid: tuple[int, int, int], region: Sequence[float]) -> list[float]:
    """Returns token weights for a region of the picture: each token's share inside it.

    Args:
        grid: Numbers of views, rows and columns of the token map; the region is the same in every
            view.
        region: Top, left, bottom and right edge, as shares of the picture.

    Returns:
        One weight per token, row by row.

    Raises:
        UserError: the edges are out of order, or the tokens have no place in the picture.
    """
    views, rows, columns = grid
    try:
        top, left, bottom, right = (float(edge) for edge in region)
    except (TypeError, ValueError) as error:
        raise UserError(f"region: got {region!r}, want [top, left, bottom, right]") from error
    if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
        raise UserError(
            f"region: got {list(region)}, want top < bottom and left < right, as shares from 0 to 1"
        )
    if rows == 1:
        raise UserError(
            "region: this encoder's tokens stand for no place in the picture; want patches"
        )

    def inside(count: int, low: float, high: float) -> list[float]:
        return [max(0.0, min(high * count, i + 1) - max(low * count, i)) for i in range(count)]

    across = inside(columns, left, right)
    one_view = [down * along for down in inside(rows, top, bottom) for along in across]
    return one_view * views
