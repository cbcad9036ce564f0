"""Writes the lists of test episodes in sim_envs/manifests: they must never change again.

usage: python scripts/make_manifest.py ENV [GOALS], such as so100_push far
"""

from __future__ import annotations

import json
import sys

import msgspec

from robot_wm.deployment.parts import Part
from robot_wm.deployment.settings import ENVS
from robot_wm.deployment.simulation import build_simulation
from sim_envs.manifest import MANIFESTS, TEST_SEED


def main(words: list[str]) -> None:
    """Writes one list, unless there is one of its name."""
    if not words or words[0] not in ENVS:
        raise SystemExit(f"{__doc__}\nENV is one of {', '.join(ENVS)}")
    env = ENVS[words[0]]
    if words[1:]:
        task = Part(env.task.name, **{**env.task.settings, "goals": words[1]})
        env = msgspec.structs.replace(env, task=task)
    simulation = build_simulation(env)
    path = MANIFESTS / f"{simulation.name}_test_v1.json"
    if path.exists():
        raise SystemExit(f"{path} exists; a changed list needs a new version")
    episodes = [simulation.task.episode(TEST_SEED + i) for i in range(100)]
    lines = ",\n".join(json.dumps(episode) for episode in episodes)
    head = json.dumps({"task": simulation.name, "split": "test", "version": 1})[:-1]
    path.write_text(f'{head}, "episodes": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main(sys.argv[1:])
