"""`robot-wm deploy`: drives an arm to the pose in a goal picture, behind governor and watchdog.

This process is the human's: it checks, asks, starts the others, and tells how it goes. The arm
belongs to the controller (hardware.process); the model thinks in a process of its own
(robot_wm.cli.deploy_planner).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from hardware.pilot import PilotSettings
from hardware.spawn import controller_spec, spawn
from hardware.wire import Wire
from robot_wm.cli.console import ask, finish, output_dir, say, say_outcomes
from robot_wm.cli.devices import Device, end, open_device
from robot_wm.cli.pictures import goal_files, plain, read_picture
from robot_wm.cli.robots import build_robot
from robot_wm.kinematics import Limits, RobotModel
from robot_wm.types import Outcome

_START_S = 120.0  # for a model to load
_END_S = 10.0
_RECORD_S = 60.0  # a plan to its end, and a video to the disk
_SETTLE_S = 10.0  # for an arm to come to rest before it is armed


class DeployError(RuntimeError):
    """The arm stopped before the run was over."""


def run(config: DictConfig) -> None:
    """Checks, asks, runs, and says what became of it.

    Raises:
        ValueError: something that keeps the arm from being armed.
        DeployError: a fault, or the planner's end.
    """
    # A shell has commands in the background ignore it; what drives an arm never does.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.mode not in ("run", "dry-run"):
        raise ValueError(f"mode: got {config.mode!r}, want run or dry-run")
    if config.num_steps < 1:
        raise ValueError(f"num_steps: got {config.num_steps}, want at least 1")
    if config.park and config.robot.rest is None:
        raise ValueError("park: robot.rest is not given: the joints where it may go limp")
    asks = config.confirm and config.mode == "run"
    if asks and not sys.stdin.isatty():
        raise ValueError("confirm: nobody at a terminal to ask; confirm=false goes without")
    if config.view is not None and config.view != "rerun" and not str(config.view).endswith(".rrd"):
        raise ValueError(f"view: got {config.view!r}, want rerun or a file that ends in .rrd")
    if config.view is not None and config.view != "rerun" and Path(config.view).exists():
        raise ValueError(f"view: {config.view} exists: name a new file")
    if config.view is not None and importlib.util.find_spec("rerun") is None:
        raise ValueError("view: Rerun is not installed; run pip install 'robot-wm[rerun]'")
    if config.record is not None and config.mode != "run":
        raise ValueError("record: a dry run moves nothing, and would teach that nothing moves")
    out = output_dir(config.out)
    goals = [plain(value) for value in (config.goal, *config.then)]
    for goal in goals:
        for path in goal_files(goal).values():
            read_picture(path)
    robot = build_robot(config.robot)
    settings: Any = OmegaConf.to_container(config.robot.settings)
    try:
        PilotSettings(**settings)
    except TypeError as error:
        raise ValueError(f"robot.settings: {error}") from error
    out.mkdir(parents=True, exist_ok=True)
    record = out / f"flight-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl"
    with open_device(config.robot, robot) as device:
        device.wait_ready()
        with Crew(config, device, robot, settings, goals, record) as crew:
            what, *notes = crew.wait_ready()
            say(f"ready: {what}")
            for note in notes:
                say(f"  {note}")
            if asks:
                ask_human(robot.limits)
            with single_keys():
                result = crew.fly()
    say(f"{result['ended']}; flight record: {record}")
    if config.mode == "dry-run":
        say("dry run: nothing was written to the robot")
    else:
        say_outcomes([Outcome(**outcome) for outcome in result["outcomes"]], len(goals))
    finish({**result, "record": str(record)})
    if result["fault"] or not result["ended"].startswith("done"):
        raise DeployError(result["fault"] or f"stopped: {result['ended']}")


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
        ValueError: no.
    """
    say(
        f"The arm is going to move, its tip at up to {float(limits.tip_speed):g} m/s. Keep people "
        f"out of its reach and a hand on its power switch. Any key stops it."
    )
    if ask("Type yes to arm: ").strip().lower() != "yes":
        raise ValueError("not armed: the answer was not yes")


