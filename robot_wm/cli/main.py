"""Entry point: finds the command, and turns a user's mistake into one line and exit code 2."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from robot_wm import __version__
from robot_wm.deployment.extensions import import_extensions, take_options
from robot_wm.deployment.threads import share_cores
from robot_wm.types import RunError, UserError

COMMANDS = {
    "demo": "collect, train, plan, evaluate and report, in minutes",
    "collect": "drive a scripted demonstrator in simulation, write a LeRobot dataset",
    "train": "train a predictor on a LeRobot dataset, write a checkpoint",
    "eval": "measure a checkpoint on a fixed list of episodes",
    "plan": "one run to the pose in a goal picture, with its video",
    "deploy": "drive an arm to the pose in a goal picture",
    "record-goal": "take goal pictures with the arm's own camera",
    "monitors": "see what is normal for a checkpoint, on demonstrations: deploy compares with it",
    "replay": "fly a flight record again: robot-wm replay FILE",
    "pretrain": "train an encoder on pictures, and actions where there are any, without labels",
    "probe": "see what can be read off an encoder's tokens, and what their distances mean",
    "convert": "turn a released V-JEPA 2-AC file into a checkpoint",
    "bench rollout": "time imagining with and without the key-value cache",
    "bench planner": "what planners find, how soon, and what the ways to save work are worth",
    "bench safety": "try every promise between planner and arm, with its figure",
    "bench train": "time training, and see what the machine does meanwhile",
    "bench resume": "kill a training again and again, and compare what it comes to",
}

USAGE = """robot-wm: show a robot arm a picture; it imagines what its actions do, and moves there.

usage: robot-wm COMMAND [key=value ...]

commands:
{commands}

robot-wm COMMAND --help lists a command's keys and their defaults; --cfg job shows what it would run
with.
--import MODULE imports a module of yours first, one that registers an arm, a family or an encoder;
--config-dir DIR adds a folder of settings of yours. KEY._target_=module.Name puts a planner, an
encoder, a task or an env of yours in the place of ours.
ROBOT_WM_TRACEBACK=1 shows where an error came from.
"""


BUG = """robot-wm {name}: this is a fault of robot_wm {version}, and not yours. Please report it to
whoever gave it to you, with the lines above and the command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        The exit code: 0 done, 1 it went wrong on the way, 2 a user's mistake, 70 a fault of
        robot_wm's own, 130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        words = take_options(words)
    except UserError as error:
        return _fail(words[0], error, 2)
    if not words or words[0] in ("-h", "--help", "help"):
        listing = "\n".join(f"  {name:15}{text}" for name, text in COMMANDS.items())
        print(USAGE.format(commands=listing))
        return 0
    name, *words = words
    if name == "bench" and words and not words[0].startswith("-"):
        name, *words = f"bench {words[0]}", *words[1:]
    if name == "replay" and words and "=" not in words[0] and not words[0].startswith("-"):
        words[0] = f"file={words[0]}"
    if name == "--version":
        print(__version__)
        return 0
    try:
        if name not in COMMANDS:
            raise UserError(f"unknown command {name!r}; allowed: {', '.join(COMMANDS)}")
        share_cores()
        import_extensions()
        module = importlib.import_module(f"robot_wm.cli.{_file(name)}")
        if "-h" in words or "--help" in words:
            print(_help(name))
            return 0
        from robot_wm.cli.config import load_config

        shown, words = _take_cfg(words)
        config = load_config(_file(name), words)
        if shown:
            from omegaconf import OmegaConf

            print(OmegaConf.to_yaml(config, resolve=True), end="")
            return 0
        module.run(config)
    except KeyboardInterrupt:
        print("robot-wm: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UserError, OSError) as error:
        return _fail(name, error, 2)
    except (RunError, FloatingPointError) as error:
        return _fail(name, error, 1)
    except Exception:  # noqa: BLE001 - whatever it is, the person is told what to do with it
        traceback.print_exc()
        print(BUG.format(name=name, version=__version__), file=sys.stderr)
        return 70
    return 0


def _take_cfg(words: Sequence[str]) -> tuple[bool, list[str]]:
    """Takes hydra's `--cfg job` out of a command line: the settings are to be shown, not run.

    Raises:
        UserError: another word than job after it.
    """
    rest = list(words)
    if "--cfg" in rest:
        index = rest.index("--cfg")
        if rest[index + 1 : index + 2] != ["job"]:
            raise UserError("--cfg: want job after it")
        del rest[index : index + 2]
        return True, rest
    return False, rest


def _file(command: str) -> str:
    """Name of a command's module and of its YAML file."""
    return command.replace(" ", "_").replace("-", "_")


def _fail(command: str, error: Exception, code: int) -> int:
    """Says what went wrong in one line; returns the exit code."""
    if os.environ.get("ROBOT_WM_TRACEBACK"):
        raise error
    print(f"robot-wm {command}: {' '.join(str(error).split())}", file=sys.stderr)
    return code


def _help(name: str) -> str:
    from omegaconf import OmegaConf

    from robot_wm.cli.config import compose_config, groups

    config = compose_config(_file(name), [])
    choices = "\n".join(
        f"  {group}: {', '.join(names)}"
        for group, names in groups().items()
        if group in config or group == "experiment"
    )
    return (
        f"robot-wm {name}: {COMMANDS[name]}\n\nkeys and defaults (??? must be given):\n\n"
        f"{OmegaConf.to_yaml(config)}\nchoices:\n{choices}"
    )
