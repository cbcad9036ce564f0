"""World models: look, remember, imagine. Everything above speaks robot units and uint8 pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from robot_wm.data import Batch
from robot_wm.encoders import Encoder
from robot_wm.predictor import Predictor
from robot_wm.preprocess import NormStats, prepare_images
from robot_wm.types import ActionSpec, FloatArray, ImageArray, Observation, check_image

State = Any  # opaque to all but the model that made it


class WorldModel(Protocol):
    """Imagines latents under actions. Its state is its own affair."""

    @property
    def dt(self) -> float:
        """Seconds between two frames."""
        ...

    def initial(self) -> State:
        """The state before anything was seen."""
        ...

    def observe(self, state: State, obs: Observation, applied: FloatArray | None) -> State:
        """The state after seeing `obs`, which `applied` `[A]` (robot's units) led to."""
        ...

    def embed(self, images: Mapping[str, ImageArray]) -> Tensor:
        """The latent of a picture, by camera name; goals and observations alike."""
        ...

    def rollout(self, state: State, actions: Tensor) -> Tensor:
        """Latents `[N, H, ...]` imagined under `actions` `[N, H, A]`, robot's units."""
        ...

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Training loss (scalar, with gradient) and metrics."""
        ...


@dataclass(frozen=True)
class ModelSpec:
    """What a LatentWorldModel was trained for: with the weights, all that a checkpoint needs.

    Attributes:
        camera: name of the camera it looks through.
        image_height: height of that camera's pictures in training, pixels.
        image_width: width, pixels.
        dt: seconds between two frames.
        state_names: one per proprioceptive dimension, Q.
        action_spec: the actions seen in training, 1 % to 99 % quantile: a trust region. Units
            are the dataset's, which does not state them.
        proprio: `"integrate"`: actions are changes of the proprioceptive state, and a rollout adds
            them up; `"none"`: the predictor sees no proprioception.
        context_frames: frames it remembers while planning.
    """

    camera: str
    image_height: int
    image_width: int
    dt: float
    state_names: tuple[str, ...]
    action_spec: ActionSpec
    proprio: Literal["integrate", "none"] = "integrate"
    context_frames: int = 2

    def __post_init__(self) -> None:
        if self.proprio not in ("integrate", "none"):
            raise ValueError(f"proprio: got {self.proprio!r}, want 'integrate' or 'none'")
        if self.proprio == "integrate" and len(self.state_names) != self.action_spec.size:
            raise ValueError(
                f"proprio: 'integrate' needs one action per state dimension, got actions "
                f"{self.action_spec.names} and states {self.state_names}"
            )
        if self.context_frames < 1:
            raise ValueError(f"context_frames: got {self.context_frames}, want at least 1")


@dataclass(frozen=True)
class LatentState:
    """The last few frames: tokens `[T, P, D]`, proprio `[T, Q]`, actions between `[T - 1, A]`."""

    tokens: Tensor
    proprio: Tensor
    actions: Tensor


class LatentWorldModel:
    """A frozen encoder with a block-causal predictor (V-JEPA 2-AC, arXiv 2506.09985).

    Args:
        encoder: frozen; its tokens are the latents.
        predictor: trained on them.
        spec: what it was trained for.
        action_stats: of the training actions, `[A]`.
        proprio_stats: of the training states, `[Q]`.
        error: `"l1"` or `"l2"`, of every latent error in the loss.
        rollout_steps: length of the autoregressive rollout in the loss, from frame 0.
    """

    def __init__(
        self,
        encoder: Encoder,
        predictor: Predictor,
        spec: ModelSpec,
        *,
        action_stats: NormStats,
        proprio_stats: NormStats,
        error: Literal["l1", "l2"] = "l2",
        rollout_steps: int = 2,
    ) -> None:
        if error not in ("l1", "l2"):
            raise ValueError(f"error: got {error!r}, want 'l1' or 'l2'")
        if rollout_steps < 1:
            raise ValueError(f"rollout_steps: got {rollout_steps}, want at least 1")
        self.encoder = encoder
        self.predictor = predictor
        self.spec = spec
        self.action_stats = action_stats
        self.proprio_stats = proprio_stats
        self.error: Literal["l1", "l2"] = error
        self.rollout_steps = rollout_steps

    @property
    def dt(self) -> float:
        return self.spec.dt

    @property
    def device(self) -> torch.device:
        return next(self.predictor.parameters()).device

    def initial(self) -> LatentState | None:
        return None

    def observe(
        self, state: LatentState | None, obs: Observation, applied: FloatArray | None
    ) -> LatentState:
        """See `WorldModel.observe`.

        Raises:
            ValueError: a picture or vector that does not fit, or numbers that are not finite.
        """
        tokens = self.embed(obs.images)[None]
        proprio = self._vector(obs.proprio, len(self.spec.state_names), "proprio")
        if state is None or applied is None:
            actions = proprio.new_zeros((0, self.spec.action_spec.size))
            return LatentState(tokens, proprio, actions)
        action = self._vector(applied, self.spec.action_spec.size, "applied")
        keep = self.spec.context_frames - 1
        if keep == 0:
            return LatentState(tokens, proprio, action[:0])
        return LatentState(
            torch.cat((state.tokens[-keep:], tokens)),
            torch.cat((state.proprio[-keep:], proprio)),
            torch.cat((state.actions, action))[-keep:],
        )

    def embed(self, images: Mapping[str, ImageArray]) -> Tensor:
        """Tokens `[P, D]` of this model's camera picture.

        Raises:
            ValueError: the camera is missing, or its picture has another aspect ratio than the
                training pictures.
        """
        picture = images.get(self.spec.camera)
        if picture is None:
            raise ValueError(f"camera: got {sorted(images)}, want {self.spec.camera!r}")
        check_image(picture, f"camera {self.spec.camera!r}")
        height, width = picture.shape[:2]
        aspect, wanted = width / height, self.spec.image_width / self.spec.image_height
        if abs(aspect / wanted - 1) > 0.02:
            raise ValueError(
                f"camera {self.spec.camera!r}: got a {width}x{height} picture, want the aspect of "
                f"{self.spec.image_width}x{self.spec.image_height}"
            )
        frames = prepare_images(picture, self.encoder.image).to(self.device)
        with torch.no_grad():
            tokens = self.encoder(frames[None, None])[0, 0]
        if not tokens.isfinite().all():
            raise ValueError("the encoder returned tokens that are not finite")
        return tokens

    def rollout(self, state: LatentState, actions: Tensor) -> Tensor:
        """Imagines: `actions` `[N, H, A]` in the robot's units to tokens `[N, H, P, D]`.

        Raises:
            ValueError: another action size, or more frames than the predictor takes.
        """
        num, _, size = actions.shape
        if size != self.spec.action_spec.size:
            raise ValueError(f"actions: got size {size}, want {self.spec.action_spec.size}")
        return self.imagine(
            state.tokens.expand(num, -1, -1, -1),
            state.proprio.expand(num, -1, -1),
            torch.cat((state.actions.expand(num, -1, -1), actions), dim=1),
        )

    def imagine(self, tokens: Tensor, proprio: Tensor, actions: Tensor) -> Tensor:
        """Open-loop prediction, every sequence with a past of its own.

        Args:
            tokens: context `[B, C, P, D]`.
            proprio: context `[B, C, Q]`, robot's units.
            actions: `[B, C - 1 + H, A]`, robot's units: those within the context, then the future.

        Returns:
            Tokens of the H frames that follow the context, `[B, H, P, D]`.
        """
        context = tokens.shape[1]
        actions_n = self.action_stats.forward(actions)
        future = actions[:, context - 1 :]
        moved = (
            proprio[:, -1:] + future.cumsum(1)
            if self.spec.proprio == "integrate"
            else (proprio[:, -1:].expand(-1, future.shape[1], -1))
        )
        states_n = self._states_n(torch.cat((proprio, moved[:, :-1]), dim=1))
        for frame in range(context, context + future.shape[1]):
            predicted = self.predictor(tokens, actions_n[:, :frame], states_n[:, :frame])
            tokens = torch.cat((tokens, predicted[:, -1:]), dim=1)
        return tokens[:, context:]

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Teacher forcing over all frames plus an autoregressive rollout from frame 0.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        device = self.device
        tokens = batch.tokens.to(device)
        actions_n = self.action_stats.forward(batch.actions.to(device))
        states_n = self._states_n(batch.proprio.to(device)[:, :-1])
        predicted = self.predictor(tokens[:, :-1], actions_n, states_n)  # of frames 1 to T - 1
        teacher_forcing = self._distance(predicted, tokens[:, 1:])
        loss = teacher_forcing
        metrics = {"teacher_forcing": float(teacher_forcing.detach())}
        if self.rollout_steps > 1:
            imagined = torch.cat((tokens[:, :1], predicted[:, :1]), dim=1)
            errors = []
            for frame in range(2, self.rollout_steps + 1):
                step = self.predictor(imagined, actions_n[:, :frame], states_n[:, :frame])[:, -1:]
                errors.append(self._distance(step, tokens[:, frame : frame + 1]))
                imagined = torch.cat((imagined, step), dim=1)
            rollout = torch.stack(errors).mean()
            metrics["rollout"] = float(rollout.detach())
            loss = loss + rollout
        metrics["loss"] = float(loss.detach())
        if not np.isfinite(metrics["loss"]):
            raise FloatingPointError(f"loss is not finite: {metrics}")
        return loss, metrics

    def _distance(self, predicted: Tensor, target: Tensor) -> Tensor:
        difference = predicted - target
        return (difference.abs() if self.error == "l1" else difference.square()).mean()

    def _states_n(self, proprio: Tensor) -> Tensor:
        if self.spec.proprio == "none":
            return proprio.new_zeros((*proprio.shape[:-1], len(self.spec.state_names)))
        return self.proprio_stats.forward(proprio)

    def _vector(self, value: FloatArray, size: int, what: str) -> Tensor:
        """`[size]` to float32 `[1, size]` on the device."""
        value = np.asarray(value, np.float32)
        if value.shape != (size,) or not np.isfinite(value).all():
            raise ValueError(f"{what}: got {value}, want {size} finite numbers")
        return torch.from_numpy(value).to(self.device)[None]
