"""Detects when the model is wrong: novel pictures, large prediction errors, no progress.

The reference is demonstrations that the model was not trained on: how far their frames are from the
nearest training frame, and how large one-step prediction errors are on them. These statistics are
stored in the checkpoint; deployment compares its own with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from msgspec import Meta
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from robot_wm.data import AlignedData, TokenStore, scale_frames
from robot_wm.models import EncodedFrames, ModelInfo, WorldModel, device_of
from robot_wm.types import (
    Count,
    Decision,
    FloatArray,
    ImageArray,
    Observation,
    Positive,
    RunError,
    UserError,
    Verdict,
    check_fields,
)

FILE = "normal.safetensors"
_BATCH_SIZE = 64  # predictions
_MAX_FEATURES = 4096  # of a latent; larger latents are compared by mean and standard deviation
_DARK, _FLAT = 12.0, 2.0  # of 255: mean of a black picture, standard deviation of an empty one
_VIEW = (16, 16)  # pixels
# Names of the tensors in the file; old checkpoints have the same.
_STORED = {
    "bank": "bank",
    "views": "views",
    "novelty": "strangeness",
    "view_novelty": "view_strangeness",
    "prediction_errors": "surprise",
}
_STILL_RAD = 0.03  # a joint that moved further than this changes a working camera's picture


class MonitorError(RunError):
    """Something differs from what the model knows."""


@dataclass(frozen=True, eq=False)
class ReferenceStatistics:
    """Statistics of a model on demonstrations.

    Attributes:
        bank: features `[N, F]` of training frames.
        views: the same frames as small pictures `[N, V]`, 0 to 1: an encoder that was trained to
            ignore what does not matter may take a black picture for one it knows.
        novelty: distances of held-out frames to the nearest of the bank, `[M]`, increasing.
        view_novelty: the same for the small pictures.
        prediction_errors: one-step prediction errors on held-out episodes, `[K]`, increasing.
    """

    bank: Tensor
    views: Tensor
    novelty: Tensor
    view_novelty: Tensor
    prediction_errors: Tensor

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            num_axes = 2 if name in ("bank", "views") else 1
            if value.ndim != num_axes or not value.numel() or not value.isfinite().all():
                raise UserError(f"{FILE}: {name} is {tuple(value.shape)}, or not finite")
        for name in ("novelty", "view_novelty", "prediction_errors"):
            if (getattr(self, name).diff() < 0).any():
                raise UserError(f"{FILE}: {name} is not in order")
        for name in ("novelty", "view_novelty"):
            if not getattr(self, name)[-1] > 0:  # a divisor: 0 / 0 would pass as not novel
                raise UserError(f"{FILE}: {name} ends at {float(getattr(self, name)[-1])}")

    def novelty_of(self, latent: Tensor, images: Sequence[ImageArray]) -> float:
        """Returns how far pictures are from the training frames; 1: as far as any held-out one.

        Args:
            latent: of the pictures `[P, D]`.
            images: of the model's cameras, in their order, uint8 `[height, width, 3]`.

        Returns:
            The larger of the distances by latent and by small pictures.
        """
        return max(self.far(latent, images))

    def far(self, latent: Tensor, images: Sequence[ImageArray]) -> tuple[float, float]:
        """Returns both distances that `novelty_of` compares: by latent, and by small pictures."""
        features = _features(latent[None]).cpu()
        views = torch.cat([_views(image[None]) for image in images], dim=1)
        return (
            float(_distances(features, self.bank) / self.novelty[-1]),
            float(_distances(views, self.views) / self.view_novelty[-1]),
        )

    def check(self, info: ModelInfo) -> None:
        """Raises UserError unless the sizes fit a model."""
        latent_size = info.num_tokens * info.dim
        sizes = {
            "bank": latent_size if latent_size <= _MAX_FEATURES else 2 * info.dim,
            "views": 3 * _VIEW[0] * _VIEW[1] * len(info.views),
        }
        for name, size in sizes.items():
            got = getattr(self, name).shape[1]
            if got != size:
                raise UserError(f"{FILE}: {name} of {got} numbers, want {size}")

    def p_value(self, error: float) -> float:
        """Returns the share of predictions, on demonstrations and this one, at least as wrong."""
        if not math.isfinite(error):
            return 0.0
        at_least = len(self.prediction_errors) - int(
            torch.searchsorted(self.prediction_errors, error)
        )
        return (1 + at_least) / (1 + len(self.prediction_errors))

    @property
    def least_p(self) -> float:
        """The smallest p-value that these statistics can give."""
        return 1 / (1 + len(self.prediction_errors))

    def to_bytes(self) -> bytes:
        """Returns the content of the checkpoint's file."""
        tensors = {_STORED[name]: value.cpu().contiguous() for name, value in vars(self).items()}
        tensors["views"] = (tensors["views"] * 255).round().to(torch.uint8)
        return save(tensors)

    @classmethod
    def from_bytes(cls, content: bytes) -> ReferenceStatistics:
        """Reads the content of a checkpoint's file.

        Args:
            content: of the file.

        Returns:
            The statistics.

        Raises:
            UserError: the file is damaged, or another kind of file.
        """
        try:
            stored = load(content)
            tensors = {name: stored.pop(key) for name, key in _STORED.items()}
            if stored:
                raise UserError(f"{FILE}: unknown parts {', '.join(sorted(stored))}")
            return cls(**{**tensors, "views": tensors["views"].float() / 255})
        except (SafetensorError, TypeError, LookupError, RuntimeError) as error:
            raise UserError(f"{FILE}: {error}") from error


