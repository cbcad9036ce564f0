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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from hardware.messages import (
    Begin,
    ChainData,
    ControllerReady,
    ControllerTask,
    DecisionTaken,
    End,
    PlannerReady,
    PlannerTask,
    Refused,
    Request,
    RunEnded,
    Status,
    WatchdogTask,
)
from hardware.pilot import PilotSettings
from hardware.reasons import Kind, Reason
from hardware.spawn import spawn
from hardware.states import Event, State
from hardware.ticks import NoteKind
from hardware.wire import Wire
from robot_wm.cli.config import plain, robot_settings
from robot_wm.cli.console import ask, finish, output_dir, say, say_outcomes
from robot_wm.cli.provenance import describe_run
from robot_wm.deployment.devices import Device, end, open_device
from robot_wm.deployment.pictures import goal_files, read_picture
from robot_wm.deployment.robots import build_robot
from robot_wm.kinematics import Limits, RobotModel
from robot_wm.types import Outcome, RunError, UserError

_START_S = 120.0  # for a model to load
_END_S = 10.0
_RECORD_S = 60.0  # a plan to its end, and a video to the disk
_SETTLE_S = 10.0  # for an arm to come to rest before it is armed

_Waited = TypeVar("_Waited", ControllerReady, PlannerReady, Status)


class DeployError(RunError):
    """The arm stopped before the run was over."""


def run(config: DictConfig) -> None:
    """Checks, asks, runs, and says what became of it.

    Raises:
        UserError: something that keeps the arm from being armed.
        DeployError: a fault, or the planner's end.
    """
    # A shell has commands in the background ignore it; what drives an arm never does.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.mode not in ("run", "dry-run"):
        raise UserError(f"mode: got {config.mode!r}, want run or dry-run")
    if config.num_steps < 1:
        raise UserError(f"num_steps: got {config.num_steps}, want at least 1")
    settings = robot_settings(config)
    if config.park and settings.rest is None:
        raise UserError("park: robot.rest is not given: the joints where it may go limp")
    asks = config.confirm and config.mode == "run"
    if asks and not sys.stdin.isatty():
        raise UserError("confirm: nobody at a terminal to ask; confirm=false goes without")
    if config.view is not None and config.view != "rerun" and not str(config.view).endswith(".rrd"):
        raise UserError(f"view: got {config.view!r}, want rerun or a file that ends in .rrd")
    if config.view is not None and config.view != "rerun" and Path(config.view).exists():
        raise UserError(f"view: {config.view} exists: name a new file")
    if config.view is not None and importlib.util.find_spec("rerun") is None:
        raise UserError("view: Rerun is not installed; run pip install 'robot-wm[rerun]'")
    if config.record is not None and config.mode != "run":
        raise UserError(
            "record: a dry run moves nothing, and would teach that nothing moves; want mode=run"
        )
    out = output_dir(config.out)
    goals: list[Any] = [plain(value) for value in (config.goal, *config.then)]
    for goal in goals:
        for path in goal_files(goal).values():
            read_picture(path)
    robot = build_robot(settings)
    out.mkdir(parents=True, exist_ok=True)
    record = out / f"flight-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl"
    with open_device(settings, robot, say) as device:
        device.wait_ready()
        with Crew(config, device, robot, settings.settings, goals, record) as crew:
            ready = crew.wait_ready()
            say(f"ready: {ready.what}")
            for note in ready.notes:
                say(f"  {note}")
            if asks:
                ask_human(robot.limits)
            with single_keys():
                result = crew.fly()
    say(f"{result.ended}; flight record: {record}")
    if config.mode == "dry-run":
        say("dry run: nothing was written to the robot; mode=run moves it")
    else:
        say_outcomes(result.outcomes, len(goals))
    finish({**result.figures(), "record": str(record)})
    if result.fault is not None:
        raise DeployError(str(result.fault))
    if result.ended.kind is not Kind.DONE:
        raise DeployError(f"stopped: {result.ended}")


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


@dataclass
class Result:
    """What became of a run.

    Attributes:
        energies: of what was seen before each decision, and at the end.
        decisions: their kinds.
        outcomes: in the order of the goals; none of a dry run.
        late_ms_p99: by which ticks began late.
        fault: why the arm faulted; None: it did not.
        ended: why the run is over.
    """

    energies: list[float | None] = field(default_factory=list)
    decisions: list[str] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    late_ms_p99: float = 0.0
    fault: Reason | None = None
    ended: Reason = Reason(Kind.CONTROLLER_GONE)

    def figures(self) -> dict[str, Any]:
        """For the last line of JSON."""
        outcomes = [asdict(outcome) for outcome in self.outcomes]
        return {
            "ended": str(self.ended),
            "fault": "" if self.fault is None else str(self.fault),
            "energies": self.energies,
            "decisions": self.decisions,
            "outcome": outcomes[-1] if outcomes else None,
            "outcomes": outcomes,
            "tick_late_ms_p99": self.late_ms_p99,
        }


