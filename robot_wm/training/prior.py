"""Trains a prior, the policy and the temporal distance of a planner, on a model's latents."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor

from robot_wm.data import AlignedData, EncodedEpisodes, HindsightSampler, ImaginedGoals, TokenStore
from robot_wm.models import EncodedFrames, TrainableModel, device_of
from robot_wm.optimization import Loop, LoopConfig, Loss, Metrics, Stateful
from robot_wm.proposals import MAX_TASKS, Prior, PriorShape
from robot_wm.types import (
    Count,
    Index,
    InnerShare,
    Positive,
    Share,
    UserError,
    check_fields,
)

_ENCODED = 256  # frames that are turned into latents at once
_IMAGINED_NUMBERS = 2**24  # of latents that are imagined at once
_WARMUP_STEPS = 200
_EMA = 0.998  # decay of the average of the weights
_TARGET_RATE = 0.005  # at which the distance's target follows it
_LARGE_ERROR = 5.0  # steps; what is beyond counts linearly
_FARTHEST_STEPS = 80.0  # no frame counts as further from its goal


@dataclass(frozen=True)
class PriorConfig:
    """How a prior is trained.

    Attributes:
        num_steps: Number of optimiser steps; 0: none is trained.
        batch_size: Frames per step.
        learning_rate: Peak of the learning rate, which then falls to zero over half of the steps.
        chunk: Actions that the policy proposes at once; no more than the model can imagine.
        width: Width of the networks.
        depth: Number of the policy's residual blocks, and of the distance's hidden layers.
        farthest: Largest number of steps from a frame to its goal.
        stay_share: Share of the frames whose goal is the frame itself, or the robot imagined
            elsewhere in it.
        imagined_share: Share of the goals in which the model has imagined the robot elsewhere; for
            actions that are changes of the state.
        expectile: Expectile of the number of steps that the distance learns, below a half: of
            several ways to a goal the shorter ones count (IQL, arXiv 2110.06169).
        max_frames: Largest number of frames of the demonstrations that retrieval keeps.
    """

    num_steps: Index = 0
    batch_size: Count = 512
    learning_rate: Positive = 3e-3
    chunk: Annotated[int, Meta(ge=1, le=64)] = 8
    width: Annotated[int, Meta(ge=8, le=4096)] = 256
    depth: Annotated[int, Meta(ge=1, le=16)] = 3
    farthest: Annotated[int, Meta(ge=1, le=1000)] = 30
    stay_share: Share = 0.15
    imagined_share: Share = 0.5
    expectile: InnerShare = 0.3
    max_frames: Index = 10_000

    def __post_init__(self) -> None:
        check_fields(self)


@torch.no_grad()
def encode_episodes(
    model: TrainableModel,
    prior: Prior,
    data: AlignedData,
    tokens: TokenStore,
    positions: Sequence[int],
) -> EncodedEpisodes:
    """Computes what a prior sees of some episodes.

    Args:
        model: The model whose latents the prior is on.
        prior: The prior; its features are computed, but not normalised.
        data: The dataset.
        tokens: Tokens of all its frames.
        positions: Positions of the episodes.

    Returns:
        The episodes, on the CPU.
    """
    device, features = device_of(model), []
    for i in positions:
        parts = []
        for begin in range(0, len(tokens[i]), _ENCODED):
            rows = slice(begin, begin + _ENCODED)
            encoded = EncodedFrames.of(tokens[i][rows], data.proprio[i][rows], device)
            latents = model.latent(model.observe(model.initial(), encoded, None))
            parts.append(prior.features.pool(latents).cpu())
        features.append(torch.cat(parts))
    named = prior.shape.tasks
    return EncodedEpisodes.join(
        features,
        [data.proprio[i] for i in positions],
        [data.actions[i] for i in positions],
        [named.index(task) for task in episode_tasks(data, positions)],
        model.info.action_spec.rest,
    )


@torch.no_grad()
def imagine_goals(
    model: TrainableModel,
    prior: Prior,
    data: AlignedData,
    tokens: TokenStore,
    positions: Sequence[int],
    *,
    seed: int,
) -> ImaginedGoals:
    """Imagines the robot elsewhere in every frame of some episodes, and all else as it is.

    Args:
        model: The model, whose actions are changes of its state.
        prior: The prior, whose features are fitted.
        data: The dataset.
        tokens: Tokens of all its frames.
        positions: Positions of the episodes.
        seed: Seed of where the robot goes.

    Returns:
        What is imagined, on the CPU.
    """
    rng, spec, device = np.random.default_rng((seed, 2)), model.info.action_spec, device_of(model)
    proprio = np.concatenate([data.proprio[i] for i in positions])
    low, high = np.quantile(proprio, (0.01, 0.99), axis=0)
    longest, generator = model.info.longest_horizon, torch.Generator(device).manual_seed(seed)
    features, repeated, numbers = [], [], []
    size = max(1, _IMAGINED_NUMBERS // (longest * model.info.num_tokens * model.info.dim))
    places = [(i, begin) for i in positions for begin in range(0, data.lengths[i], size)]
    for i, begin in places:
        rows = slice(begin, begin + size)
        states = np.array(data.proprio[i][rows], np.float32)
        change = rng.uniform(low, high, states.shape) - states
        largest = np.where(change > 0, spec.high, -spec.low).clip(min=1e-9)
        num = np.ceil((np.abs(change) / largest).max(1)).astype(np.int64).clip(1)
        way = (change / num[:, None]).astype(np.float32)
        num = num.clip(max=longest)  # it ends on the way, where that is too long
        moving = np.arange(num.max())[None, :, None] < num[:, None, None]
        actions = np.where(moving, way[:, None], spec.rest).astype(np.float32)
        encoded = EncodedFrames.of(tokens[i][rows], states, device)
        state = model.observe(model.initial(), encoded, None)
        latents = model.rollout(state, torch.from_numpy(actions).to(device), generator).mean
        ends = latents[torch.arange(len(num)), torch.from_numpy(num - 1)]
        features.append(prior.features(ends.cpu()))
        repeated.append(torch.from_numpy(way))
        numbers.append(torch.from_numpy(num))
    return ImaginedGoals(torch.cat(features).float(), torch.cat(repeated), torch.cat(numbers))


def episode_tasks(data: AlignedData, positions: Sequence[int]) -> list[str]:
    """Returns the task of each episode at some positions, in the dataset's words."""
    return [data.dataset.episode(data.episodes[i]).task for i in positions]


