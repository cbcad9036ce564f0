"""Samples goals in hindsight: what an episode reached later was a goal that it went after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from robot_wm.types import Count, FloatArray, Share, UserError, checked

_IDLE_WEIGHT = 0.2  # of the actions after a goal is reached: they teach to stay, and no more


@dataclass(frozen=True, eq=False)
class EncodedEpisodes:
    """Episodes as a policy sees them, frame after frame and episode after episode.

    Attributes:
        features: Features of every frame `[N, F]`, float32.
        proprio: Proprioception at every frame `[N, Q]`, float32, in the robot's units.
        actions: Actions after every frame `[N, A]`, float32, in the robot's units; what follows the
            last frame of an episode is the action of no motion.
        ends: Number of the row after the last of its episode, for every frame `[N]`, int64.
        tasks: Number of the task of every frame's episode `[N]`, int64.
    """

    features: Tensor
    proprio: Tensor
    actions: Tensor
    ends: Tensor
    tasks: Tensor

    @classmethod
    def join(
        cls,
        features: Sequence[Tensor],
        proprio: Sequence[FloatArray],
        actions: Sequence[FloatArray],
        tasks: Sequence[int],
        rest: FloatArray,
    ) -> EncodedEpisodes:
        """Joins episodes.

        Args:
            features: Features `[T, F]` of each episode.
            proprio: Proprioception `[T, Q]` of each.
            actions: Actions `[T - 1, A]` of each.
            tasks: Number of the task of each.
            rest: The action of no motion `[A]`.

        Returns:
            The episodes.
        """
        lengths = [len(values) for values in features]
        ends = np.repeat(np.cumsum(lengths), lengths)
        whole = [np.concatenate((values, rest[None])) for values in actions]
        return cls(
            torch.cat(list(features)).float(),
            torch.from_numpy(np.concatenate(proprio).astype(np.float32)),
            torch.from_numpy(np.concatenate(whole).astype(np.float32)),
            torch.from_numpy(ends),
            torch.from_numpy(np.repeat(np.array(tasks, np.int64), lengths)),
        )

    def first(self, num: int) -> EncodedEpisodes:
        """Returns the first frames alone, which must end with an episode."""
        return EncodedEpisodes(*(getattr(self, field.name)[:num] for field in fields(self)))

    def __len__(self) -> int:
        """Returns the number of frames, N."""
        return len(self.features)


@dataclass(frozen=True, eq=False)
class ImaginedGoals:
    """What a model imagines from every frame, if the robot goes straight to somewhere else.

    A goal picture shows the robot, too, but seldom where the demonstrations left it.

    Attributes:
        features: Features of the imagined ends `[N, F]`, float32.
        actions: The action `[N, A]` that is repeated, in the robot's units.
        num_steps: How often `[N]`, int64.
    """

    features: Tensor
    actions: Tensor
    num_steps: Tensor


@dataclass(frozen=True, eq=False)
class HindsightBatch:
    """B frames, each with a goal.

    Attributes:
        rows: Rows of the frames `[B]`, int64.
        goals: Rows of the goals `[B]`, int64.
        imagined: Which goals are not the rows' own frames, but what was imagined from them `[B]`.
        actions: Actions after the frames `[B, C, A]`: those of the episode up to the goal's row,
            those that were imagined from there, and then no motion.
        weights: Weights of these actions `[B, C]`: 1 before the goal, less after it.
    """

    rows: Tensor
    goals: Tensor
    imagined: Tensor
    actions: Tensor
    weights: Tensor


class HindsightSampler:
    """Draws frames, each with a later frame of its episode as its goal.

    `batch(step)` depends on its argument alone, so that a resumed run gets the same batches.

    Args:
        episodes: The episodes.
        chunk: Number of actions of a chunk, C.
        farthest: Largest number of steps from a frame to its goal.
        stay_share: Share of the frames whose goal is the frame itself, or what is imagined from it.
        batch_size: Number of frames per batch, B.
        seed: Seed of what is drawn.
        imagined: What is imagined from every frame; None: nothing.
        imagined_share: Share of the goals that are imagined.

    Raises:
        UserError: no episode has three frames, or a number is out of range.
    """

    @checked
    def __init__(
        self,
        episodes: EncodedEpisodes,
        *,
        chunk: Count,
        farthest: Count,
        stay_share: Share,
        batch_size: Count,
        seed: int,
        imagined: ImaginedGoals | None = None,
        imagined_share: Share = 0.5,
    ) -> None:
        rows = torch.arange(len(episodes))
        self._pool = rows[rows + 2 < episodes.ends]
        if not len(self._pool):
            raise UserError("data: every episode is shorter than three frames")
        self._episodes, self._chunk, self._farthest = episodes, chunk, farthest
        self._stay_share, self._batch_size, self._seed = stay_share, batch_size, seed
        self._imagined, self._imagined_share = imagined, imagined_share

    def batch(self, step: int) -> HindsightBatch:
        """Returns the frames and goals of a step."""
        rng, size = np.random.default_rng((self._seed, step)), self._batch_size
        rows = self._pool[torch.from_numpy(rng.integers(len(self._pool), size=size))]
        num_steps = torch.from_numpy(rng.integers(1, self._farthest + 1, size=size))
        num_steps = torch.minimum(num_steps, self._episodes.ends[rows] - 1 - rows)
        stays = torch.from_numpy(rng.random(size) < self._stay_share)
        num_steps[stays] = 0
        goals, steps = rows + num_steps, torch.arange(self._chunk)
        before = steps < num_steps[:, None]
        # The last row of an episode holds the action of no motion.
        following = torch.where(before, rows[:, None] + steps, self._episodes.ends[rows, None] - 1)
        actions = self._episodes.actions[following]
        is_sure = before | stays[:, None]  # the others only pass the time
        imagined = torch.zeros(size, dtype=torch.bool)
        if self._imagined is not None:
            imagined = torch.from_numpy(rng.random(size) < self._imagined_share)
            end = num_steps + self._imagined.num_steps[goals]
            moved = imagined[:, None] & ~before & (steps < end[:, None])
            actions = torch.where(moved[..., None], self._imagined.actions[goals, None], actions)
            is_sure |= moved
        weights = torch.where(is_sure, 1.0, _IDLE_WEIGHT)
        return HindsightBatch(rows, goals, imagined, actions, weights)
