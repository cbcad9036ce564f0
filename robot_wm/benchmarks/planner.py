"""Compares planners: the costs they reach, their time, and what saving work is worth."""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor

from robot_wm.benchmarks.exploitation import bench_exploitation
from robot_wm.benchmarks.flops import flop_counter, sustained_rate
from robot_wm.benchmarks.reference import (
    ReferenceSearch,
    compare_ways,
    reference_cost,
    timed_plan,
)
from robot_wm.checkpoint import find_checkpoint, load_checkpoint
from robot_wm.deployment.control import legal_actions, make_objective, make_planner
from robot_wm.deployment.parts import Part
from robot_wm.deployment.planning import PlanningSettings
from robot_wm.deployment.settings import SimulationSettings
from robot_wm.deployment.simulation import Simulation, build_simulation
from robot_wm.files import output_dir, replacing
from robot_wm.imagination import ImaginedCost, SearchBudget
from robot_wm.models import LatentWorldModel, State, family_of
from robot_wm.objectives import Objective
from robot_wm.planners import CEM, GRADIENT_COST, PLANNERS, Planner
from robot_wm.precision import pick_device
from robot_wm.predictor import PREDICTORS, PredictorShape
from robot_wm.progress import Progress
from robot_wm.proposals import load_prior
from robot_wm.provenance import write_run
from robot_wm.report import plot_planners
from robot_wm.types import (
    ActionSpec,
    Count,
    FloatArray,
    ImageArray,
    Observation,
    Plan,
    UserError,
    list_goals,
)

log = logging.getLogger(__name__)
_AtLeastOne = Annotated[tuple[Count, ...], Meta(min_length=1)]
_Budget = Annotated[int, Meta(ge=16)]
_BUDGET = 192  # evaluated samples, such as CEM's 64 in 3 iterations


class BenchPlannerSettings(PlanningSettings, frozen=True):
    """Which planners are compared, and on what.

    Attributes:
        checkpoint: A directory, or the name of a checkpoint that ships.
        env: The arm and the task.
        predictor: Shape of the predictor with random weights that the plain way is timed on.
        out: A directory for planners.json and planners.svg; null: nothing is written.
        num_pairs: Number of pairs of start and goal, from the manifest's split.
        split: List of the episodes: `test`, `dev`, or the seed of another list.
        budgets: Numbers of evaluated samples; a gradient counts as two more.
        planners: Names of the planners to compare.
        long: How many times the middle budget's samples the search may use that regret is measured
            against.
        course: How many times the default planner's samples plain CEM gets, one value after the
            other.
        reference: The search that the plain way and the shipped way both run.
        exploitation: Numbers of evaluated samples with which the settings' own planner is asked
            whether it exploits the model; none: it is not.
        device: Device to compute on: `auto`, `cpu`, `cuda`, `cuda:1`, ...
    """

    checkpoint: str = "so100_tabletop"
    env: SimulationSettings = SimulationSettings()
    predictor: PredictorShape = PREDICTORS["medium"]
    out: str | None = None
    num_pairs: Count = 20
    split: str | int = "dev"
    budgets: Annotated[tuple[_Budget, ...], Meta(min_length=1)] = (
        _BUDGET // 4,
        _BUDGET,
        4 * _BUDGET,
    )
    planners: tuple[str, ...] = tuple(PLANNERS)
    long: Count = 20
    course: _AtLeastOne = (1, 2, 4, 8, 16, 32)
    reference: ReferenceSearch = ReferenceSearch()
    exploitation: tuple[Count, ...] = (1, 10, 100, 1000, 10_000)
    device: str = "auto"


@dataclass(frozen=True, eq=False)
class Pair:
    """A start, with one frame before it, and a goal.

    Attributes:
        before: The observation before the start.
        applied: The action between the two observations, `[A]`, in the robot's units.
        now: The observation at the start.
        goal: The goal picture of each camera.
    """

    before: Observation
    applied: FloatArray
    now: Observation
    goal: Mapping[str, ImageArray]


@dataclass(frozen=True, eq=False)
class Measurement:
    """The plans of one planner for all pairs.

    Attributes:
        costs: Exact cost of each plan, `[pairs]`.
        seconds: Time of each plan, observing the start included, `[pairs]`.
        num_evaluated: Mean number of evaluations, a gradient counted as several.
    """

    costs: FloatArray
    seconds: FloatArray
    num_evaluated: float


