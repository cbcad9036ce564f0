"""Regularisers that keep embeddings from collapsing, and measures of collapse."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from robot_wm.types import RunError


class CollapseError(RunError):
    """The encoder maps all pictures to nearly the same features; more training will not help."""


def sigreg(embeddings: Tensor, *, num_directions: int, generator: torch.Generator) -> Tensor:
    """Returns the distance of embeddings from an isotropic Gaussian (LeJEPA, arXiv 2511.08544).

    Along random directions, it is the squared difference between the empirical characteristic
    function and exp(-t²/2), weighted by exp(-t²/2), integrated over t from -3 to 3, times n.

    Args:
        embeddings: Embeddings `[n, S]`.
        num_directions: Number of random directions.
        generator: Draws the directions, on the embeddings' device.

    Returns:
        The mean over the directions, a scalar.
    """
    shape = (embeddings.shape[1], num_directions)
    directions = torch.randn(shape, generator=generator, device=embeddings.device)
    projections = embeddings @ (directions / directions.norm(dim=0))  # [n, directions]
    t = torch.linspace(0.2, 3.0, 15, device=embeddings.device)
    angles = projections[:, :, None] * t
    gaussian = torch.exp(-t.square() / 2)
    error = (angles.cos().mean(0) - gaussian).square() + angles.sin().mean(0).square()
    # The error at -t equals that at t, and it is 0 at 0.
    return 2 * (error * gaussian).sum(-1).mean() * (t[1] - t[0]) * len(embeddings)


def vicreg(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Computes VICReg's variance and covariance terms (arXiv 2105.04906).

    Args:
        embeddings: Embeddings `[n, S]`.

    Returns:
        The mean shortfall of the standard deviations below 1, and the sum of the squared
        covariances between different dimensions over S.
    """
    centred = embeddings - embeddings.mean(0)
    shortfall = F.relu(1 - (centred.var(0) + 1e-4).sqrt()).mean()
    covariance = centred.T @ centred / max(1, len(centred) - 1)
    off_diagonal = covariance - torch.diag(covariance.diagonal())
    return shortfall, off_diagonal.square().sum() / embeddings.shape[1]


@torch.no_grad()
def spread(features: Tensor) -> dict[str, float]:
    """Measures how far features are from collapse.

    Args:
        features: Features of n different pictures, `[n, L, width]`.

    Returns:
        `std`: standard deviation over the pictures of the layer-normed features, mean over tokens
        and channels; `effective_rank` of the features pooled over the tokens: the exponential of
        the entropy of their covariance's normalised spectrum.
    """
    features = F.layer_norm(features.float(), features.shape[-1:])
    pooled = features.mean(1)
    values = torch.linalg.svdvals(pooled - pooled.mean(0)).square()
    share = values / values.sum().clamp_min(1e-12)
    entropy = -(share * share.clamp_min(1e-12).log()).sum()
    return {"std": float(features.std(0).mean()), "effective_rank": float(entropy.exp())}
