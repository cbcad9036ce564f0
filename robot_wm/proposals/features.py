"""Features of a latent: what policy and temporal distance see of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MAX_CELLS = 4  # rows and columns that a view's token map is averaged to, at most


class Features(nn.Module):
    """Maps latents to vectors whose numbers have mean 0 and standard deviation 1.

    The tokens of a large map are averaged over its regions: a policy needs no more of a ViT's 256
    than where things are.

    Attributes:
        mean: Mean of the vectors of the training data `[F]`.
        std: Their standard deviation `[F]`.

    Args:
        grid: Numbers of views, rows and columns of the token map.
        dim: Numbers per token, D.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, grid: tuple[int, int, int], dim: int) -> None:
        super().__init__()
        self._grid = grid
        views, rows, columns = grid
        self._pools = max(rows, columns) > _MAX_CELLS and rows > 1
        self.size = (
            dim
            * views
            * (min(rows, _MAX_CELLS) * min(columns, _MAX_CELLS) if self._pools else rows * columns)
        )
        self.register_buffer("mean", torch.zeros(self.size))
        self.register_buffer("std", torch.ones(self.size))

    def pool(self, latents: Tensor) -> Tensor:
        """Returns the vectors `[..., F]` of latents `[..., P, D]`, as they are."""
        if not self._pools:
            return latents.flatten(-2)
        views, rows, columns = self._grid
        cells = (min(rows, _MAX_CELLS), min(columns, _MAX_CELLS))
        maps = latents.reshape(-1, rows, columns, latents.shape[-1]).permute(0, 3, 1, 2)
        pooled = F.adaptive_avg_pool2d(maps, cells)  # [... * V, D, r, c]
        return pooled.reshape(*latents.shape[:-2], self.size)

    def fit(self, pooled: Tensor) -> None:
        """Takes the mean and standard deviation of vectors `[N, F]` that `pool` returned."""
        std = pooled.std(0, correction=0)
        self.mean.copy_(pooled.mean(0))
        self.std.copy_(torch.where(std > 1e-4 * std.max(), std, torch.ones_like(std)))

    def normalise(self, pooled: Tensor) -> Tensor:
        """Normalises vectors `[..., F]` that `pool` returned."""
        return (pooled - self.mean) / self.std

    def forward(self, latents: Tensor) -> Tensor:
        """Returns the features `[..., F]` of latents `[..., P, D]`."""
        return self.normalise(self.pool(latents))
