"""Tries actions on a simulation, which is then restored to its state before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from robot_wm.types import FloatArray, ImageArray, Judgement
from sim_envs.tabletop import Tabletop

Result = TypeVar("Result")


def simulate(
    env: Tabletop,
    actions: FloatArray,
    judge: Callable[[], Judgement],
    begin: Callable[[], None] = lambda: None,
) -> FloatArray:
    """Returns the true cost `[N, H]` after each action of `actions` `[N, H, A]` from here.

    Args:
        env: The simulation.
        actions: The sequences.
        judge: Judges the current state.
        begin: Called before each sequence, for a judge that remembers.

    Returns:
        The costs.
    """
    return np.array(_try(env, actions, lambda: judge().cost, begin)).reshape(actions.shape[:2])


def look_ahead(env: Tabletop, actions: FloatArray) -> list[list[Mapping[str, ImageArray]]]:
    """Returns the cameras' pictures after each action of `actions` `[N, H, A]` from here."""
    return _try(env, actions, lambda: env.observe().images)


def _try(
    env: Tabletop,
    actions: FloatArray,
    measure: Callable[[], Result],
    begin: Callable[[], None] = lambda: None,
) -> list[list[Result]]:
    before, due = env.snapshot(), env.displacement
    env.displacement = None  # nobody knows what a hand will do
    results: list[list[Result]] = []
    for sequence in actions:
        env.restore(before)
        begin()
        results.append([])
        for action in sequence:
            env.apply(action)
            results[-1].append(measure())
    env.restore(before)
    env.displacement = due
    return results