def bench_planners(settings: BenchPlannerSettings) -> dict[str, Any]:
    """Compares planners, logs tables, and writes JSON and a plot if `out` is set.

    Args:
        settings: Which planners are compared, and on what.

    Returns:
        The figures, in plain values.

    Raises:
        UserError: the checkpoint is of another family, or a horizon is longer than it imagines.
    """
    planning_horizon = make_planner(settings.planner).horizon
    for name in settings.planners:
        at_budget(name, settings.budgets[0], planning_horizon)
    out = output_dir(settings.out) if settings.out else None
    device = pick_device(settings.device)
    directory = find_checkpoint(settings.checkpoint)
    model, _ = load_checkpoint(directory)
    prior = load_prior(directory, model.info)
    model.to(device)
    if not isinstance(model, LatentWorldModel):
        raise UserError(
            f"checkpoint: of the family {family_of(model).name}; the plain way knows the latent one"
        )
    longest = model.info.longest_horizon
    for key, horizon in (
        ("reference.horizon", settings.reference.horizon),
        ("planner.horizon", planning_horizon),
    ):
        if horizon > longest:
            raise UserError(f"{key}: got {horizon}, want at most {longest} for this checkpoint")
    simulation = build_simulation(settings.env)
    bounds = legal_actions(model, simulation.env, settings.controller.limits)
    pairs = make_pairs(simulation, str(settings.split), settings.num_pairs, settings.seed)
    bench = Bench(model, bounds, pairs, make_objective(model, settings.objective, prior), settings)

    rate = sustained_rate(torch.float32, device)
    log.info(f"{device.type}, {torch.get_num_threads()} threads, float32, {rate / 1e9:.0f} GFLOP/s")
    table = bench.compare(rate)
    efficiency = bench.sample_efficiency()
    search_budget = settings.controller.search_budget.on(device)
    reference = {
        "medium": compare_ways(
            settings.predictor, settings.reference, search_budget, device, seed=settings.seed
        ),
        "checkpoint": bench.against_reference(),
    }
    for name, row in reference.items():
        log.info(
            f"{name}: the plain way {row['reference_s']:.3f} s a plan, as shipped "
            f"{row['shipped_s']:.3f} s: {row['speedup']:.1f} times faster, "
            f"{row['cost_ratio']:.4f} of its cost"
        )
    default = bench.default()
    exploitation = bench_exploitation(
        model,
        build_simulation(settings.env),
        settings,
        prior,
        num_samples=settings.exploitation,
        split=str(settings.split),
        num_pairs=settings.num_pairs,
    )
    result = {
        "speedup_vs_reference": reference["medium"]["speedup"],
        "cost_ratio": reference["checkpoint"]["cost_ratio"],
        "speedup_vs_reference_checkpoint": reference["checkpoint"]["speedup"],
        **efficiency,
        "exploitation": exploitation,
        "plan_s_median": float(np.median(default.seconds)),
        "plan_s_p95": float(np.percentile(default.seconds, 95)),
        "matmul_gflop_per_s": rate / 1e9,
    }
    if out:
        out.mkdir(parents=True, exist_ok=True)
        write_run(out, "bench planner", settings)
        everything = {**result, "planners": table, "reference": reference}
        with replacing(out / "planners.json") as scratch:
            scratch.write_text(json.dumps(everything, indent=2, allow_nan=False) + "\n")
        with replacing(out / "planners.svg") as scratch:
            scratch.write_text(plot_planners(table), encoding="utf-8")
        log.info(f"table and plot: {out}")
    return result


def make_pairs(simulation: Simulation, split: str, num: int, seed: int) -> list[Pair]:
    """Makes pairs of a start, one small move after the episode's, and the episode's goal.

    Some starts are one or two random actions further on.

    Args:
        simulation: The env and the task.
        split: The manifest's split.
        num: Number of pairs.
        seed: Seed of the moves.

    Returns:
        The pairs.
    """
    env, task, spec = simulation.env, simulation.task, simulation.env.action_spec
    rng, pairs = np.random.default_rng(seed), []
    for episode in simulation.episodes(split, num):
        goal = list_goals(task.start(episode))[0]
        for _ in range(rng.integers(3)):
            env.apply(rng.uniform(spec.low, spec.high))
        before = env.observe()
        applied = env.apply(0.25 * rng.uniform(spec.low, spec.high))
        pairs.append(Pair(before, applied, env.observe(), goal.images))
    env.close()
    return pairs


