"""Trains a world model on frozen tokens: the schedule, the steps, the error on held-out windows."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from robot_wm.contracts import check_world_model, hold_to
from robot_wm.data import (
    AlignedData,
    Batch,
    TokenStore,
    WindowSampler,
    fit_stats,
    split_episodes,
)
from robot_wm.encoders import Encoder
from robot_wm.models import (
    EncodedFrames,
    Family,
    FitConfig,
    ModelInfo,
    TrainableModel,
    TrainingData,
    WorldModel,
    check_world_model_parts,
    device_of,
)
from robot_wm.optimization import Loop, LoopConfig, Loss, Metrics, Stateful
from robot_wm.precision import choose_precision
from robot_wm.types import (
    Count,
    FloatArray,
    NonNegative,
    Observation,
    Positive,
    Precision,
    Share,
    ShareBelowOne,
    UserError,
    check_fields,
)

_EXAMINED_BYTES = 2**26  # tokens in a batch of the held-out examination


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained.

    Attributes:
        num_steps: Number of optimiser steps.
        learning_rate: Peak of the learning rate.
        warmup_share: Share of the steps, at the start, in which the rate rises linearly from a
            sixth of the peak.
        decay_share: Share of the steps, at the end, in which the rate falls linearly to zero.
        weight_decay: Weight decay of AdamW, on matrices alone.
        grad_clip: Largest norm of the gradient.
        num_microbatches: Parts that a batch is split into, to fit into memory; the gradient is the
            same.
        precision: `auto` measures whether the device multiplies bfloat16 matrices faster than
            float32 ones, and trains under bfloat16 autocast if so.
        compile: Compiles the transformer blocks with torch.compile. It pays on GPUs in long runs:
            on two CPU cores a step of the medium predictor got 4 % faster after 40 s of compiling.
        ema: Decay of an exponential moving average of the weights, which training then returns; 0:
            the last weights are returned.
    """

    num_steps: Count = 2000
    learning_rate: Positive = 1e-3
    warmup_share: Share = 0.05
    decay_share: Share = 0.5
    weight_decay: NonNegative = 0.04
    grad_clip: Positive = 1.0
    num_microbatches: Count = 1
    precision: Precision = "auto"
    compile: bool = False
    ema: ShareBelowOne = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        shares = self.warmup_share, self.decay_share
        if sum(shares) > 1:
            raise UserError(f"warmup_share, decay_share: got {shares}, want a sum of at most 1")


def learning_rate(config: TrainConfig, step: int) -> float:
    """Returns the learning rate of a step: warm-up, constant, linear to zero (V-JEPA 2-AC)."""
    warmup = config.warmup_share * config.num_steps
    decay = config.decay_share * config.num_steps
    if step < warmup:
        return config.learning_rate * (1 / 6 + 5 / 6 * step / warmup)
    left = config.num_steps - step
    return config.learning_rate * min(1.0, left / decay if decay else 1.0)


class Training:
    """The training of a world model, and the step that it has reached.

    Args:
        model: The model; its parameters are trained in place, its encoder is none of them.
        sampler: Draws training windows.
        config: How the model is trained.
        seed: Seed of the randomness in the loss.
    """

    def __init__(
        self, model: TrainableModel, sampler: WindowSampler, config: TrainConfig, *, seed: int = 0
    ) -> None:
        self._model, self._sampler, self._config, self._seed = model, sampler, config, seed
        model.train().requires_grad_(True)
        if config.compile:
            model.compile()
        self.loop = Loop(
            self,
            LoopConfig(
                num_steps=config.num_steps,
                learning_rate=lambda step, _: learning_rate(config, step),
                betas=(0.9, 0.999),
                grad_clip=config.grad_clip,
                dtype=choose_precision(config.precision, device_of(model)),
                ema=config.ema,
            ),
        )

    @property
    def modules(self) -> Mapping[str, Stateful]:
        """The modules that the run changes, by the name that they are saved under."""
        return {"model": self._model}

    @property
    def generators(self) -> Mapping[str, torch.Generator]:
        """No generators: the randomness of a step depends on the seed and the step alone."""
        return {}

    def groups(self) -> list[dict[str, Any]]:
        """Returns the parameter groups of the optimiser: weight decay on matrices alone."""
        parameters = list(self._model.parameters())
        decay = self._config.weight_decay
        return [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]

    def losses(self, step: int) -> Iterator[tuple[float, Loss]]:
        """Yields the loss of each part of a step's batch, and its share of the windows."""
        # Seeded by the step alone, so that a resumed run draws the same numbers.
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        batch = self._sampler.batch(step)
        for part, share in _microbatches(batch, self._config.num_microbatches):
            yield (
                share,
                functools.partial(self._model.loss, part, generator=generator.clone_state()),
            )

    def end_step(self, progress: float) -> None:
        """Does nothing after a step."""

    def steps(self) -> Iterator[Metrics]:
        """Trains to the end of the run, from the step that it has reached.

        Yields:
            Metrics: `step` (from 1), `loss` and its parts, `learning_rate`, `grad_norm`,
            `elapsed_s`.

        Raises:
            FloatingPointError: an input, a loss or a gradient is not finite; the weights are those
                before that step.
        """
        try:
            yield from self.loop.steps()
        except FloatingPointError as error:
            step = self.loop.step
            raise FloatingPointError(
                f"step {step}: {error}; {_name(self._sampler.batch(step))}"
            ) from error
        self._model.eval().requires_grad_(False)


