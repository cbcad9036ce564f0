"""`python -m lerobot_policy_robot_wm OUT [checkpoint=...] [key=value ...]`: for --policy.path.

Further words are those of `robot-wm deploy`, such as planner.horizon=2. At the end it prints the
beginning of the command that drives an arm with the installed LeRobot.
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
from robot_wm.files import output_dir


def write_policy(out: Path, checkpoint: str, overrides: list[str]) -> None:
    """Writes a directory for `--policy.path`: JSON that names a checkpoint, no weights.

    Args:
        out: The directory, which is created and must be empty.
        checkpoint: A directory, or the name of a checkpoint that ships.
        overrides: Words as `robot-wm deploy` takes them.

    Raises:
        FileExistsError: `out` is not an empty directory.
        ValueError: there is no such checkpoint, or an override is unknown.
    """
    if output_dir(str(out)).exists() and any(out.iterdir()):
        raise FileExistsError(f"out: {out} is not empty")
    directory = find_checkpoint(checkpoint)
    load_checkpoint(directory)
    if directory == Path(checkpoint).expanduser():  # else it ships, and is found by its name
        checkpoint = str(directory.resolve())
    config = RobotWMConfig(checkpoint=checkpoint, overrides=overrides, device="cpu")
    read_settings(config, "goal.png")
    out.mkdir(parents=True, exist_ok=True)
    policy = {"type": config.type, "checkpoint": checkpoint, "overrides": overrides}
    (out / "config.json").write_text(json.dumps(policy, indent=1) + "\n")
    for processor in make_robot_wm_pre_post_processors(config):
        processor.save_pretrained(out)


def driving_command() -> str:
    """Returns the command of the installed LeRobot that drives an arm, with necessary options.

    Without them LeRobot would need a speech program that few have, and `lerobot-rollout` would in
    the end drive the arm back to where it began, without the governor.
    """
    if find_spec("lerobot.rollout"):  # since 0.6
        return "lerobot-rollout --return_to_initial_position=false --play_sounds=false"
    return "lerobot-record --play_sounds=false"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(words: list[str]) -> int:
    """Writes the policy's directory; returns the exit code."""
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
        _say(f"lerobot_policy_robot_wm: {' '.join(str(error).split())}")
        return 2
    _say(f"{out}: {driving_command()} --policy.path={out} --policy.goal_image=PICTURE ...")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