@dataclass
class Crew:
    """The processes of a run beside the device's own: watchdog, controller and planner."""

    config: DictConfig
    device: Device
    robot: RobotModel
    settings: PilotSettings
    goals: Sequence[str | dict[str, str]]
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
            ["hardware", "watchdog"], WatchdogTask(wire=to_watchdog.fileno()), [to_watchdog]
        )
        self._children["controller"] = spawn(
            ["hardware", "controller"],
            ControllerTask(
                chain=ChainData.of(robot.chain),
                limits=robot.limits,
                settings=self.settings,
                park=robot.park,
                arm=arm,
                planner=steered.fileno(),
                human=human.fileno(),
                watchdog=beats.fileno(),
                record=str(self.record),
                about={
                    "config": OmegaConf.to_yaml(config, resolve=True),
                    "run": describe_run("deploy", config),
                },
                keys=tty,
                dry_run=config.mode == "dry-run",
                parks=config.park,
            ),
            [steered, human, beats, *device.shared()],
            stdin=None if tty else subprocess.DEVNULL,
        )
        for wire in (human, steered, beats, to_watchdog):
            wire.close()  # so that an end is seen when the process that holds it dies
        return self

    def wait_ready(self) -> PlannerReady:
        """Returns once the arm is read and the model loaded; what the human should know.

        Raises:
            UserError: one of them refuses, and why.
            DeployError: one of the processes ended.
        """
        own = self._wait(self._controller, "arm", ControllerReady)
        joints = self._wait(self._controller, "arm", Status).joints
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
            PlannerTask(
                config=OmegaConf.to_yaml(self.config, resolve=True),
                # What the device itself can do: a target beyond would be refused.
                low=own.low,
                high=own.high,
                goals=tuple(self.goals),
                frames=self.device.places(),
                wire=self._steers.fileno(),
                human=self._planner_says.fileno(),
            ),
            [self._steers, self._planner_says, *self.device.frames.values()],
        )
        self._steers.close()
        self._planner_says.close()
        return self._wait(self._planner, "planner", PlannerReady)

    def _wait(self, wire: Wire, name: str, kind: type[_Waited]) -> _Waited:
        """The first message of a kind."""
        until_s = time.monotonic() + _START_S
        while time.monotonic() < until_s:
            wire.wait(0.2)
            ended = self._ended()  # before what it has said last is read
            for message in wire.receive():
                if isinstance(message, Refused):
                    raise UserError(message.text)
                if isinstance(message, kind):
                    return message
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

    def fly(self) -> Result:
        """Arms, tells how it goes, ends; what became of it.

        Raises:
            UserError: the arm may not be armed.
        """
        heard = []
        while more := self._controller.receive():  # it may not be able to say more than waits here
            heard += more
        self._planner.send(Begin())
        self._controller.send(Request(event=Event.ARM))
        result, live = Result(), Live()
        not_armed: Reason | None = None
        settle_until_s, over = time.monotonic() + _SETTLE_S, False
        while not over:
            self._controller.wait(0.1)
            for told in self.device.tell():
                live.say(f"  {told}")
            self._hear_planner(result, live)
            heard += self._controller.receive()
            while heard:
                status = heard.pop(0)
                if not isinstance(status, Status):
                    continue
                result.late_ms_p99 = max(result.late_ms_p99, status.late_ms_p99)
                not_armed = self._follow_arming(status, settle_until_s, live) or not_armed
                if status.state is State.FAULTED and result.fault is None:
                    result.fault = status.reason
                    live.note(fault=str(status.reason))
                    self._controller.send(End(reason=Reason(Kind.FAULT)))
                if not_armed is not None:
                    self._controller.send(End(reason=Reason(Kind.NOT_ARMED, cause=not_armed)))
                live.show(status)
                if status.ended is not None:
                    result.ended, over = status.ended, True
                    live.say("")
            if self._controller.closed and not over:
                result.fault, over = Reason(Kind.CONTROLLER_GONE), True
        self._hear_planner(result, live)  # it may have said its last just before the end
        if not_armed is not None:
            raise UserError(f"not armed: {not_armed}")
        return result

    def _follow_arming(self, status: Status, until_s: float, live: Live) -> Reason | None:
        """Shows the notes; why the arm is not armed for good, None where it may be yet."""
        refused = None
        for note in status.notes:
            live.say(f"  {note}")
            if note.kind is not NoteKind.NOT_ARMED:
                continue
            if note.reason.kind is Kind.NOT_AT_REST and time.monotonic() < until_s:
                time.sleep(0.3)  # it may still settle
                self._controller.send(Request(event=Event.ARM))
            else:
                refused = note.reason
        return refused

    def _hear_planner(self, result: Result, live: Live) -> None:
        """Adds what the planner has said since to the result, and shows it."""
        for message in self._planner.receive():
            if isinstance(message, DecisionTaken):
                kind, p_value = message.kind, message.p_value
            elif isinstance(message, RunEnded):
                kind, p_value = "end", None
                if self.config.mode == "run":  # a dry run goes nowhere
                    result.outcomes = list(message.outcomes)
            else:
                continue
            energy = "" if message.energy is None else f"energy {message.energy:.3f}, "
            prediction = "" if p_value is None else f", prediction p = {p_value:.3f}"
            result.energies.append(message.energy)
            result.decisions.append(kind)
            live.note(energy=energy)
            live.say(f"  {energy}{kind}{prediction}")

    def __exit__(self, *_: object) -> None:
        self._controller.send(End(reason=Reason(Kind.HUMAN_ENDS)))
        for wire in (self._steers, self._planner_says):
            wire.close()
        for name, child in self._children.items():
            if name == "planner" and self.config.record is not None and child.poll() is None:
                say("  the run is being recorded: a moment")
            end(child, _RECORD_S if name == "planner" and self.config.record else _END_S)
        self._controller.close()
        self._planner.close()
