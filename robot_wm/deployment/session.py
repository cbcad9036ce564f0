"""The processes of a run: starts them, arms the arm, tells how it goes, and ends them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from hardware.messages import (
    ArmServerReady,
    Begin,
    DecisionTaken,
    End,
    PolicyReady,
    Refused,
    Request,
    RunEnded,
    Status,
)
from hardware.reasons import Kind, Reason
from hardware.spawn import spawn
from hardware.states import Event, State
from hardware.tasks import (
    ArmServerTask,
    ChainData,
    PolicyTask,
    WatchdogTask,
)
from hardware.ticks import NoteKind
from hardware.wire import Wire
from robot_wm.deployment.devices import Device, end
from robot_wm.deployment.run import RunSettings
from robot_wm.kinematics import RobotModel
from robot_wm.types import Outcome, RunError, UserError

_START_S = 120.0  # for a model to load
_END_S = 10.0
_RECORD_S = 60.0  # a plan to its end, and a video to the disk
_SETTLE_S = 10.0  # for an arm to come to rest before it is armed

_Waited = TypeVar("_Waited", ArmServerReady, PolicyReady, Status)


class DeployError(RunError):
    """The arm stopped before the run was over."""


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


class Human(Protocol):
    """Who is told how a run goes."""

    def say(self, text: str) -> None:
        """Shows a line that stays."""
        ...

    def note(self, *, energy: str = "", fault: str = "") -> None:
        """Says what is to be shown from now on."""
        ...

    def show(self, status: Status) -> None:
        """Shows what the controller has said."""
        ...


@dataclass
class Session:
    """The processes of a run beside the device's own: watchdog, controller and planner.

    Attributes:
        settings: of the run.
        about: what else is to be known of it, for people; the flight record has it.
        device: what is driven.
        robot: its arm.
        goals: a goal picture each: a file, or camera -> file.
        record: the flight record's file.
        human: is told how it goes.
    """

    settings: RunSettings
    about: Mapping[str, str]
    device: Device
    robot: RobotModel
    goals: Sequence[str | dict[str, str]]
    record: Path
    human: Human
    _children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Session:
        settings, device, tty = self.settings, self.device, sys.stdin.isatty()
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
            ArmServerTask(
                chain=ChainData.of(robot.chain),
                limits=robot.limits,
                settings=settings.robot.settings,
                park=robot.park,
                arm=arm,
                planner=steered.fileno(),
                human=human.fileno(),
                watchdog=beats.fileno(),
                record=str(self.record),
                about=dict(self.about),
                keys=tty,
                dry_run=not settings.moves,
                parks=settings.park,
            ),
            [steered, human, beats, *device.shared()],
            stdin=None if tty else subprocess.DEVNULL,
        )
        for wire in (human, steered, beats, to_watchdog):
            wire.close()  # so that an end is seen when the process that holds it dies
        return self

    def wait_ready(self) -> PolicyReady:
        """Returns once the arm is read and the model loaded; what the human should know.

        Raises:
            UserError: one of them refuses, and why.
            DeployError: one of the processes ended.
        """
        own = self._wait(self._controller, "arm", ArmServerReady)
        joints = self._wait(self._controller, "arm", Status).joints
        names = self.robot.joints
        if len(joints) == len(names):  # said before the model has a say: signs, zeros to check
            angles = zip(names, joints, strict=True)
            stands = ", ".join(f"{name} {angle:.2f}" for name, angle in angles)
            x, y, z = self.robot.chain.tool(joints)[:3, 3]
            self.human.say(f"the arm stands at {stands} rad")
            self.human.say(f"  its tool at x {x:.3f}, y {y:.3f}, z {z:.3f} m from its base")
        else:
            self.human.say("where the arm stands could not be read yet")
        self._children["planner"] = spawn(
            ["robot_wm.deployment.policy_process"],
            PolicyTask(
                settings=msgspec.to_builtins(self.settings),
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
        return self._wait(self._planner, "planner", PolicyReady)

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
        result, live = Result(), self.human
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

    def _follow_arming(self, status: Status, until_s: float, live: Human) -> Reason | None:
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

    def _hear_planner(self, result: Result, live: Human) -> None:
        """Adds what the planner has said since to the result, and shows it."""
        for message in self._planner.receive():
            if isinstance(message, DecisionTaken):
                kind, p_value = message.kind, message.p_value
            elif isinstance(message, RunEnded):
                kind, p_value = "end", None
                if self.settings.moves:  # a dry run goes nowhere
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
            if name == "planner" and self.settings.record is not None and child.poll() is None:
                self.human.say("  the run is being recorded: a moment")
            end(child, _RECORD_S if name == "planner" and self.settings.record else _END_S)
        self._controller.close()
        self._planner.close()