class Bench:
    """Measures planners with a checkpoint on pairs of start and goal.

    Args:
        model: The model that imagines.
        bounds: The legal actions.
        pairs: The starts and goals.
        objective: Makes the objective from a goal's latent.
        settings: Settings of the benchmark.
    """

    def __init__(
        self,
        model: LatentWorldModel,
        bounds: ActionSpec,
        pairs: Sequence[Pair],
        objective: Callable[[Tensor], Objective],
        settings: BenchPlannerSettings,
    ) -> None:
        self._model, self._bounds, self._pairs = model, bounds, pairs
        self._settings, self._planner = settings, settings.planner
        self._horizon = make_planner(settings.planner).horizon
        self._search_budget = settings.controller.search_budget.on(model.device)
        self._goals = [objective(model.embed(pair.goal)) for pair in pairs]

    def solve(self, planner: Planner, *, search_budget: SearchBudget | None = None) -> Measurement:
        """Plans for every pair, from the observation to the plan.

        Args:
            planner: The planner to measure.
            search_budget: Where imagining saves work; None: nowhere.

        Returns:
            Costs, times and evaluations.
        """
        costs, seconds, evaluated = [], [], 0
        for i in range(len(self._pairs)):
            before = self._state(i, past_only=True)
            generator = torch.Generator(self._model.device).manual_seed(self._settings.seed + i)
            begin = time.perf_counter()
            state, plan = self._observe_and_plan(i, before, planner, generator, search_budget)
            seconds.append(time.perf_counter() - begin)
            costs.append(self._exact(i, state, plan.actions))
            evaluated += count_evaluations(plan.info)
        return Measurement(np.array(costs), np.array(seconds), evaluated / len(costs))

    @torch.no_grad()
    def _observe_and_plan(
        self,
        i: int,
        before: State,
        planner: Planner,
        generator: torch.Generator,
        search_budget: SearchBudget | None = None,
    ) -> tuple[State, Plan]:
        """Does what a controller does in one decision: observes, then plans."""
        pair, model = self._pairs[i], self._model
        state = model.observe(before, pair.now, pair.applied)
        cost = ImaginedCost(model, state, self._goals[i], search_budget)
        return state, planner.plan(cost, self._bounds, init=None, generator=generator)

    def _exact(self, i: int, state: State, actions: FloatArray) -> float:
        candidate = torch.tensor(actions[None], dtype=torch.float32, device=self._model.device)
        with torch.no_grad():
            return float(ImaginedCost(self._model, state, self._goals[i])(candidate)[0])

    def _state(self, i: int, *, past_only: bool = False) -> State:
        pair, model = self._pairs[i], self._model
        state = model.observe(model.initial(), pair.before, None)
        return state if past_only else model.observe(state, pair.now, pair.applied)

    def rest_costs(self, horizon: int) -> FloatArray:
        """Returns the cost of staying at rest for `horizon` steps, for each pair."""
        rest = np.tile(self._bounds.rest, (horizon, 1))
        return np.array([self._exact(i, self._state(i), rest) for i in range(len(self._pairs))])

    def long_search(self, horizon: int) -> FloatArray:
        """Returns the costs, for each pair, that CEM reaches with many times the samples."""
        many = self._settings.long * _BUDGET // 10
        planner = CEM(
            horizon=horizon,
            num_samples=many,
            num_iterations=10,
            num_elites=max(4, many // 20),
            min_std=0.01,
        )
        return self.solve(planner).costs

    def compare(self, rate: float) -> list[dict[str, Any]]:
        """Measures every planner at every budget, and logs a table.

        Args:
            rate: Floating point operations per second that the device sustains.

        Returns:
            A row for each planner and budget, in plain values.
        """
        settings, horizon = self._settings, self._horizon
        rest, least = self.rest_costs(horizon), self.long_search(horizon)
        rows = []
        measured: list[tuple[str, int, Measurement, float]] = []
        with Progress("plan", "budget") as progress:
            total = len(settings.planners) * len(settings.budgets)
            for name in settings.planners:
                for budget in settings.budgets:
                    planner = at_budget(name, budget, horizon)
                    measured.append((name, budget, self.solve(planner), self._flops(planner)))
                    least = np.minimum(least, measured[-1][2].costs)
                    progress(len(measured), total)
        log.info(
            f"{'planner':21}{'evaluated':>10}{'s a plan':>10}{'p95':>8}{'GFLOP':>8}{'of rate':>9}"
            f"{'cost':>10}{'regret':>9}"
        )
        for name, budget, result, flops in measured:
            median_s = float(np.median(result.seconds))
            regret = (result.costs - least) / np.maximum(rest - least, 1e-12)
            row = {
                "planner": name,
                "budget": budget,
                "num_evaluated": result.num_evaluated,
                "plan_s_median": median_s,
                "plan_s_p95": float(np.percentile(result.seconds, 95)),
                "gflop": flops / 1e9,
                "matmul_share": flops / median_s / rate,
                "cost_median": float(np.median(result.costs)),
                "regret_median": float(np.median(regret)),
                "regret_mean": float(np.mean(regret)),
            }
            log.info(
                f"{name:21}{result.num_evaluated:10.0f}{median_s:10.4f}{row['plan_s_p95']:8.3f}"
                f"{row['gflop']:8.2f}{row['matmul_share']:9.1%}{row['cost_median']:10.5f}"
                f"{row['regret_median']:9.2%}"
            )
            rows.append(row)
        return rows

    def _flops(self, planner: Planner) -> float:
        before, generator = self._state(0, past_only=True), torch.Generator(self._model.device)
        with flop_counter() as counter:
            self._observe_and_plan(0, before, planner, generator.manual_seed(self._settings.seed))
        return float(counter.get_total_flops())

    def default(self) -> Measurement:
        """Measures the configured planner, as it ships."""
        return self.solve(make_planner(self._planner), search_budget=self._search_budget)

    def sample_efficiency(self) -> dict[str, Any]:
        """Measures how many times the default planner's evaluations plain CEM needs for its cost.

        For each pair this is the least of CEM's budgets that reaches as low a cost. A pair where no
        budget does counts with the largest one, so the figure is a lower bound.

        Returns:
            The median ratio, its 95 % confidence interval, and the share of pairs that no budget
            solves.
        """
        ours, course = self.default(), sorted(self._settings.course)
        needed = np.full(len(ours.costs), np.inf)
        tolerance = 1e-6 + 1e-4 * np.abs(ours.costs)  # no planner is asked for the last digits
        for times in course:
            budget = times * ours.num_evaluated
            for iterations in (3, 6, 10):
                theirs = self.solve(plain_cem(budget, iterations, self._horizon))
                reached = theirs.costs <= ours.costs + tolerance
                needed[reached] = np.minimum(needed, theirs.num_evaluated)[reached]
        most = course[-1] * ours.num_evaluated
        ratios = np.where(np.isfinite(needed), needed, most) / ours.num_evaluated
        rng = np.random.default_rng(self._settings.seed)
        medians = np.median(rng.choice(ratios, (10_000, len(ratios))), axis=1)
        low, high = np.percentile(medians, (2.5, 97.5))
        log.info(
            f"plain CEM needs {np.median(ratios):.1f} times the evaluated samples ({low:.1f} to "
            f"{high:.1f}) for the cost of the default planner with {ours.num_evaluated:.0f}; "
            f"{np.isinf(needed).mean():.0%} of the pairs: not with {course[-1]} times"
        )
        return {
            "sample_efficiency": float(np.median(ratios)),
            "sample_efficiency_ci95": [float(low), float(high)],
            "sample_efficiency_num_evaluated": ours.num_evaluated,
            "sample_efficiency_censored": float(np.isinf(needed).mean()),
        }

    def against_reference(self) -> dict[str, float]:
        """Compares the plain way with the same search as it ships, on the checkpoint."""
        planner, search_budget = self._settings.reference.planner(), self._search_budget
        plain, quick, costs = [], [], []
        for i in range(len(self._pairs)):
            state = self._state(i)
            pair_costs = []
            goal = self._goals[i]
            shipped_way = ImaginedCost(self._model, state, goal, search_budget)
            for way in (reference_cost(self._model, state, goal), shipped_way):
                seconds, actions = timed_plan(planner, way, self._bounds, self._model.device, i)
                (plain if not pair_costs else quick).append(seconds)
                pair_costs.append(self._exact(i, state, actions))
            costs.append(pair_costs)
        reference, shipped = np.array(costs).T
        return {
            "reference_s": statistics.median(plain),
            "shipped_s": statistics.median(quick),
            "speedup": statistics.median(a / b for a, b in zip(plain, quick, strict=True)),
            "cost_ratio": float(shipped.mean() / reference.mean()),
        }


def at_budget(name: str, budget: int, horizon: int) -> Planner:
    """Makes a planner whose evaluations come to about `budget`.

    Args:
        name: Name of the planner.
        budget: Evaluated samples.
        horizon: Actions per sequence.

    Returns:
        The planner.

    Raises:
        UserError: there is no planner of that name.
    """
    if name not in PLANNERS:
        raise UserError(f"planners: got {name!r}, want some of {', '.join(PLANNERS)}")
    return make_planner(Part(name), horizon=horizon).with_budget(budget)


def plain_cem(budget: float, num_iterations: int, horizon: int) -> CEM:
    """Makes plain CEM, without its additions, with about `budget` evaluations."""
    each = max(4, round(budget / num_iterations))
    return CEM(
        horizon=horizon,
        num_samples=each,
        num_iterations=num_iterations,
        num_elites=max(2, each // 8),
        min_std=0.01,
    )


def count_evaluations(info: Mapping[str, object]) -> int:
    """Counts the evaluated samples of a plan, a gradient as the work it costs."""
    evaluated, gradients = info["num_evaluated"], info["num_gradients"]
    assert isinstance(evaluated, int) and isinstance(gradients, int)
    return evaluated + GRADIENT_COST * gradients
