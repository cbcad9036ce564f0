"""A session: starts the processes of a run, arms the arm, reports progress, and ends them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

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
from robot_wm.deployment.run import DeploySettings
from robot_wm.kinematics import RobotModel
from robot_wm.types import Outcome, RunError, UserError, plain_settings

_START_S = 120.0  # for a model to load
_END_S = 10.0
_RECORD_S = 60.0  # a plan to its end, and a video to the disk
_SETTLE_S = 10.0  # for an arm to come to rest before it is armed

_Waited = TypeVar("_Waited", ArmServerReady, PolicyReady, Status)


class DeployError(RunError):
    """The arm stopped before the run was over."""


@dataclass
class Result:
    """Result of a run.

    Attributes:
        energies: Energies of the observations before each decision, and of the last observation.
        decisions: Kinds of the decisions, and `end` for the last observation.
        outcomes: Outcomes in the order of the goals; empty after a dry run.
        late_ms_p99: Largest 99th percentile of how late ticks began, ms.
        fault: Reason why the arm faulted; None: it did not.
        ended: Reason why the run is over.
    """

    energies: list[float | None] = field(default_factory=list)
    decisions: list[str] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    late_ms_p99: float = 0.0
    fault: Reason | None = None
    ended: Reason = Reason(Kind.ARM_SERVER_GONE)

    def figures(self) -> dict[str, Any]:
        """Returns the figures for the last line of JSON."""
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


class Operator(Protocol):
    """Shows the operator how a run goes."""

    def say(self, text: str) -> None:
        """Shows a line that stays."""
        ...

    def note(self, *, energy: str = "", fault: str = "") -> None:
        """Sets what is shown from now on; an empty text changes nothing."""
        ...

    def show(self, status: Status) -> None:
        """Shows the arm server's status."""
        ...


