"""Factors of variation: what differs from the scene that was demonstrated, one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from robot_wm.types import FloatArray, UserError
from sim_envs.appearance import Appearance, AppearanceFactor

Factor = Literal[
    "light", "colours", "camera", "distractor", "size", "mass", "friction", "latency", "noise"
]

# Smallest, usual and largest.
_HALF_SIZES_M = (0.01, 0.015, 0.02)
_MASSES = (0.5, 1.0, 2.0)  # as shares of the mass
_FRICTIONS = (0.4, 1.0, 1.0)
_LATENCY_S = 0.1
_NOISE_M = 0.003
# Second words of seeds, which no task has: what they draw does not depend on what a task draws.
_FACTOR, _NOISE = 14, 15


@dataclass(frozen=True)
class EpisodeFactors:
    """What is different in one episode, beside its appearance.

    Attributes:
        half_size_m: Half of the edge of every object, m; None: as built.
        mass: The objects' mass, as a share of their own.
        friction: Sliding friction of the objects and of the table under them; None: as built.
        latency_s: Age of what is observed, s.
        noise_m: Standard deviation of what is added to every action, m.
        seed: Seed of that noise.
    """

    half_size_m: float | None = None
    mass: float = 1.0
    friction: float | None = None
    latency_s: float = 0.0
    noise_m: float = 0.0
    seed: int = 0

    @property
    def changes_objects(self) -> bool:
        """Whether the objects are not as built."""
        return (self.half_size_m, self.mass, self.friction) != (None, 1.0, None)

    def noise(self, action: int) -> FloatArray:
        """Returns what is added to an action `[4]`, m, given its number in the episode."""
        if not self.noise_m:
            return np.zeros(4)
        return np.random.default_rng((self.seed, _NOISE, action + 1)).normal(0, self.noise_m, 4)


class FactorSampler:
    """Draws what is different in each episode.

    Args:
        appearance: The scene's appearance; None: it is always the scene's own.
        factors: What is drawn, each alone or several together; none: the whole appearance.
        share: How far the numbers of an object go from the usual one to the smallest and the
            largest.

    Raises:
        UserError: no such factor, or a share above 1.
    """

    def __init__(
        self, appearance: Appearance | None, factors: Sequence[Factor] = (), share: float = 1.0
    ) -> None:
        known = get_args(Factor)
        for factor in factors:
            if factor not in known:
                raise UserError(f"vary: got {factor!r}, want some of {', '.join(known)}")
        if not 0 <= share <= 1:  # a size beyond the range may be none
            raise UserError(f"vary_share: got {share}, want 0 to 1")
        self._appearance, self._factors, self._share = appearance, tuple(factors), share

    def draw(self, seed: int | None) -> EpisodeFactors:
        """Changes the appearance, and draws what else is different; the latency is always 100 ms.

        Args:
            seed: Seed of the episode; None: everything is the scene's own.

        Returns:
            What else is different.
        """
        if self._appearance is not None:
            self._appearance.default()
        if seed is None:
            return EpisodeFactors()
        if self._appearance is not None and not self._factors:
            self._appearance.draw(np.random.default_rng((seed, 2)))
        values: dict[str, float] = {}
        for factor in self._factors:
            # Each by a seed of its own: it is the same whatever else is varied.
            rng = np.random.default_rng((seed, _FACTOR, get_args(Factor).index(factor) + 1))
            if factor == "size":
                values["half_size_m"] = self._number(rng, *_HALF_SIZES_M)
            elif factor == "mass":
                values["mass"] = self._number(rng, *_MASSES)
            elif factor == "friction":
                values["friction"] = self._number(rng, *_FRICTIONS)
            elif factor == "latency":
                values["latency_s"] = _LATENCY_S
            elif factor == "noise":
                values["noise_m"] = _NOISE_M
            else:
                assert self._appearance is not None
                self._appearance.draw_factor(factor, rng)
        return EpisodeFactors(**values, seed=seed)

    def _number(
        self, rng: np.random.Generator, smallest: float, usual: float, largest: float
    ) -> float:
        ends = usual + self._share * (np.array([smallest, largest]) - usual)
        return float(rng.uniform(*ends))


def changes_pictures(factors: Sequence[str]) -> bool:
    """Tells whether some of the factors are of the appearance."""
    return not set(factors).isdisjoint(get_args(AppearanceFactor))
