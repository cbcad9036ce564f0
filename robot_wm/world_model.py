"""World models: look, remember, imagine. Everything above speaks robot units and uint8 pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robot_wm.data import Batch
from robot_wm.encoders import Encoder
from robot_wm.poses import integrate_poses
from robot_wm.predictor import KeyValueCache, Predictor
from robot_wm.preprocess import NormStats, prepare_images
from robot_wm.types import (
    ActionSpec,
    FloatArray,
    ImageArray,
    Observation,
    PlanningError,
    check_counts,
    check_image,
)

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

    def latent(self, state: State) -> Tensor:
        """The latent of what was seen last, as `embed` makes it."""
        ...

    def embed(self, images: Mapping[str, ImageArray]) -> Tensor:
        """The latent of a picture, by camera name: a goal, or what is not observed."""
        ...

    def rollout(self, state: State, actions: Tensor) -> Tensor:
        """Latents `[N, H, ...]` imagined under `actions` `[N, H, A]`, robot's units."""
        ...

    def loss(
        self, batch: Batch, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """Training loss (scalar, with gradient) and metrics, random by `generator` alone."""
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
            them up; `"pose"`: state and actions are those of robot_wm.poses, seven numbers each;
            `"none"`: the predictor sees no proprioception.
        context_frames: frames it remembers while planning.
        features: the space it imagines in. `"raw"`: the encoder's tokens; `"layer_norm"`: each
            token normalised over its channels, as V-JEPA 2-AC has it; `"channel_norm"`: each
            channel normalised by its statistics over the training frames.
        extrinsics: the camera's pose, for a predictor that sees it.
        step_energy: `"l1"` and `"l2"` distance between the latents of neighbouring frames, mean
            over the training episodes: what one step is worth where a planner has to tell whether
            it has arrived. None: not known.
    """

    camera: str
    image_height: int
    image_width: int
    dt: float
    state_names: tuple[str, ...]
    action_spec: ActionSpec
    proprio: Literal["integrate", "pose", "none"] = "integrate"
    context_frames: int = 2
    features: Literal["raw", "layer_norm", "channel_norm"] = "raw"
    extrinsics: tuple[float, ...] = ()
    step_energy: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "state_names", tuple(self.state_names))
        if isinstance(self.dt, int):
            object.__setattr__(self, "dt", float(self.dt))
        object.__setattr__(self, "extrinsics", tuple(float(x) for x in self.extrinsics))
        if self.proprio not in ("integrate", "pose", "none"):
            raise ValueError(f"proprio: got {self.proprio!r}, want 'integrate', 'pose' or 'none'")
        if self.features not in ("raw", "layer_norm", "channel_norm"):
            raise ValueError(
                f"features: got {self.features!r}, want 'raw', 'layer_norm' or 'channel_norm'"
            )
        if self.proprio == "pose" and not len(self.state_names) == self.action_spec.size == 7:
            raise ValueError(
                f"proprio: 'pose' needs 7 states and 7 actions (x y z, roll pitch yaw, gripper), "
                f"got {self.state_names} and {self.action_spec.names}"
            )
        if self.proprio == "integrate" and len(self.state_names) != self.action_spec.size:
            raise ValueError(
                f"proprio: 'integrate' needs one action per state dimension, got actions "
                f"{self.action_spec.names} and states {self.state_names}"
            )
        check_counts(
            context_frames=self.context_frames,
            image_height=self.image_height,
            image_width=self.image_width,
        )
        if not (isinstance(self.dt, float) and 0 < self.dt < np.inf):
            raise ValueError(f"dt: got {self.dt!r}, want seconds above zero")
        if not np.isfinite(self.extrinsics).all():
            raise ValueError(f"extrinsics: got {self.extrinsics}, want finite numbers")
        energy = self.step_energy
        if energy is not None and not (
            set(energy) == {"l1", "l2"} and all(0 <= float(e) < np.inf for e in energy.values())
        ):
            raise ValueError(f"step_energy: got {energy}, want finite l1 and l2, 0 or more")


@dataclass(frozen=True)
class LatentState:
    """The last few frames: latents `[T, P, D]`, proprio `[T, Q]`, actions between `[T - 1, A]`.

    The cache holds what the predictor made of all but the last: computed once per observation, for
    all candidates of a plan.
    """

    latents: Tensor
    proprio: Tensor
    actions: Tensor
    cache: KeyValueCache | None


class LatentWorldModel:
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
        ValueError: parts that do not fit together.
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
        if error not in ("l1", "l2"):
            raise ValueError(f"error: got {error!r}, want 'l1' or 'l2'")
        check_counts(rollout_steps=rollout_steps)
        if spec.context_frames > predictor.config.max_frames:
            raise ValueError(
                f"context_frames: got {spec.context_frames}, want at most the predictor's "
                f"max_frames, {predictor.config.max_frames}"
            )
        if rollout_prefix not in ("first", "random"):
            raise ValueError(f"rollout_prefix: got {rollout_prefix!r}, want 'first' or 'random'")
        shape, num_states = predictor.config, len(spec.state_names)
        fits = {
            "tokens per frame": (encoder.grid, shape.grid),
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
                raise ValueError(f"{name}: got {one} and {other}, want the same")
        self.encoder = encoder
        self.predictor = predictor
        self.spec = spec
        self.action_stats = action_stats
        self.proprio_stats = proprio_stats
        self.feature_stats = feature_stats
        self.error: Literal["l1", "l2"] = error
        self.rollout_steps = rollout_steps
        self.rollout_prefix: Literal["first", "random"] = rollout_prefix

    @property
    def dt(self) -> float:
        return self.spec.dt

    @property
    def device(self) -> torch.device:
        return next(self.predictor.parameters()).device

    def to(self, device: torch.device | str) -> LatentWorldModel:
        """This model, its encoder and predictor moved to `device`."""
        self.predictor.to(device)
        if isinstance(self.encoder, nn.Module):
            self.encoder.to(device)
        return self

    def initial(self) -> LatentState | None:
        return None

    def observe(
        self, state: LatentState | None, obs: Observation, applied: FloatArray | None
    ) -> LatentState:
        """See `WorldModel.observe`.

        Raises:
            ValueError: a picture or vector that does not fit, or numbers that are not finite.
        """
        latents = self.embed(obs.images)[None]
        proprio = self._vector(obs.proprio, len(self.spec.state_names), "proprio")
        if state is None or applied is None:
            actions = proprio.new_zeros((0, self.spec.action_spec.size))
            return LatentState(latents, proprio, actions, None)
        action = self._vector(applied, self.spec.action_spec.size, "applied")
        keep = self.spec.context_frames - 1
        if keep == 0:
            return LatentState(latents, proprio, action[:0], None)
        latents = torch.cat((state.latents[-keep:], latents))
        proprio = torch.cat((state.proprio[-keep:], proprio))
        actions = torch.cat((state.actions, action))[-keep:]
        cache = self.remember(latents[None], proprio[None], actions[None])
        return LatentState(latents, proprio, actions, cache)

    def latent(self, state: LatentState) -> Tensor:
        """Latent `[P, D]` of what was seen last."""
        return state.latents[-1]

    def embed(self, images: Mapping[str, ImageArray]) -> Tensor:
        """Latent `[P, D]` of this model's camera picture.

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
            raise PlanningError("the encoder returned tokens that are not finite")
        return self.latents(tokens)

    def latents(self, tokens: Tensor) -> Tensor:
        """The encoder's tokens `[..., P, D]` in the space that this model imagines in."""
        if self.spec.features == "layer_norm":
            return F.layer_norm(tokens, tokens.shape[-1:])
        if self.feature_stats is not None:
            return self.feature_stats.forward(tokens)
        return tokens

    def rollout(self, state: LatentState, actions: Tensor) -> Tensor:
        """Imagines: `actions` `[N, H, A]` in the robot's units to latents `[N, H, P, D]`.

        Where the predictor has K heads, `[N, H, K, P, D]`: what each of them imagines.

        Raises:
            ValueError: another action size, or more frames than the predictor takes.
        """
        return self.predictor.rollout(*self._from(state), *self.inputs(state.proprio[-1:], actions))

    def rollout_selected(
        self,
        state: LatentState,
        actions: Tensor,
        select: Callable[[Tensor], Tensor | None],
    ) -> tuple[Tensor, Tensor]:
        """As `rollout`, but candidates may be dropped on the way (`Predictor.rollout_selected`)."""
        return self.predictor.rollout_selected(
            *self._from(state), *self.inputs(state.proprio[-1:], actions), select=select
        )

    def rollout_roughly(self, state: LatentState, actions: Tensor, depth: int) -> Tensor:
        """As `rollout`, by the predictor's first `depth` blocks alone: a rough guess."""
        return self.predictor.rollout(
            *self._from(state), *self.inputs(state.proprio[-1:], actions), depth=depth
        )

    def imagine(self, latents: Tensor, proprio: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        """Open-loop prediction for sequences with a context each.

        Args:
            latents: context `[B, C, P, D]`.
            proprio: context `[B, C, Q]`, robot's units.
            past: actions within the context, `[B, C - 1, A]`, robot's units.
            actions: those to come, `[B, H, A]`, robot's units.

        Returns:
            Latents of the H frames that follow the context, `[B, H, P, D]`.

        Raises:
            ValueError: another action size, no context, or more frames than the predictor takes.
        """
        if latents.ndim != 4 or not latents.shape[1]:
            raise ValueError(
                f"latents: got {tuple(latents.shape)}, want [B, C, P, D], C at least 1"
            )
        cache = self.remember(latents, proprio, past) if latents.shape[1] > 1 else None
        futures = self.predictor.rollout(
            cache, latents[:, -1], *self.inputs(proprio[:, -1], actions)
        )
        return self._combined(futures)

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
    def remember(self, latents: Tensor, proprio: Tensor, past: Tensor) -> KeyValueCache:
        """What the predictor makes of all but the last frame of a context; as in `imagine`."""
        _, cache = self.predictor.extend(
            None,
            latents[:, :-1],
            self.action_stats.forward(past),
            self._states_n(proprio[:, :-1]),
            self._extrinsics_n(past),
        )
        return cache

    def _from(self, state: LatentState) -> tuple[KeyValueCache | None, Tensor]:
        return state.cache, state.latents[-1:]

    def inputs(
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

    def _vector(self, value: FloatArray, size: int, what: str) -> Tensor:
        """`[size]` to float32 `[1, size]` on the device."""
        value = np.asarray(value, np.float32)
        if value.shape != (size,) or not np.isfinite(value).all():
            raise ValueError(f"{what}: got {value}, want {size} finite numbers")
        return torch.from_numpy(value).to(self.device)[None]
