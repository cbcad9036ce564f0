"""The cross-entropy method, plain and improved."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor

from robot_wm.planners.protocol import Cost
from robot_wm.planners.search import GaussianSettings, normal
from robot_wm.types import ActionSpec, Plan, Positive, Share, ShareBelowOne


@dataclass(kw_only=True)
class CEM(GaussianSettings):
    """Cross-entropy method with elites kept within a plan (Rubinstein 1999)."""

    def plan(
        self, cost: Cost, spec: ActionSpec, *, init: Plan | None, generator: torch.Generator
    ) -> Plan:
        """See `Planner.plan`."""
        search, std = self.begin(cost, spec, init, generator)
        space, mean = search.space, search.mean
        for _ in range(self.num_iterations):
            search.judge(search.around(mean, std, self.num_samples))
            mean, std = refit(search.actions, self.min_std * space.unit)
        search.judge(space.project(mean[None]), num_finite=0)  # the last mean is a candidate, too
        return search.plan()


@dataclass(kw_only=True)
class ICEM(GaussianSettings):
    """Improved cross-entropy method (Pinneri et al. 2020, arXiv 2008.06389).

    Its noise is coloured over the horizon; elites are kept from one iteration to the next and,
    shifted, from one plan to the next; later iterations have fewer samples.

    Attributes:
        min_std: Lower bound of the standard deviation, in units of the spec's scale.
        noise_beta: The noise's power falls as frequency**-noise_beta; 0 is white.
        decay: Factor by which an iteration has fewer samples than the one before, but never fewer
            than twice the elites.
        kept_share: Share of the last plan's elites that are among the first candidates.
        momentum: Share of the old mean and standard deviation in the new ones.
    """

    min_std: Positive = 0.02
    noise_beta: Annotated[float, Meta(ge=0, le=8)] = 1.0
    decay: Annotated[float, Meta(ge=1, le=8)] = 1.25
    kept_share: Share = 0.3
    momentum: ShareBelowOne = 0.1

    def with_budget(self, num_evaluated: int) -> ICEM:
        """See `Planner.with_budget`."""
        sizes = sum(self.decay**-i for i in range(self.num_iterations))
        samples = max(2, round(num_evaluated / sizes))
        elites = max(1, min(self.num_elites, samples // 3))
        return replace(self, num_samples=samples, num_elites=elites)

    def plan(
        self, cost: Cost, spec: ActionSpec, *, init: Plan | None, generator: torch.Generator
    ) -> Plan:
        """See `Planner.plan`."""
        search, std = self.begin(cost, spec, init, generator)
        space, mean = search.space, search.mean
        carried = [mean]  # candidates that are not drawn
        if init is not None and init.elites is not None and init.elites.shape[1]:
            kept = init.elites[: round(self.kept_share * len(init.elites))]
            carried += [space.sequence(elite) for elite in kept]
        carried = torch.stack(carried)[: self.num_samples]
        fit_mean = mean
        for iteration in range(self.num_iterations):
            size = max(round(self.num_samples * self.decay**-iteration), 2 * self.num_elites)
            size = min(size, self.num_samples) - len(carried)
            shape = (size, self.horizon, spec.size)
            noise = coloured_noise(shape, self.noise_beta, generator)
            search.judge(space.project(torch.cat((carried, mean + std * noise))))
            fit_mean, fit_std = refit(search.actions, self.min_std * space.unit)
            mean = self.momentum * mean + (1 - self.momentum) * fit_mean
            std = self.momentum * std + (1 - self.momentum) * fit_std
            carried = mean[None]
        search.judge(space.project(fit_mean[None]), num_finite=0)
        return search.plan()


def refit(elites: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and standard deviation `[H, A]`, at least `floor`, of sequences `[K, H, A]`."""
    return elites.mean(0), torch.maximum(elites.std(0, correction=0), floor)


def coloured_noise(size: tuple[int, int, int], beta: float, generator: torch.Generator) -> Tensor:
    """Draws Gaussian noise of unit variance whose power falls as frequency**-beta along H.

    It is white along N and A (Timmer and Koenig 1995).

    Args:
        size: Sizes N, H and A.
        beta: Exponent of the power; 0 is white.
        generator: Generator of the random numbers.

    Returns:
        Noise `[N, H, A]`.
    """
    num, horizon, actions = size
    if horizon < 2 or beta == 0 or not num:
        return normal(size, generator)
    frequency = torch.fft.rfftfreq(horizon, device=generator.device)
    frequency[0] = frequency[1]  # the mean gets the power of the slowest wave
    amplitude = frequency ** (-beta / 2)
    parts = normal((2, num, actions, len(frequency)), generator)
    spectrum = torch.complex(parts[0], parts[1])
    edges = [0, -1] if horizon % 2 == 0 else [0]  # these waves have no phase
    spectrum[..., edges] = torch.complex(
        2**0.5 * spectrum[..., edges].real, spectrum[..., edges].imag * 0
    )
    weights = torch.full_like(amplitude, 2.0)
    weights[edges] = 1.0
    # irfft sums waves of power 2 amplitude**2, each with its mirror image, and divides by H.
    power = (2 * weights * amplitude.square()).sum() / horizon**2
    wave = torch.fft.irfft(spectrum * amplitude, n=horizon, dim=-1) / power.sqrt()
    return wave.transpose(1, 2)
