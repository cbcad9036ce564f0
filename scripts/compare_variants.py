"""One training run per variant at equal training time: which default is best?

    python scripts/compare_variants.py SUITE DATASET OUT [SECONDS]

SUITE is predictor or pooling. Times a few steps of every variant in turn, gives each the steps that
fit into SECONDS of one thread (default 120), trains it, and measures it on the dev split. Finished
variants are kept: run it again to go on. OUT/table.md is the result.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

from compare_encoders import robot_wm

BASE = [
    *("predictor.conditioning=tokens", "predictor.residual=false", "model.proprio=integrate"),
    *(
        "model.error=l2",
        "model.rollout_steps=2",
        "model.rollout_prefix=first",
        "model.context_frames=2",
    ),
    *("model.features=raw", "train.ema=0.0"),
]
LONGER = ["model.rollout_steps=3", "model.rollout_prefix=random"]
PREDICTOR: dict[str, list[str]] = {
    "base: tokens, proprio, L2, 2 steps, context 2, direct": [],
    "AdaLN": ["predictor.conditioning=adaln"],
    "residual": ["predictor.residual=true"],
    "AdaLN + residual": ["predictor.conditioning=adaln", "predictor.residual=true"],
    "no proprioception": ["model.proprio=none"],
    "L1": ["model.error=l1"],
    "no rollout": ["model.rollout_steps=1"],
    "2 steps, random prefix": ["model.rollout_prefix=random"],
    "3 steps, random prefix": ["model.rollout_steps=3", "model.rollout_prefix=random"],
    "4 steps": ["model.rollout_steps=4"],
    "context 1": ["model.context_frames=1"],
    "context 3": ["model.context_frames=3"],
    "LayerNorm features": ["model.features=layer_norm"],
    "channel-normed features": ["model.features=channel_norm"],
    "EMA 0.998": ["train.ema=0.998"],
    "residual, 3 steps, random prefix": ["predictor.residual=true", *LONGER],
    "AdaLN + residual, 3 steps, random prefix": [
        *("predictor.conditioning=adaln", "predictor.residual=true", *LONGER)
    ],
}
POOLING: dict[str, list[str]] = {
    "1 token of 32, learnt in pretraining": [],
    "36 patch tokens of 128": ["encoder=mini_patches"],
    "9, pooled 2 x 2": ["encoder=mini_patches", "encoder.pool=2"],
    "4, pooled 3 x 3": ["encoder=mini_patches", "encoder.pool=3"],
    "1, pooled 6 x 6": ["encoder=mini_patches", "encoder.pool=6"],
}
SUITES = {
    "predictor": {name: [*BASE, *words] for name, words in PREDICTOR.items()},
    "pooling": POOLING,
}
EVALUATIONS = {
    "H 1": ["planner.horizon=1"],
    "H 3": ["planner.horizon=3"],
}


def main() -> None:
    """Trains and evaluates all variants of a suite, and writes the table."""
    if len(sys.argv) < 4 or sys.argv[1] not in SUITES:
        raise SystemExit(__doc__)
    variants, dataset, out = SUITES[sys.argv[1]], sys.argv[2], Path(sys.argv[3])
    seconds = float(sys.argv[4]) if len(sys.argv) > 4 else 120.0
    out.mkdir(parents=True, exist_ok=True)
    steps_file = out / "steps.json"
    if not steps_file.exists():
        step_s: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(2):
            for name, words in variants.items():
                trial = out / "trial"
                (out / "trial.train.safetensors").unlink(missing_ok=True)
                robot_wm(
                    "train", f"data={dataset}", f"out={trial}", "overwrite=true", *words,
                    "train.num_steps=25",
                )  # fmt: skip
                rows = [json.loads(row) for row in (trial / "metrics.jsonl").open()]
                elapsed = [row["elapsed_s"] for row in rows]
                step_s[name].append((elapsed[-1] - elapsed[4]) / (len(elapsed) - 5))
        steps_file.write_text(json.dumps({n: round(seconds / min(s)) for n, s in step_s.items()}))
    steps = json.loads(steps_file.read_text())

    lines = []
    for i, (name, words) in enumerate(variants.items()):
        result_file = out / f"{i}.json"
        if not result_file.exists():
            checkpoint = out / f"checkpoint{i}"
            result, _ = robot_wm(
                "train", f"data={dataset}", f"out={checkpoint}", "overwrite=true", *words,
                f"train.num_steps={steps[name]}",
            )  # fmt: skip
            for title, planner in EVALUATIONS.items():
                figures, _ = robot_wm(
                    "eval", f"checkpoint={checkpoint}", "split=dev", "num_episodes=50",
                    "floors=[]", *planner,
                )  # fmt: skip
                result[title] = figures["tasks"]["so100_reach"]
            result_file.write_text(json.dumps(result))
        result = json.loads(result_file.read_text())
        errors = result["held_out_error"]
        cells = [
            name,
            str(steps[name]),
            " ".join(f"{e:.3f}" for e in errors["true"]),
            f"{statistics.mean(errors['true']) / statistics.mean(errors['copy_last']):.2f}",
        ]
        for title in EVALUATIONS:
            figures = result[title]
            cells.append(
                f"{figures['success_final']:.0%}, {figures['final_distance_m_median'] * 100:.1f} cm"
            )
            cells.append(f"{figures['plan_s']['median'] * 1000:.0f} ms")
        lines.append("| " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    head = ["variant", "steps", "held-out error, horizon 1 to 4", "of copy-last"]
    for title in EVALUATIONS:
        head += [f"dev, {title}", "plan"]
    table = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *lines]
    (out / "table.md").write_text("\n".join(table) + "\n")


if __name__ == "__main__":
    main()
