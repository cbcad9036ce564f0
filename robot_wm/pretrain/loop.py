"""Pretrains an encoder in the training loop, and stops if its features collapse."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from robot_wm.encoders import MiniConfig, MiniEncoder, freeze
from robot_wm.optimization import Loop, LoopConfig, Loss, Metrics, Stateful
from robot_wm.precision import choose_precision
from robot_wm.pretrain.actions import ActionObjective
from robot_wm.pretrain.collapse import CollapseError, spread
from robot_wm.pretrain.config import PretrainConfig
from robot_wm.pretrain.masked import MaskedObjective
from robot_wm.types import UserError

_WARMUP_STEPS = 100
_MIN_FOR_RANK = 8  # pictures; the rank of fewer is not checked
_MIN_NUMBERS = 4  # per picture; layer norm removes two degrees of freedom
_MASKS = 1  # with the seed and the step, the seed of the random numbers that masks are drawn from


class Batches(Protocol):
    """A source of clips. `batch(step)` depends only on its argument."""

    @property
    def action_dim(self) -> int | None:
        """Action size, A; None for clips without actions."""
        ...

    def batch(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Returns prepared frames `[B, T, 3, h, w]` and scaled actions `[B, T - 1, A]`."""
        ...


def check_objective(config: PretrainConfig, shape: MiniConfig, *, has_actions: bool) -> None:
    """Checks that an objective suits the encoder and the data, before either is made.

    Args:
        config: The settings of pretraining.
        shape: The encoder's shape.
        has_actions: Whether the data has actions.

    Raises:
        UserError: the objective does not suit them.
    """
    what = f"objective {config.objective}"
    if config.from_actions and not has_actions:
        raise UserError(f"{what}: the data has no actions")
    if config.from_actions and not shape.num_tokens:
        raise UserError(f"{what}: num_tokens is 0, want at least 1")
    if config.from_actions and shape.num_tokens * shape.dim < _MIN_NUMBERS:
        raise UserError(
            f"{what}: got {shape.num_tokens} tokens of {shape.dim}, want at least {_MIN_NUMBERS} "
            f"numbers a picture: whether fewer have collapsed cannot be told"
        )
    if not config.from_actions and shape.num_tokens:
        raise UserError(
            f"{what}: num_tokens is {shape.num_tokens}, want 0: it trains the patches, and what "
            f"other tokens would say is not learnt"
        )
    if config.masked and shape.image_size < 2 * shape.patch_size:
        raise UserError(f"{what}: got one patch a picture, want several, some of them hidden")


