"""Pretraining an encoder from pictures and actions, without rewards or labels.

Objective `acjepa`: embed every frame, predict the next embeddings under the actions over a short
rollout, end to end, and keep the embeddings from collapsing with SIGReg (LeWM, arXiv 2603.19312;
LeJEPA, arXiv 2511.08544). The small predictor used here is thrown away.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robot_wm.data import Clips
from robot_wm.encoders import MiniEncoder, freeze


class CollapseError(RuntimeError):
    """The encoder maps every picture to nearly the same place; more training will not help."""


@dataclass(frozen=True)
class PretrainConfig:
    """How to pretrain.

    Attributes:
        num_steps: optimiser steps.
        learning_rate: peak; warmed up over 100 steps, then a half cosine to zero.
        weight_decay: of AdamW.
        sigreg_weight: of the anti-collapse term.
        num_directions: random directions SIGReg looks along, drawn anew each step.
        inverse_weight: of the linear read-out of the actions from the change of the embedding: it
            asks that equal motions are equal steps in latent space.
        hidden: width of the throw-away predictor.
        grad_clip: largest gradient norm.
        collapse_std: the run stops when the embeddings' standard deviation falls below this.
        seed: of the clips, SIGReg's directions and the throw-away predictor.
    """

    num_steps: int = 4500
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    sigreg_weight: float = 0.1
    num_directions: int = 512
    inverse_weight: float = 1.0
    hidden: int = 512
    grad_clip: float = 1.0
    collapse_std: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.num_steps, self.num_directions, self.hidden) < 1:
            raise ValueError(f"PretrainConfig: got {self}, want every count at least 1")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate: got {self.learning_rate}, want a number above 0")


class _Dynamics(nn.Module):
    """The throw-away predictor: the change of an embedding under an action, and its inverse."""

    def __init__(self, size: int, action_dim: int, hidden: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.Linear(size + action_dim, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, size),
        )
        self.inverse = nn.Linear(size, action_dim)


def acjepa_loss(
    embeddings: Tensor,
    actions: Tensor,
    dynamics: _Dynamics,
    config: PretrainConfig,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, float]]:
    """Rollout error, inverse read-out and SIGReg.

    Args:
        embeddings: `[B, T, S]`, the frames' tokens flattened.
        actions: `[B, T - 1, A]`, normalised.
        dynamics: the throw-away predictor.
        config: weights of the terms.
        generator: of SIGReg's directions, on the embeddings' device.

    Returns:
        The loss (scalar) and its parts.
    """
    imagined, errors = embeddings[:, 0], []
    for t in range(actions.shape[1]):
        imagined = imagined + dynamics.change(torch.cat((imagined, actions[:, t]), dim=-1))
        errors.append((imagined - embeddings[:, t + 1]).square().mean())
    prediction = torch.stack(errors).mean()
    inverse = (dynamics.inverse(embeddings[:, 1:] - embeddings[:, :-1]) - actions).square().mean()
    gaussianity = sigreg(
        embeddings.flatten(0, 1), num_directions=config.num_directions, generator=generator
    )
    loss = prediction + config.inverse_weight * inverse + config.sigreg_weight * gaussianity
    parts = {"prediction": prediction, "inverse": inverse, "sigreg": gaussianity, "loss": loss}
    return loss, {name: float(value.detach()) for name, value in parts.items()}


def sigreg(embeddings: Tensor, *, num_directions: int, generator: torch.Generator) -> Tensor:
    """Distance of `[n, S]` embeddings from an isotropic Gaussian (LeJEPA, arXiv 2511.08544).

    Along random directions, the squared difference between the empirical characteristic function
    and exp(-t²/2), weighted by exp(-t²/2), integrated over t in (0, 3], times n.
    """
    shape = (embeddings.shape[1], num_directions)
    directions = torch.randn(shape, generator=generator, device=embeddings.device)
    along = embeddings @ (directions / directions.norm(dim=0))  # [n, directions]
    t = torch.linspace(0.2, 3.0, 15, device=embeddings.device)
    angles = along[:, :, None] * t
    gaussian = torch.exp(-t.square() / 2)
    error = (angles.cos().mean(0) - gaussian).square() + angles.sin().mean(0).square()
    return (error * gaussian).sum(-1).mean() * (t[1] - t[0]) * len(embeddings)


def spread(embeddings: Tensor) -> dict[str, float]:
    """Collapse statistics of `[n, S]`: mean standard deviation, and effective rank.

    The effective rank is the exponential of the entropy of the covariance's normalised spectrum.
    """
    values = torch.linalg.svdvals(embeddings - embeddings.mean(0)).square()
    share = values / values.sum().clamp_min(1e-12)
    entropy = -(share * share.clamp_min(1e-12).log()).sum()
    return {
        "std": float(embeddings.std(0).mean()),
        "effective_rank": float(entropy.exp()),
    }


def pretrain(
    encoder: MiniEncoder, clips: Clips, config: PretrainConfig
) -> Iterator[dict[str, float]]:
    """Trains the encoder in place; when the last item has been taken it is frozen.

    Yields:
        `step` (from 1), `loss` and its parts, `std`, `effective_rank`, `elapsed_s`.

    Raises:
        CollapseError: the embeddings' spread fell below the configured floor.
        FloatingPointError: the loss is not finite; the weights are those before it.
    """
    device = next(encoder.parameters()).device
    generator = torch.Generator(device).manual_seed(config.seed)
    size = encoder.grid[0] * encoder.grid[1] * encoder.dim
    dynamics = _Dynamics(size, clips.action_dim, config.hidden)
    for parameter in dynamics.parameters():
        bound = 1 / math.sqrt(parameter.shape[-1])
        nn.init.uniform_(parameter, -bound, bound, torch.Generator().manual_seed(config.seed))
    dynamics.to(device)
    encoder.train().requires_grad_(True)
    parameters = [*encoder.parameters(), *dynamics.parameters()]
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=config.weight_decay
    )
    begin = time.monotonic()
    for step in range(config.num_steps):
        progress = step / config.num_steps
        rate = config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 100)
        frames, actions = clips.batch(step)
        embeddings = encoder(frames.to(device)).flatten(2)
        loss, metrics = acjepa_loss(embeddings, actions.to(device), dynamics, config, generator)
        if not math.isfinite(metrics["loss"]):
            raise FloatingPointError(f"step {step}: loss is not finite: {metrics}")
        statistics = spread(embeddings.detach().flatten(0, 1))
        if statistics["std"] < config.collapse_std:
            raise CollapseError(
                f"step {step}: the encoder has collapsed: its embeddings' standard deviation is "
                f"{statistics['std']:.4f}, below {config.collapse_std}"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, config.grad_clip)
        optimizer.step()
        yield {
            "step": step + 1,
            **metrics,
            **statistics,
            "elapsed_s": time.monotonic() - begin,
        }
    freeze(encoder)
