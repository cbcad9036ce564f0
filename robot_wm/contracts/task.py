"""Checks that a Task keeps its interface."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np

from robot_wm.contracts.env import assert_same
from robot_wm.types import Task, check_image, list_goals

_STILL = 1e-4  # a simulator may compute what follows from its state anew


def check_task(
    make: Callable[[], Task], *, seeds: tuple[int, int] = (0, 1), tolerance: float = 0.02
) -> None:
    """Checks a Task against what evaluation and the oracles expect of it.

    Args:
        make: A function that builds the task.
        seeds: Seeds of two episodes.
        tolerance: Largest difference between the cost that `simulate` returns and what `apply`
            leads to, as a share of the episode's first cost or of what the actions change,
            whichever is more.

    Raises:
        AssertionError: the interface is broken; the message says where.
    """
    task = make()
    env, spec = task.env, task.env.action_spec
    try:
        first, second = (task.episode(seed) for seed in seeds)
        assert json.loads(json.dumps(first)) == first, "episode: it is no JSON"
        assert first.get("seed") == seeds[0], "episode: want its seed in it"
        assert task.episode(seeds[0]) == first, "episode: another one of the same seed"
        goals = list_goals(task.start(first))
        for goal in goals:
            assert set(goal.images) <= set(env.observe().images), (
                "start: a goal by no camera of the env"
            )
            for name, image in goal.images.items():
                check_image(image, f"goal {name!r}")
        first_observation, judgement = env.observe(), task.judge()
        for name, measure in judgement.measures.items():
            assert math.isfinite(measure.value), f"judge: {name} is {measure.value}"
            assert measure.unit, f"judge: {name} has no unit"
        task.start(second)
        again = list_goals(task.start(first))
        assert len(again) == len(goals), "start: other goals the second time"
        for one, other in zip(goals, again, strict=True):
            for name, image in one.images.items():
                assert np.array_equal(image, other.images[name]), (
                    "start: another goal the second time"
                )
        assert_same(env.observe(), first_observation, "start")
        rng = np.random.default_rng(0)
        actions = spec.clip(rng.uniform(spec.low, spec.high, (3, 2, spec.size)))
        costs = task.simulate(actions)
        assert costs.shape == (3, 2), f"simulate: returned shape {costs.shape}, want (3, 2)"
        assert np.isfinite(costs).all(), "simulate: costs are not finite"
        pictures = task.look_ahead(actions)
        assert [len(row) for row in pictures] == [2, 2, 2], "look_ahead: want a picture an action"
        size = max(abs(judgement.cost), float(np.ptp(costs)), 1e-9)
        changed = abs(task.judge().cost - judgement.cost)
        assert changed < _STILL * size, (
            f"simulate, look_ahead: they changed the cost by {changed:.2g}"
        )
        moved = np.abs(env.observe().proprio - first_observation.proprio).max()
        span = float((spec.high - spec.low).max())
        assert moved < _STILL * span, f"simulate, look_ahead: they moved the env by {moved:.2g}"
        for h in range(2):
            env.apply(actions[0, h])
            off = abs(task.judge().cost - costs[0, h])
            assert off < tolerance * size, f"simulate: {off:.4f} from what apply does"
    finally:
        env.close()
