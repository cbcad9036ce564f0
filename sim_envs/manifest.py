"""Fixed lists of episodes, by which figures are compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from robot_wm.types import UserError

DEV_SEED = 8_000_000  # demonstrations stay below
TEST_SEED = 9_000_000
MANIFESTS = Path(__file__).parent / "manifests"


def episodes_of(
    name: str, draw: Callable[[int], Mapping[str, object]], split: str, num_episodes: int
) -> list[Mapping[str, object]]:
    """The first episodes of a fixed list.

    Args:
        name: of the task on its arm, such as `"so100_reach"`.
        draw: makes the episode of a seed.
        split: `"test"` (never used for tuning; where `manifests` has a file of the task's name it
            stands there), `"dev"`, or a number: the first seed of a list of one's own.
        num_episodes: how many.

    Raises:
        UserError: an unknown split, or a number of episodes that it does not have.
    """
    if num_episodes < 1:
        raise UserError(f"num_episodes: got {num_episodes}, want at least 1")
    file = MANIFESTS / f"{name}_test_v1.json"
    if split == "test" and file.is_file():
        episodes = json.loads(file.read_text())["episodes"]
        if num_episodes > len(episodes):
            raise UserError(f"num_episodes: got {num_episodes}, the test split has {len(episodes)}")
        return episodes[:num_episodes]
    firsts = {"test": TEST_SEED, "dev": DEV_SEED}
    if split not in firsts and not split.isdecimal():
        raise UserError(f"split: got {split!r}, want test, dev or a first seed")
    first = firsts[split] if split in firsts else int(split)
    return [draw(first + i) for i in range(num_episodes)]
