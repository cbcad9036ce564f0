"""`robot-wm demo`: collect, train, evaluate and report, in minutes and without questions."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from omegaconf import DictConfig

from robot_wm.checkpoint import find_checkpoint
from robot_wm.cli.collect import check_collection, collect
from robot_wm.cli.config import load_config
from robot_wm.cli.console import Stages, finish, say
from robot_wm.cli.eval import evaluate_checkpoint, table, to_report
from robot_wm.cli.train import TrainingRun, resume_file, train_from_config
from robot_wm.report import write_report
from robot_wm.types import UserError


def run(config: DictConfig) -> None:
    """Runs the whole loop once; ends with the report's path and its figures."""
    out = Path(config.out)
    check_collection(config.num_demonstrations, config.seed)
    if config.num_episodes < 1:
        raise UserError(f"num_episodes: got {config.num_episodes}, want at least 1")
    checkpoint = find_checkpoint(config.checkpoint) if config.checkpoint else out / "checkpoint"
    _claim(out)
    debug = ["experiment=debug"] if config.debug else []
    # Measured on 2 cores; they only feed the line that says how long is left.
    expected_s = {
        "collect": 0.25 * config.num_demonstrations,
        "train": 0.1 * config.num_demonstrations + 0.085 * config.num_train_steps,
        "evaluate": 1.5 * config.num_episodes,
    }
    begin = time.monotonic()
    training = None
    if config.checkpoint:
        stages = Stages({"evaluate": expected_s["evaluate"]})
    else:
        stages = Stages(expected_s)
        training = _train(config, out, stages, debug)
    stages.begin("evaluate", f"{config.num_episodes} goal pictures it has never seen")
    words = [
        *debug,
        f"checkpoint={checkpoint}",
        f"num_episodes={config.num_episodes}",
        f"seed={config.seed}",
    ]
    evaluation = evaluate_checkpoint(load_config("eval", words))
    report = to_report(
        evaluation,
        "robot_wm demo: reach the pose in a picture",
        training=training.metrics if training else (),
        held_out=training.held_out if training else None,
    )
    path = write_report(report, out)
    say(table(evaluation))
    say(f"done in {(time.monotonic() - begin) / 60:.1f} min; open {path}")
    finish({"tasks": evaluation.tasks})


def _train(config: DictConfig, out: Path, stages: Stages, debug: list[str]) -> TrainingRun:
    """Demonstrations and a predictor trained on them, in `out`."""
    data, checkpoint = out / "data", out / "checkpoint"
    stages.begin("collect", f"a scripted arm shows {config.num_demonstrations} reaches")
    for old in (data, checkpoint):
        if old.exists():
            shutil.rmtree(old)
    resume_file(checkpoint).unlink(missing_ok=True)
    words = [
        f"num_episodes={config.num_demonstrations}",
        f"seed={config.seed}",
        f"num_workers={config.num_workers}",
        f"out={data}",
    ]
    collect(load_config("collect", words), data)

    stages.begin("train", "the encoder is frozen; a predictor learns what actions do")
    words = [
        *debug,
        f"data={data}",
        f"out={checkpoint}",
        f"cache={out / 'cache'}",
        f"fit.seed={config.seed}",
        f"optimizer.num_steps={config.num_train_steps}",
    ]
    return train_from_config(load_config("train", words), checkpoint)


def _claim(out: Path) -> None:
    """Marks `out` as the demo's own, so that the next demo may replace what this one leaves.

    Raises:
        FileExistsError: it holds something that no demo wrote.
    """
    marker = out / ".robot_wm_demo"
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not marker.exists())):
        raise FileExistsError(f"out: {out} holds something else than a demo; choose another")
    out.mkdir(parents=True, exist_ok=True)
    marker.touch()
