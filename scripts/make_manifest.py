"""Writes sim_envs/manifests/so100_reach_test_v1.json: a list that must never change again."""

from __future__ import annotations

import json

from robot_wm.robots import make_arm
from sim_envs.manifest import MANIFESTS, TEST_SEED
from sim_envs.reach import ReachTask
from sim_envs.tabletop import Tabletop

TEST_MANIFEST = MANIFESTS / "so100_reach_test_v1.json"

if __name__ == "__main__":
    if TEST_MANIFEST.exists():
        raise SystemExit(f"{TEST_MANIFEST} exists; a changed list needs a new version")
    TEST_MANIFEST.parent.mkdir(exist_ok=True)
    task = ReachTask(Tabletop(make_arm("so100")))
    episodes = [task.episode(TEST_SEED + i) for i in range(100)]
    head = {"task": "so100_reach", "split": "test", "version": 1}
    TEST_MANIFEST.write_text(json.dumps({**head, "episodes": episodes}, indent=0) + "\n")
