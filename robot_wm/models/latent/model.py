"""LatentWorldModel: a frozen encoder with a block-causal predictor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robot_wm.data import Batch
from robot_wm.encoders import Encoder, encode
from robot_wm.models.latent.spec import ModelSpec
from robot_wm.models.protocol import EncodedFrames, ModelInfo, Select, View
from robot_wm.poses import integrate_poses
from robot_wm.predictor import KeyValueCache, Predictor, rollout_recomputed
from robot_wm.preprocess import NormStats
from robot_wm.types import (
    Count,
    FloatArray,
    Futures,
    ImageArray,
    Observation,
    PlanningError,
    UserError,
    check_image,
    checked,
)


@dataclass(frozen=True)
class LatentState:
    """The last few frames of B episodes.

    Attributes:
        latents: Latents of the frames, `[B, T, P, D]`.
        proprio: Proprioception at the frames, `[B, T, Q]`, in the robot's units.
        actions: The actions between the frames, `[B, T - 1, A]`, in the robot's units.
        cache: The predictor's keys and values of all frames but the last: computed once per
            observation, for all candidates of a plan. None if there is one frame only.
    """

    latents: Tensor
    proprio: Tensor
    actions: Tensor
    cache: KeyValueCache | None


class LatentWorldModel(nn.Module):
    """A frozen encoder with a block-causal predictor (V-JEPA 2-AC, arXiv 2506.09985).

    Args:
        encoder: The frozen encoder; its tokens, normalised as `spec.features` says, are the
            latents.
        predictor: The predictor of latents, which is trained.
        spec: What the model is trained for.
        action_stats: Statistics of the training actions, `[A]`.
        proprio_stats: Statistics of the training states, `[Q]`.
        feature_stats: Statistics of the encoder's tokens per channel, `[D]`, for
            `"channel_norm"`.
        error: Every latent error in the loss is `"l1"` or `"l2"`.
        rollout_steps: Length of the autoregressive rollout in the loss.
        rollout_prefix: Where that rollout begins: `"first"` at frame 0 as in V-JEPA 2-AC,
            `"random"` anywhere that it fits.

    Raises:
        UserError: parts that do not fit together.
    """

    @checked
    def __init__(
        self,
        encoder: Encoder,
        predictor: Predictor,
        spec: ModelSpec,
        *,
        action_stats: NormStats,
        proprio_stats: NormStats,
        feature_stats: NormStats | None = None,
        error: Literal["l1", "l2"] = "l2",
        rollout_steps: Count = 2,
        rollout_prefix: Literal["first", "random"] = "first",
    ) -> None:
        super().__init__()
        if spec.context_frames > predictor.config.max_frames:
            raise UserError(
                f"context_frames: got {spec.context_frames}, want at most the predictor's "
                f"max_frames, {predictor.config.max_frames}"
            )
        shape, num_states = predictor.config, len(spec.state_names)
        sizes = {
            "views": (len(spec.views), shape.num_views),
            "tokens per picture": (encoder.grid, shape.grid),
            "token size": (encoder.dim, shape.token_dim),
            "action size": (spec.action_spec.size, shape.action_dim),
            "state size": (0 if spec.proprio == "none" else num_states, shape.state_dim),
            "extrinsics": (len(spec.extrinsics), shape.extrinsics_dim),
            "action statistics": (len(action_stats.mean), shape.action_dim),
            "proprio statistics": (len(proprio_stats.mean), num_states),
            "feature statistics": (
                0 if feature_stats is None else len(feature_stats.mean),
                encoder.dim if spec.features == "channel_norm" else 0,
            ),
            "output_norm": (spec.features == "layer_norm", shape.output_norm),
        }
        for name, (one, other) in sizes.items():
            if one != other:
                raise UserError(f"{name}: got {one} and {other}, want the same")
        self._frozen = (encoder,)  # in a tuple, so that it is no submodule: not trained, not saved
        self.predictor = predictor
        self.spec = spec
        self.action_stats = action_stats
        self.proprio_stats = proprio_stats
        self.feature_stats = feature_stats
        self.error: Literal["l1", "l2"] = error
        self.rollout_steps = rollout_steps
        self.rollout_prefix: Literal["first", "random"] = rollout_prefix

    @property
    def encoder(self) -> Encoder:
        """The frozen encoder, whose tokens the model learns from."""
        return self._frozen[0]

    @property
    def info(self) -> ModelInfo:
        """See `WorldModel.info`."""
        spec, shape = self.spec, self.predictor.config
        return ModelInfo(
            views=spec.views,
            state_names=spec.state_names,
            action_spec=spec.action_spec,
            dt=spec.dt,
            longest_horizon=shape.max_frames - spec.context_frames + 1,
            context_frames=spec.context_frames,
            grid=(shape.num_views, *shape.grid),
            dim=shape.token_dim,
            error=self.error,
            step_energy=spec.step_energy,
            robot=spec.robot,
        )

    @property
    def device(self) -> torch.device:
        """The device of the predictor."""
        return next(self.predictor.parameters()).device

    def to(self, *args: Any, **kwargs: Any) -> LatentWorldModel:
        """Moves the predictor and the encoder, and returns this model; see torch.nn.Module.to."""
        super().to(*args, **kwargs)
        if isinstance(self.encoder, nn.Module):
            self.encoder.to(*args, **kwargs)
        return self

    def compile(self) -> None:  # type: ignore[override]
        """Compiles the predictor's blocks, in place."""
        for block in self.predictor.predictor_blocks:
            block.compile()

    def initial(self) -> LatentState | None:
        """See `WorldModel.initial`."""
        return None

    def observe(
        self,
        state: LatentState | None,
        obs: Observation | EncodedFrames,
        applied: FloatArray | Tensor | None,
    ) -> LatentState:
        """See `WorldModel.observe`."""
        if isinstance(obs, EncodedFrames):  # checked for non-finite values when it was encoded
            latents = self.latents(obs.tokens.to(self.device))[:, None]
            proprio = obs.proprio.to(self.device)[:, None]
        else:
            latents = self.embed(obs.images)[None, None]
            proprio = self._vectors(obs.proprio, len(self.spec.state_names), "proprio")
        keep = self.spec.context_frames - 1
        size = self.spec.action_spec.size
        action = None if applied is None else self._vectors(applied, size, "applied")
        if state is None or action is None or keep == 0:
            return LatentState(latents, proprio, proprio.new_zeros((len(proprio), 0, size)), None)
        latents = torch.cat((state.latents[:, -keep:], latents), dim=1)
        proprio = torch.cat((state.proprio[:, -keep:], proprio), dim=1)
        actions = torch.cat((state.actions, action), dim=1)[:, -keep:]
        cache = self._encode_context(latents, proprio, actions)
        return LatentState(latents, proprio, actions, cache)

    def latent(self, state: LatentState) -> Tensor:
        """See `WorldModel.latent`."""
        return state.latents[:, -1]

    def embed(self, images: Mapping[str, ImageArray]) -> Tensor:
        """Returns the latent of the pictures of this model's cameras.

        Args:
            images: Pictures by camera name, uint8 RGB `[height, width, 3]`; those of other cameras
                than this model's are ignored.

        Returns:
            `[P, D]`.

        Raises:
            UserError: a camera is missing, or its picture has another aspect ratio than the
                training pictures.
            ValueError: a picture is not uint8 RGB.
        """
        cameras = [view.camera for view in self.spec.views]
        if not {*cameras} <= {*images}:
            got = ", ".join(sorted(images)) or "none"
            raise UserError(f"camera: got {got}, want {', '.join(cameras)}")
        tokens = torch.cat([self._tokens(view, images[view.camera]) for view in self.spec.views])
        if not tokens.isfinite().all():
            raise PlanningError("the encoder returned tokens that are not finite")
        return self.latents(tokens)

    @torch.no_grad()
    def _tokens(self, view: View, picture: ImageArray) -> Tensor:
        """Returns the encoder's tokens of one camera's picture."""
        check_image(picture, f"camera {view.camera!r}")
        height, width = picture.shape[:2]
        if abs(width / height / (view.width / view.height) - 1) > 0.02:
            raise UserError(
                f"camera {view.camera!r}: got a {width}x{height} picture, want the aspect of "
                f"{view.width}x{view.height}"
            )
        return encode(self.encoder, picture[None], self.device)[0]

    def latents(self, tokens: Tensor) -> Tensor:
        """Maps the encoder's tokens `[..., P, D]` to the space that this model imagines in."""
        if self.spec.features == "layer_norm":
            return F.layer_norm(tokens, tokens.shape[-1:])
        if self.feature_stats is not None:
            return self.feature_stats.forward(tokens)
        return tokens

    def rollout(
        self,
        state: LatentState,
        actions: Tensor,
        generator: Any = None,
        *,
        select: Select | None = None,
    ) -> Futures:
        """See `WorldModel.rollout`; nothing here is random."""
        latents, kept = self.predictor.rollout(
            state.cache,
            state.latents[:, -1],
            *self._inputs(state.proprio[:, -1], actions),
            select=select,
        )
        return Futures(latents, kept=None if select is None else kept)

    def rollout_recomputed(self, state: LatentState, actions: Tensor) -> Futures:
        """Computes `rollout` without a cache, as a reference that it must equal.

        The context is repeated per candidate, and all frames are computed again for every step.

        Args:
            state: The state of 1 episode.
            actions: Action sequences `[N, H, A]`, in the robot's units.

        Returns:
            The futures of all candidates.

        Raises:
            UserError: a predictor with extrinsics or several heads, which are not supported here.
        """
        if self.spec.extrinsics or self.predictor.config.num_outputs > 1:
            raise UserError("checkpoint: got extrinsics or several heads, want neither")
        num = len(actions)
        past_n = self.action_stats.forward(state.actions).expand(num, -1, -1)
        future_n, states, _ = self._inputs(state.proprio[:, -1], actions)
        if states is not None:
            before = self._states_n(state.proprio[:, :-1])
            assert before is not None
            states = torch.cat((before.expand(num, -1, -1), states), dim=1)
        tokens = state.latents.expand(num, -1, -1, -1)
        actions_n = torch.cat((past_n, future_n), dim=1)
        return Futures(rollout_recomputed(self.predictor, tokens, actions_n, states))

    def loss(
        self, batch: Batch, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """Returns the error of teacher forcing, plus that of an autoregressive rollout.

        The rollout feeds predictions back, not detached. With `proprio="integrate"` its states are
        those that `rollout` will have, integrated from the last true one: a gripper that a command
        closes and an object holds open ends elsewhere than its commands say. Otherwise they are
        true ones, as in V-JEPA 2-AC. Its first step is the one that teacher forcing computes, so
        its error counts the steps from the second on.

        Args:
            batch: Windows of more frames than `rollout_steps`.
            generator: Draws the start of the rollout if `rollout_prefix` is `"random"`.

        Returns:
            The loss (scalar, with gradient), and the metrics `loss`, `teacher_forcing` and, with
            more than one rollout step, `rollout`.

        Raises:
            ValueError: the batch has another shape or dtype, or too few frames.
            FloatingPointError: an input or the loss is not finite.
        """
        device = self.device
        frames, steps = batch.tokens.shape[1], self.rollout_steps
        if frames <= steps:
            raise ValueError(f"frames: got windows of {frames}, want more than {steps}")
        for name in ("tokens", "actions", "proprio"):
            value = getattr(batch, name)
            if value.dtype != torch.float32:
                raise ValueError(f"{name}: got {value.dtype}, want torch.float32")
            if not value.isfinite().all():
                raise FloatingPointError(f"{name} are not finite")
        latents = self.latents(batch.tokens.to(device))
        proprio, actions = batch.proprio.to(device), batch.actions.to(device)
        actions_n = self.action_stats.forward(actions)
        states_n = self._states_n(proprio[:, :-1])
        extrinsics_n = self._extrinsics_n(actions_n)
        predicted, cache = self.predictor.extend(
            None, latents[:, :-1], actions_n, states_n, extrinsics_n
        )  # of frames 1 to T - 1
        teacher_forcing = self._distance(predicted, latents[:, 1:])
        loss = teacher_forcing
        metrics = {"teacher_forcing": float(teacher_forcing.detach())}
        if steps > 1:
            prefix = 1  # true frames before the first imagined one
            if self.rollout_prefix == "random":
                prefix = int(torch.randint(1, frames - steps + 1, (), generator=generator))
            if self.spec.proprio == "integrate":
                last = prefix - 1  # the last true frame
                ahead = self._integrate(proprio[:, last], actions[:, last:-1])
                states_n = self._states_n(torch.cat((proprio[:, :prefix], ahead), dim=1))
            frame, cache = predicted[:, prefix - 1 : prefix], cache.first(prefix)
            errors = []
            for t in range(prefix, prefix + steps - 1):  # the frame that is fed back
                now = slice(t, t + 1)
                frame, cache = self.predictor.extend(
                    cache,
                    self.predictor.combine(frame),
                    actions_n[:, now],
                    None if states_n is None else states_n[:, now],
                    None if extrinsics_n is None else extrinsics_n[:, now],
                )
                errors.append(self._distance(frame, latents[:, t + 1 : t + 2]))
            rollout = torch.stack(errors).mean()
            metrics["rollout"] = float(rollout.detach())
            loss = loss + rollout
        metrics["loss"] = float(loss.detach())
        if not np.isfinite(metrics["loss"]):
            raise FloatingPointError(f"loss is not finite: {metrics}")
        return loss, metrics

    @torch.no_grad()
    def _encode_context(self, latents: Tensor, proprio: Tensor, past: Tensor) -> KeyValueCache:
        """Returns the predictor's keys and values of all frames of a context but the last."""
        _, cache = self.predictor.extend(
            None,
            latents[:, :-1],
            self.action_stats.forward(past),
            self._states_n(proprio[:, :-1]),
            self._extrinsics_n(past),
        )
        return cache

    def _inputs(
        self, proprio: Tensor, actions: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Returns the predictor's inputs besides tokens, from `[N or 1, Q]` and `[N, H, A]`."""
        if actions.ndim != 3 or actions.shape[-1] != self.spec.action_spec.size:
            raise ValueError(
                f"actions: got {tuple(actions.shape)}, want [N, H, {self.spec.action_spec.size}]"
            )
        if actions.dtype != torch.float32 or actions.device != self.device:
            raise ValueError(
                f"actions: got {actions.dtype} on {actions.device}, want torch.float32 on "
                f"{self.device}"
            )
        now = proprio.expand(len(actions), -1)  # [N, Q]
        states = torch.cat((now[:, None], self._integrate(now, actions)[:, :-1]), dim=1)
        return (
            self.action_stats.forward(actions),
            self._states_n(states),
            self._extrinsics_n(actions),
        )

    def _distance(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Returns the mean error of predictions `[B, T, P, D]`, or `[B, T, K, P, D]` of K heads."""
        if predicted.ndim > target.ndim:
            target = target[:, :, None]
        difference = predicted - target
        return (difference.abs() if self.error == "l1" else difference.square()).mean()

    def _integrate(self, now: Tensor, actions: Tensor) -> Tensor:
        """Returns proprio `[N, H, Q]` after each of `actions` `[N, H, A]`, from `now` `[N, Q]`."""
        if self.spec.proprio == "integrate":
            return now[:, None] + actions.cumsum(1)
        if self.spec.proprio == "pose":
            return integrate_poses(now, actions)
        return now[:, None].expand(-1, actions.shape[1], -1)

    def _states_n(self, proprio: Tensor) -> Tensor | None:
        return None if self.spec.proprio == "none" else self.proprio_stats.forward(proprio)

    def _extrinsics_n(self, like: Tensor) -> Tensor | None:
        """Repeats the camera's pose for every frame of `like` `[B, T, ...]`; None without one."""
        if not self.spec.extrinsics:
            return None
        pose = torch.tensor(self.spec.extrinsics, device=self.device)
        return pose.expand(*like.shape[:2], -1)

    def _vectors(self, value: FloatArray | Tensor, size: int, what: str) -> Tensor:
        """Converts `[size]` or `[B, size]` to float32 `[B, 1, size]` on the device."""
        if not isinstance(value, Tensor):
            value = np.asarray(value, np.float32)
            if value.shape != (size,) or not np.isfinite(value).all():
                raise ValueError(f"{what}: got {value}, want {size} finite numbers")
            value = torch.from_numpy(value)[None]
        if value.ndim != 2 or value.shape[1] != size:
            raise ValueError(f"{what}: got {tuple(value.shape)}, want [B, {size}]")
        return value.to(self.device)[:, None]