class Pretraining:
    """A pretraining run: the encoder, the modules that are not kept, and the training loop.

    Args:
        encoder: The encoder, trained in place and frozen at the end. With a masked objective only,
            it then has the teacher's weights.
        batches: The data.
        config: The settings.
        seed: Seed of the masks, SIGReg's directions, and the initial weights that are not kept.

    Raises:
        UserError: an objective that does not suit the encoder or the data.
    """

    def __init__(
        self, encoder: MiniEncoder, batches: Batches, config: PretrainConfig, *, seed: int = 0
    ) -> None:
        check_objective(config, encoder.config, has_actions=batches.action_dim is not None)
        self.encoder, self._batches, self._config, self._seed = encoder, batches, config, seed
        self._device = next(encoder.parameters()).device
        if encoder.config.num_tokens:  # discard the metric of an earlier run
            torch.nn.init.eye_(encoder.get_buffer("metric"))
        self._generator = torch.Generator(self._device).manual_seed(seed)
        self._actions: ActionObjective | None = None
        self._masked: MaskedObjective | None = None
        self._features = torch.empty(0)  # features of the last batch
        first_weights = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):  # torch's initial weights are replaced
            if config.from_actions:
                assert batches.action_dim is not None
                self._actions = ActionObjective(encoder, batches.action_dim, config)
                for parameter in self._actions.parameters():
                    bound = 1 / math.sqrt(parameter.shape[-1])
                    nn.init.uniform_(parameter, -bound, bound, first_weights)
                self._actions.to(self._device)
            if config.masked:
                self._masked = MaskedObjective(encoder, config)
                self._masked.init(first_weights)
                self._masked.to(self._device)
        encoder.train().requires_grad_(True)
        self.loop = Loop(
            self,
            LoopConfig(
                num_steps=config.num_steps,
                learning_rate=self._learning_rate,
                betas=(0.9, 0.95),
                grad_clip=config.grad_clip,
                dtype=choose_precision(config.precision, self._device),
                time_limit_s=config.time_limit_s,
            ),
        )

    def _learning_rate(self, step: int, progress: float) -> float:
        """Returns the learning rate: a warm-up, then half a cosine to zero."""
        rate = self._config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
        return rate * min(1.0, (step + 1) / _WARMUP_STEPS)

    @property
    def modules(self) -> Mapping[str, Stateful]:
        """See `Job.modules`."""
        modules = {"encoder": self.encoder, "actions": self._actions, "masked": self._masked}
        return {name: module for name, module in modules.items() if module is not None}

    @property
    def generators(self) -> Mapping[str, torch.Generator]:
        """See `Job.generators`."""
        return {"features": self._generator}

    def groups(self) -> list[dict[str, Any]]:
        """See `Job.groups`."""
        teacher = set(self._masked.teacher.parameters()) if self._masked else set()
        modules = [self.encoder, self._actions, self._masked]
        parameters = [p for module in modules if module for p in module.parameters()]
        trained = [p for p in parameters if p not in teacher]
        return [{"params": trained, "weight_decay": self._config.weight_decay}]

    def losses(self, step: int) -> Iterator[tuple[float, Loss]]:
        """See `Job.losses`."""
        frames, actions = self._batches.batch(step)
        yield 1.0, functools.partial(self._loss, step, frames.to(self._device), actions)

    def _loss(self, step: int, frames: Tensor, actions: Tensor | None) -> tuple[Tensor, Metrics]:
        config = self._config
        loss = torch.zeros((), device=self._device)
        parts: dict[str, Tensor] = {}
        if self._masked:
            rng = np.random.default_rng((self._seed, step, _MASKS))
            masked, parts, features = self._masked(self.encoder, frames, rng)
            self._features = features.detach()
            loss = loss + (config.masked_weight if self._actions else 1.0) * masked
        if self._actions:
            assert actions is not None
            error, action_parts, features = self._actions(
                self.encoder, frames, actions.to(self._device), self._generator
            )
            self._features = features.detach()
            loss, parts = loss + error, {**parts, **action_parts}
        metrics = {name: float(value.detach()) for name, value in parts.items()}
        metrics["loss"] = float(loss.detach())
        if not math.isfinite(metrics["loss"]):
            raise FloatingPointError(f"loss is not finite: {metrics}")
        return loss, metrics

    def end_step(self, progress: float) -> None:
        """See `Job.end_step`."""
        if self._masked:
            self._masked.update_teacher(self.encoder, progress)

    def steps(self) -> Iterator[Metrics]:
        """Trains to the end of the run, from its current step.

        Yields:
            Metrics: after each step `step` (from 1), `loss` and its parts, `learning_rate`,
            `grad_norm`, `elapsed_s`, and at every `log_every`-th and the last step `std` and
            `effective_rank`.

        Raises:
            CollapseError: the features' spread fell below the configured minimum.
            FloatingPointError: a loss or gradient is not finite; the weights are those before it.
        """
        try:
            for metrics in self.loop.steps():
                measured = self.loop.step % self._config.log_every == 0 or self.loop.progress == 1
                if measured:
                    metrics.update(spread(self._features))
                yield metrics
                if measured:
                    self._check(metrics, len(self._features))
        except FloatingPointError as error:
            raise FloatingPointError(f"step {self.loop.step}: {error}") from error
        if self._masked and not self._actions:
            self.encoder.load_state_dict(self._masked.teacher.state_dict())
        if self._actions and self._config.motion_share and self._config.inverse_weight:
            self.encoder.get_buffer("metric").copy_(self._actions.metric())
        freeze(self.encoder)

    def _check(self, metrics: Mapping[str, float], num: int) -> None:
        config = self._config
        low = metrics["effective_rank"] < config.collapse_rank and num >= _MIN_FOR_RANK
        if self.loop.step >= _WARMUP_STEPS and (metrics["std"] < config.collapse_std or low):
            raise CollapseError(
                f"step {self.loop.step}: the encoder has collapsed: over a batch its layer-normed "
                f"features vary by {metrics['std']:.4f} (floor {config.collapse_std}) with an "
                f"effective rank of {metrics['effective_rank']:.2f} (floor "
                f"{config.collapse_rank})"
            )

    def about(self, data: str) -> dict[str, Any]:
        """Returns what identifies this run, to be compared with a saved run before it is resumed.

        Args:
            data: A hash that identifies the data and the encoder.

        Returns:
            The settings and `data`.
        """
        return {**asdict(self._config), "seed": self._seed, "data or encoder": data}
