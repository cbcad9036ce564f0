"""Evaluates one checkpoint under several settings on the same episodes, and compares them in pairs.

    python scripts/compare_settings.py TABLE OUT checkpoint=DIR [env=so100_push goals=away ...]

TABLE is `controllers` (what plans, from which proposals, toward which objective, at 64 evaluated
samples a decision), `samples` (how many of them), or `factors` (what differs from the demonstrated
scene, one by one). Further words go to every `eval`, such as split=dev or num_episodes=20. Finished
parts are kept: run it again to go on. OUT/table.md is the result.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import get_args

import msgspec

from robot_wm.cli.config import load_command
from robot_wm.evaluation import EpisodeResult, paired_difference_ci95
from robot_wm.workflows.evaluate import evaluate_checkpoint
from sim_envs.factors import Factor

_CEM = [
    *("planner=cem", "planner.horizon=8", "planner.num_samples=21"),
    *("planner.num_iterations=3", "planner.num_elites=4"),
]
_NONE = "controller.proposals=[]"
# The first of a table is what the others are compared with.
TABLES: dict[str, dict[str, list[str]]] = {
    "controllers": {
        "averaged": [],
        "policy alone": ["controller.search=false"],
        "averaged, energy": ["objective=energy"],
        "averaged, sub-goals": ["subgoals=found"],
        "averaged, also retrieval": ["controller.proposals=[policy,retrieval]"],
        "averaged, retrieval": ["controller.proposals=[retrieval]"],
        "retrieval alone": ["controller.proposals=[retrieval]", "controller.search=false"],
        "cem from the policy": _CEM,
        "cem from the policy, energy": [*_CEM, "objective=energy"],
        "cem from retrieval": [*_CEM, "controller.proposals=[retrieval]"],
        "cem": [*_CEM, _NONE],
        "cem, energy": [*_CEM, _NONE, "objective=energy"],
    },
    "samples": {
        "64": [],
        "none": ["controller.search=false"],
        **{str(n): [f"planner.num_samples={n}"] for n in (4, 16, 256, 1000, 10_000)},
    },
    "factors": {
        "none": [],
        **{name: [f"env.simulator.vary=[{name}]"] for name in get_args(Factor)},
    },
}


def results(out: Path, words: list[str]) -> tuple[dict, list[EpisodeResult]]:
    """Runs an evaluation once; returns its figures and its episodes."""
    if not (out / "episodes.jsonl").is_file():
        words = [*words, "floors=[]", "num_videos=0", f"out={out}"]
        evaluate_checkpoint(load_command("eval", words))
    (figures,) = json.loads((out / "report.json").read_text())["tasks"].values()
    rows = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()[1:]]
    return figures, [msgspec.convert(row["result"], EpisodeResult) for row in rows]


def row(name: str, figures: dict, ahead: str) -> str:
    """Writes the success rate with its interval, the median distance, and the time of a plan."""
    low, high = figures["success_final_ci95"]
    median = next(v for key, v in figures.items() if key.startswith("final_distance"))
    return (
        f"| {name} | {figures['success_final']:.0%} ({low:.0%} to {high:.0%}) | "
        f"{100 * median:.2f} cm | {figures['plan_s']['median']:.3f} s | {ahead} |"
    )


def main() -> None:
    """Evaluates every row of a table, and writes it."""
    if len(sys.argv) < 4 or sys.argv[1] not in TABLES:
        raise SystemExit(__doc__)
    out, words = Path(sys.argv[2]), sys.argv[3:]
    first: list[EpisodeResult] = []
    lines = ["| | success | median | a plan | ahead of the first |", "|---|---|---|---|---|"]
    for name, more in TABLES[sys.argv[1]].items():
        figures, episodes = results(
            out / name.replace(", ", "_").replace(" ", "-"), [*words, *more]
        )
        ahead = ""
        if first:
            low, high = paired_difference_ci95(episodes, first)
            ahead = f"{100 * low:.0f} to {100 * high:.0f} points"
        first = first or episodes
        lines.append(row(name, figures, ahead))
        (out / "table.md").write_text("\n".join(lines) + "\n")
        print(lines[-1], flush=True)


if __name__ == "__main__":
    main()
