"""What keeps embeddings apart, and how it is seen that they are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from robot_wm.types import RunError


class CollapseError(RunError):
    """The encoder maps every picture to nearly the same place; more training will not help."""


def sigreg(embeddings: Tensor, *, num_directions: int, generator: torch.Generator) -> Tensor:
    """Distance of `[n, S]` embeddings from an isotropic Gaussian (LeJEPA, arXiv 2511.08544).

    Along random directions, the squared difference between the empirical characteristic function
    and exp(-t²/2), weighted by exp(-t²/2), integrated over t from -3 to 3, times n.
    """
    shape = (embeddings.shape[1], num_directions)
    directions = torch.randn(shape, generator=generator, device=embeddings.device)
    along = embeddings @ (directions / directions.norm(dim=0))  # [n, directions]
    t = torch.linspace(0.2, 3.0, 15, device=embeddings.device)
    angles = along[:, :, None] * t
    gaussian = torch.exp(-t.square() / 2)
    error = (angles.cos().mean(0) - gaussian).square() + angles.sin().mean(0).square()
    # The error is the same at -t, and none at 0.
    return 2 * (error * gaussian).sum(-1).mean() * (t[1] - t[0]) * len(embeddings)


def vicreg(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """VICReg's variance and covariance terms of `[n, S]` embeddings (arXiv 2105.04906).

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
    """Collapse statistics of features `[n, L, width]` of n different pictures.

    Returns:
        `std`: standard deviation over the pictures of the layer-normed features, mean over tokens
        and channels; `effective_rank`: of the features pooled over the tokens, the exponential of
        the entropy of their covariance's normalised spectrum.
    """
    features = F.layer_norm(features.float(), features.shape[-1:])
    pooled = features.mean(1)
    values = torch.linalg.svdvals(pooled - pooled.mean(0)).square()
    share = values / values.sum().clamp_min(1e-12)
    entropy = -(share * share.clamp_min(1e-12).log()).sum()
    return {"std": float(features.std(0).mean()), "effective_rank": float(entropy.exp())}
