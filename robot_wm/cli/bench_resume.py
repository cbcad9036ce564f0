"""`robot-wm bench resume`: checks that a killed and resumed training ends with the same weights."""

from __future__ import annotations

from robot_wm.benchmarks.resume import BenchResumeSettings, ResumeError, bench_resume
from robot_wm.cli.console import finish

SETTINGS = BenchResumeSettings
EXAMPLES = (
    "robot-wm bench resume",
    "robot-wm bench resume full=true seed=1",
)


def run(settings: BenchResumeSettings) -> None:
    """Kills trainings, compares their weights, and prints the figures as one line of JSON.

    Args:
        settings: How often a training is killed.

    Raises:
        ResumeError: a training ended with other weights, or a file could not be read.
    """
    figures = bench_resume(settings)
    finish(figures)
    names = ("resume_mismatches", "unreadable_checkpoints")
    broken = [f"{name} {figures[name]}" for name in names if figures[name]]
    if broken:
        raise ResumeError(", ".join(broken))