def prediction_error(predicted: Tensor, observed: Tensor) -> float:
    """Returns the mean absolute difference of two latents `[P, D]`."""
    return float((predicted - observed).abs().mean())


@torch.no_grad()
def fit_reference(
    model: WorldModel,
    data: AlignedData,
    tokens: TokenStore,
    training: Sequence[int],
    held_out: Sequence[int],
    *,
    num_frames: int = 500,
) -> ReferenceStatistics:
    """Computes a model's reference statistics from demonstrations.

    Args:
        model: trained.
        data: the demonstrations.
        tokens: of their frames.
        training: positions of the episodes that the model was trained on.
        held_out: positions of others.
        num_frames: about so many frames of each.

    Returns:
        The statistics.

    Raises:
        UserError: a frame does not decode, or the held-out episodes are too short.
    """
    bank, views = _frame_features(model, data, tokens, training, num_frames)
    others, other_views = _frame_features(model, data, tokens, held_out, num_frames)
    errors = [
        _one_step_errors(model, data, tokens, i, math.ceil(num_frames / len(held_out)))
        for i in held_out
    ]
    return ReferenceStatistics(
        bank,
        views,
        _distances(others, bank).sort().values.clamp_min(1e-9),
        _distances(other_views, views).sort().values.clamp_min(1e-9),
        torch.cat(errors).sort().values,
    )


def _frame_features(
    model: WorldModel,
    data: AlignedData,
    tokens: TokenStore,
    episodes: Sequence[int],
    num_frames: int,
) -> tuple[Tensor, Tensor]:
    """Returns features `[N, F]` and small pictures `[N, V]` of frames spread over some episodes."""
    features, views = [], []
    num_per_episode = math.ceil(num_frames / len(episodes))
    for i in episodes:
        rows = _spread(len(data.indices[i]), num_per_episode)
        observed = _frames(data, tokens, i, rows)
        latents = model.latent(model.observe(model.initial(), observed, None))
        features.append(_features(latents).cpu())
        episode = data.dataset.episode(data.episodes[i])
        indices = data.indices[i][rows].tolist()
        frames = [data.dataset.frames(episode, camera, indices) for camera in data.cameras]
        views.append(torch.cat([_views(images) for images in frames], dim=1))
    return torch.cat(features), torch.cat(views)


def _one_step_errors(
    model: WorldModel, data: AlignedData, tokens: TokenStore, i: int, num: int
) -> Tensor:
    """Returns the errors of about `num` one-step predictions in episode `i`."""
    context, device = model.info.context_frames, device_of(model)
    noise = torch.Generator(device).manual_seed(i)
    rows = _spread(len(tokens[i]) - context, num) + context  # the frames that are predicted
    actions = torch.from_numpy(np.array(data.actions[i], np.float32)).to(device)
    errors: list[float] = []
    for part in np.array_split(rows, max(1, math.ceil(len(rows) / _BATCH_SIZE))):
        state = model.initial()
        for back in range(context, 0, -1):
            applied = None if back == context else actions[part - back - 1]
            state = model.observe(state, _frames(data, tokens, i, part - back), applied)
        imagined = model.rollout(state, actions[part - 1][:, None], noise).mean[:, 0]
        observed = _frames(data, tokens, i, part)
        latents = model.latent(model.observe(model.initial(), observed, None))
        errors += [prediction_error(*pair) for pair in zip(imagined, latents, strict=True)]
    return torch.tensor(errors)


def _frames(data: AlignedData, tokens: TokenStore, i: int, rows: np.ndarray) -> EncodedFrames:
    """Returns some frames of episode `i`, encoded."""
    arrays = (np.array(values[i][rows], np.float32) for values in (tokens, data.proprio))
    return EncodedFrames(*(torch.from_numpy(array) for array in arrays))


