"""`robot-wm monitors`: computes the reference statistics that `deploy` compares with."""

from __future__ import annotations

from robot_wm.cli.console import finish
from robot_wm.workflows.reference import AddReferenceSettings, add_reference, summary

SETTINGS = AddReferenceSettings
EXAMPLES = (
    "robot-wm monitors checkpoint=checkpoint data=data",
    "robot-wm monitors checkpoint=checkpoint data=data num_frames=2000",
)


def run(settings: AddReferenceSettings) -> None:
    """Computes the statistics from demonstrations, and prints them in a few numbers."""
    finish(summary(add_reference(settings)))
