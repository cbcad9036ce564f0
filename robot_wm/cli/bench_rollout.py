"""`robot-wm bench rollout`: measures what the key-value cache saves."""

from __future__ import annotations

from robot_wm.benchmarks.rollout import BenchRolloutSettings, bench_rollout
from robot_wm.cli.console import finish

SETTINGS = BenchRolloutSettings
EXAMPLES = (
    "robot-wm bench rollout",
    "robot-wm bench rollout predictor=mini horizons=[1,8]",
)


def run(settings: BenchRolloutSettings) -> None:
    """Runs the benchmark and prints its figures as one line of JSON."""
    finish(bench_rollout(settings))
