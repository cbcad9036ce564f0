"""Runs to the pose in one or several goal pictures, in simulation, and writes a video."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robot_wm.checkpoint import find_checkpoint, load_checkpoint
from robot_wm.deployment.control import check_cameras, check_same_arm, make_controller
from robot_wm.deployment.novelty import refuse_novel
from robot_wm.deployment.pictures import goal_name, read_goal, side_by_side
from robot_wm.deployment.planning import PlanningSettings
from robot_wm.deployment.settings import SimulationSettings
from robot_wm.deployment.simulation import build_simulation
from robot_wm.files import output_dir, replacing
from robot_wm.monitors import Monitors, MonitorSettings, NoveltySettings, load_reference
from robot_wm.precision import pick_device
from robot_wm.proposals import load_prior
from robot_wm.provenance import write_run
from robot_wm.report import EpisodeVideo, encode_video
from robot_wm.runtime import Step, run_episode
from robot_wm.types import Decision, Goal, Observation, Outcome, UserError

log = logging.getLogger(__name__)


class PlanSettings(PlanningSettings, frozen=True, kw_only=True):
    """The goals, and what plans and runs.

    Attributes:
        checkpoint: A directory, or the name of a checkpoint that ships.
        goal: File of the goal picture; for several cameras one file each (`goal.CAMERA=FILE`).
        then: Further goals, one after the other.
        env: The arm and the task.
        monitors: When a picture is too unlike the training pictures.
        out: Directory for the video.
        device: Device to compute on: `auto`, `cpu`, `cuda`, `cuda:1`, ...
    """

    checkpoint: str
    goal: str | dict[str, str]
    then: tuple[str | dict[str, str], ...] = ()
    env: SimulationSettings = SimulationSettings()
    monitors: NoveltySettings = NoveltySettings()
    out: str = "outputs/plan"
    device: str = "auto"


@dataclass(frozen=True)
class PlanResult:
    """A run toward goal pictures.

    Attributes:
        decisions: The decision of each step.
        outcomes: How the pursuit of each goal ended, in their order.
        plan_s: Time of every plan, s.
        video: File of the video.
    """

    decisions: Sequence[Decision]
    outcomes: Sequence[Outcome]
    plan_s: Sequence[float]
    video: Path

    @property
    def energies(self) -> list[float | None]:
        """The energy before every step."""
        return [decision.energy for decision in self.decisions]


class _Tape:
    """Records the observations, decisions and planning times of a run."""

    def __init__(self) -> None:
        self.observations: list[Observation] = []
        self.decisions: list[Decision] = []
        self.plan_s: list[float] = []

    def record(self, step: Step) -> None:
        """Keeps a step."""
        self.observations.append(step.observation)
        self.decisions.append(step.decision)
        if step.decision.planned:
            self.plan_s.append(step.plan_s)

    def finish(self, last: Observation) -> None:
        """Keeps the last observation."""
        self.observations.append(last)


def plan(settings: PlanSettings) -> PlanResult:
    """Runs toward the goals in simulation and writes `plan.mp4`.

    Args:
        settings: The goals, and what plans and runs.

    Returns:
        The decisions, the outcomes and the video.

    Raises:
        UserError: a checkpoint or a picture does not fit, or a picture is too unlike the training
            pictures.
    """
    out = output_dir(settings.out)
    directory = find_checkpoint(settings.checkpoint)
    model, _ = load_checkpoint(directory)
    model.to(pick_device(settings.device))
    info = model.info
    files = (settings.goal, *settings.then)
    names, pictures = map(goal_name, files), [read_goal(goal, info.cameras) for goal in files]
    goals_by_name = dict(zip(names, pictures, strict=True))
    simulation = build_simulation(settings.env)
    check_same_arm(info, simulation.robot)
    check_cameras(info, simulation.env.observe().images)
    prior = load_prior(directory, info)
    controller = make_controller(
        model, simulation.env, settings, prior=prior, instruction=simulation.settings.instruction
    )
    goals = [Goal(images=images) for images in pictures]
    if len(goals) > 1 and not controller.moves_on:
        raise UserError(
            "then: several pictures, but nothing says when to go on from one; give "
            "controller.arrival (of a checkpoint that knows its steps), controller.patience or "
            "controller.timeout_steps"
        )
    controller.reset(goals)  # refuses a picture that does not fit
    start = simulation.env.reset(settings.seed)
    watched = MonitorSettings(novelty_ratio=settings.monitors.novelty_ratio)
    monitors = Monitors(load_reference(directory, info), watched, step_energy=None)
    allow = settings.monitors.allow_novel
    for problem in refuse_novel(monitors, model, start.images, goals_by_name, allow=allow):
        log.info(f"  {problem}")
    tape = _Tape()
    num_steps = simulation.num_steps * len(goals)
    run_episode(simulation.env, controller, goals, num_steps=num_steps, recorders=[tape])
    left = [decision.left for decision in tape.decisions if decision.left is not None]
    out.mkdir(parents=True, exist_ok=True)
    film = EpisodeVideo(
        title=f"plan to {', '.join(goals_by_name)}",
        frames=np.stack([side_by_side(obs.images, info.cameras) for obs in tape.observations]),
        goal=side_by_side(pictures[-1], info.cameras),
        measured=None,
        fps=1 / simulation.env.control_dt,
    )
    write_run(out, "plan", settings)
    video = out / "plan.mp4"
    with replacing(video) as scratch:
        scratch.write_bytes(encode_video(film))
    outcomes = [*left, controller.outcome(tape.observations[-1])]
    return PlanResult(tape.decisions, outcomes, tape.plan_s, video)
