"""Statistics of a model on demonstrations that it was not trained on.

They tell how far the frames are from the nearest training frame, and how large one-step prediction
errors are. They are stored in the checkpoint; deployment compares a run with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from robot_wm.data import AlignedData, TokenStore, scale_frames
from robot_wm.models import EncodedFrames, ModelInfo, WorldModel, device_of
from robot_wm.types import ImageArray, UserError

FILE = "normal.safetensors"
_BATCH_SIZE = 64  # predictions
_MAX_FEATURES = 4096  # of a latent; larger latents are compared by mean and standard deviation
_THUMBNAIL = (16, 16)  # pixels
# Names of the tensors in the file; old checkpoints have the same.
_STORED = {
    "bank": "bank",
    "thumbnails": "views",
    "novelty": "strangeness",
    "thumbnail_novelty": "view_strangeness",
    "prediction_errors": "surprise",
}


@dataclass(frozen=True, eq=False)
class ReferenceStatistics:
    """Statistics of a model on demonstrations.

    Attributes:
        bank: Features `[N, F]` of training frames.
        thumbnails: Pictures `[N, V]` of the same frames, 0 to 1: an encoder that was trained to
            ignore what does not matter may take a black picture for one it knows.
        novelty: Distances of held-out frames to the nearest of the bank, `[M]`, increasing.
        thumbnail_novelty: Distances of the thumbnails, likewise.
        prediction_errors: One-step prediction errors on held-out episodes, `[K]`, increasing.
    """

    bank: Tensor
    thumbnails: Tensor
    novelty: Tensor
    thumbnail_novelty: Tensor
    prediction_errors: Tensor

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            num_axes = 2 if name in ("bank", "thumbnails") else 1
            if value.ndim != num_axes or not value.numel() or not value.isfinite().all():
                raise UserError(f"{FILE}: {name} is {tuple(value.shape)}, or not finite")
        for name in ("novelty", "thumbnail_novelty", "prediction_errors"):
            if (getattr(self, name).diff() < 0).any():
                raise UserError(f"{FILE}: {name} is not in order")
        for name in ("novelty", "thumbnail_novelty"):
            if not getattr(self, name)[-1] > 0:  # a divisor: 0 / 0 would pass as not novel
                raise UserError(f"{FILE}: {name} ends at {float(getattr(self, name)[-1])}")

    def novelty_of(self, latent: Tensor, images: Sequence[ImageArray]) -> float:
        """Returns the novelty of pictures: how far they are from the training frames.

        It is 1 for pictures that are as far from them as the farthest held-out frame.

        Args:
            latent: Latent of the pictures `[P, D]`.
            images: Pictures of the model's cameras, in their order, uint8 `[height, width, 3]`.

        Returns:
            The larger of the distances by latent and by thumbnail.
        """
        return max(self.distances(latent, images))

    def distances(self, latent: Tensor, images: Sequence[ImageArray]) -> tuple[float, float]:
        """Returns both distances that `novelty_of` compares: by latent, and by thumbnail."""
        features = _features(latent[None]).cpu()
        thumbnails = torch.cat([_thumbnails(image[None]) for image in images], dim=1)
        return (
            float(_distances(features, self.bank) / self.novelty[-1]),
            float(_distances(thumbnails, self.thumbnails) / self.thumbnail_novelty[-1]),
        )

    def check(self, info: ModelInfo) -> None:
        """Checks that the sizes fit a model; raises UserError if they do not."""
        latent_size = info.num_tokens * info.dim
        sizes = {
            "bank": latent_size if latent_size <= _MAX_FEATURES else 2 * info.dim,
            "thumbnails": 3 * _THUMBNAIL[0] * _THUMBNAIL[1] * len(info.views),
        }
        for name, size in sizes.items():
            got = getattr(self, name).shape[1]
            if got != size:
                raise UserError(f"{FILE}: {name} of {got} numbers, want {size}")

    def p_value(self, error: float) -> float:
        """Returns the share of errors, demonstrations' and this one, that are at least as large."""
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
            content: Content of the file.

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
            return cls(**{**tensors, "thumbnails": tensors["thumbnails"].float() / 255})
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
        model: The trained model.
        data: The demonstrations.
        tokens: Tokens of their frames.
        training: Positions of the episodes that the model was trained on.
        held_out: Positions of other episodes.
        num_frames: Approximate number of frames that are taken of each of the two.

    Returns:
        The statistics.

    Raises:
        UserError: a frame does not decode, or the held-out episodes are too short.
    """
    bank, thumbnails = _frame_features(model, data, tokens, training, num_frames)
    others, other_thumbnails = _frame_features(model, data, tokens, held_out, num_frames)
    errors = [
        _one_step_errors(model, data, tokens, i, math.ceil(num_frames / len(held_out)))
        for i in held_out
    ]
    return ReferenceStatistics(
        bank,
        thumbnails,
        _distances(others, bank).sort().values.clamp_min(1e-9),
        _distances(other_thumbnails, thumbnails).sort().values.clamp_min(1e-9),
        torch.cat(errors).sort().values,
    )


def _frame_features(
    model: WorldModel,
    data: AlignedData,
    tokens: TokenStore,
    episodes: Sequence[int],
    num_frames: int,
) -> tuple[Tensor, Tensor]:
    """Returns features `[N, F]` and thumbnails `[N, V]` of frames spread over some episodes."""
    features, thumbnails = [], []
    num_per_episode = math.ceil(num_frames / len(episodes))
    for i in episodes:
        rows = _spread(len(data.indices[i]), num_per_episode)
        observed = _frames(data, tokens, i, rows)
        latents = model.latent(model.observe(model.initial(), observed, None))
        features.append(_features(latents).cpu())
        episode = data.dataset.episode(data.episodes[i])
        indices = data.indices[i][rows].tolist()
        frames = [data.dataset.frames(episode, camera, indices) for camera in data.cameras]
        thumbnails.append(torch.cat([_thumbnails(images) for images in frames], dim=1))
    return torch.cat(features), torch.cat(thumbnails)


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
    return EncodedFrames.of(tokens[i][rows], data.proprio[i][rows])


def _spread(length: int, num: int) -> np.ndarray:
    """Returns at most `num` evenly spaced indices into `length` items."""
    return np.unique(np.linspace(0, length - 1, min(num, max(length, 0))).astype(np.int64))


def _thumbnails(images: ImageArray) -> Tensor:
    """Returns pictures `[N, height, width, 3]` scaled down to be compared directly, `[N, V]`."""
    return torch.from_numpy(scale_frames(images, _THUMBNAIL)).flatten(1).float() / 255


def _features(latents: Tensor) -> Tensor:
    """Returns what is compared of latents `[N, P, D]`, `[N, F]`."""
    if latents[0].numel() <= _MAX_FEATURES:
        return latents.flatten(1)
    return torch.cat((latents.mean(1), latents.std(1)), dim=1)


def _distances(features: Tensor, bank: Tensor) -> Tensor:
    """Returns root mean square differences of each `[N, F]` to the nearest of a bank, `[N]`."""
    pairwise = torch.cdist(features, bank.to(features), compute_mode="donot_use_mm_for_euclid_dist")
    return pairwise.min(1).values / math.sqrt(features.shape[1])


def load_reference(directory: Path, info: ModelInfo) -> ReferenceStatistics | None:
    """Reads the reference statistics of a checkpoint.

    Args:
        directory: Directory of the checkpoint.
        info: What its model says of itself.

    Returns:
        The statistics; None: the checkpoint has none.

    Raises:
        UserError: the file is damaged, or is another model's.
    """
    path = directory / FILE
    if not path.is_file():
        return None
    reference = ReferenceStatistics.from_bytes(path.read_bytes())
    reference.check(info)
    return reference
