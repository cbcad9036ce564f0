"""Runs everything once: collects, trains, evaluates, moves things and reports, in minutes."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from robot_wm.checkpoint import find_checkpoint
from robot_wm.deployment.parts import Part
from robot_wm.deployment.planning import suggested_planning
from robot_wm.deployment.settings import ENVS
from robot_wm.deployment.simulation import SEEDS_PER_RUN, RunSeed
from robot_wm.models import FitConfig
from robot_wm.progress import Stages
from robot_wm.report import write_report
from robot_wm.training import TrainConfig
from robot_wm.types import Count, Index, Settings
from robot_wm.workflows.collect import CollectSettings, collect
from robot_wm.workflows.data import DatasetSettings
from robot_wm.workflows.evaluate import EvalSettings, Evaluation, evaluate_checkpoint, table
from robot_wm.workflows.train import TrainingRun, TrainSettings, resume_file, train

log = logging.getLogger(__name__)
_MOVER = "so100_tabletop"
_FEW = {"num_samples": 32, "num_iterations": 2, "num_elites": 4}
# Titles of the chapters in which it moves things, by env.
_MOVES = {
    "so100_push": "Push the cube to where a picture shows it",
    "so100_pick_place": "Pick the cube up and put it where a picture shows it",
}


class DemoSettings(Settings, frozen=True):
    """How large the demonstration is, and where it is written.

    Attributes:
        out: Directory for data, checkpoint and report; the files of an earlier demo are replaced.
        checkpoint: A directory, or the name of a checkpoint that ships, to evaluate without
            collecting and training; null: a new one is trained.
        num_demonstrations: Number of demonstrations that are collected.
        num_train_steps: Number of optimiser steps.
        num_episodes: Number of episodes, each with a goal picture, that are evaluated.
        num_moves: Number of pushes, and of times that the cube is picked up and put elsewhere, with
            the checkpoint that ships; 0: none.
        seed: Seed of everything that is random.
        num_workers: Number of processes that simulate.
        debug: Makes everything small, to test that it runs, not how well.
    """

    out: str = "outputs/demo"
    checkpoint: str | None = None
    num_demonstrations: Annotated[int, Meta(ge=1, le=SEEDS_PER_RUN)] = 250
    num_train_steps: Count = TrainConfig.num_steps
    num_episodes: Count = 40
    num_moves: Index = 10
    seed: RunSeed = 0
    num_workers: Count = 2
    debug: bool = False


def run_demo(settings: DemoSettings) -> dict[str, Any]:
    """Runs everything once, and writes the report.

    Args:
        settings: How large the demonstration is, and where it is written.

    Returns:
        The figures of each task.

    Raises:
        FileExistsError: `out` contains files that no demo wrote.
    """
    out = Path(settings.out)
    checkpoint = out / "checkpoint"
    if settings.checkpoint:
        checkpoint = find_checkpoint(settings.checkpoint)
    _claim(out)
    # Measured on 2 cores; only used to log how much time is left.
    expected_s = {
        "collect": 0.25 * settings.num_demonstrations,
        "train": 0.1 * settings.num_demonstrations + 0.085 * settings.num_train_steps,
        "evaluate": 1.5 * settings.num_episodes,
        **dict.fromkeys(_MOVES if settings.num_moves else (), 9.0 * settings.num_moves),
    }
    begin = time.monotonic()
    training = None
    if settings.checkpoint:
        del expected_s["collect"], expected_s["train"]
        stages = Stages(expected_s)
    else:
        stages = Stages(expected_s)
        training = _collect_and_train(settings, out, stages)
    stages.begin("evaluate", f"{settings.num_episodes} goal pictures it has never seen")
    reaches = _evaluate(settings, str(checkpoint), "so100_reach", settings.num_episodes)
    moves: dict[str, Evaluation] = {}
    for env, title in _MOVES.items() if settings.num_moves else ():
        stages.begin(env, f"{title.lower()}, {settings.num_moves} times, with {_MOVER}")
        moves[env] = _evaluate(settings, _MOVER, env, settings.num_moves)
    report = reaches.report(
        "robot_wm demo: reach the pose in a picture",
        training=training.metrics if training else (),
        held_out=training.held_out if training else None,
        chapters=[evaluation.report(_MOVES[env]) for env, evaluation in moves.items()],
    )
    page = write_report(report, out)
    figures: dict[str, Any] = {}
    for evaluation in (reaches, *moves.values()):
        log.info(table(evaluation))
        figures |= evaluation.tasks
    log.info(f"done in {(time.monotonic() - begin) / 60:.1f} min; open {page}")
    return figures


def _evaluate(settings: DemoSettings, checkpoint: str, env: str, num_episodes: int) -> Evaluation:
    """Evaluates a checkpoint as it is suggested to plan; with few samples to debug."""
    planning = suggested_planning(checkpoint)
    planner, prior = planning.planner, "policy" in planning.controller.proposals
    if settings.debug:
        few = {"num_samples": 8} if prior else _FEW
        planner = Part(planner.name, **{**planner.settings, **few})
    return evaluate_checkpoint(
        EvalSettings(
            checkpoint=checkpoint,
            env=ENVS[env],
            planner=planner,
            objective=planning.objective,
            controller=planning.controller,
            floors=("zero", "policy") if prior else ("random", "zero"),
            num_episodes=num_episodes,
            seed=settings.seed,
            num_videos=1 if settings.debug else 4,
        )
    )


def _collect_and_train(settings: DemoSettings, out: Path, stages: Stages) -> TrainingRun:
    """Collects demonstrations and trains on them, in `out`."""
    data, checkpoint = out / "data", out / "checkpoint"
    stages.begin("collect", f"a scripted arm shows {settings.num_demonstrations} reaches")
    for old in (data, checkpoint):
        if old.exists():
            shutil.rmtree(old)
    resume_file(checkpoint).unlink(missing_ok=True)
    collect(
        CollectSettings(
            out=str(data),
            num_episodes=settings.num_demonstrations,
            seed=settings.seed,
            num_workers=settings.num_workers,
        )
    )
    stages.begin("train", "the encoder is frozen; a predictor learns what actions do")
    model = FitConfig()
    return train(
        TrainSettings(
            data=DatasetSettings(source=str(data)),
            out=str(checkpoint),
            cache=str(out / "cache"),
            model=replace(model, batch_size=8) if settings.debug else model,
            train=TrainConfig(num_steps=settings.num_train_steps),
            seed=settings.seed,
        )
    )


def _claim(out: Path) -> None:
    """Marks `out` as a demo's directory, so that the next demo may replace its files.

    Args:
        out: The directory.

    Raises:
        FileExistsError: it contains files that no demo wrote.
    """
    marker = out / ".robot_wm_demo"
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not marker.exists())):
        raise FileExistsError(f"out: {out} holds something else than a demo; choose another")
    out.mkdir(parents=True, exist_ok=True)
    marker.touch()
