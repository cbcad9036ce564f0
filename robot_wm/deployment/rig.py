"""A hardware-in-the-loop rig: the real arm server and watchdog on simulated servos.

The servos live in this process and follow their last joint target, as an SO-101's do; a policy
process without a model asks for random moves. `bench safety` and the tests kill, stop and unplug
parts of it.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import numpy as np

from hardware.messages import (
    ArmObservation,
    End,
    Heartbeat,
    ObservationRequest,
    PlanProposal,
    Request,
    Status,
    decode,
    to_plain,
)
from hardware.plans import JointPlan
from hardware.reasons import Kind, Reason
from hardware.remote import HEARTBEAT_S
from hardware.simulated import JointTargets, Measured
from hardware.spawn import ignore_interrupts, read_task, spawn
from hardware.states import Event, State
from hardware.supervisor import SupervisorSettings
from hardware.tasks import (
    ArmServerTask,
    ChainData,
    RandomPolicyTask,
    SimulatedArmTask,
    WatchdogTask,
)
from hardware.ticks import NoteKind
from hardware.wire import FrameSlot, Wire
from robot_wm.kinematics import Chain
from robot_wm.kinematics.limits import Limits
from robot_wm.types import FloatArray

_CAMERA, _SIZE = "front", 8
_SERVO_S = 0.002
_SERVO_SPEED = 5.0  # rad/s


class Rig:
    """The processes of a run, with a policy process that needs no model.

    Args:
        chain: Kinematics of the arm.
        limits: Limits of the governor.
        start: Joints where the servos stand `[J]`, rad.
        record: Path of the flight record.
        settings: Settings of the supervisor; None: the defaults.
        moves: Whether to start a policy process that asks for random moves once the arm is armed.
        keys: Descriptor that stands for a terminal's input; None: there is no terminal.
        seed: Seed of the random moves.
    """

    def __init__(
        self,
        chain: Chain,
        limits: Limits,
        start: FloatArray,
        record: Path,
        *,
        settings: SupervisorSettings | None = None,
        moves: bool = True,
        keys: int | None = None,
        seed: int = 0,
    ) -> None:
        self.chain, self.limits, self.record = chain, limits, record
        self._settings, self._moves = settings or SupervisorSettings(), moves
        self._keys, self._seed = keys, seed
        self.joints = np.array(start, np.float64)
        self.frozen = self.unplugged = False
        self.blocked: int | None = None
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.statuses: list[Status] = []
        self.trace: list[tuple[float, FloatArray]] = []
        self._end = threading.Event()

    def __enter__(self) -> Rig:
        size = len(self.joints)
        self.joint_targets, self._measured = JointTargets(size), Measured(size)
        self.frames = FrameSlot(_SIZE, _SIZE)
        self._servos = threading.Thread(target=self._live, daemon=True)
        self._servos.start()
        self.operator, operator = Wire.pair()
        policy, to_policy = Wire.pair()
        beats, to_watchdog = Wire.pair()
        self.children["watchdog"] = spawn(
            ["hardware", "watchdog"],
            WatchdogTask(wire=to_watchdog.fileno()),
            [to_watchdog],
            stderr=subprocess.DEVNULL,
        )
        arm = SimulatedArmTask(
            names=self.chain.joint_names,
            low=self.limits.low,
            high=self.limits.high,
            joint_targets=self.joint_targets.fileno(),
            measured=self._measured.fileno(),
            frames={_CAMERA: (_SIZE, _SIZE, self.frames.fileno())},
        )
        self.children["arm server"] = spawn(
            ["hardware", "arm_server"],
            ArmServerTask(
                chain=ChainData.of(self.chain),
                limits=self.limits,
                settings=self._settings,
                park=None,
                arm=arm,
                policy=to_policy.fileno(),
                operator=operator.fileno(),
                watchdog=beats.fileno(),
                record=str(self.record),
                about={},
                keys=self._keys is not None,
                dry_run=False,
                parks=False,
            ),
            [to_policy, operator, beats, self.joint_targets, self._measured, self.frames],
            stdin=subprocess.DEVNULL if self._keys is None else self._keys,
        )
        if self._moves:
            task = RandomPolicyTask(
                wire=policy.fileno(),
                chain=ChainData.of(self.chain),
                limits=self.limits,
                seed=self._seed,
            )
            self.children["policy process"] = spawn(["robot_wm.deployment.rig"], task, [policy])
            policy.close()
        self.policy = policy
        for wire in (operator, to_policy, beats, to_watchdog):
            wire.close()
        return self

    def _live(self) -> None:
        """Runs the servos, and a camera that shows noise."""
        with contextlib.suppress(PermissionError):  # for this thread, which stands for reality
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -10)
        picture_s, rng = 0.0, np.random.default_rng(0)
        while not self._end.is_set():
            now_s = time.monotonic()
            target = self.joint_targets.read()
            if target is not None:
                move = np.clip(
                    target - self.joints, -_SERVO_SPEED * _SERVO_S, _SERVO_SPEED * _SERVO_S
                )
                if self.blocked is not None:
                    move[self.blocked] = 0.0
                self.joints = self.joints + move
                self.trace.append((now_s, self.joints))
            if not self.unplugged:
                self._measured.write(self.joints, now_s)
            if now_s > picture_s + 0.03 and not self.frozen:
                picture_s = now_s
                picture = rng.integers(0, 256, (_SIZE, _SIZE, 3), np.uint8)
                self.frames.write(picture, now_s)
            time.sleep(_SERVO_S)

    def listen(self) -> list[Status]:
        """Returns the statuses that the arm server has sent since the last call."""
        new = [message for message in self.operator.receive() if isinstance(message, Status)]
        self.statuses += new
        return new

    def wait(self, state: State, timeout_s: float = 15.0) -> Status:
        """Waits for a state of the arm.

        Args:
            state: State to wait for.
            timeout_s: Longest wait, s.

        Returns:
            The first status in that state.

        Raises:
            TimeoutError: no such status came; the message has the last ones.
        """
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            for message in self.listen():
                if message.state is state:
                    return message
            time.sleep(0.002)
        raise TimeoutError(f"not {state.value} within {timeout_s} s: {self.statuses[-3:]}")

    def arm(self) -> None:
        """Waits for the arm server, then arms the arm."""
        self.wait(State.IDLE)
        self.operator.send(Request(event=Event.ARM))
        until_s = time.monotonic() + 15.0
        while time.monotonic() < until_s:
            for message in self.listen():
                if message.state is State.ARMED:
                    return
                if any(note.kind is NoteKind.NOT_ARMED for note in message.notes):
                    self.operator.send(Request(event=Event.ARM))  # it may not be seen to stand yet
            time.sleep(0.002)
        raise TimeoutError(f"not armed: {self.statuses[-3:]}")

    def wait_moving(self, timeout_s: float = 15.0, *, into_s: float = 0.1) -> None:
        """Waits until the arm moves.

        Args:
            timeout_s: Longest wait, s.
            into_s: Time to wait further once it moves, s.

        Raises:
            TimeoutError: nothing moves.
        """
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            if self.speed() > 0.3:
                time.sleep(into_s)
                return
            self.listen()
            time.sleep(0.001)
        raise TimeoutError(f"nothing moves: {self.statuses[-3:]}")

    def speed(self, over_s: float = 0.03) -> float:
        """Returns the recent speed of the fastest servo, rad/s."""
        trace = self.trace[-int(over_s / _SERVO_S) :]
        if len(trace) < 2:
            return 0.0
        (first_s, first), (last_s, last) = trace[0], trace[-1]
        return float(np.abs(last - first).max() / max(last_s - first_s, _SERVO_S))

    def rest_s(self, since_s: float, timeout_s: float = 3.0) -> float:
        """Returns the time from `since_s` to the last motion in the `timeout_s` after it, s."""
        time.sleep(max(0.0, since_s + timeout_s - time.monotonic()))
        moved = since_s
        trace = [item for item in self.trace if item[0] >= since_s - 0.01]
        for (_, before), (now_s, after) in zip(trace, trace[1:], strict=False):
            if np.abs(after - before).max() > 1e-6:
                moved = now_s
        return moved - since_s

    def num_joint_targets(self) -> int:
        """Returns the number of joint targets that the servos were given so far."""
        return self.joint_targets.count()

    def kill(self, name: str) -> float:
        """Kills a process with SIGKILL; returns the time when, s, time.monotonic()."""
        self.children[name].send_signal(signal.SIGKILL)
        now_s = time.monotonic()
        self.children[name].wait()
        return now_s

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.operator.send(End(reason=Reason(Kind.HUMAN_ENDS)))
        self.operator.close()
        for child in self.children.values():
            try:
                child.wait(5.0)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._end.set()
        self._servos.join()
        for item in (self.joint_targets, self._measured, self.frames, self.operator, self.policy):
            item.close()


def plan_at_random(words: list[str]) -> int:
    """Runs a policy process without a model: far random moves until it is stopped.

    Args:
        words: Descriptor of the task.

    Returns:
        The exit code.
    """
    ignore_interrupts()
    task = read_task(int(words[0]), RandomPolicyTask)
    chain, limits = task.chain.chain(), task.limits
    wire, rng = Wire.at(task.wire), np.random.default_rng(task.seed)
    number = 0
    while not wire.closed:
        number += 1
        wire.send(ObservationRequest(number=number))
        observed = None
        until_s = time.monotonic() + 1.0
        while observed is None and not wire.closed and time.monotonic() < until_s:
            wire.wait(HEARTBEAT_S)
            wire.send(Heartbeat())
            for message in wire.receive():
                if isinstance(message, ArmObservation) and message.number == number:
                    observed = message
        if observed is None:
            continue
        now_s = time.monotonic()
        plan = JointPlan(
            epoch=observed.epoch,
            seq=number,
            observed_s=observed.observed_s,
            begun_s=now_s,
            start=observed.joints,
            waypoints=legal_pose(chain, limits, rng, observed.joints)[None],
            valid_until_s=now_s + 4.0,
        )
        wire.send(PlanProposal(plan=plan))
    return 0


def legal_pose(
    chain: Chain, limits: Limits, rng: np.random.Generator, joints: FloatArray
) -> FloatArray:
    """Draws a pose `[J]`, rad, where the arm may stand, away from `joints`, or returns `joints`."""
    for _ in range(200):
        pose = np.clip(joints + rng.uniform(-0.9, 0.9, len(joints)), limits.low, limits.high)
        corners = chain.corners(pose[None])
        inside = ((corners >= limits.box_low) & (corners <= limits.box_high)).all()
        if inside and np.abs(pose - joints).max() > 0.4:
            return pose
    return joints


def heard(content: bytes) -> tuple[list[JointPlan], list[tuple[Event, Reason]]]:
    """Decodes bytes of a policy process as the arm server does: to a plan, or to a fault."""
    message = decode(content)
    if isinstance(message, PlanProposal):
        return [message.plan], []
    numbers = {"sender": "policy process", "num_bytes": len(content)}
    return [], [(Event.FAULT, Reason(Kind.UNDECODABLE, numbers))]


def illegal_plans(good: JointPlan, limits: Limits) -> list[bytes]:
    """Makes encoded plans that must be refused from a legal plan."""
    plain = {name: getattr(good, name) for name in JointPlan.__struct_fields__}
    size, now_s = len(good.start), good.begun_s
    far = limits.high + 0.1
    angles = good.waypoints[0].tolist()
    changes: list[dict[str, Any]] = [
        {"epoch": good.epoch + 7},
        {"epoch": max(0, good.epoch - 1)},
        {"seq": -1},
        {"observed_s": now_s - 5.0},
        {"begun_s": now_s + 5.0},
        {"valid_until_s": now_s - 1.0},
        {"valid_until_s": math.inf},
        {"valid_until_s": math.nan},
        {"start": good.start + 0.06},
        {"start": [math.nan] * size},
        {"waypoints": [far]},
        {"waypoints": [[math.nan, *angles[1:]]]},
        {"waypoints": [[math.inf, *angles[1:]]]},
        {"waypoints": [[None, *angles[1:]]]},
        {"waypoints": [[str(angle) for angle in angles]]},
        {"waypoints": [angles[:-1]]},
        {"waypoints": []},
        {"waypoints": None},
    ]
    kind = PlanProposal.__name__
    return [
        msgspec.msgpack.encode({"type": kind, "plan": plain | change}, enc_hook=to_plain)
        for change in changes
    ]


if __name__ == "__main__":
    sys.exit(plan_at_random(sys.argv[1:]))