def train(
    model: TrainableModel, sampler: WindowSampler, config: TrainConfig, *, seed: int = 0
) -> Iterator[Metrics]:
    """Trains a world model in place; yields the metrics of every optimiser step (`Training`)."""
    return Training(model, sampler, config, seed=seed).steps()


def _microbatches(batch: Batch, num_parts: int) -> Iterator[tuple[Batch, float]]:
    """Splits a batch into parts; yields each with its share of the windows."""
    size = len(batch.tokens)
    for rows in torch.arange(size).chunk(num_parts):
        part = Batch(**{f.name: getattr(batch, f.name)[rows] for f in fields(batch)})
        yield part, len(rows) / size


@dataclass(frozen=True, eq=False)
class Fitting:
    """A model before its training, and the windows that it is trained and tested on.

    Attributes:
        model: The model.
        training: Draws training windows.
        held_out: Draws windows of the held-out episodes.
    """

    model: TrainableModel
    training: WindowSampler
    held_out: WindowSampler


def prepare(
    data: AlignedData,
    tokens: TokenStore,
    encoder: Encoder,
    config: FitConfig,
    family: Family,
    settings: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
) -> Fitting:
    """Makes the model and the windows, and reports a mistake before any work is done.

    Args:
        data: The dataset.
        tokens: Tokens of all its frames, made by `encoder`.
        encoder: The frozen encoder.
        config: How the model is made.
        family: Family of the model.
        settings: The family's own settings.
        seed: Seed of the first weights, of the choice of held-out episodes, and of the windows'
            order.

    Returns:
        The model and the windows.

    Raises:
        UserError: episodes are too short, or settings do not fit the data.
    """
    training, held_out = split_episodes(data.num_episodes, config.holdout, seed)
    known = TrainingData(data, tokens, encoder, training, fit_stats(data, training), seed)
    model = family.build(known, config, settings or {})
    check_world_model_parts(model)

    def build() -> TrainableModel:
        return family.build(known, config, settings or {})

    hold_to(lambda: check_world_model(build, _observations(data, training[0])), model)
    info = model.info
    if type(model) is not family.model_type:
        raise UserError(
            f"family: {family.name} built a {type(model).__name__}, it is registered with "
            f"{family.model_type.__name__}"
        )
    if config.held_out_horizon > info.longest_horizon:
        raise UserError(
            f"held_out_horizon: got {config.held_out_horizon}, want at most "
            f"{info.longest_horizon}: so far the model imagines"
        )
    windows = WindowSampler(
        data,
        tokens,
        episodes=training,
        num_frames=config.num_frames,
        batch_size=config.batch_size,
        seed=seed,
    )
    examined = info.context_frames + config.held_out_horizon
    window_bytes = examined * tokens.num_tokens * tokens.dim * 4
    examination = WindowSampler(
        data,
        tokens,
        episodes=held_out,
        num_frames=examined,
        batch_size=min(256, max(1, _EXAMINED_BYTES // window_bytes)),
        seed=seed,
    )
    return Fitting(model, windows, examination)


def _observations(data: AlignedData, position: int) -> list[tuple[Observation, FloatArray | None]]:
    """Returns the first observations of an episode, each with the action before it."""
    episode = data.dataset.episode(data.episodes[position])
    rows = [int(row) for row in data.indices[position][:4]]
    pictures = {
        key.rpartition(".")[2]: data.dataset.frames(episode, key, rows) for key in data.cameras
    }
    proprio, actions = data.proprio[position], data.actions[position]
    observations: list[tuple[Observation, FloatArray | None]] = []
    for t in range(len(rows)):
        images = {name: frames[t] for name, frames in pictures.items()}
        applied = actions[t - 1] if t else None
        observations.append((Observation(images, proprio[t], float(t)), applied))
    return observations


def held_out_error(
    model: WorldModel,
    sampler: WindowSampler,
    *,
    horizon: int,
    seed: int = 0,
    max_batches: int = 20,
) -> dict[str, list[float]]:
    """Measures the error of open-loop prediction on held-out windows, by horizon 1 to H.

    The true actions are compared with those of another window, with no motion, and with a copy of
    the last frame. Errors are relative to the mean deviation of the tokens from their mean, squared
    or absolute like the model's loss, so 1 is as good as predicting the mean.

    Args:
        model: The trained model.
        sampler: Held-out windows of at least `context_frames + horizon` frames.
        horizon: Longest horizon H, steps.
        seed: Seed of the shuffle.
        max_batches: Largest number of batches.

    Returns:
        `true`, `shuffled`, `zero`, `copy_last`: H errors each.
    """
    info, device = model.info, device_of(model)
    context = info.context_frames
    generator = torch.Generator().manual_seed(seed)
    noise = torch.Generator(device)
    sums: dict[str, Tensor] = {}
    spread = torch.zeros(())
    steps = range(min(max_batches, sampler.steps_per_epoch))
    with torch.no_grad():
        means = [_latents(model, sampler.batch(i)).mean((0, 1)) for i in steps]
        mean = torch.stack(means).mean(0)
        for i in steps:  # one batch at a time: the latents of large encoders fill the memory
            batch = sampler.batch(i)
            frames = _latents(model, batch)
            actions = batch.actions.to(device)[:, : context - 1 + horizon]
            target = frames[:, context : context + horizon]
            past, future = actions[:, : context - 1], actions[:, context - 1 :]
            state = model.initial()
            for t in range(context):
                encoded = EncodedFrames(batch.tokens[:, t], batch.proprio[:, t])
                state = model.observe(state, encoded, past[:, t - 1] if t else None)
            others = future
            if len(future) == 1:  # as of a large encoder: the other window is in the next batch
                following = sampler.batch((i + 1) % len(steps)).actions.to(device)
                others = torch.cat((future, following[:1, context - 1 : context - 1 + horizon]))
            order = torch.randperm(len(others), generator=generator)
            shuffled = torch.empty_like(others)
            shuffled[order] = others[order.roll(1)]  # of another window, never its own
            shuffled = shuffled[: len(future)]
            futures = {"true": future, "shuffled": shuffled, "zero": torch.zeros_like(future)}
            imagined = {  # the same noise for each: they differ by the actions alone
                name: model.rollout(state, value, noise.manual_seed(seed + i)).mean
                for name, value in futures.items()
            }
            imagined["copy_last"] = frames[:, context - 1 : context].expand_as(target)
            for name, value in imagined.items():
                error = _error(info, value - target).mean((0, 2, 3)).cpu()  # [H]
                sums[name] = sums.get(name, torch.zeros(horizon)) + error
            spread = spread + _error(info, frames - mean).mean().cpu()
    return {name: (value / spread).tolist() for name, value in sums.items()}


def _latents(model: WorldModel, batch: Batch) -> Tensor:
    """Returns the latents `[B, T, P, D]` of every frame of a batch, each observed alone."""
    size = batch.tokens.shape[:2]
    encoded = EncodedFrames(batch.tokens.flatten(0, 1), batch.proprio.flatten(0, 1))
    latents = model.latent(model.observe(model.initial(), encoded, None))
    return latents.unflatten(0, size)


def _error(info: ModelInfo, difference: Tensor) -> Tensor:
    return difference.abs() if info.error == "l1" else difference.square()


def _name(batch: Batch) -> str:
    windows = zip(batch.episodes.tolist(), batch.starts.tolist(), strict=True)
    return "windows (episode, first frame): " + ", ".join(str(w) for w in list(windows)[:4])
