"""When the model is wrong: is what it sees, and what became of what it imagined, still normal?

What is normal comes from demonstrations that it was not trained on: how far their frames are from
the nearest training frame, and how far off one-step predictions are on them. The distances go into
the checkpoint; deployment asks how unusual its own are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from robot_wm.data import AlignedData, TokenStore, scale_frames
from robot_wm.models import EncodedFrames, ModelInfo, WorldModel, device_of
from robot_wm.types import (
    Decision,
    FloatArray,
    ImageArray,
    Observation,
    RunError,
    UserError,
    Verdict,
)

FILE = "normal.safetensors"
_AT_ONCE = 64  # predictions
_WHOLE = 4096  # numbers of a latent that are compared one by one; of larger ones, mean and spread
_DARK, _FLAT = 12.0, 2.0  # of 255: mean of a black picture, spread of an empty one
_VIEW = (16, 16)  # pixels
# What the parts of the file are called there, which checkpoints have that were written long ago.
_STORED = {
    "bank": "bank",
    "views": "views",
    "novelty": "strangeness",
    "view_novelty": "view_strangeness",
    "prediction_errors": "surprise",
}
_STILL_RAD = 0.03  # joints that moved this far are seen by a camera that looks


class MonitorError(RunError):
    """What happens is not what the model knows."""


@dataclass(frozen=True, eq=False)
class ReferenceStatistics:
    """What a model meets on demonstrations.

    Attributes:
        bank: features `[N, F]` of training frames.
        views: the same frames as small pictures `[N, V]`, 0 to 1: an encoder that was trained to
            look away from what does not matter may take a black picture for one it knows.
        novelty: distances of held-out frames to the nearest of the bank, `[M]`, increasing.
        view_novelty: likewise of the views.
        prediction_errors: errors of one-step predictions on held-out episodes, `[K]`, increasing.
    """

    bank: Tensor
    views: Tensor
    novelty: Tensor
    view_novelty: Tensor
    prediction_errors: Tensor

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            wanted = 2 if name in ("bank", "views") else 1
            if value.ndim != wanted or not value.numel() or not value.isfinite().all():
                raise UserError(f"{FILE}: {name} is {tuple(value.shape)}, or not finite")
        for name in ("novelty", "view_novelty", "prediction_errors"):
            if (getattr(self, name).diff() < 0).any():
                raise UserError(f"{FILE}: {name} is not in order")
        for name in ("novelty", "view_novelty"):
            if not getattr(self, name)[-1] > 0:  # is divided by: 0 / 0 would pass for familiar
                raise UserError(f"{FILE}: {name} ends at {float(getattr(self, name)[-1])}")

    def novelty_of(self, latent: Tensor, images: Sequence[ImageArray]) -> float:
        """How far what is seen is from the training frames: 1 is the farthest held-out one.

        Args:
            latent: of it `[P, D]`.
            images: of the model's cameras, in their order, uint8 `[height, width, 3]`.
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
        """Raises UserError unless it is of a model's kind."""
        whole = info.num_tokens * info.dim
        wanted = {
            "bank": whole if whole <= _WHOLE else 2 * info.dim,
            "views": 3 * _VIEW[0] * _VIEW[1] * len(info.views),
        }
        for name, size in wanted.items():
            if getattr(self, name).shape[1] != size:
                have = getattr(self, name).shape[1]
                raise UserError(f"{FILE}: {name} of {have} numbers, want {size}")

    def p_value(self, error: float) -> float:
        """Share of demonstrations' predictions that were off by as much, of one more than all."""
        if not math.isfinite(error):
            return 0.0
        at_least = len(self.prediction_errors) - int(
            torch.searchsorted(self.prediction_errors, error)
        )
        return (1 + at_least) / (1 + len(self.prediction_errors))

    @property
    def least_p(self) -> float:
        """The smallest p-value that so many predictions can tell."""
        return 1 / (1 + len(self.prediction_errors))

    def to_bytes(self) -> bytes:
        """As a file of a checkpoint."""
        tensors = {_STORED[name]: value.cpu().contiguous() for name, value in vars(self).items()}
        tensors["views"] = (tensors["views"] * 255).round().to(torch.uint8)
        return save(tensors)

    @classmethod
    def from_bytes(cls, content: bytes) -> ReferenceStatistics:
        """From a file of a checkpoint.

        Raises:
            UserError: it is damaged, or something else.
        """
        try:
            stored = load(content)
            tensors = {name: stored.pop(key) for name, key in _STORED.items()}
            if stored:
                raise UserError(f"{FILE}: unknown parts {', '.join(sorted(stored))}")
            return cls(**{**tensors, "views": tensors["views"].float() / 255})
        except (SafetensorError, TypeError, LookupError, RuntimeError) as error:
            raise UserError(f"{FILE}: {error}") from error