@dataclass
class Session:
    """The processes of a run beside the device's own: watchdog, arm server and policy process.

    Attributes:
        settings: Settings of the run.
        about: Further facts about the run, for people, which the flight record keeps.
        device: Device that is driven.
        robot: Arm of the device.
        record: Path of the flight record.
        operator: Display that shows the operator how the run goes.
    """

    settings: DeploySettings
    about: Mapping[str, str]
    device: Device
    robot: RobotModel
    record: Path
    operator: Operator
    _children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Session:
        settings, device, tty = self.settings, self.device, sys.stdin.isatty()
        robot = self.robot
        arm = device.arm(robot.limits)
        self._arm_server, arm_server_end = Wire.pair()
        self._policy, self._policy_end = Wire.pair()
        self._policy_arm_end, server_policy_end = Wire.pair()
        beats, to_watchdog = Wire.pair()
        self._children["watchdog"] = spawn(
            ["hardware", "watchdog"], WatchdogTask(wire=to_watchdog.fileno()), [to_watchdog]
        )
        self._children["arm server"] = spawn(
            ["hardware", "arm_server"],
            ArmServerTask(
                chain=ChainData.of(robot.chain),
                limits=robot.limits,
                settings=settings.robot.settings,
                park=robot.park,
                arm=arm,
                policy=server_policy_end.fileno(),
                operator=arm_server_end.fileno(),
                watchdog=beats.fileno(),
                record=str(self.record),
                about=dict(self.about),
                keys=tty,
                dry_run=not settings.moves,
                parks=settings.park,
            ),
            [server_policy_end, arm_server_end, beats, *device.shared()],
            stdin=None if tty else subprocess.DEVNULL,
        )
        for wire in (arm_server_end, server_policy_end, beats, to_watchdog):
            wire.close()  # else the death of the process that holds the other copy would not show
        return self

    def wait_ready(self) -> PolicyReady:
        """Waits until the arm is read and the model loaded.

        Returns:
            What the operator should know.

        Raises:
            UserError: a process refuses; the message says why.
            DeployError: a process ended, or was not ready in time.
        """
        ready = self._wait(self._arm_server, "arm", ArmServerReady)
        joints = self._wait(self._arm_server, "arm", Status).joints
        names = self.robot.joints
        if len(joints) == len(names):  # so that signs and zeros can be checked
            angles = zip(names, joints, strict=True)
            posture = ", ".join(f"{name} {angle:.2f}" for name, angle in angles)
            x, y, z = self.robot.chain.tool(joints)[:3, 3]
            self.operator.say(f"the arm stands at {posture} rad")
            self.operator.say(f"  its tool at x {x:.3f}, y {y:.3f}, z {z:.3f} m from its base")
        else:
            self.operator.say("where the arm stands could not be read yet")
        self._children["policy process"] = spawn(
            ["robot_wm.deployment.policy_process"],
            PolicyTask(
                settings=plain_settings(self.settings),
                # Of the device, too: a target beyond them would be refused.
                low=ready.low,
                high=ready.high,
                frames=self.device.places(),
                wire=self._policy_arm_end.fileno(),
                operator=self._policy_end.fileno(),
            ),
            [self._policy_arm_end, self._policy_end, *self.device.frames.values()],
        )
        self._policy_arm_end.close()
        self._policy_end.close()
        return self._wait(self._policy, "policy process", PolicyReady)

    def _wait(self, wire: Wire, name: str, kind: type[_Waited]) -> _Waited:
        """Returns the first message of a kind."""
        until_s = time.monotonic() + _START_S
        while time.monotonic() < until_s:
            wire.wait(0.2)
            ended = self._ended()  # before its last messages are read, as they may say why
            for message in wire.receive():
                if isinstance(message, Refused):
                    raise UserError(message.text)
                if isinstance(message, kind):
                    return message
            if wire is not self._arm_server:
                self._arm_server.receive()
            self.device.listen()
            if ended:
                raise DeployError(ended)
        raise DeployError(f"the {name} was not ready within {_START_S:.0f} s")

    def _ended(self) -> str:
        """Returns which process has ended that should not have; empty if none has."""
        for name, child in (self._children | self.device.children).items():
            if child.poll() is not None and name != "watchdog":  # it ends with the arm server
                return f"the {name} ended with exit code {child.returncode}"
        return ""

    def run(self) -> Result:
        """Arms the arm and reports the run until it is over.

        Returns:
            The result.

        Raises:
            UserError: the arm may not be armed.
        """
        messages = []
        while received := self._arm_server.receive():  # a full wire would drop what comes next
            messages += received
        self._policy.send(Begin())
        self._arm_server.send(Request(event=Event.ARM))
        result, operator = Result(), self.operator
        not_armed: Reason | None = None
        settle_until_s, over = time.monotonic() + _SETTLE_S, False
        while not over:
            self._arm_server.wait(0.1)
            for line in self.device.tell():
                operator.say(f"  {line}")
            self._hear_policy(result, operator)
            messages += self._arm_server.receive()
            while messages:
                status = messages.pop(0)
                if not isinstance(status, Status):
                    continue
                result.late_ms_p99 = max(result.late_ms_p99, status.late_ms_p99)
                not_armed = self._follow_arming(status, settle_until_s, operator) or not_armed
                if status.state is State.FAULTED and result.fault is None:
                    result.fault = status.reason
                    operator.note(fault=str(status.reason))
                    self._arm_server.send(End(reason=Reason(Kind.FAULT)))
                if not_armed is not None:
                    self._arm_server.send(End(reason=Reason(Kind.NOT_ARMED, cause=not_armed)))
                operator.show(status)
                if status.ended is not None:
                    result.ended, over = status.ended, True
                    operator.say("")
            if self._arm_server.closed and not over:
                gone = Reason(Kind.ARM_SERVER_GONE)
                result.fault, over = result.fault or gone, True
        self._hear_policy(result, operator)  # its last message may have come just now
        if not_armed is not None:
            raise UserError(f"not armed: {not_armed}")
        return result

    def _follow_arming(self, status: Status, until_s: float, operator: Operator) -> Reason | None:
        """Shows the notes; returns why the arm cannot be armed, None if it still may be."""
        refused = None
        for note in status.notes:
            operator.say(f"  {note}")
            if note.kind is not NoteKind.NOT_ARMED:
                continue
            if note.reason.kind is Kind.NOT_AT_REST and time.monotonic() < until_s:
                time.sleep(0.3)  # the arm may still settle
                self._arm_server.send(Request(event=Event.ARM))
            else:
                refused = note.reason
        return refused

    def _hear_policy(self, result: Result, operator: Operator) -> None:
        """Adds what the policy process has reported to the result, and shows it."""
        for message in self._policy.receive():
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
            operator.note(energy=energy)
            operator.say(f"  {energy}{kind}{prediction}")

    def __exit__(self, *_: object) -> None:
        self._arm_server.send(End(reason=Reason(Kind.HUMAN_ENDS)))
        for wire in (self._policy_arm_end, self._policy_end):
            wire.close()
        for name, child in self._children.items():
            records = name == "policy process" and self.settings.record is not None
            if records and child.poll() is None:
                self.operator.say("  the run is being recorded: a moment")
            end(child, _RECORD_S if records else _END_S)
        self._arm_server.close()
        self._policy.close()
