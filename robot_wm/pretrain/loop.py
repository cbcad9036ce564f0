"""The pretraining loop: a batch, a step, a look at the spread; it can stop and go on."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from robot_wm.data.files import sync
from robot_wm.encoders import MiniConfig, MiniEncoder, freeze
from robot_wm.precision import choose_precision
from robot_wm.pretrain.actions import ActionObjective
from robot_wm.pretrain.collapse import CollapseError, spread
from robot_wm.pretrain.config import PretrainConfig
from robot_wm.pretrain.masked import MaskedObjective

_WARMUP_STEPS = 100
_MIN_FOR_RANK = 8  # pictures: fewer have no rank to speak of
_MIN_NUMBERS = 4  # layer norm takes two of them away
_MASKS = 1  # beside the seed and the step: the stream of random numbers that masks are drawn from


class Batches(Protocol):
    """Where clips come from; `batch(step)` depends on nothing but its argument."""

    @property
    def action_dim(self) -> int | None:
        """Action size, A; None where there are pictures alone."""
        ...

    def batch(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Prepared frames `[B, T, 3, h, w]` and scaled actions `[B, T - 1, A]`."""
        ...


def check_objective(config: PretrainConfig, shape: MiniConfig, *, has_actions: bool) -> None:
    """Refuses an objective that encoder or data cannot serve, before either is made.

    Raises:
        ValueError: says which.
    """
    what = f"objective {config.objective}"
    if config.from_actions and not has_actions:
        raise ValueError(f"{what}: the data has no actions")
    if config.from_actions and not shape.num_tokens:
        raise ValueError(f"{what}: num_tokens is 0, want at least 1")
    if config.from_actions and shape.num_tokens * shape.dim < _MIN_NUMBERS:
        raise ValueError(
            f"{what}: got {shape.num_tokens} tokens of {shape.dim}, want at least {_MIN_NUMBERS} "
            f"numbers a picture: whether fewer have collapsed cannot be told"
        )
    if not config.from_actions and shape.num_tokens:
        raise ValueError(
            f"{what}: num_tokens is {shape.num_tokens}, want 0: it trains the patches, and what "
            f"other tokens would say is not learnt"
        )
    if config.masked and shape.image_size < 2 * shape.patch_size:
        raise ValueError(f"{what}: got one patch a picture, want several, some of them hidden")