def check_prior_data(data: AlignedData, positions: Sequence[int]) -> None:
    """Raises UserError unless a prior can be trained on some episodes.

    Args:
        data: The dataset.
        positions: Positions of the episodes to train on.
    """
    if max((data.lengths[i] for i in positions), default=0) < 3:
        raise UserError("data: every episode is shorter than three frames, which a prior needs")
    num_tasks = len({*episode_tasks(data, positions)})
    if num_tasks > MAX_TASKS:
        raise UserError(f"data: got {num_tasks} tasks, a prior tells at most {MAX_TASKS} apart")


class PriorTraining:
    """The training of a prior, and the step that it has reached.

    Args:
        model: The world model.
        data: The dataset.
        tokens: Tokens of all its frames.
        positions: Positions of the episodes to train on.
        config: How the prior is trained.
        seed: Seed of the first weights and of everything that is drawn.

    Raises:
        UserError: the episodes are too short.
    """

    def __init__(
        self,
        model: TrainableModel,
        data: AlignedData,
        tokens: TokenStore,
        positions: Sequence[int],
        config: PriorConfig,
        *,
        seed: int = 0,
    ) -> None:
        total = sum(data.lengths[i] for i in positions)
        # Retrieval keeps every nth episode: a dataset may be in the order of its tasks.
        kept = list(positions)[:: max(1, math.ceil(total / max(config.max_frames, 1)))]
        while kept and sum(data.lengths[i] for i in kept) > config.max_frames:
            kept.pop()
        positions = [*kept, *sorted({*positions} - {*kept})]
        chunk = min(config.chunk, model.info.longest_horizon)  # no plan is longer
        shape = PriorShape(
            chunk=chunk,
            width=config.width,
            depth=config.depth,
            farthest=config.farthest,
            num_frames=sum(data.lengths[i] for i in kept),
            tasks=tuple(sorted({*episode_tasks(data, positions)})),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.prior = prior = Prior(model.info, shape).train()
        episodes = encode_episodes(model, prior, data, tokens, positions)
        prior.features.fit(episodes.features)
        prior.policy.fit(episodes)
        self._features = prior.features.normalise(episodes.features)
        shown = shape.num_frames  # the first frames are those of the first episodes
        prior.demonstrations.fit(self._features[:shown], episodes.first(shown))
        device = device_of(model)
        imagined = None
        changes = data.spec.action in ("state_delta", "command_delta")  # of its state
        if config.imagined_share and changes:
            imagined = imagine_goals(model, prior, data, tokens, positions, seed=seed)
        prior.to(device)
        self._imagined = imagined and replace(imagined, features=imagined.features.to(device))
        self._features, self._proprio = self._features.to(device), episodes.proprio.to(device)
        self._tasks = episodes.tasks.to(device)
        self._ends, self._config, self._seed = episodes.ends, config, seed
        self._target = copy.deepcopy(prior.distance).requires_grad_(False)
        self._sampler = HindsightSampler(
            episodes,
            chunk=chunk,
            farthest=config.farthest,
            stay_share=config.stay_share,
            batch_size=config.batch_size,
            seed=seed,
            imagined=imagined,
            imagined_share=config.imagined_share,
        )
        self.loop = Loop(
            self,
            LoopConfig(
                num_steps=config.num_steps,
                learning_rate=self._learning_rate,
                betas=(0.9, 0.999),
                grad_clip=1.0,
                ema=_EMA,
            ),
        )

    def _learning_rate(self, step: int, progress: float) -> float:
        warm = min(1.0, (step + 1) / _WARMUP_STEPS)
        return self._config.learning_rate * warm * min(1.0, 2 * (1 - progress))

    @property
    def modules(self) -> Mapping[str, Stateful]:
        """The modules that the run changes, by the name that they are saved under."""
        return {"prior": self.prior, "target": self._target}

    @property
    def generators(self) -> Mapping[str, torch.Generator]:
        """No generators: the randomness of a step depends on the seed and the step alone."""
        return {}

    def groups(self) -> list[dict[str, Any]]:
        """Returns the parameter groups of the optimiser."""
        return [{"params": list(self.prior.parameters()), "weight_decay": 1e-4}]

    def losses(self, step: int) -> Iterator[tuple[float, Loss]]:
        """Yields the loss of a step's batch."""
        yield 1.0, lambda: self._loss(step)

    def _loss(self, step: int) -> tuple[Tensor, Metrics]:
        noise = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        batch = self._sampler.batch(step)
        rows = batch.rows.to(self._features.device)
        policy = self.prior.policy.loss(
            self._features[rows],
            self._goal_features(batch.goals, batch.imagined),
            self._proprio[rows],
            self._tasks[rows],
            batch,
            noise,
        )
        distance = self._distance_loss(step)
        metrics = {"policy": float(policy.detach()), "distance": float(distance.detach())}
        # No parameter is shared: their sum trains each as if alone.
        return policy + distance, {"loss": sum(metrics.values()), **metrics}

    def _goal_features(self, goals: Tensor, imagined: Tensor) -> Tensor:
        """Returns the features of goals `[B, F]`, of some what was imagined from them."""
        goals = goals.to(self._features.device)
        if self._imagined is None:
            return self._features[goals]
        chosen = imagined.to(goals.device)[:, None]
        return torch.where(chosen, self._imagined.features[goals], self._features[goals])

    def _distance_loss(self, step: int) -> Tensor:
        """Returns the loss of the temporal distance: one step, and the distance from there."""
        rng, config = np.random.default_rng((self._seed, step, 1)), self._config
        size, num = config.batch_size, len(self._features)
        rows = torch.from_numpy(rng.integers(num, size=size))
        last = self._ends[rows] - 1
        goals = torch.minimum(
            rows + torch.from_numpy(rng.integers(2 * config.farthest, size=size)), last
        )
        left, imagined = torch.zeros(size), torch.zeros(size, dtype=torch.bool)
        if self._imagined is not None:
            imagined = torch.from_numpy(rng.random(size) < config.imagined_share)
            left = torch.where(imagined, self._imagined.num_steps[goals].float(), left)
        following = torch.minimum(rows + 1, last)
        taken = (rows != goals) & (rows < last)  # otherwise there is nothing to be learned
        now, then = self._features[rows], self._features[following]
        goal = self._goal_features(goals, imagined)
        with torch.no_grad():
            steps = torch.where(following == goals, left, self._target(then, goal).cpu())
            wanted = (1 + steps).clamp(max=_FARTHEST_STEPS).to(now.device)
        error = (wanted - self.prior.distance(now, goal)) / _LARGE_ERROR
        weights = torch.where(error < 0, 1 - config.expectile, config.expectile)
        loss = weights * F.huber_loss(error, torch.zeros_like(error), reduction="none")
        taken = taken.to(loss.device)
        return (loss * taken).sum() / taken.sum().clamp(min=1)

    def end_step(self, progress: float) -> None:
        """Moves the target of the distance a little toward it."""
        with torch.no_grad():
            pairs = zip(self._target.parameters(), self.prior.distance.parameters(), strict=True)
            for target, value in pairs:
                target.lerp_(value, _TARGET_RATE)

    def steps(self) -> Iterator[Metrics]:
        """Trains to the end of the run; yields metrics as `Loop.steps` does."""
        yield from self.loop.steps()
        self.prior.eval().requires_grad_(False)
        for value in self.prior.parameters():
            value.copy_(value.half())  # as it is saved
