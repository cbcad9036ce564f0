"""Fixed lists of episodes, so that results can be compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from robot_wm.types import Count, UserError, checked

DEV_SEED = 8_000_000  # seeds of demonstrations are smaller
TEST_SEED = 9_000_000
MANIFESTS = Path(__file__).parent / "manifests"


@checked
def episodes_of(
    name: str, draw: Callable[[int], Mapping[str, object]], split: str, num_episodes: Count
) -> list[Mapping[str, object]]:
    """Returns the first episodes of a fixed list.

    Args:
        name: Name of the arm and the task, such as `"so100_reach"`.
        draw: Makes the episode of a seed.
        split: Name of the list: `"test"` (never used for tuning; from a file in `manifests` if
            there is one for the task), `"dev"`, or a number, the first seed of another list.
        num_episodes: Number of episodes.

    Returns:
        The episodes.

    Raises:
        UserError: an unknown split, or more episodes than it has.
    """
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