def _spread(length: int, num: int) -> np.ndarray:
    """Returns at most `num` evenly spaced indices into `length` items."""
    return np.unique(np.linspace(0, length - 1, min(num, max(length, 0))).astype(np.int64))


def _views(images: ImageArray) -> Tensor:
    """Returns pictures `[N, height, width, 3]` scaled down to be compared directly, `[N, V]`."""
    return torch.from_numpy(scale_frames(images, _VIEW)).flatten(1).float() / 255


def _features(latents: Tensor) -> Tensor:
    """Returns what is compared of latents `[N, P, D]`, `[N, F]`."""
    if latents[0].numel() <= _MAX_FEATURES:
        return latents.flatten(1)
    return torch.cat((latents.mean(1), latents.std(1)), dim=1)


def _distances(features: Tensor, bank: Tensor) -> Tensor:
    """Returns root mean square differences of each `[N, F]` to the nearest of a bank, `[N]`."""
    far = torch.cdist(features, bank.to(features), compute_mode="donot_use_mm_for_euclid_dist")
    return far.min(1).values / math.sqrt(features.shape[1])


def load_reference(directory: Path, info: ModelInfo) -> ReferenceStatistics | None:
    """Reads the reference statistics of a checkpoint.

    Args:
        directory: of the checkpoint.
        info: of its model.

    Returns:
        The statistics; None: the checkpoint has none.

    Raises:
        UserError: the file is damaged, or another model's.
    """
    path = directory / FILE
    if not path.is_file():
        return None
    reference = ReferenceStatistics.from_bytes(path.read_bytes())
    reference.check(info)
    return reference


@dataclass(frozen=True)
class NoveltySettings:
    """When a picture is unlike those of the training data.

    Attributes:
        novelty_ratio: A picture is refused if it is more than this many times as far from the
            training frames as the farthest held-out one.
        allow_novel: Such pictures are reported where a run begins, and not refused.
    """

    novelty_ratio: Positive = 1.5
    allow_novel: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class MonitorSettings(NoveltySettings):
    """When a deviation from the reference statistics stops the arm.

    Attributes:
        prediction_error_p: A prediction error is large if its p-value on the demonstrations is at
            most this.
        large_errors: Number of large prediction errors in a row that stops the arm.
        progress_plans: Window length of the progress check, plans.
        progress_share: The arm is stopped if the actual energy drop over the window is below this
            share of the predicted drop.
        progress_steps: Progress is checked only if the predicted drop is at least this many times
            the energy of a step of the training data.
    """

    prediction_error_p: Annotated[float, Meta(gt=0, le=1)] = 0.01
    large_errors: Count = 3
    progress_plans: Count = 6
    progress_share: Positive = 0.1
    progress_steps: Positive = 1.0


