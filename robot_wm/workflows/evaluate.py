"""Evaluates a checkpoint on a fixed list of episodes, next to its floors and ceilings."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from robot_wm.checkpoint import find_checkpoint, load_checkpoint
from robot_wm.deployment.control import (
    check_cameras,
    check_same_arm,
    legal_actions,
    make_controller,
    make_objective,
    make_planner,
)
from robot_wm.deployment.parts import Part, takes
from robot_wm.deployment.planning import PlanningSettings
from robot_wm.deployment.settings import SimulationSettings
from robot_wm.deployment.simulation import (
    SCENE_VERSION,
    TASKS,
    build_simulation,
    resolved_simulation,
)
from robot_wm.evaluation import (
    Episode,
    EpisodeLog,
    EpisodeResult,
    EpisodeTrace,
    LatentOracle,
    StateOracle,
    count_outcomes,
    evaluate,
    paired_difference_ci95,
    plan_seconds,
    summarize,
)
from robot_wm.files import output_dir, owning
from robot_wm.objectives import OBJECTIVES
from robot_wm.planners import PLANNERS
from robot_wm.precision import pick_device
from robot_wm.progress import Progress
from robot_wm.proposals import load_prior
from robot_wm.provenance import git_sha, in_words, machine, write_run
from robot_wm.report import (
    EpisodeVideo,
    Imagined,
    Landscape,
    MeasureLabel,
    Report,
    write_report,
)
from robot_wm.report.units import show
from robot_wm.runtime import Recorder
from robot_wm.types import (
    Controller,
    Count,
    FloatArray,
    Goal,
    Index,
    Measure,
    UserError,
    plain_settings,
)
from robot_wm.version import __version__
from robot_wm.workflows.baselines import Floor, WrongGoal, make_floor
from robot_wm.workflows.filming import Film, StepRecorder, imagined_of

log = logging.getLogger(__name__)
_PART, _DONE = "episodes.part.jsonl", "episodes.jsonl"  # of an unfinished and a finished evaluation


class EvalSettings(PlanningSettings, frozen=True, kw_only=True):
    """What is evaluated, and on which episodes.

    Attributes:
        checkpoint: A directory, or the name of a checkpoint that ships.
        env: The arm and the task.
        out: Directory for the report, and for a row per episode as it ends; null: nothing is
            written.
        device: Device to compute on: `auto`, `cpu`, `cuda`, `cuda:1`, ...
        goals: List of the task's episodes, such as `on`, `far` or `away`; null: the task's own.
        subgoals: Sub-goals on the way to each goal picture: pictures that the task gives (`given`),
            or frames of the demonstrations (`found`, the same as `controller.waypoints=true`).
        num_episodes: Number of episodes, the first ones of the split.
        split: List of the episodes: `test` (never used for tuning), `dev`, or the seed of another
            list.
        floors: Methods that must be beaten, on the same episodes: `random` actions, none (`zero`),
            the prior's `policy` without a search, `retrieval` from its demonstrations, `search`
            without proposals (CEM of 300 sequences, 30 times), and the same controller on a model
            of `random_weights` or with the `wrong_goal`, that of the episode before.
        state_oracle: Also evaluates a ceiling: the planner on the simulator with the true distance.
        latent_oracle: Also evaluates a ceiling: the planner on the simulator with the distance of
            rendered latents; slow.
        num_videos: Number of episodes that the report shows, of which those that failed come first.
    """

    checkpoint: str
    env: SimulationSettings = SimulationSettings()
    out: str | None = None
    device: str = "auto"
    goals: str | None = None
    subgoals: Literal["none", "given", "found"] = "none"
    num_episodes: Count = 100
    split: str | int = "test"
    floors: tuple[Floor, ...] = ("random", "zero")
    state_oracle: bool = False
    latent_oracle: bool = False
    num_videos: Index = 4


@dataclass(frozen=True)
class Evaluation:
    """All figures of an evaluation, and the pictures for its report.

    Attributes:
        tasks: The figures of each task, as in the report and in the last line of `eval`.
        measure_name: Name of the task's first measure.
        curves: That measure for each method, `[episodes, steps + 1]`.
        energies: Energies of the decisions of each episode.
        outcomes: How each episode ended, as the controller says.
        episodes: Seeds of the episodes.
        measure: The first measure at the end of the first episode, with its unit.
        landscapes: Energy around the start of some episodes.
        videos: Videos of some episodes.
        imagined: What the model imagined in these episodes.
        settings: The settings, in words.
    """

    tasks: dict[str, Any]
    measure_name: str
    curves: dict[str, FloatArray]
    energies: list[list[float]]
    outcomes: list[str]
    episodes: list[int]
    measure: Measure
    landscapes: list[Landscape]
    videos: list[EpisodeVideo]
    imagined: list[Imagined]
    settings: dict[str, str]

    def report(
        self,
        title: str,
        *,
        training: Sequence[Mapping[str, float]] = (),
        held_out: Mapping[str, Sequence[float]] | None = None,
        chapters: Sequence[Report] = (),
    ) -> Report:
        """Makes a report of the evaluation, with the figures of the training if there was one.

        Args:
            title: Title of the page.
            training: Metrics of each training step.
            held_out: Errors by horizon (robot_wm.training.held_out_error).
            chapters: Reports of further evaluations, which follow on the same page.

        Returns:
            The report.
        """
        return Report(
            title=title,
            settings=self.settings,
            tasks=self.tasks,
            curves=self.curves,
            energies=self.energies,
            outcomes=self.outcomes,
            episodes=self.episodes,
            measure=MeasureLabel.of(self.measure_name, self.measure),
            landscapes=self.landscapes,
            videos=self.videos,
            imagined=self.imagined,
            training=training,
            held_out=held_out or {},
            chapters=chapters,
        )


class StoppedEvaluationError(KeyboardInterrupt):
    """An evaluation was interrupted; `figures` are those of the episodes that were done."""

    def __init__(self, figures: dict[str, Any]) -> None:
        """Keeps the figures."""
        super().__init__()
        self.figures = figures


def evaluate_checkpoint(settings: EvalSettings) -> Evaluation:
    """Runs the model, its floors and its ceilings on the same episodes.

    If `out` is a directory, every episode is written there as it ends, and the same evaluation
    resumes after the last one that was written. At the end the report is written there.

    Args:
        settings: What is evaluated, and on which episodes.

    Returns:
        The figures, and the pictures for the report.

    Raises:
        UserError: the checkpoint does not fit the arm, or a setting does not fit the checkpoint.
        StoppedEvaluationError: Ctrl-C was pressed while the model ran.
    """
    out = output_dir(settings.out) if settings.out else None
    with owning(out) if out else nullcontext():
        evaluation = _Runs(settings, out).evaluate()
        if out:
            page = write_report(evaluation.report(f"robot_wm: {settings.checkpoint}"), out)
            log.info(f"report: {page}")
            write_run(out, "eval", settings)
            (out / _PART).replace(out / _DONE)
    return evaluation


class _Runs:
    """Runs every method on the episodes of an evaluation.

    Args:
        settings: Settings of the evaluation.
        out: Directory where every episode is kept as it ends; None: nowhere.
    """

    def __init__(self, settings: EvalSettings, out: Path | None) -> None:
        if settings.subgoals == "found":
            controller = msgspec.structs.replace(settings.controller, waypoints=True)
            settings = msgspec.structs.replace(settings, controller=controller)
        self._settings = settings
        directory = find_checkpoint(settings.checkpoint)
        self._model, self._saved = load_checkpoint(directory)
        self._prior = load_prior(directory, self._model.info)
        self._model.to(pick_device(settings.device))
        self._simulation = simulation = build_simulation(env_of(settings))
        check_same_arm(self._model.info, simulation.robot)
        check_cameras(self._model.info, simulation.env.observe().images)
        self._controller = make_controller(
            self._model,
            simulation.env,
            settings,
            prior=self._prior,
            instruction=simulation.settings.instruction,
        )
        self._make_objective = make_objective(self._model, settings.objective, self._prior)
        self._episodes = simulation.episodes(str(settings.split), settings.num_episodes)
        self._floors = {  # made here, so that a mistake is an error before the first episode
            name: make_floor(name, self._model, simulation, settings, self._prior)
            for name in settings.floors
        }
        self._oracles = self._make_oracles()
        if settings.subgoals == "given" and not self._controller.moves_on:
            raise UserError(
                "subgoals: nothing ends one; want an arrival, patience or timeout_steps"
            )
        self._films: list[tuple[Film, EpisodeResult]] = []
        about = _about(settings, self._saved)
        self._log = EpisodeLog(None if out is None else out / _PART, about)
        if len(self._log):
            log.info(f"going on after {len(self._log)} episodes that are done already")

    def evaluate(self) -> Evaluation:
        """Runs all methods and sums up their figures."""
        settings, simulation = self._settings, self._simulation
        ours, traces = self._model_runs()
        floors = {name: self._measure(f"{name} floor", name, floor)
                  for name, floor in self._floors.items()}  # fmt: skip
        ceilings = {name: self._measure(name.replace("_", " "), name, oracle)
                    for name, oracle in self._oracles.items()}  # fmt: skip
        outcomes = [trace.outcome for trace in traces]
        figures: dict[str, Any] = {
            **summarize(ours),
            "outcomes": count_outcomes(ours, outcomes),
            "floors": {name: _beside(ours, results) for name, results in floors.items()},
            "plan_s": plan_seconds([seconds for trace in traces for seconds in trace.plan_s]),
        }
        if ceilings:
            figures["ceilings"] = {name: summarize(runs) for name, runs in ceilings.items()}
        methods = {"model": ours, **floors, **ceilings}
        curves = {
            name: np.array([result.curve for result in results])
            for name, results in methods.items()
        }
        shown = sorted(self._films, key=lambda pair: pair[1].success_final)  # failures first
        shown = shown[: settings.num_videos]
        return Evaluation(
            tasks={simulation.name: figures},
            curves=curves,
            energies=[list(trace.energies) for trace in traces],
            outcomes=[outcome.kind if outcome else "no plan" for outcome in outcomes],
            episodes=[result.seed for result in ours],
            measure_name=ours[0].judged[-1].first[0],
            measure=ours[0].measure,
            landscapes=[film.landscape for film, _ in self._films if film.landscape][:2],
            videos=[film.video(result) for film, result in shown],
            imagined=imagined_of([film for film, _ in shown]),
            settings=_in_table(settings, self._saved),
        )

    def _make_oracles(self) -> dict[str, Controller]:
        settings, task = self._settings, self._simulation.task
        oracles: dict[str, Controller] = {}
        if settings.state_oracle:
            planner = make_planner(settings.planner)
            oracles["state_oracle"] = StateOracle(task, planner, seed=settings.seed)
        if settings.latent_oracle:
            oracles["latent_oracle"] = LatentOracle(
                task,
                self._model,
                make_planner(settings.planner),
                self._make_objective,
                legal_actions(self._model, self._simulation.env, settings.controller.limits),
                seed=settings.seed,
            )
        return oracles

    def _model_runs(self) -> tuple[list[EpisodeResult], list[EpisodeTrace]]:
        """Runs the model on every episode."""
        results: list[EpisodeResult] = []
        traces: list[EpisodeTrace] = []
        try:
            with Progress("model", "episode") as progress:
                for index, episode in enumerate(self._episodes):
                    result, trace = self._model_on(episode, index < self._settings.num_videos)
                    results.append(result)
                    traces.append(trace)
                    progress(len(results), len(self._episodes))
        except KeyboardInterrupt as error:
            if not results:
                raise
            figures = {self._simulation.name: summarize(results)}
            raise StoppedEvaluationError(
                {"stopped_after": len(results), "tasks": figures}
            ) from error
        for result in results:
            if result.error:
                log.info(f"episode {result.seed}: no plan: {result.error}")
        return results, traces

    def _model_on(self, episode: Episode, first: bool) -> tuple[EpisodeResult, EpisodeTrace]:
        """Runs the model on an episode, or finds it in the log.

        The report shows the first ones and those that fail: these run again where it resumes.
        """
        done = self._log.find("model", int(str(episode["seed"])))
        failures = sum(not shown.success_final for _, shown in self._films)
        has_room = failures < self._settings.num_videos
        if done is not None and not first and (done[0].success_final or not has_room):
            return done
        recorders: list[StepRecorder] = []
        films: list[Film] = []

        def watch(_: int, goals: list[Goal]) -> Recorder:
            if first or has_room:
                title = f"{self._simulation.name}, episode {episode['seed']}"
                objective = self._make_objective if first else None
                films.append(Film(self._model, self._simulation, objective, goals, title))
            recorders.append(StepRecorder(self._controller, films[0] if films else None))
            return recorders[-1]

        result = self._one(self._controller, episode, watch)
        if films and films[0].ran and (first or not result.success_final):
            self._films.append((films[0], result))
        if done is not None:
            return done
        trace = recorders[0].trace
        self._log.add("model", result, trace)
        return result, trace

    def _measure(self, shown: str, name: str, method: Controller) -> list[EpisodeResult]:
        """Runs another method than the model on every episode."""
        results = []
        with Progress(shown, "episode") as progress:
            for index, episode in enumerate(self._episodes):
                done = self._log.find(name, int(str(episode["seed"])))
                if done is None:
                    if isinstance(method, WrongGoal):
                        # The other's goal alone: what the seed draws is this episode's.
                        goal_of = {**self._neighbour(index), "seed": episode["seed"]}
                        method.show(self._simulation.task.start(goal_of))
                    done = self._one(method, episode), EpisodeTrace()
                    self._log.add(name, *done)
                results.append(done[0])
                progress(len(results), len(self._episodes))
        return results

    def _neighbour(self, index: int) -> Episode:
        """Returns the episode before one, and the second of the list for the first."""
        if index:
            return self._episodes[index - 1]
        return self._simulation.episodes(str(self._settings.split), 2)[1]

    def _one(
        self,
        method: Controller,
        episode: Episode,
        recorder: Callable[[int, list[Goal]], Recorder] | None = None,
    ) -> EpisodeResult:
        simulation = self._simulation
        return evaluate(simulation.task, method, [episode], num_steps=simulation.num_steps,
                        num_hold_steps=simulation.num_hold_steps, recorder=recorder)[0]  # fmt: skip


def _beside(ours: list[EpisodeResult], floor: list[EpisodeResult]) -> dict[str, object]:
    """Returns the figures of a floor, with the share of success by which the model is ahead."""
    if len(ours) < 2:
        return summarize(floor)
    return {**summarize(floor), "ahead_ci95": list(paired_difference_ci95(ours, floor))}


def env_of(settings: EvalSettings) -> SimulationSettings:
    """Returns the env's settings, with the list of episodes that is asked for.

    Args:
        settings: Settings of an evaluation.

    Returns:
        The settings.

    Raises:
        UserError: the task has no such list, or no pictures of sub-goals.
    """
    env, asked = settings.env, dict[str, Any]()
    if settings.goals is not None:
        asked["goals"] = settings.goals
    if settings.subgoals == "given":
        asked["subgoals"] = True
    for name in asked:
        if not takes(env.task.find(TASKS, "env.task"), name):
            what = "one list of episodes" if name == "goals" else "no pictures of sub-goals"
            raise UserError(f"{name}: the task {env.task.name} has {what}")
    task = Part(env.task.name, **{**env.task.settings, **asked})
    return msgspec.structs.replace(env, task=task)


def _about(settings: EvalSettings, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what must be the same when an evaluation resumes."""
    unimportant = ("out", "num_episodes", "num_videos", "floors", "device")
    unimportant += ("state_oracle", "latent_oracle")
    kept = {key: v for key, v in plain_settings(settings).items() if key not in unimportant}
    kept["planner"] = settings.planner.resolved(PLANNERS).plain()
    kept["objective"] = settings.objective.resolved(OBJECTIVES).plain()
    kept["env"] = plain_settings(resolved_simulation(env_of(settings)))
    kept["split"] = str(settings.split)
    kept |= {"scene": SCENE_VERSION, "version": __version__}
    return {**kept, "checkpoint": saved["checkpoint_hash"]}


