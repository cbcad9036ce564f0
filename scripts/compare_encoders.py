"""One pretraining run per variant at equal computation: what makes an encoder worth planning in?

    python scripts/compare_encoders.py SUITE PROBE_DATASET OUT [SECONDS]

SUITE is objectives, masked or actions. Every variant trains on the same rendered clips for the
steps that fit into SECONDS (default 300) of processor time of one thread, measured beforehand, so
that other work on the machine does not count. PROBE_DATASET is of another seed, such as

    robot-wm collect env.simulator.random_appearance=true num_episodes=200 seed=40 out=PROBE_DATASET

Finished variants are kept, and a run that was cut off goes on: run it again. OUT/table.md is the
result.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

# Every patch is a token: 64 tokens.
PATCHES = ["encoder.num_tokens=0", "encoder.patch_size=8", "train.learning_rate=1e-3"]
# A moving tubelet is two frames of one video: one appearance for the whole clip.
VJEPA = [*PATCHES, "train.objective=vjepa", "data.play.new_appearance_share=0.0"]
IJEPA = [*PATCHES, "train.objective=ijepa"]
SUITES: dict[str, dict[str, list[str]]] = {
    "objectives": {
        "acjepa": [],
        "vjepa": VJEPA,
        "ijepa": IJEPA,
        "acjepa + ijepa": ["train.objective=acjepa+ijepa"],
    },
    "masked": {
        "vjepa": VJEPA,
        "learning rate 3e-3": [*VJEPA, "train.learning_rate=3e-3"],
        "no variance term": [*VJEPA, "train.variance_weight=0"],
        "no covariance term": [*VJEPA, "train.covariance_weight=0"],
        "no teacher": [*VJEPA, "train.ema=0"],
        "mask share 0.5": [*VJEPA, "train.mask_share=0.5"],
        "mask share 0.9": [*VJEPA, "train.mask_share=0.9"],
        "no duplicated frames": [*VJEPA, "train.duplicate_share=0"],
        "duplicated frames alone": [*VJEPA, "train.duplicate_share=1"],
    },
    "actions": {
        "acjepa": [],
        "linear stem": ["encoder.stem=linear"],
        "VICReg": ["train.anti_collapse=vicreg", "train.anti_collapse_weight=1.0"],
        "no inverse read-out": ["train.inverse_weight=0"],
        "1 token of 32": ["encoder.num_tokens=1", "encoder.dim=32"],
        "4 tokens of 32": ["encoder.dim=32"],
        "4 blocks": ["encoder.depth=4"],
        "96 px": ["encoder.image_size=96"],
        "the object never moves": ["data.play.object_share=0.0"],
        "a new appearance in every frame": ["data.play.new_appearance_share=1.0"],
        "one appearance a clip": ["data.play.new_appearance_share=0.0"],
    },
}
COLUMNS = ("ee_x", "ee_y", "ee_z", "gripper", "cube_x", "cube_y")


def robot_wm(command: str, *words: str) -> tuple[dict, float]:
    """Runs one command on one thread.

    Returns:
        Its last line's JSON, and its processor time, s.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(
        [str(Path(sys.executable).with_name("robot-wm")), command, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1]
        if "collapsed" not in last:  # a collapse is a result
            raise SystemExit(f"{command} {words}: {done.stderr}")
        return {"error": last}, spent
    return json.loads(done.stdout.strip().splitlines()[-1]), spent


def main() -> None:
    """Runs all variants of a suite, and writes the table."""
    if len(sys.argv) < 4 or sys.argv[1] not in SUITES:
        raise SystemExit(__doc__)
    variants, dataset, out = SUITES[sys.argv[1]], sys.argv[2], Path(sys.argv[3])
    seconds = float(sys.argv[4]) if len(sys.argv) > 4 else 300.0
    out.mkdir(parents=True, exist_ok=True)
    lines = []
    baselines: dict[str, dict] = {}
    for name, words in variants.items():
        stem = "".join(c if c.isalnum() else "_" for c in name)
        file, steps_file = out / f"{stem}.safetensors", out / f"{stem}.steps"
        result_file = out / f"{stem}.json"
        common = ["data=rendered", "data.num_clips=10000", *words]
        if not steps_file.exists():
            (out / "trial.resume.safetensors").unlink(missing_ok=True)
            spent = [
                robot_wm(
                    "pretrain", *common, f"out={out / 'trial.safetensors'}",
                    f"train.num_steps={n}", "train.collapse_std=0",
                    "train.collapse_rank=0",
                )[1]
                for n in (2, 2, 22)
            ]  # the first may render the clips  # fmt: skip
            steps_file.write_text(str(round(seconds / ((spent[2] - spent[1]) / 20))))
        steps = int(steps_file.read_text())
        if not result_file.exists():
            trained, _ = robot_wm("pretrain", *common, f"out={file}", f"train.num_steps={steps}")
            result = {"trained": trained}
            if "error" not in trained:
                result["probe"], _ = robot_wm(
                    "probe", f"data={dataset}", f"encoder.weights={file}",
                    f"baselines={str(not baselines).lower()}",
                )  # fmt: skip
            result_file.write_text(json.dumps(result))
        result = json.loads(result_file.read_text())
        if "error" in result["trained"]:
            lines.append(f"| {name} | {steps} | {result['trained']['error']} |")
        else:
            lines.append(row(name, steps, result["trained"], result["probe"]))
            baselines = result["probe"]["baselines"] or baselines
        print(lines[-1], flush=True)
    lines += [row(name, 0, {}, found) for name, found in baselines.items()]
    head = ["variant", "steps", "numbers", "std", "rank", *COLUMNS, "corr. all", "near"]
    table = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *lines]
    (out / "table.md").write_text("\n".join(table) + "\n")


def row(name: str, steps: int, trained: dict, probe: dict) -> str:
    """Writes one line of the table."""
    cells = [name, str(steps or ""), str(probe["num_numbers"])]
    cells += [f"{trained[key]:.2f}" if trained else "" for key in ("std", "effective_rank")]
    cells += [f"{probe['r2'][column]:.3f}" for column in COLUMNS]
    cells += [f"{probe['rank_correlation'][key]:.3f}" for key in ("all", "near")]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