class Monitors:
    """Watches a run; every check raises MonitorError with what is wrong.

    Args:
        normal: reference statistics of the checkpoint; None: only what needs none is checked.
        settings: thresholds.
        step_energy: mean energy of a step of the training data; None: progress is not checked.
    """

    def __init__(
        self,
        normal: ReferenceStatistics | None,
        settings: MonitorSettings,
        *,
        step_energy: float | None,
    ) -> None:
        self._normal, self._settings, self._step_energy = normal, settings, step_energy
        self.begin()

    def begin(self) -> None:
        """Forgets the run before."""
        self._num_large_errors = 0
        self._energy_drops: list[tuple[float, float]] = []  # predicted and actual, by plan
        self._last_images: dict[str, tuple[ImageArray, FloatArray]] = {}  # and joints, by camera

    def check_novelty(
        self, what: str, latent: Tensor, images: Sequence[ImageArray]
    ) -> float | None:
        """Checks that pictures are like the training data's (`ReferenceStatistics.novelty_of`).

        Args:
            what: name of the pictures, for the message.
            latent: of the pictures `[P, D]`.
            images: of the model's cameras, in their order, uint8 `[height, width, 3]`.

        Returns:
            Their novelty; None without reference statistics.

        Raises:
            MonitorError: the pictures are too novel.
        """
        if self._normal is None:
            return None
        ratio = self._normal.novelty_of(latent, images)
        if not ratio <= self._settings.novelty_ratio:
            raise MonitorError(
                f"{what} is unlike the training pictures: {ratio:.1f} times as far from them as "
                f"any held-out one (allowed: {self._settings.novelty_ratio:g})"
            )
        return ratio

    def picture(self, name: str, image: ImageArray) -> None:
        """Checks that a camera's picture is neither black nor empty.

        Args:
            name: of the camera.
            image: uint8 `[height, width, 3]`.

        Raises:
            MonitorError: it is.
        """
        if image.mean() < _DARK or image.std() < _FLAT:
            raise MonitorError(
                f"camera {name} shows nothing: brightness {image.mean():.0f}, spread "
                f"{image.std():.1f} of 255"
            )

    def camera(self, name: str, image: ImageArray, joints: FloatArray) -> None:
        """Checks that a camera shows something, and something new once the arm has moved.

        Args:
            name: of the camera.
            image: uint8 `[height, width, 3]`.
            joints: where the arm stands `[J]`, rad.

        Raises:
            MonitorError: the picture is black, empty, or frozen.
        """
        self.picture(name, image)
        if name in self._last_images:
            before, joints_before = self._last_images[name]
            moved = float(np.abs(joints - joints_before).max())
            if moved > _STILL_RAD and np.array_equal(image, before):
                raise MonitorError(
                    f"camera {name} is frozen: the same picture after a joint moved {moved:.2f} rad"
                )
            if np.array_equal(image, before):
                return  # keeps the old joints, so that small steps add up
        self._last_images[name] = image, np.array(joints)

    def predicted(self, predicted: Tensor, observed: Tensor) -> float | None:
        """Checks a prediction's error, once its action was executed.

        Args:
            predicted: latent `[P, D]`.
            observed: latent `[P, D]`.

        Returns:
            The error's p-value; None without reference statistics.

        Raises:
            MonitorError: too many large errors in a row.
        """
        if self._normal is None:
            return None
        error = prediction_error(predicted, observed)
        p_value = self._normal.p_value(error)
        large = p_value <= self._settings.prediction_error_p
        self._num_large_errors = self._num_large_errors + 1 if large else 0
        if self._num_large_errors >= self._settings.large_errors:
            raise MonitorError(
                f"what it saw is not what it imagined, {self._num_large_errors} times in a row: "
                f"error {error:.3f}, p = {p_value:.4f} against demonstrations"
            )
        return p_value

    def progress(self, promised: float, real: float) -> None:
        """Checks that energy falls as plans predict.

        Args:
            promised: energy drop that the plan's first action was predicted to bring.
            real: energy drop that it brought.

        Raises:
            MonitorError: the actual drop over the last plans is too small.
        """
        num_plans = self._settings.progress_plans
        self._energy_drops = [*self._energy_drops, (promised, real)][-num_plans:]
        if len(self._energy_drops) < num_plans or self._step_energy is None:
            return
        predicted, actual = (sum(drops) for drops in zip(*self._energy_drops, strict=True))
        if predicted < self._settings.progress_steps * self._step_energy:
            return
        if actual < self._settings.progress_share * predicted:
            raise MonitorError(
                f"no progress: {num_plans} plans promised an energy drop of {predicted:.3f}, "
                f"{actual:.3f} came"
            )


class MonitorGuard:
    """Stops a run at what the monitors report (`robot_wm.types.Guard`).

    Args:
        monitors: the checks.
        cameras: that the controller uses.
        joints: returns where the arm stood at the last observation `[J]`, rad.
        moves: whether decisions are executed; if not, their results are not checked.
    """

    def __init__(
        self,
        monitors: Monitors,
        cameras: Sequence[str],
        joints: Callable[[], FloatArray],
        *,
        moves: bool = True,
    ) -> None:
        self._monitors, self._cameras = monitors, tuple(cameras)
        self._joints, self._moves = joints, moves
        self._last: Decision | None = None

    def check(self, obs: Observation, decision: Decision, applied: FloatArray | None) -> Verdict:
        """Checks an observation, and what came of the last decision.

        Args:
            obs: what is observed now.
            decision: about it.
            applied: the action that was executed since the last observation `[A]`; None: the first.

        Returns:
            A fault where a check fails; else `p_value`, of the last prediction's error, where it is
            known.
        """
        if applied is None:  # a run begins
            self._monitors.begin()
            self._last = None
        last, self._last = self._last, decision
        try:
            for name in self._cameras:
                if self._moves:
                    self._monitors.camera(name, obs.images[name], self._joints())
                else:
                    self._monitors.picture(name, obs.images[name])
            if not self._moves:
                return Verdict()
            if last is None or applied is None:  # nothing was predicted
                return Verdict()
            p_value = self._judge(last, decision, applied)
        except MonitorError as error:
            return Verdict("fault", str(error))
        return Verdict() if p_value is None else Verdict(numbers={"p_value": p_value})

    def _judge(self, last: Decision, now: Decision, applied: FloatArray) -> float | None:
        """Compares the result of the last decision with what was imagined; returns the p-value."""
        if last.predict_one_step is None or last.energy is None or now.energy is None:
            return None
        latent, energy = last.predict_one_step(applied)
        p_value = self._monitors.predicted(latent, now.latent)
        if now.goal == last.goal:
            self._monitors.progress(last.energy - energy, last.energy - now.energy)
        return p_value
