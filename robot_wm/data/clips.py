"""Samples clips of prepared pictures with the actions between them, for training an encoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robot_wm.preprocess import ImageSpec, NormStats, prepare_images
from robot_wm.types import FloatArray, ImageArray, Several, Share, UserError, checked

_SHIFT_PX = 3


class Clips:
    """Random clips of consecutive frames. `batch(step)` depends only on its argument.

    Args:
        frames: Pictures, uint8 RGB `[sum of lengths, height, width, 3]`, episode by episode.
        lengths: Frames per episode.
        actions: Actions `[T - 1, A]` of each episode, in the robot's units; None for pictures only.
        image: How the pictures are prepared.
        num_frames: Frames per clip, T, at least 2.
        batch_size: Clips per batch, B, at least 2.
        seed: Seed of the random choice.
        augment: Share of the clips that are augmented without changing their motion: colour
            channels are permuted and the picture is shifted, the same way in all frames of a clip;
            brightness and contrast vary from frame to frame.
        device: Device on which the pictures are prepared.

    Raises:
        UserError: a size out of range, or no episode that long.
        ValueError: frames and lengths disagree.
    """

    @checked
    def __init__(
        self,
        frames: ImageArray,
        lengths: Sequence[int],
        actions: Sequence[FloatArray] | None,
        *,
        image: ImageSpec,
        num_frames: Several,
        batch_size: Several,
        seed: int,
        augment: Share = 0.0,
        device: torch.device | str = "cpu",
    ) -> None:
        if len(frames) != sum(lengths):
            raise ValueError(f"frames: got {len(frames)}, want {sum(lengths)}")
        counts = [max(0, length - num_frames + 1) for length in lengths]
        if not sum(counts):
            raise UserError(f"num_frames: got {num_frames}, want at most {max(lengths)}")
        self._episode = np.repeat(np.arange(len(lengths)), counts)
        self._start = np.concatenate([np.arange(count) for count in counts])
        self._first = np.cumsum([0, *lengths[:-1]])
        self._frames, self._image = frames, image
        self._num_frames, self._batch_size, self._seed = num_frames, batch_size, seed
        self._device, self._augment = torch.device(device), augment
        self._actions: list[FloatArray] | None = None
        if actions is not None:
            stats = NormStats.fit(np.concatenate(actions))
            # Not centred, so that the actions between two frames add up to the motion between them.
            self._actions = [(a / stats.std).astype(np.float32) for a in actions]

    @property
    def action_dim(self) -> int | None:
        """Action size, A; None for clips without actions."""
        return self._actions[0].shape[1] if self._actions else None

    def batch(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Returns prepared frames `[B, T, 3, h, w]`, and actions `[B, T - 1, A]` over their std."""
        rng = np.random.default_rng((self._seed, step))
        pictures, actions = [], []
        for i in rng.integers(len(self._episode), size=self._batch_size):
            episode, start = self._episode[i], self._start[i]
            begin = self._first[episode] + start
            pictures.append(self._frames[begin : begin + self._num_frames])
            if self._actions:
                actions.append(self._actions[episode][start : start + self._num_frames - 1])
        augmented = np.flatnonzero(rng.random(self._batch_size) < self._augment)
        for i in augmented:
            pictures[i] = pictures[i][..., rng.permutation(3)]
        frames = prepare_images(torch.from_numpy(np.stack(pictures)).to(self._device), self._image)
        for i in augmented:
            frames[i] = _augment(frames[i], rng)
        if not actions:
            return frames, None
        return frames, torch.from_numpy(np.stack(actions)).to(self._device)


def _augment(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """Shifts a clip `[T, 3, h, w]` as a whole, and varies each frame's brightness and contrast."""
    down, right = rng.integers(-_SHIFT_PX, _SHIFT_PX + 1, 2)
    height, width = frames.shape[-2:]
    frames = F.pad(frames, (_SHIFT_PX,) * 4, mode="replicate")
    top, left = _SHIFT_PX + down, _SHIFT_PX + right
    frames = frames[..., top : top + height, left : left + width]
    shape = (len(frames), 1, 1, 1)
    contrast = torch.from_numpy(rng.uniform(0.75, 1.33, shape)).to(frames)
    brightness = torch.from_numpy(rng.uniform(-0.3, 0.3, shape)).to(frames)
    return frames * contrast + brightness
