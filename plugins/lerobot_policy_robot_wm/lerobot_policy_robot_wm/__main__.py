"""`python -m lerobot_policy_robot_wm OUT [checkpoint=...] [key=value ...]`: for --policy.path.

Further words are those of `robot-wm deploy`, such as planner.horizon=2. What it prints at the end
is the beginning of the command that drives an arm with the LeRobot that is installed.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

from lerobot_policy_robot_wm.configuration_robot_wm import RobotWMConfig
from lerobot_policy_robot_wm.modeling_robot_wm import read_settings
from lerobot_policy_robot_wm.processor_robot_wm import make_robot_wm_pre_post_processors
from robot_wm.checkpoint import find_checkpoint, load_checkpoint
from robot_wm.cli.console import output_dir, say


def write_policy(out: Path, checkpoint: str, overrides: list[str]) -> None:
    """Writes a directory that `--policy.path` takes: JSON that names a checkpoint, no weights.

    Args:
        out: is created; must be empty.
        checkpoint: a directory, or the name of one that ships.
        overrides: words as `robot-wm deploy` takes them.

    Raises:
        FileExistsError: `out` is not an empty directory.
        ValueError: no such checkpoint, or an override that is not known.
    """
    if output_dir(str(out)).exists() and any(out.iterdir()):
        raise FileExistsError(f"out: {out} is not empty")
    found = find_checkpoint(checkpoint)
    load_checkpoint(found)
    if found == Path(checkpoint).expanduser():  # else it ships, and is found by its name
        checkpoint = str(found.resolve())
    config = RobotWMConfig(checkpoint=checkpoint, overrides=overrides, device="cpu")
    read_settings(config, "goal.png")
    out.mkdir(parents=True, exist_ok=True)
    own = {"type": config.type, "checkpoint": checkpoint, "overrides": overrides}
    (out / "config.json").write_text(json.dumps(own, indent=1) + "\n")
    for processor in make_robot_wm_pre_post_processors(config):
        processor.save_pretrained(out)


def driving_command() -> str:
    """The command of the installed LeRobot that drives an arm with a policy, and what it needs.

    It would otherwise speak through a program that few have, and `lerobot-rollout` would at its end
    drive the arm to where it began, past every governor.
    """
    if find_spec("lerobot.rollout"):  # since 0.6
        return "lerobot-rollout --return_to_initial_position=false --play_sounds=false"
    return "lerobot-record --play_sounds=false"


def main(words: list[str]) -> int:
    """Writes it; the exit code."""
    try:
        if not words or "=" in words[0] or words[0].startswith("-"):
            raise ValueError((__doc__ or "").splitlines()[0])
        out, checkpoint, overrides = Path(words[0]), RobotWMConfig.checkpoint, []
        for word in words[1:]:
            key, _, value = word.partition("=")
            if key == "checkpoint":
                checkpoint = value
            else:
                overrides.append(word)
        write_policy(out, checkpoint, overrides)
    except (ValueError, OSError) as error:
        say(f"lerobot_policy_robot_wm: {' '.join(str(error).split())}")
        return 2
    say(f"{out}: {driving_command()} --policy.path={out} --policy.goal_image=PICTURE ...")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
