"""`robot-wm demo`: collect, train, evaluate, push, pick up and report, without questions."""

from __future__ import annotations

from robot_wm.cli.console import finish
from robot_wm.workflows.demo import DemoSettings, run_demo

SETTINGS = DemoSettings
EXAMPLES = (
    "robot-wm demo",
    "robot-wm demo checkpoint=so100_tabletop num_episodes=10",
)


def run(settings: DemoSettings) -> None:
    """Runs the whole loop once, and prints its figures."""
    finish({"tasks": run_demo(settings)})
