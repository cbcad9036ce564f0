"""`robot-wm plan`: one run to the pose in a goal picture, or through several, with its video."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from robot_wm.checkpoint import find_checkpoint, load_checkpoint
from robot_wm.cli.build import build_simulation
from robot_wm.cli.config import plain, planning_settings
from robot_wm.cli.console import finish, output_dir, say, say_outcomes
from robot_wm.cli.provenance import write_run
from robot_wm.deployment.control import check_cameras, check_same_arm, make_controller
from robot_wm.deployment.novelty import refuse_novel
from robot_wm.deployment.pictures import goal_name, read_goal, side_by_side
from robot_wm.evaluation import plan_seconds
from robot_wm.files import replacing
from robot_wm.monitors import Monitors, MonitorSettings, load_reference
from robot_wm.precision import pick_device
from robot_wm.report import EpisodeVideo, encode_video
from robot_wm.runtime import Step, run_episode
from robot_wm.types import Decision, Goal, Observation, UserError


class _Tape:
    def __init__(self) -> None:
        self.observations: list[Observation] = []
        self.decisions: list[Decision] = []
        self.plan_s: list[float] = []

    def record(self, step: Step) -> None:
        self.observations.append(step.observation)
        self.decisions.append(step.decision)
        if step.decision.planned:
            self.plan_s.append(step.plan_s)

    def finish(self, last: Observation) -> None:
        self.observations.append(last)


def run(config: DictConfig) -> None:
    """Runs, writes `plan.mp4`, prints how the energy went and how it ended."""
    out = output_dir(config.out)
    directory = find_checkpoint(config.checkpoint)
    model, _ = load_checkpoint(directory)
    model.to(pick_device(config.device))
    info = model.info
    given: list[Any] = [plain(value) for value in (config.goal, *config.then)]
    names, pictures = map(goal_name, given), [read_goal(goal, info.cameras) for goal in given]
    wanted = dict(zip(names, pictures, strict=True))
    simulation = build_simulation(config.env)
    check_same_arm(info, simulation.robot)
    check_cameras(info, simulation.env.observe().images)
    controller = make_controller(model, simulation.env, planning_settings(config))
    goals = [Goal(images=images) for images in pictures]
    if len(goals) > 1 and not controller.moves_on:
        raise UserError(
            "then: several pictures, but nothing says when to go on from one; give "
            "controller.arrival (of a checkpoint that knows its steps), controller.patience or "
            "controller.timeout_steps"
        )
    controller.reset(goals)  # refuses a picture that does not fit
    start = simulation.env.reset(config.seed)
    own: Any = OmegaConf.to_container(config.monitors)
    allow_novel = own.pop("allow_novel")
    normal = load_reference(directory, info)
    monitors = Monitors(normal, MonitorSettings(**own), step_energy=None)
    for problem in refuse_novel(monitors, model, start.images, wanted, allow=allow_novel):
        say(f"  {problem}")
    tape = _Tape()
    num_steps = simulation.num_steps * len(goals)
    run_episode(simulation.env, controller, goals, num_steps=num_steps, recorders=[tape])
    left = [decision.left for decision in tape.decisions if decision.left is not None]
    outcomes = [*left, controller.outcome(tape.observations[-1])]
    seen = [decision.energy for decision in tape.decisions]
    energies = seen[0], outcomes[-1].energy
    out.mkdir(parents=True, exist_ok=True)
    film = EpisodeVideo(
        title=f"plan to {', '.join(wanted)}",
        frames=np.stack([side_by_side(seen.images, info.cameras) for seen in tape.observations]),
        goal=side_by_side(pictures[-1], info.cameras),
        measured=None,
        fps=1 / simulation.env.control_dt,
    )
    write_run(out, "plan", config)
    video = out / "plan.mp4"
    with replacing(video) as scratch:
        scratch.write_bytes(encode_video(film))
    say(f"energy {energies[0]:.3f} at the start, {energies[1]:.3f} at the end; video: {video}")
    say_outcomes(outcomes, len(goals))
    finish(
        {
            "energy_start": energies[0],
            "energy_end": energies[1],
            "energies": seen,
            "goals": [decision.goal for decision in tape.decisions],
            "decisions": [decision.kind for decision in tape.decisions],
            "outcome": asdict(outcomes[-1]),
            "outcomes": [asdict(outcome) for outcome in outcomes],
            "plan_s_median": plan_seconds(tape.plan_s)["median"],
            "video": str(video),
        }
    )
