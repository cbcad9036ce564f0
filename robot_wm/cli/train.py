"""`robot-wm train`: trains a world model on a LeRobot dataset and writes a checkpoint."""

from __future__ import annotations

from robot_wm.cli.console import finish
from robot_wm.workflows.train import TrainSettings, train

SETTINGS = TrainSettings
EXAMPLES = (
    "robot-wm train data=data out=checkpoint",
    "robot-wm train data=user/dataset out=checkpoint encoder=dinov2_vits train.num_steps=5000",
)


def run(settings: TrainSettings) -> None:
    """Trains, and prints the held-out errors."""
    result = train(settings)
    errors = {name: [round(e, 5) for e in values] for name, values in result.held_out.items()}
    finish(
        {
            "held_out_error": errors,
            "train_loss": result.metrics[-1]["loss"],
            "out": settings.out,
        }
    )
