"""What would become of actions: tried on a simulation that is then put back as it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from robot_wm.types import FloatArray, ImageArray, Judgement
from sim_envs.tabletop import Tabletop

Seen = TypeVar("Seen")


def simulate(env: Tabletop, actions: FloatArray, judge: Callable[[], Judgement]) -> FloatArray:
    """The true cost `[N, H]` after each action of `actions` `[N, H, A]` from here."""
    return np.array(_try(env, actions, lambda: judge().cost)).reshape(actions.shape[:2])


def look_ahead(env: Tabletop, actions: FloatArray) -> list[list[Mapping[str, ImageArray]]]:
    """What the cameras would see after each action of `actions` `[N, H, A]` from here."""
    return _try(env, actions, lambda: env.observe().images)


def _try(env: Tabletop, actions: FloatArray, look: Callable[[], Seen]) -> list[list[Seen]]:
    before = env.snapshot()
    seen: list[list[Seen]] = []
    for sequence in actions:
        env.restore(before)
        seen.append([])
        for action in sequence:
            env.apply(action)
            seen[-1].append(look())
    env.restore(before)
    return seen
