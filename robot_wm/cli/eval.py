"""`robot-wm eval`: a checkpoint on a fixed list of episodes, beside its floors."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from robot_wm import __version__
from robot_wm.checkpoint import find_checkpoint, load_checkpoint
from robot_wm.cli.build import Simulation, build_simulation
from robot_wm.cli.config import planning_settings
from robot_wm.cli.console import Progress, finish, git_sha, machine, output_dir, say
from robot_wm.cli.provenance import write_run
from robot_wm.controller import GoalSequence
from robot_wm.deployment.control import (
    check_cameras,
    check_same_arm,
    legal_actions,
    make_controller,
    make_objective,
    make_planner,
)
from robot_wm.deployment.settings import Part
from robot_wm.evaluation import (
    Episode,
    EpisodeLog,
    EpisodeResult,
    EpisodeTrace,
    LatentOracle,
    RandomController,
    StateOracle,
    ZeroController,
    count_outcomes,
    evaluate,
    plan_seconds,
    summarize,
)
from robot_wm.files import owning
from robot_wm.models import TrainableModel, device_of
from robot_wm.precision import pick_device
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
    Task,
    UserError,
)

FLOORS = ("random", "zero")
_PART, _DONE = (
    "episodes.part.jsonl",
    "episodes.jsonl",
)  # of an evaluation on its way, and of one done
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
    with owning(out) if out else nullcontext():
        evaluation = evaluate_checkpoint(config, out)
        say(table(evaluation))
        if out:
            report = to_report(evaluation, f"robot_wm: {config.checkpoint}")
            say(f"report: {write_report(report, out)}")
            write_run(out, "eval", config)
            (out / _PART).replace(out / _DONE)
    finish({"tasks": evaluation.tasks})


def evaluate_checkpoint(config: DictConfig, out: Path | None = None) -> Evaluation:
    """Runs the model and its floors (and ceiling) on the same episodes.

    Args:
        config: of the command.
        out: a folder where every episode is kept as it ends, in `episodes.jsonl`; the same
            evaluation, stopped and begun again, goes on with the next. None: there is none.
    """
    unknown = set(config.floors) - set(FLOORS)
    if unknown:
        raise UserError(f"floors: got {sorted(unknown)}, want some of {', '.join(FLOORS)}")
    model, saved = load_checkpoint(find_checkpoint(config.checkpoint))
    model.to(pick_device(config.device))
    simulation = build_simulation(config.env)
    check_same_arm(model.info, simulation.robot)
    check_cameras(model.info, simulation.env.observe().images)
    settings = planning_settings(config)
    controller = make_controller(model, simulation.env, settings)
    task, spec = simulation.task, simulation.env.action_spec
    episodes = simulation.episodes(str(config.split), config.num_episodes)

    films: list[_Film] = []
    traces: list[EpisodeTrace] = []
    part = None if out is None else out / _PART
    log = EpisodeLog(part, _about(config, saved))
    if len(log):
        say(f"going on after {len(log)} episodes that are done already")

    def watch(episode: Episode, goal: Goal, filmed: bool) -> _Looks:
        film = None
        if filmed:
            title = f"{simulation.name}, episode {episode['seed']}"
            film = _Film(model, simulation, settings.objective, goal, title)
            films.append(film)
        return _Looks(controller, film)

    def ours_on(episode: Episode, index: int) -> EpisodeResult:
        """The model on an episode; those that are filmed run even where they are done already."""
        filmed = index < config.num_videos
        found = None if filmed else log.find("model", int(str(episode["seed"])))
        if found is None:
            looks: list[_Looks] = []

            def recorder(_: int, goal: Goal) -> Recorder:
                looks.append(watch(episode, goal, filmed))
                return looks[-1]

            result = _one(task, controller, episode, simulation.num_steps, recorder)
            found = result, looks[0].trace
            if log.find("model", result.seed) is None:
                log.add("model", *found)
        traces.append(found[1])
        return found[0]

    def measure(name: str, method: Controller) -> list[EpisodeResult]:
        results = []
        with Progress(name, "episode") as progress:
            for episode in episodes:
                found = log.find(name, int(str(episode["seed"])))
                if found is None:
                    found = _one(task, method, episode, simulation.num_steps), EpisodeTrace()
                    log.add(name, *found)
                results.append(found[0])
                progress(len(results), len(episodes))
        return results

    ours: list[EpisodeResult] = []
    try:
        with Progress("model", "episode") as progress:
            for index, episode in enumerate(episodes):
                ours.append(ours_on(episode, index))
                progress(len(ours), len(episodes))
    except KeyboardInterrupt:
        if ours:
            finish({"stopped_after": len(ours), "tasks": {simulation.name: summarize(ours)}})
        raise
    for result in ours:
        if result.error:
            say(f"episode {result.seed}: no plan: {result.error}")
    others: dict[str, list[EpisodeResult]] = {}
    bounds = legal_actions(model, simulation.env, settings.controller.limits)
    if "random" in config.floors:
        others["random"] = measure("random floor", RandomController(bounds, seed=config.seed))
    if "zero" in config.floors:
        others["zero"] = measure("zero floor", ZeroController(spec))
    outcomes = [trace.outcome for trace in traces]
    plan_s = [seconds for trace in traces for seconds in trace.plan_s]
    figures: dict[str, Any] = {
        **summarize(ours),
        "outcomes": count_outcomes(ours, outcomes),
        "floors": {name: summarize(results) for name, results in others.items()},
        "plan_s": plan_seconds(plan_s),
    }
    if config.state_oracle:
        planner = make_planner(settings.planner)
        oracle = measure("state oracle", StateOracle(task, planner, seed=config.seed))
        figures["ceilings"] = {"state_oracle": summarize(oracle)}
        others["state_oracle"] = oracle
    if config.latent_oracle:
        oracle = LatentOracle(
            task,
            model,
            make_planner(settings.planner),
            make_objective(model, settings.objective),
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
        energies=[list(trace.energies) for trace in traces],
        outcomes=[outcome.kind if outcome else "no plan" for outcome in outcomes],
        episodes=[result.seed for result in ours],
        name=ours[0].judged[-1].first[0],
        measure=ours[0].measure,
        landscapes=[film.landscape for film in films if film.landscape][:2],
        videos=[f.video(r) for f, r in zip(films, ours, strict=False) if f.ran],
        settings=_settings(config, saved),
    )


def _one(
    task: Task,
    method: Controller,
    episode: Episode,
    num_steps: int,
    recorder: RecorderFactory | None = None,
) -> EpisodeResult:
    return evaluate(task, method, [episode], num_steps=num_steps, recorder=recorder)[0]


def _about(config: DictConfig, saved: Mapping[str, Any]) -> dict[str, Any]:
    """What an evaluation is of: what must be the same when it goes on."""
    told: Any = OmegaConf.to_container(config, resolve=True)
    unimportant = ("out", "num_episodes", "num_videos", "floors", "device")
    unimportant += ("state_oracle", "latent_oracle")
    own = {key: value for key, value in told.items() if key not in unimportant}
    return {**own, "checkpoint": saved["checkpoint_hash"], "version": __version__}


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

    @property
    def trace(self) -> EpisodeTrace:
        return EpisodeTrace(tuple(self.energies), tuple(self.plan_s), self.outcome)


class _Film:
    """Keeps an episode's pictures, and the energy landscape around its start."""

    def __init__(
        self,
        model: TrainableModel,
        simulation: Simulation,
        objective: Part,
        goal: Goal,
        title: str,
    ) -> None:
        self._model, self._camera = model, model.info.cameras[0]
        self._simulation = simulation
        self._objective = objective
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
        objective = make_objective(self._model, self._objective)(goal)
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
