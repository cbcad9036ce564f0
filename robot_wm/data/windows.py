"""Splits episodes, fits statistics, and samples batches of windows of consecutive frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from robot_wm.data.alignment import AlignedData
from robot_wm.preprocess import NormStats
from robot_wm.types import Count, FloatArray, Several, ShareBelowOne, UserError, checked


class EpisodeTokens(Protocol):
    """Tokens of each episode of an AlignedData, in its order: a TokenStore, or a list of arrays."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> FloatArray:
        """Returns the tokens `[T, P, D]` of the episode at position `index`."""
        ...


@dataclass(frozen=True, eq=False)
class DataStats:
    """Statistics of the training episodes, in the robot's units.

    Attributes:
        proprio_stats: Mean and standard deviation of the proprioception, `[Q]`.
        action_stats: Mean and standard deviation of the actions, `[A]`.
        action_q01: Quantile of 1 % per action dimension, `[A]` float32.
        action_q99: Quantile of 99 % per action dimension, `[A]` float32.
        action_min: Smallest value per action dimension, `[A]` float32.
        action_max: Largest value per action dimension, `[A]` float32.
    """

    proprio_stats: NormStats
    action_stats: NormStats
    action_q01: FloatArray
    action_q99: FloatArray
    action_min: FloatArray
    action_max: FloatArray


@dataclass(frozen=True, eq=False)
class Batch:
    """B windows of T consecutive sampled frames.

    Attributes:
        tokens: Tokens of every frame, `[B, T, P, D]` float32.
        proprio: Proprioception at every frame, `[B, T, Q]` float32, in the robot's units.
        actions: Actions, `[B, T-1, A]` float32, in the robot's units; action t leads from frame t
            to t+1.
        episodes: The dataset's episode numbers, `[B]` int64, to name a window in an error.
        starts: The first sampled frame of each window within its episode, `[B]` int64.
    """

    tokens: Tensor
    proprio: Tensor
    actions: Tensor
    episodes: Tensor
    starts: Tensor


@checked
def split_episodes(
    num_episodes: int, holdout: ShareBelowOne, seed: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Splits positions 0 to `num_episodes` - 1 into training and held out, by `seed` only.

    Args:
        num_episodes: Number of episodes of an AlignedData.
        holdout: Share to hold out, in [0, 1). If it is above 0, at least one is held out.
        seed: Seed of the random choice.

    Returns:
        Training positions and held-out positions, each increasing.

    Raises:
        UserError: the share is out of range, or leaves nothing to train on.
    """
    num_held = max(1, round(holdout * num_episodes)) if holdout else 0
    if num_held >= num_episodes:
        raise UserError(f"holdout: got {holdout} of {num_episodes} episodes, want some to train on")
    order = np.random.default_rng(seed).permutation(num_episodes).tolist()
    return tuple(sorted(order[num_held:])), tuple(sorted(order[:num_held]))


def fit_stats(data: AlignedData, episodes: Sequence[int]) -> DataStats:
    """Computes statistics over the episodes at these positions: pass the training episodes only."""
    proprio = np.concatenate([data.proprio[i] for i in episodes]).astype(np.float64)
    actions = np.concatenate([data.actions[i] for i in episodes]).astype(np.float64)
    q01, q99 = np.quantile(actions, [0.01, 0.99], axis=0).astype(np.float32)
    return DataStats(
        proprio_stats=NormStats.fit(proprio),
        action_stats=NormStats.fit(actions),
        action_q01=q01,
        action_q99=q99,
        action_min=actions.min(0).astype(np.float32),
        action_max=actions.max(0).astype(np.float32),
    )


class WindowSampler:
    """All windows of some episodes, in batches. `batch(step)` depends only on its argument.

    The order of each epoch is a permutation drawn from (seed, epoch), so a resumed run gets the
    same batches as an uninterrupted one.

    Args:
        data: The episodes.
        tokens: Tokens of each episode of `data`, `[T, P, D]`.
        episodes: Positions in `data` to draw from.
        num_frames: Frames per window, T, at least 2.
        batch_size: Windows per batch, B; at most the number of windows.
        seed: Seed of the order.
        shuffle: If False, the windows come in order and the last batch may be smaller; if True,
            the windows that do not fill a batch are left out of each epoch.

    Raises:
        UserError: no episode is long enough.
        ValueError: tokens and episodes do not match.
    """

    @checked
    def __init__(
        self,
        data: AlignedData,
        tokens: EpisodeTokens,
        *,
        episodes: Sequence[int],
        num_frames: Several,
        batch_size: Count,
        seed: int,
        shuffle: bool = True,
    ) -> None:
        if len(tokens) != data.num_episodes:
            raise ValueError(f"tokens: got {len(tokens)} episodes, want {data.num_episodes}")
        starts = [np.arange(max(0, data.lengths[i] - num_frames + 1)) for i in episodes]
        self._window_episode = np.repeat(np.asarray(episodes, np.int64), [len(s) for s in starts])
        self._window_start = np.concatenate([*starts, np.zeros(0, np.int64)])
        if not len(self._window_episode):
            longest = max((data.lengths[i] for i in episodes), default=0)
            raise UserError(
                f"num_frames: got {num_frames}, want at most {longest}, the longest of "
                f"{len(episodes)} episodes"
            )
        self._data, self._tokens, self._num_frames = data, tokens, num_frames
        self._batch_size = min(batch_size, len(self._window_episode))
        self._seed, self._shuffle = seed, shuffle
        self._order = lru_cache(maxsize=2)(self._permutation)

    @property
    def num_windows(self) -> int:
        """Number of windows in an epoch."""
        return len(self._window_episode)

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch."""
        if self._shuffle:
            return self.num_windows // self._batch_size
        return -(-self.num_windows // self._batch_size)

    def batch(self, step: int) -> Batch:
        """Returns the windows of one step; steps are counted from 0 over all epochs."""
        epoch, position = divmod(step, self.steps_per_epoch)
        first = position * self._batch_size
        chosen = self._order(epoch)[first : first + self._batch_size]
        pairs = [(int(self._window_episode[i]), int(self._window_start[i])) for i in chosen]
        size = self._num_frames
        tokens = np.stack([self._tokens[e][s : s + size] for e, s in pairs])  # [B, T, P, D]
        proprio = np.stack([self._data.proprio[e][s : s + size] for e, s in pairs])  # [B, T, Q]
        actions = np.stack([self._data.actions[e][s : s + size - 1] for e, s in pairs])
        return Batch(
            tokens=torch.from_numpy(tokens.astype(np.float32, copy=False)),
            proprio=torch.from_numpy(proprio),
            actions=torch.from_numpy(actions),
            episodes=torch.tensor([self._data.episodes[e] for e, _ in pairs]),
            starts=torch.tensor([s for _, s in pairs]),
        )

    def _permutation(self, epoch: int) -> np.ndarray:
        if not self._shuffle:
            return np.arange(self.num_windows)
        return np.random.default_rng((self._seed, epoch)).permutation(self.num_windows)
