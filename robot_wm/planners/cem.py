"""The cross-entropy method, plain and improved."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robot_wm.planners.protocol import Cost
from robot_wm.planners.search import Search, check_sizes, check_spread, normal, spread
from robot_wm.types import ActionSpec, Plan, UserError


@dataclass(kw_only=True)
class CEM:
    """Cross-entropy method with elites kept within a plan (Rubinstein 1999).

    Args:
        horizon: actions per sequence, H.
        num_samples: sequences per iteration, N.
        num_iterations: refits of the Gaussian.
        num_elites: best sequences the Gaussian is refitted to.
        init_std: first standard deviation, in units of the spec's scale.
        min_std: floor of the standard deviation, in the same units.

    Raises:
        UserError: a size below one, more elites than samples, or a spread out of order.
    """

    horizon: int = 1
    num_samples: int = 64
    num_iterations: int = 3
    num_elites: int = 8
    init_std: float = 0.6
    min_std: float = 0.05

    def __post_init__(self) -> None:
        check_sizes(self, num_iterations=self.num_iterations)
        check_spread(self, min_std=self.min_std, init_std=self.init_std)

    def with_budget(self, num_evaluated: int) -> CEM:
        """See `Planner.with_budget`."""
        return replace(self, **spread(num_evaluated, self.num_iterations, self.num_elites))

    def plan(
        self, cost: Cost, spec: ActionSpec, *, init: Plan | None, generator: torch.Generator
    ) -> Plan:
        """See `Planner.plan`."""
        search = Search(self, cost, spec, init, generator)
        space, mean = search.space, search.mean
        std = (self.init_std * space.unit).expand_as(mean)
        for _ in range(self.num_iterations):
            search.judge(search.around(mean, std, self.num_samples))
            mean, std = refit(search.actions, self.min_std * space.unit)
        search.judge(space.project(mean[None]), num_finite=0)  # the last fit, like any candidate
        return search.plan()


@dataclass(kw_only=True)
class ICEM:
    """Improved cross-entropy method (Pinneri et al. 2020, arXiv 2008.06389).

    Noise that is coloured over the horizon, elites kept from one iteration to the next and,
    shifted, from one plan to the next, and fewer samples in later iterations.

    Args:
        horizon: actions per sequence, H.
        num_samples: sequences in the first iteration, N.
        num_iterations: refits of the Gaussian.
        num_elites: best sequences the Gaussian is refitted to.
        init_std: first standard deviation, in units of the spec's scale.
        min_std: floor of the standard deviation, in the same units.
        noise_beta: the noise's power falls with the frequency to this power; 0 is white.
        decay: each iteration has this many times fewer samples than the one before, though never
            fewer than twice the elites.
        kept_share: share of the last plan's elites that begin this one.
        momentum: share of the old mean and deviation in the new ones.

    Raises:
        UserError: a size below one, more elites than samples, a spread out of order, or a share
            out of range.
    """

    horizon: int = 1
    num_samples: int = 64
    num_iterations: int = 3
    num_elites: int = 8
    init_std: float = 0.6
    min_std: float = 0.02
    noise_beta: float = 1.0
    decay: float = 1.25
    kept_share: float = 0.3
    momentum: float = 0.1

    def __post_init__(self) -> None:
        check_sizes(self, num_iterations=self.num_iterations)
        check_spread(self, min_std=self.min_std, init_std=self.init_std)
        if not (0 <= self.noise_beta <= 8 and 1 <= self.decay <= 8):
            raise UserError(
                f"ICEM: got noise_beta={self.noise_beta}, decay={self.decay}; "
                f"want 0 to 8 and 1 to 8"
            )
        if not (0 <= self.kept_share <= 1 and 0 <= self.momentum < 1):
            raise UserError(
                f"ICEM: got kept_share={self.kept_share}, momentum={self.momentum}; "
                f"want 0 to 1, the latter below 1"
            )

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
        search = Search(self, cost, spec, init, generator)
        space, mean = search.space, search.mean
        std = (self.init_std * space.unit).expand_as(mean)
        known = [mean]
        if init is not None and init.elites is not None and init.elites.shape[1]:
            kept = init.elites[: round(self.kept_share * len(init.elites))]
            known += [space.sequence(elite) for elite in kept]
        known = torch.stack(known)[: self.num_samples]
        fit_mean = mean
        for iteration in range(self.num_iterations):
            size = max(round(self.num_samples * self.decay**-iteration), 2 * self.num_elites)
            size = min(size, self.num_samples) - len(known)
            shape = (size, self.horizon, spec.size)
            noise = coloured_noise(shape, self.noise_beta, generator)
            search.judge(space.project(torch.cat((known, mean + std * noise))))
            fit_mean, fit_std = refit(search.actions, self.min_std * space.unit)
            mean = self.momentum * mean + (1 - self.momentum) * fit_mean
            std = self.momentum * std + (1 - self.momentum) * fit_std
            known = mean[None]
        search.judge(space.project(fit_mean[None]), num_finite=0)
        return search.plan()


def refit(elites: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation `[H, A]` of sequences `[K, H, A]`, no narrower than `floor`."""
    return elites.mean(0), torch.maximum(elites.std(0, correction=0), floor)


def coloured_noise(size: tuple[int, int, int], beta: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise `[N, H, A]` of unit variance whose power falls as frequency**-beta along H.

    White along N and A (Timmer and Koenig 1995).
    """
    num, horizon, actions = size
    if horizon < 2 or beta == 0 or not num:
        return normal(size, generator)
    frequency = torch.fft.rfftfreq(horizon, device=generator.device)
    frequency[0] = frequency[1]  # the mean moves as the slowest wave does
    amplitude = frequency ** (-beta / 2)
    parts = normal((2, num, actions, len(frequency)), generator)
    spectrum = torch.complex(parts[0], parts[1])
    edges = [0, -1] if horizon % 2 == 0 else [0]  # these waves have no phase
    spectrum[..., edges] = torch.complex(
        2**0.5 * spectrum[..., edges].real, spectrum[..., edges].imag * 0
    )
    weights = torch.full_like(amplitude, 2.0)
    weights[edges] = 1.0
    # Of irfft's 1/H sums over waves, each wave of power 2 amplitude**2 counted with its mirror.
    power = (2 * weights * amplitude.square()).sum() / horizon**2
    wave = torch.fft.irfft(spectrum * amplitude, n=horizon, dim=-1) / power.sqrt()
    return wave.transpose(1, 2)
