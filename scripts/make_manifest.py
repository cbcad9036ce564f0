"""Wrote sim_envs/manifests/so100_reach_test_v1.json: a list that must never change again."""

from __future__ import annotations

import json

from sim_envs.so100_reach import TEST_MANIFEST, TEST_SEED, reach_episode

if __name__ == "__main__":
    if TEST_MANIFEST.exists():
        raise SystemExit(f"{TEST_MANIFEST} exists; a changed list needs a new version")
    TEST_MANIFEST.parent.mkdir(exist_ok=True)
    episodes = [reach_episode(TEST_SEED + i) for i in range(100)]
    head = {"task": "so100_reach", "split": "test", "version": 1}
    TEST_MANIFEST.write_text(json.dumps({**head, "episodes": episodes}, indent=0) + "\n")
