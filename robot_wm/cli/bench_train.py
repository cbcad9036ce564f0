"""`robot-wm bench train`: measures how much of the device a training step uses."""

from __future__ import annotations

from robot_wm.benchmarks.train import BenchTrainSettings, bench_train
from robot_wm.cli.console import finish

SETTINGS = BenchTrainSettings
EXAMPLES = (
    "robot-wm bench train",
    "robot-wm bench train predictor=mini batch_size=64",
)


def run(settings: BenchTrainSettings) -> None:
    """Runs the benchmark and prints its figures as one line of JSON."""
    finish(bench_train(settings))
