"""`robot-wm eval`: evaluates a checkpoint on a fixed list of episodes, next to its floors."""

from __future__ import annotations

from robot_wm.cli.console import finish, say
from robot_wm.workflows.evaluate import (
    EvalSettings,
    StoppedEvaluationError,
    evaluate_checkpoint,
    table,
)

SETTINGS = EvalSettings
EXAMPLES = (
    "robot-wm eval checkpoint=so100_tabletop num_episodes=20 split=dev",
    "robot-wm eval checkpoint=checkpoint planner=cem planner.num_samples=128 out=report",
)


def run(settings: EvalSettings) -> None:
    """Evaluates, prints the table, and writes the report if `out` is set."""
    try:
        evaluation = evaluate_checkpoint(settings)
    except StoppedEvaluationError as stopped:
        finish(stopped.figures)
        raise
    say(table(evaluation))
    finish({"tasks": evaluation.tasks})
