"""The shipped encoder, an untrained one, raw pixels: which can be planned in, and if not, why?

    python scripts/compare_planning.py DATASET OUT [key=value ...]

Trains the default predictor on each encoder's tokens with the same budget of steps, plans on the
test episodes (paired), and asks the latent oracle, with a small budget of its own (ORACLE), what a
perfect predictor would do. Further words go to every `eval`, such as split=dev or num_episodes=40.
Finished parts are kept: run it again to go on. OUT/table.md is the result.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from compare_encoders import robot_wm

from robot_wm.evaluation import EpisodeResult, paired_difference_ci95
from robot_wm.types import Judgement, Measure

ENCODERS = ("mini", "random", "pixels")
ORACLE = [
    *("latent_oracle=true", "planner=cem", "planner.num_samples=32"),
    *("planner.num_iterations=2", "planner.num_elites=6"),
]


def evaluate(name: str, out: Path, words: list[str]) -> tuple[dict, dict]:
    """Runs an evaluation once; returns its figures and its whole report."""
    report = out / name / "report.json"
    if not report.is_file():
        robot_wm("eval", f"out={out / name}", "num_videos=1", "floors=[]", *words)
    content = json.loads(report.read_text())
    (figures,) = content["tasks"].values()
    return figures, content


def results(content: dict) -> list[EpisodeResult]:
    """Returns the model's episodes of a report."""
    curves = content["distance_curves"]["model"]
    enough = content["success_m"]
    return [
        EpisodeResult(
            seed,
            tuple(Judgement(m < enough, {"distance": Measure(m, "m", enough)}) for m in curve),
        )
        for seed, curve in zip(content["episodes"], curves, strict=True)
    ]


def share(figures: dict) -> str:
    """Writes the success rate with its interval, and the median distance."""
    low, high = figures["success_final_ci95"]
    return (
        f"{figures['success_final']:.0%} ({low:.0%} to {high:.0%}), "
        f"{100 * figures['final_distance_m_median']:.1f} cm"
    )


def main() -> None:
    """Trains and evaluates with each encoder, and writes the table."""
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    dataset, out, more = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    lines, ours, best = [], None, 0.0
    for name in ENCODERS:
        checkpoint = out / f"{name}_checkpoint"
        if not checkpoint.is_dir():
            robot_wm("train", f"data={dataset}", f"encoder={name}", f"out={checkpoint}")
        words = [f"checkpoint={checkpoint}", *more]
        figures, content = evaluate(f"{name}_plan", out, words)
        oracle, _ = evaluate(f"{name}_oracle", out, [*words, *ORACLE])
        episodes, ahead = results(content), ""
        if ours is None:
            ours, best = episodes, figures["success_final"]
        else:
            low, high = paired_difference_ci95(ours, episodes)
            points = 100 * (best - figures["success_final"])
            ahead = f"{points:.0f} points ({100 * low:.0f} to {100 * high:.0f})"
        ceiling = share(oracle["ceilings"]["latent_oracle"])
        plan_s = figures["plan_s"]["median"]
        lines.append(
            f"| {name} | {share(figures)} | {ahead} | {1000 * plan_s:.0f} ms | {ceiling} |"
        )
        print(lines[-1], flush=True)
    head = [
        "encoder",
        "final success, median",
        "shipped is ahead by",
        "plan",
        "latent oracle, 32 x 2",
    ]
    table = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *lines]
    (out / "table.md").write_text("\n".join(table) + "\n")


if __name__ == "__main__":
    main()
