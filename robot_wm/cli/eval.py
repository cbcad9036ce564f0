"""`robot-wm eval`: a checkpoint on a fixed list of episodes, beside its floors."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from robot_wm.checkpoint import find_checkpoint, load_checkpoint
from robot_wm.cli.build import Simulation, build_simulation, instantiate, pick_device
from robot_wm.cli.console import Progress, finish, git_sha, machine, output_dir, say
from robot_wm.cli.control import (
    check_cameras,
    check_same_arm,
    legal_actions,
    make_controller,
    make_objective,
)
from robot_wm.controller import GoalSequence
from robot_wm.evaluation import (
    EpisodeResult,
    LatentOracle,
    RandomController,
    StateOracle,
    ZeroController,
    count_outcomes,
    evaluate,
    plan_seconds,
    summarize,
)
from robot_wm.models import TrainableModel, device_of
from robot_wm.report import EpisodeVideo, Landscape, MeasureLabel, Report, write_report
from robot_wm.report.units import show
from robot_wm.runtime import Recorder, Step
from robot_wm.types import (
    Controller,
    FloatArray,
    Goal,
    ImageArray,
    Measure,
    Observation,
    Outcome,
    UserError,
)

FLOORS = ("random", "zero")
RecorderFactory = Callable[[int, Goal], Recorder | None]


@dataclass(frozen=True)
class Evaluation:
    """Every figure of an evaluation, and the pictures for its report."""

    tasks: dict[str, Any]
    name: str
    curves: dict[str, FloatArray]
    energies: list[list[float]]
    outcomes: list[str]
    episodes: list[int]
    measure: Measure
    landscapes: list[Landscape]
    videos: list[EpisodeVideo]
    settings: dict[str, str]


def run(config: DictConfig) -> None:
    """Evaluates, prints the table, and writes the report where `out` asks for one."""
    out = output_dir(config.out) if config.out else None
    evaluation = evaluate_checkpoint(config)
    say(table(evaluation))
    if out:
        report = to_report(evaluation, f"robot_wm: {config.checkpoint}")
        say(f"report: {write_report(report, out)}")
    finish({"tasks": evaluation.tasks})


def evaluate_checkpoint(config: DictConfig) -> Evaluation:
    """Runs the model and its floors (and ceiling) on the same episodes."""
    unknown = set(config.floors) - set(FLOORS)
    if unknown:
        raise UserError(f"floors: got {sorted(unknown)}, want some of {', '.join(FLOORS)}")
    model, saved = load_checkpoint(find_checkpoint(config.checkpoint))
    model.to(pick_device(config.device))
    simulation = build_simulation(config.env)
    check_same_arm(model.info, simulation.robot)
    check_cameras(model.info, simulation.env.observe().images)
    controller = make_controller(model, simulation.env, config)
    task, spec = simulation.task, simulation.env.action_spec
    episodes = simulation.episodes(str(config.split), config.num_episodes)

    films: list[_Film] = []
    seen: list[_Looks] = []

    def watch(index: int, goal: Goal) -> Recorder:
        film = None
        if index < config.num_videos:
            title = f"{simulation.name}, episode {episodes[index]['seed']}"
            film = _Film(model, simulation, config, goal, title)
            films.append(film)
        seen.append(_Looks(controller, film))
        return seen[-1]

    def measure(
        name: str, method: Controller, recorder: RecorderFactory | None = None
    ) -> list[EpisodeResult]:
        with Progress(name, "episode") as progress:
            return evaluate(
                task,
                method,
                episodes,
                num_steps=simulation.num_steps,
                recorder=recorder,
                progress=progress,
            )

    ours = measure("model", controller, watch)
    for result in ours:
        if result.error:
            say(f"episode {result.seed}: no plan: {result.error}")
    others: dict[str, list[EpisodeResult]] = {}
    limits: Any = OmegaConf.to_container(config.controller.limits)
    bounds = legal_actions(model, simulation.env, limits)
    if "random" in config.floors:
        others["random"] = measure("random floor", RandomController(bounds, seed=config.seed))
    if "zero" in config.floors:
        others["zero"] = measure("zero floor", ZeroController(spec))
    outcomes = [looks.outcome for looks in seen]
    plan_s = [seconds for looks in seen for seconds in looks.plan_s]
    figures: dict[str, Any] = {
        **summarize(ours),
        "outcomes": count_outcomes(ours, outcomes),
        "floors": {name: summarize(results) for name, results in others.items()},
        "plan_s": plan_seconds(plan_s),
    }
    if config.state_oracle:
        planner = instantiate(config.planner)
        oracle = measure("state oracle", StateOracle(task, planner, seed=config.seed))
        figures["ceilings"] = {"state_oracle": summarize(oracle)}
        others["state_oracle"] = oracle
    if config.latent_oracle:
        oracle = LatentOracle(
            task,
            model,
            instantiate(config.planner),
            make_objective(model, config.objective),
            bounds,
            seed=config.seed,
        )
        others["latent_oracle"] = measure("latent oracle", oracle)
        figures.setdefault("ceilings", {})["latent_oracle"] = summarize(others["latent_oracle"])
    curves = {"model": ours, **others}
    return Evaluation(
        tasks={simulation.name: figures},
        curves={
            name: np.array([result.curve for result in results]) for name, results in curves.items()
        },
        energies=[looks.energies for looks in seen],
        outcomes=[outcome.kind if outcome else "no plan" for outcome in outcomes],
        episodes=[result.seed for result in ours],
        name=ours[0].judged[-1].first[0],
        measure=ours[0].measure,
        landscapes=[film.landscape for film in films if film.landscape][:2],
        videos=[f.video(r) for f, r in zip(films, ours, strict=False) if f.ran],
        settings=_settings(config, saved),
    )


class _Looks:
    """Notes the energy of every look, what every plan took and how the episode ended, and lets a
    film see it, too.
    """

    def __init__(self, controller: GoalSequence, film: Recorder | None = None) -> None:
        self._controller, self._film = controller, film
        self.energies: list[float] = []
        self.plan_s: list[float] = []
        self.outcome: Outcome | None = None  # stays None where no plan was found

    def record(self, step: Step) -> None:
        decision = step.decision
        assert decision.energy is not None
        self.energies.append(decision.energy)
        if decision.planned:
            self.plan_s.append(step.plan_s)
        if self._film:
            self._film.record(step)

    def finish(self, last: Observation) -> None:
        self.outcome = self._controller.outcome(last)
        if self._film:
            self._film.finish(last)


class _Film:
    """Keeps an episode's pictures, and the energy landscape around its start."""

    def __init__(
        self,
        model: TrainableModel,
        simulation: Simulation,
        config: DictConfig,
        goal: Goal,
        title: str,
    ) -> None:
        self._model, self._camera = model, model.info.cameras[0]
        self._simulation = simulation
        self._config = config
        self._goal = goal
        self._title = title
        self._frames: list[ImageArray] = []
        self.landscape: Landscape | None = None

    def record(self, step: Step) -> None:
        if not self._frames:
            self.landscape = self._draw(step)
        self._frames.append(step.observation.images[self._camera])

    def finish(self, last: Observation) -> None:
        self._frames.append(last.images[self._camera])

    def _draw(self, step: Step, side: int = 25) -> Landscape | None:
        """The energy after one action (dx, dy), everything else at rest."""
        goal_pose = getattr(self._simulation.task, "goal_pose", None)
        spec = self._simulation.env.action_spec
        if goal_pose is None or spec.size < 2:
            return None
        grid = np.linspace(spec.low[:2], spec.high[:2], side)  # [side, 2]
        actions = np.zeros((side, side, spec.size), np.float32)
        actions[:, :, 0], actions[:, :, 1] = grid[None, :, 0], grid[:, None, 1]
        goal = self._model.embed(self._goal.images)
        objective = make_objective(self._model, self._config.objective)(goal)
        candidates = torch.from_numpy(actions.reshape(-1, 1, spec.size)).to(device_of(self._model))
        with torch.inference_mode():
            state = self._model.observe(self._model.initial(), step.observation, None)
            energy = objective(self._model.rollout(state, candidates), candidates)
        toward = goal_pose[:2] - step.observation.proprio[:2]
        return Landscape(
            title=self._title,
            dx_m=grid[:, 0],
            dy_m=grid[:, 1],
            energy=energy.reshape(side, side).cpu().numpy(),
            toward_goal_m=(float(toward[0]), float(toward[1])),
            planned_m=(float(step.decision.action[0]), float(step.decision.action[1])),
        )

    @property
    def ran(self) -> bool:
        """Whether there is anything to show."""
        return bool(self._frames)

    def video(self, result: EpisodeResult) -> EpisodeVideo:
        return EpisodeVideo(
            title=self._title,
            frames=np.stack(self._frames),
            goal=self._goal.images[self._camera],
            measured=np.array(result.curve[: len(self._frames)]),
            fps=1 / self._simulation.env.control_dt,
        )


