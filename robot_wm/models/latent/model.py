"""A frozen encoder with a block-causal predictor: look, remember, imagine, learn."""

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
    FloatArray,
    Futures,
    ImageArray,
    Observation,
    PlanningError,
    UserError,
    check_counts,
    check_image,
)


@dataclass(frozen=True)
class LatentState:
    """The last few frames of B episodes: latents `[B, T, P, D]`, proprio `[B, T, Q]`, and the
    actions between them `[B, T - 1, A]`.

    The cache holds what the predictor made of all but the last: computed once per observation, for
    all candidates of a plan.
    """

    latents: Tensor
    proprio: Tensor
    actions: Tensor
    cache: KeyValueCache | None


class LatentWorldModel(nn.Module):
    """A frozen encoder with a block-causal predictor (V-JEPA 2-AC, arXiv 2506.09985).

    Args:
        encoder: frozen; its tokens, normalised as `spec.features` says, are the latents.
        predictor: trained on them.
        spec: what it was trained for.
        action_stats: of the training actions, `[A]`.
        proprio_stats: of the training states, `[Q]`.
        feature_stats: of the encoder's tokens per channel, `[D]`, for `"channel_norm"`.
        error: `"l1"` or `"l2"`, of every latent error in the loss.
        rollout_steps: length of the autoregressive rollout in the loss.
        rollout_prefix: true frames before that rollout: `"first"` begins it at frame 0 as V-JEPA
            2-AC does, `"random"` anywhere it fits.

    Raises:
        UserError: parts that do not fit together.
    """

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
        rollout_steps: int = 2,
        rollout_prefix: Literal["first", "random"] = "first",
    ) -> None:
        super().__init__()
        if error not in ("l1", "l2"):
            raise UserError(f"error: got {error!r}, want 'l1' or 'l2'")
        check_counts(rollout_steps=rollout_steps)
        if spec.context_frames > predictor.config.max_frames:
            raise UserError(
                f"context_frames: got {spec.context_frames}, want at most the predictor's "
                f"max_frames, {predictor.config.max_frames}"
            )
        if rollout_prefix not in ("first", "random"):
            raise UserError(f"rollout_prefix: got {rollout_prefix!r}, want 'first' or 'random'")
        shape, num_states = predictor.config, len(spec.state_names)
        fits = {
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
        for name, (one, other) in fits.items():
            if one != other:
                raise UserError(f"{name}: got {one} and {other}, want the same")
        self._frozen = (encoder,)  # not a part that learns, nor one that is saved with those
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
        """Frozen."""
        return self._frozen[0]

    @property
    def info(self) -> ModelInfo:
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
        """Where its predictor is."""
        return next(self.predictor.parameters()).device

    def to(self, *args: Any, **kwargs: Any) -> LatentWorldModel:
        """This model, its encoder and predictor moved; see torch.nn.Module.to."""
        super().to(*args, **kwargs)
        if isinstance(self.encoder, nn.Module):
            self.encoder.to(*args, **kwargs)
        return self

    def compile(self) -> None:  # type: ignore[override]
        """Compiles the predictor's blocks, in place."""
        for block in self.predictor.predictor_blocks:
            block.compile()

    def initial(self) -> LatentState | None:
        return None

    def observe(
        self,
        state: LatentState | None,
        obs: Observation | EncodedFrames,
        applied: FloatArray | Tensor | None,
    ) -> LatentState:
        """See `WorldModel.observe`; a dataset's frames were found finite when they were encoded.

        Raises:
            UserError: a picture or vector that does not fit, or a robot's that is not finite.
        """
        if isinstance(obs, EncodedFrames):
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
        return LatentState(latents, proprio, actions, self._remember(latents, proprio, actions))

    def latent(self, state: LatentState) -> Tensor:
        """Latents `[B, P, D]` of what was seen last."""
        return state.latents[:, -1]

    def embed(self, images: Mapping[str, ImageArray]) -> Tensor:
        """Latent `[P, D]` of the pictures of this model's cameras.

        Raises:
            UserError: a camera is missing, or its picture has another aspect ratio than the
                training pictures.
        """
        missing = [v.camera for v in self.spec.views if v.camera not in images]
        if missing:
            wanted = ", ".join(view.camera for view in self.spec.views)
            raise UserError(f"camera: got {', '.join(sorted(images)) or 'none'}, want {wanted}")
        tokens = torch.cat([self._see(view, images[view.camera]) for view in self.spec.views])
        if not tokens.isfinite().all():
            raise PlanningError("the encoder returned tokens that are not finite")
        return self.latents(tokens)

    @torch.no_grad()
    def _see(self, view: View, picture: ImageArray) -> Tensor:
        """Tokens of a picture through one camera."""
        check_image(picture, f"camera {view.camera!r}")
        height, width = picture.shape[:2]
        if abs(width / height / (view.width / view.height) - 1) > 0.02:
            raise UserError(
                f"camera {view.camera!r}: got a {width}x{height} picture, want the aspect of "
                f"{view.width}x{view.height}"
            )
        return encode(self.encoder, picture[None], self.device)[0]

    def latents(self, tokens: Tensor) -> Tensor:
        """The encoder's tokens `[..., P, D]` in the space that this model imagines in."""
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
        """See `WorldModel.rollout`; nothing in it is random.

        Raises:
            UserError: another action size, or more frames than the predictor takes.
        """
        latents, kept = self.predictor.rollout(
            state.cache,
            state.latents[:, -1],
            *self._inputs(state.proprio[:, -1], actions),
            select=select,
        )
        return Futures(latents, kept=None if select is None else kept)

    def rollout_recomputed(self, state: LatentState, actions: Tensor) -> Futures:
        """What `rollout` must equal: the context repeated per candidate, and all frames computed
        again for every step.

        Raises:
            ValueError: a predictor with extrinsics or several heads, which this does not know.
        """
        if self.spec.extrinsics or self.predictor.config.num_outputs > 1:
            raise UserError("checkpoint: the plain way knows no extrinsics and no heads")
        num = len(actions)
        past = self.action_stats.forward(state.actions).expand(num, -1, -1)
        ahead, states, _ = self._inputs(state.proprio[:, -1], actions)
        if states is not None:
            before = self._states_n(state.proprio[:, :-1])
            assert before is not None
            states = torch.cat((before.expand(num, -1, -1), states), dim=1)
        tokens = state.latents.expand(num, -1, -1, -1)
        actions_n = torch.cat((past, ahead), dim=1)
        return Futures(rollout_recomputed(self.predictor, tokens, actions_n, states))

    def loss(
        self, batch: Batch, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """Teacher forcing over all frames, plus an autoregressive rollout of `rollout_steps`.

        The rollout feeds predictions back, not detached, with true states; its first step is
        teacher forcing's own, so its error is that of the steps from the second on.

        Args:
            batch: windows of more frames than `rollout_steps`.
            generator: draws the rollout's start where `rollout_prefix` is `"random"`.

        Raises:
            ValueError: a batch of another shape, dtype, or too few frames.
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
        actions_n = self.action_stats.forward(batch.actions.to(device))
        states_n = self._states_n(batch.proprio.to(device)[:, :-1])
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
            frame, cache = predicted[:, prefix - 1 : prefix], cache.first(prefix)
            errors = []
            for t in range(prefix, prefix + steps - 1):  # the frame that is fed back
                now = slice(t, t + 1)
                frame, cache = self.predictor.extend(
                    cache,
                    self._combined(frame),
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
    def _remember(self, latents: Tensor, proprio: Tensor, past: Tensor) -> KeyValueCache:
        """What the predictor makes of all but the last frame of a context."""
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
        """What the predictor sees beside tokens, from `[N or 1, Q]` under `[N, H, A]`."""
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

    def _combined(self, predicted: Tensor) -> Tensor:
        """`[B, T, P, D]` of predictions, which K heads make `[B, T, K, P, D]`."""
        return self.predictor.combine(predicted) if predicted.ndim == 5 else predicted

    def _distance(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Mean error of predictions `[B, T, P, D]`, or of K heads' `[B, T, K, P, D]`."""
        if predicted.ndim > target.ndim:
            target = target[:, :, None]
        difference = predicted - target
        return (difference.abs() if self.error == "l1" else difference.square()).mean()

    def _integrate(self, now: Tensor, actions: Tensor) -> Tensor:
        """Proprio `[N, H, Q]` after each of `actions` `[N, H, A]` from `now` `[N, Q]`."""
        if self.spec.proprio == "integrate":
            return now[:, None] + actions.cumsum(1)
        if self.spec.proprio == "pose":
            return integrate_poses(now, actions)
        return now[:, None].expand(-1, actions.shape[1], -1)

    def _states_n(self, proprio: Tensor) -> Tensor | None:
        return None if self.spec.proprio == "none" else self.proprio_stats.forward(proprio)

    def _extrinsics_n(self, like: Tensor) -> Tensor | None:
        """The camera's pose for every frame of `like` `[B, T, ...]`, or none."""
        if not self.spec.extrinsics:
            return None
        pose = torch.tensor(self.spec.extrinsics, device=self.device)
        return pose.expand(*like.shape[:2], -1)

    def _vectors(self, value: FloatArray | Tensor, size: int, what: str) -> Tensor:
        """`[size]` or `[B, size]` to float32 `[B, 1, size]` on the device."""
        if not isinstance(value, Tensor):
            value = np.asarray(value, np.float32)
            if value.shape != (size,) or not np.isfinite(value).all():
                raise ValueError(f"{what}: got {value}, want {size} finite numbers")
            value = torch.from_numpy(value)[None]
        if value.ndim != 2 or value.shape[1] != size:
            raise ValueError(f"{what}: got {tuple(value.shape)}, want [B, {size}]")
        return value.to(self.device)[:, None]
