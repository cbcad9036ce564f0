"""Compares a search as it ships with the plain one: all frames recomputed, nothing cached."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from robot_wm.benchmarks.untrained import untrained_model
from robot_wm.imagination import ImaginedCost, SearchBudget
from robot_wm.models import EncodedFrames, LatentWorldModel, State
from robot_wm.objectives import GoalEnergy, Objective
from robot_wm.planners import CEM, Cost, Planner
from robot_wm.predictor import PredictorConfig, PredictorShape
from robot_wm.progress import Progress
from robot_wm.types import ActionSpec, Count, FloatArray, Settings

_ACTION_DIM = 4


class ReferenceSearch(Settings, frozen=True):
    """The search that both ways run, and the model with random weights that it is timed on.

    Attributes:
        num_samples: Samples of CEM per iteration.
        num_iterations: Iterations of CEM.
        num_elites: Elites of CEM.
        horizon: Actions per sequence.
        context_frames: Frames that the model remembers.
        grid: Rows and columns of the model's tokens.
        token_dim: Dimension of the model's tokens.
        repeats: Number of searches that are timed.
    """

    num_samples: Count = 64
    num_iterations: Count = 3
    num_elites: Count = 8
    horizon: Count = 4
    context_frames: Count = 2
    grid: tuple[Count, Count] = (8, 8)
    token_dim: Count = 384
    repeats: Count = 1

    def planner(self) -> CEM:
        """Makes the planner that both ways run."""
        return CEM(
            num_samples=self.num_samples,
            num_iterations=self.num_iterations,
            num_elites=self.num_elites,
            horizon=self.horizon,
        )


def reference_cost(model: LatentWorldModel, state: State, objective: Objective) -> Cost:
    """Makes the cost of the plain way.

    The context is repeated for every candidate, and all frames are recomputed in every step.

    Args:
        model: The model that imagines.
        state: The state to imagine from.
        objective: Makes the cost of imagined futures.

    Returns:
        The cost of action sequences `[N, H, A]`, as `[N]`.
    """

    def cost(actions: Tensor) -> Tensor:
        return objective(model.rollout_recomputed(state, actions), actions)

    return cost


def timed_plan(
    planner: Planner, cost: Cost, bounds: ActionSpec, device: torch.device, seed: int
) -> tuple[float, FloatArray]:
    """Plans once and measures the time.

    Args:
        planner: The planner.
        cost: The cost to minimise.
        bounds: The legal actions.
        device: The device that the planner draws on.
        seed: Seed of the planner's randomness.

    Returns:
        The seconds taken, and the actions of the plan, `[H, A]`.
    """
    generator = torch.Generator(device).manual_seed(seed)
    begin = time.perf_counter()
    with torch.inference_mode():
        plan = planner.plan(cost, bounds, init=None, generator=generator)
    return time.perf_counter() - begin, plan.actions


def compare_ways(
    shape: PredictorShape,
    settings: ReferenceSearch,
    search_budget: SearchBudget,
    device: torch.device,
    *,
    seed: int,
) -> dict[str, float]:
    """Times both ways on a model with random weights and random latents.

    Args:
        shape: Shape of the predictor.
        settings: The search, and the rest of the model.
        search_budget: Where the way that ships saves work.
        device: The device to compute on.
        seed: Seed of the weights and the latents.

    Returns:
        `reference_s` and `shipped_s`, medians; `speedup`, the median of their ratios; `cost_ratio`,
        the mean ratio of the shipped plan's cost to the plain plan's.
    """
    planner, context = settings.planner(), settings.context_frames
    generator = torch.Generator().manual_seed(seed)
    config = PredictorConfig(
        token_dim=settings.token_dim,
        grid=settings.grid,
        action_dim=_ACTION_DIM,
        state_dim=_ACTION_DIM,
        max_frames=context + planner.horizon,
        **asdict(shape),
    )
    model = untrained_model(config, device, generator, context=context)
    model.eval()
    bounds = model.info.action_spec

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(device)

    plain, quick, ratios = [], [], []
    with Progress("reference", "repeat") as progress:
        for repeat in range(settings.repeats):
            latents = draw(context, 1, config.num_tokens, config.token_dim)
            proprio = draw(context, 1, _ACTION_DIM)
            past = draw(context - 1, 1, _ACTION_DIM).clamp(-1, 1)
            goal = GoalEnergy(draw(config.num_tokens, config.token_dim))
            with torch.inference_mode():
                state = model.initial()
                for t in range(context):
                    frame = EncodedFrames(latents[t], proprio[t])
                    state = model.observe(state, frame, past[t - 1] if t else None)
            plain_cost = reference_cost(model, state, goal)
            slow, plain_plan = timed_plan(planner, plain_cost, bounds, device, 0)
            quick_cost = ImaginedCost(model, state, goal, search_budget)
            fast, quick_plan = timed_plan(planner, quick_cost, bounds, device, 0)
            both = torch.tensor(
                np.stack((quick_plan, plain_plan)), dtype=torch.float32, device=device
            )
            with torch.inference_mode():
                quick_exact, plain_exact = ImaginedCost(model, state, goal)(both).tolist()
            plain.append(slow)
            quick.append(fast)
            ratios.append(quick_exact / plain_exact)
            progress(repeat + 1, settings.repeats)
    return {
        "reference_s": statistics.median(plain),
        "shipped_s": statistics.median(quick),
        "speedup": statistics.median(a / b for a, b in zip(plain, quick, strict=True)),
        "cost_ratio": math.fsum(ratios) / len(ratios),
    }
