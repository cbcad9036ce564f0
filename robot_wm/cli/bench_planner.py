"""`robot-wm bench planner`: what planners find, how soon, and what saving work is worth."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from robot_wm.checkpoint import find_checkpoint, load_checkpoint
from robot_wm.cli.build import Simulation, build_simulation
from robot_wm.cli.config import compose_config, groups, plain, planning_settings
from robot_wm.cli.console import Progress, finish, output_dir, say
from robot_wm.cli.flops import flop_counter, sustained_rate
from robot_wm.cli.provenance import write_run
from robot_wm.deployment.control import (
    legal_actions,
    make_objective,
    make_planner,
    make_search_budget,
)
from robot_wm.deployment.settings import Part
from robot_wm.files import replacing
from robot_wm.imagination import ImaginedCost, SearchBudget
from robot_wm.models import (
    EncodedFrames,
    LatentWorldModel,
    ModelSpec,
    State,
    View,
    family_of,
)
from robot_wm.objectives import GoalEnergy, Objective
from robot_wm.planners import CEM, GRADIENT_COST, Cost, Planner
from robot_wm.precision import pick_device
from robot_wm.predictor import Predictor, PredictorConfig
from robot_wm.preprocess import NormStats
from robot_wm.report import plot_planners
from robot_wm.types import (
    ActionSpec,
    FloatArray,
    ImageArray,
    Observation,
    Plan,
    UserError,
    check_counts,
    list_goals,
)


@dataclass(frozen=True, eq=False)
class Pair:
    """A start, with one frame before it, and a goal."""

    before: Observation
    applied: FloatArray
    now: Observation
    goal: Mapping[str, ImageArray]


@dataclass(frozen=True, eq=False)
class Found:
    """What a planner did with every pair.

    Attributes:
        costs: exact cost of each plan, `[pairs]`.
        seconds: each took, the look at the start included.
        num_evaluated: evaluations, gradients counted as so many more; mean.
    """

    costs: FloatArray
    seconds: FloatArray
    num_evaluated: float


def run(config: DictConfig) -> None:
    """Runs all, prints tables, writes JSON and plot where `out` asks for them."""
    check_counts(num_pairs=config.num_pairs, long=config.long)
    check_counts(**{"planner.horizon": config.planner.horizon})
    for budget in config.budgets:
        check_counts(budgets=budget)
    if not config.course or min(config.course) < 1:
        raise UserError(f"course: got {list(config.course)}, want numbers of 1 or more")
    if not config.budgets or min(config.budgets) < 16:
        raise UserError(f"budgets: got {list(config.budgets)}, want evaluated samples, 16 or more")
    for name in config.planners:
        at_budget(name, config.budgets[0], config.planner.horizon)
    out = output_dir(config.out) if config.out else None
    device = pick_device(config.device)
    model, _ = load_checkpoint(find_checkpoint(config.checkpoint))
    model.to(device)
    if not isinstance(model, LatentWorldModel):
        raise UserError(
            f"checkpoint: of the family {family_of(model).name}; the plain way knows the latent one"
        )
    longest = model.info.longest_horizon
    for key, horizon in (
        ("reference.horizon", config.reference.horizon),
        ("planner.horizon", config.planner.horizon),
    ):
        if horizon > longest:
            raise UserError(f"{key}: got {horizon}, want at most {longest} for this checkpoint")
    simulation = build_simulation(config.env)
    settings = planning_settings(config)
    bounds = legal_actions(model, simulation.env, settings.controller.limits)
    pairs = make_pairs(simulation, str(config.split), config.num_pairs, config.seed)
    bench = Bench(model, bounds, pairs, make_objective(model, settings.objective), config)

    rate = sustained_rate(torch.float32, device)
    say(f"{device.type}, {torch.get_num_threads()} threads, float32, {rate / 1e9:.0f} GFLOP/s")
    table = bench.compare(rate)
    efficiency = bench.sample_efficiency()
    reference = {
        "medium": medium_reference(config, device),
        "checkpoint": bench.against_reference(),
    }
    for name, row in reference.items():
        say(
            f"{name}: the plain way {row['reference_s']:.3f} s a plan, as shipped "
            f"{row['shipped_s']:.3f} s: {row['speedup']:.1f} times faster, "
            f"{row['cost_ratio']:.4f} of its cost"
        )
    default = bench.default()
    result = {
        "speedup_vs_reference": reference["medium"]["speedup"],
        "cost_ratio": reference["checkpoint"]["cost_ratio"],
        "speedup_vs_reference_checkpoint": reference["checkpoint"]["speedup"],
        **efficiency,
        "plan_s_median": float(np.median(default.seconds)),
        "plan_s_p95": float(np.percentile(default.seconds, 95)),
        "matmul_gflop_per_s": rate / 1e9,
    }
    if out:
        out.mkdir(parents=True, exist_ok=True)
        write_run(out, "bench planner", config)
        everything = {**result, "planners": table, "reference": reference}
        with replacing(out / "planners.json") as scratch:
            scratch.write_text(json.dumps(everything, indent=2, allow_nan=False) + "\n")
        with replacing(out / "planners.svg") as scratch:
            scratch.write_text(plot_planners(table), encoding="utf-8")
        say(f"table and plot: {out}")
    finish(result)


def make_pairs(simulation: Simulation, split: str, num: int, seed: int) -> list[Pair]:
    """Starts of a manifest's episodes, one small move later, with their goals.

    Some starts are a move or two further on than the episode's.
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
    """A checkpoint, pairs of start and goal, and what to search with."""

    def __init__(
        self,
        model: LatentWorldModel,
        bounds: ActionSpec,
        pairs: Sequence[Pair],
        objective: Callable[[Tensor], Objective],
        config: DictConfig,
    ) -> None:
        self._model, self._bounds, self._pairs = model, bounds, pairs
        self._config, settings = config, planning_settings(config)
        self._planner = settings.planner
        self._search_budget = make_search_budget(settings.controller.search_budget, model.device)
        self._goals = [objective(model.embed(pair.goal)) for pair in pairs]

    def solve(self, planner: Planner, *, search_budget: SearchBudget | None = None) -> Found:
        """Plans for every pair, from what is seen to the plan."""
        costs, seconds, evaluated = [], [], 0
        for i in range(len(self._pairs)):
            before = self._state(i, past_only=True)
            generator = torch.Generator(self._model.device).manual_seed(self._config.seed + i)
            begin = time.perf_counter()
            state, plan = self._look_and_plan(i, before, planner, generator, search_budget)
            seconds.append(time.perf_counter() - begin)
            costs.append(self._exact(i, state, plan.actions))
            evaluated += count_evaluations(plan.info)
        return Found(np.array(costs), np.array(seconds), evaluated / len(costs))

    @torch.no_grad()
    def _look_and_plan(
        self,
        i: int,
        before: State,
        planner: Planner,
        generator: torch.Generator,
        search_budget: SearchBudget | None = None,
    ) -> tuple[State, Plan]:
        """What a controller does at one look."""
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
        """What doing nothing costs, per pair."""
        rest = np.tile(self._bounds.rest, (horizon, 1))
        return np.array([self._exact(i, self._state(i), rest) for i in range(len(self._pairs))])

    def long_search(self, horizon: int) -> FloatArray:
        """The costs that CEM finds with many times the samples, per pair."""
        many = self._config.long * 192 // 10
        planner = CEM(
            horizon=horizon,
            num_samples=many,
            num_iterations=10,
            num_elites=max(4, many // 20),
            min_std=0.01,
        )
        return self.solve(planner).costs

    def compare(self, rate: float) -> list[dict[str, Any]]:
        """Every planner over the grid of budgets."""
        config, horizon = self._config, self._config.planner.horizon
        rest, least = self.rest_costs(horizon), self.long_search(horizon)
        rows = []
        found: list[tuple[str, int, Found, float]] = []
        with Progress("plan", "budget") as progress:
            total = len(config.planners) * len(config.budgets)
            for name in config.planners:
                for budget in config.budgets:
                    planner = at_budget(name, budget, horizon)
                    found.append((name, budget, self.solve(planner), self._flops(planner)))
                    least = np.minimum(least, found[-1][2].costs)
                    progress(len(found), total)
        say(
            f"{'planner':21}{'evaluated':>10}{'s a plan':>10}{'p95':>8}{'GFLOP':>8}{'of rate':>9}"
            f"{'cost':>10}{'regret':>9}"
        )
        for name, budget, result, flops in found:
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
            say(
                f"{name:21}{result.num_evaluated:10.0f}{median_s:10.4f}{row['plan_s_p95']:8.3f}"
                f"{row['gflop']:8.2f}{row['matmul_share']:9.1%}{row['cost_median']:10.5f}"
                f"{row['regret_median']:9.2%}"
            )
            rows.append(row)
        return rows

    def _flops(self, planner: Planner) -> float:
        before, generator = self._state(0, past_only=True), torch.Generator(self._model.device)
        with flop_counter() as counter:
            self._look_and_plan(0, before, planner, generator.manual_seed(self._config.seed))
        return float(counter.get_total_flops())

    def default(self) -> Found:
        """The configured planner, as it ships."""
        return self.solve(make_planner(self._planner), search_budget=self._search_budget)

    def sample_efficiency(self) -> dict[str, Any]:
        """How many times the default planner's evaluations plain CEM needs for the same cost.

        Per pair, the least of CEM's budgets at which it is as low; a pair at which no budget is
        counts with the largest, so the figure is a lower bound.
        """
        ours, course = self.default(), sorted(self._config.course)
        needed = np.full(len(ours.costs), np.inf)
        tolerance = 1e-6 + 1e-4 * np.abs(ours.costs)  # no planner is asked for the last digits
        for times in course:
            budget = times * ours.num_evaluated
            for iterations in (3, 6, 10):
                theirs = self.solve(plain_cem(budget, iterations, self._config.planner.horizon))
                reached = theirs.costs <= ours.costs + tolerance
                needed[reached] = np.minimum(needed, theirs.num_evaluated)[reached]
        most = course[-1] * ours.num_evaluated
        ratios = np.where(np.isfinite(needed), needed, most) / ours.num_evaluated
        rng = np.random.default_rng(self._config.seed)
        medians = np.median(rng.choice(ratios, (10_000, len(ratios))), axis=1)
        low, high = np.percentile(medians, (2.5, 97.5))
        say(
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
        """The plain way and the same search as it ships, on the checkpoint."""
        settings: Any = OmegaConf.to_container(self._config.reference)
        planner, search_budget = reference_cem(settings), self._search_budget
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
    """A planner of configs/planner whose evaluations come to about `budget`.

    Raises:
        UserError: no planner of that name.
    """
    if name not in groups()["planner"]:
        raise UserError(f"planners: got {name!r}, want some of {', '.join(groups()['planner'])}")
    config = compose_config("eval", [f"planner={name}"]).planner
    return make_planner(Part.of(plain(config)), horizon=horizon).with_budget(budget)


def plain_cem(budget: float, num_iterations: int, horizon: int) -> CEM:
    """CEM without anything clever, with about `budget` evaluations."""
    each = max(4, round(budget / num_iterations))
    return CEM(
        horizon=horizon,
        num_samples=each,
        num_iterations=num_iterations,
        num_elites=max(2, each // 8),
        min_std=0.01,
    )


def count_evaluations(info: Mapping[str, object]) -> int:
    """Evaluated samples of a plan, a gradient counted as the work it is."""
    evaluated, gradients = info["num_evaluated"], info["num_gradients"]
    assert isinstance(evaluated, int) and isinstance(gradients, int)
    return evaluated + GRADIENT_COST * gradients


def reference_cem(settings: Mapping[str, Any]) -> CEM:
    """The search of both sides of the comparison."""
    names = ("num_samples", "num_iterations", "num_elites", "horizon")
    return CEM(**{name: settings[name] for name in names})


def reference_cost(model: LatentWorldModel, state: State, objective: Objective) -> Cost:
    """Costs the plain way: context repeated per candidate, all frames again for every step."""

    def cost(actions: Tensor) -> Tensor:
        return objective(model.rollout_recomputed(state, actions), actions)

    return cost


def timed_plan(
    planner: Planner, cost: Cost, bounds: ActionSpec, device: torch.device, seed: int
) -> tuple[float, FloatArray]:
    """Seconds, and the plan's actions."""
    generator = torch.Generator(device).manual_seed(seed)
    begin = time.perf_counter()
    with torch.inference_mode():
        plan = planner.plan(cost, bounds, init=None, generator=generator)
    return time.perf_counter() - begin, plan.actions


def medium_reference(config: DictConfig, device: torch.device) -> dict[str, float]:
    """The comparison on a predictor of another size, with random weights and latents."""
    settings: Any = OmegaConf.to_container(config.reference)
    check_counts(repeats=settings["repeats"], context_frames=settings["context_frames"])
    planner, context = reference_cem(settings), settings["context_frames"]
    generator = torch.Generator().manual_seed(config.seed)
    names = tuple("xyzg")
    shape = PredictorConfig(
        token_dim=settings["token_dim"],
        grid=settings["grid"],
        action_dim=len(names),
        state_dim=len(names),
        max_frames=context + planner.horizon,
        **OmegaConf.to_container(config.predictor),  # type: ignore[arg-type]
    )
    bounds = ActionSpec(names, -np.ones(4), np.ones(4), ("",) * 4)
    same = NormStats(np.zeros(4), np.ones(4))
    views = (View("front", 96, 96),)
    spec = ModelSpec(views, 0.2, names, bounds, context_frames=context)
    predictor = Predictor(shape, generator=generator).to(device).eval()
    blind: Any = _Shape(shape.token_dim, shape.grid)
    model = LatentWorldModel(blind, predictor, spec, action_stats=same, proprio_stats=same)
    search_budget = make_search_budget(planning_settings(config).controller.search_budget, device)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(device)

    plain, quick, ratios = [], [], []
    with Progress("reference", "repeat") as progress:
        for repeat in range(settings["repeats"]):
            latents = draw(context, 1, shape.num_tokens, shape.token_dim)
            proprio, past = draw(context, 1, 4), draw(context - 1, 1, 4).clamp(-1, 1)
            goal = GoalEnergy(draw(shape.num_tokens, shape.token_dim))
            with torch.inference_mode():
                state = model.initial()
                for t in range(context):
                    seen = EncodedFrames(latents[t], proprio[t])
                    state = model.observe(state, seen, past[t - 1] if t else None)
            slow, theirs = timed_plan(
                planner, reference_cost(model, state, goal), bounds, device, 0
            )
            fast, ours = timed_plan(
                planner, ImaginedCost(model, state, goal, search_budget), bounds, device, 0
            )
            both = torch.tensor(np.stack((ours, theirs)), dtype=torch.float32, device=device)
            with torch.inference_mode():
                mine, other = ImaginedCost(model, state, goal)(both).tolist()
            plain.append(slow)
            quick.append(fast)
            ratios.append(mine / other)
            progress(repeat + 1, settings["repeats"])
    return {
        "reference_s": statistics.median(plain),
        "shipped_s": statistics.median(quick),
        "speedup": statistics.median(a / b for a, b in zip(plain, quick, strict=True)),
        "cost_ratio": math.fsum(ratios) / len(ratios),
    }


@dataclass(frozen=True)
class _Shape:
    """What a model asks of an encoder that it never calls."""

    dim: int
    grid: tuple[int, int]
