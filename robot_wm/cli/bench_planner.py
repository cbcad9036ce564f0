"""`robot-wm bench planner`: compares planners, and measures what saving work is worth."""

from __future__ import annotations

from robot_wm.benchmarks.planner import BenchPlannerSettings, bench_planners
from robot_wm.cli.console import finish

SETTINGS = BenchPlannerSettings
EXAMPLES = (
    "robot-wm bench planner",
    "robot-wm bench planner planners=[cem,quasi_newton] num_pairs=5 out=bench",
)


def run(settings: BenchPlannerSettings) -> None:
    """Runs the benchmark and prints its figures as one line of JSON."""
    finish(bench_planners(settings))