def to_report(
    evaluation: Evaluation,
    title: str,
    *,
    training: Sequence[Mapping[str, float]] = (),
    held_out: Mapping[str, Sequence[float]] | None = None,
) -> Report:
    """An evaluation as a report, with what training has to add."""
    return Report(
        title=title,
        settings=evaluation.settings,
        tasks=evaluation.tasks,
        curves=evaluation.curves,
        energies=evaluation.energies,
        outcomes=evaluation.outcomes,
        episodes=evaluation.episodes,
        measure=MeasureLabel.of(evaluation.name, evaluation.measure),
        landscapes=evaluation.landscapes,
        videos=evaluation.videos,
        training=training,
        held_out=held_out or {},
    )


def table(evaluation: Evaluation) -> str:
    """Success by method, for the terminal."""
    tasks, unit = evaluation.tasks, evaluation.measure.unit
    key = f"final_{evaluation.name}_{unit}_median"
    lines = [f"{'':24}{'final':>8}{'95 % interval':>18}{'any':>8}{'median':>10}"]
    for task, figures in tasks.items():
        rows = {task: figures, **figures["floors"], **figures.get("ceilings", {})}
        for name, row in rows.items():
            low, high = row["success_final_ci95"]
            lines.append(
                f"{name:24}{row['success_final']:8.1%}{f'{low:.1%} to {high:.1%}':>18}"
                f"{row['success_any']:8.1%}{show(row[key], unit):>10}"
            )
        said = [
            f"{kind} {count['n']} ({count['success']} within the goal's distance)"
            for kind, count in figures["outcomes"].items()
        ]
        lines.append(f"how the model says they ended: {', '.join(said)}")
        seconds = figures["plan_s"]
        lines.append(
            f"a plan takes {seconds['median']:.3f} s (median), {seconds['p95']:.3f} s (p95)"
        )
    return "\n".join(lines)


