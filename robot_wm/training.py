"""Training a predictor on frozen tokens: a schedule, a step, a loop, a held-out examination."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from robot_wm.data import Batch, WindowSampler
from robot_wm.world_model import LatentWorldModel

Metrics = dict[str, float]


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Attributes:
        num_steps: optimiser steps.
        learning_rate: peak.
        warmup_share: share of the steps that raise the rate linearly from a sixth of the peak.
        decay_share: share of the steps, at the end, that lower it linearly to zero.
        weight_decay: of AdamW, on matrices alone.
        grad_clip: largest gradient norm.
        average_decay: decay of the exponential moving average that the final weights are; 0 for
            the last weights themselves.
    """

    num_steps: int = 3000
    learning_rate: float = 1e-3
    warmup_share: float = 0.05
    decay_share: float = 0.5
    weight_decay: float = 0.04
    grad_clip: float = 1.0
    average_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.num_steps < 1 or not self.learning_rate > 0:
            raise ValueError(f"TrainConfig: got {self}, want num_steps >= 1 and learning_rate > 0")
        if (
            self.warmup_share < 0
            or self.decay_share < 0
            or self.warmup_share + self.decay_share > 1
        ):
            raise ValueError(f"TrainConfig: got {self}, want shares that add up to at most 1")


def learning_rate(config: TrainConfig, step: int) -> float:
    """Warm-up, constant, linear to zero: the schedule of V-JEPA 2-AC."""
    warmup = config.warmup_share * config.num_steps
    decay = config.decay_share * config.num_steps
    if step < warmup:
        return config.learning_rate * (1 / 6 + 5 / 6 * step / warmup)
    left = config.num_steps - step
    return config.learning_rate * min(1.0, left / decay if decay else 1.0)


def train(
    model: LatentWorldModel, sampler: WindowSampler, config: TrainConfig
) -> Iterator[Metrics]:
    """Trains the model's predictor in place, one optimiser step per item.

    Yields:
        `step` (from 1), `loss` and its parts, `learning_rate`, `grad_norm`, `elapsed_s`.

    Raises:
        FloatingPointError: a loss or gradient is not finite; the weights are those before it.
    """
    predictor = model.predictor.train().requires_grad_(True)
    parameters = list(predictor.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.999))
    average = [p.detach().clone() for p in parameters] if config.average_decay else []
    begin = time.monotonic()
    for step in range(config.num_steps):
        rate = learning_rate(config, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = sampler.batch(step)
        try:
            loss, metrics = model.loss(batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(
                parameters, config.grad_clip, error_if_nonfinite=True
            )
        except (FloatingPointError, RuntimeError) as error:
            if isinstance(error, FloatingPointError) or "non-finite" in str(error):
                raise FloatingPointError(f"step {step}: {error}; {_name(batch)}") from error
            raise
        optimizer.step()
        for mean, parameter in zip(average, parameters, strict=False):
            mean.lerp_(parameter.detach(), 1 - min(config.average_decay, (1 + step) / (10 + step)))
        yield {
            "step": step + 1,
            **metrics,
            "learning_rate": rate,
            "grad_norm": float(norm),
            "elapsed_s": time.monotonic() - begin,
        }
    for mean, parameter in zip(average, parameters, strict=False):
        parameter.data.copy_(mean)
    predictor.eval().requires_grad_(False)


def held_out_error(
    model: LatentWorldModel,
    sampler: WindowSampler,
    *,
    horizon: int,
    seed: int = 0,
    max_batches: int = 20,
) -> dict[str, list[float]]:
    """Latent error of open-loop prediction on held-out windows, by horizon 1 to H.

    Compares the true actions with those of another window, with no motion at all, and with
    copying the last frame. Errors are relative to the mean squared (or absolute, as the model's
    loss has it) deviation of the tokens from their mean, so 1 is as good as knowing nothing.

    Args:
        model: trained.
        sampler: held-out windows of at least `context_frames + horizon` frames.
        horizon: H.
        seed: of the shuffle.
        max_batches: windows enough.

    Returns:
        `true`, `shuffled`, `zero`, `copy_last`: H errors each.
    """
    context = model.spec.context_frames
    generator = torch.Generator().manual_seed(seed)
    sums: dict[str, Tensor] = {}
    spread = torch.zeros(())
    batches = [sampler.batch(i) for i in range(min(max_batches, sampler.steps_per_epoch))]
    mean = torch.stack([batch.tokens.mean((0, 1)) for batch in batches]).mean(0)
    with torch.inference_mode():
        for batch in batches:
            tokens, proprio = batch.tokens.to(model.device), batch.proprio.to(model.device)
            actions = batch.actions.to(model.device)[:, : context - 1 + horizon]
            target = tokens[:, context : context + horizon]
            other = torch.randperm(len(actions), generator=generator)
            past, future = actions[:, : context - 1], actions[:, context - 1 :]
            futures = {"true": future, "shuffled": future[other], "zero": torch.zeros_like(future)}
            imagined = {
                name: model.imagine(
                    tokens[:, :context], proprio[:, :context], torch.cat((past, value), dim=1)
                )
                for name, value in futures.items()
            }
            imagined["copy_last"] = tokens[:, context - 1 : context].expand_as(target)
            for name, value in imagined.items():
                error = _error(model, value - target).mean((0, 2, 3)).cpu()  # [H]
                sums[name] = sums.get(name, torch.zeros(horizon)) + error
            spread = spread + _error(model, tokens - mean.to(tokens)).mean().cpu()
    return {name: (value / spread).tolist() for name, value in sums.items()}


def _error(model: LatentWorldModel, difference: Tensor) -> Tensor:
    return difference.abs() if model.error == "l1" else difference.square()


def _name(batch: Batch) -> str:
    windows = zip(batch.episodes.tolist(), batch.starts.tolist(), strict=True)
    return "windows (episode, first frame): " + ", ".join(str(w) for w in list(windows)[:4])