class Live:
    """The last line of a terminal: how it goes now. Nothing where stderr is no terminal."""

    def __init__(self) -> None:
        self._on = sys.stderr.isatty()
        self._energy, self._fault = "", "none"

    def say(self, text: str) -> None:
        """A line above it, that stays."""
        self._write("")
        say(text)

    def note(self, *, energy: float | None = None, fault: str = "") -> None:
        """What to show from now on."""
        self._energy = self._energy if energy is None else f"energy {energy:.3f}, "
        self._fault = fault or self._fault

    def show(self, status: Mapping[str, Any]) -> None:
        """Shows what the controller has said."""
        age = status["plan_age_s"]
        plan = "no plan yet" if age is None else f"plan {age:.1f} s old"
        late = f"ticks {status['late_ms_p99']:.1f} ms late (p99)"
        self._write(f"{status['state']}: {self._energy}{plan}, {late}, last fault: {self._fault}")

    def _write(self, text: str) -> None:
        if self._on:
            width = shutil.get_terminal_size().columns - 1
            line = text[:width]
            print(f"\r{line:{width}}\r{line}", end="", file=sys.stderr, flush=True)


@dataclass
class Crew:
    """The processes of a run beside the device's own: watchdog, controller and planner."""

    config: DictConfig
    device: Device
    robot: RobotModel
    settings: dict[str, Any]
    goals: Sequence[object]
    record: Path
    _children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Crew:
        config, device, tty = self.config, self.device, sys.stdin.isatty()
        robot = self.robot
        arm = device.arm(robot.limits)
        self._controller, human = Wire.pair()
        self._planner, self._planner_says = Wire.pair()
        self._steers, steered = Wire.pair()
        beats, to_watchdog = Wire.pair()
        self._children["watchdog"] = spawn(
            ["hardware", "watchdog"], {"wire": to_watchdog.fileno()}, [to_watchdog]
        )
        self._children["controller"] = spawn(
            ["hardware", "controller"],
            controller_spec(
                chain=robot.chain,
                limits=robot.limits,
                settings=self.settings,
                rest=None if robot.park is None else robot.park.tolist(),
                arm=arm,
                planner=steered,
                human=human,
                watchdog=beats,
                record=self.record,
                about={"config": OmegaConf.to_yaml(config, resolve=True)},
                keys=tty,
                dry_run=config.mode == "dry-run",
                park=config.park,
            ),
            [steered, human, beats, *device.shared()],
            stdin=None if tty else subprocess.DEVNULL,
        )
        for wire in (human, steered, beats, to_watchdog):
            wire.close()  # so that an end is seen when the process that holds it dies
        return self

    def wait_ready(self) -> list[str]:
        """Returns once the arm is read and the model loaded; what the human should know.

        Raises:
            ValueError: one of them refuses, and why.
            DeployError: one of the processes ended.
        """
        own = self._wait(self._controller, "arm", "ready")
        joints = np.array(self._wait(self._controller, "arm", "joints"))
        names = self.robot.joints
        if len(joints) == len(names):  # said before the model has a say: signs, zeros to check
            angles = zip(names, joints, strict=True)
            stands = ", ".join(f"{name} {angle:.2f}" for name, angle in angles)
            x, y, z = self.robot.chain.tool(joints)[:3, 3]
            say(f"the arm stands at {stands} rad")
            say(f"  its tool at x {x:.3f}, y {y:.3f}, z {z:.3f} m from its base")
        else:
            say("where the arm stands could not be read yet")
        self._children["planner"] = spawn(
            ["robot_wm.cli.deploy_planner"],
            {
                "config": OmegaConf.to_yaml(self.config, resolve=True),
                # What the device itself can do: a target beyond would be refused.
                "low": own["low"],
                "high": own["high"],
                "goals": list(self.goals),
                "frames": self.device.places(),
                "wire": self._steers.fileno(),
                "human": self._planner_says.fileno(),
            },
            [self._steers, self._planner_says, *self.device.frames.values()],
        )
        self._steers.close()
        self._planner_says.close()
        ready = self._wait(self._planner, "planner", "ready")
        return [str(ready["what"]), *ready["notes"]]

    def _wait(self, wire: Wire, name: str, what: str) -> Any:
        """The first message about something."""
        until_s = time.monotonic() + _START_S
        while time.monotonic() < until_s:
            wire.wait(0.2)
            ended = self._ended()  # before what it has said last is read
            for message in wire.receive():
                if "refused" in message:
                    raise ValueError(message["refused"])
                if what in message:
                    return message[what]
            if wire is not self._controller:
                self._controller.receive()
            self.device.listen()
            if ended:
                raise DeployError(ended)
        raise DeployError(f"the {name} was not ready within {_START_S:.0f} s")

    def _ended(self) -> str:
        """Which process has ended that should not have; empty where none."""
        for name, child in (self._children | self.device.children).items():
            if child.poll() is not None and name != "watchdog":  # it goes with the controller
                return f"the {name} ended with exit code {child.returncode}"
        return ""

    def fly(self) -> dict[str, Any]:
        """Arms, tells how it goes, ends; what became of it."""
        heard = []
        while more := self._controller.receive():  # it may not be able to say more than waits here
            heard += more
        self._planner.send({"begin": True})
        self._controller.send({"event": "arm"})
        result: dict[str, Any] = {
            "ended": "",
            "fault": "",
            "energies": [],
            "decisions": [],
            "outcome": None,
            "outcomes": [],
        }
        late_ms, refused, rest_until_s = 0.0, "", time.monotonic() + _SETTLE_S
        live = Live()
        while not result["ended"]:
            self._controller.wait(0.1)
            for told in self.device.tell():
                live.say(f"  {told}")
            self._hear_planner(result, live)
            heard += self._controller.receive()
            while heard:
                message = heard.pop(0)
                late_ms = max(late_ms, message["late_ms_p99"])
                for note in message["notes"]:
                    live.say(f"  {note}")
                    if note.startswith("not armed"):
                        if "come to rest" in note and time.monotonic() < rest_until_s:
                            time.sleep(0.3)  # it may still settle
                            self._controller.send({"event": "arm"})
                        else:
                            refused = note
                if message["state"] == "faulted" and not result["fault"]:
                    result["fault"] = message["reason"]
                    live.note(fault=message["reason"])
                    self._controller.send({"end": "fault"})
                if refused:
                    self._controller.send({"end": refused})
                live.show(message)
                if "ended" in message:
                    result["ended"] = message["ended"]
                    live.say("")
            if self._controller.closed and not result["ended"]:
                result["ended"] = result["fault"] = "the controller died"
        self._hear_planner(result, live)  # it may have said its last just before the end
        if refused:
            raise ValueError(refused)
        result["tick_late_ms_p99"] = late_ms
        return result

    def _hear_planner(self, result: dict[str, Any], live: Live) -> None:
        """Adds what the planner has said since to the result, and shows it."""
        for message in self._planner.receive():
            if "outcomes" in message and self.config.mode == "run":  # a dry run goes nowhere
                result["outcomes"] = message["outcomes"]
                result["outcome"] = message["outcomes"][-1]
            if "energy" in message:
                energy, p_value = message["energy"], message.get("p_value")
                result["energies"].append(energy)
                result["decisions"].append(message["decision"])
                surprise = "" if p_value is None else f", prediction p = {p_value:.3f}"
                live.note(energy=energy)
                live.say(f"  energy {energy:.3f}, {message['decision']}{surprise}")

    def __exit__(self, *_: object) -> None:
        self._controller.send({"end": "the human's process ends"})
        for wire in (self._steers, self._planner_says):
            wire.close()
        for name, child in self._children.items():
            if name == "planner" and self.config.record is not None and child.poll() is None:
                say("  the run is being recorded: a moment")
            end(child, _RECORD_S if name == "planner" and self.config.record else _END_S)
        self._controller.close()
        self._planner.close()
