"""Objectives: what makes one imagined future better than another. Lower is better."""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor


class Objective(Protocol):
    """Built from the goal's latent; judges imagined futures."""

    def __call__(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Latents `[N, H, P, D]` under actions `[N, H, A]` to costs `[N]`, lower is better."""
        ...


class GoalEnergy:
    """Distance between imagined latents and the goal picture's (V-JEPA 2-AC's energy).

    Args:
        goal: the goal's latent `[P, D]`.
        distance: `"l1"` or `"l2"`: mean absolute or mean squared difference.
        horizon: `"last"` judges the end of the horizon; `"mean"` all of its steps alike.

    Raises:
        ValueError: an unknown distance or horizon.
    """

    def __init__(
        self,
        goal: Tensor,
        *,
        distance: Literal["l1", "l2"] = "l2",
        horizon: Literal["last", "mean"] = "last",
    ) -> None:
        if distance not in ("l1", "l2"):
            raise ValueError(f"distance: got {distance!r}, want 'l1' or 'l2'")
        if horizon not in ("last", "mean"):
            raise ValueError(f"horizon: got {horizon!r}, want 'last' or 'mean'")
        self._goal = goal
        self._distance = distance
        self._horizon = horizon

    def __call__(self, latents: Tensor, actions: Tensor) -> Tensor:
        """`[N, H, P, D]`, `[N, H, A]` to `[N]`.

        Raises:
            ValueError: latents of another encoder: P or D differ from the goal's.
        """
        if latents.shape[-2:] != self._goal.shape:
            raise ValueError(
                f"latents: got tokens {tuple(latents.shape[-2:])}, the goal has "
                f"{tuple(self._goal.shape)}"
            )
        difference = (
            latents[:, -1:] - self._goal if self._horizon == "last" else latents - self._goal
        )
        error = difference.abs() if self._distance == "l1" else difference.square()
        return error.mean(dim=(1, 2, 3))