def prediction_error(predicted: Tensor, seen: Tensor) -> float:
    """Mean absolute difference of two latents `[P, D]`."""
    return float((predicted - seen).abs().mean())


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
    """Looks at demonstrations.

    Args:
        model: trained.
        data: the demonstrations.
        tokens: of their frames.
        training: positions of the episodes that it was trained on.
        held_out: of others.
        num_frames: about so many of each.

    Raises:
        UserError: a frame does not decode, or the held-out episodes are too short.
    """
    bank, views = _known(model, data, tokens, training, num_frames)
    others, other_views = _known(model, data, tokens, held_out, num_frames)
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


def _known(
    model: WorldModel,
    data: AlignedData,
    tokens: TokenStore,
    episodes: Sequence[int],
    num_frames: int,
) -> tuple[Tensor, Tensor]:
    """Features `[N, F]` and views `[N, V]` of frames spread over some episodes."""
    features, views = [], []
    each = math.ceil(num_frames / len(episodes))
    for i in episodes:
        rows = _spread(len(data.indices[i]), each)
        seen = _seen(data, tokens, i, rows)
        latents = model.latent(model.observe(model.initial(), seen, None))
        features.append(_features(latents).cpu())
        episode = data.dataset.episode(data.episodes[i])
        where = data.indices[i][rows].tolist()
        frames = [data.dataset.frames(episode, camera, where) for camera in data.cameras]
        views.append(torch.cat([_views(each) for each in frames], dim=1))
    return torch.cat(features), torch.cat(views)


def _one_step_errors(
    model: WorldModel, data: AlignedData, tokens: TokenStore, i: int, num: int
) -> Tensor:
    """Errors of one-step predictions in an episode."""
    context, device = model.info.context_frames, device_of(model)
    noise = torch.Generator(device).manual_seed(i)
    rows = _spread(len(tokens[i]) - context, num) + context  # the frames that are predicted
    actions = torch.from_numpy(np.array(data.actions[i], np.float32)).to(device)
    errors: list[float] = []
    for part in np.array_split(rows, max(1, math.ceil(len(rows) / _AT_ONCE))):
        state = model.initial()
        for back in range(context, 0, -1):
            applied = None if back == context else actions[part - back - 1]
            state = model.observe(state, _seen(data, tokens, i, part - back), applied)
        imagined = model.rollout(state, actions[part - 1][:, None], noise).mean[:, 0]
        seen = _seen(data, tokens, i, part)
        latents = model.latent(model.observe(model.initial(), seen, None))
        errors += [prediction_error(*pair) for pair in zip(imagined, latents, strict=True)]
    return torch.tensor(errors)


def _seen(data: AlignedData, tokens: TokenStore, i: int, rows: np.ndarray) -> EncodedFrames:
    """Some frames of an episode."""
    own = (np.array(values[i][rows], np.float32) for values in (tokens, data.proprio))
    return EncodedFrames(*(torch.from_numpy(value) for value in own))


def _spread(length: int, num: int) -> np.ndarray:
    """At most `num` places among `length`, evenly."""
    return np.unique(np.linspace(0, length - 1, min(num, max(length, 0))).astype(np.int64))


def _views(images: ImageArray) -> Tensor:
    """Pictures `[N, height, width, 3]` small enough to be compared as they are, `[N, V]`."""
    return torch.from_numpy(scale_frames(images, _VIEW)).flatten(1).float() / 255


def _features(latents: Tensor) -> Tensor:
    """What of latents `[N, P, D]` is compared, `[N, F]`."""
    if latents[0].numel() <= _WHOLE:
        return latents.flatten(1)
    return torch.cat((latents.mean(1), latents.std(1)), dim=1)


def _distances(features: Tensor, bank: Tensor) -> Tensor:
    """Root mean square difference of each `[N, F]` to the nearest of a bank, `[N]`."""
    far = torch.cdist(features, bank.to(features), compute_mode="donot_use_mm_for_euclid_dist")
    return far.min(1).values / math.sqrt(features.shape[1])


def load_reference(directory: Path, info: ModelInfo) -> ReferenceStatistics | None:
    """Reads what is normal for the model of a checkpoint; None: not known.

    Raises:
        UserError: the file is damaged, or another model's.
    """
    path = directory / FILE
    if not path.is_file():
        return None
    normal = ReferenceStatistics.from_bytes(path.read_bytes())
    normal.check(info)
    return normal


