"""Entry point: runs a command, and turns a user's mistake into one line and exit code 2."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from robot_wm.cli.console import show_log
from robot_wm.deployment.extensions import import_extensions, take_options
from robot_wm.deployment.threads import share_cores
from robot_wm.types import RunError, UserError
from robot_wm.version import __version__

COMMANDS = {
    "demo": "collect, train, plan, evaluate and report, in minutes",
    "collect": "drive a scripted demonstrator in simulation, write a LeRobot dataset",
    "train": "train a predictor on a LeRobot dataset, write a checkpoint",
    "eval": "measure a checkpoint on a fixed list of episodes",
    "plan": "one run to the pose in a goal picture, with its video",
    "deploy": "drive an arm to the pose in a goal picture",
    "record-goal": "take goal pictures with the arm's own camera",
    "monitors": "compute the reference statistics that deploy compares with, on demonstrations",
    "replay": "run the governor again over a flight record: robot-wm replay FILE",
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

robot-wm COMMAND --help says what each key means; --cfg job shows what a command would run with;
--multirun runs it for every value of keys with several: seed=0,1,2; quotes keep a comma in a text.
--import MODULE imports a module of yours first, one that registers an arm, a family or an encoder;
--config-dir DIR adds a folder of settings of yours. KEY._target_=module.Name puts a planner, an
encoder, a task or an env of yours in the place of ours.
--shell-completion bash (or zsh) prints a script for your shell. ROBOT_WM_TRACEBACK=1 shows where an
error came from.
"""


BUG = """robot-wm {name}: this is a fault of robot_wm {version}, and not yours. Please report it to
whoever gave it to you, with the lines above and the command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The words after `robot-wm`; None: those of the process.

    Returns:
        The exit code: 0 done, 1 an error during the run, 2 a user's mistake, 70 a bug in robot_wm,
        130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words else ""
    show_log()
    try:
        words = take_options(words)
        if not words or words[0] in ("-h", "--help", "help"):
            listing = "\n".join(f"  {name:15}{text}" for name, text in COMMANDS.items())
            print(USAGE.format(commands=listing))
            return 0
        if words[0].startswith("-"):
            return _answer(words)
        name, words = _command(words)
        share_cores()
        import_extensions()
        return _run(name, words)
    except KeyboardInterrupt:
        print("robot-wm: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # such as `| head`, which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UserError, OSError) as error:
        return _fail(name, error, 2)
    except (RunError, FloatingPointError) as error:
        return _fail(name, error, 1)
    except Exception:  # noqa: BLE001 - any bug: the user is told to report it
        traceback.print_exc()
        print(BUG.format(name=name, version=__version__), file=sys.stderr)
        return 70


def _answer(words: Sequence[str]) -> int:
    """Runs an option that is not a command: `--version` and completion."""
    from robot_wm.cli.completion import complete, completion_script

    if words[0] == "--version":
        print(__version__)
    elif words[0] == "--shell-completion":
        print(completion_script("".join(words[1:2])), end="")
    elif words[0] == "--complete":
        print("\n".join(complete(words[1:], {name: module_of(name) for name in COMMANDS})))
    else:
        raise UserError(f"unknown option {words[0]!r}; robot-wm --help lists what there is")
    return 0


def _command(words: Sequence[str]) -> tuple[str, list[str]]:
    """Splits the command's name from its words.

    Args:
        words: The words after `robot-wm`.

    Returns:
        The name and the other words.

    Raises:
        UserError: there is no such command, or a word is not UTF-8.
    """
    for word in words:
        if any("\ud800" <= letter <= "\udfff" for letter in word):  # Python's for other bytes
            shown = word.encode("utf-8", "replace").decode()
            raise UserError(
                f"{shown}: its name is not UTF-8, which neither a dataset nor a message to another "
                f"process can hold; rename the file"
            )
    name, *rest = words
    if name == "bench" and rest and not rest[0].startswith("-"):
        name, *rest = f"bench {rest[0]}", *rest[1:]
    if name not in COMMANDS:
        raise UserError(f"unknown command {name!r}; allowed: {', '.join(COMMANDS)}")
    if name == "replay" and rest and "=" not in rest[0] and not rest[0].startswith("-"):
        rest[0] = f"file={rest[0]}"
    return name, rest


def _run(name: str, words: list[str]) -> int:
    """Runs a command, once or for every combination of values; or prints its help or settings."""
    command: Any = importlib.import_module(module_of(name))
    from robot_wm.cli.config import load_settings, sweep

    if "-h" in words or "--help" in words:
        from robot_wm.cli.help import command_help

        print(command_help(name, COMMANDS[name], command.SETTINGS, command.EXAMPLES, words))
        return 0
    shown, words = _take_cfg(words)
    many = [word for word in words if word in ("-m", "--multirun")]
    words = [word for word in words if word not in many]
    runs = [words]
    if many:
        runs = _separate_outputs(sweep(words), command.SETTINGS)
    settings = [load_settings(name, command.SETTINGS, run) for run in runs]
    for run, run_settings in zip(runs, settings, strict=True):
        if many:
            print(f"robot-wm {name} {' '.join(run)}", file=sys.stderr)
        if shown:
            from robot_wm.provenance import to_yaml
            from robot_wm.types import plain_settings

            print(to_yaml(plain_settings(run_settings)), end="")
        else:
            command.run(run_settings)
    return 0


def _separate_outputs(runs: Sequence[list[str]], settings_type: type) -> list[list[str]]:
    """Gives each of several runs its own output: out=runs becomes runs/0, runs/1, ...

    Args:
        runs: The words of each run.
        settings_type: Type of the settings.

    Returns:
        The words with the outputs; those that the caller chose for each run stay as they are.
    """
    from robot_wm.cli.fields import expand

    defaults = expand(settings_type)
    separate = [dict(word.split("=", 1) for word in run) for run in runs]
    for key in ("out", "record", "view"):
        places = [values.get(key, defaults.get(key)) for values in separate]
        if len(set(places)) == len(runs) > 1:
            continue
        for i, place in enumerate(places):
            stem, suffix = os.path.splitext(place or "")
            if suffix in (".safetensors", ".png", ".rrd"):
                separate[i][key] = f"{stem}-{i}{suffix}"
            elif place not in (None, "???", "", "null", "rerun"):
                separate[i][key] = f"{place}/{i}"
    return [[f"{key}={value}" for key, value in values.items()] for values in separate]


def _take_cfg(words: Sequence[str]) -> tuple[bool, list[str]]:
    """Removes hydra's `--cfg job`, which prints the settings instead of running.

    Args:
        words: The words of a command.

    Returns:
        Whether it was there, and the other words.

    Raises:
        UserError: `--cfg` is followed by another word than job.
    """
    rest = list(words)
    if "--cfg" in rest:
        index = rest.index("--cfg")
        if rest[index + 1 : index + 2] != ["job"]:
            raise UserError("--cfg: want job after it")
        del rest[index : index + 2]
        return True, rest
    return False, rest


def module_of(command: str) -> str:
    """Returns the name of a command's module."""
    return f"robot_wm.cli.{command.replace(' ', '_').replace('-', '_')}"


def _fail(command: str, error: Exception, code: int) -> int:
    """Prints an error in one line; returns the exit code."""
    if os.environ.get("ROBOT_WM_TRACEBACK"):
        raise error
    print(f"robot-wm {command}: {' '.join(str(error).split())}", file=sys.stderr)
    return code
