"""`robot-wm deploy`: drives an arm to the pose in a goal picture, behind governor and watchdog.

This process is the human's: it checks, asks, starts the others, and tells how it goes. The arm
belongs to the controller (hardware.arm_server); the model thinks in a process of its own
(robot_wm.deployment.policy_process).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from omegaconf import DictConfig, OmegaConf

from hardware.messages import Status
from hardware.reasons import Kind
from robot_wm.cli.config import plain, planning_settings
from robot_wm.cli.console import ask, finish, output_dir, say, say_outcomes
from robot_wm.cli.provenance import describe_run
from robot_wm.deployment.devices import open_device
from robot_wm.deployment.pictures import goal_files, read_picture
from robot_wm.deployment.robots import build_robot
from robot_wm.deployment.run import RunSettings
from robot_wm.deployment.session import DeployError, Session
from robot_wm.kinematics import Limits
from robot_wm.types import UserError, read_settings


def run(config: DictConfig) -> None:
    """Checks, asks, runs, and says what became of it.

    Raises:
        UserError: something that keeps the arm from being armed.
        DeployError: a fault, or the planner's end.
    """
    # A shell has commands in the background ignore it; what drives an arm never does.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    settings = run_settings(config)
    if settings.park and settings.robot.rest is None:
        raise UserError("park: robot.rest is not given: the joints where it may go limp")
    asks = config.confirm and settings.moves
    if asks and not sys.stdin.isatty():
        raise UserError("confirm: nobody at a terminal to ask; confirm=false goes without")
    if settings.view is not None:
        _check_view(settings.view)
    if settings.record is not None and not settings.moves:
        raise UserError(
            "record: a dry run moves nothing, and would teach that nothing moves; want mode=run"
        )
    out = output_dir(config.out)
    goals: list[Any] = [plain(value) for value in (config.goal, *config.then)]
    for goal in goals:
        for path in goal_files(goal).values():
            read_picture(path)
    robot = build_robot(settings.robot)
    out.mkdir(parents=True, exist_ok=True)
    record = out / f"flight-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl"
    about = {
        "config": OmegaConf.to_yaml(config, resolve=True),
        "run": describe_run("deploy", config),
    }
    with open_device(settings.robot, robot, say) as device:
        device.wait_ready()
        with Session(settings, about, device, robot, goals, record, Live()) as crew:
            ready = crew.wait_ready()
            say(f"ready: {ready.what}")
            for note in ready.notes:
                say(f"  {note}")
            if asks:
                ask_human(robot.limits)
            with single_keys():
                result = crew.fly()
    say(f"{result.ended}; flight record: {record}")
    if not settings.moves:
        say("dry run: nothing was written to the robot; mode=run moves it")
    else:
        say_outcomes(result.outcomes, len(goals))
    finish({**result.figures(), "record": str(record)})
    if result.fault is not None:
        raise DeployError(str(result.fault))
    if result.ended.kind is not Kind.DONE:
        raise DeployError(f"stopped: {result.ended}")


def _check_view(view: str) -> None:
    """Raises UserError unless a run can be shown there."""
    if view != "rerun" and not view.endswith(".rrd"):
        raise UserError(f"view: got {view!r}, want rerun or a file that ends in .rrd")
    if view != "rerun" and Path(view).exists():
        raise UserError(f"view: {view} exists: name a new file")
    if importlib.util.find_spec("rerun") is None:
        raise UserError("view: Rerun is not installed; run pip install 'robot-wm[rerun]'")


def run_settings(config: DictConfig) -> RunSettings:
    """Reads the settings of `deploy`.

    Raises:
        UserError: a value of the wrong kind, or out of range.
    """
    own = ("checkpoint", "mode", "num_steps", "device", "park", "record", "task", "view")
    monitors = plain(config.monitors)
    values = {
        **{name: plain(config[name]) for name in own},
        "allow_novel": monitors.pop("allow_novel"),
        "monitors": monitors,
        "robot": plain(config.robot),
        "planning": msgspec.to_builtins(planning_settings(config)),
    }
    return read_settings("", values, RunSettings)


@contextmanager
def single_keys() -> Iterator[None]:
    """Lets a terminal hand over every key at once, not only lines."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def ask_human(limits: Limits) -> None:
    """Lets the human say whether the arm may move.

    Raises:
        UserError: no.
    """
    say(
        f"The arm is going to move, its tip at up to {float(limits.tip_speed):g} m/s. Keep people "
        f"out of its reach and a hand on its power switch. Any key stops it."
    )
    if ask("Type yes to arm: ").strip().lower() != "yes":
        raise UserError("not armed: the answer was not yes")


class Live:
    """The last line of a terminal: how it goes now. Nothing where stderr is no terminal."""

    def __init__(self) -> None:
        self._on = sys.stderr.isatty()
        self._energy, self._fault = "", "none"

    def say(self, text: str) -> None:
        """A line above it, that stays."""
        self._write("")
        say(text)

    def note(self, *, energy: str = "", fault: str = "") -> None:
        """What to show from now on."""
        self._energy = energy or self._energy
        self._fault = fault or self._fault

    def show(self, status: Status) -> None:
        """Shows what the controller has said."""
        age = status.plan_age_s
        plan = "no plan yet" if age is None else f"plan {age:.1f} s old"
        late = f"ticks {status.late_ms_p99:.1f} ms late (p99)"
        state = status.state.value
        self._write(f"{state}: {self._energy}{plan}, {late}, last fault: {self._fault}")

    def _write(self, text: str) -> None:
        if self._on:
            width = shutil.get_terminal_size().columns - 1
            line = text[:width]
            print(f"\r{line:{width}}\r{line}", end="", file=sys.stderr, flush=True)