@dataclass(frozen=True)
class MonitorSettings:
    """When what happens is no longer normal.

    Attributes:
        novelty_ratio: a picture this many times as far from the training frames as the farthest
            held-out one is refused.
        prediction_error_p: share of the demonstrations' predictions that are off by as much, at or
            below which a prediction error is large.
        large_errors: number of large prediction errors in a row that stops the arm.
        progress_plans: number of plans over which progress is judged.
        progress_share: the arm is stopped where the energy fell by less than this share of what
            those plans promised together.
        progress_steps: progress is judged only where they promised at least this many times what
            a step of the training data changes.
    """

    novelty_ratio: float = 1.5
    prediction_error_p: float = 0.01
    large_errors: int = 3
    progress_plans: int = 6
    progress_share: float = 0.1
    progress_steps: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            whole = name in ("large_errors", "progress_plans")
            kinds = (int,) if whole else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < math.inf:
                number = "whole number" if whole else "number"
                raise UserError(f"monitors.{name}: got {value!r}, want a {number} above zero")
        if self.prediction_error_p > 1:
            raise UserError(
                f"monitors.prediction_error_p: got {self.prediction_error_p}, want at most 1"
            )


class Monitors:
    """Watches a run; every method raises MonitorError with what is not normal.

    Args:
        normal: of the checkpoint; None: only what needs no demonstrations is watched.
        settings: when to speak.
        step_energy: what a step of the training data is worth; None: progress is not watched.
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
        """Forgets what came before: a run begins."""
        self._num_large_errors = 0
        self._promised: list[tuple[float, float]] = []
        self._seen: dict[str, tuple[ImageArray, FloatArray]] = {}

    def look(self, what: str, latent: Tensor, images: Sequence[ImageArray]) -> float | None:
        """How new it is what the model's cameras see (`ReferenceStatistics.novelty_of`).

        Args:
            what: names it.
            latent: of it `[P, D]`.
            images: of the model's cameras, in their order, uint8 `[height, width, 3]`.
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
        """A camera that is black or sees nothing.

        Args:
            name: of it.
            image: what it shows, uint8 `[height, width, 3]`.
        """
        if image.mean() < _DARK or image.std() < _FLAT:
            raise MonitorError(
                f"camera {name} shows nothing: brightness {image.mean():.0f}, spread "
                f"{image.std():.1f} of 255"
            )

    def camera(self, name: str, image: ImageArray, joints: FloatArray) -> None:
        """A camera that shows nothing, or the same though the arm has moved since the last look.

        Args:
            name: of it.
            image: what it shows, uint8 `[height, width, 3]`.
            joints: where the arm stands `[J]`, rad.
        """
        self.picture(name, image)
        if name in self._seen:
            before, stood = self._seen[name]
            moved = float(np.abs(joints - stood).max())
            if moved > _STILL_RAD and np.array_equal(image, before):
                raise MonitorError(
                    f"camera {name} is frozen: the same picture after a joint moved {moved:.2f} rad"
                )
            if np.array_equal(image, before):
                return  # small steps add up
        self._seen[name] = image, np.array(joints)

    def predicted(self, predicted: Tensor, seen: Tensor) -> float | None:
        """The p-value of a prediction's error, once its action was executed."""
        if self._normal is None:
            return None
        error = prediction_error(predicted, seen)
        p_value = self._normal.p_value(error)
        large = p_value <= self._settings.prediction_error_p
        self._num_large_errors = self._num_large_errors + 1 if large else 0
        if self._num_large_errors >= self._settings.large_errors:
            raise MonitorError(
                f"what it sees is not what it imagined, {self._num_large_errors} times in a row: "
                f"error {error:.3f}, p = {p_value:.4f} against demonstrations"
            )
        return p_value

    def progress(self, promised: float, real: float) -> None:
        """Energy drops: the one that a plan's first action promised, and the one that came."""
        looks = self._settings.progress_plans
        self._promised = [*self._promised, (promised, real)][-looks:]
        if len(self._promised) < looks or self._step_energy is None:
            return
        promise, came = (sum(drop) for drop in zip(*self._promised, strict=True))
        if promise < self._settings.progress_steps * self._step_energy:
            return
        if came < self._settings.progress_share * promise:
            raise MonitorError(
                f"no progress: {looks} plans promised an energy drop of {promise:.3f}, "
                f"{came:.3f} came"
            )


class MonitorGuard:
    """Stops a run where what it sees is not normal, or not what it imagined (robot_wm.types.Guard).

    Args:
        monitors: judge.
        cameras: that the controller sees through.
        joints: where the arm stood at the last look `[J]`, rad.
        moves: whether what is decided really happens; else what comes of it is not judged.
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
        """A fault where something is not normal; else `p_value`, of the last prediction's error."""
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
            if last is None or applied is None:
                return Verdict()
            p_value = self._judge(last, decision, applied)
        except MonitorError as error:
            return Verdict("fault", str(error))
        return Verdict() if p_value is None else Verdict(numbers={"p_value": p_value})

    def _judge(self, last: Decision, now: Decision, applied: FloatArray) -> float | None:
        """Holds what came of the last decision against what was imagined."""
        if last.predict_one_step is None or last.energy is None or now.energy is None:
            return None
        latent, energy = last.predict_one_step(applied)
        p_value = self._monitors.predicted(latent, now.latent)
        if now.goal == last.goal:
            self._monitors.progress(last.energy - energy, last.energy - now.energy)
        return p_value