def _settings(config: DictConfig, saved: Mapping[str, Any]) -> dict[str, str]:
    training, encoder = saved.get("training", {}), saved["encoder"]
    planner: Any = OmegaConf.to_container(config.planner)
    objective: Any = OmegaConf.to_container(config.objective)
    control: Any = OmegaConf.to_container(config.controller)
    return {
        "git sha": git_sha() or "not a checkout",
        "checkpoint": f"{config.checkpoint} ({saved['checkpoint_hash'][:12]})",
        "encoder": f"{encoder['name']} ({encoder['fingerprint']['weights'][:12]})",
        "dataset": str(training.get("data", {}).get("content_hash", "unknown"))[:12],
        "episodes": f"{config.num_episodes} of split {config.split}",
        "planner": _in_words(planner),
        "objective": _in_words(objective),
        "controller": _in_words(control),
        "seed": str(config.seed),
        "render": os.environ.get("MUJOCO_GL", "unknown"),
        "machine": f"{machine()}, {config.device}, encoder in float32",
    }


def _in_words(settings: Mapping[str, Any]) -> str:
    """Settings in one line, without those that are not in use."""
    words = []
    for key, value in settings.items():
        if key == "_target_":
            words.append(str(value).rpartition(".")[2])
        elif isinstance(value, dict):
            words += [f"{key}: {inner}"] if (inner := _in_words(value)) else []
        elif key != "_partial_" and value is not None and value != {}:
            words.append(f"{key} {value}")
    return ", ".join(words)
