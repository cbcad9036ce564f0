"""Collect demonstrations, train a world model on them, and see how well it predicts.

With a dataset of your own, leave out `collect` and give its directory or its hub id to `train`.
"""

from __future__ import annotations

import sys

from robot_wm import FitConfig, TrainConfig, collect, load, train


def main(folder: str, num_episodes: int = 30, num_steps: int = 300) -> None:
    """Collects demonstrations and trains on them.

    Args:
        folder: A new or empty folder, for `data` and `checkpoint`.
        num_episodes: Number of demonstrations.
        num_steps: Number of optimiser steps.
    """
    collect(f"{folder}/data", num_episodes=num_episodes)
    run = train(
        f"{folder}/data",
        f"{folder}/checkpoint",
        cache=f"{folder}/cache",
        model=FitConfig(batch_size=32),
        train=TrainConfig(num_steps=num_steps),
    )
    pairs = zip(run.held_out["true"], run.held_out["copy_last"], strict=True)
    for horizon, (error, copied) in enumerate(pairs, 1):
        print(f"{horizon} steps ahead: error {error:.3f}, of the last frame {copied:.3f}")
    print("a checkpoint for", load(f"{folder}/checkpoint").info.robot)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