def table(evaluation: Evaluation) -> str:
    """Lays out the success of each method as a table for the terminal."""
    tasks, unit = evaluation.tasks, evaluation.measure.unit
    key = f"final_{evaluation.measure_name}_{unit}_median"
    lines = [f"{'':24}{'final':>8}{'95 % interval':>18}{'any':>8}{'median':>10}{'ahead by':>20}"]
    for task, figures in tasks.items():
        rows = {task: figures, **figures["floors"], **figures.get("ceilings", {})}
        for name, row in rows.items():
            low, high = row["success_final_ci95"]
            ahead = ""
            if "ahead_ci95" in row:
                ahead = "{:.1%} to {:.1%}".format(*row["ahead_ci95"])
            lines.append(
                f"{name:24}{row['success_final']:8.1%}{f'{low:.1%} to {high:.1%}':>18}"
                f"{row['success_any']:8.1%}{show(row[key], unit):>10}{ahead:>20}".rstrip()
            )
        counts = [
            f"{kind} {count['n']} ({count['success']} within the goal's distance)"
            for kind, count in figures["outcomes"].items()
        ]
        lines.append(f"how the model says they ended: {', '.join(counts)}")
        seconds = figures["plan_s"]
        lines.append(
            f"a plan takes {seconds['median']:.3f} s (median), {seconds['p95']:.3f} s (p95)"
        )
    return "\n".join(lines)


def _in_table(settings: EvalSettings, saved: Mapping[str, Any]) -> dict[str, str]:
    """Lists the settings of an evaluation for its report."""
    training, encoder = saved.get("training", {}), saved["encoder"]
    plain = plain_settings(settings)
    return {
        "git sha": git_sha() or "not a checkout",
        "checkpoint": f"{settings.checkpoint} ({saved['checkpoint_hash'][:12]})",
        "encoder": f"{encoder['name']} ({encoder['fingerprint']['weights'][:12]})",
        "dataset": str((training.get("data") or {}).get("content_hash", "unknown"))[:12],
        "episodes": f"{settings.num_episodes} of split {settings.split}",
        "planner": in_words(plain["planner"]),
        "objective": in_words(plain["objective"]),
        "controller": in_words(plain["controller"]),
        "seed": str(settings.seed),
        "render": os.environ.get("MUJOCO_GL", "unknown"),
        "machine": f"{machine()}, {settings.device}, encoder in float32",
    }