class Pretraining:
    """A run: the encoder in training, what is thrown away, and where the run stands.

    Args:
        encoder: trained in place; frozen when the run is over, with the teacher's weights where an
            objective is masked alone.
        batches: the data.
        config: how.

    Raises:
        ValueError: an objective that the encoder or the data cannot serve.
    """

    def __init__(self, encoder: MiniEncoder, batches: Batches, config: PretrainConfig) -> None:
        check_objective(config, encoder.config, has_actions=batches.action_dim is not None)
        self.encoder, self._batches, self._config = encoder, batches, config
        device = next(encoder.parameters()).device
        if encoder.config.num_tokens:  # of an earlier run: this one begins without
            torch.nn.init.eye_(encoder.get_buffer("metric"))
        self._generator = torch.Generator(device).manual_seed(config.seed)
        self._actions: ActionObjective | None = None
        self._masked: MaskedObjective | None = None
        first_weights = torch.Generator().manual_seed(config.seed)
        with torch.random.fork_rng(devices=[]):  # what torch draws first is not kept
            if config.from_actions:
                assert batches.action_dim is not None
                self._actions = ActionObjective(encoder, batches.action_dim, config)
                for parameter in self._actions.parameters():
                    bound = 1 / math.sqrt(parameter.shape[-1])
                    nn.init.uniform_(parameter, -bound, bound, first_weights)
                self._actions.to(device)
            if config.masked:
                self._masked = MaskedObjective(encoder, config)
                self._masked.init(first_weights)
                self._masked.to(device)
        modules = [encoder, self._actions, self._masked]
        parameters = [p for module in modules if module for p in module.parameters()]
        teacher = set(self._masked.teacher.parameters()) if self._masked else set()
        self._parameters = [p for p in parameters if p not in teacher]
        self._optimizer = torch.optim.AdamW(
            self._parameters,
            lr=config.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=config.weight_decay,
        )
        self._dtype = choose_precision(config.precision, device)
        self.step = 0
        self.elapsed_s = 0.0

    @property
    def progress(self) -> float:
        """How much of the run is over, in [0, 1]."""
        limit = self._config.time_limit_s
        share = self.step / self._config.num_steps
        return min(1.0, max(share, self.elapsed_s / limit if limit else 0.0))

    def steps(self) -> Iterator[dict[str, float]]:
        """Trains to the end of the run, from wherever it stands.

        Yields:
            After each step: `step` (from 1), `loss` and its parts, `elapsed_s`, and at every
            `log_every`-th and the last step `std` and `effective_rank`.

        Raises:
            CollapseError: the features' spread fell below the configured floor.
            FloatingPointError: loss or gradient is not finite; the weights are those before it.
        """
        self.encoder.train().requires_grad_(True)
        while self.progress < 1:
            begin = time.monotonic()
            metrics, features = self._train()
            self.step += 1
            self.elapsed_s += time.monotonic() - begin
            looked = self.step % self._config.log_every == 0 or self.progress == 1
            if looked:
                metrics.update(spread(features))
            yield {"step": self.step, **metrics, "elapsed_s": self.elapsed_s}
            if looked:
                self._check(metrics, len(features))
        if self._masked and not self._actions:
            self.encoder.load_state_dict(self._masked.teacher.state_dict())
        if self._actions and self._config.motion_share and self._config.inverse_weight:
            self.encoder.get_buffer("metric").copy_(self._actions.metric())
        freeze(self.encoder)

    def _train(self) -> tuple[dict[str, float], Tensor]:
        config, device = self._config, self._generator.device
        rate = config.learning_rate * 0.5 * (1 + math.cos(math.pi * self.progress))
        for group in self._optimizer.param_groups:
            group["lr"] = rate * min(1.0, (self.step + 1) / _WARMUP_STEPS)
        frames, actions = self._batches.batch(self.step)
        frames = frames.to(device)
        loss = torch.zeros((), device=device)
        parts: dict[str, Tensor] = {}
        features = torch.empty(0)
        with torch.autocast(device.type, self._dtype, enabled=self._dtype != torch.float32):
            if self._masked:
                rng = np.random.default_rng((config.seed, self.step, _MASKS))
                masked, parts, features = self._masked(self.encoder, frames, rng)
                loss = loss + (config.masked_weight if self._actions else 1.0) * masked
            if self._actions:
                assert actions is not None
                error, more, features = self._actions(
                    self.encoder, frames, actions.to(device), self._generator
                )
                loss, parts = loss + error, {**parts, **more}
        metrics = {name: float(value.detach()) for name, value in parts.items()}
        metrics["loss"] = float(loss.detach())
        if not math.isfinite(metrics["loss"]):
            raise FloatingPointError(f"step {self.step}: loss is not finite: {metrics}")
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self._parameters, config.grad_clip))
        if not math.isfinite(norm):
            raise FloatingPointError(f"step {self.step}: the gradient is not finite: {metrics}")
        self._optimizer.step()
        if self._masked:
            self._masked.follow(self.encoder, self.progress)
        return metrics, features.detach()

    def _check(self, metrics: Mapping[str, float], num: int) -> None:
        config = self._config
        low = metrics["effective_rank"] < config.collapse_rank and num >= _MIN_FOR_RANK
        if self.step >= _WARMUP_STEPS and (metrics["std"] < config.collapse_std or low):
            raise CollapseError(
                f"step {self.step}: the encoder has collapsed: over a batch its layer-normed "
                f"features vary by {metrics['std']:.4f} (floor {config.collapse_std}) with an "
                f"effective rank of {metrics['effective_rank']:.2f} (floor "
                f"{config.collapse_rank})"
            )

    def save(self, path: Path, *, about: str) -> None:
        """Writes where the run stands, for `resume`.

        Args:
            path: a safetensors file; replaced whole or not at all.
            about: what the run is of (data, settings), to be the same when it goes on.
        """
        state = {f"encoder.{k}": v for k, v in self.encoder.state_dict().items()}
        for name, module in (("actions", self._actions), ("masked", self._masked)):
            if module:
                state.update({f"{name}.{k}": v for k, v in module.state_dict().items()})
        for i, parameter in enumerate(self._parameters):
            for name, value in self._optimizer.state.get(parameter, {}).items():
                state[f"optimizer.{i}.{name}"] = torch.as_tensor(value)
        state["generator"] = self._generator.get_state()
        note = {"step": self.step, "elapsed_s": self.elapsed_s, "config": asdict(self._config)}
        note["about"] = about
        scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        try:
            save_file(tensors, scratch, metadata={"pretraining": json.dumps(note)})
            sync(scratch)
            scratch.replace(path)
        except SafetensorError as error:  # what it makes of a full disk
            raise OSError(f"cannot write {path}: {error}") from error
        finally:
            scratch.unlink(missing_ok=True)

    def resume(self, path: Path, *, about: str) -> None:
        """Goes on from where `save` left off.

        Raises:
            ValueError: another run's file, or no such file at all.
        """
        try:
            with safe_open(path, "pt") as file:
                note = json.loads((file.metadata() or {})["pretraining"])
                state = {name: file.get_tensor(name) for name in file.keys()}
            saved, mine = note["config"], asdict(self._config)
            differing = sorted(k for k in {*saved, *mine} if saved.get(k) != mine.get(k))
            if note["about"] != about:
                differing.append("data or encoder")
            if differing:
                raise ValueError(f"it is of another run, by its {', '.join(differing)}")
            self.encoder.load_state_dict(_part(state, "encoder."))
            if self._actions:
                self._actions.load_state_dict(_part(state, "actions."))
            if self._masked:
                self._masked.load_state_dict(_part(state, "masked."))
            groups = self._optimizer.state_dict()["param_groups"]
            moments: dict[int, dict[str, Tensor]] = {}
            for name, value in _part(state, "optimizer.").items():
                index, _, what = name.partition(".")
                moments.setdefault(int(index), {})[what] = value
            self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
            self._generator.set_state(state["generator"])
            self.step, self.elapsed_s = int(note["step"]), float(note["elapsed_s"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"cannot go on from {path}: {error}") from error


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
