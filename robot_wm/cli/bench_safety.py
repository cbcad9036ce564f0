"""`robot-wm bench safety`: tests every promise of the safety layer, and measures its figure."""

from __future__ import annotations

from robot_wm.cli.console import finish
from robot_wm.deployment.safety_bench import BenchSafetySettings, bench_safety
from robot_wm.types import RunError

SETTINGS = BenchSafetySettings
EXAMPLES = (
    "robot-wm bench safety",
    "robot-wm bench safety full=true out=safety",
)


class SafetyError(RunError):
    """A promise does not hold."""


def run(settings: BenchSafetySettings) -> None:
    """Tests every promise and prints the figures as one line of JSON.

    Args:
        settings: How often each promise is tested.

    Raises:
        SafetyError: a promise does not hold.
    """
    figures, broken = bench_safety(settings)
    finish(figures)
    if broken:
        raise SafetyError(f"promises broken: {', '.join(broken)}")
